"""What an Open-Channel SSD 2.0 has to answer, written down from the specification and from nothing else.

A `Model` is a drive of plain Python objects, one per chunk and one per block, slow and obvious. Every command is a
method that changes the model as the command changes a drive and gives the outcome a host must see. Statuses are what
stands in a completion: SCT << 8 | SC, with Do Not Retry (4000h) on every rule violation.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

OK = 0x0000
INVALID_OPCODE = 0x4001
INVALID_FIELD = 0x4002
INVALID_NAMESPACE = 0x400B
SGL_LENGTH = 0x400F
LBA_RANGE = 0x4080
INVALID_LOG = 0x4109
WRITE_FAULT = 0x4280
UNWRITTEN = 0x4287
OFFLINE_CHUNK = 0x42C0
INVALID_RESET = 0x42C1
OUT_OF_ORDER = 0x42F2

FREE, CLOSED, OPEN, OFFLINE = 0x01, 0x02, 0x04, 0x08
SEQUENTIAL, RANDOM, DEVIATES = 0x01, 0x02, 0x10
NO_WP = 0xFFFF_FFFF_FFFF_FFFF

DESCRIPTOR = struct.Struct("<BBB5xQQQ")


class Outcome(NamedTuple):
    """A completion: status, DW0 and DW1 as one number, and the data that came with it."""

    status: int
    bitmap: int = 0
    data: bytes = b""


@dataclass(frozen=True)
class Shape:
    """What a drive says of itself. `pe_cycles`: None where wear is not known; `fill`: byte of unwritten blocks."""

    num_grp: int
    num_pu: int
    num_chk: int
    clba: int
    ws_min: int
    ws_opt: int
    mw_cunits: int
    stride: int
    grp_len: int
    pu_len: int
    chk_len: int
    lbk_len: int
    maxoc: int = 0
    maxocpu: int = 0
    vector_copy: bool = True
    multi_reset: bool = False
    early_reset: bool = True
    fill: int = 0
    pe_cycles: int | None = None

    @property
    def address_bits(self) -> int:
        return self.grp_len + self.pu_len + self.chk_len + self.lbk_len

    def lba(self, grp: int, pu: int, chk: int, lblk: int = 0) -> int:
        return ((grp << self.pu_len | pu) << self.chk_len | chk) << self.lbk_len | lblk


@dataclass(eq=False)
class Chunk:
    """One chunk. `blocks`: what is stored, by block; `pu`: flat parallel unit."""

    slba: int
    pu: int
    cnlb: int
    is_random: bool = False
    state: int = FREE
    wp: int = 0
    wli: int = 0
    resets: int = 0
    blocks: dict[int, bytes] = field(default_factory=dict)


class Model:
    """A namespace: its chunks in log order."""

    def __init__(self, shape: Shape, log: bytes) -> None:
        """`log`: the Chunk Information log as it is to begin with; what its chunks hold is not known."""
        self.shape = shape
        self.chunks: list[Chunk] = []
        for index, (cs, ct, wli, slba, cnlb, wp) in enumerate(DESCRIPTOR.iter_unpack(log)):
            chunk = Chunk(slba, index // shape.num_chk, cnlb, bool(ct & RANDOM), cs, 0 if wp == NO_WP else wp, wli)
            chunk.resets = wli * (shape.pe_cycles or 0) // 255
            self.chunks.append(chunk)

    def find(self, lba: int) -> tuple[Chunk | None, int]:
        """The chunk that an address names, and the block within it. Section 2."""
        shape = self.shape
        rest, lblk = divmod(lba, 1 << shape.lbk_len)
        rest, chk = divmod(rest, 1 << shape.chk_len)
        grp, pu = divmod(rest, 1 << shape.pu_len)
        if chk >= shape.num_chk or pu >= shape.num_pu or grp >= shape.num_grp:
            return None, lblk
        return self.chunks[(grp * shape.num_pu + pu) * shape.num_chk + chk], lblk

    # --- log CAh -------------------------------------------------------------------------------

    def descriptor(self, chunk: Chunk) -> bytes:
        kind = (RANDOM if chunk.is_random else SEQUENTIAL) | (DEVIATES if chunk.cnlb != self.shape.clba else 0)
        wp = NO_WP if chunk.is_random or chunk.state == OFFLINE else chunk.wp
        return DESCRIPTOR.pack(chunk.state, kind, chunk.wli, chunk.slba, chunk.cnlb, wp)

    # --- reads: sections 7.2 and 7.3 ------------------------------------------------------------

    def is_readable(self, lba: int) -> bool:
        chunk, lblk = self.find(lba)
        if chunk is None or chunk.state in (FREE, OFFLINE):
            return False
        if chunk.is_random:
            return lblk in chunk.blocks
        return lblk + self.shape.mw_cunits < chunk.wp if chunk.state == OPEN else lblk < chunk.wp

    def content(self, lba: int) -> bytes:
        chunk, lblk = self.find(lba)
        if chunk is None or not self.is_readable(lba):
            return bytes([self.shape.fill]) * self.shape.stride
        return chunk.blocks[lblk]

    def read(self, lbas: Sequence[int], *, dulbe: bool) -> Outcome:
        missing = sum(1 << i for i, lba in enumerate(lbas) if not self.is_readable(lba))
        if missing and dulbe:
            return Outcome(UNWRITTEN, missing)
        return Outcome(OK, 0, b"".join(map(self.content, lbas)))

    # --- writes: section 7.1, decision 15 --------------------------------------------------------

    def _runs(self, lbas: Sequence[int]) -> list[list[int]]:
        """Positions in the list, cut where entries are not adjacent blocks of one chunk."""
        runs: list[list[int]] = []
        for i, lba in enumerate(lbas):
            same_chunk = i and lba >> self.shape.lbk_len == lbas[i - 1] >> self.shape.lbk_len
            if same_chunk and lba == lbas[i - 1] + 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        return runs

    def check_write(self, lbas: Sequence[int]) -> Outcome:
        """What a vector write of these blocks meets, nothing changed."""
        shape = self.shape
        runs = self._runs(lbas)
        if any(len(run) % shape.ws_min for run in runs):
            return Outcome(INVALID_FIELD)
        faults: list[tuple[int, list[int]]] = []
        pointers: dict[int, int] = {}
        opening: list[Chunk] = []
        for run in runs:
            chunk, lblk = self.find(lbas[run[0]])
            status, guilty = self._check_run(chunk, lblk, run, pointers)
            if status:
                faults.append((status, guilty))
            elif chunk is not None and chunk.state == FREE and chunk not in opening:
                opening.append(chunk)
        if not faults:
            faults = self._check_limits(lbas, opening)
        if not faults:
            return Outcome(OK)
        return Outcome(faults[0][0], sum(1 << i for _, guilty in faults for i in guilty))

    def _check_run(
        self, chunk: Chunk | None, lblk: int, run: list[int], pointers: dict[int, int]
    ) -> tuple[int, list[int]]:
        if chunk is None or chunk.state in (CLOSED, OFFLINE):
            return WRITE_FAULT, run
        past = [i for at, i in enumerate(run) if lblk + at >= chunk.cnlb]
        if past:
            return WRITE_FAULT, past
        if chunk.is_random:
            return OK, []
        wp = pointers.get(chunk.slba, chunk.wp)
        if wp == chunk.cnlb:  # closed by this very command
            return WRITE_FAULT, run
        if lblk != wp:
            return OUT_OF_ORDER, run
        pointers[chunk.slba] = lblk + len(run)
        return OK, []

    def _check_limits(self, lbas: Sequence[int], opening: list[Chunk]) -> list[tuple[int, list[int]]]:
        """Section 7.4: chunks that cannot be opened, in list order."""
        shape = self.shape
        is_open = [chunk for chunk in self.chunks if chunk.state == OPEN]
        refused: list[Chunk] = []
        for chunk in opening:
            in_pu = sum(1 for other in is_open if other.pu == chunk.pu)
            if (shape.maxoc and len(is_open) >= shape.maxoc) or (shape.maxocpu and in_pu >= shape.maxocpu):
                refused.append(chunk)
            else:
                is_open.append(chunk)
        guilty = [i for i, lba in enumerate(lbas) if self.find(lba)[0] in refused]
        return [(WRITE_FAULT, guilty)] if guilty else []

    def write(self, lbas: Sequence[int], data: bytes) -> Outcome:
        """Vector Chunk Write: all of it or nothing."""
        outcome = self.check_write(lbas)
        if outcome.status == OK:
            stride = self.shape.stride
            for i, lba in enumerate(lbas):
                self._store(lba, data[i * stride : (i + 1) * stride])
        return outcome

    def _store(self, lba: int, block: bytes) -> None:
        chunk, lblk = self.find(lba)
        assert chunk is not None
        chunk.blocks[lblk] = block
        chunk.state = OPEN
        if not chunk.is_random:
            chunk.wp = lblk + 1
            if chunk.wp == chunk.cnlb:
                chunk.state = CLOSED

    def scalar_write(self, slba: int, n_blocks: int, data: bytes) -> Outcome:
        """Write: whole write units inside one chunk. Section 9."""
        if n_blocks % self.shape.ws_min:
            return Outcome(INVALID_FIELD)
        lbas = range(slba, slba + n_blocks)
        if slba >> self.shape.lbk_len != lbas[-1] >> self.shape.lbk_len:
            return Outcome(WRITE_FAULT)
        return Outcome(self.write(lbas, data).status)

    # --- copy: section 8.4 ----------------------------------------------------------------------

    def copy(self, sources: Sequence[int], destinations: Sequence[int], *, dulbe: bool) -> Outcome:
        read = self.read(sources, dulbe=dulbe)
        if read.status:
            return read
        return self.write(destinations, read.data)

    # --- resets: sections 6.2, 6.3, 8.1, 9 ----------------------------------------------------------

    def reset_status(self, chunk: Chunk | None) -> int:
        if chunk is None:
            return INVALID_RESET
        if chunk.state == OFFLINE:
            return OFFLINE_CHUNK
        if (chunk.state == FREE and not self.shape.multi_reset) or (chunk.state == OPEN and not self.shape.early_reset):
            return INVALID_RESET
        return OK

    def _reset(self, chunk: Chunk | None) -> int:
        status = self.reset_status(chunk)
        if status or chunk is None:
            return status
        limit = self.shape.pe_cycles
        chunk.resets += 1
        chunk.wp, chunk.blocks, chunk.state = 0, {}, FREE
        if limit:
            chunk.wli = min(255, chunk.resets * 255 // limit)
            if chunk.resets >= limit:
                chunk.state = OFFLINE
                return OFFLINE_CHUNK
        return OK

    def vector_reset(self, lbas: Sequence[int], *, descriptors: bool) -> Outcome:
        """Every entry is tried; descriptors come back for all of them, zeros where there is no chunk."""
        found = [self.find(lba) for lba in lbas]
        if any(chunk is not None and lblk for chunk, lblk in found):
            return Outcome(INVALID_FIELD)
        statuses = [self._reset(chunk) for chunk, _ in found]
        data = b"".join(self.descriptor(chunk) if chunk else bytes(DESCRIPTOR.size) for chunk, _ in found)
        bitmap = sum(1 << i for i, status in enumerate(statuses) if status)
        return Outcome(next(filter(None, statuses), OK), bitmap, data if descriptors else b"")

    def dsm_reset(self, ranges: Sequence[tuple[int, int]]) -> Outcome:
        """Dataset Management with AD; ranges are (slba, blocks). All are checked before the first is done."""
        chunks: list[Chunk] = []
        for slba, n_blocks in ranges:
            status, named = self._dsm_chunks(slba, n_blocks)
            if status:
                return Outcome(status)
            chunks += named
        for index, chunk in enumerate(chunks):
            again = chunk in chunks[:index] and not self.shape.multi_reset
            status = self.reset_status(chunk) or (INVALID_RESET if again else OK)
            if status:
                return Outcome(status)
        statuses = [self._reset(chunk) for chunk in chunks]
        return Outcome(next(filter(None, statuses), OK))

    def _dsm_chunks(self, slba: int, n_blocks: int) -> tuple[int, list[Chunk]]:
        chunk, lblk = self.find(slba)
        if chunk is None:
            return INVALID_RESET, []
        if lblk:
            return INVALID_FIELD, []
        if n_blocks == chunk.cnlb:
            return OK, [chunk]
        clba = self.shape.clba
        if clba != 1 << self.shape.lbk_len or not n_blocks or n_blocks % clba:
            return LBA_RANGE, []
        named = [self.find(slba + at)[0] for at in range(0, n_blocks, clba)]
        existing = [other for other in named if other is not None]
        return (OK, existing) if len(existing) == len(named) else (LBA_RANGE, [])
