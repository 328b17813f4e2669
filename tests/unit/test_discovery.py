"""The discovery subsystem."""

from __future__ import annotations

from typing import Any

import pytest

from ocssd_tcp.controller.discovery import Elsewhere
from ocssd_tcp.wire.layouts import DISCOVERY_ENTRY, DISCOVERY_HEADER
from ocssd_tcp.wire.opcodes import DISCOVERY_NQN, ELSEWHERE_PORTID, Admin, Cns, Feature, LogPage
from ocssd_tcp.wire.status import Status
from tests.unit.control_host import (
    HOSTNQN,
    NQN,
    OTHER_HOSTNQN,
    Host,
    Outcome,
    Target,
    discovery_log,
    live_discovery,
)

DISCOVERY_EVENT = 0x0070F002
KATO = 30_000


def entries(host: Host) -> list[dict[str, Any]]:
    page = discovery_log(host)
    return [DISCOVERY_ENTRY.unpack_from(page, at) for at in range(1024, len(page), 1024)]


def places(host: Host) -> list[tuple[int, str, str]]:
    """(SUBTYPE, TRADDR, TRSVCID) of each entry."""
    return [(e["subtype"], e["traddr"].decode().rstrip(), e["trsvcid"].decode().rstrip()) for e in entries(host)]


def others(host: Host) -> list[tuple[str, str, int, int, int, int]]:
    """(SUBNQN, TRADDR, PORTID, TREQ, ASQSZ, SECTYPE) of what other drives have."""
    return [
        (
            e["subnqn"].rstrip(b"\0").decode(),
            e["traddr"].decode().rstrip(),
            *(e[name] for name in ("portid", "treq", "asqsz", "sectype")),
        )
        for e in entries(host)
        if e["portid"] == ELSEWHERE_PORTID
    ]


def genctr(host: Host) -> int:
    return int.from_bytes(host.get_log(LogPage.DISCOVERY, 8, rae=True).data, "little")


def test_page_is_a_header_and_as_many_entries_as_it_says() -> None:
    """Conformance 106."""
    page = discovery_log(live_discovery(Target()))
    header = DISCOVERY_HEADER.unpack_from(page)
    assert (header["recfmt"], header["genctr"], header["numrec"]) == (0, 1, 2)
    assert len(page) == 1024 * 3


def test_entries_say_how_to_reach_the_subsystem_and_this_service() -> None:
    subsystem, service = entries(live_discovery(Target()))
    common = {"trtype": 3, "adrfam": 1, "treq": 4, "portid": 1, "cntlid": 0xFFFF, "asqsz": 128, "sectype": 0}
    common |= {"trsvcid": b"4420".ljust(32), "traddr": b"127.0.0.1".ljust(256)}  # type: ignore[dict-item]
    for entry in (subsystem, service):
        assert {name: entry[name] for name in common} == common
    assert (subsystem["subtype"], subsystem["eflags"], subsystem["subnqn"].rstrip(b"\0")) == (2, 0, NQN.encode())
    assert (service["subtype"], service["eflags"]) == (3, 3)
    assert service["subnqn"].rstrip(b"\0") == DISCOVERY_NQN.encode()


def test_page_in_pieces_is_the_page_at_once() -> None:
    """Conformance 107."""
    host = live_discovery(Target(listeners=[(f"10.0.0.{i}", 4420) for i in range(1, 9)]))
    whole = discovery_log(host)
    assert host.get_log(LogPage.DISCOVERY, 20).data == whole[:20]
    pieces = [host.get_log(LogPage.DISCOVERY, 4096, at).data for at in range(1024, len(whole), 4096)]
    assert b"".join(pieces) == whole[1024:]


def test_pieces_of_one_reading_are_of_one_state() -> None:
    target = Target()
    host = live_discovery(target)
    whole = discovery_log(host)
    target.directory.discovery.set_listeners([("10.0.0.1", 4420)])
    assert host.get_log(LogPage.DISCOVERY, 2048, 1024).data == whole[1024:]
    assert genctr(host) == 2
    assert host.get_log(LogPage.DISCOVERY, 2048, 1024).data != whole[1024:]


