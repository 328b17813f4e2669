"""The engine against a model of a few dicts: any sequence of operations, the same outcome, also after a reopening."""

from __future__ import annotations

import tempfile
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


class Model:
    """Chunks as lists of block fills; reservations as [chunk, first, end, is complete], oldest first."""

    def __init__(self) -> None:
        self.blocks: list[list[int]] = [[] for _ in CHUNKS]
        self.resets = [0 for _ in CHUNKS]
        self.held: list[list[object]] = []
        self.stale: list[list[object]] = []

    def is_offline(self, chunk: int) -> bool:
        return self.resets[chunk] >= GEOMETRY.pe_cycles

    def pointer(self, chunk: int) -> int:
        return max([len(self.blocks[chunk]), *(end for of, _, end, _ in self.held if of == chunk)])

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
        if any(of == chunk and first < end and lblk < last for of, first, last, _ in self.stale):
            return MediaStatus.WRITE_FAULT
        if pointer == 0 and self.n_open() >= GEOMETRY.maxoc:
            return MediaStatus.WRITE_FAULT
        return OK

    def land(self, fills: dict[int, list[int]]) -> None:
        for held in list(self.held):
            chunk, first, end, is_complete = held
            if is_complete and len(self.blocks[chunk]) == first:
                self.blocks[chunk] += fills.pop(id(held))
                self.held.remove(held)

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
        self.fills: dict[int, list[int]] = {}
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

    extents = {
        "chunk": st.sampled_from(CHUNKS),
        "offset": st.sampled_from([0, 0, 0, 0, 2, -2]),
        "n_blocks": st.sampled_from([2, 4, 4, 6, 8, 12, 16, 3]),
    }

    @rule(**extents)
    def write(self, chunk: int, offset: int, n_blocks: int) -> None:
        extent = self.place(chunk, offset, n_blocks)
        expected = self.model.verdict(*extent)
        fills = self.next_fill(n_blocks)
        op = self.probe.op(OpKind.WRITE, [extent], data=self.data(fills))
        assert op.status == expected
        if expected == OK:
            held: list[object] = [chunk, extent.lblk, extent.lblk + n_blocks, True]
            self.model.held.append(held)
            self.fills[id(held)] = fills
            self.model.land(self.fills)
            assert self.probe.is_done(op) == (held not in self.model.held)

    @rule(target=writes, **extents)
    def reserve(self, chunk: int, offset: int, n_blocks: int) -> tuple[MediaOp, list[object]] | None:
        extent = self.place(chunk, offset, n_blocks)
        expected = self.model.verdict(*extent)
        op = self.probe.reserve(extent)
        assert op.status == expected
        if expected != OK:
            return None
        held: list[object] = [chunk, extent.lblk, extent.lblk + n_blocks, False]
        self.model.held.append(held)
        return op, held

    @rule(write=consumes(writes))
    def commit(self, write: tuple[MediaOp, list[object]] | None) -> None:
        if write is None or write[0].reservation is None:
            return
        op, held = write
        fills = self.next_fill(op.extents[0].n_blocks)
        offset, length = op.pieces[0]
        self.store.memory.view[offset : offset + length] = self.data(fills)
        self.probe.finished.remove(op)
        self.probe.submit(op, OpKind.COMMIT)
        if held in self.model.stale:
            self.model.stale.remove(held)
            assert op.status == MediaStatus.OUT_OF_ORDER
            return
        held[3] = True
        self.fills[id(held)] = fills
        self.model.land(self.fills)
        assert self.probe.is_done(op) == (held not in self.model.held)
        assert op.status == OK

    @rule(write=consumes(writes))
    def abort(self, write: tuple[MediaOp, list[object]] | None) -> None:
        if write is None or write[0].reservation is None:
            return
        op, held = write
        self.probe.abort(op)
        if held in self.model.stale:
            self.model.stale.remove(held)
            return
        self.roll_back(held[0], held[1])
        self.model.stale = [other for other in self.model.stale if other is not held]

    def roll_back(self, chunk: object, first: object) -> None:
        victims = [held for held in self.model.held if held[0] == chunk and held[1] >= first]  # type: ignore[operator]
        self.model.held = [held for held in self.model.held if held not in victims]
        self.model.stale += [held for held in victims if not held[3]]

    @rule(chunk=st.sampled_from(CHUNKS))
    def reset(self, chunk: int) -> None:
        state = self.model.state(chunk)
        op = self.probe.reset(chunk)
        if state == ChunkState.FREE:
            assert op.status == MediaStatus.INVALID_RESET
        elif state == ChunkState.OFFLINE:
            assert op.status == MediaStatus.OFFLINE_CHUNK
        else:
            self.roll_back(chunk, 0)
            self.model.blocks[chunk] = []
            self.model.resets[chunk] += 1
            assert op.status == (MediaStatus.OFFLINE_CHUNK if self.model.is_offline(chunk) else OK)

    @rule(source=st.sampled_from(CHUNKS), at=st.integers(0, 8), chunk=st.sampled_from(CHUNKS))
    def copy(self, source: int, at: int, chunk: int) -> None:
        extent = self.place(chunk, 0, 4)
        expected = self.model.verdict(*extent)
        fills = [self.model.readable(source, at + block) for block in range(4)]
        op = self.probe.op(OpKind.COPY, [Extent(source, at, 4)], destinations=[extent])
        assert op.status == expected
        if expected == OK:
            held: list[object] = [chunk, extent.lblk, extent.lblk + 4, True]
            self.model.held.append(held)
            self.fills[id(held)] = fills
            self.model.land(self.fills)

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
        for old in self.probe.finished:
            old.reservation = None
        self.model.held, self.model.stale, self.fills = [], [], {}
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
