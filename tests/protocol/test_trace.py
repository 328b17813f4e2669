"""What the trace records of commands, whichever engine handles them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ocssd_tcp.media.trace import TraceRing
from ocssd_tcp.ocssd.trace_format import Records, TraceFlag, describe, read_trace
from tests.support_target import (
    DSM,
    FLUSH,
    NO_SQ_FLOW,
    R2T,
    READ,
    SMALL,
    VECTOR_COPY,
    VECTOR_READ,
    VECTOR_RESET,
    VECTOR_WRITE,
    WRITE,
    Host,
    Target,
    capsule,
    complete_engine_only,
    h2c,
    pattern,
)

PU1 = 1 << SMALL.pu_shift
BLOCK = SMALL.block_bytes
UNIT = SMALL.ws_min * BLOCK
PROGRESSION = 2
LIST_IN_DATA = 1
LIST_AT_CAPSULE = 4


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path / "drive")
    yield made
    stop(made)
    made.close()


def start(target: Target, path: Path, n_bytes: int = 1 << 16) -> TraceRing:
    ring = TraceRing(path, n_bytes, {"namespaces": {"1": describe(SMALL)}})
    target.directory.subsystem.trace = ring
    return ring


def stop(target: Target) -> None:
    ring, target.directory.subsystem.trace = target.directory.subsystem.trace, None
    if ring is not None:
        ring.close()


def records_of(ring: TraceRing) -> Records:
    return read_trace(ring.path).records


def listed(*lbas: int) -> dict[str, Any]:
    """A list that stands in the capsule."""
    return {"data": struct.pack(f"<{len(lbas)}Q", *lbas), "cdw12": len(lbas) - 1, "cdw13": LIST_AT_CAPSULE}


#: a name, the opcode, what is sent, and what the record says: lba, blocks, pu_mask, status, media asked
CASES: list[tuple[str, int, dict[str, Any], tuple[int | None, int, int, int, bool]]] = [
    ("read", READ, {"slba": 2, "cdw12": 2, "sgl_length": 3 * BLOCK}, (2, 3, 0, 0, True)),
    ("read with FUA", READ, {"slba": 2, "cdw12": 1 << 30, "sgl_length": BLOCK}, (2, 1, 0, 0, True)),
    ("write in the capsule", WRITE, {"slba": 8, "cdw12": 3, "data": bytes(UNIT)}, (8, 4, 0, 0, True)),
    ("write on R2T", WRITE, {"slba": 8, "cdw12": 3, "payload": bytes(UNIT)}, (8, 4, 0, 0, True)),
    ("write out of order", WRITE, {"slba": 16, "cdw12": 3, "data": bytes(UNIT)}, (16, 4, 0, 0x2F2, True)),
    (
        "vector read of both units",
        VECTOR_READ,
        listed(0, 1, PU1, PU1 + 3) | {"sgl_type": 0x5A, "sgl_length": 4 * BLOCK},
        (0, 4, 0b11, 0, True),
    ),
    (
        "vector read by a progression",
        VECTOR_READ,
        {"slba": PU1, "cdw12": 1, "cdw13": PROGRESSION, "cdw14": 1, "sgl_length": 2 * BLOCK},
        (PU1, 2, 0b10, 0, True),
    ),
    ("vector write of one block", VECTOR_WRITE, {"slba": 8, "payload": bytes(BLOCK)}, (8, 1, 0b1, 0x2, True)),
    ("vector reset", VECTOR_RESET, {"slba": PU1}, (PU1, 1, 0b10, 0, True)),
    ("flush", FLUSH, {}, (None, 1, 0, 0, True)),
    ("dataset management", DSM, {"data": struct.pack("<IIQ", 0, 64, PU1), "cdw11": 4}, (PU1, 1, 0b10, 0, True)),
    ("no such namespace", READ, {"nsid": 9, "slba": 2, "sgl_length": BLOCK}, (2, 1, 0, 0xB, False)),
    ("an unknown opcode", 0x6A, {}, (None, 1, 0, 0x1, False)),
    ("a wrong length", READ, {"slba": 2, "sgl_length": 5 * BLOCK}, (2, 1, 0, None, False)),  # type: ignore[list-item]
]


@pytest.mark.parametrize("cattr", [0, NO_SQ_FLOW])
@pytest.mark.parametrize("is_complete", [False, True])
@pytest.mark.parametrize(
    ("opcode", "fields", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_command_is_recorded_with_its_place_and_outcome(
    target: Target,
    tmp_path: Path,
    is_complete: bool,
    cattr: int,
    opcode: int,
    fields: dict[str, Any],
    expected: tuple[int | None, int, int, int | None, bool],
) -> None:
    with complete_engine_only() if is_complete else nullcontext():
        host = target.host(cattr=cattr)
    for first in (0, PU1):
        assert host.write(first, pattern(2 * UNIT)) == 0
    ring = start(target, tmp_path / "trace")
    answers = host.command(opcode, cid=77, **fields)
    (record,) = records_of(ring)
    lba, blocks, pu_mask, status, is_asked = expected
    assert (record["opcode"], record["cid"], record["qid"], record["cntlid"]) == (opcode, 77, 1, host.cntlid)
    assert record["nsid"] == fields.get("nsid", 1)
    assert bool(record["flags"] & TraceFlag.HAS_EXTENT) == (lba is not None)
    assert (record["lba"], record["nlb"] + 1) == (lba or 0, blocks)
    # One run of blocks says where it is without a mask.
    assert record["pu_mask"] in {pu_mask, 0 if pu_mask.bit_count() == 1 else pu_mask}
    assert record["status"] == (answers[-1].status & 0x7FF if status is None else status)
    assert bool(record["flags"] & TraceFlag.FUA) == bool(fields.get("cdw12", 0) >> 30 & 1)
    if is_asked:
        assert 0 < record["arrival"] <= record["start"] <= record["completion"]
    else:
        assert record["start"] == 0 < record["arrival"] <= record["completion"]


def test_vector_write_on_r2t_names_both_units(target: Target, tmp_path: Path) -> None:
    host = target.host()
    ring = start(target, tmp_path / "trace")
    lbas = [*range(4), *range(PU1, PU1 + 4)]
    status = host.command(VECTOR_WRITE, payload=bytes(8 * BLOCK), sgl_type=0x5A, **listed(*lbas))[-1].status
    (record,) = records_of(ring)
    assert (status, record["status"], record["pu_mask"], record["lba"], record["nlb"]) == (0, 0, 0b11, 0, 7)


def test_copies_name_where_they_read_and_where_they_write(target: Target, tmp_path: Path) -> None:
    host = target.host()
    assert host.write(0, pattern(UNIT)) == 0
    ring = start(target, tmp_path / "trace")
    lists = struct.pack("<8Q", *range(4), *range(PU1, PU1 + 4))
    assert host.status(VECTOR_COPY, lists, cdw12=3, cdw13=LIST_IN_DATA) == 0
    (record,) = records_of(ring)
    assert (record["pu_mask"], record["lba"], record["nlb"]) == (0b11, 0, 3)


def test_admin_and_fabrics_commands_are_recorded(target: Target, tmp_path: Path) -> None:
    host = target.host()
    ring = start(target, tmp_path / "trace")
    host.command(0x06, qid=0, nsid=0, cdw10=1, sgl_length=4096)
    host.admin.ask(host.fabrics_pdu(0x04, 0x1C))
    identify, get = records_of(ring)
    assert (identify["qid"], identify["opcode"], identify["status"]) == (0, 0x06, 0)
    assert (get["qid"], get["opcode"], get["nsid"]) == (0, 0x7F, 0)
    assert not (identify["flags"] | get["flags"]) & TraceFlag.HAS_EXTENT


def test_a_whole_buffer_of_reads_is_recorded_in_order(target: Target, tmp_path: Path) -> None:
    host = target.host(cattr=NO_SQ_FLOW)
    assert host.write(0, pattern(2 * UNIT)) == 0
    ring = start(target, tmp_path / "trace", 64 * 64)
    for turn in range(5):  # more than the ring holds, and across its end
        host.io.feed(b"".join(capsule(READ, cid, nsid=1, slba=cid % 8, sgl_length=BLOCK) for cid in range(30)))
        assert len(records_of(ring)) == min(30 * (turn + 1), ring.n_slots)
    records = records_of(ring)
    assert list(records["seq"]) == list(range(150 - 64 + 1, 151))
    assert list(records["cid"][-30:]) == list(range(30))
    assert all(records["completion"] >= records["arrival"])
    assert len(set(records["completion"][-30:])) == 1


def test_data_in_pieces_keep_the_commands_arrival(target: Target, tmp_path: Path) -> None:
    host = target.host()
    ring = start(target, tmp_path / "trace")
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, slba=0, cdw12=3, sgl_length=UNIT))
    assert r2t.kind == R2T
    assert len(records_of(ring)) == 0
    half = UNIT // 2
    host.io.feed(h2c(5, r2t.ttag, 0, bytes(half), last=False))
    host.io.feed(h2c(5, r2t.ttag, half, bytes(half)))
    (record,) = records_of(ring)
    assert record["arrival"] < record["start"] <= record["completion"]


def test_writes_that_land_in_turn_keep_their_places(target: Target, tmp_path: Path) -> None:
    host = target.host()
    ring = start(target, tmp_path / "trace")
    (first,) = host.io.ask(capsule(WRITE, 5, nsid=1, slba=0, cdw12=3, sgl_length=UNIT))
    (second,) = host.io.ask(capsule(WRITE, 6, nsid=1, slba=4, cdw12=3, sgl_length=UNIT))
    host.io.feed(h2c(6, second.ttag, 0, bytes(UNIT)))
    assert len(records_of(ring)) == 0
    host.io.feed(h2c(5, first.ttag, 0, bytes(UNIT)))
    found = {int(record["cid"]): record for record in records_of(ring)}
    assert {cid: (int(record["lba"]), int(record["nlb"])) for cid, record in found.items()} == {5: (0, 3), 6: (4, 3)}
    assert all(0 < record["arrival"] < record["start"] <= record["completion"] for record in found.values())


def test_a_cid_in_use_leaves_the_record_to_the_first_command(target: Target, tmp_path: Path) -> None:
    host = target.host()
    ring = start(target, tmp_path / "trace")
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, slba=0, cdw12=3, sgl_length=UNIT))
    (refused,) = host.io.ask(capsule(FLUSH, 5, nsid=1))
    assert refused.status & 0x7FF == 0x3
    host.io.feed(h2c(5, r2t.ttag, 0, bytes(UNIT)))
    (record,) = records_of(ring)
    assert (record["opcode"], record["status"]) == (WRITE, 0)


def test_commands_under_way_survive_the_end_of_the_trace(target: Target, tmp_path: Path) -> None:
    host = target.host()
    first = start(target, tmp_path / "trace")
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, slba=0, cdw12=3, sgl_length=UNIT))
    stop(target)
    (answer,) = host.io.ask(h2c(5, r2t.ttag, 0, bytes(UNIT)))
    assert answer.status == 0
    assert len(records_of(first)) == 0


@pytest.mark.parametrize("n_pdus", [1, 2])
@pytest.mark.parametrize("is_complete", [False, True])
def test_a_command_that_ends_between_two_traces_is_in_neither(
    target: Target, tmp_path: Path, is_complete: bool, n_pdus: int
) -> None:
    with complete_engine_only() if is_complete else nullcontext():
        host = target.host()
    first = start(target, tmp_path / "first")
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, slba=0, cdw12=3, sgl_length=UNIT))
    stop(target)
    size = UNIT // n_pdus
    for offset in range(0, UNIT, size):
        host.io.feed(h2c(5, r2t.ttag, offset, bytes(size), last=offset + size == UNIT))
    assert host.io.take()[-1].status == 0
    second = start(target, tmp_path / "second")
    assert host.read(0, 4) == bytes(UNIT)
    assert [record["opcode"] for record in (*records_of(first), *records_of(second))] == [READ]


def test_commands_that_a_lost_connection_took_along_are_not_recorded(target: Target, tmp_path: Path) -> None:
    host = target.host()
    ring = start(target, tmp_path / "trace")
    host.io.ask(capsule(WRITE, 5, nsid=1, slba=0, cdw12=3, sgl_length=UNIT))
    host.io.cut()
    assert len(records_of(ring)) == 0


def test_tracing_does_not_change_an_answer(target: Target, tmp_path: Path) -> None:
    host = Host(target, cattr=NO_SQ_FLOW)
    host.connect()
    host.connect_io()
    assert host.write(0, pattern(2 * UNIT)) == 0
    stream = b"".join(capsule(READ, cid, nsid=1, slba=cid, sgl_length=BLOCK) for cid in range(9))
    before = host.io.ask(stream)
    start(target, tmp_path / "trace")
    assert host.io.ask(stream) == before


def test_a_plain_write_that_is_aborted_is_recorded_as_that(target: Target, tmp_path: Path) -> None:
    host = target.host()
    ring = start(target, tmp_path / "trace")
    host.io.ask(capsule(WRITE, 5, nsid=1, slba=PU1, cdw12=3, sgl_length=UNIT))
    host.command(0x08, qid=0, nsid=0, cdw10=1 | 5 << 16)
    found = {int(record["opcode"]): record for record in records_of(ring)}
    assert (found[0x08]["status"], found[WRITE]["status"]) == (0, 0x7)
    assert (found[WRITE]["cid"], found[WRITE]["qid"], found[WRITE]["lba"], found[WRITE]["nlb"]) == (5, 1, PU1, 3)
    assert 0 < found[WRITE]["arrival"] <= found[WRITE]["completion"]


@pytest.mark.parametrize("is_complete", [False, True])
def test_a_command_from_before_the_trace_is_not_recorded(target: Target, tmp_path: Path, is_complete: bool) -> None:
    with complete_engine_only() if is_complete else nullcontext():
        host = target.host()
    (before,) = host.io.ask(capsule(WRITE, 5, nsid=1, slba=0, cdw12=3, sgl_length=UNIT))
    ring = start(target, tmp_path / "trace")
    (after,) = host.io.ask(capsule(WRITE, 6, nsid=1, slba=PU1, cdw12=3, sgl_length=UNIT))
    host.io.feed(h2c(5, before.ttag, 0, bytes(UNIT)))
    host.io.feed(h2c(6, after.ttag, 0, bytes(UNIT)))
    assert [(record["cid"], record["status"]) for record in records_of(ring)] == [(6, 0)]


def test_what_was_answered_before_a_fatal_error_is_recorded(target: Target, tmp_path: Path) -> None:
    with complete_engine_only():
        host = target.host()
    ring = start(target, tmp_path / "trace")
    host.io.feed(capsule(READ, 5, nsid=1, slba=0, sgl_length=BLOCK) + b"\xff" * 128)
    assert [(record["cid"], record["status"]) for record in records_of(ring)] == [(5, 0)]


def test_a_response_that_leaves_by_itself_is_recorded_first(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that waits for another connection's: its response is sent outside of any receive of its own."""
    ring = start(target, tmp_path / "trace")
    ahead, behind = target.host(), target.host()
    (first,) = ahead.io.ask(capsule(WRITE, 5, nsid=1, slba=0, cdw12=3, sgl_length=UNIT))
    (second,) = behind.io.ask(capsule(WRITE, 6, nsid=1, slba=4, cdw12=3, sgl_length=UNIT))
    behind.io.feed(h2c(6, second.ttag, 0, bytes(UNIT)))
    seen: list[bool] = []
    connection = behind.io.connection
    monkeypatch.setattr(connection, "_on_output", lambda _: seen.append(6 in records_of(ring)["cid"]))
    ahead.io.feed(h2c(5, first.ttag, 0, bytes(UNIT)))
    assert seen == [True]
