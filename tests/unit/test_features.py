"""Set Features and Get Features."""

from __future__ import annotations

import pytest

from ocssd_tcp.commands.features import FEATURES
from ocssd_tcp.commands.registry import Transfer
from ocssd_tcp.wire.opcodes import Admin, Feature
from ocssd_tcp.wire.status import Status
from tests.unit.control_host import Outcome, Target, live, live_discovery, sqe

BROADCAST = 0xFFFFFFFF
DULBE = 1 << 16


def test_number_of_queues_needs_counts_that_can_be() -> None:
    """Conformance 75."""
    host = live(Target())
    for value in (0xFFFFFFFF, 0xFFFF, 0xFFFF0000):
        assert host.set_feature(Feature.NUMBER_OF_QUEUES, value) == Outcome(Status.INVALID_FIELD)
    assert host.set_feature(Feature.NUMBER_OF_QUEUES, 7 << 16 | 3) == Outcome(dw0=3 << 16 | 3)
    assert host.set_feature(Feature.NUMBER_OF_QUEUES, 999 << 16 | 999) == Outcome(dw0=63 << 16 | 63)
    assert host.get_feature(Feature.NUMBER_OF_QUEUES).dw0 == 63 << 16 | 63
    host.connect(1)
    assert host.set_feature(Feature.NUMBER_OF_QUEUES, 0) == Outcome(Status.COMMAND_SEQUENCE_ERROR)


@pytest.mark.parametrize(
    ("fid", "cdw11", "value"),
    [
        (0x01, 0, 0),
        (0x02, 0, 0),
        (0x04, 0, 0xFFFF),
        (0x04, 1 << 20, 0),
        (0x05, 0, 0),
        (0x06, 0, 1),
        (0x07, 0, 63 << 16 | 63),
        (0x08, 0, 0),
        (0x09, 5, 1 << 16 | 5),
        (0x0A, 0, 0),
        (0x0B, 0, 1 << 8),
        (0x0F, 0, 0),
        (0xCA, 0, 0),
    ],
)
def test_every_number_has_its_default(fid: int, cdw11: int, value: int) -> None:
    """Conformance 77."""
    assert live(Target()).get_feature(fid, cdw11) == Outcome(dw0=value)


@pytest.mark.parametrize(
    ("fid", "set_to", "value"),
    [
        (0x01, 0xFFFFFFFF, 0xFFFFFF07),
        (0x02, 0, 0),
        (0x04, 350, 350),
        (0x05, DULBE | 7, DULBE | 7),
        (0x06, 0, 0),
        (0x0A, 1, 1),
        (0x0B, 0xFFFFFFFF, 0x1FF),
        (0x0F, 1500, 2000),
        (0xCA, 0xFF, 3),
    ],
)
def test_value_that_was_set_is_read_back(fid: int, set_to: int, value: int) -> None:
    host = live(Target())
    assert host.set_feature(fid, set_to).status == Status.SUCCESS
    assert host.get_feature(fid).dw0 == value


@pytest.mark.parametrize(
    ("fid", "value", "status"),
    [
        (0x02, 1, Status.INVALID_FIELD),
        (0x04, 9 << 16, Status.INVALID_FIELD),
        (0x04, 2 << 20, Status.INVALID_FIELD),
        (0x08, 0, Status.FEATURE_NOT_CHANGEABLE),
        (0x09, 0, Status.FEATURE_NOT_CHANGEABLE),
        (0x7F, 0, Status.INVALID_FIELD),
        (0x00, 0, Status.INVALID_FIELD),
    ],
)
def test_value_that_cannot_be_set_is_refused(fid: int, value: int, status: Status) -> None:
    """Conformance 80."""
    assert live(Target()).set_feature(fid, value) == Outcome(status)


