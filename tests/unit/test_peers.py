"""Reading the peers' discovery logs: what is taken over, and for how long what no longer answers is believed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from ocssd_tcp import peers
from ocssd_tcp.controller.discovery import Elsewhere
from ocssd_tcp.host.discovery import find_subsystem
from ocssd_tcp.host.errors import TransportError
from ocssd_tcp.host.identify import DiscoveryEntry
from ocssd_tcp.peers import PATIENCE, Peers
from ocssd_tcp.wire.opcodes import ELSEWHERE_PORTID
from tests.unit.control_host import NQN, Target

A, B = ("10.0.0.1", 4420), ("10.0.0.2", 4420)


def entry(nqn: str, traddr: str = "10.0.0.1", trsvcid: str = "4420", **changes: Any) -> DiscoveryEntry:
    fields = {"trtype": "tcp", "adrfam": "ipv4", "subtype": "nvme", "treq": 4, "portid": 1, "cntlid": 0xFFFF}
    return DiscoveryEntry(
        **{**fields, "asqsz": 128, "subnqn": nqn, "traddr": traddr, "trsvcid": trsvcid, "sectype": 0, **changes}
    )


class Fleet:
    """What stands in for the network: the logs of peers, and the addresses of names; what is in neither fails."""

    def __init__(self) -> None:
        self.logs: dict[tuple[str, int], list[DiscoveryEntry]] = {}
        self.names: dict[str, list[str]] = {}
        self.read: list[tuple[str, int]] = []
        self.hosts: set[str | None] = set()

    async def discover(self, address: str, port: int, options: Any) -> list[DiscoveryEntry]:
        self.read.append((address, port))
        self.hosts.add(options.hostnqn)
        if (address, port) not in self.logs:
            raise TransportError("cannot connect")
        return self.logs[address, port]

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        if host not in self.names and not host[0].isdigit():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(2, 1, 6, "", (address, port)) for address in self.names.get(host, [host])]


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    made = Fleet()
    monkeypatch.setattr(peers, "discover", made.discover)
    loop = asyncio.new_event_loop()
    monkeypatch.setattr(loop, "getaddrinfo", made.getaddrinfo)
    made.loop = loop  # type: ignore[attr-defined]
    yield made
    loop.close()


class Reader:
    """Peers of a target, read when a test says so."""

    def __init__(self, fleet: Fleet, *places: tuple[str, int]) -> None:
        self.told: list[Elsewhere] = []
        self._loop = fleet.loop  # type: ignore[attr-defined]
        self.peers = Peers(self, places, 30, NQN)  # type: ignore[arg-type]

    def set_elsewhere(self, subsystems: list[Elsewhere]) -> None:
        self.told = list(subsystems)

    def names(self) -> list[str]:
        """NQNs that are told after a further reading."""
        self._loop.run_until_complete(self.peers.refresh())
        return [each.nqn for each in self.told]


def test_entries_of_peers_are_told_with_what_they_say(fleet: Fleet) -> None:
    fleet.logs = {A: [entry("nqn.a", treq=1, asqsz=32, sectype=2)], B: [entry("nqn.b", "fd00::2", "4421")]}
    reader = Reader(fleet, A, B)
    assert reader.names() == ["nqn.a", "nqn.b"]
    assert reader.told == [
        Elsewhere("nqn.a", "10.0.0.1", 4420, 1, 32, 2),
        Elsewhere("nqn.b", "fd00::2", 4421, 4, 128, 0),
    ]
    assert fleet.hosts == {NQN}


@pytest.mark.parametrize(
    "other",
    [
        entry("nqn.x", portid=ELSEWHERE_PORTID),
        entry("nqn.x", subtype="discovery"),
        entry("nqn.x", subtype="referral"),
        entry("nqn.x", trtype="rdma"),
        entry("nqn.x", traddr="drive7.example"),
        entry("nqn.x", traddr=""),
        entry("nqn.x", trsvcid="0"),
        entry("nqn.x", trsvcid="65536"),
        entry("nqn.x", trsvcid="nvme"),
        entry(""),
    ],
    ids=lambda other: f"{other.subtype} {other.trtype} {other.traddr} {other.trsvcid} {other.portid:x}",
)
def test_only_a_peers_own_subsystems_that_can_be_reached_are_told(fleet: Fleet, other: DiscoveryEntry) -> None:
    fleet.logs = {A: [other, entry("nqn.a")]}
    assert Reader(fleet, A).names() == ["nqn.a"]


def test_two_peers_that_say_the_same_are_told_once(fleet: Fleet) -> None:
    fleet.logs = {A: [entry("nqn.a")], B: [entry("nqn.a"), entry("nqn.a", "10.0.0.3")]}
    assert Reader(fleet, A, B).names() == ["nqn.a", "nqn.a"]


def test_a_name_stands_for_all_its_addresses_and_follows_them(fleet: Fleet) -> None:
    fleet.names = {"drives": ["10.0.0.1", "10.0.0.2"]}
    fleet.logs = {A: [entry("nqn.a")], B: [entry("nqn.b")]}
    reader = Reader(fleet, ("drives", 4420))
    assert reader.names() == ["nqn.a", "nqn.b"]
    fleet.names = {"drives": ["10.0.0.2"]}
    assert reader.names() == ["nqn.b"]


@pytest.mark.parametrize("what", ["logs", "names"])
def test_what_no_longer_answers_is_believed_a_little_longer(fleet: Fleet, what: str) -> None:
    fleet.names = {"drives": ["10.0.0.1"]}
    fleet.logs = {A: [entry("nqn.a")]}
    reader = Reader(fleet, ("drives", 4420))
    found = [reader.names()]
    known = getattr(fleet, what)
    setattr(fleet, what, {})
    found += [reader.names() for _ in range(PATIENCE + 2)]
    setattr(fleet, what, known)
    found.append(reader.names())
    assert found == [["nqn.a"]] * (1 + PATIENCE) + [[]] * 2 + [["nqn.a"]]


@pytest.mark.parametrize(
    ("what", "lines"),
    [
        ("logs", ["a peer does not answer", "a peer answers again"]),
        ("names", ["the name of peers is not known", "the name of peers is known again"]),
    ],
)
def test_a_failure_is_logged_once_and_its_end_once(fleet: Fleet, what: str, lines: list[str]) -> None:
    fleet.names = {"drives": ["10.0.0.1"]}
    fleet.logs = {A: [entry("nqn.a")]}
    reader = Reader(fleet, ("drives", 4420))
    reader.names()
    with capture_logs() as logged:
        known = getattr(fleet, what)
        for state in ({}, {}, {}, {}, known, known):
            setattr(fleet, what, state)
            reader.names()
    assert [line["event"] for line in logged] == lines
    assert "drives:4420" in str(logged) or "10.0.0.1:4420" in str(logged)


def test_one_peer_that_fails_keeps_no_other_from_being_told(fleet: Fleet) -> None:
    fleet.logs = {B: [entry("nqn.b")]}
    assert Reader(fleet, A, ("nowhere", 4420), B).names() == ["nqn.b"]


def test_peers_are_read_again_and_again_until_stopped(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.logs = {A: [entry("nqn.a")]}
    pauses: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            enough.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(peers.asyncio, "sleep", sleep)
    target = Target()

    async def run() -> None:
        reader = Peers(target.directory.discovery, [A], 7, NQN)
        reader.start()
        await enough.wait()
        await reader.stop()

    fleet.loop.run_until_complete(run())  # type: ignore[attr-defined]
    assert (pauses, fleet.read) == ([7, 7, 7], [A, A, A])


def test_without_peers_nothing_is_read(fleet: Fleet) -> None:
    async def run() -> None:
        reader = Peers(Target().directory.discovery, [], 7, NQN)
        reader.start()
        await reader.stop()

    fleet.loop.run_until_complete(run())  # type: ignore[attr-defined]
    assert fleet.read == []


async def test_a_host_that_looks_for_the_drive_at_an_address_is_not_confused_by_its_peers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def log(*_: Any) -> list[DiscoveryEntry]:
        return [entry("nqn.own"), entry("nqn.b", portid=ELSEWHERE_PORTID), entry("nqn.c", portid=ELSEWHERE_PORTID)]

    monkeypatch.setattr("ocssd_tcp.host.discovery.discover", log)
    assert await find_subsystem("10.0.0.1") == "nqn.own"
