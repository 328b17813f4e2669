"""Flush, FUA, power cuts and kills: what the disk holds, and what a start makes of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ocssd_tcp.media import store as store_module
from ocssd_tcp.media.ops import Extent, MediaStatus, OpKind
from ocssd_tcp.media.store import Store, StoreError
from ocssd_tcp.media.table import ChunkShape
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR, WP_UNDEFINED, ChunkState, ChunkType
from tests.support_media import TINY, DeferredSyncer, Probe, make_store

OK = MediaStatus.OK
GEOMETRY = replace(TINY, mw_cunits=0, pe_cycles=100)


@pytest.fixture
def restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Store], Probe]:
    """Cut the power: the process is gone, the machine starts again, the drive is opened."""
    boots = iter(range(1, 100))

    def cut(store: Store) -> Probe:
        store.abandon()
        boot = bytes([next(boots)]) * 16
        monkeypatch.setattr(store_module, "boot_id", lambda: boot)
        return Probe(make_store(tmp_path, GEOMETRY).engines[0])

    return cut


def test_a_flush_survives_a_power_cut_and_what_came_later_does_not(
    tmp_path: Path, restart: Callable[[Store], Probe]
) -> None:
    store = make_store(tmp_path, GEOMETRY)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 8, fill=1)
    probe.write(5, 0, 16, fill=30)
    assert probe.done(OpKind.FLUSH, []).status == OK
    probe.write(0, 8, 8)
    probe.write(1, 0, 4)
    probe = restart(store)
    assert [probe.chunk(chunk).wp for chunk in (0, 1, 5)] == [8, 0, 16]
    assert probe.fills(0, 0, 9) == [1, 2, 3, 4, 5, 6, 7, 8, 0]
    assert probe.fills(5, 0, 2) == [30, 31]
    assert probe.write(0, 8, 4).status == OK


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path, GEOMETRY)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 8, fill=1)
    probe.write(1, 0, 16)
    probe.reset(1)
    under_way = probe.reserve(Extent(2, 0, 4))
    assert under_way.status == OK
    store.abandon()
    probe = Probe(make_store(tmp_path, GEOMETRY).engines[0])
    assert probe.fills(0, 0, 9) == [1, 2, 3, 4, 5, 6, 7, 8, 0]
    assert (probe.chunk(1).cs, probe.chunk(1).wli) == (ChunkState.FREE, 2)
    assert probe.write(2, 0, 4).status == OK


def test_fua_makes_its_own_parallel_unit_durable(tmp_path: Path, restart: Callable[[Store], Probe]) -> None:
    store = make_store(tmp_path, GEOMETRY)
    probe = Probe(store.engines[0])
    probe.write(4, 0, 4)
    probe.write(0, 0, 4, fill=1, fua=True)
    probe = restart(store)
    assert [probe.chunk(chunk).wp for chunk in (0, 4)] == [4, 0]


def test_a_reset_of_what_is_on_disk_is_done_when_the_disk_knows(
    tmp_path: Path, restart: Callable[[Store], Probe]
) -> None:
    syncer = DeferredSyncer()
    store = make_store(tmp_path, GEOMETRY, syncer=syncer)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 16)
    probe.write(1, 0, 16)
    probe.op(OpKind.FLUSH, [])
    syncer.step()
    probe.write(2, 0, 16)
    assert probe.is_done(probe.reset(2))
    op = probe.reset(0)
    assert not probe.is_done(op)
    assert probe.write(0, 0, 4).status == MediaStatus.WRITE_FAULT
    syncer.step()
    assert probe.is_done(op)
    assert probe.write(0, 0, 4).status == OK
    probe = restart(store)
    assert [probe.chunk(chunk).cs for chunk in (0, 1)] == [ChunkState.FREE, ChunkState.CLOSED]


def test_a_reset_knows_of_the_flush_that_is_under_way(tmp_path: Path) -> None:
    syncer = DeferredSyncer()
    store = make_store(tmp_path, GEOMETRY, syncer=syncer)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 16)
    flush = probe.op(OpKind.FLUSH, [])
    reset = probe.reset(0)
    syncer.step()
    assert (probe.is_done(flush), probe.is_done(reset)) == (True, False)
    syncer.step()
    assert probe.is_done(reset)
    assert syncer.jobs == []
    store.close()


def test_a_reset_cut_off_by_a_kill_is_durable_before_the_chunk_is_written(
    tmp_path: Path, restart: Callable[[Store], Probe]
) -> None:
    syncer = DeferredSyncer()
    store = make_store(tmp_path, GEOMETRY, syncer=syncer)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 16)
    probe.op(OpKind.FLUSH, [])
    syncer.step()
    probe.reset(0)
    store.abandon()
    store = make_store(tmp_path, GEOMETRY)
    assert Probe(store.engines[0]).write(0, 0, 4, fill=99).status == OK
    probe = restart(store)
    assert (probe.chunk(0).cs, probe.chunk(0).wp) == (ChunkState.FREE, 0)


def test_requests_that_arrive_during_a_flush_share_the_next(tmp_path: Path) -> None:
    syncer = DeferredSyncer()
    store = make_store(tmp_path, GEOMETRY, syncer=syncer)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 4)
    first = probe.op(OpKind.FLUSH, [])
    later = [probe.write(0, 4, 4, fua=True), probe.op(OpKind.FLUSH, []), probe.write(4, 0, 4, fua=True)]
    assert len(syncer.jobs) == 1
    syncer.step()
    assert probe.finished == [*probe.finished[:1], first]
    assert len(syncer.jobs) == 1
    syncer.step()
    assert probe.finished[-3:] == later
    assert {op.status for op in later} == {OK}
    assert syncer.jobs == []
    store.close()


def test_a_disk_that_refuses_fails_flush_fua_and_reset_and_the_drive_is_not_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path, GEOMETRY)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 16)
    probe.done(OpKind.FLUSH, [])

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", refuse)
    op = probe.write(1, 0, 4, fua=True)
    assert (op.status, op.bitmap) == (MediaStatus.WRITE_FAULT, 0b1111)
    assert probe.reset(0).status == MediaStatus.INTERNAL
    assert probe.write(4, 0, 4).status == OK
    monkeypatch.undo()
    # What the failed sync lost cannot be known: later ones must not claim it.
    assert probe.done(OpKind.FLUSH, []).status == MediaStatus.INTERNAL
    assert probe.write(4, 4, 4, fua=True).status == OK
    store.close()
    monkeypatch.setattr(store_module, "boot_id", lambda: b"new boot" * 2)
    probe = Probe(make_store(tmp_path, GEOMETRY).engines[0])
    assert [probe.chunk(chunk).wp for chunk in (0, 1, 4)] == [16, 0, 8]


def test_a_job_that_outlives_the_drive_touches_nothing(tmp_path: Path) -> None:
    syncer = DeferredSyncer()
    store = make_store(tmp_path, GEOMETRY, syncer=syncer)
    probe = Probe(store.engines[0])
    probe.write(0, 0, 4)
    first, second = probe.op(OpKind.FLUSH, []), probe.op(OpKind.FLUSH, [])
    store.close()
    files = {path: path.read_bytes() for path in (tmp_path / "drive").rglob("*") if path.is_file()}
    syncer.step()
    assert syncer.jobs == []
    assert [op.status for op in (first, second)] == [MediaStatus.INTERNAL] * 2
    assert {path: path.read_bytes() for path in files} == files


def halves(path: Path) -> int:
    return path.stat().st_size // 2


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_damaged_flushed_copy_falls_back_to_the_older(tmp_path: Path, restart: Callable[[Store], Probe]) -> None:
    store = make_store(tmp_path, GEOMETRY)
    probe = Probe(store.engines[0])
    for lblk in (0, 4):
        probe.write(0, lblk, 4)
        probe.done(OpKind.FLUSH, [])
    path = tmp_path / "drive" / "ns-1" / "pu-0-0.flushed"
    # Generation 1 was the new drive's; 3 lies over it, in the second half.
    flip(path, halves(path) + 4096 + 24)
    assert restart(store).chunk(0).wp == 4


def test_two_damaged_flushed_copies_are_refused_after_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path, GEOMETRY).abandon()
    path = tmp_path / "drive" / "ns-1" / "pu-0-1.flushed"
    flip(path, 4096)
    flip(path, halves(path) + 4096)
    monkeypatch.setattr(store_module, "boot_id", lambda: bytes(16))
    with pytest.raises(StoreError, match=r"pu-0-1\.flushed: is damaged: neither copy"):
        make_store(tmp_path, GEOMETRY)


def test_a_short_flushed_copy_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path, GEOMETRY).abandon()
    os.truncate(tmp_path / "drive" / "ns-1" / "pu-0-0.flushed", 100)
    monkeypatch.setattr(store_module, "boot_id", lambda: bytes(16))
    with pytest.raises(StoreError, match="neither copy"):
        make_store(tmp_path, GEOMETRY)


def poke(path: Path, chunk: int, **fields: int) -> None:
    """Change the mapped table of parallel unit 0 as a process would that was killed right after."""
    with open(path / "drive" / "ns-1" / "pu-0-0.chunks", "r+b") as file:
        for name, value in fields.items():
            field = CHUNK_DESCRIPTOR.fields[name]
            file.seek(4096 + 32 * chunk + field.offset)
            file.write(value.to_bytes(field.size, "little"))


@pytest.mark.parametrize(
    ("n_written", "left", "state", "wp"),
    [
        (0, {"wp": 4}, ChunkState.OPEN, 4),
        (0, {"wp": 16}, ChunkState.CLOSED, 16),
        (8, {"wp": 16}, ChunkState.CLOSED, 16),
        (8, {"wp": 0}, ChunkState.FREE, 0),
        (16, {"wp": 0}, ChunkState.CLOSED, 0),
        (16, {"cs": ChunkState.OPEN, "wp": 0}, ChunkState.FREE, 0),
        (16, {"cs": ChunkState.OFFLINE, "wp": 0}, ChunkState.OFFLINE, WP_UNDEFINED),
    ],
)
def test_what_a_kill_leaves_between_two_stores_is_settled_by_wp(
    tmp_path: Path, n_written: int, left: dict[str, int], state: ChunkState, wp: int
) -> None:
    store = make_store(tmp_path, GEOMETRY)
    if n_written:
        Probe(store.engines[0]).write(2, 0, n_written)
    store.abandon()
    poke(tmp_path, 2, **left)
    store = make_store(tmp_path, GEOMETRY)
    probe = Probe(store.engines[0])
    assert (probe.chunk(2).cs, probe.chunk(2).wp) == (state, wp)
    readable = {ChunkState.OPEN: wp, ChunkState.CLOSED: wp}.get(state, 0)
    assert probe.engine.readable[2] == readable
    store.close()


@pytest.mark.parametrize("is_clean", [True, False])
@pytest.mark.parametrize(
    ("left", "words"),
    [
        ({"cs": 0}, "chunk 1: cs 0x0"),
        ({"cs": 6}, "chunk 1: cs 0x6"),
        ({"ct": 3}, "chunk 1: ct 0x3"),
        ({"slba": 7}, "chunk 1: slba 0x7"),
        ({"cnlb": 12}, "chunk 1: cnlb 0xc"),
        ({"ct": 0x11, "cnlb": 20}, "chunk 1: cnlb 0x14"),
        ({"wp": 17}, "chunk 1: wp 0x11"),
        ({"ct": 2}, "chunk 1: wp 0x4"),
        ({"ct": 2, "cs": 2, "wp": WP_UNDEFINED}, "chunk 1: cs 0x2"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(tmp_path: Path, is_clean: bool, left: dict[str, int], words: str) -> None:
    store = make_store(tmp_path, GEOMETRY)
    Probe(store.engines[0]).write(1, 0, 4)
    if is_clean:
        store.close()
    else:
        store.abandon()
    poke(tmp_path, 1, **left)
    with pytest.raises(StoreError, match=words):
        make_store(tmp_path, GEOMETRY)


def test_an_early_closed_chunk_is_readable_up_to_wp_and_takes_no_write(tmp_path: Path) -> None:
    store = make_store(tmp_path, GEOMETRY)
    Probe(store.engines[0]).write(1, 0, 8)
    store.close()
    poke(tmp_path, 1, cs=ChunkState.CLOSED)
    store = make_store(tmp_path, GEOMETRY)
    probe = Probe(store.engines[0])
    assert probe.fills(1, 0, 10) == [1, 2, 3, 4, 5, 6, 7, 8, 0, 0]
    assert probe.write(1, 8, 4).status == MediaStatus.WRITE_FAULT
    assert probe.engine.runs.reserve(1, 8, 4) == 0
    store.close()


def test_bits_of_a_random_chunk_that_never_opened_are_forgotten(tmp_path: Path) -> None:
    shapes = {0: {0: ChunkShape(ChunkType.RANDOM)}}
    store = make_store(tmp_path, GEOMETRY, shapes=shapes)
    Probe(store.engines[0]).write(0, 0, 8)
    store.abandon()
    poke(tmp_path, 0, cs=ChunkState.FREE)
    store = make_store(tmp_path, GEOMETRY)
    probe = Probe(store.engines[0])
    probe.write(0, 8, 4)
    assert probe.fills(0, 0, 10) == [0] * 8 + [1, 2]
    store.close()


def test_space_left_by_a_kill_comes_back_when_idle(tmp_path: Path) -> None:
    geometry = replace(GEOMETRY, clba=256)
    data = tmp_path / "drive" / "ns-1" / "pu-0-0.data"
    store = make_store(tmp_path, geometry)
    probe = Probe(store.engines[0])
    for chunk in range(3):
        probe.write(chunk, 0, 256)
    probe.reset(0, 2)
    store.abandon()
    full = data.stat().st_blocks
    store = make_store(tmp_path, geometry)
    while store.engines[0].idle():
        pass
    assert data.stat().st_blocks == full // 3
    assert Probe(store.engines[0]).fills(1, 0, 2) == [1, 2]
    store.close()