@pytest.mark.parametrize("fid", [0x00, 0x03, 0x19, 0x7F, 0xFF])
def test_unknown_feature_cannot_be_read(fid: int) -> None:
    """Conformance 80."""
    assert live(Target()).get_feature(fid) == Outcome(Status.INVALID_FIELD)


@pytest.mark.parametrize("fid", sorted(FEATURES))
def test_nothing_can_be_saved_or_selected(fid: int) -> None:
    """Conformance 79."""
    host = live(Target())
    data = bytes(FEATURES[fid].data_bytes)
    assert host.set_feature(fid, data=data, cdw10=1 << 31 | fid) == Outcome(Status.FEATURE_NOT_SAVEABLE)
    assert host.get_feature(fid, cdw10=3 << 8 | fid) == Outcome(Status.INVALID_FIELD)


@pytest.mark.parametrize("fid", sorted(set(FEATURES) - {Feature.ERROR_RECOVERY}))
def test_feature_of_the_controller_has_no_namespace(fid: int) -> None:
    host = live(Target())
    data = bytes(FEATURES[fid].data_bytes)
    assert host.set_feature(fid, data=data, nsid=1) == Outcome(Status.FEATURE_NOT_NS_SPECIFIC)
    assert host.set_feature(fid, data=data, nsid=BROADCAST).status != Status.FEATURE_NOT_NS_SPECIFIC


def test_dulbe_is_a_namespaces_own() -> None:
    host = live(Target())
    host.set_feature(Feature.ERROR_RECOVERY, DULBE, nsid=3)
    assert [host.association.dulbe(nsid) for nsid in (1, 3)] == [False, True]
    assert host.get_feature(Feature.ERROR_RECOVERY, nsid=3).dw0 == DULBE
    assert host.get_feature(Feature.ERROR_RECOVERY, nsid=1).dw0 == 0
    host.set_feature(Feature.ERROR_RECOVERY, DULBE, nsid=BROADCAST)
    assert [host.association.dulbe(nsid) for nsid in (1, 3)] == [True, True]
    host.set_feature(Feature.ERROR_RECOVERY, 0, nsid=1)
    assert [host.association.dulbe(nsid) for nsid in (1, 3)] == [False, True]
    host.set_feature(Feature.ERROR_RECOVERY, 0)
    assert [host.association.dulbe(nsid) for nsid in (1, 3)] == [False, False]


def test_dulbe_of_one_host_is_not_anothers() -> None:
    target = Target()
    host, other = live(target), live(target)
    host.set_feature(Feature.ERROR_RECOVERY, DULBE, nsid=1)
    assert not other.association.dulbe(1)


@pytest.mark.parametrize("nsid", [2, 4])
def test_error_recovery_of_an_inactive_namespace_is_invalid(nsid: int) -> None:
    host = live(Target())
    assert host.set_feature(Feature.ERROR_RECOVERY, nsid=nsid) == Outcome(Status.INVALID_NAMESPACE)
    assert host.get_feature(Feature.ERROR_RECOVERY, nsid=nsid) == Outcome(Status.INVALID_NAMESPACE)


def test_write_cache_can_be_switched_off_and_on() -> None:
    host = live(Target())
    assert host.association.volatile_write_cache
    host.set_feature(Feature.VOLATILE_WRITE_CACHE, 0)
    assert not host.association.volatile_write_cache
    host.set_feature(Feature.VOLATILE_WRITE_CACHE, 1)
    assert host.association.volatile_write_cache


def test_thresholds_of_sensors_are_apart() -> None:
    host = live(Target())
    host.set_feature(Feature.TEMPERATURE_THRESHOLD, 1 << 16 | 300)
    host.set_feature(Feature.TEMPERATURE_THRESHOLD, 1 << 20 | 1 << 16 | 200)
    assert host.get_feature(Feature.TEMPERATURE_THRESHOLD, 1 << 16).dw0 == 300
    assert host.get_feature(Feature.TEMPERATURE_THRESHOLD, 1 << 20 | 1 << 16).dw0 == 200
    assert host.get_feature(Feature.TEMPERATURE_THRESHOLD).dw0 == 0xFFFF


