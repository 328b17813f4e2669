"""Loss and return: silence on the network, a daemon that is killed and started again under a connected host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import ocssd_math as ocssd
from tests.e2e.connection import Connection
from tests.e2e.drive import BLOCK, Drive, content, wait_until
from tests.e2e.guest import Guest

RECONNECT = "--reconnect-delay=1 --ctrl-loss-tmo=600"
KATO = 5


@pytest.fixture
def lasting(guest: Guest, drive: Drive) -> Iterator[Connection]:
    """A connection that is tried again every second, with a keep-alive timeout of five."""
    connection = Connection.to(guest, drive, f"{RECONNECT} --keep-alive-tmo={KATO}")
    yield connection
    connection.disconnect()


def reconnected(guest: Guest, drive: Drive, connection: Connection) -> None:
    """Wait until the host has all its queues again, and no other connection is left."""
    wait_until(
        lambda: connection.live() and drive.connections() == guest.cpus + 1, 60, "the host has reconnected by itself"
    )


def test_a_silent_host_is_dropped_and_comes_back(guest: Guest, drive: Drive, lasting: Connection) -> None:
    namespace = lasting.namespace(1)
    slba, data = namespace.free_run(1), content("silence", 64)
    namespace.write(slba, data)
    guest.network(up=False)
    try:
        wait_until(lambda: drive.connections() == 0, 4 * KATO, "the drive gives up the silent host")
    finally:
        guest.network(up=True)
    reconnected(guest, drive, lasting)
    assert namespace.read(slba, 64) == data


def test_a_host_survives_a_drive_that_stood_still(guest: Guest, drive: Drive, lasting: Connection) -> None:
    namespace = lasting.namespace(1)
    slba, data = namespace.free_run(1), content("stood still", 64)
    namespace.write(slba, data)
    with drive.stopped():
        wait_until(lambda: not lasting.live(), 6 * KATO, "the host misses its keep-alives")
    reconnected(guest, drive, lasting)
    assert namespace.read(slba, 64) == data


def test_an_idle_host_is_kept_by_its_keep_alives(guest: Guest, drive: Drive, lasting: Connection) -> None:
    position = guest.log_position()
    guest.run(f"sleep {3 * KATO}")
    assert lasting.live()
    assert drive.connections() == guest.cpus + 1
    assert not [record.text for record in guest.kernel_log(position) if "nvme" in record.text]


def test_a_host_finds_its_data_after_kill_and_restart(guest: Guest, drive: Drive, lasting: Connection) -> None:
    namespace = lasting.namespace(1)
    slba, closed, opened = namespace.free_run(2), content("closed", 64), content("open", 32)
    namespace.write(slba, closed)
    namespace.write(slba + 64, opened)
    before = namespace.chunks()
    drive.kill()
    wait_until(lambda: not lasting.live(), 30, "the host has noticed")
    drive.start()
    reconnected(guest, drive, lasting)
    assert namespace.chunks() == before
    assert namespace.read(slba, 64) == closed
    namespace.write(slba + 96, content("rest", 32))
    assert namespace.read(slba + 64, 64) == opened + content("rest", 32)


def test_a_kill_among_writes_loses_nothing_acknowledged(guest: Guest, drive: Drive, lasting: Connection) -> None:
    namespace = lasting.namespace(2)
    slba, data = namespace.free_run(4), content("load", 256)
    guest.put("/tmp/load", data)
    guest.run("echo 0 >/tmp/acknowledged")
    writer = guest.start(
        f"""for number in $(seq 0 255); do
            dd if=/tmp/load of={namespace.block} bs={BLOCK} skip=$number seek=$(({slba} + number)) count=1 \
                oflag=direct status=none || exit 1
            echo $((number + 1)) >/tmp/acknowledged
        done""",
        timeout=180,
    )
    wait_until(lambda: int(guest.get("/tmp/acknowledged") or b"0") >= 20, 60, "writes are under way")
    drive.kill()
    drive.start()
    reconnected(guest, drive, lasting)
    writer()
    acknowledged = int(guest.get("/tmp/acknowledged"))
    assert namespace.read(slba, acknowledged) == data[: acknowledged * BLOCK]
    first = namespace.geometry().index(slba)
    wps = [chunk.wp for chunk in namespace.chunks()[first : first + 4]]
    assert acknowledged <= sum(wps) <= acknowledged + 1
    assert wps == sorted(wps, reverse=True)


def test_an_orderly_restart_keeps_all_states(guest: Guest, drive: Drive, lasting: Connection) -> None:
    namespace = lasting.namespace(1)
    slba = namespace.free_run(1)
    namespace.write(slba, content("orderly", 8))
    before = namespace.chunks()
    assert drive.stop() == 0
    drive.start()
    reconnected(guest, drive, lasting)
    assert namespace.chunks() == before
    assert namespace.chunk(slba).cs == ocssd.OPEN
