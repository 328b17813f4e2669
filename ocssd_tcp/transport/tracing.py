"""What the trace records of the commands of one queue, from their arrival to their response.

Reads and writes in a capsule that are plain are recorded by the batch processor itself, in one go. Everything else is
noted here when it arrives, again when the media is asked, and is recorded when its response is about to be sent:
refused commands too, which never reach the media. What a record says is worked out at the end, from the SQE and the
operation. While no trace is on nothing is noted, and each hook is one look at an empty dict.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from ocssd_tcp.commands.io import IoCommand
from ocssd_tcp.commands.registry import Command
from ocssd_tcp.media.ops import MediaOp
from ocssd_tcp.media.trace import clock, pack_fields
from ocssd_tcp.ocssd.trace_format import MASK_BITS, RECORD_SHIFT, TraceFlag
from ocssd_tcp.transport.transfer import RunTransfer
from ocssd_tcp.wire.opcodes import Admin, Io

if TYPE_CHECKING:
    from ocssd_tcp.commands.namespace import Namespace
    from ocssd_tcp.controller.queue import QueuePair

_LAST_BIT = MASK_BITS - 1
_FUA_BIT = 1 << 30
_WITH_ADDRESS = frozenset(
    map(int, (Io.READ, Io.WRITE, Io.VECTOR_RESET, Io.VECTOR_READ, Io.VECTOR_WRITE, Io.VECTOR_COPY))
)
_SCALAR = frozenset(map(int, (Io.READ, Io.WRITE)))
_FABRICS = int(Admin.FABRICS)

#: A command whose media has not been asked; an operation, with its command as context; a plain write on R2T.
Noted: TypeAlias = Command | MediaOp | RunTransfer

PLAIN = int(TraceFlag.PLAIN | TraceFlag.HAS_EXTENT)
_FUA, _HAS_EXTENT = int(TraceFlag.FUA), int(TraceFlag.HAS_EXTENT)


def pu_mask(addresses: Iterable[int], shift: int) -> int:
    """The bits of the parallel units of addresses, of which the low `shift` bits are below the unit."""
    mask = 0
    for address in addresses:
        mask |= 1 << (address >> shift & _LAST_BIT)
    return mask


def record(queue: QueuePair, ended: Sequence[tuple[Noted, int]]) -> None:
    """Write the records of commands that have ended, with their statuses without DNR, before a host sees the responses.

    All those of a buffer at a time: between the steps of the commands these take three times as long (measured on
    CPython 3.11).
    """
    association, qid = queue.association, queue.qid
    ring, cntlid = association.subsystem.trace, association.cntlid
    if ring is None:
        return
    ring.renumber()
    view, slot_mask, seq, now = ring.view, ring.mask, ring.seq, clock()
    for noted, status in ended:
        start = lba = mask = nlb = flags = 0
        if isinstance(noted, RunTransfer):
            opcode, cid, nsid, flags = noted.sqe[0], noted.cid, noted.namespace.nsid, PLAIN
            arrival, start, runs = noted.arrival, noted.started, noted.runs
            lba, nlb = runs[0][0] << noted.namespace.geometry.lbk_len | runs[0][1], runs[0][2] - 1
            if len(runs) > 1:
                mask, nlb = _mask_of_runs(noted), sum(run[2] for run in runs) - 1
        else:
            op: MediaOp | None = None
            if isinstance(noted, Command):
                command = noted
            else:
                op, io = noted, noted.context
                if not isinstance(io, IoCommand):
                    continue  # which no operation of an executor is
                command, namespace, start = io.cmd, io.namespace, io.submitted
            opcode, cid, nsid, arrival = command.opc, command.cid, command.nsid, command.arrival
            if opcode == _FABRICS:
                nsid = 0  # a fabrics command has its type there
            elif qid:
                if opcode in _WITH_ADDRESS:
                    lba, nlb, flags = command.cdw10 | command.cdw11 << 32, command.cdw12 & 0xFFFF, _HAS_EXTENT
                    if command.cdw12 & _FUA_BIT:
                        flags |= _FUA
                if op is not None and opcode not in _SCALAR and op.extents:
                    if not flags:
                        nlb = len(op.extents) - 1 & 0xFFFF
                    flags |= _HAS_EXTENT
                    lba, mask = _place_of(op, namespace, lba)
        pack_fields(
            view, seq << RECORD_SHIFT & slot_mask, seq, nsid, arrival, start, now, lba, mask, nlb, cid, opcode, flags,
            status, qid, cntlid, seq,
        )  # fmt: skip
        seq += 1
    ring.seq = seq


def _mask_of_runs(transfer: RunTransfer) -> int:
    """The bits of all units of a plain write."""
    geometry = transfer.namespace.geometry
    return pu_mask((chunk for chunk, _, _ in transfer.runs), geometry.pu_shift - geometry.lbk_len)


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