def test_timestamp_runs_on_from_what_the_host_said() -> None:
    target = Target()
    host = live(target)
    target.pass_time(2)
    assert host.get_feature(Feature.TIMESTAMP).data == (2000).to_bytes(8, "little")
    assert host.set_feature(Feature.TIMESTAMP, data=(1 << 40).to_bytes(8, "little")).status == Status.SUCCESS
    target.pass_time(1.5)
    value = host.get_feature(Feature.TIMESTAMP).data
    assert int.from_bytes(value[:6], "little") == (1 << 40) + 1500
    assert value[6:] == b"\x02\0"


def test_host_behavior_takes_zeros_and_ones() -> None:
    host = live(Target())
    data = b"\1\0\1".ljust(512, b"\0")
    assert host.set_feature(Feature.HOST_BEHAVIOR, data=data).status == Status.SUCCESS
    assert host.get_feature(Feature.HOST_BEHAVIOR).data == data
    assert host.set_feature(Feature.HOST_BEHAVIOR, data=b"\2".ljust(512, b"\0")) == Outcome(Status.INVALID_FIELD)
    assert host.get_feature(Feature.HOST_BEHAVIOR).data == data


def test_host_identifier_is_that_of_connect() -> None:
    host = live(Target())
    assert host.get_feature(Feature.HOST_IDENTIFIER, 1) == Outcome(data=bytes(range(16)))
    assert host.get_feature(Feature.HOST_IDENTIFIER, 0) == Outcome(Status.HOST_ID_INCONSISTENT_FORMAT)
    assert host.set_feature(Feature.HOST_IDENTIFIER, 1, bytes(16)) == Outcome(Status.COMMAND_SEQUENCE_ERROR)


@pytest.mark.parametrize(("length", "status"), [(7, 0x0F), (8, 0), (4096, 0), (4097, 0x0F), (0xFFFFFFFF, 0x0F)])
def test_length_of_the_data_is_judged_before_it_is_asked_for(length: int, status: int) -> None:
    host = live(Target())
    command = sqe(Admin.SET_FEATURES, cdw10=Feature.TIMESTAMP, sgl_length=length)
    if status:
        assert host.set_feature(Feature.TIMESTAMP, sgl_length=length).status == status
    else:
        assert host.association.check_admin(command).transfer is Transfer.HOST_TO_CONTROLLER


@pytest.mark.parametrize("length", [0, 4096, 0xFFFFFFFF])
@pytest.mark.parametrize("opc", [Admin.SET_FEATURES, Admin.GET_FEATURES])
def test_feature_without_data_moves_none_whatever_the_sgl_says(opc: Admin, length: int) -> None:
    command = sqe(opc, cdw10=Feature.NUMBER_OF_QUEUES, sgl_length=length)
    assert live(Target()).association.check_admin(command).transfer is Transfer.NONE


@pytest.mark.parametrize(("fid", "length"), [(Feature.TIMESTAMP, 7), (Feature.HOST_BEHAVIOR, 511)])
def test_room_for_less_than_the_value_is_a_wrong_length(fid: Feature, length: int) -> None:
    assert live(Target()).get_feature(fid, sgl_length=length) == Outcome(Status.DATA_SGL_LENGTH_INVALID)


@pytest.mark.parametrize("fid", sorted(FEATURES))
def test_discovery_controller_has_two_features(fid: int) -> None:
    """Conformance 113."""
    host = live_discovery(Target())
    known = fid in (Feature.ASYNC_EVENT_CONFIG, Feature.KEEP_ALIVE_TIMER)
    expected = Status.SUCCESS if known else Status.INVALID_FIELD
    assert host.get_feature(fid).status == expected
    assert host.set_feature(fid, data=bytes(FEATURES[fid].data_bytes)).status == expected
