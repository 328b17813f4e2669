"""Scalar I/O commands: Flush, Write, Read, and Dataset Management as chunk reset (OCSSD 2.0, 9)."""

from __future__ import annotations

from ocssd_tcp.commands.io import Answer, Fetch, IoCommand
from ocssd_tcp.commands.registry import Nsid, Queue, Transfer, command
from ocssd_tcp.commands.status_map import NVME_STATUS
from ocssd_tcp.media.ops import Extent, MediaOp, MediaStatus, OpKind
from ocssd_tcp.wire.layouts import DSM_RANGE
from ocssd_tcp.wire.opcodes import Io
from ocssd_tcp.wire.status import Status

_DSM_DEALLOCATE = 4  #: CDW11 bit 2
_DSM_MAX_BYTES = 256 * DSM_RANGE.size


@command(Queue.IO, Io.FLUSH, Transfer.NONE, nsid=Nsid.HANDLER)
def flush(io: IoCommand) -> Answer:
    """Everything that was acknowledged before is durable when it completes (NVM Command Set, Flush)."""
    return MediaOp(OpKind.FLUSH, (), io.done, context=io)


def _slba(io: IoCommand) -> int:
    return io.cmd.cdw10 | io.cmd.cdw11 << 32


@command(Queue.IO, Io.READ, Transfer.CONTROLLER_TO_HOST, nsid=Nsid.ACTIVE)
def read(io: IoCommand) -> Answer:
    """Each block is judged by itself; unreadable ones give predefined data, or with DULBE 2/87h (OCSSD 2.0, 7.3)."""
    n_blocks = (io.cmd.cdw12 & 0xFFFF) + 1
    if io.cmd.sgl_length != n_blocks * io.namespace.geometry.block_stride:
        return Status.DATA_SGL_LENGTH_INVALID
    extents = io.namespace.addresses.scalar_runs(_slba(io), n_blocks)
    return io.read_op(extents, vector=False)


@command(Queue.IO, Io.WRITE, Transfer.WRITE, nsid=Nsid.ACTIVE, writes_media=True)
def write(io: IoCommand) -> Answer:
    """In order, in whole write units, inside one chunk (OCSSD 2.0, 7.1)."""
    geometry = io.namespace.geometry
    n_blocks = (io.cmd.cdw12 & 0xFFFF) + 1
    if io.cmd.sgl_length != n_blocks * geometry.block_stride:
        return Status.DATA_SGL_LENGTH_INVALID
    extents = io.namespace.addresses.scalar_runs(_slba(io), n_blocks)
    if len(extents) > 1 and n_blocks % geometry.ws_min:
        return Status.INVALID_FIELD
    if len(extents) > 1:
        return Status.WRITE_FAULT  # past the end of its chunk's field: those blocks are another chunk's, or none's
    return io.write_op(extents)


@command(Queue.IO, Io.DATASET_MANAGEMENT, Transfer.HOST_TO_CONTROLLER, nsid=Nsid.ACTIVE, writes_media=True)
def dataset_management(io: IoCommand) -> Answer:
    """Deallocate (AD) resets whole chunks; the hints alone change nothing. All ranges are checked before any reset.

    Linux sends a buffer of 256 ranges whatever NR says, so a longer buffer is legal, up to that size.
    """
    n_ranges = (io.cmd.cdw10 & 0xFF) + 1
    if not n_ranges * DSM_RANGE.size <= io.cmd.sgl_length <= _DSM_MAX_BYTES:
        return Status.DATA_SGL_LENGTH_INVALID
    if io.data is None:
        return Fetch(io.cmd.sgl_length)
    if not io.cmd.cdw11 & _DSM_DEALLOCATE:
        return Status.SUCCESS
    extents: list[Extent] = []
    for _cattr, nlb, slba in DSM_RANGE.struct.iter_unpack(io.data[: n_ranges * DSM_RANGE.size]):
        status = _add_range(io, slba, nlb, extents)
        if status:
            return status
    return MediaOp(OpKind.RESET, extents, io.done, whole=True, context=io)


def _add_range(io: IoCommand, slba: int, nlb: int, extents: list[Extent]) -> Status:
    """Append the chunks of one range, or say which rule it breaks (in the order of the rules)."""
    namespace = io.namespace
    geometry, addresses = namespace.geometry, namespace.addresses
    first = addresses.extent(slba)
    if first.chunk < 0:
        return NVME_STATUS[MediaStatus.INVALID_RESET]
    if first.lblk:
        return Status.INVALID_FIELD
    if nlb == namespace.engine.cnlb(first.chunk):
        extents.append(Extent(first.chunk, 0, nlb))
        return Status.SUCCESS
    clba = geometry.clba
    if nlb == 0 or nlb % clba or clba & (clba - 1):
        return Status.LBA_OUT_OF_RANGE
    chunks = [addresses.extent(slba + i).chunk for i in range(0, min(nlb, geometry.nsze), clba)]
    if min(chunks) < 0 or len(chunks) * clba != nlb:
        return Status.LBA_OUT_OF_RANGE
    extents.extend(Extent(chunk, 0, clba) for chunk in chunks)
    return Status.SUCCESS
