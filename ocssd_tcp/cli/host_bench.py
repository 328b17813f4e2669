"""`ocssd bench`: puts a load on a drive and says how many commands it took, and how long each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column, Table

from ocssd_tcp.cli.host_common import (
    EXIT_STATUS,
    Session,
    address_text,
    connection_options,
    console,
    emit,
    size_text,
)
from ocssd_tcp.cli.host_load import Histogram, Load, OpcodeStats, Workload
from ocssd_tcp.host import Drive, UsageError
from ocssd_tcp.wire.opcodes import MAX_VECTOR_LBAS
from ocssd_tcp.wire.status import describe

#: Mode: the share of reads, and whether it uses vector commands unless told; None: as the options say.
MODES: dict[str, tuple[float | None, bool | None]] = {
    "randread": (1.0, False),
    "seqwrite": (0.0, False),
    "vecread": (1.0, True),
    "vecwrite": (0.0, True),
    "mix": (None, None),
}
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20}
_MOST_BYTES = 1 << 20
_DEFAULT_MIX, _DEFAULT_VECTOR, _DEFAULT_SECONDS = 70, 16, 5.0
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
_REDRAW_SECONDS = 0.25
_BUSY = 0.9  #: share of a core from which on the load tool is what limits


def parse_size(value: str) -> int:
    """4096, 4KiB, 128k: bytes of data of one command."""
    digits = value.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = _UNITS.get(value[len(digits) :].strip().lower())
    if unit is None or not digits.isascii() or not digits.isdecimal() or len(digits) > 8:
        raise click.BadParameter(f"{value!r} is not a size, as 4096, 4KiB or 128KiB")
    size = int(digits) * unit
    if not 0 < size <= _MOST_BYTES:
        raise click.BadParameter(f"{value!r}: 1 byte to {size_text(_MOST_BYTES)}")
    return size


@click.command()
@click.option("--mode", type=click.Choice(list(MODES)), default="randread", show_default=True, help="Kind of load.")
@click.option("--mix", type=click.IntRange(0, 100), help=f"Mode mix: percent of reads.  [default: {_DEFAULT_MIX}]")
@click.option(
    "-s", "--size", type=parse_size, metavar="SIZE",
    help="Data of a command, without metadata: 4KiB, 128KiB.  [default: one block to read, ws_min to write]",
)  # fmt: skip
@click.option(
    "--vector", type=click.IntRange(1, MAX_VECTOR_LBAS), metavar="N",
    help=f"LBAs of a vector command; with mode mix, use these.  [default: {_DEFAULT_VECTOR}]",
)  # fmt: skip
@click.option(
    "-q", "--qd", type=click.IntRange(1, 1024), default=1, show_default=True, help="In flight per connection."
)
@click.option("-c", "--connections", type=click.IntRange(1, 256), default=1, show_default=True, help="I/O queues.")
@click.option(
    "-t", "--time", "seconds", type=click.FloatRange(0, 86400, min_open=True), metavar="SECONDS",
    help=f"How long to measure.  [default: {_DEFAULT_SECONDS:g}, without --count]",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1), help="End after so many commands.")
@click.option("--warm-up", type=click.FloatRange(0, 3600), default=0.5, show_default=True, help="Seconds before that.")
@click.option("--chunks", type=click.IntRange(1, 4096), default=8, show_default=True, help="Chunks to read from.")
@click.option("--verify", is_flag=True, help="Compare all that is read, and what was written at the end.")
@click.option("--keep", is_flag=True, help="Leave the data; otherwise the chunks are reset afterwards.")
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), help="Of data and addresses; random if absent.")
@connection_options
def bench(session: Session, keep: bool, **options: Any) -> None:
    """Measure commands per second and latencies.

    Reads are random, in chunks that are filled before. Writes fill chunks from the first block to the last; every
    command in flight has chunks of its own, which are reset when they are full (shown apart). Vector reads name single
    blocks anywhere, vector writes ws_min blocks in each of several chunks; with --form progression each is one run of
    blocks. Only Free chunks are used, and they are Free again at the end.

    The load tool is one Python process: above the rate that it can do itself it measures itself. It says what share of
    a core it took; close to 100 % the drive may be faster than the figures.
    """
    uvloop.run(_bench(session, keep, options))


async def _bench(session: Session, keep: bool, options: dict[str, Any]) -> None:
    qd, connections = options["qd"], options["connections"]
    # A staged list needs an entry beside that of its command; one entry stays free.
    wanted = replace(session.options, queues=connections, queue_size=2 * qd + 1)
    drive = await replace(session, options=wanted).open()
    async with drive.controller:
        load = Load(drive, workload(drive, **options))
        try:
            async with _progress(session, load):
                await load.prepare()
                await load.measure()
                if load.work.verify:
                    await load.read_back()
            if session.as_json:
                emit(result(load, options["mode"]))
            else:
                show(load, options["mode"])
        finally:
            if not keep:
                await load.tidy_up()
        if load.wrong or any(stats.errors for stats in load.stats.values()):
            sys.exit(EXIT_STATUS)


def workload(
    drive: Drive,
    *,
    mode: str,
    mix: int | None,
    size: int | None,
    vector: int | None,
    qd: int,
    connections: int,
    seconds: float | None,
    count: int | None,
    warm_up: float,
    chunks: int,
    verify: bool,
    seed: int | None,
) -> Workload:
    """What the options ask for. UsageError if they do not go together or not with the drive's blocks."""
    share, by_vector = MODES[mode]
    if share is not None and mix is not None:
        raise UsageError(f"--mix goes with --mode mix, not {mode}")
    if share is None:
        share = (_DEFAULT_MIX if mix is None else mix) / 100
    if by_vector is None:
        by_vector = vector is not None
    if vector is not None and not by_vector:
        raise UsageError(f"--vector goes with the modes vecread, vecwrite and mix, not {mode}")
    if by_vector:
        if size is not None:
            raise UsageError("a vector command's size is its --vector blocks: leave out --size")
        n_blocks = _DEFAULT_VECTOR if vector is None else vector
    else:
        n_blocks, rest = divmod(size or 0, drive.namespace.block_bytes)
        if rest:
            raise UsageError(f"--size {size}: blocks of this drive have {drive.namespace.block_bytes} bytes")
        n_blocks = n_blocks or (1 if share == 1 else drive.geometry.ws_min)
    return Workload(
        read_share=share,
        n_blocks=n_blocks,
        vector=by_vector,
        qd=qd,
        connections=connections,
        seconds=_DEFAULT_SECONDS if seconds is None and count is None else seconds,
        count=count,
        warm_up=warm_up,
        verify=verify,
        n_chunks=chunks,
        seed=int.from_bytes(os.urandom(8)) if seed is None else seed,
    )


