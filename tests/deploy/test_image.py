"""The image: built from the Dockerfile, run as docs/deployment.md says, stopped, started again."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ocssd_tcp.config import load
from ocssd_tcp.config.sample import effective
from ocssd_tcp.host import connect
from tests.deploy.containers import IMAGE, Containers, environment_options
from tests.deploy.host import free_port, ocssd, wait_for

HARDENED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop=ALL", "--security-opt", "no-new-privileges"]
SMALL = {"OCSSD_SET_NAMESPACE__NUM_CHK": "4", "OCSSD_SET_NAMESPACE__CLBA": "256"}

Start = Callable[..., "Container"]


class Container:
    """A drive in a container, on a port of this machine."""

    def __init__(self, containers: Containers, name: str, port: int) -> None:
        self.name = name
        self.port = port
        self._containers = containers

    def wait(self) -> None:
        """Until it answers."""
        wait_for(self.port, self.log)

    def log(self) -> str:
        """What it printed."""
        done = self._containers.run("podman", "logs", self.name)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """SIGTERM, and SIGKILL after 10 s; the exit status."""
        self._containers.podman("stop", "--time", "10", self.name)
        return int(self._containers.inspect("container", self.name)["State"]["ExitCode"])

    def kill(self) -> None:
        """SIGKILL."""
        self._containers.podman("kill", "--signal", "KILL", self.name)
        self._containers.run("podman", "wait", self.name, check=False)

    def start(self) -> None:
        """The same container once more."""
        self._containers.podman("start", self.name)
        self.wait()


@pytest.fixture
def start(containers: Containers) -> Iterator[Start]:
    names: list[str] = []

    def run(*options: str, environment: dict[str, str] = SMALL, arguments: tuple[str, ...] = ()) -> Container:
        name, port = f"drive-{len(names)}", free_port()
        listen = {"OCSSD_SET_TARGET__LISTEN": f'["0.0.0.0:{port}"]', "OCSSD_SET_OBSERVE__LISTEN": ""}
        names.append(name)
        variables = environment_options({**environment, **listen})
        containers.podman(
            "run", "-d", "--pull=never", "--name", name, *HARDENED, *variables, *options, IMAGE, *arguments
        )
        started = Container(containers, name, port)
        started.wait()
        return started

    yield run
    for name in names:
        containers.run("podman", "rm", "--force", "--volumes", "--time", "0", name, check=False)


def ended(containers: Containers, *arguments: str) -> Any:
    """A container that ends by itself."""
    return containers.run("podman", "run", "--rm", "--pull=never", *HARDENED, *arguments, check=False)


def test_the_image_says_what_it_is_and_how_it_runs(containers: Containers) -> None:
    image = containers.inspect("image", IMAGE)
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert config["Volumes"] == {"/data": {}}
    assert set(config["ExposedPorts"]) == {"4420/tcp", "9420/tcp"}
    assert config["StopSignal"] == "SIGTERM"
    assert image["Healthcheck"]["Test"][:4] == ["CMD", "python3", "-m", "ocssd_tcp.cli.health"]
    labels = {name.removeprefix("org.opencontainers.image.") for name in config["Labels"]}
    assert {"title", "description", "licenses", "version"} <= labels


def test_its_engine_is_the_compiled_one(containers: Containers) -> None:
    assert "engine: compiled" in ended(containers, "--env", "OCSSD_TCP_ACCEL=require", IMAGE, "--version").stdout


def test_it_holds_no_tools_to_build_with(containers: Containers) -> None:
    done = ended(containers, "--entrypoint", "/bin/sh", IMAGE, "-c", "ls /opt/ocssd/bin /usr/bin; id -u")
    assert not {"gcc", "pip", "pip3"} & set(done.stdout.split())
    assert done.stdout.split()[-1] == "10001"


def test_without_configuration_it_is_a_default_drive_for_everybody_on_the_volume(containers: Containers) -> None:
    shown = tomllib.loads(ended(containers, IMAGE, "--show-config").stdout)
    assert shown["target"]["listen"] == ["0.0.0.0:4420"]
    assert shown["observe"]["listen"] == "0.0.0.0:9420"
    assert shown["drive"]["path"] == "/data/drive"
    assert shown["namespace"] == tomllib.loads(effective(load()))["namespace"]
    assert shown["target"]["max_queues"] == load().target.max_queues


def test_arguments_are_the_daemons(containers: Containers) -> None:
    arguments = ["--set", "drive.serial=MINE", "--show-config"]
    assert tomllib.loads(ended(containers, IMAGE, *arguments).stdout)["drive"]["serial"] == "MINE"


def test_a_mounted_file_wins_over_the_image_and_variables_over_the_file(containers: Containers, tmp_path: Path) -> None:
    path = tmp_path / "drive.toml"
    path.write_text('[target]\nmax_queues = 3\nmdts = 9\n[drive]\nserial = "MINE"\n')
    mount = ["-v", f"{path}:/etc/ocssd/drive.toml:ro", "--env", "OCSSD_SET_TARGET__MDTS=8"]
    shown = tomllib.loads(ended(containers, *mount, IMAGE, "--show-config").stdout)
    assert (shown["target"]["max_queues"], shown["target"]["mdts"], shown["drive"]["serial"]) == (3, 8, "MINE")
    assert shown["target"]["listen"] == ["0.0.0.0:4420"]


def test_what_is_wrong_is_one_message_and_status_2(containers: Containers) -> None:
    done = ended(containers, "--env", "OCSSD_SET_TARGET__MDTS=99", IMAGE)
    assert (done.returncode, done.stdout) == (2, "")
    assert "OCSSD_SET_TARGET__MDTS=99: target.mdts = 99" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_the_daemons_is_one_message_and_status_2(containers: Containers, tmp_path: Path) -> None:
    elsewhere = environment_options({"OCSSD_SET_OBSERVE__LISTEN": "", "OCSSD_SET_TARGET__LISTEN": '["127.0.0.1:0"]'})
    done = ended(containers, "-v", f"{tmp_path}:/data", *elsewhere, IMAGE)
    assert done.returncode == 2
    assert "/data/drive: permission denied" in done.stderr


def test_a_drive_in_a_container_is_verified_by_a_host_and_ends_in_order(start: Start) -> None:
    drive = start()
    assert "Verified" in ocssd("verify", "-a", f"127.0.0.1:{drive.port}")
    assert "that is on all addresses: anybody who reaches this machine can use the drive" in drive.log()
    assert drive.stop() == 0
    lines = [json.loads(line) for line in drive.log().splitlines() if line.startswith("{")]
    assert lines[-1]["event"] == "drive is closed"


def test_its_health_check_tells_a_drive_that_answers_from_one_that_does_not(
    containers: Containers, start: Start
) -> None:
    drive = start()
    assert containers.run("podman", "healthcheck", "run", drive.name, check=False).returncode == 0
    check = containers.inspect("image", IMAGE)["Healthcheck"]["Test"][1:]
    other = ["--env", f'OCSSD_SET_TARGET__LISTEN=["127.0.0.1:{free_port()}"]']
    done = containers.run("podman", "exec", *other, drive.name, *check, check=False)
    assert done.returncode == 1
    assert "refused" in done.stderr


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_was_written_is_there_after_a_restart(start: Start, how: str) -> None:
    container = start()
    data = random.Random(how).randbytes(64 * 4096)
    with connect("127.0.0.1", container.port) as drive:
        drive.write(0, data)
        before = drive.chunks(0, 4)
    getattr(container, how)()
    container.start()
    with connect("127.0.0.1", container.port) as drive:
        assert bytes(drive.read(0, 32)) == data[: 32 * 4096]
        after = drive.chunks(0, 4)
    assert after.tobytes() == before.tobytes()
    assert "Verified" in ocssd("verify", "--chunks", "4", "-a", f"127.0.0.1:{container.port}")
