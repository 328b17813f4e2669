"""Paths in a configuration: what they are relative to, and what turns a thing off."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocssd_tcp.config import ConfigError, load


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration in a folder that is not the current one."""
    (tmp_path / "etc").mkdir()
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "etc" / "drive.toml"
    made.write_text('[control]\nsocket = "c"\n[trace]\npath = "../t"\nsize = "1MiB"\n')
    return made


def test_a_path_is_relative_to_the_file_that_it_stands_in(file: Path, tmp_path: Path) -> None:
    config = load(file)
    assert config.control.socket == tmp_path / "etc" / "c"
    assert (config.trace.path, config.trace.size) == (tmp_path / "t", 1 << 20)
    assert config.drive.path == tmp_path / "etc" / "ocssd-drive"


def test_a_path_of_an_option_is_relative_to_the_current_folder(file: Path, tmp_path: Path) -> None:
    config = load(file, ["control.socket=c", 'trace={path="x"}', "drive.path=d"])
    assert (config.control.socket, config.trace.path, config.drive.path) == (
        tmp_path / "c", tmp_path / "x", tmp_path / "d",
    )  # fmt: skip


@pytest.mark.parametrize("overrides", [[], ['control.socket=""', 'trace.path=""']])
def test_without_a_path_there_is_neither_socket_nor_trace(overrides: list[str]) -> None:
    config = load(None, overrides)
    assert (config.control.socket, config.trace.path) == (None, None)


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("control.socket=" + "/x" * 60, "at most 107 bytes"),
        ("control.socket=/" + "ä" * 54, "at most 107 bytes, this one 109"),
        ("control.socket=7", 'a path, or "" for none'),
        ("trace.size=1", "65536"),
        ("trace.path=true", 'a path, or "" for none'),
    ],
)
def test_a_path_that_cannot_be_is_refused(override: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        load(None, [override])
