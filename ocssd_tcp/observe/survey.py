"""Looking at all chunks of a namespace without holding up the loop: counts for the metrics, a map for the page.

The chunk tables are read where they are, through numpy, in pieces between which the loop runs. A survey is therefore
not of one moment: it says what each piece was when its turn came, which a second later is history anyway.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ocssd_tcp.media.engine import Engine
from ocssd_tcp.media.table import entries_of
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import ChunkState

Result = TypeVar("Result")

SLICE_SECONDS = 0.001  #: the longest that a survey keeps the loop in one go, but for the piece it is at
PIECE_CHUNKS = 1 << 15
MAX_CELLS = 8192  #: of a map, about: what a page can show, and a message can carry
MAX_OPEN_SHOWN = 64

#: In the order in which maps number them.
STATES = (ChunkState.FREE, ChunkState.OPEN, ChunkState.CLOSED, ChunkState.OFFLINE)
_HAS_OPEN, _HAS_OFFLINE = 4, 8
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


class Pace:
    """Gives the loop its turn: await it between two pieces of a longer work."""

    def __init__(self) -> None:
        self._begun = perf_counter()

    async def __call__(self) -> None:
        """Let the loop run, if it is time."""
        if perf_counter() - self._begun >= SLICE_SECONDS:
            await asyncio.sleep(0)
            self._begun = perf_counter()


@dataclass(frozen=True, slots=True)
class Survey:
    """The chunks of a namespace in numbers.

    `states`: chunks by state. `wear`: chunks by wear-level index, 256 numbers. `n_resets`, `most_resets`: resets in
    the life of the drive, of all chunks and of the one with most. `readable`: blocks that can be read in sequential
    chunks. `seconds`: what the survey took of the loop's time.
    """

    states: dict[ChunkState, int]
    wear: tuple[int, ...]
    n_resets: int
    most_resets: int
    readable: int
    seconds: float

    def wear_quantile(self, quantile: float) -> int:
        """The least wear-level index that this part of the chunks does not exceed."""
        wanted, seen = max(math.ceil(quantile * sum(self.wear)), 1), 0
        for index, count in enumerate(self.wear):
            seen += count
            if seen >= wanted:
                return index
        return 0


async def survey(engine: Engine) -> Survey:
    """Count a namespace's chunks."""
    pace, busy = Pace(), 0.0
    states = dict.fromkeys(STATES, 0)
    wear = np.zeros(256, np.int64)
    n_resets = most_resets = readable = 0
    num_chk = engine.geometry.num_chk
    for shard in engine.shards:
        for start in range(0, num_chk, PIECE_CHUNKS):
            await pace()
            begun = perf_counter()
            piece = slice(start, start + PIECE_CHUNKS)
            entries = entries_of(shard.table)[piece]
            state, wli = entries["cs"].copy(), entries["wli"].copy()  # side by side they are counted much faster
            for code in STATES:
                states[code] += int(np.count_nonzero(state == code))
            if wli.any():
                wear += np.bincount(wli, minlength=256)
            else:
                wear[0] += len(wli)
            resets = np.frombuffer(shard.wear, np.uint32)[piece]
            n_resets += int(resets.sum(dtype=np.uint64))
            most_resets = max(most_resets, int(resets.max()))
            readable += int(np.frombuffer(shard.readable, np.uint32)[piece].sum(dtype=np.uint64))
            busy += perf_counter() - begun
    return Survey(
        states=states,
        wear=tuple(wear.tolist()),
        n_resets=n_resets,
        most_resets=most_resets,
        readable=readable,
        seconds=busy,
    )


class OpenChunk(NamedTuple):
    """An open chunk: where it is, and how far it is written, in blocks."""

    grp: int
    pu: int
    chk: int
    wp: int
    cnlb: int


class Row(NamedTuple):
    """A row of a map: parallel units `pu` to `last_pu` of a group. `cells`: three hexadecimal digits each.

    The first digit: bits 1:0 the state of most of the cell's chunks (index in STATES), bit 2 some chunk is open, bit 3
    some chunk is offline. The second: how full the cell is. The third: the wear-level index of its most worn chunk.
    Both of these from 0 to f, and 0 only for none.
    """

    grp: int
    pu: int
    last_pu: int
    cells: str


@dataclass(frozen=True, slots=True)
class ChunkMap:
    """The chunks of a namespace as rows of cells. `chunks_per_cell`: of a parallel unit; its last cell may have less.
    `open`: the first open chunks, at most MAX_OPEN_SHOWN."""

    chunks_per_cell: int
    pus_per_row: int
    rows: tuple[Row, ...]
    open: tuple[OpenChunk, ...]


