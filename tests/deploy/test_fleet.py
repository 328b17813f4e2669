"""Twenty drives on one machine: found at one address, and next to nothing while they wait."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.host import Daemon, free_ports, ocssd, wait_for

N_DRIVES = 20
IDLE_SECONDS = 20.0
REFRESH_SECONDS = 5
MOST_OF_A_CORE = 0.05
SMALL = ("drive.path=drive", "namespace.num_chk=4", "namespace.clba=256", "observe.listen=127.0.0.1:0")


def nqn(index: int) -> str:
    return f"nqn.2014-08.org.example:drive-{index:02}"


def listen(port: int) -> str:
    return f'target.listen=["127.0.0.1:{port}"]'


class Fleet:
    """Drives that know nothing of each other, and one that only tells of them."""

    def __init__(self, folder: Path) -> None:
        self.port, *self.ports = free_ports(N_DRIVES + 1)
        self.drives = [
            Daemon(folder / str(i), *SMALL, listen(port), f"target.nqn={nqn(i)}", f"drive.serial=DRIVE-{i:02}")
            for i, port in enumerate(self.ports)
        ]
        peers = json.dumps([f"127.0.0.1:{port}" for port in self.ports])
        only = ("discovery.only=true", f"discovery.peers={peers}", f"discovery.refresh_seconds={REFRESH_SECONDS}")
        for port, drive in zip(self.ports, self.drives, strict=True):
            wait_for(port, drive.log)
        self.service = Daemon(folder / "discovery", *SMALL, listen(self.port), *only)
        wait_for(self.port, self.service.log)

    def found(self) -> dict[str, int]:
        """NQN -> port, as the one address tells."""
        log = json.loads(ocssd("discover", "-a", f"127.0.0.1:{self.port}", "--json"))
        return {entry["subnqn"]: int(entry["trsvcid"]) for entry in log if entry["subtype"] == "nvme"}

    def found_when(self, condition: Callable[[dict[str, int]], bool]) -> dict[str, int]:
        """The same, as soon as it is so, or after 30 s."""
        deadline = time.monotonic() + 30
        while not condition(found := self.found()) and time.monotonic() < deadline:
            time.sleep(0.3)
        return found

    def stop(self) -> list[int]:
        """All of it; the exit statuses."""
        return [daemon.stop() for daemon in (self.service, *self.drives)]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    started = Fleet(tmp_path_factory.mktemp("fleet"))
    yield started
    assert set(started.stop()) == {0}


def test_one_discovery_service_finds_every_drive_and_not_itself(fleet: Fleet) -> None:
    expected = {nqn(i): port for i, port in enumerate(fleet.ports)}
    assert fleet.found_when(lambda found: len(found) == N_DRIVES) == expected


def test_a_drive_found_that_way_is_usable(fleet: Fleet) -> None:
    found = fleet.found_when(lambda found: len(found) == N_DRIVES)
    assert "Verified" in ocssd("verify", "-a", f"127.0.0.1:{found[nqn(7)]}", "-n", nqn(7))


def test_idle_drives_take_little_of_a_core(fleet: Fleet, record_property: Callable[[str, object], None]) -> None:
    before = [drive.cpu_seconds() for drive in fleet.drives]
    begun = time.monotonic()
    time.sleep(IDLE_SECONDS)
    elapsed = time.monotonic() - begun
    used = sum(drive.cpu_seconds() for drive in fleet.drives) - sum(before)
    record_property("share_of_a_core", used / elapsed)
    print(f"{N_DRIVES} idle drives: {used / elapsed:.2%} of a core")
    assert used / elapsed < MOST_OF_A_CORE


def test_a_drive_that_has_gone_is_no_longer_told(fleet: Fleet) -> None:
    assert fleet.drives[3].stop() == 0
    assert sorted(fleet.found_when(lambda found: nqn(3) not in found)) == [nqn(i) for i in range(N_DRIVES) if i != 3]
