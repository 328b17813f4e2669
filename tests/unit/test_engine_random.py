"""Random-write chunks: any place, a bit per block, staged until complete."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ocssd_tcp.media import store as store_module
from ocssd_tcp.media.ops import Extent, MediaStatus, OpKind
from ocssd_tcp.media.store import StoreError
from ocssd_tcp.media.table import ChunkShape
from ocssd_tcp.ocssd.layouts import WP_UNDEFINED, ChunkState, ChunkType
from tests.support_media import TINY, Probe, make_store

OK = MediaStatus.OK
SHAPES = {0: {1: ChunkShape(ChunkType.RANDOM), 2: ChunkShape(ChunkType.RANDOM, cnlb=12)}}
GEOMETRY = replace(TINY, maxoc=1)


@pytest.fixture
def probe(tmp_path: Path) -> Iterator[Probe]:
    store = make_store(tmp_path, GEOMETRY, shapes=SHAPES)
    yield Probe(store.engines[0])
    store.close()


def test_the_first_write_opens_and_any_block_may_be_overwritten(probe: Probe) -> None:
    assert (probe.chunk(1).cs, probe.chunk(1).wp) == (ChunkState.FREE, WP_UNDEFINED)
    probe.write(1, 8, 4, fill=1)
    probe.write(1, 6, 4, fill=9)
    assert probe.fills(1, 4, 10) == [0, 0, 9, 10, 11, 12, 3, 4, 0, 0]
    assert (probe.chunk(1).cs, probe.chunk(1).wp) == (ChunkState.OPEN, WP_UNDEFINED)


def test_it_never_closes_and_a_reset_forgets_all(probe: Probe) -> None:
    probe.write(1, 0, 16)
    assert probe.chunk(1).cs == ChunkState.OPEN
    assert probe.reset(1).status == OK
    assert (probe.chunk(1).cs, probe.chunk(1).wp) == (ChunkState.FREE, WP_UNDEFINED)
    probe.write(1, 4, 4)
    assert probe.fills(1, 0, 12) == [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0]


def test_the_length_rule_and_a_deviating_size_hold(probe: Probe) -> None:
    assert probe.write(2, 0, 3).status == MediaStatus.INVALID_LENGTH
    op = probe.write(2, 8, 8)
    assert (op.status, op.bitmap) == (MediaStatus.WRITE_FAULT, 0xF0)
    assert probe.chunk(2).ct == ChunkType.RANDOM | ChunkType.DEVIATES
    assert probe.engine.ncap == GEOMETRY.ncap - 4


def test_half_a_write_is_never_readable(probe: Probe) -> None:
    probe.write(1, 0, 4, fill=1)
    op = probe.reserve(Extent(1, 0, 8))
    view = probe.engine.memory.view
    offset, length = op.pieces[0]
    view[offset : offset + length] = b"\xee" * length
    assert probe.fills(1, 0, 8) == [1, 2, 3, 4, 0, 0, 0, 0]
    probe.commit(op, fill=21)
    assert probe.fills(1, 0, 8) == list(range(21, 29))


def test_an_abort_leaves_the_old_data_and_gives_an_opened_chunk_back(probe: Probe) -> None:
    op = probe.reserve(Extent(1, 0, 4))
    assert probe.write(0, 0, 4).status == MediaStatus.WRITE_FAULT
    probe.abort(op)
    assert probe.chunk(1).cs == ChunkState.FREE
    probe.write(1, 0, 4, fill=1)
    probe.abort(probe.reserve(Extent(1, 0, 4)))
    assert probe.fills(1, 0, 4) == [1, 2, 3, 4]


def test_reservations_of_one_chunk_do_not_wait_for_each_other(probe: Probe) -> None:
    first, second = probe.reserve(Extent(1, 0, 4)), probe.reserve(Extent(1, 2, 4))
    probe.commit(second, fill=11)
    probe.commit(first, fill=1)
    assert [first.status, second.status] == [OK, OK]
    assert probe.fills(1, 0, 6) == [1, 2, 3, 4, 13, 14]


def test_a_reset_invalidates_a_staged_write(probe: Probe) -> None:
    probe.write(1, 0, 4)
    op = probe.reserve(Extent(1, 4, 4))
    probe.reset(1)
    probe.commit(op)
    assert op.status == MediaStatus.OUT_OF_ORDER
    assert probe.chunk(1).cs == ChunkState.FREE


def test_no_room_for_staging_is_a_write_fault_that_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "STAGING_BYTES", 4096)
    store = make_store(tmp_path, TINY, shapes=SHAPES)
    probe = Probe(store.engines[0])
    held = probe.reserve(Extent(1, 0, 8))
    op = probe.reserve(Extent(0, 0, 4), Extent(2, 0, 4))
    assert (op.status, op.bitmap, op.pieces) == (MediaStatus.WRITE_FAULT, 0xFF, [])
    assert [probe.chunk(chunk).cs for chunk in (0, 2)] == [ChunkState.FREE] * 2
    probe.commit(held)
    assert probe.reserve(Extent(2, 0, 8)).status == OK
    store.close()


def test_an_overlapping_copy_reads_before_it_writes(probe: Probe) -> None:
    probe.write(1, 0, 8, fill=1)
    op = probe.done(OpKind.COPY, [Extent(1, 0, 4), Extent(1, 4, 4)], destinations=[Extent(1, 2, 8)])
    assert op.status == OK
    assert probe.fills(1, 0, 10) == [1, 2, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("is_clean", [True, False])
def test_the_written_map_survives(tmp_path: Path, is_clean: bool) -> None:
    store = make_store(tmp_path, GEOMETRY, shapes=SHAPES)
    Probe(store.engines[0]).write(1, 4, 4, fill=5)
    if is_clean:
        store.close()
    else:
        store.abandon()
    store = make_store(tmp_path, GEOMETRY)
    probe = Probe(store.engines[0])
    assert probe.fills(1, 2, 8) == [0, 0, 5, 6, 7, 8, 0, 0]
    assert probe.write(0, 0, 4).status == MediaStatus.WRITE_FAULT
    store.close()


def test_a_missing_map_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path, GEOMETRY, shapes=SHAPES).close()
    (tmp_path / "drive" / "ns-1" / "pu-0-0.map").unlink()
    with pytest.raises(StoreError, match=r"pu-0-0\.map: is missing"):
        make_store(tmp_path, GEOMETRY)