def test_host_without_access_does_not_see_the_subsystem() -> None:
    """Conformance 108."""
    target = Target(allowed_hosts=[HOSTNQN])
    assert [e["subtype"] for e in entries(live_discovery(target))] == [2, 3]
    assert [e["subtype"] for e in entries(live_discovery(target, hostnqn=OTHER_HOSTNQN))] == [3]


def test_generation_counts_visible_changes_only() -> None:
    """Conformance 109."""
    target = Target(allowed_hosts=[HOSTNQN])
    directory = target.directory
    host, other = live_discovery(target), live_discovery(target, hostnqn=OTHER_HOSTNQN)
    directory.set_allowed_hosts([HOSTNQN])
    directory.discovery.set_listeners([("127.0.0.1", 4420)])
    assert (genctr(host), genctr(other)) == (1, 1)
    directory.set_allowed_hosts([HOSTNQN, OTHER_HOSTNQN])
    assert (genctr(host), genctr(other)) == (1, 2)
    directory.discovery.set_listeners([("127.0.0.1", 4421)])
    assert (genctr(host), genctr(other)) == (2, 3)
    directory.set_allowed_hosts(None)
    assert (genctr(host), genctr(other)) == (3, 4)


def test_change_is_told_once_until_the_page_is_read() -> None:
    """Conformance 110."""
    target = Target()
    host = live_discovery(target, kato=KATO)
    host.request_event(1)
    host.request_event(2)
    directory = target.directory
    directory.discovery.add_referral(("10.0.0.9", 8009))
    directory.discovery.remove_referral(("10.0.0.9", 8009))
    assert host.events() == [(1, DISCOVERY_EVENT)]
    host.get_log(LogPage.DISCOVERY, 4096)
    directory.discovery.add_referral(("10.0.0.9", 8009))
    assert host.events() == [(1, DISCOVERY_EVENT), (2, DISCOVERY_EVENT)]


@pytest.mark.parametrize(("length", "rearmed"), [(1024, False), (4096, True)])
def test_reading_to_the_end_rearms_even_with_rae(length: int, rearmed: bool) -> None:
    target = Target()
    host = live_discovery(target, kato=KATO)
    host.request_event(1)
    host.request_event(2)
    target.directory.discovery.add_referral(("10.0.0.9", 8009))
    host.get_log(LogPage.DISCOVERY, length, rae=True)
    target.directory.discovery.remove_referral(("10.0.0.9", 8009))
    assert len(host.events()) == 1 + rearmed


def test_change_of_access_is_told_to_the_hosts_it_concerns() -> None:
    target = Target(allowed_hosts=[HOSTNQN])
    host, other = (live_discovery(target, kato=KATO, hostnqn=nqn) for nqn in (HOSTNQN, OTHER_HOSTNQN))
    for each in (host, other):
        each.request_event(1)
    target.directory.set_allowed_hosts([HOSTNQN, OTHER_HOSTNQN])
    assert (host.events(), other.events()) == ([], [(1, DISCOVERY_EVENT)])


def test_events_are_off_for_a_connection_without_keep_alive_until_switched_on() -> None:
    target = Target()
    host = live_discovery(target)
    host.request_event(1)
    target.directory.discovery.add_referral(("10.0.0.9", 8009))
    assert host.events() == []
    host.set_feature(Feature.ASYNC_EVENT_CONFIG, 1 << 31)
    target.directory.discovery.remove_referral(("10.0.0.9", 8009))
    assert host.events() == [(1, DISCOVERY_EVENT)]


def test_referral_is_an_entry_and_can_be_withdrawn() -> None:
    """Conformance 111."""
    target = Target()
    host = live_discovery(target)
    target.directory.discovery.add_referral(("fd00::9", 8009))
    target.directory.discovery.add_referral(("fd00::9", 8009))
    referral = entries(host)[-1]
    assert (referral["subtype"], referral["adrfam"], genctr(host)) == (1, 2, 2)
    assert places(host)[-1] == (1, "fd00::9", "8009")
    target.directory.discovery.remove_referral(("fd00::9", 8009))
    target.directory.discovery.remove_referral(("fd00::9", 8009))
    assert [e["subtype"] for e in entries(host)] == [2, 3]
    assert genctr(host) == 3


