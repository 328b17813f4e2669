"""`ocssd read`, `write`, `reset` and `copy`. One address is a scalar command, several are a vector command."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import BinaryIO

import click

from ocssd_tcp.cli.host_common import (
    AddressText,
    Session,
    address_text,
    drive_command,
    emit,
    hexdump,
    parse_address,
    size_text,
    state_name,
)
from ocssd_tcp.host import Drive, UsageError

PATTERNS = ("zeros", "ones", "random", "lba")


@click.command()
@click.argument("addresses", type=parse_address, metavar="ADDRESS...", nargs=-1, required=True)
@click.option("-c", "--count", type=click.IntRange(1), default=1, show_default=True, help="Blocks from each address.")
@click.option("-o", "--output", type=click.File("wb"), help="Write the data here, - for standard output.")
@drive_command
async def read(
    session: Session, drive: Drive, addresses: Sequence[AddressText], count: int, output: BinaryIO | None
) -> None:
    """Read blocks: a hex dump, or to a file.

    One ADDRESS is a Read command; several are one Vector Chunk Read.
    """
    lbas = _lbas(drive, addresses, count)
    vector = len(addresses) > 1
    data = await (drive.vector_read(lbas) if vector else drive.read(lbas[0], count))
    if output is not None:
        output.write(data)
        output.flush()
    if session.as_json:
        fields = {"lbas": lbas, "block_bytes": drive.block_bytes, "bytes": len(data)}
        emit(fields if output is not None else fields | {"data_base64": base64.b64encode(data).decode()})
    elif output is None:
        for index, lba in enumerate(lbas):
            block = data[index * drive.block_bytes : (index + 1) * drive.block_bytes]
            click.echo(f"{address_text(drive, lba)}\n{hexdump(block)}")


@click.command()
@click.argument("addresses", type=parse_address, metavar="ADDRESS...", nargs=-1, required=True)
@click.option("-c", "--count", type=click.IntRange(1), help="Blocks at each address; with a pattern ws_min if absent.")
@click.option("-i", "--input", "source", type=click.File("rb"), help="Take the data from here, - for standard input.")
@click.option("--pattern", type=click.Choice(PATTERNS), help="Or make it up; lba: each block full of its LBA.")
@click.option("--pad", is_flag=True, help="Fill the data up with zeros to whole write units.")
@click.option("--append", is_flag=True, help="Write at the write pointers of the chunks addressed.")
@click.option("--fua", is_flag=True, help="The data is on the disk when the command returns.")
@drive_command
async def write(
    session: Session,
    drive: Drive,
    addresses: Sequence[AddressText],
    count: int | None,
    source: BinaryIO | None,
    pattern: str | None,
    pad: bool,
    append: bool,
    fua: bool,
) -> None:
    """Write blocks from a file, standard input or a pattern.

    One ADDRESS is a Write command; several are one Vector Chunk Write, with --count blocks at each.
    """
    if (source is None) == (pattern is None):
        raise UsageError("say what to write: --input FILE (- for standard input) or --pattern")
    ws_min, size = drive.geometry.ws_min, drive.block_bytes
    data = b""
    if source is not None:
        data = source.read()
        unit = ws_min * size
        if pad and len(data) % unit:
            data += bytes(unit - len(data) % unit)
        if not data or len(data) % (size * len(addresses)):
            raise UsageError(f"{len(data)} bytes are not whole blocks of {size} bytes at each address; --pad fills up")
        found = len(data) // size // len(addresses)
        if count not in (None, found):
            raise UsageError(f"--count {count}, but there is data for {found} blocks at each address")
        count = found
    firsts = [address.lba(drive) for address in addresses]
    if append:
        firsts = [entry.slba + entry.wp for entry in [await drive.chunk(lba) for lba in firsts]]
    lbas = [first + i for first in firsts for i in range(count or ws_min)]
    if pattern is not None:
        data = _made_up(pattern, lbas, size)
    if len(addresses) > 1:
        await drive.vector_write(lbas, data, fua=fua)
    else:
        await drive.write(lbas[0], data, fua=fua)
    chunk = await drive.chunk(lbas[-1])
    if session.as_json:
        emit({"lbas": lbas, "bytes": len(data), "state": state_name(chunk.cs).lower(), "wp": chunk.wp})
        return
    where = f"{address_text(drive, lbas[0])}" + ("" if len(addresses) == 1 else f" and {len(addresses) - 1} more")
    click.echo(
        f"Wrote {len(lbas)} blocks ({size_text(len(data))}) at {where}; "
        f"chunk {state_name(chunk.cs)}, write pointer {chunk.wp} of {chunk.cnlb}"
    )


@click.command()
@click.argument("addresses", type=parse_address, metavar="ADDRESS...", nargs=-1, required=True)
@click.option("--dsm", is_flag=True, help="By Dataset Management, as `nvme dsm` does, not Vector Chunk Reset.")
@drive_command
async def reset(session: Session, drive: Drive, addresses: Sequence[AddressText], dsm: bool) -> None:
    """Reset chunks, named by their first block: their data is gone."""
    slbas = [address.lba(drive) for address in addresses]
    if dsm:
        lengths = [(await drive.chunk(slba)).cnlb for slba in slbas]
        await drive.dsm_reset(slbas, lengths)
    elif len(slbas) == 1 or drive.forms:
        for at in range(0, len(slbas), drive.max_lbas):
            await drive.reset(slbas[at : at + drive.max_lbas])
    else:
        for slba in slbas:
            await drive.reset(slba)
    states = [await drive.chunk(slba) for slba in slbas]
    if session.as_json:
        emit([{"slba": entry.slba, "state": state_name(entry.cs).lower(), "wli": entry.wli} for entry in states])
        return
    for entry in states:
        click.echo(f"{address_text(drive, entry.slba)} is {state_name(entry.cs)}, wear {entry.wli} of 255")


@click.command()
@click.argument("source", type=parse_address, metavar="SOURCE")
@click.argument("destination", type=parse_address, metavar="DESTINATION")
@click.option("-c", "--count", type=click.IntRange(1), help="Blocks; ws_min if absent.")
@drive_command
async def copy(
    session: Session, drive: Drive, source: AddressText, destination: AddressText, count: int | None
) -> None:
    """Copy blocks inside the drive, from SOURCE on to DESTINATION on (Vector Chunk Copy)."""
    n_blocks = count or drive.geometry.ws_min
    first, target = source.lba(drive), destination.lba(drive)
    step = drive.max_lbas // drive.geometry.ws_min * drive.geometry.ws_min or drive.max_lbas
    for at in range(0, n_blocks, step):
        n = min(step, n_blocks - at)
        await drive.vector_copy(range(first + at, first + at + n), range(target + at, target + at + n))
    chunk = await drive.chunk(target)
    if session.as_json:
        emit({"source": first, "destination": target, "blocks": n_blocks, "wp": chunk.wp})
        return
    click.echo(
        f"Copied {n_blocks} blocks from {address_text(drive, first)} to {address_text(drive, target)}; "
        f"chunk {state_name(chunk.cs)}, write pointer {chunk.wp} of {chunk.cnlb}"
    )


def _lbas(drive: Drive, addresses: Sequence[AddressText], count: int) -> list[int]:
    return [address.lba(drive) + i for address in addresses for i in range(count)]


def _made_up(pattern: str, lbas: Sequence[int], size: int) -> bytes:
    if pattern == "random":
        return os.urandom(len(lbas) * size)
    if pattern == "lba":
        return b"".join((lba.to_bytes(8, "little") * (size // 8 + 1))[:size] for lba in lbas)
    return (b"\0" if pattern == "zeros" else b"\xff") * (len(lbas) * size)
