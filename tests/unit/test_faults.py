"""What each fault does to a drive, and which accesses it concerns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ocssd_tcp.media.events import Notice
from ocssd_tcp.media.filters.faults import FaultInjector
from ocssd_tcp.media.ops import Extent, MediaOp, MediaStatus, OpKind
from ocssd_tcp.media.store import ChunkShape, Store
from ocssd_tcp.ocssd.fault_rules import FaultKind, FaultRule, FaultRuleError
from ocssd_tcp.ocssd.layouts import WP_UNDEFINED, ChunkState, ChunkType, NotificationState
from tests.support_media import TINY, Probe, make_store

OK = MediaStatus.OK
GEOMETRY = replace(TINY, mw_cunits=0)
RANDOM_CHUNK = 7


class FaultyProbe(Probe):
    """A probe whose operations pass the fault filter. `notices`: what the drive reported."""

    def __init__(self, store: Store, *rules: FaultRule) -> None:
        super().__init__(store.engines[0])
        self.injector = FaultInjector(self.engine.geometry, rules, skips_units=self.engine.keeps_failed_units)
        self.media = self.injector.layer(self.engine)
        self.notices: list[Notice] = []
        self.engine.report_to(self.notices.append)

    def submit(self, op: MediaOp, kind: OpKind | None = None) -> MediaOp:
        op.kind = op.kind if kind is None else kind
        self.media.submit(op)
        return op


Make = Callable[..., FaultyProbe]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a drive with faults; chunk 7 is a random-write chunk."""
    stores: list[Store] = []

    def build(*rules: FaultRule, **options: object) -> FaultyProbe:
        for store in stores:
            store.close()
        shapes = {0: {RANDOM_CHUNK: ChunkShape(ChunkType.RANDOM)}}
        geometry = options.pop("geometry", GEOMETRY)
        stores[:] = [make_store(tmp_path, geometry, shapes=shapes, failed_units={0}, **options)]  # type: ignore[arg-type]
        return FaultyProbe(stores[0], *rules)

    yield build
    for store in stores:
        store.close()


def rule(kind: str, **fields: object) -> FaultRule:
    """A rule; numbers stand for ranges of one."""
    spans = {
        key: range(value, value + 1) if key in ("grp", "pu", "chk", "blk") and isinstance(value, int) else value
        for key, value in fields.items()
    }
    return FaultRule(FaultKind(kind), **spans)  # type: ignore[arg-type]


def write_by(way: str, probe: FaultyProbe, extent: Extent, fill: int = 1) -> MediaOp:
    """A write of one run, by each way that there is."""
    if way == "write":
        return probe.done(OpKind.WRITE, [extent], data=probe.data(extent.n_blocks, fill))
    if way == "reserve":
        op = probe.reserve(extent)
        return probe.commit(op, fill) if op.status == OK else op
    assert probe.write(4, 0, 16, fill=fill).status == OK
    return probe.done(OpKind.COPY, [Extent(4, 0, extent.n_blocks)], destinations=[extent])


# --- writes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["write", "reserve", "copy"])
@pytest.mark.parametrize(
    ("kind", "blk", "bitmap", "state", "wp", "fills"),
    [
        ("early-close", 0, 0xFFF, ChunkState.CLOSED, 0, []),
        ("early-close", 5, 0xFF0, ChunkState.CLOSED, 4, [1, 2, 3, 4]),
        ("early-close", 11, 0xF00, ChunkState.CLOSED, 8, [1, 2, 3, 4, 5, 6, 7, 8]),
        ("write-next-unit", 0, 0xFFF, ChunkState.OPEN, 4, [0, 0, 0, 0]),
        ("write-next-unit", 5, 0xFF0, ChunkState.OPEN, 8, [1, 2, 3, 4, 0, 0, 0, 0]),
    ],
)
def test_a_failed_write(
    make: Make, way: str, kind: str, blk: int, bitmap: int, state: ChunkState, wp: int, fills: list[int]
) -> None:
    probe = make(rule(kind, pu=0, chk=0, blk=blk))
    op = write_by(way, probe, Extent(0, 0, 12))
    assert (op.status, op.bitmap) == (MediaStatus[kind.upper().replace("-", "_")], bitmap)
    assert (probe.chunk(0).cs, probe.chunk(0).wp) == (state, wp)
    assert probe.fills(0, 0, 16) == fills + [0] * (16 - len(fills))
    assert probe.engine.stats.n_media_errors == 1


