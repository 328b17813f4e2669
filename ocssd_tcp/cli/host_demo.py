"""`ocssd demo`: the life of one chunk, command by command, for somebody who has never seen an Open-Channel SSD."""

from __future__ import annotations

import textwrap
from collections.abc import Awaitable
from typing import Any

import click

from ocssd_tcp.cli.host_common import Session, address_text, drive_command, emit, size_text, state_name
from ocssd_tcp.host import ChunkState, ChunkType, Drive, StatusError, UsageError
from ocssd_tcp.ocssd.geometry import Mccap

_WIDTH = 88
_SEARCHED = 1 << 16  #: chunks looked at for a Free one


@click.command()
@drive_command
async def demo(session: Session, drive: Drive) -> None:
    """Walk through the life of a chunk, explaining each step.

    Uses one Free chunk and resets it at the end: only its wear is one reset higher.
    """
    story = _Story(drive, await _free_chunk(drive), quiet=session.as_json)
    try:
        await story.tell()
    finally:
        await story.leave_as_found()
    if session.as_json:
        emit(story.steps)


async def _free_chunk(drive: Drive) -> int:
    """The first LBA of the last Free, sequential chunk."""
    count = min(drive.n_chunks, _SEARCHED)
    table = await drive.chunks(drive.n_chunks - count, count)
    for entry in reversed(table):
        if entry["cs"] == ChunkState.FREE and entry["ct"] & ChunkType.SEQUENTIAL:
            return int(entry["slba"])
    raise UsageError("the demo needs a Free chunk, and there is none: reset one with `ocssd reset`")


