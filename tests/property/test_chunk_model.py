"""The engine against a model of a few dicts: any sequence of operations, the same outcome, also after a reopening."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from ocssd_tcp.media.ops import Extent, MediaOp, MediaStatus, OpKind
from ocssd_tcp.media.table import ChunkShape
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import ChunkState
from tests.support_media import Probe, make_store

GEOMETRY = Geometry(
    num_grp=1, num_pu=2, num_chk=2, clba=16, block_bytes=512, ws_min=2, ws_opt=2, mw_cunits=4, maxoc=3, pe_cycles=8
)
CHUNKS = range(4)
CNLB = [16, 16, 12, 16]
OK = MediaStatus.OK

ANY_CHUNK = st.sampled_from(CHUNKS)
OFFSET = st.sampled_from([0, 0, 0, 0, 2, -2])  #: from the reserve pointer
N_BLOCKS = st.sampled_from([2, 4, 4, 6, 8, 12, 16, 3])


@dataclass(eq=False)
class Held:
    """Blocks set aside for a write; `fills`: its data, once they are complete."""

    chunk: int
    first: int
    end: int
    fills: list[int] | None = None


class Model:
    """Chunks as lists of block fills; reservations oldest first; `stale`: rolled back, but their owner is not done."""

    def __init__(self) -> None:
        self.blocks: list[list[int]] = [[] for _ in CHUNKS]
        self.resets = [0 for _ in CHUNKS]
        self.held: list[Held] = []
        self.stale: list[Held] = []

    def is_offline(self, chunk: int) -> bool:
        return self.resets[chunk] >= GEOMETRY.pe_cycles

    def pointer(self, chunk: int) -> int:
        return max([len(self.blocks[chunk]), *(held.end for held in self.held if held.chunk == chunk)])

    def state(self, chunk: int) -> ChunkState:
        if self.is_offline(chunk):
            return ChunkState.OFFLINE
        wp = len(self.blocks[chunk])
        return ChunkState.FREE if wp == 0 else ChunkState.CLOSED if wp == CNLB[chunk] else ChunkState.OPEN

    def n_open(self) -> int:
        return sum(
            self.state(chunk) == ChunkState.OPEN or (self.state(chunk) == ChunkState.FREE and self.pointer(chunk) > 0)
            for chunk in CHUNKS
        )

    def verdict(self, chunk: int, lblk: int, n_blocks: int) -> MediaStatus:
        end, pointer = lblk + n_blocks, self.pointer(chunk)
        if n_blocks % GEOMETRY.ws_min:
            return MediaStatus.INVALID_LENGTH
        if self.state(chunk) in (ChunkState.CLOSED, ChunkState.OFFLINE) or end > CNLB[chunk] or pointer == CNLB[chunk]:
            return MediaStatus.WRITE_FAULT
        if lblk != pointer:
            return MediaStatus.OUT_OF_ORDER
        if any(old.chunk == chunk and old.first < end and lblk < old.end for old in self.stale):
            return MediaStatus.WRITE_FAULT
        if pointer == 0 and self.n_open() >= GEOMETRY.maxoc:
            return MediaStatus.WRITE_FAULT
        return OK

    def hold(self, extent: Extent, fills: list[int] | None = None) -> Held:
        held = Held(extent.chunk, extent.lblk, extent.lblk + extent.n_blocks, fills)
        self.held.append(held)
        self.land()
        return held

    def land(self) -> None:
        for held in list(self.held):
            if held.fills is not None and len(self.blocks[held.chunk]) == held.first:
                self.blocks[held.chunk] += held.fills
                self.held.remove(held)

    def roll_back(self, chunk: int, first: int) -> None:
        victims = [held for held in self.held if held.chunk == chunk and held.first >= first]
        self.held = [held for held in self.held if held not in victims]
        self.stale += [held for held in victims if held.fills is None]

    def limit(self, chunk: int) -> int:
        wp = len(self.blocks[chunk])
        return max(wp - GEOMETRY.mw_cunits, 0) if self.state(chunk) == ChunkState.OPEN else wp

    def readable(self, chunk: int, lblk: int) -> int:
        return self.blocks[chunk][lblk] if lblk < self.limit(chunk) else 0


class ChunkMachine(RuleBasedStateMachine):
    """Rules are operations; each compares what the engine says with what the model says."""

    writes = Bundle("writes")

    @initialize()
    def make(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.shapes = {0: {2: ChunkShape(cnlb=CNLB[2])}}
        self.model = Model()
        self.fill = 0
        self.open()

    def open(self) -> None:
        self.store = make_store(Path(self.folder.name), GEOMETRY, shapes=self.shapes)
        self.probe = Probe(self.store.engines[0])

    def next_fill(self, n_blocks: int) -> list[int]:
        self.fill += n_blocks
        return [1 + (self.fill + at) % 255 for at in range(n_blocks)]

    def data(self, fills: list[int]) -> memoryview:
        return memoryview(b"".join(bytes([fill]) * self.probe.stride for fill in fills))

    def place(self, chunk: int, offset: int, n_blocks: int) -> Extent:
        """Mostly the reserve pointer, sometimes beside it."""
        return Extent(chunk, max(self.model.pointer(chunk) + offset, 0), n_blocks)

    @rule(chunk=ANY_CHUNK, offset=OFFSET, n_blocks=N_BLOCKS)
    def write(self, chunk: int, offset: int, n_blocks: int) -> None:
        extent = self.place(chunk, offset, n_blocks)
        expected = self.model.verdict(*extent)
        fills = self.next_fill(n_blocks)
        op = self.probe.op(OpKind.WRITE, [extent], data=self.data(fills))
        assert op.status == expected
        if expected == OK:
            held = self.model.hold(extent, fills)
            assert self.probe.is_done(op) == (held not in self.model.held)

    @rule(target=writes, chunk=ANY_CHUNK, offset=OFFSET, n_blocks=N_BLOCKS)
    def reserve(self, chunk: int, offset: int, n_blocks: int) -> tuple[MediaOp, Held | None]:
        extent = self.place(chunk, offset, n_blocks)
        expected = self.model.verdict(*extent)
        op = self.probe.reserve(extent)
        assert op.status == expected
        return op, self.model.hold(extent) if expected == OK else None

    @rule(write=consumes(writes))
    def commit(self, write: tuple[MediaOp, Held | None]) -> None:
        op, held = write
        if held is None or held not in self.model.held + self.model.stale:
            return
        fills = self.next_fill(op.extents[0].n_blocks)
        offset, length = op.pieces[0]
        self.store.memory.view[offset : offset + length] = self.data(fills)
        self.probe.finished.remove(op)
        self.probe.submit(op, OpKind.COMMIT)
        if held in self.model.stale:
            self.model.stale.remove(held)
            assert op.status == MediaStatus.OUT_OF_ORDER
            return
        held.fills = fills
        self.model.land()
        assert self.probe.is_done(op) == (held not in self.model.held)
        assert op.status == OK

    @rule(write=consumes(writes))
    def abort(self, write: tuple[MediaOp, Held | None]) -> None:
        op, held = write
        if held is None or held not in self.model.held + self.model.stale:
            return
        self.probe.abort(op)
        if held not in self.model.stale:
            self.model.roll_back(held.chunk, held.first)
        self.model.stale.remove(held)

    @rule(chunk=ANY_CHUNK)
    def reset(self, chunk: int) -> None:
        state = self.model.state(chunk)
        op = self.probe.reset(chunk)
        if state == ChunkState.FREE:
            assert op.status == MediaStatus.INVALID_RESET
        elif state == ChunkState.OFFLINE:
            assert op.status == MediaStatus.OFFLINE_CHUNK
        else:
            self.model.roll_back(chunk, 0)
            self.model.blocks[chunk] = []
            self.model.resets[chunk] += 1
            assert op.status == (MediaStatus.OFFLINE_CHUNK if self.model.is_offline(chunk) else OK)

    @rule(source=ANY_CHUNK, at=st.integers(0, 8), chunk=ANY_CHUNK)
    def copy(self, source: int, at: int, chunk: int) -> None:
        extent = self.place(chunk, 0, 4)
        expected = self.model.verdict(*extent)
        fills = [self.model.readable(source, at + block) for block in range(4)]
        op = self.probe.op(OpKind.COPY, [Extent(source, at, 4)], destinations=[extent])
        assert op.status == expected
        if expected == OK:
            self.model.hold(extent, fills)

    @rule()
    def flush(self) -> None:
        assert self.probe.done(OpKind.FLUSH, []).status == OK

    @rule()
    def idle(self) -> None:
        self.probe.engine.idle()

    @rule(is_killed=st.booleans())
    def reopen(self, is_killed: bool) -> None:
        if is_killed:
            self.store.abandon()
        else:
            self.store.close()
        self.model.held, self.model.stale = [], []
        self.open()

    @invariant()
    def same(self) -> None:
        for chunk in CHUNKS:
            entry = self.probe.chunk(chunk)
            assert entry.cs == self.model.state(chunk)
            if entry.cs != ChunkState.OFFLINE:
                assert entry.wp == len(self.model.blocks[chunk])
            expected = [self.model.readable(chunk, lblk) for lblk in range(16)]
            assert self.probe.fills(chunk, 0, 16) == expected
            assert self.probe.engine.readable[chunk] == self.model.limit(chunk)

    def teardown(self) -> None:
        self.store.abandon()
        self.folder.cleanup()


ChunkMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestChunkModel = ChunkMachine.TestCase
