"""Properties and the controller's state machines."""

from __future__ import annotations

import pytest

from ocssd_tcp.controller.registers import Action, Event, Ready, Registers, Shutdown
from ocssd_tcp.controller.timers import ASSOCIATION_SECONDS
from ocssd_tcp.wire.opcodes import Admin, Feature, Property
from ocssd_tcp.wire.status import Status
from tests.unit.control_host import ENABLE, Host, Outcome, Target, live, live_discovery

RDY, CFS, SHST_BUSY, SHST_DONE = 1, 2, 4, 8
SHN_NORMAL, SHN_ABRUPT = 1 << 14, 2 << 14


def csts(host: Host) -> int:
    return host.get_property(Property.CSTS).dw0


def test_cap_says_what_hosts_need() -> None:
    """Conformance 58."""
    outcome = live(Target()).get_property(Property.CAP, size=1)
    cap = outcome.dw0 | outcome.dw1 << 32
    assert cap == 1023 | 1 << 16 | 30 << 24 | 1 << 37


def test_mqes_is_the_configured_depth() -> None:
    assert live(Target(queue_entries=128)).get_property(Property.CAP, size=1).dw0 & 0xFFFF == 127
    assert live(Target(queue_entries=65536)).get_property(Property.CAP, size=1).dw0 & 0xFFFF == 0xFFFF


def test_either_half_of_cap_may_be_read_alone() -> None:
    host = live(Target())
    whole = host.get_property(Property.CAP, size=1)
    assert host.get_property(Property.CAP) == Outcome(dw0=whole.dw0)
    assert host.get_property(Property.CAP + 4) == Outcome(dw0=whole.dw1)


def test_small_properties_have_their_values_and_no_dw1() -> None:
    """Conformance 59."""
    host = live(Target())
    assert host.get_property(Property.VS) == Outcome(dw0=0x00010400)
    assert host.get_property(Property.CC) == Outcome(dw0=ENABLE)
    assert host.get_property(Property.CSTS) == Outcome(dw0=RDY)


@pytest.mark.parametrize(
    ("ofst", "size"),
    [(0x0C, 0), (0xFFFC, 0), (0x20, 0), (0x3C, 0), (0x68, 0), (0x0, 2), (0x14, 7), (0x8, 1), (0x14, 1), (0x4, 1)],
)
def test_what_is_not_a_property_cannot_be_read(ofst: int, size: int) -> None:
    """Conformance 60."""
    host = live(Target())
    assert host.get_property(ofst, size) == Outcome(Status.INVALID_FIELD)
    assert host.get_property(Property.VS).status == Status.SUCCESS


@pytest.mark.parametrize(
    ("ofst", "size"),
    [(Property.CAP, 1), (Property.CAP, 0), (Property.VS, 0), (Property.CSTS, 0), (0x20, 0), (Property.CC, 1)],
)
def test_only_cc_can_be_written(ofst: int, size: int) -> None:
    """Conformance 61."""
    host = live(Target())
    assert host.set_property(ofst, 0, size) == Outcome(Status.INVALID_FIELD)
    assert csts(host) == RDY


@pytest.mark.parametrize("value", [0x00460000, 0xFF464071 & ~1, 0x00460380])
def test_cc_reads_back_exactly_as_written(value: int) -> None:
    host = Host(Target())
    host.connect()
    host.set_property(Property.CC, value)
    assert host.get_property(Property.CC).dw0 == value


def test_enable_makes_ready_and_disable_ends_the_io_queues() -> None:
    """Conformance 63."""
    host = Host(Target())
    host.connect()
    assert csts(host) == 0
    host.set_property(Property.CC, ENABLE)
    assert csts(host) == RDY
    host.connect(1)
    host.set_property(Property.CC, ENABLE & ~1)
    assert csts(host) == 0
    assert host.connections[1].closed
    assert not host.connections[0].closed
    host.set_property(Property.CC, ENABLE)
    assert host.connect(1).status == Status.SUCCESS


@pytest.mark.parametrize("shn", [SHN_NORMAL, SHN_ABRUPT])
def test_shutdown_flushes_closes_the_io_queues_and_completes(shn: int) -> None:
    """Conformance 64."""
    target = Target()
    host = live(target)
    host.connect(1)
    engine = target.namespaces[1].media
    engine.hold = True  # type: ignore[attr-defined]
    host.set_property(Property.CC, ENABLE | shn)
    assert csts(host) == RDY | SHST_BUSY
    assert host.connections[1].closed
    assert host.connect(1).status == Status.CONNECT_INVALID_PARAMETERS
    for op in engine.held:  # type: ignore[attr-defined]
        op.done(op)
    assert csts(host) == RDY | SHST_DONE
    host.set_property(Property.CC, ENABLE)
    assert csts(host) == RDY
    assert host.connect(1).status == Status.SUCCESS


