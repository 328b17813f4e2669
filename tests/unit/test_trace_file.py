"""The file of a trace: its ring, what a reader takes for whole, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.media.trace import TraceRing, clock, pack_record
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.trace_format import (
    JOINED_RECORD,
    MIN_SLOTS,
    RECORD_BYTES,
    RECORD_HEAD,
    RECORD_SHIFT,
    RECORD_TAIL,
    SEQ_END,
    SEQ_LIMIT,
    TRACE_HEADER,
    TRACE_RECORD,
    TraceError,
    describe,
    file_header,
    parse_trace,
    read_trace,
    slots_in,
    whole_records,
)

GEOMETRY = Geometry()
HEAD, TAIL = RECORD_HEAD.pack(1, 5, 5, 0), RECORD_TAIL.pack(2, 1)
INFO: dict[str, Any] = {"namespaces": {"1": describe(GEOMETRY)}}
SMALLEST = MIN_SLOTS * RECORD_BYTES
FIELDS = TRACE_RECORD.names[1:-1]  #: all but the two numbers


def ring_at(path: Path, n_bytes: int = SMALLEST) -> TraceRing:
    return TraceRing(path, n_bytes, INFO)


def put(ring: TraceRing, cid: int) -> None:
    now = clock()
    ring.put(1, now, now, now, cid, 0, 0, cid & 0xFFFF, 2, 0, 0, 1, 1)


def values() -> st.SearchStrategy[dict[str, int]]:
    """Any record that is complete."""
    bounds = {name: (1 << TRACE_RECORD.fields[name].size * 8) - 1 for name in FIELDS}
    fields = {name: st.integers(int(name == "completion"), bound) for name, bound in bounds.items()}
    return st.fixed_dictionaries(fields)


@settings(max_examples=50, deadline=None)
@given(st.lists(values(), max_size=100))
def test_what_was_recorded_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t"
    ring = ring_at(path)
    for record in records:
        ring.put(**record)
    kept = records[-MIN_SLOTS:]
    found = read_trace(path)
    assert [{name: int(row[name]) for name in FIELDS} for row in found.records] == kept
    assert (found.n_torn, found.n_lost) == (0, len(records) - len(kept))
    ring.close()


@settings(max_examples=50, deadline=None)
@given(values(), st.integers(1, SEQ_END))
def test_joined_and_separate_fields_are_the_same_bytes(record: dict[str, int], seq: int) -> None:
    head = RECORD_HEAD.pack(record["nsid"], record["arrival"], record["start"], record["completion"])
    kind = record["opcode"] | record["flags"] << 8 | record["status"] << 16
    tail = RECORD_TAIL.pack(kind, record["qid"] | record["cntlid"] << 16)
    joined = JOINED_RECORD.pack(seq, head, record["lba"], record["pu_mask"], record["nlb"], record["cid"], tail, seq)
    assert joined == TRACE_RECORD.pack(seq=seq, check=seq, **record)


@pytest.mark.parametrize("n_written", [0, 1, MIN_SLOTS - 1, MIN_SLOTS, MIN_SLOTS + 1, 3 * MIN_SLOTS + 7])
def test_the_ring_keeps_the_newest(tmp_path: Path, n_written: int) -> None:
    ring = ring_at(tmp_path / "t")
    for cid in range(n_written):
        put(ring, cid)
    found = read_trace(tmp_path / "t")
    assert list(found.records["cid"]) == list(range(max(0, n_written - MIN_SLOTS), n_written))
    assert ring.n_recorded == n_written


@pytest.mark.parametrize("n_bytes", range(RECORD_BYTES))
@pytest.mark.parametrize("has_wrapped", [False, True])
def test_a_record_cut_anywhere_is_left_out(tmp_path: Path, n_bytes: int, has_wrapped: bool) -> None:
    """As a process dies in the middle of one: zeros first, then the bytes from the front."""
    ring = ring_at(tmp_path / "t")
    ring.seq = 0x01010101  # no byte of a number is zero: whatever is missing shows
    for cid in range(1, MIN_SLOTS + 1 if has_wrapped else 5):
        put(ring, cid)
    whole = TRACE_RECORD.pack(**dict.fromkeys(FIELDS, 0x77), seq=ring.seq, check=ring.seq)
    at = ring.seq << RECORD_SHIFT & ring.mask
    ring.view[at : at + RECORD_BYTES] = whole[:n_bytes].ljust(RECORD_BYTES, b"\0")
    found = read_trace(tmp_path / "t")
    assert 0x7777 not in found.records["cid"]
    assert len(found.records) == (MIN_SLOTS - 1 if has_wrapped else 4)
    assert found.n_torn == any(whole[:n_bytes])


@pytest.mark.parametrize("n_zeros", range(1, RECORD_BYTES))
def test_a_record_that_is_being_cleared_is_left_out(tmp_path: Path, n_zeros: int) -> None:
    ring = ring_at(tmp_path / "t")
    for cid in range(1, MIN_SLOTS + 1):
        put(ring, cid)
    at = ring.seq << RECORD_SHIFT & ring.mask
    ring.view[at : at + n_zeros] = bytes(n_zeros)
    assert len(read_trace(tmp_path / "t").records) == MIN_SLOTS - 1


@pytest.mark.parametrize("n", [4, 6, 7, 9])  # few are completed one by one
def test_commands_of_one_receive_complete_together_and_not_before(tmp_path: Path, n: int) -> None:
    ring = ring_at(tmp_path / "t")
    for cid in range(MIN_SLOTS - 3):
        put(ring, cid)
    first = ring.seq
    for cid in range(n):  # across the end of the ring
        seq, ring.seq = ring.seq, ring.seq + 1
        pack_record(ring.view, seq << RECORD_SHIFT & ring.mask, seq, HEAD, 0, 0, 0, 1000 + cid, TAIL, seq)
    before = read_trace(tmp_path / "t")
    assert max(before.records["cid"]) < 1000
    assert before.n_torn == n
    ring.complete(first)
    records = read_trace(tmp_path / "t").records
    assert list(records["cid"][:-n]) == list(range(n - 3, MIN_SLOTS - 3))
    after = records[-n:]
    assert list(after["cid"]) == list(range(1000, 1000 + n))
    assert len(set(after["completion"])) == 1


def test_more_commands_in_one_receive_than_the_ring_holds_complete_too(tmp_path: Path) -> None:
    ring = ring_at(tmp_path / "t")
    first = ring.seq
    for cid in range(2 * MIN_SLOTS + 9):
        seq, ring.seq = ring.seq, ring.seq + 1
        pack_record(ring.view, seq << RECORD_SHIFT & ring.mask, seq, HEAD, 0, 0, 0, cid, TAIL, seq)
    ring.complete(first)
    assert list(read_trace(tmp_path / "t").records["cid"]) == list(range(MIN_SLOTS + 9, 2 * MIN_SLOTS + 9))


@pytest.mark.parametrize("start", [SEQ_LIMIT - 5, SEQ_END - 5])
@pytest.mark.parametrize("looks", [False, True], ids=["one by one", "looking before"])
def test_numbers_begin_anew_without_a_gap_in_the_order(tmp_path: Path, start: int, looks: bool) -> None:
    ring = ring_at(tmp_path / "t")
    ring.seq = start
    for cid in range(30):
        if looks:
            ring.renumber()
        put(ring, cid)
    assert list(read_trace(tmp_path / "t").records["cid"]) == list(range(30))
    assert ring.seq < SEQ_END


def test_a_ring_whose_numbers_have_wrapped_is_in_order() -> None:
    slots = np.zeros(MIN_SLOTS, TRACE_RECORD.dtype)
    for cid, seq in enumerate([*range((1 << 32) - 3, 1 << 32), *range(MIN_SLOTS, MIN_SLOTS + 20)]):
        slots[seq % MIN_SLOTS] = np.frombuffer(
            TRACE_RECORD.pack(seq=seq, check=seq, completion=1, cid=cid), TRACE_RECORD.dtype
        )[0]
    records, n_torn = whole_records(slots)
    assert (list(records["cid"]), n_torn) == (list(range(23)), 0)


@pytest.mark.parametrize(
    ("n_bytes", "n_slots"),
    [(0, MIN_SLOTS), (SMALLEST, MIN_SLOTS), (SMALLEST + 1, MIN_SLOTS), (64 << 20, 1 << 20), (100 << 20, 1 << 20)],
)
def test_a_ring_has_a_power_of_two_of_records(n_bytes: int, n_slots: int) -> None:
    assert slots_in(n_bytes) == n_slots


def test_the_header_tells_the_geometry_and_the_time(tmp_path: Path) -> None:
    ring_at(tmp_path / "t").close()
    found = read_trace(tmp_path / "t")
    assert (found.nsids, found.n_slots, len(found.records)) == ([1], MIN_SLOTS, 0)
    assert found.pu_map(1).pu_shift == GEOMETRY.pu_shift
    assert found.wall(found.monotonic_ns + 5) == found.wall_ns + 5


def test_an_earlier_trace_is_kept_once(tmp_path: Path) -> None:
    for cid in (1, 2, 3):
        ring = ring_at(tmp_path / "t")
        put(ring, cid)
        ring.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t", "t.old"]
    assert list(read_trace(tmp_path / "t.old").records["cid"]) == [2]
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_what_is_no_trace_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t"
    {
        "file": lambda: path.write_text("mine"),
        "folder": path.mkdir,
        "dangling link": lambda: path.symlink_to("nowhere"),
    }[kind]()
    with pytest.raises(FileExistsError, match="no trace") as caught:
        ring_at(path)
    assert caught.value.filename == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t"]


def test_a_trace_that_does_not_fit_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space") as caught:
        ring_at(tmp_path / "t")
    assert caught.value.filename == str(tmp_path / "t")
    assert not list(tmp_path.iterdir())


def whole_file() -> bytearray:
    return bytearray(file_header(MIN_SLOTS, INFO, 1, 2) + bytes(SMALLEST))


def changed(**fields: int | bytes) -> bytes:
    data = whole_file()
    data[: TRACE_HEADER.size] = TRACE_HEADER.pack(**(TRACE_HEADER.unpack_from(data) | fields))
    return bytes(data)


def with_info(info: object) -> bytes:
    data = file_header(MIN_SLOTS, {}, 1, 2)
    text = json.dumps(info).encode()
    header = TRACE_HEADER.unpack_from(data) | {"info_bytes": len(text)}
    return (TRACE_HEADER.pack(**header) + text).ljust(len(data), b"\0") + bytes(SMALLEST)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a trace"),
        (b"OCSSDTRC", "not a trace"),
        (b"\0" * 5000, "not a trace"),
        (changed(version=2), "version 2"),
        (changed(record_bytes=32), "version"),
        (changed(n_slots=0), "damaged"),
        (changed(n_slots=65), "damaged"),
        (changed(n_slots=1 << 31), "damaged"),
        (changed(info_bytes=1 << 40), "damaged"),
        (changed(info_bytes=5000), "cut short"),
        (changed(records_offset=8192), "cut short"),
        (changed(n_slots=128), "cut short"),
        (bytes(whole_file()[:-1]), "cut short"),
        (changed(info_bytes=3), "damaged"),
        (with_info([]), "damaged"),
        (with_info({"namespaces": 5}), "damaged"),
        (with_info({"namespaces": {"x": describe(GEOMETRY)}}), "damaged"),
        (with_info({"namespaces": {"1": {}}}), "damaged"),
        (with_info({"namespaces": {"1": describe(GEOMETRY) | {"lbk_len": 900}}}), "damaged"),
        (with_info({"namespaces": {"1": describe(GEOMETRY) | {"num_pu": True}}}), "damaged"),
    ],
)
def test_a_damaged_file_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(TraceError, match=why):
        parse_trace(data)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_no_damage_does_worse_than_an_error(at: int, junk: bytes) -> None:
    data = whole_file()
    data[at : at + len(junk)] = junk
    try:
        found = parse_trace(bytes(data))
    except TraceError:
        return
    assert found.n_slots == MIN_SLOTS


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").touch()
    with pytest.raises(TraceError, match="empty"):
        read_trace(tmp_path / "t")
