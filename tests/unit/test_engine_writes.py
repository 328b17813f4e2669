"""Writes under way: reserve, commit, abort, resets between them, copies, and lists over several chunks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ocssd_tcp.media.engine import Engine
from ocssd_tcp.media.ops import Extent, MediaOp, MediaStatus, OpKind
from ocssd_tcp.ocssd.layouts import ChunkState
from tests.support_media import ODD, TINY, Probe, make_store

OK = MediaStatus.OK


@pytest.fixture
def probe(tmp_path: Path) -> Iterator[Probe]:
    store = make_store(tmp_path, replace(TINY, mw_cunits=0))
    yield Probe(store.engines[0])
    store.close()


def test_wp_moves_at_commit_and_the_reserve_pointer_at_reserve(probe: Probe) -> None:
    op = probe.reserve(Extent(0, 0, 4))
    assert (op.status, probe.chunk(0).cs, probe.chunk(0).wp) == (OK, ChunkState.FREE, 0)
    assert probe.write(0, 0, 4).status == MediaStatus.OUT_OF_ORDER
    assert probe.fills(0, 0, 4) == [0] * 4
    probe.commit(op, fill=7)
    assert (op.status, probe.chunk(0).cs, probe.chunk(0).wp) == (OK, ChunkState.OPEN, 4)
    assert probe.fills(0, 0, 4) == [7, 8, 9, 10]


def test_commits_out_of_order_wait_for_those_ahead(probe: Probe) -> None:
    first, second, third = (probe.reserve(Extent(0, lblk, 4)) for lblk in (0, 4, 8))
    probe.commit(third, fill=9)
    probe.commit(second, fill=5)
    assert not probe.is_done(second)
    assert not probe.is_done(third)
    assert probe.chunk(0).wp == 0
    probe.commit(first, fill=1)
    assert [op.status for op in probe.finished[-3:]] == [OK] * 3
    assert probe.finished[-3:] == [first, second, third]
    assert probe.fills(0, 0, 12) == list(range(1, 13))


def test_a_plain_write_behind_a_reservation_waits_for_it(probe: Probe) -> None:
    ahead = probe.reserve(Extent(0, 0, 4))
    behind = probe.write(0, 4, 4, fill=5)
    assert not probe.is_done(behind)
    probe.commit(ahead)
    assert probe.is_done(behind)
    assert probe.fills(0, 0, 8) == list(range(1, 9))


@pytest.mark.parametrize("is_ready", [True, False], ids=["its data complete", "its data under way"])
def test_an_abort_takes_those_above_with_it(probe: Probe, is_ready: bool) -> None:
    first, second = probe.reserve(Extent(0, 0, 4)), probe.reserve(Extent(0, 4, 4))
    if is_ready:
        probe.commit(second)
    probe.abort(first)
    if not is_ready:
        probe.commit(second)
    assert probe.is_done(second)
    assert (second.status, second.bitmap) == (MediaStatus.OUT_OF_ORDER, 0b1111)
    assert (probe.chunk(0).cs, probe.chunk(0).wp) == (ChunkState.FREE, 0)
    assert probe.write(0, 0, 8, fill=3).status == OK
    assert probe.fills(0, 0, 8) == list(range(3, 11))


def test_an_abort_leaves_those_below_alone(probe: Probe) -> None:
    first, second = probe.reserve(Extent(0, 0, 4)), probe.reserve(Extent(0, 4, 4))
    probe.abort(second)
    probe.commit(first)
    assert (first.status, probe.chunk(0).wp) == (OK, 4)


def test_nobody_writes_where_a_rolled_back_write_may_still_store(probe: Probe) -> None:
    first, second = probe.reserve(Extent(0, 0, 4)), probe.reserve(Extent(0, 4, 4))
    probe.abort(first)
    assert probe.write(0, 0, 4, fill=1).status == OK
    assert probe.write(0, 4, 4).status == MediaStatus.WRITE_FAULT
    assert probe.engine.runs.reserve(0, 4, 4) == 0
    probe.abort(second)
    assert probe.write(0, 4, 4, fill=5).status == OK
    assert probe.fills(0, 0, 8) == list(range(1, 9))


def test_an_aborted_opening_gives_the_open_chunk_back(tmp_path: Path) -> None:
    store = make_store(tmp_path, replace(TINY, maxoc=1))
    probe = Probe(store.engines[0])
    op = probe.reserve(Extent(0, 0, 4))
    assert probe.write(1, 0, 4).status == MediaStatus.WRITE_FAULT
    probe.abort(op)
    assert probe.write(1, 0, 4).status == OK
    store.close()


def test_a_rollback_reaches_every_chunk_of_a_write(probe: Probe) -> None:
    first = probe.reserve(Extent(0, 0, 4))
    both = probe.reserve(Extent(0, 4, 4), Extent(4, 0, 4))
    above = probe.reserve(Extent(4, 4, 4))
    probe.commit(above)
    probe.commit(both)
    probe.abort(first)
    assert [op.status for op in (both, above)] == [MediaStatus.OUT_OF_ORDER] * 2
    assert [probe.chunk(chunk).wp for chunk in (0, 4)] == [0, 0]
    assert probe.write(4, 0, 4).status == OK


def test_a_write_over_two_chunks_lands_in_both_at_once(probe: Probe) -> None:
    ahead = probe.reserve(Extent(4, 0, 4))
    both = probe.reserve(Extent(0, 0, 4), Extent(4, 4, 4))
    probe.commit(both, fill=11)
    assert [probe.chunk(chunk).wp for chunk in (0, 4)] == [0, 0]
    probe.commit(ahead)
    assert [probe.chunk(chunk).wp for chunk in (0, 4)] == [4, 8]
    assert probe.fills(4, 4, 4) == [15, 16, 17, 18]


def test_a_reset_invalidates_writes_under_way(probe: Probe) -> None:
    probe.write(0, 0, 4)
    waiting, storing = probe.reserve(Extent(0, 4, 4)), probe.reserve(Extent(0, 8, 4))
    run = probe.engine.runs.reserve(0, 12, 4)
    assert run
    assert probe.reset(0).status == OK
    assert probe.write(0, 0, 4, fill=20).status == OK
    probe.commit(storing)
    assert storing.status == MediaStatus.OUT_OF_ORDER
    assert not probe.engine.runs.commit(0, 12, 4)
    assert probe.done(OpKind.COMMIT, [Extent(0, 12, 4)]).status == MediaStatus.OUT_OF_ORDER
    probe.abort(waiting)
    assert probe.write(0, 4, 12, fill=24).status == OK
    assert probe.fills(0, 0, 16) == list(range(20, 36))


def test_interleaved_lists_are_taken_in_whole_write_units(probe: Probe) -> None:
    extents = [Extent(0, 0, 4), Extent(4, 0, 4), Extent(0, 4, 4), Extent(4, 4, 8)]
    op = probe.done(OpKind.WRITE, extents, data=probe.data(20, 1))
    assert op.status == OK
    assert probe.fills(0, 0, 8) == [1, 2, 3, 4, 9, 10, 11, 12]
    assert probe.fills(4, 0, 12) == [5, 6, 7, 8, *range(13, 21)]


@pytest.mark.parametrize(
    ("extents", "status", "bitmap"),
    [
        ([Extent(0, 0, 4), Extent(1, 4, 4)], MediaStatus.OUT_OF_ORDER, 0xF0),
        ([Extent(0, 0, 4), Extent(-1, 0, 4), Extent(0, 0, 4)], MediaStatus.WRITE_FAULT, 0xFF0),
        ([Extent(0, 0, 2), Extent(-1, 0, 4)], MediaStatus.INVALID_LENGTH, 0),
        ([Extent(0, 0, 16), Extent(0, 0, 4)], MediaStatus.WRITE_FAULT, 0xF << 16),
    ],
)
def test_a_list_is_checked_whole_and_then_nothing_was_done(
    probe: Probe, extents: list[Extent], status: MediaStatus, bitmap: int
) -> None:
    op = probe.done(OpKind.WRITE, extents, data=probe.data(sum(extent.n_blocks for extent in extents), 1))
    assert (op.status, op.bitmap) == (status, bitmap)
    assert {probe.chunk(chunk).cs for chunk in range(8)} == {ChunkState.FREE}


def test_data_of_a_wrong_length_are_an_internal_error(probe: Probe) -> None:
    op = probe.done(OpKind.WRITE, [Extent(0, 0, 4)], data=probe.data(3, 1))
    assert (op.status, probe.chunk(0).wp) == (MediaStatus.INTERNAL, 0)


@pytest.mark.parametrize("kind", [OpKind.COMMIT, OpKind.ABORT], ids=lambda kind: kind.name)
@pytest.mark.parametrize("extents", [[Extent(0, 0, 4)], [Extent(-1, 0, 4)], []], ids=["none", "hole", "empty"])
def test_the_end_of_a_write_that_never_began_is_an_internal_error(
    probe: Probe, kind: OpKind, extents: list[Extent]
) -> None:
    assert probe.done(kind, extents).status == MediaStatus.INTERNAL


# ---- copies


def test_a_copy_moves_blocks_with_their_metadata(tmp_path: Path) -> None:
    store = make_store(tmp_path, ODD)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 12, fill=1)
    op = probe.done(OpKind.COPY, [Extent(0, 8, 4), Extent(0, 0, 4)], destinations=[Extent(7, 0, 4), Extent(44, 0, 4)])
    assert op.status == OK
    probe.write(7, 4, 8)
    probe.write(44, 4, 8)
    assert probe.read(7, 0, 4) == probe.data(4, 9)
    assert probe.read(44, 0, 4) == probe.data(4, 1)
    store.close()


def test_an_unreadable_source_copies_predefined_data_or_refuses_with_dulbe(tmp_path: Path) -> None:
    store = make_store(tmp_path, TINY)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 12, fill=1)
    source = [Extent(0, 2, 4)]
    op = probe.done(OpKind.COPY, source, destinations=[Extent(1, 0, 4)], dulbe=True)
    assert (op.status, op.bitmap, probe.chunk(1).cs) == (MediaStatus.UNWRITTEN, 0b1100, ChunkState.FREE)
    assert probe.done(OpKind.COPY, source, destinations=[Extent(1, 0, 4)]).status == OK
    probe.write(1, 4, 12)
    assert probe.fills(1, 0, 4) == [3, 4, 0, 0]
    store.close()


def test_a_copy_into_its_own_chunk_reads_before_it_writes(probe: Probe) -> None:
    probe.write(0, 0, 8, fill=1)
    op = probe.done(OpKind.COPY, [Extent(0, 4, 8)], destinations=[Extent(0, 8, 8)])
    assert op.status == OK
    assert probe.fills(0, 8, 8) == [5, 6, 7, 8, 0, 0, 0, 0]


def test_lists_of_different_lengths_are_an_internal_error(probe: Probe) -> None:
    op = probe.done(OpKind.COPY, [Extent(0, 0, 4)], destinations=[Extent(1, 0, 8)])
    assert (op.status, probe.chunk(1).cs) == (MediaStatus.INTERNAL, ChunkState.FREE)


# ---- runs of the batch processor


def test_a_run_is_reserved_stored_and_committed_by_address(probe: Probe) -> None:
    engine = probe.engine
    for lblk in range(0, 16, 4):
        address = engine.runs.reserve(5, lblk, 4)
        assert address == engine.address[5] + lblk * probe.stride
        at = address - engine.memory.base
        engine.memory.view[at : at + 4 * probe.stride] = probe.data(4, lblk)
        assert engine.runs.commit(5, lblk, 4)
    assert probe.fills(5, 0, 16) == list(range(16))
    assert probe.chunk(5).cs == ChunkState.CLOSED


@pytest.mark.parametrize(
    ("address_chunk", "lblk", "n_blocks"),
    [(0, 4, 4), (0, 0, 3), (0, 0, 0), (0, 0, 20), (0, 16, 4), (8, 0, 4), (1 << 60, 0, 4), (1, 0, 4), (1, 16, 4)],
)
def test_what_is_no_plain_run_is_not_reserved(probe: Probe, address_chunk: int, lblk: int, n_blocks: int) -> None:
    probe.write(1, 0, 16)
    assert probe.engine.runs.reserve(address_chunk, lblk, n_blocks) == 0
    assert probe.chunk(0).cs == ChunkState.FREE


def test_holes_have_no_address_and_no_runs(tmp_path: Path) -> None:
    store = make_store(tmp_path, ODD)
    engine = store.engines[0]
    assert (len(engine.address), len(engine.readable)) == (engine.n_address_chunks,) * 2
    for address_chunk in range(engine.n_address_chunks):
        chunk = engine.addresses.flat_chunk(address_chunk)
        is_reserved = bool(engine.runs.reserve(address_chunk, 0, 2))
        assert (engine.address[address_chunk] != 0, is_reserved) == (chunk >= 0, chunk >= 0)
        if chunk >= 0:
            assert engine.runs.commit(address_chunk, 0, 2)
            assert Probe(engine).chunk(chunk).wp == 2
    store.close()


def test_runs_and_general_writes_share_the_order_of_a_chunk(probe: Probe) -> None:
    engine = probe.engine
    assert engine.runs.reserve(0, 0, 4)
    general = probe.reserve(Extent(0, 4, 4))
    assert engine.runs.reserve(0, 8, 4)
    probe.commit(general)
    assert not engine.runs.commit(0, 8, 4)
    last = probe.op(OpKind.COMMIT, [Extent(0, 8, 4)])
    assert not engine.runs.commit(0, 0, 4)
    first = probe.op(OpKind.COMMIT, [Extent(0, 0, 4)])
    assert [op.status for op in (first, general, last) if probe.is_done(op)] == [OK] * 3
    assert probe.chunk(0).wp == 12


def test_several_runs_are_reserved_together_and_committed_together(probe: Probe) -> None:
    engine, runs = probe.engine, [(0, 0, 4), (5, 0, 8)]
    assert engine.runs.reserve_all(runs) == [engine.address[0], engine.address[5]]
    assert engine.runs.commit_all(runs)
    assert [probe.chunk(chunk).wp for chunk in (0, 5)] == [4, 8]


@pytest.mark.parametrize("bad", [(0, 4, 4), (1, 4, 4), (2, 0, 4), (8, 0, 4)], ids=["twice", "order", "busy", "hole"])
def test_if_one_of_several_runs_is_not_to_be_had_none_is_reserved(probe: Probe, bad: tuple[int, int, int]) -> None:
    assert probe.engine.runs.reserve(2, 0, 4)
    assert probe.engine.runs.reserve_all([(0, 0, 4), bad]) == []
    assert probe.write(0, 0, 4).status == OK


def test_several_runs_do_not_land_while_one_has_company(probe: Probe) -> None:
    engine, runs = probe.engine, [(0, 0, 4), (5, 0, 8)]
    engine.runs.reserve_all(runs)
    assert engine.runs.reserve(5, 8, 4)
    assert not engine.runs.commit_all(runs)
    assert [probe.chunk(chunk).wp for chunk in (0, 5)] == [0, 0]


def test_an_aborted_run_rolls_back_those_above(probe: Probe) -> None:
    engine = probe.engine
    assert engine.runs.reserve(0, 0, 4)
    assert engine.runs.reserve(0, 4, 4)
    engine.runs.abort(0, 0, 4)
    assert probe.done(OpKind.COMMIT, [Extent(0, 4, 4)]).status == MediaStatus.OUT_OF_ORDER
    assert probe.write(0, 0, 8).status == OK


def test_the_hot_table_of_readable_blocks_follows_the_chunk(tmp_path: Path) -> None:
    store = make_store(tmp_path, TINY)
    probe = Probe(store.engines[0])
    seen = []
    for lblk in range(0, 16, 4):
        probe.write(6, lblk, 4)
        seen.append(probe.engine.readable[6])
    probe.reset(6)
    assert [*seen, probe.engine.readable[6]] == [0, 0, 4, 16, 0]
    store.close()


# ---- space


def test_a_full_disk_is_a_write_fault_when_a_chunk_opens_and_changes_nothing(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe.write(0, 0, 4)

    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    op = probe.done(OpKind.WRITE, [Extent(0, 4, 4), Extent(1, 0, 4)], data=probe.data(8, 1))
    assert (op.status, op.bitmap) == (MediaStatus.WRITE_FAULT, 0xF0)
    assert probe.write(1, 0, 4).status == MediaStatus.WRITE_FAULT
    assert [probe.chunk(chunk).wp for chunk in (0, 1)] == [4, 0]
    assert probe.engine.stats.n_media_errors > 0
    assert probe.write(0, 4, 12).status == OK
    monkeypatch.undo()
    assert probe.write(1, 0, 4).status == OK


def allocated(engine: Engine, store_path: Path) -> int:
    return sum(os.stat(path).st_blocks * 512 for path in store_path.rglob("*.data"))


def test_space_comes_back_when_idle_and_the_pool_opens_without_asking_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = replace(TINY, clba=256, mw_cunits=0)
    store = make_store(tmp_path, geometry, keep_allocated=1)
    probe = Probe(store.engines[0])
    for chunk in range(4):
        probe.write(chunk, 0, 256)
    full = allocated(probe.engine, tmp_path)
    probe.reset(0, 1, 2)
    assert allocated(probe.engine, tmp_path) == full
    assert probe.engine.wants_idle
    while probe.engine.idle():
        pass
    assert allocated(probe.engine, tmp_path) <= full - 2 * 256 * 512

    def refuse(fd: int, offset: int, length: int) -> None:
        raise AssertionError("the chunk is allocated")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert probe.write(2, 0, 4).status == OK
    assert probe.fills(2, 0, 8) == [1, 2, 3, 4, 0, 0, 0, 0]
    store.close()


def test_space_is_kept_while_a_rolled_back_write_may_still_store(tmp_path: Path) -> None:
    store = make_store(tmp_path, replace(TINY, clba=256), keep_allocated=0)
    probe = Probe(store.engines[0])
    op = probe.reserve(Extent(0, 0, 4))
    ahead = probe.reserve(Extent(0, 4, 4))
    probe.abort(op)
    full = allocated(probe.engine, tmp_path)
    assert not probe.engine.idle()
    assert allocated(probe.engine, tmp_path) == full
    probe.abort(ahead)
    assert not probe.engine.idle()
    assert allocated(probe.engine, tmp_path) < full
    store.close()


# ---- log


def test_the_log_is_the_tables_in_order_at_any_offset(tmp_path: Path) -> None:
    store = make_store(tmp_path, ODD)
    probe, engine = Probe(store.engines[0]), store.engines[0]
    probe.write(7, 0, 4)
    whole = b"".join(engine.descriptor(chunk) for chunk in range(ODD.n_chunks))
    assert len(whole) == engine.log_bytes
    assert [int.from_bytes(whole[at + 8 : at + 16], "little") for at in range(0, len(whole), 32)] == [
        engine.addresses.lba(chunk) for chunk in range(ODD.n_chunks)
    ]
    for offset, length in [
        (0, len(whole)),
        (4, 8),
        (100, 400),
        (160, 160),
        (1436, 8),
        (1436, 999),
        (1440, 4),
        (9999, 4),
    ]:
        assert b"".join(engine.log_pieces(offset, length)) == whole[offset : offset + length]
    store.close()


def test_a_closed_drive_refuses_and_its_views_live_on(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 16, fill=1)
    piece = probe.done(OpKind.READ, [Extent(0, 0, 16)]).pieces[0]
    view = store.memory.view[piece.offset : piece.offset + piece.length]
    for chunk in (2, 3):
        probe.write(chunk, 0, 4)
    assert probe.engine.runs.reserve(3, 4, 4)
    store.close()
    assert probe.write(1, 0, 4).status == MediaStatus.INTERNAL
    for chunk, lblk in ((1, 0), (2, 4)):  # Free, and Open
        assert probe.engine.runs.reserve(chunk, lblk, 4) == 0
        assert not probe.engine.runs.commit(chunk, lblk, 4)
    assert not probe.engine.runs.commit(3, 4, 4)  # which was set aside before
    del store, probe, piece
    assert bytes(view[:512]) == b"\x01" * 512


def test_done_may_submit_again(probe: Probe) -> None:
    seen: list[MediaStatus] = []

    def again(op: MediaOp) -> None:
        seen.append(op.status)
        lblk = op.extents[0].lblk + 4
        if lblk < 16:
            probe.engine.submit(MediaOp(OpKind.WRITE, [Extent(0, lblk, 4)], again, data=probe.data(4, lblk)))

    probe.engine.submit(MediaOp(OpKind.WRITE, [Extent(0, 0, 4)], again, data=probe.data(4, 0)))
    assert seen == [OK] * 4
    assert probe.fills(0, 0, 16) == list(range(16))
