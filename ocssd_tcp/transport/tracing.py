"""What the trace records of the commands of one queue, from their arrival to their response.

Reads and writes in a capsule that are plain are recorded by the batch processor itself, in one go. Everything else is
noted here when it arrives, gets its start when the media is asked, and is recorded when its response is queued: refused
commands too, which never reach the media. What a record says is worked out at the end, from the SQE and the operation.
While no trace is on nothing is noted, and each hook is one look at an empty dict.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ocssd_tcp.media.trace import clock
from ocssd_tcp.ocssd.trace_format import MASK_BITS, TraceFlag
from ocssd_tcp.structdef import struct_of
from ocssd_tcp.wire.layouts import SQE
from ocssd_tcp.wire.opcodes import Admin, Io
from ocssd_tcp.wire.status import Status

if TYPE_CHECKING:
    from ocssd_tcp.commands.namespace import Namespace
    from ocssd_tcp.commands.registry import Command
    from ocssd_tcp.controller.queue import QueuePair
    from ocssd_tcp.media.ops import MediaOp

_fields = struct_of(SQE, ("opc", "nsid", "cdw12")).unpack_from
_LAST_BIT = MASK_BITS - 1
_FUA_BIT = 1 << 30
_WITH_ADDRESS = frozenset(
    map(int, (Io.READ, Io.WRITE, Io.VECTOR_RESET, Io.VECTOR_READ, Io.VECTOR_WRITE, Io.VECTOR_COPY))
)
_SCALAR = frozenset(map(int, (Io.READ, Io.WRITE)))
_FABRICS, _CID_CONFLICT = int(Admin.FABRICS), int(Status.CID_CONFLICT)

PLAIN = int(TraceFlag.PLAIN | TraceFlag.HAS_EXTENT)
_FUA, _HAS_EXTENT = int(TraceFlag.FUA), int(TraceFlag.HAS_EXTENT)


def pu_mask(addresses: Iterable[int], shift: int) -> int:
    """The bits of the parallel units of addresses, of which the low `shift` bits are below the unit."""
    mask = 0
    for address in addresses:
        mask |= 1 << (address >> shift & _LAST_BIT)
    return mask


class TracedRun(NamedTuple):
    """A write of the batch processor that waits for its data: its SQE, and what the record says of its place."""

    sqe: bytes
    lba: int
    pu_mask: int


class UnderWay:
    """A traced command: what is known of it, when it arrived, and when the media was asked for which operation."""

    __slots__ = ("arrival", "command", "namespace", "op", "start")

    def __init__(self, command: Command | TracedRun, arrival: int) -> None:
        self.command = command
        self.arrival = arrival
        self.start = 0
        self.op: MediaOp | None = None
        self.namespace: Namespace | None = None


class CommandsUnderWay(dict[int, UnderWay]):
    """The traced commands of one queue, by CID."""

    __slots__ = ()

    def arrived(self, cid: int, command: Command | TracedRun, arrival: int) -> None:
        """Note a command from now on."""
        self[cid] = UnderWay(command, arrival)

    def started(self, cid: int, op: MediaOp, namespace: Namespace) -> None:
        """The media is about to be asked for a command, perhaps once more."""
        noted = self.get(cid)
        if noted is not None:
            noted.start, noted.op, noted.namespace = clock(), op, namespace

    def landed(self, cid: int) -> None:
        """The data of a plain write are where they belong: the media takes no time for it."""
        noted = self.get(cid)
        if noted is not None:
            noted.start = clock()

    def completed(self, queue: QueuePair, cid: int, status: int) -> None:
        """A command's response is queued: write its record. `status`: without DNR."""
        if status == _CID_CONFLICT:
            return  # the answer is not to the command that has this CID
        noted = self.pop(cid, None)
        ring = queue.association.subsystem.trace
        if noted is None or ring is None:
            return
        command, mask = noted.command, 0
        if isinstance(command, TracedRun):
            opcode, nsid, cdw12 = _fields(command.sqe)
            lba, mask, nlb, flags = command.lba, command.pu_mask, cdw12 & 0xFFFF, PLAIN
        else:
            opcode, nsid, lba, nlb, flags = command.opc, command.nsid, 0, 0, 0
            if opcode == _FABRICS:
                nsid = 0  # a fabrics command has its type there
            elif queue.qid:
                cdw12 = command.cdw12
                if opcode in _WITH_ADDRESS:
                    lba, nlb, flags = command.cdw10 | command.cdw11 << 32, cdw12 & 0xFFFF, _HAS_EXTENT
                    if cdw12 & _FUA_BIT:
                        flags |= _FUA
                op, namespace = noted.op, noted.namespace
                if opcode not in _SCALAR and op is not None and namespace is not None and op.extents:
                    if not flags:
                        nlb = len(op.extents) - 1 & 0xFFFF
                    flags |= _HAS_EXTENT
                    lba, mask = _place_of(op, namespace, lba)
        ring.put(
            nsid, noted.arrival, noted.start, clock(), lba, mask, nlb, cid, opcode, flags, status, queue.qid,
            queue.association.cntlid,
        )  # fmt: skip


def _place_of(op: MediaOp, namespace: Namespace, otherwise: int) -> tuple[int, int]:
    """The first LBA of an operation that names a chunk (`otherwise` if none does), and the bits of all its units."""
    geometry = namespace.geometry
    num_chk, num_pu, pu_len = geometry.num_chk, geometry.num_pu, geometry.pu_len
    mask = 0
    extents = [*op.extents, *op.destinations] if op.destinations else op.extents
    for unit in {extent.chunk // num_chk for extent in extents}:
        if unit >= 0:
            mask |= 1 << ((unit // num_pu << pu_len | unit % num_pu) & _LAST_BIT)
    for extent in extents:
        if extent.chunk >= 0:
            return namespace.addresses.lba(extent.chunk, extent.lblk), mask
    return otherwise, mask
