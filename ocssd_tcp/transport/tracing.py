"""What the trace records of the commands of one queue, from their arrival to their response.

Reads and writes in a capsule that are plain are recorded by the batch processor itself, in one go. Everything else is
noted here when it arrives, gets its start when the media is asked, and is recorded when its response is queued: refused
commands too, which never reach the media. While no trace is on nothing is noted, and each hook is one look at an empty
dict.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ocssd_tcp.media.trace import TraceRing, clock
from ocssd_tcp.ocssd.trace_format import MASK_BITS, TraceFlag
from ocssd_tcp.wire.opcodes import Admin, Io
from ocssd_tcp.wire.status import Status

if TYPE_CHECKING:
    from ocssd_tcp.commands.namespace import Namespace
    from ocssd_tcp.commands.registry import Command
    from ocssd_tcp.controller.queue import QueuePair
    from ocssd_tcp.media.ops import MediaOp

_FUA_BIT = 1 << 30
_LAST_BIT = MASK_BITS - 1
_WITH_ADDRESS = frozenset({Io.READ, Io.WRITE, Io.VECTOR_RESET, Io.VECTOR_READ, Io.VECTOR_WRITE, Io.VECTOR_COPY})
_SCALAR = frozenset({Io.READ, Io.WRITE})

PLAIN = int(TraceFlag.PLAIN | TraceFlag.HAS_EXTENT)
_FUA, _HAS_EXTENT = int(TraceFlag.FUA), int(TraceFlag.HAS_EXTENT)


def pu_mask(addresses: Iterable[int], shift: int) -> int:
    """The bits of the parallel units of addresses, of which the low `shift` bits are below the unit."""
    mask = 0
    for address in addresses:
        mask |= 1 << (address >> shift & _LAST_BIT)
    return mask


class TracedCommand:
    """A command under way. The fields are those of TRACE_RECORD; `pu_mask` 0: the units follow from the extent."""

    __slots__ = ("arrival", "cid", "flags", "lba", "nlb", "nsid", "opcode", "pu_mask", "start")

    def __init__(
        self, opcode: int, cid: int, nsid: int, lba: int, nlb: int, *, pu_mask: int, flags: int, arrival: int
    ) -> None:
        self.opcode = opcode
        self.cid = cid
        self.nsid = nsid
        self.lba = lba
        self.nlb = nlb
        self.pu_mask = pu_mask
        self.flags = flags
        self.arrival = arrival
        self.start = 0

    def started(self, op: MediaOp, namespace: Namespace) -> None:
        """The media is asked, perhaps once more: where a list of addresses goes is known by now."""
        self.start = clock()
        extents = [extent for extent in (*op.extents, *op.destinations) if extent.chunk >= 0]
        if self.opcode in _SCALAR or self.pu_mask or not extents:
            return
        if not self.flags & _HAS_EXTENT:
            self.nlb = len(op.extents) - 1 & 0xFFFF
        self.flags |= _HAS_EXTENT
        addresses, chk_len = namespace.addresses, namespace.geometry.chk_len
        self.lba = addresses.lba(extents[0].chunk, extents[0].lblk)
        self.pu_mask = pu_mask((addresses.address_chunk(extent.chunk) for extent in extents), chk_len)

    def record(self, ring: TraceRing, queue: QueuePair, status: int) -> None:
        """The response is queued: write the record."""
        ring.put(
            self.nsid, self.arrival, self.start, clock(), self.lba, self.pu_mask, self.nlb, self.cid,
            self.opcode, self.flags, status, queue.qid, queue.association.cntlid,
        )  # fmt: skip


class CommandsUnderWay(dict[int, TracedCommand]):
    """The traced commands of one queue, by CID."""

    __slots__ = ()

    def arrived(self, cmd: Command, *, is_io: bool) -> None:
        """A command has arrived, whose CID is not in use."""
        lba = nlb = flags = 0
        if is_io and cmd.opc in _WITH_ADDRESS:
            lba, nlb, flags = cmd.cdw10 | cmd.cdw11 << 32, cmd.cdw12 & 0xFFFF, _HAS_EXTENT
            if cmd.cdw12 & _FUA_BIT:
                flags |= _FUA
        nsid = 0 if cmd.opc == Admin.FABRICS else cmd.nsid  # where a fabrics command has its type
        self[cmd.cid] = TracedCommand(cmd.opc, cmd.cid, nsid, lba, nlb, pu_mask=0, flags=flags, arrival=clock())

    def started(self, cid: int, op: MediaOp, namespace: Namespace) -> None:
        """The media is about to be asked for a command."""
        command = self.get(cid)
        if command is not None:
            command.started(op, namespace)

    def landed(self, cid: int) -> None:
        """The data of a plain write are where they belong: the media takes no time for it."""
        command = self.get(cid)
        if command is not None:
            command.start = clock()

    def completed(self, queue: QueuePair, cid: int, status: int) -> None:
        """A command's response is queued. `status`: without DNR."""
        if status == Status.CID_CONFLICT:
            return  # the answer is not to the command that has this CID
        command = self.pop(cid, None)
        ring = queue.association.subsystem.trace
        if command is not None and ring is not None:
            command.record(ring, queue, status)
