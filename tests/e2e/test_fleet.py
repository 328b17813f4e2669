"""Three drives and a discovery service: one address finds them all, and says when one goes or comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from tests.e2e import ocssd_math as ocssd
from tests.e2e.connection import Connection, Namespace, controllers, heard, json_of
from tests.e2e.drive import BLOCK, Drive, content, wait_until
from tests.e2e.guest import GATEWAY, Guest

N_DRIVES = 3
CLBA = 64
KATO = 5
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
HERE, OTHERS, DRIVE = "current discovery subsystem", "discovery subsystem referral", "nvme subsystem"
"""What nvme-cli calls the subtypes 3, 1 and 2."""
AEN = "0x70f002"
"""Type 2, notice: discovery log page change; log page 70h."""

quietly = pytest.mark.usefixtures("clean_log")


class Fleet(NamedTuple):
    """Drives that know nothing of each other, what tells of them, and what refers to that."""

    drives: list[Drive]
    service: Drive
    signpost: Drive

    def all(self) -> list[Drive]:
        """Every process."""
        return [*self.drives, self.service, self.signpost]


@pytest.fixture(scope="module")
def fleet(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """The running fleet, one per guest."""

    def started(name: str, **discovery: Any) -> Drive:
        """Started before the next port is chosen, so that all are different."""
        nqn = f"nqn.2014-08.org.example:e2e-{name}"
        drive = Drive(tmp_path_factory.mktemp(name), nqn=nqn, serial=name.upper(), discovery=discovery)
        drive.start()
        return drive

    drives = [started(f"fleet-{index}") for index in range(N_DRIVES)]
    peers = [f"127.0.0.1:{drive.port}" for drive in drives]
    service = started("service", only=True, peers=peers, refresh_seconds=1)
    signpost = started("signpost", only=True, referrals=[f"{GATEWAY}:{service.port}"])
    fleet = Fleet(drives, service, signpost)
    yield fleet
    assert [daemon.stop() for daemon in fleet.all()] == [0] * len(fleet.all())


@pytest.fixture
def service(guest: Guest, fleet: Fleet) -> Iterator[Drive]:
    """The discovery service, which tells of all drives; no connection is left behind, and no traceback."""
    for daemon in fleet.all():
        daemon.start()
    wait_until(lambda: drives_of(guest, at(fleet.service)) == names(fleet.drives), 30, "all drives are told of")
    yield fleet.service
    disconnect_all(guest)
    for daemon in fleet.all():
        assert "Traceback" not in daemon.log.read_text()


@pytest.fixture
def drives(fleet: Fleet, service: Drive) -> list[Drive]:
    """The drives that the service tells of."""
    return fleet.drives


def at(service: Drive) -> str:
    """nvme-cli's options for a discovery service."""
    return f"-t tcp -a {GATEWAY} -s {service.port}"


def names(drives: list[Drive]) -> list[str]:
    """Their NQNs, as `drives_of` and `connected_drives` have them."""
    return sorted(drive.nqn for drive in drives)


def drives_of(guest: Guest, where: str) -> list[str]:
    """The NQNs of the NVM subsystems in a discovery log."""
    records = json_of(guest, f"discover {where}")["records"]
    return sorted(record["subnqn"] for record in records if record["subtype"] == DRIVE)


def connected_drives(guest: Guest) -> list[str]:
    """The subsystem NQN of every controller in the guest, but for discovery controllers."""
    found = guest.run("cat /sys/class/nvme/*/subsysnqn", check=False).out.split()
    return sorted(nqn for nqn in found if nqn != DISCOVERY_NQN)


def connected(drive: Drive, connections: int) -> bool:
    """Whether a drive has that many connections open."""
    return drive.connections() == connections


def disconnect_all(guest: Guest) -> None:
    """`nvme disconnect-all`, until nothing is left in sysfs."""
    guest.run("nvme disconnect-all")
    wait_until(lambda: not guest.run("ls /sys/class/nvme").out, 30, "no controller is left")


def state(guest: Guest, controller: str) -> str:
    """A controller's state in sysfs."""
    return guest.run(f"cat /sys/class/nvme/{controller}/state").out.strip()


def stay(guest: Guest, service: Drive) -> str:
    """A discovery connection that is kept, and tried again every second; the name of its controller."""
    guest.run(f"nvme discover {at(service)} --persistent --keep-alive-tmo={KATO} --reconnect-delay=1")
    (controller,) = controllers(guest, DISCOVERY_NQN)
    return controller


def vector(slba: int) -> dict[str, int]:
    """The dwords of a vector command on all blocks of a chunk."""
    return ocssd.progression(CLBA, ocssd.Progression(slba, CLBA, 1, 0))


@quietly
def test_one_address_lists_every_drive_where_the_guest_reaches_it(
    guest: Guest, drives: list[Drive], service: Drive
) -> None:
    log = json_of(guest, f"discover {at(service)}")
    found = {(entry["subtype"], entry["subnqn"], entry["traddr"], entry["trsvcid"]) for entry in log["records"]}
    assert found == {
        (HERE, DISCOVERY_NQN, GATEWAY, str(service.port)),
        *((DRIVE, drive.nqn, GATEWAY, str(drive.port)) for drive in drives),
    }
    assert len(log["records"]) == len(found)
    assert {entry["trtype"] for entry in log["records"]} == {"tcp"}


