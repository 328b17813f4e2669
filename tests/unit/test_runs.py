"""Plain runs: what is decided without an operation, and where that ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ocssd_tcp.media.ops import MediaStatus
from ocssd_tcp.ocssd.layouts import ChunkState
from tests.support_media import TINY, Probe, make_store


@pytest.mark.parametrize(("pe_cycles", "is_plain"), [(0, True), (2, True), (1, False)])
def test_a_reset_that_wears_the_chunk_out_is_not_plain(tmp_path: Path, pe_cycles: int, is_plain: bool) -> None:
    store = make_store(tmp_path, replace(TINY, mw_cunits=0, pe_cycles=pe_cycles))
    probe = Probe(store.engines[0])
    assert probe.write(0, 0, TINY.clba).status == MediaStatus.OK
    assert probe.engine.runs.reset(0) == is_plain
    assert probe.chunk(0).cs == (ChunkState.FREE if is_plain else ChunkState.CLOSED)
    store.close()


def test_nothing_is_plain_once_the_drive_is_closed(tmp_path: Path) -> None:
    store = make_store(tmp_path, replace(TINY, mw_cunits=0))
    probe = Probe(store.engines[0])
    runs = probe.engine.runs
    assert probe.write(0, 0, 4).status == MediaStatus.OK
    assert runs.reserve(0, 4, 4)
    assert probe.write(TINY.num_chk, 0, 4).status == MediaStatus.OK
    store.close()
    assert not runs.commit(0, 4, 4)
    assert not runs.reserve(TINY.num_chk, 4, 4)
    assert not runs.reset(0)
    assert probe.chunk(0).wp == 4