def test_a_unit_that_was_skipped_reads_as_unwritten_whatever_comes_after_it(make: Make) -> None:
    probe = make(rule("write-next-unit", chk=0, blk=4))
    assert probe.write(0, 0, 8).status == MediaStatus.WRITE_NEXT_UNIT
    assert probe.write(0, 8, 4, fill=9).status == OK
    assert probe.write(0, 12, 4, fill=13).status == OK
    assert probe.chunk(0).cs == ChunkState.CLOSED
    expected = [1, 2, 3, 4, 0, 0, 0, 0, 9, 10, 11, 12, 13, 14, 15, 16]
    assert probe.fills(0, 0, 16) == expected
    op = probe.op(OpKind.READ, [Extent(0, 0, 16)], dulbe=True)
    assert (op.status, op.bitmap) == (MediaStatus.UNWRITTEN, 0x00F0)
    assert probe.reset(0).status == OK
    probe = make()
    assert probe.write(0, 0, 16, fill=1).status == OK
    assert probe.fills(0, 0, 16) == list(range(1, 17))


def test_skipped_units_survive_a_restart(make: Make) -> None:
    probe = make(rule("write-next-unit", chk=0, blk=4))
    probe.write(0, 0, 12)
    probe.write(0, 8, 4, fill=9)
    probe = make()
    assert probe.fills(0, 0, 16) == [1, 2, 3, 4, 0, 0, 0, 0, 9, 10, 11, 12, 0, 0, 0, 0]
    assert probe.engine.readable[0] == 4
    assert probe.write(0, 12, 4, fill=13).status == OK
    assert probe.fills(0, 8, 8) == list(range(9, 17))


def test_a_unit_that_was_skipped_at_the_end_closes_the_chunk(make: Make) -> None:
    probe = make(rule("write-next-unit", chk=0, blk=12))
    assert probe.write(0, 0, 16).status == MediaStatus.WRITE_NEXT_UNIT
    assert (probe.chunk(0).cs, probe.chunk(0).wp) == (ChunkState.CLOSED, 16)
    assert probe.fills(0, 8, 8) == [9, 10, 11, 12, 0, 0, 0, 0]


@pytest.mark.parametrize("is_power_cut", [False, True])
def test_a_drive_that_had_no_maps_gets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_power_cut: bool
) -> None:
    store = make_store(tmp_path, GEOMETRY)
    probe = Probe(store.engines[0])
    assert not store.engines[0].keeps_failed_units
    probe.write(0, 0, 12)
    probe.done(OpKind.FLUSH, [])
    store.abandon()
    # A stop after the first map was made, before the durable copy of its table grew.
    (tmp_path / "drive" / "ns-1" / "pu-0-0.map").write_bytes(bytes(4096))
    if is_power_cut:
        monkeypatch.setattr("ocssd_tcp.media.store.boot_id", lambda: b"after the reboot")
    store = make_store(tmp_path, GEOMETRY, failed_units={0})
    faulty = FaultyProbe(store, rule("write-next-unit", chk=0, blk=12))
    assert store.engines[0].keeps_failed_units
    assert faulty.fills(0, 0, 16) == [*range(1, 13), *[0] * 4]
    assert faulty.write(0, 12, 4).status == MediaStatus.WRITE_NEXT_UNIT
    faulty.done(OpKind.FLUSH, [])
    store.abandon()
    store = make_store(tmp_path, GEOMETRY)
    op = Probe(store.engines[0]).done(OpKind.READ, [Extent(0, 0, 16)], dulbe=True)
    assert op.bitmap == 0xF000
    store.close()


