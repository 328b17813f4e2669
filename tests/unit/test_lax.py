"""The rules of the first generation, beside the strict ones: the table of `media.filters.lax`, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ocssd_tcp.media.filters.lax import Lax
from ocssd_tcp.media.ops import Extent, MediaOp, MediaStatus, OpKind
from ocssd_tcp.media.store import ChunkShape, Store
from ocssd_tcp.ocssd.layouts import ChunkState, ChunkType
from tests.support_media import TINY, Probe, make_store

OK, INVALID, FAULT = MediaStatus.OK, MediaStatus.INVALID_LENGTH, MediaStatus.WRITE_FAULT
FREE, OPEN, CLOSED, OFFLINE = ChunkState.FREE, ChunkState.OPEN, ChunkState.CLOSED, ChunkState.OFFLINE
GEOMETRY = replace(TINY, early_reset=False)
RANDOM_CHUNK = 7


class LaxProbe(Probe):
    """A probe whose operations meet lax rules."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.engines[0])
        self.media = Lax(self.engine)

    def submit(self, op: MediaOp, kind: OpKind | None = None) -> MediaOp:
        op.kind = op.kind if kind is None else kind
        self.media.submit(op)
        return op


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = make_store(tmp_path, GEOMETRY, shapes={0: {RANDOM_CHUNK: ChunkShape(ChunkType.RANDOM)}})
    yield store
    store.close()


@pytest.fixture
def probe(store: Store) -> LaxProbe:
    return LaxProbe(store)


def write_by(way: str, probe: Probe, *extents: Extent, fill: int = 1) -> MediaOp:
    n_blocks = sum(extent.n_blocks for extent in extents)
    if way == "write":
        return probe.done(OpKind.WRITE, extents, data=probe.data(n_blocks, fill))
    op = probe.reserve(*extents)
    return probe.commit(op, fill) if op.status == OK else op


@pytest.mark.parametrize("way", ["write", "reserve"])
@pytest.mark.parametrize(
    ("extents", "status", "bitmap", "state", "wp"),
    [
        ([Extent(0, 8, 4)], OK, 0, OPEN, 4),
        ([Extent(0, 3, 5)], OK, 0, OPEN, 5),
        ([Extent(0, 0, 3)], INVALID, 0, FREE, 0),
        ([Extent(0, 0, 1), Extent(0, 9, 1), Extent(1, 0, 1), Extent(0, 4, 1)], OK, 0, OPEN, 3),
        ([Extent(0, 0, 16)], OK, 0, CLOSED, 16),
        ([Extent(0, 12, 8)], FAULT, 0xFF, FREE, 0),
        ([Extent(0, 0, 4), Extent(-1, 0, 4)], FAULT, 0xF0, OPEN, 4),
        ([Extent(0, 0, 4), Extent(3, 0, 4)], INVALID, 0xF0, OPEN, 4),
        ([Extent(0, 0, 12), Extent(0, 0, 8)], INVALID, 0xF << 16, CLOSED, 16),
    ],
)
def test_writes_go_anywhere_and_are_counted(
    probe: LaxProbe, way: str, extents: list[Extent], status: MediaStatus, bitmap: int, state: ChunkState, wp: int
) -> None:
    assert probe.write(3, 0, 16).status == OK
    op = write_by(way, probe, *extents)
    assert (op.status, op.bitmap) == (status, bitmap)
    assert (probe.chunk(0).cs, probe.chunk(0).wp) == (state, wp)


def test_data_lie_where_they_were_written(probe: LaxProbe) -> None:
    probe.write(0, 8, 4, fill=9)
    probe.write(0, 10, 4, fill=101)
    assert probe.fills(0, 6, 10) == [0, 0, 9, 10, 101, 102, 103, 104, 0, 0]


def test_everything_that_exists_can_be_read_whatever_dulbe_says(probe: LaxProbe) -> None:
    probe.write(0, 0, 16, fill=1)
    probe.reset(0)
    assert probe.fills(0, 0, 16) == list(range(1, 17))
    op = probe.done(OpKind.READ, [Extent(0, 0, 16), Extent(1, 3, 4), Extent(RANDOM_CHUNK, 0, 16)], dulbe=True)
    assert op.status == OK
    op = probe.done(OpKind.READ, [Extent(0, 12, 8), Extent(-1, 0, 2)])
    assert list(probe.bytes_of(op)[:: probe.stride]) == [13, 14, 15, 16, *[0] * 6]


@pytest.mark.parametrize("state", [FREE, OPEN, CLOSED, OFFLINE])
def test_every_state_can_be_reset(probe: LaxProbe, state: ChunkState) -> None:
    probe.engine.set_chunk(0, state)
    assert probe.op(OpKind.RESET, [Extent(0, 5, 1)]).status == OK
    assert (probe.chunk(0).cs, probe.chunk(0).wp) == (FREE, 0)
    assert probe.write(0, 0, 16).status == OK


def test_what_names_no_chunk_cannot_be_reset(probe: LaxProbe) -> None:
    op = probe.op(OpKind.RESET, [Extent(0, 0, 1), Extent(-1, 0, 1)])
    assert (op.status, op.bitmap) == (MediaStatus.INVALID_RESET, 0b10)


def test_copies_read_and_write_by_the_same_rules(probe: LaxProbe) -> None:
    probe.write(0, 4, 4, fill=5)
    op = probe.done(OpKind.COPY, [Extent(0, 4, 4)], destinations=[Extent(1, 9, 4)])
    assert op.status == OK
    assert (probe.chunk(1).cs, probe.chunk(1).wp) == (OPEN, 4)
    assert probe.fills(1, 9, 4) == [5, 6, 7, 8]


def test_random_chunks_open_and_stay_open(probe: LaxProbe) -> None:
    for _ in range(6):
        assert probe.write(RANDOM_CHUNK, 5, 4).status == OK
    assert probe.chunk(RANDOM_CHUNK).cs == OPEN
    assert probe.reset(RANDOM_CHUNK).status == OK
    assert probe.chunk(RANDOM_CHUNK).cs == FREE


def test_an_aborted_write_has_been_counted(probe: LaxProbe) -> None:
    probe.abort(probe.reserve(Extent(0, 0, 4)))
    assert (probe.chunk(0).cs, probe.chunk(0).wp) == (OPEN, 4)
    assert probe.write(0, 0, 4).status == OK


def test_open_chunks_are_limited_as_ever(tmp_path: Path) -> None:
    store = make_store(tmp_path / "other", replace(GEOMETRY, maxoc=1))
    probe = LaxProbe(store)
    assert probe.write(0, 0, 4).status == OK
    assert probe.write(1, 0, 4).status == FAULT
    store.close()


def test_a_write_with_fua_is_durable_before_it_completes(store: Store, probe: LaxProbe) -> None:
    assert probe.done(OpKind.WRITE, [Extent(0, 8, 4)], data=probe.data(4, 1), fua=True).status == OK
    payload = store.engines[0].locate(0)[0].flushed.load()
    assert payload is not None
    assert payload[0] == OPEN
