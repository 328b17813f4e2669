"""`ocssd trace`: what a drive's trace says, as a summary, as CSV or as Parquet."""

from __future__ import annotations

import contextlib
import csv
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import click
from rich.table import Table

from ocssd_tcp.cli.host_common import EXIT_USAGE, console, emit
from ocssd_tcp.host.trace import PERMILLE, Row, by_command, by_pu, columns, media_ns, select, total_ns
from ocssd_tcp.ocssd.trace_format import Records, Trace, TraceError, read_trace

_ROWS_AT_ONCE = 1 << 16
_NS = 1_000_000_000
_DURATIONS = {"total": total_ns, "media": media_ns}


def _moment(value: str) -> float | datetime:
    """Seconds since the trace began, or a date and time (of this machine's zone, unless it says otherwise)."""
    try:
        seconds = float(value)
        if math.isfinite(seconds):
            return seconds
    except ValueError:
        with contextlib.suppress(ValueError, OverflowError):
            return datetime.fromisoformat(value).astimezone()
    raise click.BadParameter(
        f"{value!r} is neither seconds since the trace began, as 1.5, nor a time, as 2026-01-31T12:00"
    )


def _pu_name(value: str) -> str:
    grp, slash, pu = value.partition("/")
    if not (slash and grp.isdecimal() and pu.isdecimal()):
        raise click.BadParameter(f"{value!r} is not group/unit, as 0/3")
    return f"{int(grp)}/{int(pu)}"


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--csv", "csv_path", metavar="FILE", help="Write the commands as CSV; - is standard output.")
@click.option("--parquet", "parquet_path", type=click.Path(path_type=Path), metavar="FILE", help="Or as Parquet.")
@click.option("--nsid", "nsids", type=click.IntRange(0, 0xFFFFFFFF), multiple=True, help="Only this namespace.")
@click.option("--pu", "pus", type=_pu_name, multiple=True, metavar="GRP/PU", help="Only commands that touch this PU.")
@click.option(
    "--since",
    type=_moment,
    metavar="TIME",
    help="Only from then on: seconds since the trace began, or a date and time.",
)
@click.option("--until", type=_moment, metavar="TIME", help="Only before then.")
@click.option(
    "--time",
    "duration",
    type=click.Choice(list(_DURATIONS)),
    default="total",
    show_default=True,
    help="What the percentiles are of: arrival to response, or from the moment the media was asked.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable summary.")
def trace(
    file: Path,
    csv_path: str | None,
    parquet_path: Path | None,
    nsids: Sequence[int],
    pus: Sequence[str],
    since: float | datetime | None,
    until: float | datetime | None,
    duration: str,
    as_json: bool,
) -> None:
    """Summarise a trace that `ocssd-tcpd` wrote ([trace] path), or write it as a table for other programs.

    FILE may still be in use by the daemon.
    """
    try:
        found = read_trace(file)
    except TraceError as error:
        _refuse(f"{file}: {error}")
    except OSError as error:
        _refuse(f"{file}: {error.strerror}")
    records = select(found, nsids=nsids, pus=pus, since_ns=_ns(found, since), until_ns=_ns(found, until))
    try:
        if csv_path == "-":
            _write_csv(found, records, sys.stdout)
        elif csv_path is not None:
            with open(csv_path, "w", newline="", encoding="utf-8") as out:
                _write_csv(found, records, out)
        if parquet_path is not None:
            _write_parquet(found, records, parquet_path)
    except OSError as error:
        _refuse(f"{error.filename or csv_path or parquet_path}: {error.strerror or error}")
    if csv_path is None and parquet_path is None:
        _summarise(found, records, duration, as_json=as_json)


def _refuse(message: str) -> Any:
    click.echo(f"ocssd: {message}", err=True)
    sys.exit(EXIT_USAGE)


def _ns(found: Trace, moment: float | datetime | None) -> int | None:
    if isinstance(moment, datetime):
        return int(moment.timestamp() * _NS) - found.wall_ns
    return None if moment is None else int(moment * _NS)


def _write_csv(found: Trace, records: Records, out: TextIO) -> None:
    writer = csv.writer(out)
    for start in range(0, max(len(records), 1), _ROWS_AT_ONCE):
        table = columns(found, records[start : start + _ROWS_AT_ONCE])
        if not start:
            writer.writerow(table)
        cells = []
        for column in table.values():
            values = column.values.tolist()
            if column.is_absent is not None:
                values = ["" if no else value for value, no in zip(values, column.is_absent.tolist(), strict=True)]
            cells.append(values)
        writer.writerows(zip(*cells, strict=True))


def _write_parquet(found: Trace, records: Records, path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        _refuse("Parquet needs pyarrow: pip install 'ocssd-tcp[parquet]', or use --csv")
    arrays = {name: pyarrow.array(c.values, mask=c.is_absent) for name, c in columns(found, records).items()}
    pyarrow.parquet.write_table(pyarrow.table(arrays), path)


# --- summary ----------------------------------------------------------------------------------


def _summarise(found: Trace, records: Records, duration: str, *, as_json: bool) -> None:
    times = _DURATIONS[duration](records)
    commands = by_command(records, times)
    units = {nsid: by_pu(found, records, times, nsid) for nsid in found.nsids}
    began = datetime.fromtimestamp(found.wall_ns / _NS, UTC)
    seconds = (int(records["completion"].max()) - int(records["arrival"].min())) / _NS if len(records) else 0.0
    if as_json:
        emit(
            {
                "began": began.isoformat(),
                "commands": len(records),
                "seconds": seconds,
                "overwritten": found.n_lost,
                "torn": found.n_torn,
                "time": duration,
                "by_command": [_fields(row, "command") for row in commands],
                "by_pu": {nsid: [_fields(row, "pu") for row in rows] for nsid, rows in units.items() if rows},
            }
        )
        return
    out = console()
    lost = f"; {found.n_lost} before them were overwritten" if found.n_lost else ""
    torn = f"; {found.n_torn} are not whole and left out" if found.n_torn else ""
    out.print(f"{len(records)} commands in {seconds:.3f} s{lost}{torn}. The trace began {began:%Y-%m-%d %H:%M:%S} UTC.")
    if commands:
        out.print(_table("command", f"{duration} time", commands))
    for nsid, rows in units.items():
        if rows:
            out.print(_table(f"nsid {nsid}, PU", f"{duration} time", rows))


def _fields(row: Row, name: str) -> dict[str, Any]:
    spread = {f"p{part / 10:g}_ns": value for part, value in zip(PERMILLE, row.percentiles, strict=True)}
    return {name: row.name, "commands": row.n_commands, "errors": row.errors, "blocks": row.blocks, **spread}


def _table(name: str, title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=f"{title}, us", title_justify="left", box=None, pad_edge=False)
    table.add_column(name)
    for heading in ("commands", "errors", "blocks", *(f"p{part / 10:g}" for part in PERMILLE)):
        table.add_column(heading, justify="right")
    for row in rows:
        spread = (f"{value / 1000:.1f}" for value in row.percentiles)
        table.add_row(row.name, str(row.n_commands), str(row.errors), str(row.blocks), *spread)
    return table
