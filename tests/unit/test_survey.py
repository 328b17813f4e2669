"""Surveys and maps of chunk tables, and the cache that shares them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ocssd_tcp.media.ops import Extent, OpKind
from ocssd_tcp.observe import survey as module
from ocssd_tcp.observe.survey import Cache, Row, Survey, chunk_map, survey
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import ChunkState
from tests.support_media import ODD, TINY, Probe, make_store

WORN = Geometry(num_grp=1, num_pu=1, num_chk=8, clba=16, block_bytes=512, ws_min=4, ws_opt=4, mw_cunits=8, pe_cycles=2)


async def test_a_survey_counts_chunks_by_state(tmp_path: Path) -> None:
    store = make_store(tmp_path, TINY)
    probe = Probe(store.engines[0])
    probe.write(1, 0, 12)
    probe.write(5, 0, 16)
    found = await survey(probe.engine)
    assert found.states == {
        ChunkState.FREE: 6, ChunkState.OPEN: 1, ChunkState.CLOSED: 1, ChunkState.OFFLINE: 0,
    }  # fmt: skip
    assert found.readable == 12 - TINY.mw_cunits + 16
    assert sum(found.wear) == TINY.n_chunks
    store.close()


async def test_a_survey_sees_wear_and_resets(tmp_path: Path) -> None:
    store = make_store(tmp_path, WORN)
    probe = Probe(store.engines[0])
    for chunk, n_resets in ((0, 1), (3, 2)):
        for _ in range(n_resets):
            probe.write(chunk, 0, 16)
            probe.reset(chunk)
    found = await survey(probe.engine)
    assert found.n_resets == 3
    assert found.most_resets == 2
    assert [found.wear_quantile(part) for part in (0.0, 0.5, 0.8, 1.0)] == [0, 0, 127, 255]
    store.close()


@pytest.mark.parametrize(
    ("counts", "quantile", "index"),
    [({0: 10}, 1.0, 0), ({5: 1}, 0.0, 5), ({0: 99, 7: 1}, 0.99, 0), ({0: 99, 7: 1}, 1.0, 7), ({}, 0.5, 0)],
)
def test_a_wear_quantile_is_the_least_index_that_covers_its_part(
    counts: dict[int, int], quantile: float, index: int
) -> None:
    wear = tuple(counts.get(wli, 0) for wli in range(256))
    assert Survey({}, wear, 0, 0, 0, 0.0).wear_quantile(quantile) == index


async def test_a_small_drive_has_a_cell_for_each_chunk(tmp_path: Path) -> None:
    store = make_store(tmp_path, TINY)
    probe = Probe(store.engines[0])
    probe.write(1, 0, 8)
    probe.write(6, 0, 16)
    drawn = await chunk_map(probe.engine)
    assert drawn.chunks_per_cell == drawn.pus_per_row == 1
    assert drawn.rows == (Row(0, 0, 0, "000580000000"), Row(0, 1, 1, "0000002f0000"))
    assert [tuple(chunk) for chunk in drawn.open] == [(0, 0, 1, 8, 16)]
    store.close()


async def test_a_map_names_every_parallel_unit_once(tmp_path: Path) -> None:
    store = make_store(tmp_path, ODD)
    drawn = await chunk_map(store.engines[0])
    assert [(row.grp, row.pu, row.last_pu) for row in drawn.rows] == [(g, p, p) for g in range(3) for p in range(3)]
    assert {len(row.cells) for row in drawn.rows} == {3 * ODD.num_chk}
    store.close()


@pytest.mark.parametrize(
    ("max_cells", "chunks_per_cell", "pus_per_row", "n_rows"),
    [(72, 1, 1, 9), (45, 1, 2, 6), (24, 1, 3, 3), (9, 2, 3, 3), (1, 5, 3, 3)],
)
async def test_a_map_of_more_chunks_than_cells_is_summed_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_cells: int,
    chunks_per_cell: int,
    pus_per_row: int,
    n_rows: int,
) -> None:
    monkeypatch.setattr(module, "MAX_CELLS", max_cells)
    monkeypatch.setattr(module, "PIECE_CHUNKS", 2)
    store = make_store(tmp_path, ODD)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 12)
    probe.write(44, 0, 6)
    drawn = await chunk_map(probe.engine)
    assert (drawn.chunks_per_cell, drawn.pus_per_row, len(drawn.rows)) == (chunks_per_cell, pus_per_row, n_rows)
    assert {len(row.cells) // 3 for row in drawn.rows} == {-(-ODD.num_chk // chunks_per_cell)}
    first, last = drawn.rows[0].cells[:3], drawn.rows[-1].cells[-3:]
    assert first[1] != "0"  # something is written
    assert int(last[0], 16) & 4  # and something is open
    store.close()


async def test_work_in_pieces_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path, ODD)
    probe = Probe(store.engines[0])
    probe.done(OpKind.WRITE, (Extent(7, 0, 12),), data=probe.data(12, 1))
    whole = await survey(probe.engine), await chunk_map(probe.engine)
    monkeypatch.setattr(module, "PIECE_CHUNKS", 1)
    monkeypatch.setattr(module, "SLICE_SECONDS", 0.0)
    pieces = await survey(probe.engine), await chunk_map(probe.engine)
    assert (pieces[0].states, pieces[0].wear, pieces[0].readable) == (whole[0].states, whole[0].wear, whole[0].readable)
    assert pieces[1] == whole[1]
    store.close()


async def test_the_loop_runs_between_two_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_SECONDS", 0.0)
    store = make_store(tmp_path, ODD)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await survey(store.engines[0])
    task.cancel()
    assert turns >= ODD.num_grp * ODD.num_pu
    store.close()


async def test_who_asks_at_the_same_time_shares_one_result(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    engine, calls = store.engines[0], 0

    async def make(_engine: object) -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return calls

    cache = Cache(make, seconds=60.0)
    assert await asyncio.gather(cache.get(engine), cache.get(engine)) == [1, 1]
    assert await cache.get(engine) == 1
    stale = Cache(make, seconds=0.0)
    assert [await stale.get(engine), await stale.get(engine)] == [2, 3]
    store.close()


async def test_one_who_gives_up_does_not_take_the_result_from_others(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    go = asyncio.Event()

    async def make(_engine: object) -> str:
        await go.wait()
        return "made"

    cache = Cache(make, seconds=60.0)
    first = asyncio.create_task(cache.get(store.engines[0]))
    second = asyncio.create_task(cache.get(store.engines[0]))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    assert await second == "made"
    store.close()


async def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    outcomes = [OSError("no"), 5]

    async def make(_engine: object) -> int:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    cache = Cache(make, seconds=60.0)
    with pytest.raises(OSError, match="no"):
        await cache.get(store.engines[0])
    assert await cache.get(store.engines[0]) == 5
    store.close()
