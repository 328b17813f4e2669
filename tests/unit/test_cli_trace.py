"""`ocssd trace`: what is chosen, counted and written, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result

from ocssd_tcp.cli.host import main
from ocssd_tcp.host.trace import by_command, by_pu, columns, media_ns, select, total_ns, touched
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.trace_format import (
    MIN_SLOTS,
    RECORD_BYTES,
    TRACE_RECORD,
    Trace,
    TraceFlag,
    describe,
    file_header,
    parse_trace,
    slots_in,
)

SMALL = Geometry(num_grp=2, num_pu=3, num_chk=5, clba=60, ws_min=4)  # no count is a power of two
WIDE = Geometry(num_grp=4, num_pu=32, num_chk=4, clba=64)
WALL, MONOTONIC = 1_700_000_000_000_000_000, 5_000_000_000
EXTENT = TraceFlag.HAS_EXTENT
WRITE, READ, VECTOR_READ = 0x01, 0x02, 0x92


class Seen(NamedTuple):
    """A command. Times in us since the trace began; `start` None: the media was not asked."""

    lba: int = 0
    arrival: int = 0
    took: int = 10
    start: int | None = 0
    nlb: int = 0
    opcode: int = READ
    qid: int = 1
    nsid: int = 1
    pu_mask: int = 0
    status: int = 0
    flags: int = EXTENT


def lba(geometry: Geometry, grp: int, pu: int, chk: int = 0, blk: int = 0) -> int:
    return grp << geometry.grp_shift | pu << geometry.pu_shift | chk << geometry.chk_shift | blk


def file_of(commands: Sequence[Seen], geometries: Sequence[Geometry] = (SMALL, WIDE), first: int = 1) -> bytes:
    info = {"namespaces": {str(nsid): describe(geometry) for nsid, geometry in enumerate(geometries, 1)}}
    n_slots = slots_in(max(2 * len(commands), MIN_SLOTS) * RECORD_BYTES)
    slots = [bytes(RECORD_BYTES)] * n_slots
    for seq, seen in enumerate(commands, first):
        values = seen._asdict()
        arrival = MONOTONIC + values.pop("arrival") * 1000
        start, took = values.pop("start"), values.pop("took")
        slots[seq % n_slots] = TRACE_RECORD.pack(
            **values, seq=seq, check=seq, cid=seq & 0xFFFF, cntlid=3, arrival=arrival,
            start=0 if start is None else arrival + start * 1000, completion=arrival + took * 1000,
        )  # fmt: skip
    return file_header(n_slots, info, WALL, MONOTONIC) + b"".join(slots)


def trace_of(*commands: Seen, **options: Any) -> Trace:
    return parse_trace(file_of(commands, **options))


# --- parallel units -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "units"),
    [
        (Seen(lba(SMALL, 0, 0)), ["0/0"]),
        (Seen(lba(SMALL, 1, 2, 4, 59)), ["1/2"]),
        (Seen(lba(SMALL, 0, 1, 7, 60), nlb=10), ["0/1", "0/2"]),  # over the end of the chunk field
        (Seen(lba(SMALL, 0, 2, 7, 60), nlb=10), ["0/2"]),  # there is no 0/3
        (Seen(lba(SMALL, 0, 0), nlb=0xFFFF), ["0/0", "0/1", "0/2", "1/0", "1/1", "1/2"]),
        (Seen(lba(SMALL, 0, 3)), []),
        (Seen(lba(SMALL, 2, 0)), []),
        (Seen((1 << 64) - 1, nlb=5), []),
        (Seen(lba(SMALL, 0, 1), nlb=1, pu_mask=0b100010), ["0/1", "1/1"]),
        (Seen(lba(SMALL, 0, 1), pu_mask=0b11000), ["1/0"]),  # bit 3 names no unit
        (Seen(flags=0), []),
        (Seen(nsid=7), []),
    ],
)
def test_a_command_touches_the_units_of_its_blocks(seen: Seen, units: list[str]) -> None:
    trace = trace_of(seen)
    names = trace.pu_map(1)
    assert sorted(names.name(int(pu)) for pu in touched(trace, trace.records, 1).pu) == units


def test_on_a_wide_drive_a_list_counts_for_its_first_unit() -> None:
    trace = trace_of(
        Seen(lba(WIDE, 3, 1), nsid=2, pu_mask=0b11 << 33, nlb=1), Seen(lba(WIDE, 3, 2, 3, 63), nsid=2, nlb=1)
    )
    rows = by_pu(trace, trace.records, total_ns(trace.records), 2)
    assert [(row.name, row.n_commands) for row in rows] == [("3/1", 1), ("3/2", 1), ("3/3", 1)]


# --- counting -------------------------------------------------------------------------------------------


def test_percentiles_are_durations_that_occurred() -> None:
    trace = trace_of(*(Seen(took=us, arrival=us) for us in range(1, 1001)))
    [row] = by_command(trace.records, total_ns(trace.records))
    assert row == ("read", 1000, 0, 1000, (500_000, 900_000, 990_000, 999_000))


def test_commands_are_counted_by_kind_with_errors_and_blocks() -> None:
    trace = trace_of(
        Seen(opcode=6, qid=0, flags=0), Seen(nlb=7), Seen(nlb=0, status=0x281), Seen(opcode=WRITE, nlb=3),
        Seen(opcode=0x6A, flags=0, status=1),
    )  # fmt: skip
    rows = by_command(trace.records, total_ns(trace.records))
    assert [(row.name, row.n_commands, row.errors, row.blocks) for row in rows] == [
        ("read", 2, 1, 9), ("6ah", 1, 1, 0), ("write", 1, 0, 4), ("admin identify", 1, 0, 0),
    ]  # fmt: skip


def test_media_time_begins_when_the_media_is_asked() -> None:
    records = trace_of(Seen(start=4, took=10), Seen(start=None, took=10)).records
    assert list(total_ns(records)) == [10_000, 10_000]
    assert list(media_ns(records)) == [6_000, 0]


@pytest.mark.parametrize(
    ("chosen", "arrivals"),
    [
        ({}, [0, 10, 20, 30]),
        ({"nsids": [2]}, [30]),
        ({"nsids": [1, 2]}, [0, 10, 20, 30]),
        ({"pus": ["0/0"]}, [0, 20, 30]),
        ({"pus": ["1/2"]}, [10, 20]),
        ({"pus": ["1/2"], "nsids": [2]}, []),
        ({"pus": ["9/9"]}, []),
        ({"since_ns": 10_000}, [10, 20, 30]),
        ({"until_ns": 10_000}, [0]),
        ({"since_ns": 5_000, "until_ns": 25_000, "pus": ["0/0"]}, [20]),
    ],
)
def test_commands_are_chosen_by_namespace_unit_and_time(chosen: dict[str, Any], arrivals: list[int]) -> None:
    trace = trace_of(
        Seen(),
        Seen(lba(SMALL, 1, 2), arrival=10),
        Seen(arrival=20, nlb=1, pu_mask=1 | 1 << 6),
        Seen(nsid=2, arrival=30),
    )
    records = select(trace, **chosen)
    assert [int(at - MONOTONIC) // 1000 for at in records["arrival"]] == arrivals


def test_columns_leave_out_what_a_command_does_not_have() -> None:
    trace = trace_of(
        Seen(lba(SMALL, 1, 2, 3, 4), nlb=1, arrival=7, flags=EXTENT | TraceFlag.FUA),
        Seen(flags=0, start=None),
        Seen(nsid=9),
    )
    table = columns(trace, trace.records)
    absent = {name: [int(no) for no in c.is_absent] for name, c in table.items() if c.is_absent is not None}
    assert absent["lba"] == absent["blocks"] == [0, 1, 0]
    assert absent["grp"] == absent["pu"] == [0, 1, 1]
    assert absent["start_ns"] == [0, 1, 0]
    first = {name: column.values[0] for name, column in table.items()}
    assert (first["grp"], first["pu"], first["blocks"], first["fua"], first["plain"]) == (1, 2, 2, True, False)
    assert (first["time"], first["arrival_ns"], first["completion_ns"]) == (WALL + 7000, 7000, 17000)


# --- as typed -------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A trace whose ring has lost ten commands."""
    file = tmp_path / "t"
    commands = [Seen(arrival=at * 100_000, took=at + 1, nlb=1) for at in range(10)]
    file.write_bytes(file_of([*commands, Seen(nsid=2, arrival=2_000_000, status=0x281)], first=11))
    return file


