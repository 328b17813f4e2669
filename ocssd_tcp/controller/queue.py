"""A queue pair: the SQ head, what is outstanding, and the connection it lives on. Sans-I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ocssd_tcp.commands.registry import Reply
    from ocssd_tcp.controller.association import Association

NO_SQHD = 0xFFFF  #: SQHD is reserved once SQ flow control is disabled (NVMe-oF 1.1, 3.3)


class QueueConnection(Protocol):
    """What a queue's owner may do to the connection that carries it."""

    def complete(self, cid: int, reply: Reply) -> None:
        """Finish an outstanding command that was held."""
        ...

    def abort(self, cid: int) -> bool:
        """Complete an outstanding command with Abort Requested, if it can still be stopped."""
        ...

    def drop(self, cid: int) -> None:
        """Forget an outstanding command that was held: a controller reset ends it without an answer."""
        ...

    def close(self, why: str) -> None:
        """Send what is queued, then close; outstanding commands are dropped without an answer."""
        ...


class QueuePair:
    """One submission and completion queue.

    `entries`: SQSIZE + 1. `sqhd`: the next value to report, FFFFh for good without flow control.
    """

    __slots__ = ("association", "connection", "entries", "flow_control", "qid", "sqhd")

    def __init__(
        self, association: Association, connection: QueueConnection, qid: int, entries: int, *, flow_control: bool
    ) -> None:
        self.association = association
        self.connection = connection
        self.qid = qid
        self.entries = entries
        self.flow_control = flow_control
        self.sqhd = 0 if flow_control else NO_SQHD

    def advance(self) -> int:
        """Count a completion; the SQHD to report with it."""
        if self.flow_control:
            self.sqhd = (self.sqhd + 1) % self.entries
        return self.sqhd
