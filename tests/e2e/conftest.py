"""Fixtures: a guest per kernel, booted once, a daemon for it, and the guest connected to that daemon."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress

import pytest

from tests.e2e.connection import Connection, Namespace, disconnect
from tests.e2e.drive import Drive
from tests.e2e.guest import WARNING, Guest, GuestError
from tests.e2e.image import build
from tests.e2e.packages import UnavailableError

KERNELS = ("6.1", "6.12")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a kernel also pays for packages and two tries to boot."""
    for item in items:
        item.add_marker(pytest.mark.timeout(900))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure is shown with what the daemon and the guest's kernel said last."""
    report = yield
    fixtures = getattr(item, "funcargs", {})
    for name in ("drive", "service"):
        if report.failed and name in fixtures:
            report.sections.append(("the daemon", fixtures[name].log.read_text()[-1500:]))
    if report.failed and "guest" in fixtures:
        with suppress(GuestError, OSError):  # the guest itself may be what failed
            report.sections.append(("the guest's kernel", fixtures["guest"].dmesg()[-1500:]))
    return report


@pytest.fixture(scope="session", params=KERNELS)
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A running guest; skips where the kernel or its tools cannot be had."""
    try:
        image = build(request.param)
    except UnavailableError as reason:
        # Where continuous integration runs, a guest that cannot be had is a failure; newer kernels are extra.
        (pytest.fail if "CI" in os.environ and request.param == KERNELS[0] else pytest.skip)(str(reason))
    guest = Guest(image, tmp_path_factory.mktemp("guest"))
    yield guest
    guest.kill()


@pytest.fixture(scope="session")
def daemon(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drive]:
    """A daemon with an empty drive, one per guest."""
    drive = Drive(tmp_path_factory.mktemp("drive"))
    drive.start()
    yield drive
    drive.stop()


@pytest.fixture
def drive(guest: Guest, daemon: Drive) -> Iterator[Drive]:
    """The running daemon, which must log no traceback.

    A test that failed half way leaves the next one a daemon, a network and no connection.
    """
    daemon.start()
    before = daemon.log.stat().st_size
    yield daemon
    daemon.start()
    guest.network(up=True)
    disconnect(guest)
    assert b"Traceback" not in daemon.log.read_bytes()[before:]


@pytest.fixture
def connected(guest: Guest, drive: Drive) -> Iterator[Connection]:
    """The guest connected with nvme-cli's defaults."""
    connection = Connection.to(guest, drive)
    yield connection
    connection.disconnect()


@pytest.fixture
def namespace(connected: Connection) -> Namespace:
    """Namespace 1: write units of four blocks and a window of sixteen."""
    return connected.namespace(1)


@pytest.fixture
def single(connected: Connection) -> Namespace:
    """Namespace 2: single blocks can be written, and read at once."""
    return connected.namespace(2)


@pytest.fixture
def events(guest: Guest) -> Iterator[Callable[[], list[str]]]:
    """Gives the asynchronous events that the guest's kernel has told its user space of: lines "nvme0 0xd00007"."""
    guest.run(
        """rm -f /tmp/events
        uevent sh -c 'echo "$DEVNAME $NVME_AEN" >>/tmp/events' </dev/null >/dev/null 2>&1 &
        echo $! >/tmp/listener
        until grep -q null /tmp/events 2>/dev/null; do
            echo change >/sys/class/mem/null/uevent
            sleep 0.1
        done"""
    )
    yield lambda: guest.run("grep 0x /tmp/events", check=False).out.splitlines()
    guest.run("kill $(cat /tmp/listener)")


@pytest.fixture
def clean_log(guest: Guest) -> Iterator[None]:
    """The test must leave no warning or error of nvme or of the block layer in the kernel's log."""
    before = guest.log_position()
    yield
    records = guest.kernel_log(before)
    complaints = [record.text for record in records if record.level <= WARNING and _concerns_the_drive(record.text)]
    assert not complaints


def _concerns_the_drive(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in ("nvme", "i/o error", "blk_", "hung task", "blocked for more than"))
