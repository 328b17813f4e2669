"""Commands are counted once each, whichever engine executes them, and the media is timed by group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.tally import (
    MAX_LATENCY_GROUPS,
    N_BUCKETS,
    OPERATIONS,
    Counters,
    Histogram,
    Latencies,
    Outcome,
    PlainTimes,
    Tally,
)
from ocssd_tcp.media.ops import Extent, MediaOp, OpKind
from ocssd_tcp.observe.metrics import namespace_tally
from ocssd_tcp.wire.status import DNR, Status
from tests.support_target import (
    FLUSH,
    READ,
    SMALL,
    VECTOR_READ,
    VECTOR_RESET,
    VECTOR_WRITE,
    WRITE,
    Host,
    Target,
    complete_engine_only,
    timed,
)

BLOCK = SMALL.block_stride
UNIT = SMALL.ws_min


def _write(host: Host) -> None:
    assert host.write(0, bytes(UNIT * BLOCK)) == 0


def _write_by_r2t(host: Host) -> None:
    assert host.write(0, bytes(UNIT * BLOCK), by_r2t=True) == 0


def _read(host: Host) -> None:
    host.read(0)


def _vector_read(host: Host) -> None:
    host.command(VECTOR_READ, slba=0, sgl_length=BLOCK)


def _write_behind(host: Host) -> None:
    assert host.write(UNIT, bytes(UNIT * BLOCK)) == Status.OUT_OF_ORDER_WRITE | DNR


def _vector_reset(host: Host) -> None:
    assert host.status(VECTOR_RESET, slba=0) == Status.INVALID_RESET | DNR


def _flush(host: Host) -> None:
    assert host.status(FLUSH) == 0


def _unknown(host: Host) -> None:
    assert host.status(0xC5) == Status.INVALID_OPCODE | DNR


@pytest.mark.parametrize("is_plain", [True, False], ids=["batch", "complete"])
@pytest.mark.parametrize(
    ("act", "opcode", "status"),
    [
        (_write, WRITE, Status.SUCCESS),
        (_write_by_r2t, WRITE, Status.SUCCESS),
        (_read, READ, Status.SUCCESS),
        (_vector_read, VECTOR_READ, Status.SUCCESS),
        (_write_behind, WRITE, Status.OUT_OF_ORDER_WRITE),
        (_vector_reset, VECTOR_RESET, Status.INVALID_RESET),
        (_flush, FLUSH, Status.SUCCESS),
        (_unknown, 0xC5, Status.INVALID_OPCODE),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_command_is_counted_once(
    tmp_path: Path, act: Callable[[Host], None], opcode: int, status: Status, is_plain: bool
) -> None:
    target = Target(tmp_path)
    if is_plain:
        act(target.host())
    else:
        with complete_engine_only():
            act(target.host())
    assert dict(namespace_tally(target.namespaces[0])) == {Outcome(True, opcode, status): 1}
    target.close()


@pytest.mark.parametrize("is_plain", [True, False], ids=["batch", "complete"])
def test_vector_writes_are_told_from_writes(tmp_path: Path, is_plain: bool) -> None:
    target = Target(tmp_path, (replace(SMALL, ws_min=1, ws_opt=1),))
    host = target.host()
    assert host.status(VECTOR_WRITE, bytes(BLOCK), slba=0) == 0
    assert host.status(VECTOR_WRITE, payload=bytes(BLOCK), slba=1) == 0
    counters = target.namespaces[0].counters
    assert (counters.writes, counters.vector_writes, counters.blocks_written) == (2, 2, 2)
    target.close()


def test_admin_commands_are_counted_by_the_subsystem(tmp_path: Path) -> None:
    target = Target(tmp_path)
    host = target.host()
    before = Tally(target.directory.subsystem.tally)
    assert host.status(0x06, qid=0, nsid=0, cdw10=0xAB, sgl_length=4096) == Status.INVALID_FIELD | DNR
    assert host.status(0x18, qid=0, nsid=0) == Status.SUCCESS
    assert host.status(READ, nsid=77, sgl_length=BLOCK) == Status.INVALID_NAMESPACE | DNR
    after = target.directory.subsystem.tally
    assert {outcome: count - before.get(outcome, 0) for outcome, count in after.items() if outcome not in before} == {
        Outcome(False, 0x06, Status.INVALID_FIELD): 1,
        Outcome(False, 0x18, Status.SUCCESS): 1,
        Outcome(True, READ, Status.INVALID_NAMESPACE): 1,
    }
    target.close()


def test_a_corrected_read_is_a_read_but_no_success() -> None:
    class Corrected:
        tally = Tally({Outcome(True, READ, Status.READ_HIGH_ECC): 2})
        counters = Counters(reads=5, vector_reads=1)

    assert namespace_tally(cast(Namespace, Corrected)) == {
        Outcome(True, READ, Status.SUCCESS): 2,
        Outcome(True, READ, Status.READ_HIGH_ECC): 2,
        Outcome(True, VECTOR_READ, Status.SUCCESS): 1,
    }


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (-1.0, 0),
        (0.0, 0),
        (0.9e-6, 0),
        (1.1e-6, 1),
        (3.9e-6, 2),
        (1e-3, 10),
        (8.0, 23),
        (9.0, 24),
        (1e9, N_BUCKETS - 1),
    ],
)
def test_a_duration_falls_in_the_bucket_of_its_power_of_two(seconds: float, bucket: int) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    assert histogram.buckets.index(1) == bucket
    assert histogram.total == seconds


def _op(kind: OpKind, *extents: Extent) -> MediaOp:
    return MediaOp(kind, extents, lambda _op: None)


@pytest.mark.parametrize(
    ("op", "row"),
    [
        (_op(OpKind.READ, Extent(0, 0, 1)), (0, "read")),
        (_op(OpKind.COMMIT, Extent(7, 0, 4), Extent(0, 0, 4)), (0, "write")),
        (_op(OpKind.WRITE, Extent(8, 0, 4)), (1, "write")),
        (_op(OpKind.RESET, Extent(17, 0, 1)), (2, "reset")),
        (_op(OpKind.READ, Extent(-1, 0, 1)), (-1, "read")),
        (_op(OpKind.FLUSH), (-1, "flush")),
        (_op(OpKind.COPY, Extent(8, 0, 4)), (1, "copy")),
        (_op(OpKind.RESERVE, Extent(0, 0, 4)), None),
        (_op(OpKind.ABORT, Extent(0, 0, 4)), None),
    ],
)
def test_an_operation_is_timed_for_its_first_group(op: MediaOp, row: tuple[int, str] | None) -> None:
    latencies = Latencies(8, 3)
    latencies.add(op, 1e-3)
    assert list(latencies.rows) == ([row] if row else [])


def test_groups_of_their_own_are_bounded() -> None:
    latencies = Latencies(1, 10_000)
    for group in range(MAX_LATENCY_GROUPS + 50):
        latencies.add(_op(OpKind.READ, Extent(group, 0, 1)), 1e-6)
    assert len(latencies.rows) == MAX_LATENCY_GROUPS + 1
    assert sum(latencies.rows[-1, "read"].buckets) == 50
    assert len(latencies.totals) == len(OPERATIONS) * (MAX_LATENCY_GROUPS + 1)


@pytest.mark.parametrize(
    ("opcode", "operation"),
    [(READ, "read"), (WRITE, "write"), (VECTOR_READ, "read"), (VECTOR_WRITE, "write"), (VECTOR_RESET, "reset")],
)
def test_the_low_bits_of_an_opcode_tell_what_it_does(opcode: int, operation: str) -> None:
    assert OPERATIONS[opcode & 3] == operation


def test_a_histogram_has_the_commands_of_a_buffer_with_its_duration() -> None:
    latencies = Latencies(1, 2)
    latencies.add_to(latencies.row(OPERATIONS.index("write"), 1), 3e-6, 7)
    latencies.add_to(latencies.row(OPERATIONS.index("write"), 1), 1e9)
    (histogram,) = latencies.rows.values()
    assert (histogram.buckets[2], histogram.buckets[-1], sum(histogram.buckets)) == (7, 1, 8)
    assert histogram.total == pytest.approx(1e9 + 21e-6)


def test_commands_of_a_buffer_are_counted_when_it_ends() -> None:
    times, first, second = PlainTimes(), Latencies(1, 2), Latencies(1, 2)
    times.begin(5.0)
    times.begin(6.0)  # the complete engine goes on with the same buffer
    assert times.begun == 5.0
    times.count(first, OPERATIONS.index("read"), 1)
    times.count(first, OPERATIONS.index("read"), 1)
    times.count(second, OPERATIONS.index("read"), 2)
    assert first.rows == {}
    times.end()
    times.end()
    assert times.begun == 0
    assert {key: sum(row.buckets) for key, row in first.rows.items()} == {(1, "read"): 2}
    assert {key: sum(row.buckets) for key, row in second.rows.items()} == {(-1, "read"): 1}


def test_operations_of_the_complete_engine_are_timed(tmp_path: Path) -> None:
    target = Target(tmp_path)
    with complete_engine_only():
        host = target.host()
        host.write(0, bytes(UNIT * BLOCK))
        host.write(UNIT, bytes(UNIT * BLOCK), by_r2t=True)
        host.read(0)
    assert timed(target.namespaces[0]) == {(0, "write"): 2, (0, "read"): 1}
    target.close()
