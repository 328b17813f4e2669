"""What every filter is: a `Media` around a `Media` for one namespace; and the time that filters live in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

from ocssd_tcp.media.ops import Media, MediaOp, OpKind


class Timers(Protocol):
    """Time for filters: seconds, monotonic. A filter keeps a heap of its deadlines and one timer for the earliest."""

    def now(self) -> float:
        """The present moment."""
        ...

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, at `when` or as soon as possible after it; never from within `call_at`."""
        ...


class Filter(ABC):
    """A `Media` around `inner`. Every kind of operation is declared in one of two sets.

    `HANDLES`: what `handle` is given. `PASSES`: what goes to `inner` as it is. To see an operation's completion a
    filter replaces `op.done`, and restores it when it is called; operations come back to outer filters last. A filter
    consumes `op.data` before `submit` returns: it hands the operation on at once and holds back the completion.
    A COMMIT or ABORT may arrive whose RESERVE the filter never saw: filters come and go while the drive runs.
    """

    HANDLES: ClassVar[frozenset[OpKind]]
    PASSES: ClassVar[frozenset[OpKind]]

    __slots__ = ("inner",)

    def __init__(self, inner: Media) -> None:
        self.inner = inner

    def submit(self, op: MediaOp) -> None:
        """Execute `op` and call `op.done(op)`. See `media.ops`."""
        if op.kind in self.HANDLES:
            self.handle(op)
        else:
            self.inner.submit(op)

    @abstractmethod
    def handle(self, op: MediaOp) -> None:
        """Deal with an operation of one of the kinds in `HANDLES`."""
