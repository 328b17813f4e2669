"""Chunks that an operator puts into another state: by entries of the log, or one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ocssd_tcp.media.ops import Extent, MediaStatus, OpKind
from ocssd_tcp.media.override import OverrideError
from ocssd_tcp.media.store import ChunkShape
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR, WP_UNDEFINED, ChunkState, ChunkType
from tests.support_media import TINY, DeferredSyncer, Probe, make_store

OK = MediaStatus.OK
GEOMETRY = replace(TINY, mw_cunits=0, maxoc=3, maxocpu=2, pe_cycles=100)
FREE, OPEN, CLOSED, OFFLINE = ChunkState.FREE, ChunkState.OPEN, ChunkState.CLOSED, ChunkState.OFFLINE
SHAPES = {0: {6: ChunkShape(ChunkType.RANDOM), 7: ChunkShape(cnlb=8)}}


@pytest.fixture
def probe(tmp_path: Path) -> Iterator[Probe]:
    store = make_store(tmp_path, GEOMETRY, shapes=SHAPES)
    yield Probe(store.engines[0])
    store.close()


def entry(probe: Probe, chunk: int, **changes: int) -> bytes:
    """The entry of a chunk with some fields changed."""
    return CHUNK_DESCRIPTOR.pack(**(CHUNK_DESCRIPTOR.unpack_from(probe.engine.descriptor(chunk)) | changes))


def overwrite(probe: Probe, first: int, *changes: dict[str, int]) -> None:
    data = b"".join(entry(probe, first + at, **change) for at, change in enumerate(changes))
    probe.engine.set_log(first * 32, data)


@pytest.mark.parametrize(
    ("chunk", "changes", "expected"),
    [
        (0, {"cs": OPEN, "wp": 8}, (OPEN, 8, 0)),
        (0, {"cs": CLOSED, "wp": 16}, (CLOSED, 16, 0)),
        (0, {"cs": CLOSED, "wp": 4}, (CLOSED, 4, 0)),
        (0, {"cs": CLOSED, "wp": 0}, (CLOSED, 0, 0)),
        (0, {"cs": OFFLINE, "wp": 7}, (OFFLINE, WP_UNDEFINED, 0)),
        (0, {"wli": 51}, (FREE, 0, 51)),
        (6, {"cs": OPEN, "wp": 3}, (OPEN, WP_UNDEFINED, 0)),
        (7, {"cs": CLOSED, "wp": 8}, (CLOSED, 8, 0)),
    ],
)
def test_an_entry_becomes_what_it_says(probe: Probe, chunk: int, changes: dict[str, int], expected: tuple[int]) -> None:
    overwrite(probe, chunk, changes)
    found = probe.chunk(chunk)
    assert (found.cs, found.wp, found.wli) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"slba": 1},
        {"cnlb": 8},
        {"ct": 0},
        {"ct": ChunkType.RANDOM},
        {"ct": ChunkType.SEQUENTIAL | ChunkType.DEVIATES},
        {"cs": 0},
        {"cs": FREE | OPEN},
        {"cs": 0x80},
        {"wp": 4},
        {"cs": OPEN, "wp": 0},
        {"cs": OPEN, "wp": 16},
        {"cs": OPEN, "wp": 6},
        {"cs": CLOSED, "wp": 17},
    ],
    ids=str,
)
def test_an_entry_that_cannot_be_changes_nothing(probe: Probe, changes: dict[str, int]) -> None:
    before = [probe.engine.descriptor(chunk) for chunk in range(8)]
    with pytest.raises(OverrideError):
        overwrite(probe, 0, {"cs": OFFLINE}, changes)
    assert [probe.engine.descriptor(chunk) for chunk in range(8)] == before


@pytest.mark.parametrize(("chunks", "is_legal"), [([0, 1], True), ([0, 1, 4], True), ([0, 1, 2], False)])
def test_the_limits_of_open_chunks_hold(probe: Probe, chunks: list[int], is_legal: bool) -> None:
    data = [{"cs": OPEN, "wp": 4} if chunk in chunks else {} for chunk in range(8)]
    if is_legal:
        overwrite(probe, 0, *data)
        assert probe.write(5, 0, 4).status == (OK if len(chunks) < 3 else MediaStatus.WRITE_FAULT)
    else:
        with pytest.raises(OverrideError, match="maxocpu"):
            overwrite(probe, 0, *data)


def test_the_limit_of_the_drive_counts_what_closes_too(probe: Probe) -> None:
    overwrite(probe, 0, {"cs": OPEN, "wp": 4}, {"cs": OPEN, "wp": 4}, {}, {}, {"cs": OPEN, "wp": 4})
    with pytest.raises(OverrideError, match="maxoc"):
        overwrite(probe, 5, {"cs": OPEN, "wp": 4})
    overwrite(probe, 0, {"cs": CLOSED}, {}, {}, {}, {}, {"cs": OPEN, "wp": 4})
    assert [probe.chunk(chunk).cs for chunk in (0, 5)] == [CLOSED, OPEN]


def test_a_chunk_goes_on_from_where_it_was_put(probe: Probe) -> None:
    probe.write(0, 0, 16)
    overwrite(probe, 0, {"cs": OPEN, "wp": 8})
    assert probe.fills(0, 0, 16) == [*range(1, 9), *[0] * 8]
    assert probe.write(0, 8, 8, fill=21).status == OK
    assert probe.fills(0, 8, 8) == list(range(21, 29))


def test_entries_that_say_nothing_new_leave_writes_alone(probe: Probe) -> None:
    op = probe.reserve(Extent(0, 0, 4))
    overwrite(probe, 0, {}, {"cs": OFFLINE})
    probe.commit(op)
    assert op.status == OK


def test_writes_under_way_to_a_changed_chunk_are_lost(probe: Probe) -> None:
    op = probe.reserve(Extent(0, 0, 4))
    overwrite(probe, 0, {"cs": OFFLINE})
    probe.commit(op)
    assert op.status == MediaStatus.OUT_OF_ORDER
    assert probe.chunk(0).cs == OFFLINE
    overwrite(probe, 0, {"cs": FREE, "wp": 0})
    assert probe.write(0, 0, 16).status == OK


def test_a_random_chunk_forgets_what_was_written(probe: Probe) -> None:
    probe.write(6, 4, 4)
    overwrite(probe, 6, {"cs": FREE})
    assert probe.fills(6, 0, 16) == [0] * 16
    assert probe.write(6, 8, 4, fill=5).status == OK
    assert probe.fills(6, 4, 8) == [0, 0, 0, 0, 5, 6, 7, 8]


def test_an_emptied_chunk_takes_writes_once_the_disk_knows(tmp_path: Path) -> None:
    syncer = DeferredSyncer()
    store = make_store(tmp_path, GEOMETRY, syncer=syncer)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 16)
    probe.op(OpKind.FLUSH, [])
    syncer.step()
    probe.engine.set_chunk(0, FREE)
    assert probe.write(0, 0, 4).status == MediaStatus.WRITE_FAULT
    syncer.step()
    assert probe.write(0, 0, 4).status == OK
    store.close()


@pytest.mark.parametrize(
    ("state", "wp", "expected"), [(FREE, None, 0), (OPEN, None, 4), (OPEN, 12, 12), (CLOSED, None, 16), (CLOSED, 5, 5)]
)
def test_one_chunk_is_put_into_a_state(probe: Probe, state: ChunkState, wp: int | None, expected: int) -> None:
    probe.engine.set_chunk(1, state, wp)
    assert (probe.chunk(1).cs, probe.chunk(1).wp) == (state, expected)


def test_what_was_set_survives_a_kill(tmp_path: Path) -> None:
    store = make_store(tmp_path, GEOMETRY, shapes=SHAPES)
    overwrite(Probe(store.engines[0]), 0, {"cs": OPEN, "wp": 8, "wli": 51}, {"cs": CLOSED, "wp": 0}, {"cs": OFFLINE})
    store.abandon()
    store = make_store(tmp_path, GEOMETRY)
    probe = Probe(store.engines[0])
    assert [(probe.chunk(c).cs, probe.chunk(c).wp, probe.chunk(c).wli) for c in range(3)] == [
        (OPEN, 8, 51),
        (CLOSED, 0, 0),
        (OFFLINE, WP_UNDEFINED, 0),
    ]
    store.close()
