"""The properties of a controller, CAP VS CC CSTS, and the two state machines behind CSTS (NVMe Base 1.4, 3.1).

It says what a write to CC means; doing it (closing queues, flushing, timers) is the association's.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto

from ocssd_tcp.wire.opcodes import NVME_VERSION, Property

TIMEOUT_UNITS = 30  #: CAP.TO, 500 ms each
_CAP_CQR = 1 << 16  #: contiguous queues required
_CAP_NVM = 1 << 37  #: CSS: the NVM command set

_CC_EN = 1
_CC_SHN = 3 << 14
_CC_ENTRY_SIZES = 0xFF << 16
ENTRY_SIZES = 0x46 << 16  #: CC.IOCQES = 4 and CC.IOSQES = 6: entries of 16 and 64 bytes
_CC_UNSUPPORTED = 0x7 << 4 | 0xF << 7 | 0x7 << 11  #: CSS, MPS and AMS: only 0 is offered

_CSTS_RDY, _CSTS_CFS, _SHST_SHIFT = 1, 2, 2


class Event(Enum):
    """What a write to CC, or the controller's own work, brings about."""

    ENABLE = auto()  #: CC.EN 0 -> 1, with values that can be served
    REFUSE = auto()  #: CC.EN 0 -> 1, with others
    DISABLE = auto()  #: CC.EN 1 -> 0
    FAIL = auto()  #: the controller gives up
    SHUTDOWN = auto()  #: CC.SHN 00b -> another value
    FLUSHED = auto()  #: what the shutdown had to do is done
    RESUME = auto()  #: CC.SHN -> 00b


class Action(Enum):
    """What the owner has to do on a transition."""

    NONE = auto()
    START = auto()
    RESET = auto()
    SHUT_DOWN = auto()
    RESUME = auto()


class Ready(Enum):
    """CSTS.RDY and CSTS.CFS."""

    DISABLED = 0
    READY = _CSTS_RDY
    FAILED = _CSTS_CFS


class Shutdown(IntEnum):
    """CSTS.SHST."""

    NONE = 0
    IN_PROGRESS = 1
    COMPLETE = 2


_READY_TABLE: dict[tuple[Ready, Event], tuple[Ready, Action]] = {
    (Ready.DISABLED, Event.ENABLE): (Ready.READY, Action.START),
    (Ready.DISABLED, Event.REFUSE): (Ready.FAILED, Action.NONE),
    (Ready.DISABLED, Event.FAIL): (Ready.FAILED, Action.NONE),
    (Ready.READY, Event.DISABLE): (Ready.DISABLED, Action.RESET),
    (Ready.READY, Event.FAIL): (Ready.FAILED, Action.NONE),
    (Ready.FAILED, Event.DISABLE): (Ready.DISABLED, Action.RESET),
}

_SHUTDOWN_TABLE: dict[tuple[Shutdown, Event], tuple[Shutdown, Action]] = {
    (Shutdown.NONE, Event.SHUTDOWN): (Shutdown.IN_PROGRESS, Action.SHUT_DOWN),
    (Shutdown.IN_PROGRESS, Event.FLUSHED): (Shutdown.COMPLETE, Action.NONE),
    (Shutdown.IN_PROGRESS, Event.RESUME): (Shutdown.NONE, Action.RESUME),
    (Shutdown.COMPLETE, Event.RESUME): (Shutdown.NONE, Action.RESUME),
}


class Registers:
    """CAP, VS, CC and CSTS of one controller.

    `io_queues`: whether queue entry sizes matter (not on a discovery controller). CC reads back exactly as written:
    Linux reuses what it reads.
    """

    def __init__(self, queue_entries: int, *, io_queues: bool) -> None:
        self.cap = (queue_entries - 1) | _CAP_CQR | TIMEOUT_UNITS << 24 | _CAP_NVM
        self.cc = 0
        self.ready = Ready.DISABLED
        self.shutdown = Shutdown.NONE
        self._io_queues = io_queues

    @property
    def csts(self) -> int:
        """The value of CSTS."""
        return int(self.ready.value) | self.shutdown << _SHST_SHIFT

    @property
    def entry_sizes_valid(self) -> bool:
        """Whether CC.IOSQES and CC.IOCQES are those of NVMe."""
        return self.cc & _CC_ENTRY_SIZES == ENTRY_SIZES

    def read(self, ofst: int, size: int) -> int | None:
        """A property of 4 or 8 bytes; either half of CAP may be read alone. None: there is no such property."""
        if size == 8:
            return self.cap if ofst == Property.CAP else None
        if ofst == Property.CC:
            return self.cc
        if ofst == Property.CSTS:
            return self.csts
        if ofst == Property.VS:
            return NVME_VERSION
        if ofst == Property.CAP:
            return self.cap & 0xFFFFFFFF
        return self.cap >> 32 if ofst == Property.CAP + 4 else None

    def write_cc(self, value: int) -> list[Action]:
        """Store CC; the actions that follow, in order. EN and SHN may change together: both count."""
        old, self.cc = self.cc, value
        actions = []
        if (old ^ value) & _CC_EN:
            actions.append(self.ready_event(self._en_event()))
        if bool(old & _CC_SHN) != bool(value & _CC_SHN):
            actions.append(self.shutdown_event(Event.SHUTDOWN if value & _CC_SHN else Event.RESUME))
        return [action for action in actions if action is not Action.NONE]

    def _en_event(self) -> Event:
        if not self.cc & _CC_EN:
            return Event.DISABLE
        valid = not self.cc & _CC_UNSUPPORTED and (self.entry_sizes_valid or not self._io_queues)
        return Event.ENABLE if valid else Event.REFUSE

    def ready_event(self, event: Event) -> Action:
        """Advance CSTS.RDY and CSTS.CFS; what the table does not name changes nothing."""
        self.ready, action = _READY_TABLE.get((self.ready, event), (self.ready, Action.NONE))
        return action

    def shutdown_event(self, event: Event) -> Action:
        """Advance CSTS.SHST; what the table does not name changes nothing."""
        self.shutdown, action = _SHUTDOWN_TABLE.get((self.shutdown, event), (self.shutdown, Action.NONE))
        return action
