"""The verbs of an Open-Channel SSD 2.0: one namespace, its geometry and chunks, scalar and vector commands.

A `Drive` knows which queue, which list form and how many commands a call becomes; the rules of the media are the
drive's to enforce. Commands on one parallel unit use one queue, so that calls keep their order there. Every verb
raises StatusError if the drive refuses, TransportError if the connection is lost, UsageError before anything is sent.
OCSSD 2.0; LBA-list binding 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from ocssd_tcp.host.client import Connection, Controller, Options, all_of, execute
from ocssd_tcp.host.connection import Command, Completion, Piece, sqe
from ocssd_tcp.host.discovery import find_subsystem
from ocssd_tcp.host.errors import StatusError, UsageError
from ocssd_tcp.host.forms import choose, encode
from ocssd_tcp.host.identify import NamespaceInfo
from ocssd_tcp.ocssd.address import AddressMap
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR, ChunkDescriptor, GeometryPage, parse_geometry_page
from ocssd_tcp.wire.layouts import DSM_RANGE
from ocssd_tcp.wire.lba_list import pack_lbas
from ocssd_tcp.wire.opcodes import MAX_VECTOR_LBAS, Admin, Feature, Io, ListForm, LogPage
from ocssd_tcp.wire.status import Status

Buffer = bytes | bytearray | memoryview | npt.NDArray[Any]
ChunkArray = npt.NDArray[Any]  #: structured, `CHUNK_DESCRIPTOR.dtype`: cs ct wli slba cnlb wp

GEOMETRY_BYTES = 4096
MAX_SCALAR_BLOCKS = 1 << 16
MAX_DSM_RANGES = 256
MAX_CHUNKS_AT_ONCE = 1 << 24  #: 512 MiB of chunk log
_FUA = 1 << 30  #: CDW12
_DEALLOCATE = 1 << 2  #: CDW11 of Dataset Management
_DULBE = 1 << 16  #: CDW11 of Error Recovery


class StagedList(Sequence[int]):
    """LBAs that a slot of the drive holds: use it in place of a list, until the slot is staged again."""

    def __init__(self, slot: int, lbas: Sequence[int]) -> None:
        self.slot = slot
        self._lbas = tuple(lbas)

    def __len__(self) -> int:
        return len(self._lbas)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        return self._lbas[index]


class Drive:
    """A namespace that is an Open-Channel SSD.

    `geometry`: what the drive says of itself; `addresses`: LBA arithmetic for it; `namespace`: Identify Namespace;
    `block_bytes`: data of a logical block as it travels, with its metadata if there is any (extended LBAs);
    `forms`: list forms offered; `form`: the one to use where a call names none, None for the cheapest possible.
    """

    def __init__(self, controller: Controller, nsid: int, namespace: NamespaceInfo, geometry: GeometryPage) -> None:
        self.controller = controller
        self.nsid = nsid
        self.namespace = namespace
        self.geometry = geometry
        self.addresses = AddressMap(geometry)
        self.form: ListForm | None = None
        self.block_bytes = namespace.block_bytes + (namespace.metadata_bytes if namespace.extended_lba else 0)
        self.forms = frozenset(form for form in ListForm if geometry.forms >> form & 1)
        self.max_lbas = min(geometry.max_n or MAX_VECTOR_LBAS, MAX_VECTOR_LBAS)
        self.n_chunks = geometry.num_grp * geometry.num_pu * geometry.num_chk
        self._pu_shift = geometry.lbk_len + geometry.chk_len
        self._slots = self._slot_pairs()

    @classmethod
    async def open(cls, controller: Controller, nsid: int = 1) -> Self:
        """Identify namespace `nsid` and read its geometry. UsageError if it is not an active OCSSD 2.0 namespace."""
        try:
            namespace = await controller.identify_namespace(nsid)
            if not namespace.nsze or not namespace.block_bytes:
                raise UsageError(f"namespace {nsid} is not active")
            page = bytearray(GEOMETRY_BYTES)
            await controller.admin(sqe(Admin.GEOMETRY, nsid), "Geometry", data_in=memoryview(page))
            geometry = parse_geometry_page(page)
        except StatusError as error:
            if error.code == Status.INVALID_NAMESPACE:
                raise UsageError(f"the drive has no namespace {nsid}") from error
            if error.code == Status.INVALID_OPCODE:
                raise UsageError(f"namespace {nsid} is not an Open-Channel SSD") from error
            raise
        except ValueError as error:
            raise UsageError(f"namespace {nsid} is not an Open-Channel SSD 2.0: {error}") from error
        _check(geometry)
        return cls(controller, nsid, namespace, geometry)

    # --- chunks -------------------------------------------------------------------------------

    async def chunks(self, first: int = 0, count: int | None = None) -> ChunkArray:
        """Descriptors of `count` chunks from flat index `first` (group, PU, chunk order), all by default.

        A structured numpy array with fields cs, ct, wli, slba, cnlb, wp.
        """
        count = self.n_chunks - first if count is None else count
        if first < 0 or count < 1 or first + count > self.n_chunks:
            raise UsageError(f"chunks {first} to {first + count - 1}: the drive has 0 to {self.n_chunks - 1}")
        if count > MAX_CHUNKS_AT_ONCE:
            raise UsageError(f"{count} chunks at once: at most {MAX_CHUNKS_AT_ONCE}")
        size = CHUNK_DESCRIPTOR.size
        log = await self.controller.get_log(
            LogPage.CHUNK_INFORMATION, count * size, offset=first * size, nsid=self.nsid
        )
        return np.frombuffer(log, CHUNK_DESCRIPTOR.dtype)

    async def chunk(self, lba: int) -> ChunkDescriptor:
        """The descriptor of the chunk that `lba` lies in. UsageError if there is none."""
        index = self.addresses.extent(lba).chunk
        if index < 0:
            raise UsageError(f"LBA {lba:#x} names no chunk of this drive")
        return ChunkDescriptor(*(int(value) for value in (await self.chunks(index, 1))[0]))

    # --- scalar commands ----------------------------------------------------------------------

    async def read(self, slba: int, n_blocks: int = 1) -> bytearray:
        """`n_blocks` logical blocks from `slba`, in as many commands as MDTS needs."""
        data = bytearray(_positive(n_blocks) * self.block_bytes)
        await self.read_into(slba, memoryview(data))
        return data

    async def read_into(self, slba: int, buffer: Buffer) -> None:
        """The same into `buffer`, a whole number of blocks; it must not be used before this returns."""
        view = self._blocks(buffer)
        step = self._blocks_per_command
        queue = self._queue(slba)
        if len(view) <= step * self.block_bytes:
            await self._scalar(Io.READ, queue, slba, len(view) // self.block_bytes, data_in=view)
            return
        await all_of(
            *(
                self._scalar(Io.READ, queue, slba + at, len(piece) // self.block_bytes, data_in=piece)
                for at, piece in self._pieces(view, step)
            )
        )

    async def write(self, slba: int, data: Buffer, *, fua: bool = False) -> None:
        """Write whole blocks from `slba` on; beyond MDTS in several commands, one after the other.

        `fua`: the data has reached the disk when this returns.
        """
        view = self._blocks(data)
        # Any drive takes one write per chunk at a time; only some take more.
        step = max(1, self._blocks_per_command // self.geometry.ws_min) * self.geometry.ws_min
        for at, piece in self._pieces(view, step):
            n_blocks = len(piece) // self.block_bytes
            await self._scalar(Io.WRITE, self._queue(slba), slba + at, n_blocks, (piece,), cdw12=_FUA if fua else 0)

    async def flush(self) -> None:
        """All that was acknowledged before is on the disk when this returns."""
        await execute(self._queue(0), Command(sqe(Io.FLUSH, self.nsid)), "Flush")

    async def dsm_reset(self, slbas: Sequence[int], lengths: Sequence[int] | None = None) -> None:
        """Reset whole chunks by Dataset Management. `lengths`: of each in blocks, clba by default. At most 256."""
        lengths = [self.geometry.clba] * len(slbas) if lengths is None else lengths
        if not 0 < len(slbas) <= MAX_DSM_RANGES or len(lengths) != len(slbas):
            raise UsageError(f"{len(slbas)} ranges with {len(lengths)} lengths: 1 to {MAX_DSM_RANGES}, as many of each")
        _check_lbas(slbas)
        ranges = b"".join(DSM_RANGE.pack(slba=slba, nlb=nlb) for slba, nlb in zip(slbas, lengths, strict=True))
        entry = sqe(Io.DATASET_MANAGEMENT, self.nsid, cdw10=len(slbas) - 1, cdw11=_DEALLOCATE)
        await execute(self._queue(slbas[0]), Command(entry, (ranges,)), "Dataset Management")

    async def set_dulbe(self, enabled: bool) -> None:
        """Whether reads of unwritten blocks fail with 2/87h (Error Recovery feature, DULBE) or give predefined data."""
        await self.controller.set_feature(Feature.ERROR_RECOVERY, _DULBE if enabled else 0, nsid=self.nsid)

    async def _scalar(
        self,
        opcode: Io,
        queue: Connection,
        slba: int,
        n_blocks: int,
        data_out: Sequence[Piece] = (),
        data_in: memoryview | None = None,
        cdw12: int = 0,
    ) -> None:
        _check_lbas((slba,))
        entry = sqe(opcode, self.nsid, cdw10=slba & 0xFFFFFFFF, cdw11=slba >> 32, cdw12=cdw12 | (n_blocks - 1))
        await self._run(queue, Command(entry, data_out, data_in), opcode)

    # --- vector commands ----------------------------------------------------------------------

    async def vector_read(self, lbas: Sequence[int], *, form: ListForm | None = None) -> bytearray:
        """The blocks at `lbas`, in list order. StatusError says by `failed` which could not be read."""
        data = bytearray(len(lbas) * self.block_bytes)
        await self.vector_read_into(lbas, memoryview(data), form=form)
        return data

    async def vector_read_into(self, lbas: Sequence[int], buffer: Buffer, *, form: ListForm | None = None) -> None:
        """The same into `buffer` of as many blocks."""
        await self._vector(Io.VECTOR_READ, lbas, form=form, data_in=self._blocks(buffer, len(lbas)))

    async def vector_write(
        self, lbas: Sequence[int], data: Buffer, *, form: ListForm | None = None, fua: bool = False
    ) -> None:
        """Write blocks to `lbas` in list order; nothing is written if any entry breaks a rule."""
        view = self._blocks(data, len(lbas))
        await self._vector(Io.VECTOR_WRITE, lbas, form=form, data_out=view, cdw12=_FUA if fua else 0)

    async def vector_copy(
        self, sources: Sequence[int], destinations: Sequence[int], *, form: ListForm | None = None
    ) -> None:
        """Copy blocks inside the drive. Both lists are of one length."""
        if len(sources) != len(destinations):
            raise UsageError(f"{len(sources)} sources and {len(destinations)} destinations")
        await self._vector(Io.VECTOR_COPY, sources, destinations, form=form)

    async def reset(self, slbas: Sequence[int] | int, *, form: ListForm | None = None) -> None:
        """Reset the chunks that begin at `slbas` (Vector Chunk Reset); each entry is tried, whatever the others do."""
        await self._vector(Io.VECTOR_RESET, _as_list(slbas), form=form)

    async def reset_with_descriptors(self, slbas: Sequence[int] | int, *, form: ListForm | None = None) -> ChunkArray:
        """The same, and the chunk descriptors afterwards, in list order. On a StatusError they may be its `data`."""
        lbas = _as_list(slbas)
        descriptors = np.zeros(len(lbas), CHUNK_DESCRIPTOR.dtype)
        await self._vector(Io.VECTOR_RESET, lbas, form=form, data_in=descriptors.view(np.uint8).data)
        return descriptors

    async def stage(self, slot: int, lbas: Sequence[int]) -> StagedList:
        """Store a list in a slot; the result may be used in place of the list. Lists that a call stages by itself go
        into the upper half of the slots.
        """
        self._check_list(lbas)
        if ListForm.SLOT not in self.forms or not 0 <= slot < self.geometry.n_slots:
            raise UsageError(f"slot {slot}: the drive has {self.geometry.n_slots}")
        await execute(self._queue(0), self._stage_command(slot, lbas), "Stage LBA List")
        return StagedList(slot, lbas)

    async def _vector(
        self,
        opcode: Io,
        lbas: Sequence[int],
        destinations: Sequence[int] = (),
        *,
        form: ListForm | None = None,
        data_out: memoryview | None = None,
        data_in: memoryview | None = None,
        cdw12: int = 0,
    ) -> None:
        for entries in (lbas, destinations) if destinations else (lbas,):
            self._check_list(entries)
        queue = self._queue(lbas[0])
        staging: list[Command] = []
        slots = (0, 0)
        if isinstance(lbas, StagedList) and (not destinations or isinstance(destinations, StagedList)):
            form = ListForm.SLOT
            slots = (lbas.slot, destinations.slot if isinstance(destinations, StagedList) else 0)
        else:
            form = choose(opcode, lbas, destinations, self.forms, form if form is not None else self.form)
            if form is ListForm.SLOT:
                slots = next(self._slots)
                staging = [self._stage_command(slots[0], lbas)]
                if destinations:
                    staging.append(self._stage_command(slots[1], destinations))
        encoded = encode(form, opcode, lbas, destinations, slots)
        encoded.cdws["cdw12"] |= cdw12
        pieces: list[Piece] = [encoded.prefix] if encoded.prefix else []
        if data_out is not None:
            pieces.append(data_out)
        command = Command(sqe(opcode, self.nsid, **encoded.cdws), pieces, data_in, capsule=encoded.capsule)
        if not staging:
            await self._run(queue, command, opcode)
            return
        # On one queue a list and the command that uses it may be outstanding together.
        staged = [execute(queue, stage, "Stage LBA List") for stage in staging]
        await all_of(*staged, self._run(queue, command, opcode))

    async def _run(self, queue: Connection, command: Command, opcode: Io) -> Completion:
        try:
            return await execute(queue, command, _NAMES[opcode])
        except StatusError as error:
            if opcode in _VECTOR:
                error.bitmap = error.dw1 << 32 | error.dw0
            if command.data_in is not None and command.moved == len(command.data_in):
                if opcode == Io.VECTOR_RESET:
                    error.data = np.frombuffer(command.data_in, CHUNK_DESCRIPTOR.dtype)
                elif error.code == Status.READ_HIGH_ECC:
                    error.data = command.data_in
            raise

    def _stage_command(self, slot: int, lbas: Sequence[int]) -> Command:
        entry = sqe(Io.STAGE_LBA_LIST, self.nsid, cdw10=slot, cdw12=len(lbas) - 1)
        return Command(entry, (pack_lbas(lbas),))

    # --- helpers ------------------------------------------------------------------------------

    @property
    def _blocks_per_command(self) -> int:
        return max(1, min(self.controller.max_transfer // self.block_bytes, MAX_SCALAR_BLOCKS))

    def _slot_pairs(self) -> Iterator[tuple[int, int]]:
        n_slots = self.geometry.n_slots
        return cycle([(slot, slot + 1) for slot in range(n_slots // 2, n_slots - 1, 2)] or [(0, 0)])

    def _queue(self, lba: int) -> Connection:
        queues = self.controller.io_queues
        if not queues:
            raise UsageError("the controller was connected without I/O queues")
        return queues[(lba >> self._pu_shift) % len(queues)]

    def _blocks(self, data: Buffer, n_blocks: int | None = None) -> memoryview:
        view = data.data if isinstance(data, np.ndarray) else memoryview(data)
        if not view.contiguous:
            raise UsageError("data must be contiguous")
        view = view.cast("B")
        found, rest = divmod(len(view), self.block_bytes)
        if rest or (not found if n_blocks is None else found != n_blocks):
            expected = "a whole number of blocks" if n_blocks is None else f"{n_blocks} blocks"
            raise UsageError(f"{len(view)} bytes of data: expected {expected} of {self.block_bytes} bytes")
        return view

    def _pieces(self, view: memoryview, step: int) -> Iterator[tuple[int, memoryview]]:
        """Pieces of `step` blocks, each with the block that it begins at."""
        size = step * self.block_bytes
        return ((at // self.block_bytes, view[at : at + size]) for at in range(0, len(view), size))

    def _check_list(self, lbas: Sequence[int]) -> None:
        if not 0 < len(lbas) <= self.max_lbas:
            raise UsageError(f"a list has 1 to {self.max_lbas} LBAs, not {len(lbas)}")
        _check_lbas(lbas)


async def open_drive(
    address: str = "127.0.0.1",
    port: int = 4420,
    nqn: str | None = None,
    *,
    nsid: int = 1,
    options: Options | None = None,
) -> Drive:
    """Connect and open namespace `nsid`; `drive.controller.close()` ends it. `nqn`: if absent, the only one found."""
    nqn = nqn or await find_subsystem(address, port, options)
    controller = await Controller.connect(address, port, nqn, options)
    try:
        return await Drive.open(controller, nsid)
    except BaseException:
        await controller.close()
        raise


_NAMES = {
    Io.READ: "Read",
    Io.WRITE: "Write",
    Io.VECTOR_RESET: "Vector Chunk Reset",
    Io.VECTOR_WRITE: "Vector Chunk Write",
    Io.VECTOR_READ: "Vector Chunk Read",
    Io.VECTOR_COPY: "Vector Chunk Copy",
}
_VECTOR = frozenset({Io.VECTOR_RESET, Io.VECTOR_WRITE, Io.VECTOR_READ, Io.VECTOR_COPY})


def _as_list(slbas: Sequence[int] | int) -> Sequence[int]:
    return (slbas,) if isinstance(slbas, int) else slbas


def _positive(n_blocks: int) -> int:
    if n_blocks < 1:
        raise UsageError(f"{n_blocks} blocks")
    return n_blocks


def _check_lbas(lbas: Sequence[int]) -> None:
    for lba in lbas:
        if not 0 <= lba < 1 << 64:
            raise UsageError(f"{lba} is not a 64-bit LBA")


def _check(page: GeometryPage) -> None:
    """UsageError for a geometry that no drive can have, as all arithmetic stands on it."""
    widths = {"num_grp": page.grp_len, "num_pu": page.pu_len, "num_chk": page.chk_len, "clba": page.lbk_len}
    for name, width in widths.items():
        if not 0 < getattr(page, name) <= 1 << width:
            raise UsageError(f"the drive reports {name} {getattr(page, name)} in an address field of {width} bits")
    if sum(widths.values()) > 64 or not page.ws_min:
        raise UsageError(f"the drive reports addresses of {sum(widths.values())} bits and ws_min {page.ws_min}")