def ocssd(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["trace", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def summary(*arguments: object) -> Any:
    result = ocssd(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_summary_is_for_people(path: Path) -> None:
    shown = ocssd(path).stdout
    assert shown.startswith(
        "11 commands in 2.000 s; 10 before them were overwritten. The trace began 2023-11-14 22:13:20 UTC."
    )
    assert [line.split() for line in shown.splitlines()[2:4]] == [
        ["command", "commands", "errors", "blocks", "p50", "p90", "p99", "p99.9"],
        ["read", "11", "1", "21", "6.0", "10.0", "10.0", "10.0"],
    ]
    assert "nsid 1, PU" in shown
    assert "nsid 2, PU" in shown


def test_the_summary_is_for_programs(path: Path) -> None:
    found = summary(path)
    assert (found["commands"], found["overwritten"], found["torn"]) == (11, 10, 0)
    assert found["by_command"] == [
        {"command": "read", "commands": 11, "errors": 1, "blocks": 21, "p50_ns": 6000, "p90_ns": 10000, "p99_ns": 10000,
         "p99.9_ns": 10000}
    ]  # fmt: skip
    assert [row["pu"] for row in found["by_pu"]["1"]] == ["0/0"]


@pytest.mark.parametrize(
    ("options", "n_commands"),
    [
        (["--nsid", 2], 1),
        (["--nsid", 1, "--nsid", 2], 11),
        (["--pu", "0/0"], 11),
        (["--pu", "1/1"], 0),
        (["--since", "0.45"], 6),
        (["--until", "0.45"], 5),
        (["--since", datetime.fromtimestamp(WALL / 1e9 + 0.45, UTC).isoformat()], 6),
        (["--since", 99], 0),
        (["--time", "media"], 11),
    ],
)
def test_options_choose_commands(path: Path, options: list[object], n_commands: int) -> None:
    assert summary(path, *options)["commands"] == n_commands
    assert ocssd(path, *options).exit_code == 0


@pytest.mark.parametrize("to_file", [False, True])
def test_csv_has_a_line_for_each_command(path: Path, to_file: bool) -> None:
    target = path.parent / "t.csv"
    result = ocssd(path, "--csv", target if to_file else "-", "--nsid", 2)
    text = target.read_text() if to_file else result.stdout
    assert bool(result.stdout) != to_file
    [row] = csv.DictReader(io.StringIO(text))
    assert {name: row[name] for name in ("number", "command", "nsid", "status", "lba", "pu_mask")} == {
        "number": "21", "command": "read", "nsid": "2", "status": "641", "lba": "0", "pu_mask": "",
    }  # fmt: skip
    assert row["time"] == str(WALL + 2_000_000_000)


def test_csv_of_nothing_is_its_heading(path: Path) -> None:
    assert ocssd(path, "--csv", "-", "--nsid", 5).stdout.startswith("number,time,")


class FakeArrow(ModuleType):
    """As much of pyarrow as is used; `written`: path and columns."""

    def __init__(self) -> None:
        super().__init__("pyarrow")
        self.written: list[tuple[Path, dict[str, Any]]] = []
        self.parquet = ModuleType("pyarrow.parquet")
        self.parquet.write_table = lambda table, path: self.written.append((path, table))  # type: ignore[attr-defined]

    @staticmethod
    def array(values: Any, mask: Any = None) -> list[Any]:
        gaps = [False] * len(values) if mask is None else mask
        return [None if gap else value for value, gap in zip(values.tolist(), gaps, strict=True)]

    @staticmethod
    def table(arrays: dict[str, Any]) -> dict[str, Any]:
        return arrays


def test_parquet_gets_the_same_columns_with_gaps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow = FakeArrow()
    monkeypatch.setitem(sys.modules, "pyarrow", arrow)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", arrow.parquet)
    target = path.parent / "t.parquet"
    assert ocssd(path, "--parquet", target).stdout == ""
    [(written, table)] = arrow.written
    assert written == target
    assert table["number"] == list(range(11, 22))
    assert table["pu_mask"] == [None] * 11


def test_parquet_without_pyarrow_says_what_to_install(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = ocssd(path, "--parquet", path.parent / "t.parquet")
    assert (result.exit_code, "pip install 'ocssd-tcp[parquet]'" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["missing"], "missing: No such file"),
        (["."], "Is a directory"),
        (["empty"], "empty: an empty file"),
        (["text"], "text: not a trace of ocssd-tcpd"),
        (["cut"], "cut: a trace that was cut short"),
        (["t", "--pu", "3"], "'3' is not group/unit"),
        (["t", "--since", "noon"], "'noon' is neither seconds"),
        (["t", "--until", "1e999999"], "'1e999999' is neither seconds"),
        (["t", "--until", "nan"], "'nan' is neither seconds"),
        (["t", "--csv", "missing/x.csv"], "missing/x.csv: No such file"),
    ],
)
def test_what_cannot_be_read_or_written_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    monkeypatch.chdir(path.parent)
    (path.parent / "empty").touch()
    (path.parent / "text").write_text("hello" * 100)
    (path.parent / "cut").write_bytes(path.read_bytes()[:-100])
    result = ocssd(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert part in result.stderr