async def chunk_map(engine: Engine) -> ChunkMap:
    """Draw a namespace's chunks in at most about MAX_CELLS cells, at least one for each group."""
    geometry, pace = engine.geometry, Pace()
    max_rows = max(MAX_CELLS // 8, 1)
    pus_per_row = min(math.ceil(geometry.num_grp * geometry.num_pu / max_rows), geometry.num_pu)
    n_rows = geometry.num_grp * math.ceil(geometry.num_pu / pus_per_row)
    per_cell = math.ceil(geometry.num_chk / max(MAX_CELLS // n_rows, 1))
    cells_per_piece = max(PIECE_CHUNKS // per_cell, 1)
    rows: list[Row] = []
    opened: list[OpenChunk] = []
    for grp, pu, last_pu in _rows(geometry, pus_per_row):
        cells = _Cells(math.ceil(geometry.num_chk / per_cell), per_cell)
        for at in range(pu, last_pu + 1):
            entries = entries_of(engine.shards[grp * geometry.num_pu + at].table)
            for first in range(0, cells.n_cells, cells_per_piece):
                await pace()
                cells.add(entries[first * per_cell : (first + cells_per_piece) * per_cell], first)
            if len(opened) < MAX_OPEN_SHOWN:
                found = np.flatnonzero(entries["cs"] == ChunkState.OPEN)[: MAX_OPEN_SHOWN - len(opened)]
                opened += [
                    OpenChunk(grp, at, int(chk), int(entries["wp"][chk]), int(entries["cnlb"][chk])) for chk in found
                ]
        rows.append(Row(grp, pu, last_pu, cells.digits()))
    return ChunkMap(per_cell, pus_per_row, tuple(rows), tuple(opened))


def _rows(geometry: Geometry, pus_per_row: int) -> Iterator[tuple[int, int, int]]:
    for grp in range(geometry.num_grp):
        for pu in range(0, geometry.num_pu, pus_per_row):
            yield grp, pu, min(pu + pus_per_row, geometry.num_pu) - 1


class _Cells:
    """The cells of one row, summed up over its parallel units."""

    def __init__(self, n_cells: int, per_cell: int) -> None:
        self.n_cells = n_cells
        self._per_cell = per_cell
        self._n_by_state = np.zeros((len(STATES), n_cells), np.int64)
        self._written = np.zeros(n_cells, np.float64)
        self._blocks = np.zeros(n_cells, np.float64)
        self._wear = np.zeros(n_cells, np.uint8)

    def add(self, entries: NDArray[Any], first: int) -> None:
        """Add chunks of a parallel unit, from cell `first` on."""
        starts = np.arange(0, len(entries), self._per_cell)
        cells = slice(first, first + len(starts))
        state, cnlb = entries["cs"], entries["cnlb"].astype(np.float64)
        for index, code in enumerate(STATES):
            self._n_by_state[index, cells] += np.add.reduceat(state == code, starts, dtype=np.int64)
        wp = np.where((state == ChunkState.FREE) | (state == ChunkState.OFFLINE), 0.0, entries["wp"])
        self._written[cells] += np.add.reduceat(np.minimum(wp, cnlb), starts)
        self._blocks[cells] += np.add.reduceat(cnlb, starts)
        self._wear[cells] = np.maximum(self._wear[cells], np.maximum.reduceat(entries["wli"], starts))

    def digits(self) -> str:
        """As a `Row` has them."""
        counts = self._n_by_state
        first = np.argmax(counts, axis=0)
        first += _HAS_OPEN * (counts[STATES.index(ChunkState.OPEN)] > 0)
        first += _HAS_OFFLINE * (counts[STATES.index(ChunkState.OFFLINE)] > 0)
        fill = np.ceil(self._written / self._blocks * 15)
        wear = np.ceil(self._wear / 255 * 15)
        cells = np.stack([first, fill, wear], axis=1).astype(np.uint8)
        return _DIGITS[cells].tobytes().decode("ascii")


class Cache(Generic[Result]):
    """The latest result for each engine, kept for `seconds`; all who ask while it is being made get the same."""

    def __init__(self, make: Callable[[Engine], Coroutine[Any, Any, Result]], seconds: float) -> None:
        self._make = make
        self._seconds = seconds
        self._found: weakref.WeakKeyDictionary[Engine, tuple[float, Result]] = weakref.WeakKeyDictionary()
        self._making: weakref.WeakKeyDictionary[Engine, asyncio.Task[Result]] = weakref.WeakKeyDictionary()

    async def get(self, engine: Engine) -> Result:
        """A result that is not older than `seconds`."""
        found = self._found.get(engine)
        if found is not None and monotonic() - found[0] < self._seconds:
            return found[1]
        task = self._making.get(engine)
        if task is None:
            task = self._making[engine] = asyncio.create_task(self._fill(engine))
        return await asyncio.shield(task)  # whoever asked may go; others may wait for the same

    async def _fill(self, engine: Engine) -> Result:
        try:
            result = await self._make(engine)
            self._found[engine] = (monotonic(), result)
            return result
        finally:
            del self._making[engine]
