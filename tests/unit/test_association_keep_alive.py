"""Keep alive: who is gone, and who was only not listened to."""

from __future__ import annotations

import pytest

from ocssd_tcp.controller.timers import GRACE_SECONDS, effective_kato
from ocssd_tcp.wire.opcodes import Admin, Feature, Property
from ocssd_tcp.wire.status import Status
from tests.unit.control_host import Host, Target, live, live_discovery

KATO = 5000


def gone(host: Host) -> bool:
    return bool(host.connections[0].closed)


def test_silent_host_is_removed_within_two_timeouts_and_others_stay() -> None:
    """Conformance 87."""
    target = Target()
    silent, other = live(target, kato=KATO), live(target, kato=60_000)
    silent.connect(1)
    target.pass_time(4.9)
    assert not gone(silent)
    target.pass_time(5.1 + GRACE_SECONDS)
    assert gone(silent)
    assert silent.connections[1].closed == ["keep alive timeout"]
    assert silent.association.registers.csts & 2
    assert not gone(other)
    assert target.directory.associations == [other.association]


def test_keep_alive_commands_keep_a_host_alive() -> None:
    target = Target()
    host = live(target, kato=KATO)
    for _ in range(20):
        target.pass_time(2.5)
        assert host.admin(Admin.KEEP_ALIVE).status == Status.SUCCESS
    assert not gone(host)
    target.pass_time(5 + 2 * GRACE_SECONDS)
    assert gone(host)


def test_io_traffic_alone_keeps_a_host_alive() -> None:
    """Conformance 88."""
    target = Target()
    host = live(target, kato=KATO)
    for _ in range(20):
        target.pass_time(4)
        host.association.traffic = True
    assert not gone(host)
    target.pass_time(2 * 5 + GRACE_SECONDS)
    assert gone(host)


def test_no_timeout_never_expires() -> None:
    """Conformance 89."""
    target = Target()
    host = live(target)
    target.pass_time(1_000_000)
    assert not gone(host)
    assert host.admin(Admin.KEEP_ALIVE).status == Status.SUCCESS
    assert target.directory.next_deadline() is None


def test_stalled_loop_does_not_kill_a_host_whose_input_waits() -> None:
    target = Target()
    host = live(target, kato=1000)
    target.now += 30  # the loop stalls; then the timer comes first, and the socket next
    target.directory.on_timer(target.now)
    assert not gone(host)
    host.association.traffic = True
    target.pass_time(GRACE_SECONDS)
    assert not gone(host)


def test_second_stall_puts_the_judgement_off_again() -> None:
    target = Target()
    host = live(target, kato=1000)
    target.now += 30
    target.directory.on_timer(target.now)
    target.now += 30
    target.directory.on_timer(target.now)
    assert not gone(host)
    target.pass_time(2 * GRACE_SECONDS)
    assert gone(host)


def test_timer_runs_from_enable_not_from_connect() -> None:
    target = Target()
    host = Host(target)
    host.connect(kato=1000)
    target.pass_time(60)
    host.set_property(Property.CC, 0x00460001)
    target.pass_time(0.9)
    assert not gone(host)


@pytest.mark.parametrize(("cc", "seconds"), [(0x00464001, 100), (0x00460000, 100)])
def test_no_keep_alive_is_expected_during_shutdown_or_after_reset(cc: int, seconds: int) -> None:
    target = Target()
    host = live(target, kato=1000)
    host.set_property(Property.CC, cc)
    target.pass_time(seconds)
    assert not gone(host)


def test_keep_alive_resumes_after_a_shutdown_is_taken_back() -> None:
    target = Target()
    host = live(target, kato=1000)
    host.set_property(Property.CC, 0x00464001)
    host.set_property(Property.CC, 0x00460001)
    target.pass_time(10)
    assert gone(host)


def test_set_feature_changes_the_timeout_and_restarts_it() -> None:
    target = Target()
    host = live(target)
    host.set_feature(Feature.KEEP_ALIVE_TIMER, 2000)
    target.pass_time(1.9)
    assert not gone(host)
    host.set_feature(Feature.KEEP_ALIVE_TIMER, 0)
    target.pass_time(1000)
    assert not gone(host)
    host.set_feature(Feature.KEEP_ALIVE_TIMER, 2000)
    target.pass_time(2 + 2 * GRACE_SECONDS)
    assert gone(host)


def test_keep_alive_names_no_namespace() -> None:
    assert live(Target()).admin(Admin.KEEP_ALIVE, nsid=1).status == Status.INVALID_FIELD


@pytest.mark.parametrize(
    ("requested", "effective"), [(0, 0), (1, 1000), (1000, 1000), (1001, 2000), (0xFFFFFFFF, 0xFFFFFFFF)]
)
def test_timeout_is_rounded_up_to_what_kas_says(requested: int, effective: int) -> None:
    """Conformance 78."""
    assert effective_kato(requested) == effective
    assert live(Target(), kato=requested).get_feature(Feature.KEEP_ALIVE_TIMER).dw0 == effective


def test_idle_discovery_connection_is_cleaned_up() -> None:
    """Conformance 114."""
    target = Target()
    host = live_discovery(target)
    target.pass_time(60)
    assert host.identify(1).status == Status.SUCCESS
    target.pass_time(119)
    assert not gone(host)
    target.pass_time(1 + 2 * GRACE_SECONDS)
    assert gone(host)


def test_persistent_discovery_connection_lives_by_its_keep_alive() -> None:
    target = Target()
    host = live_discovery(target, kato=30_000)
    for _ in range(30):
        target.pass_time(15)
        host.admin(Admin.KEEP_ALIVE)
    assert not gone(host)
    target.pass_time(30 + 2 * GRACE_SECONDS)
    assert gone(host)
