"""Documents say what the declarations say."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from click.testing import CliRunner

from ocssd_tcp.cli.daemon import main
from ocssd_tcp.config import load
from ocssd_tcp.config.sample import main as write
from ocssd_tcp.config.sample import manual, sample

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_page_of_the_configuration_is_the_generated_one() -> None:
    assert (ROOT / "docs/configuration.md").read_text() == manual(), "run: make docs"


@pytest.mark.parametrize(("arguments", "expected"), [([], sample()), (["--markdown"], manual())])
def test_the_generator_prints_either_form(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(arguments)
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_set_options_in_documents_are_accepted(path: Path) -> None:
    options = re.findall(r"--set (?:'([^']+)'|([a-z_0-9.]+=[^\s`'\"]+))", path.read_text())
    load(None, [quoted or plain for quoted, plain in options if (quoted or plain) != "key=value"])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_daemon_options_in_documents_exist(path: Path) -> None:
    offered = CliRunner().invoke(main, ["--help"]).output
    for command in re.findall(r"ocssd-tcpd( --?[a-z][^`\n]*)", path.read_text()):
        for option in re.findall(r" (--[a-z-]+)", command):
            assert f"{option} " in offered


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_in_documents_exist(path: Path) -> None:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:`|^    )make ([a-z0-9-]+)", path.read_text(), re.MULTILINE)) <= set(targets)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_exist(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("requirement", [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())])
def test_each_dependency_is_explained_with_its_range(requirement: str) -> None:
    name, bounds = re.fullmatch(r"([a-z0-9-]+)(.+)", requirement).groups()  # type: ignore[union-attr]
    assert f"| {name} | `{bounds}` |" in (ROOT / "docs/dependencies.md").read_text()
