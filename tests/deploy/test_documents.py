"""The commands of docs/deployment.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.deploy.containers import IMAGE, ROOT, Containers

PAGE = (ROOT / "docs/deployment.md").read_text()
COMMANDS = re.findall(r"^    ((?:docker|kubectl|cp|nvme|ocssd|/opt)\b.*)$", PAGE, re.MULTILINE)


def commands(*beginning: str) -> list[list[str]]:
    """Those that begin with these words."""
    split = [shlex.split(command) for command in COMMANDS]
    return [words for words in split if words[: len(beginning)] == list(beginning)]


def test_the_image_of_the_page_is_the_one_that_is_checked() -> None:
    assert commands("docker", "build") == [["docker", "build", "-t", IMAGE, "."]]


@pytest.mark.parametrize("words", commands("docker", "run", "--rm"), ids=" ".join)
def test_containers_that_end_by_themselves_do_what_the_page_says(
    words: list[str], containers: Containers, tmp_path: Path
) -> None:
    (tmp_path / "drive.toml").write_text('[drive]\nserial = "MOUNTED"\n')
    mounted = [word.replace("./drive.toml", str(tmp_path / "drive.toml")) for word in words[3:]]
    printed = containers.podman("run", "--rm", "--pull=never", *mounted)
    assert ("valid" if words[-1] == "--check-config" else 'serial = "MOUNTED"') in printed


@pytest.mark.parametrize("words", commands("docker", "run", "-d"), ids=" ".join)
def test_containers_that_stay_can_be_made_as_the_page_says(words: list[str], containers: Containers) -> None:
    made = containers.podman("create", "--pull=never", *words[3:])
    config = containers.inspect("container", made)
    assert config["Mounts"][0]["Destination"] == "/data"
    containers.podman("rm", made)


def test_files_that_commands_name_exist() -> None:
    named = [Path(word) for words in map(shlex.split, COMMANDS) for word in words if word.startswith("deploy/")]
    assert len(named) >= 3
    assert all((ROOT / path).exists() for path in named if "*" not in path.name)


def test_the_unit_runs_the_program_where_the_page_installs_it() -> None:
    installed = re.search(r"^    python3 -m venv (\S+)$", PAGE, re.MULTILINE)
    assert installed is not None
    unit = (ROOT / "deploy/systemd/ocssd-tcpd@.service").read_text()
    assert f"ExecStart={installed[1]}/bin/ocssd-tcpd --config /etc/ocssd/%i.toml\n" in unit


def test_names_and_ports_of_the_page_are_those_of_the_files() -> None:
    compose = (ROOT / "deploy/compose.yaml").read_text()
    for words in commands("nvme", "connect"):
        options = dict(zip(words[2::2], words[3::2], strict=True))
        assert f"OCSSD_SET_TARGET__NQN: {options['-n']}\n" in compose
        assert f'["{options["-a"]}:{options["-s"]}"]' in compose
    discovery = (ROOT / "deploy/kubernetes/base/discovery.yaml").read_text()
    for words in commands("kubectl", "get", "service"):
        assert f"name: {words[3]}\n" in discovery
    assert "name: ocssd\n" in (ROOT / "deploy/kubernetes/base/drives.yaml").read_text()
