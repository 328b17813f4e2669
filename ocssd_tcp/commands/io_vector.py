"""Vector I/O commands (OCSSD 2.0, 8) with their lists as the LBA-list binding carries them, and Stage LBA List."""

from __future__ import annotations

from collections.abc import Sequence

from ocssd_tcp.commands.io import Answer, Fetch, IoCommand
from ocssd_tcp.commands.registry import Nsid, Queue, Transfer, command
from ocssd_tcp.media.ops import MediaOp, OpKind
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR
from ocssd_tcp.wire.lba_list import LBA_BYTES, N_SLOTS, data_list_bytes, resolve, unpack_lbas
from ocssd_tcp.wire.opcodes import MAX_VECTOR_LBAS, Io, ListForm
from ocssd_tcp.wire.status import Status

_NO_DATA = memoryview(b"")


def _n_lbas(io: IoCommand) -> int:
    return (io.cmd.cdw12 & 0xFFFF) + 1


def _form(io: IoCommand) -> int:
    return io.cmd.cdw13 & 15


def _resolve(io: IoCommand, n: int, list_bytes: int) -> tuple[Sequence[int], Sequence[int]] | Status:
    """The command's lists. `list_bytes`: of list at the head of the command's data, which has arrived."""
    cmd = io.cmd
    cdws = (cmd.cdw2, cmd.cdw3, cmd.cdw10, cmd.cdw11, cmd.cdw12, cmd.cdw13, cmd.cdw14, cmd.cdw15)
    head = (io.data or _NO_DATA)[:list_bytes]
    beside = _NO_DATA if io.in_capsule else io.capsule  # form 4: the list stands beside an SGL that is not in-capsule
    return resolve(cmd.opc, n, cdws, beside, head, io.controller.slots)


def _stray_capsule_data(io: IoCommand) -> bool:
    """In-capsule data that neither the SGL nor form 4 accounts for."""
    return bool(io.capsule) and not io.in_capsule and _form(io) != ListForm.CAPSULE


@command(Queue.IO, Io.VECTOR_READ, Transfer.CONTROLLER_TO_HOST, nsid=Nsid.ACTIVE)
def vector_read(io: IoCommand) -> Answer:
    """Blocks in list order, repeats allowed; with DULBE the bitmap names the unwritten ones."""
    n = _n_lbas(io)
    if n > MAX_VECTOR_LBAS or _stray_capsule_data(io):
        return Status.INVALID_FIELD
    lists = _resolve(io, n, 0)
    if isinstance(lists, Status):
        return lists
    if io.cmd.sgl_length != n * io.namespace.geometry.block_stride:
        return Status.DATA_SGL_LENGTH_INVALID
    extents = io.namespace.addresses.runs(lists[0])
    return io.read_op(extents, vector=True)


@command(Queue.IO, Io.VECTOR_WRITE, Transfer.WRITE, nsid=Nsid.ACTIVE, writes_media=True)
def vector_write(io: IoCommand) -> Answer:
    """Whole write units at each chunk's wp, in list order; checked whole before anything is written."""
    n = _n_lbas(io)
    if n > MAX_VECTOR_LBAS or _stray_capsule_data(io):
        return Status.INVALID_FIELD
    list_bytes = data_list_bytes(io.cmd.opc, io.cmd.cdw13, n)
    right_length = io.cmd.sgl_length == list_bytes + n * io.namespace.geometry.block_stride
    if list_bytes and io.data is None:
        return Fetch(list_bytes) if right_length else Status.DATA_SGL_LENGTH_INVALID
    if list_bytes > len(io.data or _NO_DATA):
        return Status.DATA_SGL_LENGTH_INVALID
    lists = _resolve(io, n, list_bytes)
    if isinstance(lists, Status):
        return lists
    if not right_length:
        return Status.DATA_SGL_LENGTH_INVALID
    extents = io.namespace.addresses.runs(lists[0])
    return io.write_op(extents, list_bytes)


@command(Queue.IO, Io.VECTOR_RESET, Transfer.NONE, nsid=Nsid.ACTIVE, writes_media=True)
def vector_reset(io: IoCommand) -> Answer:
    """Every entry is tried; a controller-to-host buffer of exactly n * 32 bytes gets the chunks' descriptors."""
    n = _n_lbas(io)
    if n > MAX_VECTOR_LBAS or _stray_capsule_data(io):
        return Status.INVALID_FIELD
    lists = _resolve(io, n, 0)
    if isinstance(lists, Status):
        return lists
    if io.in_capsule or io.cmd.sgl_length not in (0, n * CHUNK_DESCRIPTOR.size):
        return Status.DATA_SGL_LENGTH_INVALID
    extents = [io.namespace.addresses.extent(lba) for lba in lists[0]]
    return MediaOp(OpKind.RESET, extents, io.done, context=io)


@command(Queue.IO, Io.VECTOR_COPY, Transfer.HOST_TO_CONTROLLER, nsid=Nsid.ACTIVE, writes_media=True)
def vector_copy(io: IoCommand) -> Answer:
    """Sources obey the read rules, destinations the write rules; MCCAP bit 0 says whether there is such a command."""
    if not io.namespace.geometry.vector_copy:
        return Status.INVALID_OPCODE
    n = _n_lbas(io)
    if n > MAX_VECTOR_LBAS or _stray_capsule_data(io):
        return Status.INVALID_FIELD
    list_bytes = data_list_bytes(io.cmd.opc, io.cmd.cdw13, n)
    if list_bytes:
        if io.cmd.sgl_length != list_bytes:
            return Status.DATA_SGL_LENGTH_INVALID
        if io.data is None:
            return Fetch(list_bytes)
    lists = _resolve(io, n, list_bytes)
    if isinstance(lists, Status):
        return lists
    if io.cmd.sgl_length != list_bytes:
        return Status.DATA_SGL_LENGTH_INVALID
    addresses = io.namespace.addresses
    return MediaOp(
        OpKind.COPY,
        addresses.runs(lists[0]),
        io.done,
        destinations=addresses.runs(lists[1]),
        dulbe=io.controller.dulbe(io.cmd.nsid),
        fua=io.fua,
        context=io,
    )


@command(Queue.IO, Io.STAGE_LBA_LIST, Transfer.HOST_TO_CONTROLLER, nsid=Nsid.ACTIVE)
def stage_lba_list(io: IoCommand) -> Answer:
    """Keep a list in a slot of the controller; the LBAs are checked by the command that uses them."""
    cmd = io.cmd
    n, slot = _n_lbas(io), cmd.cdw10 & 0xFFFF
    reserved = cmd.cdw10 >> 16 | cmd.cdw11 | cmd.cdw12 >> 16 | cmd.cdw13 | cmd.cdw14 | cmd.cdw15 | cmd.cdw2 | cmd.cdw3
    if reserved or slot >= N_SLOTS or n > MAX_VECTOR_LBAS or _stray_capsule_data(io):
        return Status.INVALID_FIELD
    if cmd.sgl_length != n * LBA_BYTES:
        return Status.DATA_SGL_LENGTH_INVALID
    if io.data is None:
        return Fetch(cmd.sgl_length)
    io.controller.slots[slot] = unpack_lbas(io.data, n)
    return Status.SUCCESS
