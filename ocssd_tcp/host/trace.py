"""What a trace says: its commands chosen, named, laid out in columns, and counted with percentiles.

trace = read_trace(Path("drive.trace"))
reads = select(trace, nsids=[1], pus=["0/3"], since_ns=1_000_000_000)
for row in by_command(reads, total_ns(reads)):
    print(row.name, row.n_commands, row.percentiles)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ocssd_tcp.ocssd.trace_format import MASK_BITS, Records, Trace, TraceFlag
from ocssd_tcp.wire.opcodes import command_name

PERMILLE = (500, 900, 990, 999)  #: of the durations that are at most a row's `percentiles`
_MAX_SPAN = 1 << 16  #: parallel units that one command of consecutive blocks can touch

Times = NDArray[np.uint64]


class Row(NamedTuple):
    """Commands of one kind. `errors`: those with a status other than 0. `percentiles`: ns, at PERMILLE."""

    name: str
    n_commands: int
    errors: int
    blocks: int
    percentiles: tuple[int, ...]


class Touch(NamedTuple):
    """Which command touched which parallel unit: two arrays of the same length. `record`: its index."""

    record: NDArray[np.intp]
    pu: NDArray[np.uint64]


@dataclass(frozen=True)
class Column:
    """A column of a table: a value for each command, and where there is none."""

    values: NDArray[Any]
    is_absent: NDArray[np.bool_] | None = None


def total_ns(records: Records) -> Times:
    """From arrival to response."""
    return _between(records["arrival"], records["completion"])


def media_ns(records: Records) -> Times:
    """From the moment the media was asked to the response; 0 for commands that never got that far."""
    spent = _between(records["start"], records["completion"])
    spent[records["start"] == 0] = 0
    return spent


def _between(begin: Times, end: Times) -> Times:
    return np.where(end > begin, end - begin, 0).astype(np.uint64)


def select(
    trace: Trace,
    *,
    nsids: Collection[int] = (),
    pus: Collection[str] = (),
    since_ns: int | None = None,
    until_ns: int | None = None,
) -> Records:
    """Commands of some namespaces, on some parallel units (`group/unit`), that arrived in some time.

    Times count from the beginning of the trace; `until_ns` is the first that is too late. Nothing given: all.
    """
    records = trace.records
    chosen = np.ones(len(records), bool)
    if nsids:
        chosen &= np.isin(records["nsid"], list(nsids))
    since = records["arrival"].astype(np.int64) - trace.monotonic_ns
    if since_ns is not None:
        chosen &= since >= since_ns
    if until_ns is not None:
        chosen &= since < until_ns
    if pus:
        on_pu = np.zeros(len(records), bool)
        for nsid in trace.nsids:
            touch, names = touched(trace, records, nsid), trace.pu_map(nsid)
            wanted = [pu for pu in np.unique(touch.pu) if names.name(int(pu)) in pus]
            on_pu[touch.record[np.isin(touch.pu, wanted)]] = True
        chosen &= on_pu
    return records[chosen]


def touched(trace: Trace, records: Records, nsid: int) -> Touch:
    """Which of a namespace's commands touched which of its parallel units (by their part of the address).

    Where there are more than 64 units, commands with a list of addresses count for the unit of their first block only.
    """
    names = trace.pu_map(nsid)
    index = np.flatnonzero((records["nsid"] == nsid) & (records["flags"] & TraceFlag.HAS_EXTENT != 0))
    shift = np.uint64(names.pu_shift)
    mask = records["pu_mask"][index]
    first = records["lba"][index] >> shift
    last = np.where(mask != 0, first, records["lba"][index] + records["nlb"][index] >> shift)
    if names.n_addresses > MASK_BITS:
        mask[:] = 0
    rows, pus = [index[mask == 0]], [first[mask == 0]]
    for at in np.flatnonzero((mask == 0) & (last > first)):
        further = np.arange(first[at] + 1, min(int(last[at]), int(first[at]) + _MAX_SPAN) + 1, dtype=np.uint64)
        rows.append(np.full(len(further), index[at]))
        pus.append(further)
    for bit in range(MASK_BITS):
        listed = index[mask >> np.uint64(bit) & np.uint64(1) != 0]
        rows.append(listed)
        pus.append(np.full(len(listed), bit, np.uint64))
    record, pu = np.concatenate(rows), np.concatenate(pus)
    exists = names.existing(pu)
    return Touch(record[exists], pu[exists])


def by_command(records: Records, times: Times) -> list[Row]:
    """A row for each kind of command, I/O before admin, most frequent first."""
    key = (records["qid"] == 0).astype(np.uint16) << 8 | records["opcode"]
    rows = []
    for code in np.unique(key):
        index = np.flatnonzero(key == code)
        row = _row(command_name(int(code) & 0xFF, is_io=code < 1 << 8), records, times, index)
        rows.append((int(code) >> 8, -row.n_commands, row))
    return [row for _, _, row in sorted(rows)]


def by_pu(trace: Trace, records: Records, times: Times, nsid: int) -> list[Row]:
    """A row for each parallel unit of a namespace that was touched; a command counts for every unit it touched."""
    names, touch = trace.pu_map(nsid), touched(trace, records, nsid)
    order = np.argsort(touch.pu, kind="stable")
    units, begins = np.unique(touch.pu[order], return_index=True)
    parts = np.split(touch.record[order], begins[1:]) if len(units) else []
    return [_row(names.name(int(pu)), records, times, index) for pu, index in zip(units, parts, strict=True)]


def _row(name: str, records: Records, times: Times, index: NDArray[np.intp]) -> Row:
    chosen = records[index]
    has_blocks = chosen["flags"] & TraceFlag.HAS_EXTENT != 0
    blocks = int(chosen["nlb"][has_blocks].astype(np.uint64).sum()) + int(np.count_nonzero(has_blocks))
    durations = np.sort(times[index])
    found = [durations[-(-part * len(durations) // 1000) - 1] for part in PERMILLE]
    errors = int(np.count_nonzero(chosen["status"]))
    return Row(name, len(index), errors, blocks, tuple(int(value) for value in found))


def columns(trace: Trace, records: Records) -> dict[str, Column]:
    """A trace as a table for other programs. Times in ns: `time` since 1970, the others since the trace began.

    `lba`, `blocks`, `grp` and `pu` (of the first block) are absent for commands that name no blocks.
    """
    no_blocks = records["flags"] & TraceFlag.HAS_EXTENT == 0
    no_start = records["start"] == 0
    address_pu = np.zeros(len(records), np.uint64)
    grp, pu, has_pu = address_pu.copy(), address_pu.copy(), np.zeros(len(records), bool)
    for nsid in trace.nsids:
        names = trace.pu_map(nsid)
        mine = records["nsid"] == nsid
        address_pu[mine] = records["lba"][mine] >> np.uint64(names.pu_shift)
        grp[mine] = address_pu[mine] >> np.uint64(names.pu_len)
        pu[mine] = address_pu[mine] & np.uint64((1 << names.pu_len) - 1)
        has_pu[mine] = names.existing(address_pu[mine])
    key = list(zip(records["qid"].tolist(), records["opcode"].tolist(), strict=True))
    names_of = {(qid, opcode): command_name(opcode, is_io=qid > 0) for qid, opcode in set(key)}
    since = {name: records[name].astype(np.int64) - trace.monotonic_ns for name in ("arrival", "start", "completion")}
    return {
        "number": Column(records["seq"]),
        "time": Column(since["arrival"] + trace.wall_ns),
        "arrival_ns": Column(since["arrival"]),
        "start_ns": Column(since["start"], no_start),
        "completion_ns": Column(since["completion"]),
        "nsid": Column(records["nsid"]),
        "cntlid": Column(records["cntlid"]),
        "qid": Column(records["qid"]),
        "cid": Column(records["cid"]),
        "opcode": Column(records["opcode"]),
        "command": Column(np.array([names_of[pair] for pair in key], dtype=object)),
        "lba": Column(records["lba"], no_blocks),
        "blocks": Column(records["nlb"].astype(np.uint32) + 1, no_blocks),
        "grp": Column(grp, no_blocks | ~has_pu),
        "pu": Column(pu, no_blocks | ~has_pu),
        "pu_mask": Column(records["pu_mask"], records["pu_mask"] == 0),
        "status": Column(records["status"]),
        "fua": Column(records["flags"] & TraceFlag.FUA != 0),
        "plain": Column(records["flags"] & TraceFlag.PLAIN != 0),
    }
