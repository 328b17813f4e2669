"""Asynchronous events of one controller: held requests, events that wait, and masks (NVMe Base 1.4, 5.2)."""

from __future__ import annotations

from collections import deque
from enum import Enum

from ocssd_tcp.commands.context import AERL
from ocssd_tcp.commands.registry import Reply
from ocssd_tcp.controller.queue import QueueConnection
from ocssd_tcp.wire.opcodes import LogPage
from ocssd_tcp.wire.status import CommandError, Status

SMART_EVENTS = 0xFF  #: bits of feature 0Bh for SMART warnings
NAMESPACE_NOTICE = 1 << 8
DISCOVERY_NOTICE = 1 << 31
_SPARE_WARNING = 1 << 0  # of SMART_EVENTS, as in Critical Warning
_SMART, _NOTICE, _VENDOR = 0x01, 0x02, 0x07


def _dw0(kind: int, info: int, lid: int) -> int:
    return kind | info << 8 | lid << 16


class AsyncEvent(Enum):
    """The events of this product: (DW0 of the completion, bit of feature 0Bh that enables it; 0: always enabled)."""

    SPARE_IS_LOW = (_dw0(_SMART, 0x02, LogPage.SMART), _SPARE_WARNING)
    NAMESPACE_CHANGED = (_dw0(_NOTICE, 0x00, LogPage.CHANGED_NAMESPACES), NAMESPACE_NOTICE)
    CHUNK_NOTIFICATION = (_dw0(_VENDOR, 0x00, LogPage.CHUNK_NOTIFICATION), 0)
    DISCOVERY_CHANGED = (_dw0(_NOTICE, 0xF0, LogPage.DISCOVERY), DISCOVERY_NOTICE)

    @property
    def dw0(self) -> int:
        """DW0: event type 2:0, information 15:8, log page 23:16."""
        return self.value[0]

    @property
    def enabled_by(self) -> int:
        """Its bit in feature 0Bh; 0 for an event that no feature disables."""
        return self.value[1]

    @property
    def lid(self) -> int:
        """The log page whose reading re-arms it."""
        return self.dw0 >> 16


class AsyncEvents:
    """Held requests and events on their way.

    After an event was raised, the same event is masked until its log page has been read: the host learns from the
    page what else has happened. So at most one of each waits, whatever happens.
    """

    def __init__(self) -> None:
        self._held: deque[int] = deque()  #: CIDs
        self._waiting: dict[AsyncEvent, None] = {}  #: in the order they were raised
        self._masked: set[AsyncEvent] = set()

    def hold(self, cid: int) -> Reply | None:
        """A request: answered with the oldest waiting event, else held. CommandError above the limit."""
        if self._waiting:
            event = next(iter(self._waiting))
            del self._waiting[event]
            return Reply(dw0=event.dw0)
        if len(self._held) > AERL:
            raise CommandError(Status.ASYNC_EVENT_LIMIT_EXCEEDED)
        self._held.append(cid)
        return None

    def raise_event(self, event: AsyncEvent, connection: QueueConnection) -> None:
        """Report an event (that the host enabled) with a held request, else with the next one."""
        if event in self._masked:
            return
        self._masked.add(event)
        if self._held:
            connection.complete(self._held.popleft(), Reply(dw0=event.dw0))
        else:
            self._waiting[event] = None

    def rearm(self, lid: int) -> None:
        """A log page was read: its events may be raised again, and one that still waits is old news."""
        for event in [event for event in self._masked if event.lid == lid]:
            self._masked.discard(event)
            self._waiting.pop(event, None)

    def abort(self, cid: int, connection: QueueConnection) -> bool:
        """Complete a held request with Abort Requested; False if there is no such."""
        if cid not in self._held:
            return False
        self._held.remove(cid)
        connection.complete(cid, Reply(Status.ABORT_REQUESTED))
        return True

    def reset(self, connection: QueueConnection) -> None:
        """Controller reset: requests end without an answer, events and masks are gone."""
        while self._held:
            connection.drop(self._held.popleft())
        self._waiting.clear()
        self._masked.clear()
