"""What an I/O command handler is given, and what it may answer. Handlers touch no media and no connection.

A handler is `handler(io: IoCommand) -> Answer`. It checks the command and answers with a status (refused, or done), an
operation for the media, or a request for the data it needs first; in that case it is called again with `io.data`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.registry import Command, Reply
from ocssd_tcp.media.ops import Extent, MediaOp, OpKind
from ocssd_tcp.wire.opcodes import SglType
from ocssd_tcp.wire.status import Status


class IoController(Protocol):
    """What a handler may see of the controller."""

    slots: dict[int, tuple[int, ...]]

    @property
    def volatile_write_cache(self) -> bool:
        """Feature 06h; when off, every write is durable before it completes."""
        ...

    def media_feedback(self, *, vector: bool) -> bool:
        """Feature CAh: whether high ECC is reported on scalar or on vector reads."""
        ...

    def dulbe(self, nsid: int) -> bool:
        """Feature 05h: whether unwritten blocks are an error."""
        ...


@dataclass(frozen=True, slots=True)
class Fetch:
    """The handler needs the first `n_bytes` of the command's data (from the host, by R2T) and will be called again."""

    n_bytes: int


Answer: TypeAlias = Status | Reply | MediaOp | Fetch


class IoCommand:
    """One I/O command on its way through a handler.

    `capsule`: in-capsule data (empty if none). `fetched`: what an earlier `Fetch` brought. `done`: completes the
    operation that the handler answers with. `failed`: a status of the transport that overrides the media's.
    `submitted`: when the media was given an operation, CLOCK_MONOTONIC in ns; 0: it was not.
    """

    __slots__ = ("capsule", "cmd", "controller", "done", "failed", "fetched", "namespace", "submitted")

    def __init__(
        self,
        cmd: Command,
        namespace: Namespace,
        controller: IoController,
        capsule: memoryview,
        done: Callable[[MediaOp], None],
    ) -> None:
        self.cmd = cmd
        self.namespace = namespace
        self.controller = controller
        self.capsule = capsule
        self.done = done
        self.fetched: memoryview | None = None
        self.failed = 0
        self.submitted = 0

    @property
    def in_capsule(self) -> bool:
        """Whether the command's data is what the capsule carries."""
        return self.cmd.sgl_type == SglType.IN_CAPSULE

    @property
    def data(self) -> memoryview | None:
        """The command's data, or the head of it that was fetched; None while it is still with the host."""
        return self.capsule if self.in_capsule else self.fetched

    @property
    def fua_bit(self) -> bool:
        """Force Unit Access, CDW12 bit 30."""
        return bool(self.cmd.cdw12 >> 30 & 1)

    @property
    def fua(self) -> bool:
        """Whether a write is durable before it completes: by its FUA bit, or because the write cache is off."""
        return self.fua_bit or not self.controller.volatile_write_cache

    def read_op(self, extents: Sequence[Extent], *, vector: bool) -> MediaOp:
        """The READ of a scalar or vector command, by the rules that its controller has chosen."""
        return MediaOp(
            OpKind.READ,
            extents,
            self.done,
            dulbe=self.controller.dulbe(self.cmd.nsid),
            fua=self.fua_bit,
            feedback=self.controller.media_feedback(vector=vector),
            context=self,
        )

    def write_op(self, extents: Sequence[Extent], list_bytes: int = 0) -> MediaOp:
        """The WRITE of data that is in the capsule, behind `list_bytes` of list; else the RESERVE of its place."""
        if self.in_capsule:
            return MediaOp(OpKind.WRITE, extents, self.done, data=self.capsule[list_bytes:], fua=self.fua, context=self)
        return MediaOp(OpKind.RESERVE, extents, self.done, fua=self.fua, context=self)
