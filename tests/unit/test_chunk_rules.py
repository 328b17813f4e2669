"""Every chunk state against every operation. OCSSD 2.0, chunk model and access rules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ocssd_tcp.media.chunk import TRANSITIONS, ChunkEvent
from ocssd_tcp.media.ops import Extent, MediaStatus, OpKind
from ocssd_tcp.media.table import ChunkShape
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import WP_UNDEFINED, ChunkState, ChunkType
from ocssd_tcp.ocssd.wear import wear_index
from tests.support_media import TINY, Probe, make_store

OK = MediaStatus.OK
FAULT = MediaStatus.WRITE_FAULT
ORDER = MediaStatus.OUT_OF_ORDER
LENGTH = MediaStatus.INVALID_LENGTH

#: One cycle: the first reset takes a chunk offline.
MORTAL = replace(TINY, pe_cycles=1)
RANDOM_CHUNK = 7


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rules")


@pytest.fixture(scope="module")
def module_probe(path: Path) -> Iterator[Probe]:
    store = make_store(path, MORTAL, shapes={0: {RANDOM_CHUNK: ChunkShape(ChunkType.RANDOM), 6: ChunkShape(cnlb=8)}})
    probe = Probe(store.engines[0])
    # Chunk 0 stays Free; 1 is Open with wp 12, 2 Closed, 3 Offline, 4 Open with wp 4 (less than the window).
    probe.write(1, 0, 12)
    probe.write(2, 0, 16)
    probe.write(3, 0, 16)
    probe.reset(3)
    probe.write(4, 0, 4)
    probe.write(RANDOM_CHUNK, 4, 4)
    yield probe
    store.close()


STATES = {"free": 0, "open": 1, "closed": 2, "offline": 3, "hole": -1, "short": 6, "random": RANDOM_CHUNK}

REFUSED_WRITES = [
    # state, lblk, blocks, status, entries at fault
    ("free", 4, 4, ORDER, 0b1111),
    ("free", 0, 3, LENGTH, 0),
    ("free", 0, 20, FAULT, 0b1111 << 16),
    ("free", 16, 4, FAULT, 0b1111),
    ("open", 0, 4, ORDER, 0b1111),
    ("open", 8, 4, ORDER, 0b1111),
    ("open", 12, 2, LENGTH, 0),
    ("open", 12, 8, FAULT, 0b1111_0000),
    ("closed", 0, 4, FAULT, 0b1111),
    ("closed", 0, 1, LENGTH, 0),
    ("closed", 16, 4, FAULT, 0b1111),
    ("offline", 0, 4, FAULT, 0b1111),
    ("hole", 0, 4, FAULT, 0b1111),
    ("hole", 0, 1, LENGTH, 0),
    ("short", 0, 12, FAULT, 0b1111_0000_0000),
    ("random", 0, 2, LENGTH, 0),
    ("random", 16, 4, FAULT, 0b1111),
]


@pytest.mark.parametrize("kind", [OpKind.WRITE, OpKind.RESERVE, OpKind.COPY], ids=lambda kind: kind.name)
@pytest.mark.parametrize(("state", "lblk", "n_blocks", "status", "bitmap"), REFUSED_WRITES)
def test_a_refused_write_says_why_and_changes_nothing(
    module_probe: Probe, kind: OpKind, state: str, lblk: int, n_blocks: int, status: MediaStatus, bitmap: int
) -> None:
    probe, extent = module_probe, Extent(STATES[state], lblk, n_blocks)
    before = [probe.engine.descriptor(chunk) for chunk in range(8)]
    sources = {"destinations": [extent]} if kind == OpKind.COPY else {}
    data = {"data": probe.data(n_blocks, 99)} if kind == OpKind.WRITE else {}
    extents = [Extent(2, 0, n_blocks)] if kind == OpKind.COPY else [extent]
    op = probe.done(kind, extents, **sources, **data)
    assert (op.status, op.bitmap) == (status, bitmap)
    assert op.pieces == []
    assert [probe.engine.descriptor(chunk) for chunk in range(8)] == before


READS = [
    # chunk, lblk, blocks, bit i: block i is unreadable
    (0, 0, 2, 0b11),
    (1, 0, 4, 0b0000),
    (1, 2, 4, 0b1100),
    (1, 4, 4, 0b1111),
    (1, 11, 3, 0b111),
    (2, 0, 16, 0),
    (2, 14, 4, 0b1100),
    (2, 20, 2, 0b11),
    (3, 0, 1, 0b1),
    (4, 0, 4, 0b1111),
    (-1, 0, 3, 0b111),
    (RANDOM_CHUNK, 2, 8, 0b1100_0011),
    (RANDOM_CHUNK, 15, 3, 0b111),
]


@pytest.mark.parametrize(("chunk", "lblk", "n_blocks", "unreadable"), READS)
def test_unreadable_blocks_are_predefined_data_or_named_with_dulbe(
    module_probe: Probe, chunk: int, lblk: int, n_blocks: int, unreadable: int
) -> None:
    first = lblk - 4 if chunk == RANDOM_CHUNK else lblk
    expected = [0 if unreadable >> at & 1 else first + at + 1 for at in range(n_blocks)]
    assert module_probe.fills(chunk, lblk, n_blocks) == expected
    op = module_probe.done(OpKind.READ, [Extent(2, 0, 2), Extent(chunk, lblk, n_blocks)], dulbe=True)
    assert op.bitmap == unreadable << 2
    assert (op.status, bool(op.pieces)) == ((MediaStatus.UNWRITTEN, False) if unreadable else (OK, True))


@pytest.mark.parametrize("is_early", [True, False])
@pytest.mark.parametrize("is_multi", [True, False])
@pytest.mark.parametrize("state", ["free", "open", "closed", "offline", "hole"])
def test_reset_obeys_the_capabilities(tmp_path: Path, is_early: bool, is_multi: bool, state: str) -> None:
    geometry = replace(TINY, early_reset=is_early, multi_reset=is_multi, num_pu=1, pe_cycles=2)
    store = make_store(tmp_path, geometry)
    probe = Probe(store.engines[0])
    probe.write(1, 0, 4)
    probe.write(2, 0, 16)
    for _ in range(2):
        probe.write(3, 0, 16)
        probe.reset(3)
    assert probe.chunk(3).cs == ChunkState.OFFLINE
    expected = {
        "free": OK if is_multi else MediaStatus.INVALID_RESET,
        "open": OK if is_early else MediaStatus.INVALID_RESET,
        "closed": OK,
        "offline": MediaStatus.OFFLINE_CHUNK,
        "hole": MediaStatus.INVALID_RESET,
    }[state]
    op = probe.reset(STATES[state])
    assert (op.status, op.bitmap) == (expected, int(expected != OK))
    if expected == OK:
        after = probe.chunk(STATES[state])
        assert (after.cs, after.wp, after.wli) == (ChunkState.FREE, 0, 127)
    store.close()


def test_a_reset_tries_every_entry_and_names_the_failures(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    probe = Probe(store.engines[0])
    for chunk in (1, 3):
        probe.write(chunk, 0, 16)
    op = probe.reset(0, 1, -1, 3, 3)
    assert (op.status, op.bitmap) == (MediaStatus.INVALID_RESET, 0b10101)
    assert [probe.chunk(chunk).cs for chunk in (1, 3)] == [ChunkState.FREE] * 2
    store.close()


@pytest.mark.parametrize("bad", [Extent(0, 0, 1), Extent(2, 0, 1), Extent(-1, 0, 1)], ids=["free", "twice", "hole"])
def test_a_whole_reset_resets_nothing_if_one_entry_fails(tmp_path: Path, bad: Extent) -> None:
    store = make_store(tmp_path)
    probe = Probe(store.engines[0])
    probe.write(2, 0, 16)
    op = probe.done(OpKind.RESET, [Extent(2, 0, 1), bad], whole=True)
    assert (op.status, op.bitmap) == (MediaStatus.INVALID_RESET, 0b10)
    assert probe.chunk(2).cs == ChunkState.CLOSED
    assert probe.done(OpKind.RESET, [Extent(2, 0, 1)], whole=True).status == OK
    store.close()


def test_a_reset_address_inside_a_chunk_is_invalid_and_nothing_is_reset(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    probe = Probe(store.engines[0])
    probe.write(1, 0, 16)
    op = probe.done(OpKind.RESET, [Extent(1, 0, 1), Extent(1, 4, 1)])
    assert (op.status, op.bitmap) == (MediaStatus.INVALID_ADDRESS, 0)
    assert probe.chunk(1).cs == ChunkState.CLOSED
    store.close()


def test_wear_rises_with_resets_and_ends_offline(tmp_path: Path) -> None:
    store = make_store(tmp_path, replace(TINY, pe_cycles=4))
    probe = Probe(store.engines[0])
    seen = []
    for _ in range(4):
        probe.write(0, 0, 4)
        seen.append((probe.reset(0).status, probe.chunk(0).wli))
    assert seen == [(OK, 63), (OK, 127), (OK, 191), (MediaStatus.OFFLINE_CHUNK, 255)]
    assert (probe.chunk(0).cs, probe.chunk(0).wp) == (ChunkState.OFFLINE, WP_UNDEFINED)
    assert (probe.engine.stats.n_resets, probe.engine.stats.n_media_errors) == (4, 1)
    store.close()


@pytest.mark.parametrize(
    ("resets", "cycles", "wli"), [(0, 1000, 0), (500, 1000, 127), (1000, 1000, 255), (9999, 1000, 255), (9, 0, 0)]
)
def test_wear_index_saturates_and_a_drive_without_wear_stays_new(resets: int, cycles: int, wli: int) -> None:
    assert wear_index(resets, cycles) == wli


def test_every_state_that_takes_an_event_has_a_transition_and_offline_is_terminal() -> None:
    assert {state for state, _ in TRANSITIONS} == {ChunkState.FREE, ChunkState.OPEN, ChunkState.CLOSED}
    for state in (ChunkState.FREE, ChunkState.OPEN, ChunkState.CLOSED):
        assert TRANSITIONS[state, ChunkEvent.RESET] == ChunkState.FREE
        assert TRANSITIONS[state, ChunkEvent.RESET_FAILED] == ChunkState.OFFLINE


@pytest.mark.parametrize(
    ("limits", "writes", "refused_at"),
    [
        ({"maxoc": 2}, [0, 4, 1], 2),
        ({"maxocpu": 1}, [0, 4, 1], 2),
        ({"maxoc": 3, "maxocpu": 2}, [0, 1, 4, 5], 3),
        ({"maxoc": 3, "maxocpu": 2}, [0, 1, 2], 2),
    ],
)
def test_open_chunk_limits_hold_until_a_chunk_closes(
    tmp_path: Path, limits: dict[str, int], writes: list[int], refused_at: int
) -> None:
    store = make_store(tmp_path, replace(TINY, **limits))
    probe = Probe(store.engines[0])
    outcomes = [probe.write(chunk, 0, 4).status for chunk in writes]
    assert outcomes == [OK] * refused_at + [FAULT]
    refused = writes[refused_at]
    assert probe.chunk(refused).cs == ChunkState.FREE
    same_pu = [chunk for chunk in writes[:refused_at] if chunk // 4 == refused // 4]
    assert probe.write(same_pu[0], 4, 12).status == OK
    assert probe.write(refused, 0, 4).status == OK
    store.close()


def test_a_chunk_filled_by_one_write_closes_and_leaves_the_limit_free(tmp_path: Path) -> None:
    store = make_store(tmp_path, replace(TINY, maxoc=1))
    probe = Probe(store.engines[0])
    assert [probe.write(chunk, 0, 16).status for chunk in range(8)] == [OK] * 8
    assert {probe.chunk(chunk).cs for chunk in range(8)} == {ChunkState.CLOSED}
    store.close()


def test_the_limits_count_all_chunks_that_one_write_opens(tmp_path: Path) -> None:
    store = make_store(tmp_path, replace(TINY, maxoc=1))
    probe = Probe(store.engines[0])
    op = probe.done(OpKind.WRITE, [Extent(0, 0, 4), Extent(1, 0, 4)], data=probe.data(8, 1))
    assert (op.status, op.bitmap) == (FAULT, 0b1111_0000)
    assert [probe.chunk(chunk).cs for chunk in (0, 1)] == [ChunkState.FREE] * 2
    assert probe.write(1, 0, 4).status == OK
    store.close()


@pytest.mark.parametrize("geometry", [replace(TINY, dlfeat=0), TINY, replace(TINY, dlfeat=2)], ids=["0", "1", "2"])
def test_predefined_data_are_what_dlfeat_says(tmp_path: Path, geometry: Geometry) -> None:
    store = make_store(tmp_path, geometry)
    probe = Probe(store.engines[0])
    fill = 0xFF if geometry.dlfeat == 2 else 0
    assert set(probe.read(-1, 0, 5000)) == {fill}
    store.close()
