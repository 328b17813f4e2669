"""Sockets from a service manager, and what it is told."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocssd_tcp.observe.systemd import Notifier, inherited

SHOW = """
import os
from ocssd_tcp.observe.systemd import inherited
try:
    os.environ["LISTEN_PID"] = str(os.getpid())
    sockets = inherited(os.environ)
    print([sock.getsockname()[1] for sock in sockets], os.get_inheritable(3))
except OSError as error:
    print(error.filename, error.strerror)
"""


def started_with(*sockets: socket.socket, count: str) -> str:
    """What a process says that was started with these as descriptors 3 and up."""
    descriptors = [fcntl.fcntl(sock, fcntl.F_DUPFD, 100) for sock in sockets]  # out of the way of 3 and up
    moves = "; ".join(f"exec {3 + i}<&{descriptor}" for i, descriptor in enumerate(descriptors))
    command = ["bash", "-c", f'{moves}; exec "$0" -c "$1"', sys.executable, SHOW]
    environment = {**os.environ, "LISTEN_FDS": count}
    done = subprocess.run(command, pass_fds=descriptors, env=environment, capture_output=True, text=True, check=True)
    for descriptor in descriptors:
        os.close(descriptor)
    return done.stdout.strip()


def tcp(listening: bool = True) -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    if listening:
        sock.listen()
    return sock


def test_sockets_that_listen_are_taken_over() -> None:
    with tcp() as first, tcp() as second:
        ports = [sock.getsockname()[1] for sock in (first, second)]
        assert started_with(first, second, count="2") == f"{ports} False"


def test_a_socket_that_does_not_listen_is_refused() -> None:
    with tcp(listening=False) as sock:
        assert started_with(sock, count="1") == "LISTEN_FDS descriptor 3 is no TCP socket that listens"


def test_a_socket_of_another_kind_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        assert started_with(sock, count="1") == "LISTEN_FDS descriptor 3 is no TCP socket that listens"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "9" * 5000, "LISTEN_PID": str(os.getpid())},
    ],
)
def test_sockets_for_nobody_or_for_somebody_else_are_left_alone(environment: dict[str, str]) -> None:
    assert inherited(environment) == []


class Manager:
    """Where a service manager listens."""

    def __init__(self, sock: socket.socket, environment: dict[str, str]) -> None:
        self._sock = sock
        self.environment = environment

    def heard(self) -> list[str]:
        """What it has been told since it was last asked."""
        found = []
        while True:
            try:
                found.append(self._sock.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"@ocssd-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(name.replace("@", "\0") if name.startswith("@") else name)
        yield Manager(sock, {"NOTIFY_SOCKET": name})


async def test_the_manager_is_told_that_the_drive_is_ready_and_that_it_ends(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    assert manager.heard() == []
    notifier.ready("nqn.a on 127.0.0.1:4420")
    assert manager.heard() == ["READY=1\nSTATUS=nqn.a on 127.0.0.1:4420"]
    notifier.stopping()
    assert manager.heard() == ["STOPPING=1"]


@pytest.mark.parametrize(
    ("watchdog", "pause"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_the_event_loop_shows_twice_per_period_that_it_turns(
    manager: Manager, watchdog: dict[str, str], pause: float | None
) -> None:
    loop = asyncio.new_event_loop()
    timers: list[float] = []

    def call_later(seconds: float, callback: object) -> asyncio.TimerHandle:
        timers.append(seconds)
        return asyncio.TimerHandle(loop.time() + seconds, lambda: None, (), loop)

    async def run() -> None:
        loop.call_later = call_later  # type: ignore[assignment]
        notifier = Notifier(manager.environment | watchdog)
        notifier.ready("")
        if pause is not None:
            notifier._beat()
        notifier.stopping()

    loop.run_until_complete(run())
    loop.close()
    n_beats = 0 if pause is None else 2
    assert timers == [pause] * n_beats
    assert manager.heard().count("WATCHDOG=1") == n_beats


async def test_without_a_manager_or_with_one_that_has_gone_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1000"}):
        notifier = Notifier(environment)
        notifier.ready("")
        notifier.stopping()
