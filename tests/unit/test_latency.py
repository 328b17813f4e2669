"""The flash model without any clock, and the filter with one that the test holds."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.config.schema import LatencyConfig, keys_of
from ocssd_tcp.media.filters.latency import FLASH, REFUSALS, Bus, Latency, LatencyModel, LatencyParams
from ocssd_tcp.media.ops import Extent, MediaOp, MediaStatus, OpKind
from ocssd_tcp.ocssd.geometry import U32_MAX, Geometry
from tests.support_time import FakeTimers, Obedient, operation

#: Two groups of two parallel units; chunk c is on unit c // 4.
GRID = Geometry(num_grp=2, num_pu=2, num_chk=4, clba=64, ws_min=4, ws_opt=8, mw_cunits=0)
READ, PROGRAM, ERASE, MOVE = 100, 1000, 5000, 30
PARAMS = LatencyParams(READ, PROGRAM, ERASE, MOVE)

kinds = st.sampled_from([OpKind.READ, OpKind.WRITE, OpKind.COMMIT, OpKind.RESET, OpKind.COPY])
extents = st.builds(Extent, st.integers(-1, GRID.n_chunks - 1), st.integers(0, 60), st.integers(1, 16))
lists = st.lists(extents, min_size=1, max_size=4)
commands = st.lists(st.tuples(st.integers(0, 3000), kinds, lists, lists), min_size=1, max_size=25)


def unit(chunk: int, n_units: int = 1, lblk: int = 0) -> Extent:
    return Extent(chunk, lblk, 4 * n_units)


def charge(model: LatencyModel, kind: OpKind, entries: Sequence[Extent], now: int = 0, **fields: object) -> int:
    return model.charge(operation(kind, entries, **fields), now)  # type: ignore[arg-type]


# --- what one command takes on an idle drive ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "entries", "ends"),
    [
        (OpKind.READ, [unit(0)], READ + MOVE),
        (OpKind.READ, [Extent(0, 0, 1)], READ + MOVE),  # part of a write unit is read as a whole
        (OpKind.READ, [Extent(0, 3, 2)], 2 * (READ + MOVE)),  # two units are touched
        (OpKind.READ, [unit(0, 3)], 3 * (READ + MOVE)),
        (OpKind.READ, [unit(0), unit(1)], 2 * (READ + MOVE)),  # two chunks of one parallel unit
        (OpKind.READ, [unit(0), unit(4)], READ + 2 * MOVE),  # two parallel units of one group share its bus
        (OpKind.READ, [unit(0), unit(8)], READ + MOVE),  # two groups do not
        (OpKind.READ, [unit(0), unit(4), unit(8), unit(12)], READ + 2 * MOVE),
        (OpKind.READ, [Extent(-1, 0, 64)], 0),  # no chunk there
        (OpKind.WRITE, [unit(0)], MOVE + PROGRAM),
        (OpKind.COMMIT, [unit(0)], MOVE + PROGRAM),
        (OpKind.WRITE, [unit(0, 2)], 2 * (MOVE + PROGRAM)),
        (OpKind.WRITE, [unit(0), unit(4)], 2 * MOVE + PROGRAM),
        (OpKind.WRITE, [unit(0), unit(8)], MOVE + PROGRAM),
        (OpKind.RESET, [Extent(0, 0, 1)], ERASE),
        (OpKind.RESET, [Extent(0, 0, 1), Extent(1, 0, 1)], 2 * ERASE),
        (OpKind.RESET, [Extent(0, 0, 1), Extent(4, 0, 1), Extent(8, 0, 1)], ERASE),
    ],
)
def test_time_of_one_command(kind: OpKind, entries: list[Extent], ends: int) -> None:
    assert charge(LatencyModel(GRID, PARAMS), kind, entries, 700) == (700 + ends if ends else 700)


@pytest.mark.parametrize(
    ("sources", "destinations", "ends"),
    [
        ([unit(0)], [unit(8)], READ + MOVE + MOVE + PROGRAM),
        ([unit(0)], [unit(1)], READ + MOVE + MOVE + PROGRAM),
        ([unit(0), unit(8)], [unit(4), unit(12)], READ + MOVE + MOVE + PROGRAM),
        ([unit(0, 2)], [unit(4), unit(8)], 2 * (READ + MOVE) + MOVE + PROGRAM),
    ],
)
def test_a_copy_is_read_whole_before_it_is_programmed(
    sources: list[Extent], destinations: list[Extent], ends: int
) -> None:
    assert charge(LatencyModel(GRID, PARAMS), OpKind.COPY, sources, destinations=destinations) == ends


def test_commands_queue_on_their_parallel_unit_only() -> None:
    model = LatencyModel(GRID, PARAMS)
    assert charge(model, OpKind.RESET, [unit(0)]) == ERASE
    assert charge(model, OpKind.READ, [unit(1)], 10) == ERASE + READ + MOVE
    assert charge(model, OpKind.READ, [unit(4)], 10) == 10 + READ + MOVE


def test_a_transfer_planned_for_later_keeps_nobody_from_the_bus_until_then() -> None:
    model = LatencyModel(GRID, PARAMS)
    charge(model, OpKind.WRITE, [unit(0, 8)])  # transfers at 0, 1030, 2060 ...
    assert charge(model, OpKind.READ, [unit(4)], 10) == 10 + READ + MOVE
    assert charge(model, OpKind.READ, [unit(4)], 920) == 1060 + MOVE  # would be ready at 1020, ten too late for the gap


def test_a_time_of_zero_is_no_time() -> None:
    model = LatencyModel(GRID, LatencyParams(0, 0, 0, 0))
    assert {charge(model, kind, [unit(0), unit(4)], 5) for kind in (OpKind.READ, OpKind.WRITE, OpKind.RESET)} == {5}


@pytest.mark.parametrize("status", sorted(set(MediaStatus) - {MediaStatus.OK}))
def test_a_refusal_costs_nothing_and_a_failure_of_the_flash_its_time(status: MediaStatus) -> None:
    model = LatencyModel(GRID, PARAMS)
    assert charge(model, OpKind.WRITE, [unit(0)], 9, status=status) == (9 if status in REFUSALS else 9 + MOVE + PROGRAM)


@pytest.mark.parametrize(
    ("status", "bitmap", "whole", "ends"),
    [
        (MediaStatus.INVALID_RESET, 0b01, False, ERASE),  # both are on one unit, one was erased
        (MediaStatus.INVALID_RESET, 0b11, False, 0),
        (MediaStatus.INVALID_RESET, 0b01, True, 0),
        (MediaStatus.INVALID_ADDRESS, 0, False, 0),
        (MediaStatus.OFFLINE_CHUNK, 0b01, False, 2 * ERASE),  # the failed one was tried
    ],
)
def test_a_reset_is_charged_for_the_entries_that_it_tried(
    status: MediaStatus, bitmap: int, whole: bool, ends: int
) -> None:
    model = LatencyModel(GRID, PARAMS)
    entries = [Extent(0, 0, 1), Extent(1, 0, 1)]
    assert charge(model, OpKind.RESET, entries, status=status, bitmap=bitmap, whole=whole) == ends


# --- what holds for every stream of commands ---------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(commands, st.sampled_from([0.0, 0.3]))
def test_no_unit_does_two_things_at_once_and_no_command_beats_its_own_work(
    stream: list[tuple[int, OpKind, list[Extent], list[Extent]]], jitter: float
) -> None:
    model = LatencyModel(GRID, dataclasses.replace(PARAMS, jitter=jitter))
    shortest = {OpKind.READ: READ + MOVE, OpKind.RESET: ERASE, OpKind.COPY: READ + MOVE}
    now, latest = 0, [0] * GRID.n_pu
    for pause, kind, sources, destinations in stream:
        now += pause
        finish = charge(model, kind, sources, now, destinations=destinations)
        places = {entry.chunk // 4 for entry in (*sources, *(destinations if kind is OpKind.COPY else ()))}
        is_work = any(entry.chunk >= 0 for entry in sources)
        assert finish >= now + (shortest.get(kind, MOVE + PROGRAM) if is_work and not jitter else 0)
        if len(places) == 1 and is_work:  # one unit's alone: it ends after all that this unit has been given
            (pu,) = places
            assert finish >= latest[pu]
            latest[pu] = finish


@settings(max_examples=60, deadline=None)
@given(lists, st.sampled_from([OpKind.READ, OpKind.WRITE, OpKind.RESET]))
def test_a_command_that_spans_units_without_a_common_bus_ends_with_its_last(
    entries: list[Extent], kind: OpKind
) -> None:
    wide = dataclasses.replace(GRID, num_grp=4, num_pu=1)
    whole = charge(LatencyModel(wide, PARAMS), kind, entries)
    by_unit = [[entry for entry in entries if entry.chunk // 4 == pu] for pu in range(-1, 4)]
    assert whole == max(charge(LatencyModel(wide, PARAMS), kind, part) for part in by_unit)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 9)), max_size=40))
def test_transfers_on_a_bus_never_overlap_and_take_the_first_gap(requests: list[tuple[int, int, int]]) -> None:
    bus, now, taken = Bus(), 0, set[int]()
    for pause, ahead, length in requests:
        now += pause // 10
        bus.forget(now)
        end = bus.take(now + ahead, length)
        ticks = range(end - length, end)
        assert not taken & set(ticks)
        earlier = range(now + ahead, end - length)
        assert all(taken & set(range(start, start + length)) for start in earlier)
        taken |= set(ticks)
    bus.forget(10**6)
    assert len(bus) == 0


def test_transfers_back_to_back_are_remembered_as_one() -> None:
    bus = Bus()
    assert [bus.take(0, 10), bus.take(20, 10), bus.take(0, 10), bus.take(0, 10)] == [10, 30, 20, 40]
    assert len(bus) == 1


# --- jitter ---------------------------------------------------------------------------------------------------


def times_of_unit(model: LatencyModel, chunk: int, between: Sequence[int], *, pause: int) -> list[int]:
    """What 30 reads of an idle unit take, with a read of each chunk of `between` after each of them."""
    times, now = [], 0
    for _ in range(30):
        now += 10_000 + pause
        times.append(charge(model, OpKind.READ, [unit(chunk)], now) - now)
        for other in between:
            charge(model, OpKind.READ, [unit(other)], now + 500)
    return times


def test_the_same_commands_take_the_same_times_whatever_comes_between_and_when() -> None:
    jittery = dataclasses.replace(PARAMS, jitter=0.2, transfer_ns=0)
    alone = times_of_unit(LatencyModel(GRID, jittery), 0, [], pause=0)
    assert alone == times_of_unit(LatencyModel(GRID, jittery), 0, [4, 8, 12], pause=777)
    assert alone != times_of_unit(LatencyModel(GRID, dataclasses.replace(jittery, seed=2)), 0, [], pause=0)
    assert alone != times_of_unit(LatencyModel(GRID, jittery), 4, [], pause=0)


def test_jitter_is_normal_around_the_time_and_never_negative() -> None:
    model = LatencyModel(GRID, LatencyParams(1000, 0, 0, 0, jitter=0.1))
    times = [charge(model, OpKind.READ, [unit(0)], now) - now for now in range(0, 20_000_000, 10_000)]
    assert abs(statistics.mean(times) - 1000) < 10
    assert abs(statistics.stdev(times) - 100) < 10
    wild = LatencyModel(GRID, LatencyParams(1000, 0, 0, 0, jitter=1.0))
    times = [charge(wild, OpKind.READ, [unit(0)], now) - now for now in range(0, 5_000_000, 10_000)]
    assert min(times) == 0


def test_other_times_begin_the_draws_anew_and_leave_what_is_charged() -> None:
    jittery = dataclasses.replace(PARAMS, jitter=0.2, transfer_ns=0)
    model = LatencyModel(GRID, PARAMS)
    assert charge(model, OpKind.RESET, [unit(0)]) == ERASE
    model.configure(jittery)
    first = charge(model, OpKind.READ, [unit(0)]) - ERASE
    model.configure(jittery)
    assert charge(model, OpKind.READ, [unit(0)], 10**6) - 10**6 == first


# --- what geometry reports -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (FLASH["tlc"], (129_933, 129_933, 2_277_433, 2_277_433, 3_000_000, 3_000_000)),
        (LatencyParams(1000, 2000, 4000, 10, jitter=0.1), (1010, 1310, 2010, 2610, 4000, 5200)),
        (LatencyParams(U32_MAX, U32_MAX, U32_MAX, U32_MAX, jitter=1), (U32_MAX,) * 6),
    ],
)
def test_geometry_has_typical_and_longest_times(params: LatencyParams, expected: tuple[int, ...]) -> None:
    timed = params.timed(GRID)
    assert (timed.trdt, timed.trdm, timed.twrt, timed.twrm, timed.tcrst, timed.tcrsm) == expected
    assert dataclasses.replace(timed, trdt=1, trdm=1, twrt=1, twrm=1, tcrst=1, tcrsm=1) == dataclasses.replace(
        GRID, trdt=1, trdm=1, twrt=1, twrm=1, tcrst=1, tcrsm=1
    )


def test_every_flash_that_the_configuration_offers_has_its_times() -> None:
    (flash,) = (entry for entry in keys_of(LatencyConfig) if entry.name == "flash")
    assert [flash.kind.parse(name) for name in FLASH] == list(FLASH)
    assert flash.kind.allowed == '"slc", "mlc", "tlc" or "qlc"'
    reads = [params.read_ns for params in FLASH.values()]
    assert reads == sorted(reads)


# --- the filter -----------------------------------------------------------------------------------------------


class Bench:
    """A latency filter between a test's media and a test's clock; `ends`: (seconds, entry chunk), as they came."""

    def __init__(self, params: LatencyParams = PARAMS) -> None:
        self.timers = FakeTimers()
        self.inner = Obedient()
        self.filter = Latency(self.inner, model=LatencyModel(GRID, params), timers=self.timers)
        self.ends: list[tuple[int, int]] = []

    def submit(self, kind: OpKind, *chunks: int) -> MediaOp:
        op = operation(kind, [unit(chunk) for chunk in chunks], self.note)
        self.filter.submit(op)
        return op

    def note(self, op: MediaOp) -> None:
        self.ends.append((round(self.timers.time * 1e9), op.extents[0].chunk))


def test_a_completion_is_held_until_its_time_and_the_data_are_not() -> None:
    bench = Bench()
    op = bench.submit(OpKind.READ, 0)
    assert bench.inner.seen == [op]
    assert bench.ends == []
    bench.timers.run()
    assert bench.ends == [(READ + MOVE, 0)]
    assert op.done == bench.note


def test_completions_come_by_time_not_by_submission() -> None:
    bench = Bench()
    bench.submit(OpKind.RESET, 0)
    bench.submit(OpKind.WRITE, 8)
    bench.submit(OpKind.READ, 12)
    bench.timers.run()
    assert bench.ends == [(READ + MOVE, 12), (MOVE + PROGRAM, 8), (ERASE, 0)]


def test_many_held_commands_need_one_timer() -> None:
    bench = Bench()
    for _ in range(32):
        bench.submit(OpKind.READ, 0)
    assert bench.timers.n_armed == 1
    bench.timers.run()
    assert bench.ends == [(number * (READ + MOVE), 0) for number in range(1, 33)]
    assert bench.timers.n_armed == 32


def test_completions_that_are_due_together_come_from_one_timer_in_their_order() -> None:
    bench = Bench(LatencyParams(READ, PROGRAM, ERASE, 0))
    for chunk in (8, 0, 12, 4):
        bench.submit(OpKind.READ, chunk)
    bench.timers.run()
    assert bench.ends == [(READ, 8), (READ, 0), (READ, 12), (READ, 4)]
    assert bench.timers.n_armed == 1


def test_a_completion_that_fails_does_not_keep_the_others_back() -> None:
    bench = Bench(LatencyParams(READ, PROGRAM, ERASE, 0))

    def fail(op: MediaOp) -> None:
        raise RuntimeError(op.extents[0].chunk)

    bench.filter.submit(operation(OpKind.READ, [unit(0)], fail))
    bench.submit(OpKind.READ, 4)
    with pytest.raises(RuntimeError):
        bench.timers.run()
    bench.timers.run()
    assert [chunk for _, chunk in bench.ends] == [4]


@pytest.mark.parametrize("kind", [OpKind.RESERVE, OpKind.ABORT, OpKind.FLUSH])
def test_what_touches_no_flash_passes(kind: OpKind) -> None:
    bench = Bench()
    bench.submit(kind, 0)
    assert bench.ends == [(0, 0)]
    bench.submit(OpKind.COMMIT, 0)
    bench.timers.run()
    assert bench.ends[1:] == [(MOVE + PROGRAM, 0)]


def test_a_refused_command_is_answered_at_once() -> None:
    bench = Bench()
    bench.inner.status = MediaStatus.OUT_OF_ORDER
    bench.submit(OpKind.WRITE, 0)
    assert bench.ends == [(0, 0)]


@pytest.mark.parametrize(("disk_ns", "ends"), [(200, MOVE + PROGRAM), (4000, 4000)])
def test_a_write_that_waits_for_the_disk_takes_the_longer_of_both(disk_ns: int, ends: int) -> None:
    bench = Bench()
    bench.inner.defers = True
    bench.submit(OpKind.WRITE, 0)
    bench.timers.run(disk_ns / 1e9)
    bench.inner.finish()
    bench.timers.run()
    assert bench.ends == [(ends, 0)]


def test_other_times_hold_for_what_comes() -> None:
    bench = Bench()
    bench.submit(OpKind.READ, 0)
    bench.filter.configure(LatencyParams(7, 7, 7, 0))
    bench.submit(OpKind.READ, 8)
    bench.timers.run()
    assert bench.ends == [(7, 8), (READ + MOVE, 0)]