@pytest.mark.parametrize("is_pipelined", [False, True])
@pytest.mark.parametrize(
    ("kind", "status"), [("early-close", MediaStatus.WRITE_FAULT), ("write-next-unit", MediaStatus.OUT_OF_ORDER)]
)
def test_the_next_write_fares_the_same_however_early_it_comes(
    make: Make, kind: str, status: MediaStatus, is_pipelined: bool
) -> None:
    probe = make(rule(kind, chk=0, blk=0))
    first = probe.reserve(Extent(0, 0, 8))
    if not is_pipelined:
        probe.commit(first)
    second = probe.reserve(Extent(0, 8, 4))
    third = probe.reserve(Extent(0, 4, 4))
    if is_pipelined:
        probe.commit(first)
    assert second.status == status
    assert third.status == (OK if kind == "write-next-unit" else MediaStatus.WRITE_FAULT)


def test_the_write_behind_a_skipped_unit_may_land_before_the_lost_data_arrive(make: Make) -> None:
    probe = make(rule("write-next-unit", chk=0, blk=0))
    first, second = probe.reserve(Extent(0, 0, 12)), probe.reserve(Extent(0, 4, 4))
    probe.commit(second, fill=5)
    probe.commit(first, fill=100)
    assert probe.fills(0, 0, 8) == [0, 0, 0, 0, 5, 6, 7, 8]


def test_a_failing_write_that_is_aborted_never_was(make: Make) -> None:
    probe = make(rule("early-close", chk=0, nth=1))
    probe.abort(probe.reserve(Extent(0, 0, 8)))
    assert probe.chunk(0).cs == ChunkState.FREE
    assert probe.write(0, 0, 8).status == OK


def test_other_chunks_of_a_vector_write_go_on(make: Make) -> None:
    probe = make(rule("early-close", pu=0, chk=0, blk=4))
    runs = [Extent(0, 0, 4), Extent(1, 0, 8), Extent(0, 4, 8), Extent(5, 0, 4)]
    op = probe.done(OpKind.WRITE, runs, data=probe.data(24, 1))
    assert (op.status, op.bitmap) == (MediaStatus.EARLY_CLOSE, 0xFF << 12)
    assert [probe.chunk(chunk).wp for chunk in (0, 1, 5)] == [4, 8, 4]
    assert probe.fills(1, 0, 8) == list(range(5, 13))
    assert probe.fills(5, 0, 4) == list(range(21, 25))


def test_a_write_with_fua_that_fails_in_one_chunk_is_durable_in_the_others(make: Make) -> None:
    probe = make(rule("early-close", pu=0, chk=0))
    op = probe.done(OpKind.WRITE, [Extent(0, 0, 4), Extent(5, 0, 4)], data=probe.data(8, 1), fua=True)
    assert (op.status, op.bitmap) == (MediaStatus.EARLY_CLOSE, 0xF)
    assert probe.fills(5, 0, 4) == [5, 6, 7, 8]


def test_a_chunk_that_closed_early_is_open_no_more_and_can_be_reset(make: Make) -> None:
    probe = make(rule("early-close", chk=0, nth=1), geometry=replace(GEOMETRY, maxoc=1))
    assert probe.write(0, 0, 4).status == MediaStatus.EARLY_CLOSE
    assert probe.write(1, 0, 4).status == OK
    assert probe.reset(0).status == OK
    assert (probe.chunk(0).cs, probe.chunk(0).wp) == (ChunkState.FREE, 0)


def test_random_write_chunks_know_no_failed_writes(make: Make) -> None:
    probe = make(rule("early-close"), rule("write-next-unit"))
    assert probe.write(RANDOM_CHUNK, 4, 4).status == OK


