"""`ocssd verify`: fills chunks, reads them back and compares, with many commands in flight."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ocssd_tcp.cli.host_common import (
    EXIT_STATUS,
    AddressText,
    Session,
    address_text,
    drive_command,
    emit,
    free_in_turn,
    parse_address,
    size_text,
    state_name,
)
from ocssd_tcp.host import ChunkDescriptor, ChunkState, Drive, UsageError
from ocssd_tcp.host.client import all_of
from ocssd_tcp.ocssd.geometry import Mccap

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  #: odd, so that no two LBAs share their words


@dataclass
class _Outcome:
    """What was found so far."""

    chunks: int
    bytes: int
    seconds: dict[str, float] = field(default_factory=dict)
    wrong: list[int] = field(default_factory=list)


@click.command()
@click.argument("chunks", type=parse_address, nargs=-1, metavar="[CHUNK]...")
@click.option("--chunks", "n_chunks", type=click.IntRange(1), default=8, show_default=True, help="Free chunks to use.")
@click.option("--qd", type=click.IntRange(1, 1024), default=16, show_default=True, help="Commands in flight.")
@click.option("--keep", is_flag=True, help="Leave the data; otherwise the chunks are reset afterwards.")
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), help="Of the data; random if absent.")
@drive_command
async def verify(
    session: Session,
    drive: Drive,
    chunks: Sequence[AddressText],
    n_chunks: int,
    qd: int,
    keep: bool,
    seed: int | None,
) -> None:
    """Fill chunks, read them back and compare.

    Uses Free chunks only: those named, or --chunks of them spread over the parallel units.
    """
    chosen = await (_named(drive, chunks) if chunks else _spread(drive, n_chunks))
    work = _Verification(drive, chosen, qd, int.from_bytes(os.urandom(8)) if seed is None else seed)
    bar = Progress(
        TextColumn("{task.description:<8}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeRemainingColumn(),
        disable=session.as_json or not sys.stderr.isatty(), transient=True, console=Console(stderr=True),
    )  # fmt: skip
    try:
        with bar:
            await work.run(bar)
    finally:
        if not keep:
            await work.clean_up()
    _report(session, drive, work.outcome, keep)
    if work.outcome.wrong:
        sys.exit(EXIT_STATUS)


async def _named(drive: Drive, addresses: Sequence[AddressText]) -> list[ChunkDescriptor]:
    found: list[ChunkDescriptor] = []
    for lba in dict.fromkeys(address.lba(drive) for address in addresses):
        entry = await drive.chunk(lba)
        place = address_text(drive, entry.slba)
        if entry.slba != lba:
            raise UsageError(f"{lba:#x} is a block inside chunk {place}: name its first block")
        if entry.cs != ChunkState.FREE:
            raise UsageError(f"chunk {place} is {state_name(entry.cs)}, not Free: `ocssd reset {entry.slba:#x}` first")
        found.append(entry)
    return found


async def _spread(drive: Drive, n_chunks: int) -> list[ChunkDescriptor]:
    """Free chunks, one of each PU in turn."""
    table, turn = await free_in_turn(drive)
    if not len(turn):
        raise UsageError("no chunk is Free: reset some with `ocssd reset`, or name them")
    return [ChunkDescriptor(*(int(value) for value in table[i])) for i in turn[:n_chunks]]


class _Verification:
    def __init__(self, drive: Drive, chunks: Sequence[ChunkDescriptor], qd: int, seed: int) -> None:
        self.drive = drive
        self.chunks = chunks
        self.outcome = _Outcome(len(chunks), sum(chunk.cnlb for chunk in chunks) * drive.block_bytes)
        self._seed = np.uint64(seed)
        self._places = asyncio.Semaphore(qd)
        geometry = drive.geometry
        most = max(geometry.ws_min, drive.controller.max_transfer // drive.block_bytes)
        self._step = min(max(geometry.ws_opt, geometry.ws_min), most // geometry.ws_min * geometry.ws_min)

    async def run(self, bar: Progress) -> None:
        for name, phase in (("writing", self._fill), ("reading", self._compare)):
            task = bar.add_task(name, total=self.outcome.bytes)
            started = time.perf_counter()
            await all_of(*(phase(chunk, bar, task) for chunk in self.chunks))
            self.outcome.seconds[name] = time.perf_counter() - started

    async def _fill(self, chunk: ChunkDescriptor, bar: Progress, task: TaskID) -> None:
        for lblk in range(0, chunk.cnlb, self._step):
            data = self._data(chunk.slba + lblk, min(self._step, chunk.cnlb - lblk))
            async with self._places:
                await self.drive.write(chunk.slba + lblk, data)
            bar.advance(task, len(data))

    async def _compare(self, chunk: ChunkDescriptor, bar: Progress, task: TaskID) -> None:
        async def piece(lblk: int) -> None:
            slba, n_blocks = chunk.slba + lblk, min(self._step, chunk.cnlb - lblk)
            async with self._places:
                found = await self.drive.read(slba, n_blocks)
            expected = self._data(slba, n_blocks)
            if found != expected:
                size = self.drive.block_bytes
                self.outcome.wrong += [
                    slba + i for i in range(n_blocks) if found[i * size :][:size] != expected[i * size :][:size]
                ]
            bar.advance(task, len(found))

        pieces: list[Coroutine[Any, Any, None]] = [piece(lblk) for lblk in range(0, chunk.cnlb, self._step)]
        await all_of(*pieces)

    def _data(self, slba: int, n_blocks: int) -> bytes:
        """Blocks that depend on their LBA in every 8 bytes, so that a misplaced one shows."""
        lbas = np.arange(slba, slba + n_blocks, dtype=np.uint64)
        words = np.arange(-(-self.drive.block_bytes // 8), dtype=np.uint64)
        blocks = ((lbas[:, None] << np.uint64(20)) + words + self._seed) * _MULTIPLIER
        return blocks.view(np.uint8)[:, : self.drive.block_bytes].tobytes()

    async def clean_up(self) -> None:
        """Reset what was written. Chunks that the drive does not let go yet (Open, no early reset) are filled first."""
        for chunk in self.chunks:
            now = await self.drive.chunk(chunk.slba)
            if now.cs == ChunkState.OPEN and Mccap.EARLY_RESET not in self.drive.geometry.mccap:
                await self.drive.write(now.slba + now.wp, bytes((now.cnlb - now.wp) * self.drive.block_bytes))
            if now.cs in (ChunkState.OPEN, ChunkState.CLOSED):
                await self.drive.reset(chunk.slba)


def _report(session: Session, drive: Drive, outcome: _Outcome, keep: bool) -> None:
    rates = {name: outcome.bytes / max(seconds, 1e-9) for name, seconds in outcome.seconds.items()}
    if session.as_json:
        emit(
            {
                "ok": not outcome.wrong,
                "chunks": outcome.chunks,
                "bytes": outcome.bytes,
                "seconds": outcome.seconds,
                "wrong_lbas": outcome.wrong[:1000],
                "wrong": len(outcome.wrong),
            }
        )
        return
    speed = ", ".join(f"{name} {size_text(int(rate))}/s" for name, rate in rates.items())
    what = f"{size_text(outcome.bytes)} in {outcome.chunks} chunks ({speed})"
    if outcome.wrong:
        first = address_text(drive, min(outcome.wrong))
        click.echo(f"DIFFERENT: {len(outcome.wrong)} blocks of {what}; the first is {first}")
        return
    click.echo(f"Verified {what}; {'the data was kept' if keep else 'the chunks are Free again'}")
