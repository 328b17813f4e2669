"""The systemd units: they are right, they fence the daemon in, and the daemon speaks to the manager."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.conftest import unavailable
from tests.deploy.containers import ROOT
from tests.deploy.host import Daemon, free_port, ocssd, wait_for

UNITS = sorted((ROOT / "deploy/systemd").iterdir())
SERVICE = "ocssd-tcpd@.service"
HIGHEST_EXPOSURE = 2.0
SMALL = ("drive.path=drive", "namespace.num_chk=4", "namespace.clba=256")


def systemd(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(program) is None:
        unavailable(f"no {program} (Debian package systemd)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree of files in which the units' own references exist."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(unit, units)
    for target in ("network-online", "sysinit", "basic", "shutdown", "sockets", "multi-user", "network"):
        (units / f"{target}.target").write_text(f"[Unit]\nDescription={target}\n")
    for slice_name in ("-.slice", "system.slice"):
        (units / slice_name).write_text(f"[Unit]\nDescription={slice_name}\n")
    program = tmp_path / "opt/ocssd/bin/ocssd-tcpd"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_right(unit: Path, root: Path) -> None:
    instance = unit.name.replace("@", "@a")
    done = systemd("systemd-analyze", "verify", f"--root={root}", "--man=no", instance)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_mistake_in_a_unit_would_be_found(root: Path) -> None:
    path = root / "usr/lib/systemd/system" / SERVICE
    path.write_text(path.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert systemd("systemd-analyze", "verify", f"--root={root}", "--man=no", "ocssd-tcpd@a.service").stderr


def test_the_service_is_fenced_in() -> None:
    done = systemd("systemd-analyze", "security", "--offline=yes", "--no-pager", str(ROOT / "deploy/systemd" / SERVICE))
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= HIGHEST_EXPOSURE


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Where a manager would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.bind(str(tmp_path / "notify"))
        yield sock


def test_the_daemon_tells_the_manager_of_its_life(manager: socket.socket, tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000"}
    daemon = Daemon(tmp_path / "d", *SMALL, f'target.listen=["127.0.0.1:{free_port()}"]', environment=environment)
    told = [manager.recv(4096).decode() for _ in range(4)]
    assert daemon.stop() == 0
    assert told[0].startswith("READY=1\nSTATUS=nqn.2014-08.org.nvmexpress:uuid:")
    assert told[1:] == ["WATCHDOG=1"] * 3
    manager.setblocking(False)
    assert "STOPPING=1" in _rest(manager)


def _rest(sock: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(sock.recv(4096).decode())
        except BlockingIOError:
            return found


def test_the_first_host_starts_a_drive_whose_socket_listens_already(tmp_path: Path) -> None:
    if shutil.which("systemd-socket-activate") is None:
        unavailable("no systemd-socket-activate (Debian package systemd)")
    port = free_port()
    under = ("systemd-socket-activate", f"--listen=127.0.0.1:{port}")
    daemon = Daemon(tmp_path / "d", *SMALL, 'target.listen=["127.0.0.1:1"]', under=under)
    wait_for(port, daemon.log)
    assert "Verified" in ocssd("verify", "--chunks", "2", "-a", f"127.0.0.1:{port}")
    assert daemon.stop() == 0
    assert f"listening on 127.0.0.1:{port}" in daemon.log()