def test_a_drive_without_maps_refuses_rules_that_skip_units() -> None:
    injector = FaultInjector(GEOMETRY, skips_units=False)
    with pytest.raises(FaultRuleError, match="kind = write-next-unit"):
        injector.add(rule("write-next-unit"))
    assert injector.rules == []


# --- resets, reads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_failed_reset_takes_the_chunk_offline(make: Make, is_whole: bool) -> None:
    probe = make(rule("reset-fail", pu=0, chk=1))
    for chunk in range(3):
        probe.write(chunk, 0, 16)
    op = probe.reset(0, 1, 2, whole=is_whole)
    assert (op.status, op.bitmap) == (MediaStatus.OFFLINE_CHUNK, 0b010)
    assert [probe.chunk(chunk).cs for chunk in range(3)] == [ChunkState.FREE, ChunkState.OFFLINE, ChunkState.FREE]
    assert probe.chunk(1).wp == WP_UNDEFINED
    assert probe.notices == [Notice(probe.chunk(1).slba, NotificationState.UNRECOVERABLE)]
    assert probe.reset(1).status == MediaStatus.OFFLINE_CHUNK


def test_a_reset_that_the_rules_of_the_drive_refuse_is_no_access_to_the_media(make: Make) -> None:
    probe = make(rule("reset-fail", nth=1))
    assert probe.reset(0).status == MediaStatus.INVALID_RESET
    probe.write(0, 0, 16)
    assert probe.reset(0).status == MediaStatus.OFFLINE_CHUNK


@pytest.mark.parametrize("kind", [OpKind.READ, OpKind.COPY])
def test_a_read_error_names_its_block_and_is_reported(make: Make, kind: OpKind) -> None:
    probe = make(rule("read-error", pu=0, chk=0, blk=range(6, 9)))
    probe.write(0, 0, 16)
    fields = {} if kind is OpKind.READ else {"destinations": [Extent(1, 0, 12)]}
    op = probe.done(kind, [Extent(0, 12, 4), Extent(0, 4, 8)], **fields)
    assert (op.status, op.bitmap, op.pieces) == (MediaStatus.READ_ERROR, 1 << 6, [])
    assert probe.notices == [Notice(probe.chunk(0).slba + 6, NotificationState.UNRECOVERABLE, 1)]
    assert probe.chunk(1).cs == ChunkState.FREE
    assert probe.engine.stats.n_media_errors == 1


@pytest.mark.parametrize(
    ("kind", "feedback", "status", "bitmap"),
    [
        (OpKind.READ, True, MediaStatus.HIGH_ECC, 0b10),
        (OpKind.READ, False, OK, 0),
        (OpKind.COPY, False, OK, 0),
    ],
)
def test_high_ecc_gives_good_data_and_is_reported(
    make: Make, kind: OpKind, feedback: bool, status: MediaStatus, bitmap: int
) -> None:
    probe = make(rule("high-ecc", pu=0, chk=0, blk=5))
    probe.write(0, 0, 16)
    fields = {"feedback": feedback} if kind is OpKind.READ else {"destinations": [Extent(1, 0, 4)]}
    op = probe.done(kind, [Extent(0, 4, 4)], **fields)
    assert (op.status, op.bitmap) == (status, bitmap)
    assert probe.notices == [Notice(probe.chunk(0).slba + 5, NotificationState.ERROR_RATE_HIGH, 1)]
    if kind is OpKind.READ:
        assert list(probe.bytes_of(op)[:: probe.stride]) == [5, 6, 7, 8]
    else:
        assert probe.fills(1, 0, 4) == [5, 6, 7, 8]