@contextlib.asynccontextmanager
async def _progress(session: Session, load: Load) -> AsyncIterator[None]:
    """A bar on standard error, drawn by the loop: a thread would take the interpreter from the load."""
    if session.as_json or not sys.stderr.isatty():
        yield
        return
    bar = Progress(
        TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"),
        transient=True, auto_refresh=False, console=Console(stderr=True),
    )  # fmt: skip
    task = bar.add_task("", total=1.0)

    async def draw() -> None:
        while True:
            bar.update(task, description=load.phase, completed=load.fraction())
            bar.refresh()
            await asyncio.sleep(_REDRAW_SECONDS)

    with bar:
        drawing = asyncio.create_task(draw())
        try:
            yield
        finally:
            drawing.cancel()


# --- results ----------------------------------------------------------------------------------


def _rows(load: Load) -> list[OpcodeStats]:
    """What happened of each opcode; of reads and writes together if there were both."""
    seen = [stats for stats in load.stats.values() if stats.latency.n or stats.errors]
    moving = [stats for stats in seen if stats.n_bytes]
    if len(moving) > 1:
        both = OpcodeStats("both", Histogram(), sum(stats.n_bytes for stats in moving))
        for stats in moving:
            both.latency.merge(stats.latency)
            both.errors.update(stats.errors)
        seen.insert(len(moving), both)
    return seen


def _figures(load: Load, stats: OpcodeStats) -> dict[str, Any]:
    """IOPS, MB/s (10^6 bytes) and latencies in microseconds."""
    seconds, latency = max(load.elapsed, 1e-9), stats.latency
    microseconds = {"mean": latency.mean} | {name: latency.quantile(share) for name, share in _QUANTILES.items()}
    return {
        "commands": latency.n,
        "iops": round(latency.n / seconds, 1),
        "mb_per_s": round(stats.n_bytes / seconds / 1e6, 2),
        "latency_us": {name: round(ns / 1000, 1) for name, ns in (microseconds | {"max": latency.max}).items()},
        "errors": {describe(status): count for status, count in stats.errors.items()},
    }


def result(load: Load, mode: str) -> dict[str, Any]:
    """All figures. `tool_cpu`: share of a core that the load tool itself took."""
    work = load.work
    return {
        "mode": mode,
        "command_bytes": work.n_blocks * load.drive.block_bytes,
        "qd": work.qd,
        "connections": work.connections,
        "read_share": work.read_share,
        "form": load.form.name.lower() if work.vector else None,
        "seconds": round(load.elapsed, 3),
        "tool_cpu": round(_busy(load), 3),
        "opcodes": {stats.name: _figures(load, stats) for stats in _rows(load)},
        "errors": sum(sum(stats.errors.values()) for stats in load.stats.values()),
        "verified": work.verify,
        "wrong_blocks": load.wrong,
        "first_wrong_lba": load.first_wrong,
    }


def _busy(load: Load) -> float:
    return load.cpu / max(load.elapsed, 1e-9)


def show(load: Load, mode: str) -> None:
    """The same for people."""
    work = load.work
    form = f", lists by {load.form.name.lower()}" if work.vector else ""
    what = (
        f"{mode}: {size_text(work.n_blocks * load.drive.block_bytes)} per command, {work.qd} in flight on each of "
        f"{work.connections} connection{'s' * (work.connections > 1)}{form}, {load.elapsed:.1f} s; latencies in us"
    )
    table = Table(Column(), box=None, pad_edge=False)
    for heading in ("commands", "IOPS", "MB/s", "mean", *_QUANTILES, "max"):
        table.add_column(heading, justify="right")
    for stats in _rows(load):
        found = _figures(load, stats)
        cells = [str(found["commands"]), f"{found['iops']:.0f}", f"{found['mb_per_s']:.1f}"]
        cells += [f"{value:.0f}" for value in found["latency_us"].values()]
        table.add_row(stats.name, *cells)
    out = console()
    out.print(what, soft_wrap=True)
    out.print(table)
    for stats in load.stats.values():
        for status, count in stats.errors.items():
            out.print(f"{count} x {stats.name} failed: {describe(status)}", style="red", markup=False)
    if load.first_wrong is not None:
        first = address_text(load.drive, load.first_wrong)
        out.print(f"DIFFERENT: {load.wrong} blocks; the first is {first}", style="red")
    elif work.verify:
        out.print("All data that was read is right.")
    note = f"The load tool took {_busy(load):.0%} of a core"
    if _busy(load) > _BUSY:
        note += ": it is the limit here, and the drive may be faster"
    out.print(f"{note}.")
