"""A drive with faults against a small model: any sequence of operations has the outcome that the rules foretell, and
every other chunk stays as it was, also after a restart."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ocssd_tcp.media.filters.faults import FaultInjector
from ocssd_tcp.media.ops import Extent, MediaOp, MediaStatus, OpKind
from ocssd_tcp.ocssd.fault_rules import FaultKind, FaultRule
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import ChunkState, NotificationState
from tests.support_media import Probe, make_store

GEOMETRY = Geometry(num_grp=1, num_pu=2, num_chk=3, clba=16, block_bytes=512, ws_min=4, ws_opt=4, mw_cunits=4, wit=0)
CHUNKS = range(6)
UNIT, CNLB = GEOMETRY.ws_min, GEOMETRY.clba
OK = MediaStatus.OK

ANY_CHUNK = st.sampled_from(CHUNKS)
BLOCK = st.integers(0, CNLB - 1)
N_UNITS = st.integers(1, 4)
KIND = st.sampled_from([*FaultKind, FaultKind.EARLY_CLOSE, FaultKind.WRITE_NEXT_UNIT])


class Chunk:
    """`blocks`: fills up to wp, None where the write failed."""

    def __init__(self) -> None:
        self.blocks: list[int | None] = []
        self.is_closed = False
        self.is_offline = False

    @property
    def state(self) -> ChunkState:
        if self.is_offline:
            return ChunkState.OFFLINE
        if self.is_closed or len(self.blocks) == CNLB:
            return ChunkState.CLOSED
        return ChunkState.OPEN if self.blocks else ChunkState.FREE

    def readable(self, lblk: int) -> bool:
        limit = len(self.blocks) - (GEOMETRY.mw_cunits if self.state == ChunkState.OPEN else 0)
        return not self.is_offline and lblk < limit and self.blocks[lblk] is not None


class FaultMachine(RuleBasedStateMachine):
    """At most one rule is armed at a time, with probability 1, so that the model knows what happens."""

    @initialize()
    def make(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.chunks = [Chunk() for _ in CHUNKS]
        self.armed: tuple[FaultKind, int, int] | None = None
        self.fill = 0
        self.noticed: list[NotificationState] = []
        self.expected: list[NotificationState] = []
        self.open()

    def open(self) -> None:
        self.store = make_store(Path(self.folder.name), GEOMETRY, failed_units={0})
        self.probe = Probe(self.store.engines[0])
        self.store.engines[0].report_to(lambda notice: self.noticed.append(notice.state))
        self.arm(self.armed)

    def arm(self, armed: tuple[FaultKind, int, int] | None) -> None:
        self.armed = armed
        injector = FaultInjector(GEOMETRY)
        if armed is not None:
            kind, chunk, lblk = armed
            pu, chk = divmod(chunk, GEOMETRY.num_chk)
            place = {"pu": range(pu, pu + 1), "chk": range(chk, chk + 1)}
            blk = {} if kind is FaultKind.RESET_FAIL else {"blk": range(lblk, lblk + 1)}
            injector.add(FaultRule(kind, **place, **blk))
        self.media = injector.layer(self.probe.engine)

    def submit(self, op: MediaOp) -> MediaOp:
        self.media.submit(op)
        assert self.probe.is_done(op)
        return op

    def op(self, kind: OpKind, extents: list[Extent], **fields: object) -> MediaOp:
        return self.submit(MediaOp(kind, extents, self.probe.finished.append, **fields))  # type: ignore[arg-type]

    def fault_at(self, chunk: int, lblk: int, n_blocks: int, *kinds: FaultKind) -> int | None:
        """The block at which the armed rule strikes."""
        if self.armed is None or self.armed[0] not in kinds or self.armed[1] != chunk:
            return None
        return self.armed[2] if lblk <= self.armed[2] < lblk + n_blocks else None

    def next_fills(self, n_blocks: int) -> list[int]:
        self.fill += n_blocks
        return [1 + (self.fill + at) % 255 for at in range(n_blocks)]

    def data(self, fills: list[int]) -> memoryview:
        return memoryview(b"".join(bytes([fill]) * self.probe.stride for fill in fills))

    def applied(self, chunk: int, lblk: int, fills: list[int]) -> tuple[MediaStatus, int]:
        """What a write does to the model; its status, and its bitmap counted from its first block."""
        known = self.chunks[chunk]
        at = self.fault_at(chunk, lblk, len(fills), FaultKind.EARLY_CLOSE, FaultKind.WRITE_NEXT_UNIT)
        if at is None or self.armed is None:
            known.blocks += fills
            return OK, 0
        n_good = (at - lblk) // UNIT * UNIT
        known.blocks += fills[:n_good]
        bitmap = ((1 << len(fills)) - 1) >> n_good << n_good
        if self.armed[0] is FaultKind.EARLY_CLOSE:
            known.is_closed = True
            return MediaStatus.EARLY_CLOSE, bitmap
        known.blocks += [None] * UNIT
        return MediaStatus.WRITE_NEXT_UNIT, bitmap

    @rule(kind=KIND, chunk=ANY_CHUNK, lblk=BLOCK)
    def a_rule_is_armed(self, kind: FaultKind, chunk: int, lblk: int) -> None:
        self.arm((kind, chunk, lblk))

    @rule()
    def faults_are_over(self) -> None:
        self.arm(None)

    @rule(chunks=st.lists(ANY_CHUNK, min_size=1, max_size=3, unique=True), n_units=N_UNITS, is_held=st.booleans())
    def write(self, chunks: list[int], n_units: int, is_held: bool) -> None:
        n_blocks = n_units * UNIT
        extents = [Extent(chunk, len(self.chunks[chunk].blocks), n_blocks) for chunk in chunks]
        fills = [self.next_fills(n_blocks) for _ in chunks]
        data = self.data([fill for row in fills for fill in row])
        is_legal = all(
            self.chunks[chunk].state in (ChunkState.FREE, ChunkState.OPEN) and lblk + n_blocks <= CNLB
            for chunk, lblk, _ in extents
        )
        op = self.op(OpKind.RESERVE, extents) if is_held else self.op(OpKind.WRITE, extents, data=data)
        if not is_legal:
            assert op.status == MediaStatus.WRITE_FAULT
            return
        if is_held:
            self.probe.finished.clear()
            at = 0
            for offset, length in op.pieces:
                self.store.memory.view[offset : offset + length] = data[at : at + length]
                at += length
            op.kind = OpKind.COMMIT
            self.submit(op)
        outcomes = [self.applied(*extent[:2], fill) for extent, fill in zip(extents, fills, strict=True)]
        assert op.status == next((status for status, _ in outcomes if status), OK)
        assert op.bitmap == sum(bits << (at * n_blocks) for at, (_, bits) in enumerate(outcomes))

    @rule(chunk=ANY_CHUNK)
    def reset(self, chunk: int) -> None:
        known, state = self.chunks[chunk], self.chunks[chunk].state
        op = self.op(OpKind.RESET, [Extent(chunk, 0, 1)])
        if state == ChunkState.FREE:
            assert op.status == MediaStatus.INVALID_RESET
        elif state == ChunkState.OFFLINE:
            assert op.status == MediaStatus.OFFLINE_CHUNK
        elif self.armed is not None and self.armed[:2] == (FaultKind.RESET_FAIL, chunk):
            assert op.status == MediaStatus.OFFLINE_CHUNK
            known.is_offline = True
            self.expected.append(NotificationState.UNRECOVERABLE)
        else:
            assert op.status == OK
            self.chunks[chunk] = Chunk()

    @rule(chunk=ANY_CHUNK, lblk=BLOCK, n_blocks=st.integers(1, 8), feedback=st.booleans())
    def read(self, chunk: int, lblk: int, n_blocks: int, feedback: bool) -> None:
        known = self.chunks[chunk]
        op = self.op(OpKind.READ, [Extent(chunk, lblk, n_blocks)], feedback=feedback)
        at = self.fault_at(chunk, lblk, n_blocks, FaultKind.READ_ERROR, FaultKind.HIGH_ECC)
        if at is None or not known.readable(at) or self.armed is None:
            assert (op.status, op.bitmap) == (OK, 0)
        elif self.armed[0] is FaultKind.READ_ERROR:
            assert (op.status, op.bitmap, op.pieces) == (MediaStatus.READ_ERROR, 1 << (at - lblk), [])
            self.expected.append(NotificationState.UNRECOVERABLE)
            return
        else:
            status, bitmap = (MediaStatus.HIGH_ECC, 1 << (at - lblk)) if feedback else (OK, 0)
            assert (op.status, op.bitmap) == (status, bitmap)
            self.expected.append(NotificationState.ERROR_RATE_HIGH)
        expected = [known.blocks[at] if known.readable(at) else 0 for at in range(lblk, lblk + n_blocks)]
        assert list(self.probe.bytes_of(op)[:: self.probe.stride]) == expected

    @rule(is_killed=st.booleans())
    def reopen(self, is_killed: bool) -> None:
        if is_killed:
            self.store.abandon()
        else:
            self.store.close()
        self.open()

    @invariant()
    def same(self) -> None:
        assert self.noticed == self.expected
        for chunk, known in enumerate(self.chunks):
            entry = self.probe.chunk(chunk)
            assert entry.cs == known.state
            if not known.is_offline:
                assert entry.wp == len(known.blocks)
            expected = [known.blocks[at] if known.readable(at) else 0 for at in range(CNLB)]
            assert self.probe.fills(chunk, 0, CNLB) == expected
            op = self.probe.done(OpKind.READ, [Extent(chunk, 0, CNLB)], dulbe=True)
            assert op.bitmap == sum(1 << at for at in range(CNLB) if not known.readable(at))

    def teardown(self) -> None:
        self.store.abandon()
        self.folder.cleanup()


FaultMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestFaultModel = FaultMachine.TestCase