class _Story:
    """The steps, told on standard output and kept for --json."""

    def __init__(self, drive: Drive, slba: int, *, quiet: bool) -> None:
        self.drive = drive
        self.slba = slba
        self.quiet = quiet
        self.steps: list[dict[str, Any]] = []
        self.g = drive.geometry
        self.place = "/".join(map(str, drive.addresses.split(slba)[:3]))

    async def tell(self) -> None:
        """All of it. StatusError if the drive fails where it should not."""
        g, block = self.g, self.drive.block_bytes
        chunk = await self.drive.chunk(self.slba)
        self._say(
            f"An Open-Channel SSD shows its insides: {g.num_grp} groups of {g.num_pu} parallel units (PUs), each with "
            f"{g.num_chk} chunks of {g.clba} blocks. A chunk is written from its first block to its last, in order, "
            f"and reset as a whole. This is the life of chunk {self.place}, whose first block is LBA {self.slba:#x}."
        )
        await self._step("A Free chunk holds nothing; its write pointer is 0.", f"ocssd chunks {self._filters()}")
        wanted = g.ws_min + g.mw_cunits
        enough = min(-(-wanted // g.ws_min) * g.ws_min, chunk.cnlb)
        await self._step(
            f"Write the smallest amount, ws_min = {g.ws_min} blocks ({size_text(g.ws_min * block)}). "
            "The chunk becomes Open.",
            f"ocssd write {self.place} --pattern lba -c {g.ws_min}",
            self._write(0, g.ws_min),
        )
        if g.ws_min > 1 and chunk.cnlb > g.ws_min:
            await self._step(
                "A write that is not a multiple of ws_min is refused.",
                f"ocssd write {self.place}/{g.ws_min} --pattern lba -c 1",
                self._write(g.ws_min, 1),
            )
        if chunk.cnlb >= 3 * g.ws_min:
            await self._step(
                "So is one that leaves a gap: writes go to the write pointer and nowhere else.",
                f"ocssd write {self.place}/{2 * g.ws_min} --pattern lba -c {g.ws_min}",
                self._write(2 * g.ws_min, g.ws_min),
            )
        if g.mw_cunits:
            await self._step(
                f"The media needs mw_cunits = {g.mw_cunits} more blocks behind a block before it can be read back: "
                "until then a host serves such reads from its own memory. A read now is no error; it gives the data "
                "of blocks never written.",
                f"ocssd read {self.place}",
                self._look(0),
            )
        if enough > g.ws_min:
            await self._step(
                f"Write on, to {enough} blocks.",
                f"ocssd write {self.place}/{g.ws_min} --pattern lba -c {enough - g.ws_min}",
                self._write(g.ws_min, enough - g.ws_min),
            )
        await self._step("Now the first block can be read.", f"ocssd read {self.place}", self._look(0))
        if enough < chunk.cnlb:
            await self._step(
                "Fill the chunk. With its last block it becomes Closed, and all of it can be read.",
                f"ocssd write {self.place}/{enough} --pattern lba -c {chunk.cnlb - enough}",
                self._write(enough, chunk.cnlb - enough),
            )
        last = chunk.cnlb - 1
        await self._step("The last block:", f"ocssd read {self.place}/{last}", self._look(last))
        await self._step(
            "A Closed chunk takes no writes.",
            f"ocssd write {self.place} --pattern lba -c {g.ws_min}",
            self._write(0, g.ws_min),
        )
        if self.drive.forms:
            await self._step(
                "A vector command names each of its blocks, up to 64, anywhere on the drive and in any order.",
                f"ocssd read {self.place}/{last} {self.place}/0",
                self._vector_read([self.slba + last, self.slba]),
            )
        await self._step(
            "A reset makes the chunk Free again. Its data is gone and its wear index may rise.",
            f"ocssd reset {self.place}",
            self._reset(),
        )
        if Mccap.MULTI_RESET not in g.mccap:
            await self._step(
                "This drive does not reset a Free chunk: that would be wear for nothing.",
                f"ocssd reset {self.place}",
                self._reset(),
            )
        await self._step("And nothing is left of the data.", f"ocssd read {self.place}", self._look(0))
        self._say("The drive is as it was. `ocssd chunks --map` shows all of it; `ocssd info` its numbers.")

    async def leave_as_found(self) -> None:
        """Reset the chunk, whatever step failed or was interrupted."""
        chunk = await self.drive.chunk(self.slba)
        if chunk.cs == ChunkState.OPEN and Mccap.EARLY_RESET not in self.g.mccap:
            await self._write(chunk.wp, chunk.cnlb - chunk.wp)
            chunk = await self.drive.chunk(self.slba)
        if chunk.cs in (ChunkState.OPEN, ChunkState.CLOSED):
            await self.drive.reset(self.slba)

    # --- telling ------------------------------------------------------------------------------

    async def _step(self, why: str, command: str, action: Awaitable[str] | None = None) -> None:
        """Explain, do, and show how the command ended and what the chunk is afterwards."""
        try:
            outcome = await action if action is not None else ""
        except StatusError as error:
            outcome = f"refused: {error}"
        chunk = await self.drive.chunk(self.slba)
        after = f"chunk {state_name(chunk.cs)}, write pointer {chunk.wp} of {chunk.cnlb}"
        self.steps.append(
            {
                "why": why,
                "command": command,
                "outcome": outcome,
                "state": state_name(chunk.cs).lower(),
                "wp": chunk.wp,
            }
        )
        if self.quiet:
            return
        click.secho(f"\n{len(self.steps)}. " + textwrap.fill(why, _WIDTH, subsequent_indent="   "), bold=True)
        click.echo(f"   $ {command}")
        if outcome:
            click.secho(f"   {outcome}", fg="red" if outcome.startswith("refused") else "green")
        click.echo(f"   {after}")

    def _say(self, text: str) -> None:
        if not self.quiet:
            click.echo("\n" + textwrap.fill(text, _WIDTH))

    def _filters(self) -> str:
        grp, pu, chk, _ = self.drive.addresses.split(self.slba)
        return f"--grp {grp} --pu {pu} --chk {chk}"

    # --- doing --------------------------------------------------------------------------------

    async def _write(self, lblk: int, n_blocks: int) -> str:
        size = self.drive.block_bytes
        lbas = range(self.slba + lblk, self.slba + lblk + n_blocks)
        await self.drive.write(lbas[0], b"".join((lba.to_bytes(8, "little") * (size // 8 + 1))[:size] for lba in lbas))
        return f"written: {n_blocks} blocks"

    async def _look(self, lblk: int) -> str:
        block = await self.drive.read(self.slba + lblk)
        return f"block {lblk} begins {block[:16].hex(' ')}"

    async def _vector_read(self, lbas: list[int]) -> str:
        data = await self.drive.vector_read(lbas)
        size = self.drive.block_bytes
        firsts = [data[at : at + 4].hex(" ") for at in range(0, len(data), size)]
        return "read: " + ", ".join(
            f"{address_text(self.drive, lba)} begins {first}" for lba, first in zip(lbas, firsts, strict=True)
        )

    async def _reset(self) -> str:
        await self.drive.reset(self.slba)
        return "reset"
