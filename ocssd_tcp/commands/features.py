"""Set Features and Get Features, and every feature (NVMe Base 1.4, 5.14 and 5.21).

A further feature is one `_add` line with its getter and setter. Saving and selecting (ONCS bit 4) do not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from ocssd_tcp.commands.context import Controller, Timestamp
from ocssd_tcp.commands.registry import Command, Nsid, Queue, Registry, Reply, Transfer, command
from ocssd_tcp.wire.layouts import SQE
from ocssd_tcp.wire.opcodes import BROADCAST_NSID, Admin, Feature
from ocssd_tcp.wire.status import CommandError, Status

Getter: TypeAlias = Callable[[Controller, Command, float], Reply]
Setter: TypeAlias = Callable[[Controller, Command, bytes, float], Reply]

DULBE = 1 << 16  #: of Error Recovery
HECC, VHECC = 1, 2  #: of Media Feedback: reads, vector reads
_ALL_NAMESPACES = (0, BROADCAST_NSID)
_NO_QUEUES = 0xFFFF  #: a queue count that is not allowed
_MS_MASK = (1 << 48) - 1


@dataclass(frozen=True, slots=True)
class FeatureEntry:
    """A feature. `data_bytes`: data that Set and Get move. `discovery`: there on a discovery controller."""

    getter: Getter
    setter: Setter
    data_bytes: int = 0
    discovery: bool = False
    per_namespace: bool = False


FEATURES: Registry[FeatureEntry] = Registry()

#: Values that are only kept: FID -> (default, the bits that are kept).
_STORED: dict[Feature, tuple[int, int]] = {
    Feature.ARBITRATION: (0, 0xFFFFFF07),
    Feature.VOLATILE_WRITE_CACHE: (1, 1),
    Feature.WRITE_ATOMICITY: (0, 1),
    Feature.MEDIA_FEEDBACK: (0, HECC | VHECC),
}


def _invalid(field: str = "cdw11") -> CommandError:
    return CommandError(Status.INVALID_FIELD, location=SQE.offset(field))


def _entry(controller: Controller, cmd: Command) -> FeatureEntry:
    """The feature that CDW10 names; Invalid Field if the controller has no such."""
    entry = FEATURES.get(cmd.cdw10 & 0xFF)
    if entry is None or (controller.discovery and not entry.discovery):
        raise _invalid("cdw10")
    return entry


def _data_bytes(cmd: Command) -> int:
    """Data of this very command. An unknown feature has none: it is refused before its data is asked for."""
    entry = FEATURES.get(cmd.cdw10 & 0xFF)
    return entry.data_bytes if entry else 0


@command(
    Queue.ADMIN,
    Admin.SET_FEATURES,
    Transfer.HOST_TO_CONTROLLER,
    nsid=Nsid.HANDLER,
    discovery=True,
    data_bytes=_data_bytes,
)
def set_features(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """Errors: unknown 0/02h, SV 1/0Dh, a namespace where there is none to name 1/0Fh, and the feature's own."""
    entry = _entry(controller, cmd)
    if cmd.cdw10 >> 31:
        raise CommandError(Status.FEATURE_NOT_SAVEABLE, location=SQE.offset("cdw10"))
    if cmd.nsid not in _ALL_NAMESPACES:
        if not entry.per_namespace:
            raise CommandError(Status.FEATURE_NOT_NS_SPECIFIC, location=SQE.offset("nsid"))
        _check_namespace(controller, cmd)
    if len(data) < entry.data_bytes:
        raise CommandError(Status.DATA_SGL_LENGTH_INVALID, location=SQE.offset("sgl_length"))
    return entry.setter(controller, cmd, data, now)


