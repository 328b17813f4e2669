"""Wear: the index, its distance from the average, the end of a chunk's life, and what is said about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ocssd_tcp.media.events import Notice
from ocssd_tcp.media.ops import MediaStatus
from ocssd_tcp.media.store import Store
from ocssd_tcp.ocssd.layouts import ChunkState, NotificationState
from ocssd_tcp.ocssd.wear import resets_of, wear_index, wear_indices
from tests.support_media import TINY, Probe, make_store

#: Eight chunks that live for 51 resets, 5 of the index each.
GEOMETRY = replace(TINY, pe_cycles=51, wit=20)
UNEVEN, LOST = NotificationState.WEAR_INDEX, NotificationState.UNRECOVERABLE


class Worn:
    """A drive whose chunks are written and reset. `notices`: (chunk, state) of what it reported."""

    def __init__(self, store: Store) -> None:
        self.probe = Probe(store.engines[0])
        self.notices: list[tuple[int, NotificationState]] = []
        self.probe.engine.report_to(self.note)

    def note(self, notice: Notice) -> None:
        chunk = next(at for at in range(8) if self.probe.chunk(at).slba == notice.lba)
        assert notice.n_blocks == 0
        self.notices.append((chunk, notice.state))

    def cycle(self, *chunks: int, times: int = 1) -> MediaStatus:
        for _ in range(times):
            for chunk in chunks:
                assert self.probe.write(chunk, 0, 16).status == MediaStatus.OK
                status = self.probe.reset(chunk).status
        return status


def test_the_index_is_the_share_of_a_life() -> None:
    assert [wear_index(resets, 1000) for resets in (0, 3, 4, 999, 1000, 5000)] == [0, 0, 1, 254, 255, 255]
    assert wear_index(7, 0) == 0


@pytest.mark.parametrize("pe_cycles", [0, 1, 51, 255, 1000])
def test_an_index_stands_for_the_fewest_resets_that_reach_it(pe_cycles: int) -> None:
    for wli in range(256):
        resets = resets_of(wli, pe_cycles)
        assert wear_index(resets, pe_cycles) >= wli or not pe_cycles
        assert not resets or wear_index(resets - 1, pe_cycles) < wli
    many = np.arange(300, dtype=np.uint32)
    assert list(wear_indices(many, pe_cycles)) == [wear_index(int(resets), pe_cycles) for resets in many]


def test_a_chunk_that_leaves_the_average_is_reported_once(tmp_path: Path) -> None:
    store = make_store(tmp_path, GEOMETRY)
    worn = Worn(store)
    # After n resets the index is 5n, the average 5n/8: 20 is passed at the fifth.
    worn.cycle(0, times=4)
    assert worn.notices == []
    worn.cycle(0)
    assert worn.notices == [(0, UNEVEN)]
    worn.cycle(0, times=5)
    assert worn.notices == [(0, UNEVEN)]
    store.close()


def test_chunks_that_leave_one_behind_are_reported_once_each_and_it_with_its_next_reset(tmp_path: Path) -> None:
    store = make_store(tmp_path, GEOMETRY)
    worn = Worn(store)
    worn.cycle(0)
    worn.cycle(*range(1, 8), times=45)
    assert sorted(worn.notices) == [(chunk, UNEVEN) for chunk in range(1, 8)]
    worn.cycle(0)
    assert worn.notices[-1] == (0, UNEVEN)
    store.close()


def test_a_chunk_that_came_back_is_reported_again(tmp_path: Path) -> None:
    store = make_store(tmp_path, GEOMETRY)
    worn = Worn(store)
    worn.cycle(0, times=5)
    worn.cycle(*range(1, 8), times=5)
    worn.cycle(0, times=4)
    assert worn.notices == [(0, UNEVEN)]
    worn.cycle(0)
    assert worn.notices == [(0, UNEVEN)] * 2
    store.close()


def test_a_chunk_at_the_border_is_not_reported_at_every_reset(tmp_path: Path) -> None:
    store = make_store(tmp_path, GEOMETRY)
    worn = Worn(store)
    worn.cycle(0, times=5)
    for chunk in range(1, 8):
        worn.cycle(chunk)
        worn.cycle(0)
    assert worn.notices == [(0, UNEVEN)]
    store.close()


def test_the_average_survives_a_restart(tmp_path: Path) -> None:
    store = make_store(tmp_path, GEOMETRY)
    Worn(store).cycle(0, times=4)
    store.close()
    store = make_store(tmp_path, GEOMETRY)
    worn = Worn(store)
    worn.cycle(0)
    assert worn.notices == [(0, UNEVEN)]
    store.close()


@pytest.mark.parametrize("changes", [{"wit": 0}, {"wit": 20, "pe_cycles": 0}], ids=str)
def test_without_a_threshold_or_wear_nothing_is_reported(tmp_path: Path, changes: dict[str, int]) -> None:
    store = make_store(tmp_path, replace(GEOMETRY, **changes))
    worn = Worn(store)
    worn.cycle(0, times=50)
    assert worn.notices == []
    store.close()


def test_the_last_reset_takes_the_chunk(tmp_path: Path) -> None:
    store = make_store(tmp_path, GEOMETRY)
    worn = Worn(store)
    assert worn.cycle(0, times=50) == MediaStatus.OK
    assert worn.cycle(0) == MediaStatus.OFFLINE_CHUNK
    assert (worn.probe.chunk(0).cs, worn.probe.chunk(0).wli) == (ChunkState.OFFLINE, 255)
    assert worn.notices[-1] == (0, LOST)
    assert store.engines[0].stats.n_media_errors == 1
    store.close()