def test_late_flush_of_an_earlier_shutdown_does_not_complete_the_next() -> None:
    target = Target()
    host = live(target)
    engine = target.namespaces[0].media
    engine.hold = True  # type: ignore[attr-defined]
    host.set_property(Property.CC, ENABLE | SHN_NORMAL)
    host.set_property(Property.CC, ENABLE)
    host.set_property(Property.CC, ENABLE | SHN_NORMAL)
    first, second = engine.held  # type: ignore[attr-defined]
    first.done(first)
    assert csts(host) == RDY | SHST_BUSY
    second.done(second)
    assert csts(host) == RDY | SHST_DONE


def test_shutdown_and_disable_in_one_write_both_count() -> None:
    host = live(Target())
    host.set_property(Property.CC, SHN_NORMAL)
    assert csts(host) == SHST_DONE


@pytest.mark.parametrize(
    "cc",
    [0x00470001, 0x00360001, 0x00000001, ENABLE | 6 << 4, ENABLE | 1 << 7, ENABLE | 1 << 11],
)
def test_enable_with_values_that_are_not_offered_is_fatal_until_disabled(cc: int) -> None:
    """Conformance 65."""
    host = Host(Target())
    host.connect()
    assert host.set_property(Property.CC, cc).status == Status.SUCCESS
    assert csts(host) == CFS
    assert host.identify(1).status == Status.COMMAND_SEQUENCE_ERROR
    assert host.connect(1).status == Status.CONNECT_INVALID_PARAMETERS
    host.set_property(Property.CC, 0)
    host.set_property(Property.CC, ENABLE)
    assert csts(host) == RDY


def test_discovery_controller_does_not_mind_entry_sizes() -> None:
    host = live_discovery(Target())
    host.set_property(Property.CC, 0)
    host.set_property(Property.CC, 1)
    assert csts(host) == RDY


@pytest.mark.parametrize("opc", [Admin.IDENTIFY, Admin.KEEP_ALIVE, Admin.GET_LOG_PAGE, Admin.SET_FEATURES])
def test_admin_command_of_a_disabled_controller_is_out_of_sequence(opc: Admin) -> None:
    """Conformance 66."""
    host = Host(Target())
    host.connect()
    assert host.admin(opc, sgl_length=4096) == Outcome(Status.COMMAND_SEQUENCE_ERROR)


def test_reset_returns_to_the_defaults() -> None:
    host = live(Target(), kato=5000)
    host.set_feature(Feature.VOLATILE_WRITE_CACHE, 0)
    host.set_feature(Feature.ERROR_RECOVERY, 1 << 16, nsid=1)
    host.set_feature(Feature.NUMBER_OF_QUEUES, 0)
    host.set_feature(Feature.KEEP_ALIVE_TIMER, 60_000)
    host.association.slots[3] = (1, 2)
    host.set_property(Property.CC, ENABLE & ~1)
    host.set_property(Property.CC, ENABLE)
    assert host.association.volatile_write_cache
    assert not host.association.dulbe(1)
    assert host.association.slots == {}
    assert host.get_feature(Feature.NUMBER_OF_QUEUES).dw0 == 63 << 16 | 63
    assert host.get_feature(Feature.KEEP_ALIVE_TIMER).dw0 == 5000


@pytest.mark.parametrize("after", ["connect", "reset", "shutdown"])
def test_controller_that_is_not_enabled_in_time_is_removed(after: str) -> None:
    target = Target()
    host = Host(target)
    host.connect()
    if after != "connect":
        host.set_property(Property.CC, ENABLE)
        target.pass_time(1000)
        assert host.connections[0].closed == []
        host.set_property(Property.CC, ENABLE | SHN_NORMAL if after == "shutdown" else ENABLE & ~1)
    target.pass_time(ASSOCIATION_SECONDS - 1)
    assert host.connections[0].closed == []
    target.pass_time(2)
    assert host.connections[0].closed
    assert target.directory.associations == []


@pytest.mark.parametrize("ready", Ready)
@pytest.mark.parametrize("event", Event)
def test_every_event_has_its_effect_or_none(ready: Ready, event: Event) -> None:
    registers = Registers(1024, io_queues=True)
    registers.ready = ready
    action = registers.ready_event(event)
    expected = {
        (Ready.DISABLED, Event.ENABLE): (Ready.READY, Action.START),
        (Ready.DISABLED, Event.REFUSE): (Ready.FAILED, Action.NONE),
        (Ready.DISABLED, Event.FAIL): (Ready.FAILED, Action.NONE),
        (Ready.READY, Event.DISABLE): (Ready.DISABLED, Action.RESET),
        (Ready.READY, Event.FAIL): (Ready.FAILED, Action.NONE),
        (Ready.FAILED, Event.DISABLE): (Ready.DISABLED, Action.RESET),
    }.get((ready, event), (ready, Action.NONE))
    assert (registers.ready, action) == expected
    assert registers.shutdown is Shutdown.NONE