def test_a_read_error_outweighs_high_ecc(make: Make) -> None:
    probe = make(rule("high-ecc", blk=2), rule("read-error", blk=2), rule("high-ecc", blk=0))
    probe.write(0, 0, 4)
    op = probe.done(OpKind.READ, [Extent(0, 0, 4)], feedback=True)
    assert (op.status, op.bitmap) == (MediaStatus.READ_ERROR, 0b100)
    assert [notice.state for notice in probe.notices] == [
        NotificationState.UNRECOVERABLE,
        NotificationState.ERROR_RATE_HIGH,
    ]


def test_blocks_that_cannot_be_read_are_no_access_to_the_media(make: Make) -> None:
    probe = make(rule("read-error"), rule("high-ecc"))
    probe.write(0, 0, 4)
    for extent in (Extent(0, 4, 4), Extent(1, 0, 4), Extent(-1, 0, 4)):
        assert probe.done(OpKind.READ, [extent], feedback=True).status == OK
    assert probe.done(OpKind.READ, [Extent(0, 0, 8)], dulbe=True).status == MediaStatus.UNWRITTEN
    assert probe.notices == []
    assert all(armed.n_matches == 0 for armed in probe.injector.rules)


# --- which accesses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "failing"),
    [
        ({}, range(8)),
        ({"pu": 1}, range(4, 8)),
        ({"chk": range(1, 3)}, [1, 2, 5, 6]),
        ({"grp": 0, "pu": 0, "chk": 3}, [3]),
    ],
)
def test_a_rule_concerns_the_chunks_that_it_names(place: dict[str, object], failing: list[int]) -> None:
    injector = FaultInjector(GEOMETRY, [rule("reset-fail", **place)])
    assert [chunk for chunk in range(8) if injector.reset(chunk)] == list(failing)


def test_nth_is_the_nth_access_and_no_other() -> None:
    injector = FaultInjector(GEOMETRY, [rule("reset-fail", pu=0, nth=3)])
    assert [injector.reset(chunk) for chunk in (0, 4, 1, 5, 2, 3, 0, 1)] == [False] * 4 + [True] + [False] * 3
    [armed] = injector.rules
    assert (armed.n_matches, armed.n_hits) == (6, 1)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_a_probability_is_met(probability: float) -> None:
    injector = FaultInjector(GEOMETRY, [rule("reset-fail", probability=probability, seed=42)])
    n_hits = sum(injector.reset(number % 8) for number in range(4000))
    assert n_hits == pytest.approx(4000 * probability, abs=4000 * 0.03)


def test_the_same_seed_gives_the_same_failures_whatever_goes_on_in_other_chunks() -> None:
    def failures(seed: int, order: list[int]) -> dict[int, list[bool]]:
        injector = FaultInjector(GEOMETRY, [rule("reset-fail", probability=0.5, seed=seed)])
        found: dict[int, list[bool]] = {chunk: [] for chunk in order}
        for chunk in order:
            found[chunk].append(injector.reset(chunk))
        return found

    in_turn = list(range(8)) * 20
    assert failures(42, in_turn) == failures(42, sorted(in_turn)) == failures(42, in_turn[::-1])
    assert failures(42, in_turn) != failures(43, in_turn)


def test_rules_come_and_go() -> None:
    injector = FaultInjector(GEOMETRY)
    assert not injector.reset(0)
    number = injector.add(rule("reset-fail"))
    assert injector.reset(0)
    assert injector.remove(number)
    assert not injector.remove(number)
    assert not injector.reset(0)


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        (rule("early-close", grp=1), "grp"),
        (rule("early-close", pu=range(1, 3)), "pu"),
        (rule("early-close", chk=4), "chk"),
        (rule("early-close", blk=16), "blk"),
        (rule("reset-fail", blk=0), "blk"),
        (rule("read-error", probability=1.5), "probability"),
        (rule("read-error", nth=0), "nth"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(wrong: FaultRule, key: str) -> None:
    with pytest.raises(FaultRuleError) as caught:
        FaultInjector(GEOMETRY).add(wrong)
    assert caught.value.key == key