@command(
    Queue.ADMIN,
    Admin.GET_FEATURES,
    Transfer.CONTROLLER_TO_HOST,
    nsid=Nsid.HANDLER,
    discovery=True,
    data_bytes=_data_bytes,
)
def get_features(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """The current value. Errors: unknown, or SEL other than current, 0/02h; and the feature's own."""
    entry = _entry(controller, cmd)
    if cmd.cdw10 >> 8 & 7:
        raise _invalid("cdw10")
    if entry.per_namespace and cmd.nsid not in _ALL_NAMESPACES:
        _check_namespace(controller, cmd)
    if cmd.sgl_length < entry.data_bytes:
        raise CommandError(Status.DATA_SGL_LENGTH_INVALID, location=SQE.offset("sgl_length"))
    return entry.getter(controller, cmd, now)


def _check_namespace(controller: Controller, cmd: Command) -> None:
    if cmd.nsid not in controller.namespaces:
        raise CommandError(Status.INVALID_NAMESPACE, location=SQE.offset("nsid"))


def _add(
    fid: Feature,
    getter: Getter,
    setter: Setter,
    *,
    data_bytes: int = 0,
    discovery: bool = False,
    per_namespace: bool = False,
) -> None:
    FEATURES.add(fid, FeatureEntry(getter, setter, data_bytes, discovery, per_namespace))


# --- values that are only kept --------------------------------------------------------------------


def current(controller: Controller, fid: Feature) -> int:
    """The value of a feature that is one number."""
    return controller.features.stored.get(fid, _STORED[fid][0])


def _get_stored(controller: Controller, cmd: Command, now: float) -> Reply:
    return Reply(dw0=current(controller, Feature(cmd.cdw10 & 0xFF)))


def _set_stored(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    fid = Feature(cmd.cdw10 & 0xFF)
    controller.features.stored[fid] = cmd.cdw11 & _STORED[fid][1]
    return Reply()


def _not_changeable(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    raise CommandError(Status.FEATURE_NOT_CHANGEABLE, location=SQE.offset("cdw10"))


# --- power, temperature, interrupts: what a drive without any of them says ---------------------------


def _get_zero(controller: Controller, cmd: Command, now: float) -> Reply:
    return Reply()


def _set_power(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    if cmd.cdw11 & 0x1F:
        raise _invalid()
    return Reply()


def _threshold_key(cmd: Command) -> int:
    """Which threshold CDW11 19:16 (TMPSEL) and 21:20 (THSEL) name, as a key beside the FIDs of stored values."""
    sensor, under = int(cmd.cdw11 >> 16 & 0xF), int(cmd.cdw11 >> 20 & 3)
    if 9 <= sensor <= 14 or under > 1:
        raise _invalid()
    return Feature.TEMPERATURE_THRESHOLD << 8 | under << 4 | sensor


def _get_threshold(controller: Controller, cmd: Command, now: float) -> Reply:
    key = _threshold_key(cmd)
    return Reply(dw0=controller.features.stored.get(key, 0 if key & 0x10 else 0xFFFF))


def _set_threshold(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    controller.features.stored[_threshold_key(cmd)] = cmd.cdw11 & 0xFFFF
    return Reply()


def _get_interrupt_vector(controller: Controller, cmd: Command, now: float) -> Reply:
    """There are no interrupts on a fabric: the vector as asked for, coalescing disabled."""
    return Reply(dw0=cmd.cdw11 & 0xFFFF | 1 << 16)


# --- error recovery, per namespace -----------------------------------------------------------------


def error_recovery(controller: Controller, nsid: int) -> int:
    """TLER and DULBE of a namespace; of those without their own value for the broadcast NSID."""
    values = controller.features.error_recovery
    return values.get(nsid, values.get(BROADCAST_NSID, 0))


def _get_error_recovery(controller: Controller, cmd: Command, now: float) -> Reply:
    return Reply(dw0=error_recovery(controller, cmd.nsid))


def _set_error_recovery(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    values = controller.features.error_recovery
    nsid = cmd.nsid
    if nsid in _ALL_NAMESPACES:
        nsid = BROADCAST_NSID
        values.clear()
    values[nsid] = cmd.cdw11 & (DULBE | 0xFFFF)
    return Reply()


# --- queues, events, keep alive ---------------------------------------------------------------------


def _granted(controller: Controller) -> Reply:
    n = controller.granted_queues - 1
    return Reply(dw0=n << 16 | n)


def _get_queues(controller: Controller, cmd: Command, now: float) -> Reply:
    return _granted(controller)


def _set_queues(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """As many queue pairs as were asked for, up to the operator's limit; both counts are 0's based."""
    sq, cq = cmd.cdw11 & 0xFFFF, cmd.cdw11 >> 16
    if _NO_QUEUES in (sq, cq):
        raise _invalid()
    if controller.has_io_queues:
        raise CommandError(Status.COMMAND_SEQUENCE_ERROR)
    controller.granted_queues = min(sq + 1, cq + 1, controller.config.max_queues)
    return _granted(controller)


def _get_event_config(controller: Controller, cmd: Command, now: float) -> Reply:
    return Reply(dw0=controller.event_config)


def _set_event_config(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """Bits that mean nothing here are ignored."""
    controller.features.stored[Feature.ASYNC_EVENT_CONFIG] = cmd.cdw11 & controller.supported_events
    return Reply()


def _get_kato(controller: Controller, cmd: Command, now: float) -> Reply:
    return Reply(dw0=controller.kato_ms)


def _set_kato(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    controller.set_kato(cmd.cdw11, now)
    return Reply()


# --- features with data ------------------------------------------------------------------------------


def _get_timestamp(controller: Controller, cmd: Command, now: float) -> Reply:
    clock = controller.features.timestamp
    ms = clock.base_ms + int((now - clock.at) * 1000)
    return Reply(data=((ms & _MS_MASK | clock.origin << 49).to_bytes(8, "little"),))


def _set_timestamp(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    controller.features.timestamp = Timestamp(int.from_bytes(data[:6], "little"), now, origin=1)
    return Reply()


def _get_host_behavior(controller: Controller, cmd: Command, now: float) -> Reply:
    return Reply(data=(controller.features.host_behavior,))


def _set_host_behavior(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """ACRE, ETDAS and LBAFEE, each 0 or 1; nothing depends on them."""
    if max(data[:3]) > 1:
        raise _invalid("cdw10")
    controller.features.host_behavior = bytes(data[:3]).ljust(512, b"\0")
    return Reply()


def _get_host_identifier(controller: Controller, cmd: Command, now: float) -> Reply:
    """The 16 bytes of Connect; the 8-byte form does not exist on a fabric."""
    if not cmd.cdw11 & 1:
        raise CommandError(Status.HOST_ID_INCONSISTENT_FORMAT, location=SQE.offset("cdw11"))
    return Reply(data=(controller.hostid,))


def _set_host_identifier(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """Connect has said it once and for all."""
    raise CommandError(Status.COMMAND_SEQUENCE_ERROR)


for _fid in _STORED:
    _add(_fid, _get_stored, _set_stored)
_add(Feature.POWER_MANAGEMENT, _get_zero, _set_power)
_add(Feature.TEMPERATURE_THRESHOLD, _get_threshold, _set_threshold)
_add(Feature.ERROR_RECOVERY, _get_error_recovery, _set_error_recovery, per_namespace=True)
_add(Feature.NUMBER_OF_QUEUES, _get_queues, _set_queues)
_add(Feature.INTERRUPT_COALESCING, _get_zero, _not_changeable)
_add(Feature.INTERRUPT_VECTOR, _get_interrupt_vector, _not_changeable)
_add(Feature.ASYNC_EVENT_CONFIG, _get_event_config, _set_event_config, discovery=True)
_add(Feature.TIMESTAMP, _get_timestamp, _set_timestamp, data_bytes=8)
_add(Feature.KEEP_ALIVE_TIMER, _get_kato, _set_kato, discovery=True)
_add(Feature.HOST_BEHAVIOR, _get_host_behavior, _set_host_behavior, data_bytes=512)
_add(Feature.HOST_IDENTIFIER, _get_host_identifier, _set_host_identifier, data_bytes=16)