@pytest.mark.parametrize(
    ("listeners", "local", "expected"),
    [
        ([("0.0.0.0", 4420)], ("10.0.2.15", 4420), [("10.0.2.15", "4420")]),
        ([("::", 4420)], ("fe80::1%eth0", 4420), [("fe80::1", "4420")]),
        ([("::", 4420)], ("::ffff:10.0.2.15", 4420), []),
        ([("0.0.0.0", 4420), ("::", 4421)], ("::ffff:10.0.2.15", 4420), [("10.0.2.15", "4420")]),
        ([("0.0.0.0", 4420), ("::", 4421)], ("fd00::1", 4421), [("fd00::1", "4421")]),
        ([("127.0.0.1", 4420), ("::1", 8009)], ("127.0.0.1", 4420), [("127.0.0.1", "4420"), ("::1", "8009")]),
    ],
)
def test_addresses_are_literal_and_reachable(
    listeners: list[tuple[str, int]], local: tuple[str, int], expected: list[tuple[str, str]]
) -> None:
    """Conformance 112."""
    host = live_discovery(Target(listeners=listeners), local=local)
    assert [place[1:] for place in places(host) if place[0] == 2] == expected
    assert [place[1:] for place in places(host) if place[0] == 3] == expected


def test_advertised_addresses_replace_the_listeners() -> None:
    host = live_discovery(Target(listeners=[("0.0.0.0", 4420)], advertise=[("10.0.2.2", 14420)]))
    assert places(host) == [(2, "10.0.2.2", "14420"), (3, "10.0.2.2", "14420")]


def test_name_is_not_an_address() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        Target(advertise=[("drive.example", 4420)])


def test_discovery_controller_identifies_itself_only() -> None:
    """Conformance 113."""
    host = live_discovery(Target())
    assert host.identify(Cns.CONTROLLER).status == Status.SUCCESS
    for cns in set(Cns) - {Cns.CONTROLLER}:
        assert host.identify(cns, 1) == Outcome(Status.INVALID_FIELD)
    assert host.admin(Admin.ABORT) == Outcome(Status.INVALID_OPCODE)
    assert host.set_feature(Feature.NUMBER_OF_QUEUES, 0) == Outcome(Status.INVALID_FIELD)


def test_discovery_is_open_to_every_host() -> None:
    assert live_discovery(Target(allowed_hosts=[]), hostnqn=OTHER_HOSTNQN).cntlid == 1


def test_subsystems_elsewhere_are_told_as_they_are_described() -> None:
    target = Target()
    host = live_discovery(target)
    target.directory.discovery.set_elsewhere(
        [Elsewhere("nqn.2014-08.org.example:b", "fd00::1", 4421), Elsewhere("nqn.b", "10.0.0.9", 8009, 1, 32, 2)]
    )
    assert others(host) == [
        ("nqn.2014-08.org.example:b", "fd00::1", ELSEWHERE_PORTID, 4, 128, 0),
        ("nqn.b", "10.0.0.9", ELSEWHERE_PORTID, 1, 32, 2),
    ]
    assert [e["adrfam"] for e in entries(host)] == [1, 1, 2, 1]
    assert [e["subtype"] for e in entries(host)] == [2, 3, 2, 2]


def test_a_drive_is_not_elsewhere_to_itself() -> None:
    target = Target()
    target.directory.discovery.set_elsewhere([Elsewhere(NQN, "10.0.0.9", 4420), Elsewhere("nqn.b", "10.0.0.9", 4421)])
    assert [name for name, *_ in others(live_discovery(target))] == ["nqn.b"]


def test_generation_counts_what_changes_elsewhere_whatever_its_order() -> None:
    target = Target()
    host = live_discovery(target)
    a, b = Elsewhere("nqn.a", "10.0.0.9", 4420), Elsewhere("nqn.b", "10.0.0.9", 4421)
    seen = [genctr(host)]
    for told in ([a, b], [b, a, a], [b], [], []):
        target.directory.discovery.set_elsewhere(told)
        seen.append(genctr(host))
    assert seen == [1, 2, 2, 3, 4, 4]