@quietly
def test_a_referral_is_listed_as_one(guest: Guest, fleet: Fleet, service: Drive) -> None:
    records = json_of(guest, f"discover {at(fleet.signpost)}")["records"]
    found = [(entry["subtype"], entry["subnqn"], entry["traddr"], entry["trsvcid"]) for entry in records]
    assert found == [
        (HERE, DISCOVERY_NQN, GATEWAY, str(fleet.signpost.port)),
        (OTHERS, DISCOVERY_NQN, GATEWAY, str(service.port)),
    ]


@quietly
@pytest.mark.parametrize("asked", ["service", "signpost"])
def test_one_connect_all_makes_every_drive_usable(guest: Guest, fleet: Fleet, drives: list[Drive], asked: str) -> None:
    where = at(getattr(fleet, asked))
    guest.run(f"nvme connect-all {where}")
    assert connected_drives(guest) == names(drives)

    written: list[tuple[Namespace, int, bytes]] = []
    for drive in drives:
        connection = Connection(guest, drive.nqn)
        assert connection.live()
        assert connection.attribute("address").startswith(f"traddr={GATEWAY},trsvcid={drive.port}")
        # The service looks at its peers every second, for a moment, so that one more may be open just now.
        wait_until(partial(connected, drive, guest.cpus + 1), 10, "the guest's queues and no more")
        namespace = connection.namespace(1)
        slba, data = namespace.free_run(2), content(drive.nqn, 2 * CLBA)
        namespace.write(slba, data[: CLBA * BLOCK])
        done = namespace.command(ocssd.VECTOR_WRITE, send=data[CLBA * BLOCK :], cdw=vector(slba + CLBA))
        assert (done.status, done.result) == (0, 0)
        written.append((namespace, slba, data))
    for namespace, slba, data in written:
        done = namespace.command(ocssd.VECTOR_READ, receive=CLBA * BLOCK, cdw=vector(slba))
        assert (done.status, done.data) == (0, data[: CLBA * BLOCK])
        assert namespace.read(slba + CLBA, CLBA) == data[CLBA * BLOCK :]

    before = guest.run("ls /sys/class/nvme").out
    guest.run(f"nvme connect-all {where}")
    assert guest.run("ls /sys/class/nvme").out == before, "what is connected is left alone"
    disconnect_all(guest)
    wait_until(lambda: not any(daemon.connections() for daemon in fleet.all()), 10, "all connections are closed")


@quietly
def test_a_host_that_stays_hears_of_a_drive_that_goes_and_comes_back(
    guest: Guest, drives: list[Drive], service: Drive, events: Callable[[], list[str]]
) -> None:
    controller = stay(guest, service)
    gone, *rest = drives
    assert gone.stop() == 0
    assert heard(events, 1) == [f"{controller} {AEN}"]
    assert drives_of(guest, f"-d {controller}") == names(rest)
    guest.run(f"nvme connect-all -d {controller}")
    assert connected_drives(guest) == names(rest)

    gone.start()
    assert heard(events, 2) == [f"{controller} {AEN}"] * 2
    assert drives_of(guest, f"-d {controller}") == names(drives)
    guest.run(f"nvme connect-all -d {controller}")
    assert connected_drives(guest) == names(drives)
    assert all(Connection(guest, drive.nqn).live() for drive in drives)


@quietly
def test_the_next_host_is_no_longer_told_of_a_drive_that_has_gone(
    guest: Guest, drives: list[Drive], service: Drive
) -> None:
    drives[1].kill()
    rest = [drives[0], *drives[2:]]
    wait_until(lambda: drives_of(guest, at(service)) == names(rest), 30, "the drive is told of no more")
    guest.run(f"nvme connect-all {at(service)}")
    assert connected_drives(guest) == names(rest)


def test_a_host_that_stays_is_kept_and_outlives_a_restart_of_the_service(
    guest: Guest, drives: list[Drive], service: Drive, events: Callable[[], list[str]]
) -> None:
    position = guest.log_position()
    controller = stay(guest, service)
    guest.run(f"sleep {3 * KATO}")
    assert (state(guest, controller), service.connections()) == ("live", 1)
    assert [record.text for record in guest.kernel_log(position) if "nvme" in record.text and record.level < 6] == []
    assert events() == []

    service.kill()
    wait_until(lambda: state(guest, controller) != "live", 30, "the host has noticed")
    service.start()
    wait_until(lambda: state(guest, controller) == "live", 60, "the host has reconnected by itself")
    wait_until(lambda: drives_of(guest, f"-d {controller}") == names(drives), 10, "all drives are told of")
    count = len(events())
    assert drives[-1].stop() == 0
    assert heard(events, count + 1)[-1] == f"{controller} {AEN}"
    assert drives_of(guest, f"-d {controller}") == names(drives[:-1])
