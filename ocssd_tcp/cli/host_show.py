"""`ocssd discover`, `info` and `chunks`: what there is to see without changing anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
import numpy as np
from rich.table import Table
from rich.text import Text

from ocssd_tcp.cli.host_common import (
    STATES,
    Session,
    connection_options,
    console,
    drive_command,
    emit,
    size_text,
    state_name,
)
from ocssd_tcp.host import ChunkArray, ChunkState, ChunkType, Drive, UsageError
from ocssd_tcp.host.discovery import discover as discover_entries
from ocssd_tcp.ocssd.geometry import Mccap
from ocssd_tcp.ocssd.layouts import WP_UNDEFINED
from ocssd_tcp.ocssd.states import FORMATS, format_states

_MAP_MARGIN = 12  #: columns before the first chunk of a map's row


@click.command()
@connection_options
def discover(session: Session) -> None:
    """List the subsystems that a target offers."""
    entries = asyncio.run(discover_entries(session.address, session.port, session.options))
    if session.as_json:
        emit([asdict(entry) for entry in entries])
        return
    table = Table("what", "transport", "address", "NQN", box=None, pad_edge=False)
    for entry in entries:
        where = f"[{entry.traddr}]" if entry.adrfam == "ipv6" else entry.traddr
        table.add_row(entry.subtype, entry.trtype, Text(f"{where}:{entry.trsvcid}"), Text(entry.subnqn))
    console().print(table if entries else "The target offers no subsystem to this host.")


@click.command()
@drive_command
async def info(session: Session, drive: Drive) -> None:
    """Show a drive: capacity, layout, write rules, timings, how LBA lists travel."""
    if session.as_json:
        emit(_info_fields(session, drive))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _info_rows(session, drive):
        table.add_row(name, Text(value))
    console().print(table)


def _info_fields(session: Session, drive: Drive) -> dict[str, Any]:
    namespace = asdict(drive.namespace) | {"nguid": drive.namespace.nguid.hex()}
    return {
        "address": f"{session.address}:{session.port}",
        "nqn": drive.controller.nqn,
        "nsid": drive.nsid,
        "controller": asdict(drive.controller.info),
        "namespace": namespace,
        "geometry": asdict(drive.geometry),
        "forms": sorted(form.name.lower() for form in drive.forms),
        "chunks": drive.n_chunks,
        "capacity_bytes": drive.n_chunks * drive.geometry.clba * drive.namespace.block_bytes,
        "max_transfer_bytes": drive.controller.max_transfer,
    }


def _info_rows(session: Session, drive: Drive) -> list[tuple[str, str]]:
    g, controller, block = drive.geometry, drive.controller.info, drive.namespace.block_bytes
    shifts = (g.lbk_len + g.chk_len + g.pu_len, g.lbk_len + g.chk_len, g.lbk_len, 0)
    widths = (g.grp_len, g.pu_len, g.chk_len, g.lbk_len)
    bits = ", ".join(
        f"{name} {width} at {shift}"
        for name, width, shift in zip(("group", "PU", "chunk", "block"), widths, shifts, strict=True)
    )
    limits = [f"{g.maxoc} on the drive" if g.maxoc else "", f"{g.maxocpu} on a PU" if g.maxocpu else ""]
    metadata = drive.namespace.metadata_bytes
    window = f"once {g.mw_cunits} more blocks are written, or its chunk is Closed" if g.mw_cunits else "at once"
    resets = ["Closed"] + ["Open"] * (Mccap.EARLY_RESET in g.mccap) + ["Free"] * (Mccap.MULTI_RESET in g.mccap)
    forms = ", ".join(f"{form.value} {form.name.lower()}" for form in sorted(drive.forms))
    slots = f"; {g.n_slots} slots" if g.n_slots else ""
    return [
        ("Drive", f"{controller.model}, serial {controller.serial}, firmware {controller.firmware}"),
        ("Subsystem", f"{drive.controller.nqn} at {session.address}:{session.port}"),
        ("Namespace", f"{drive.nsid}; OCSSD {g.mjr}.{g.mnr}, NVMe {controller.version_text}"),
        (
            "Capacity",
            f"{size_text(drive.n_chunks * g.clba * block)} in {drive.n_chunks} chunks of {size_text(g.clba * block)}",
        ),
        ("Layout", f"{g.num_grp} groups x {g.num_pu} PUs x {g.num_chk} chunks x {g.clba} blocks of {size_text(block)}"),
        ("Metadata", f"{metadata} bytes follow each block" if metadata else "none"),
        ("LBA bits", bits),
        ("Write", f"multiples of {g.ws_min} blocks ({size_text(g.ws_min * block)}), in order; best {g.ws_opt}"),
        ("Read", f"any blocks; a block of an Open chunk {window}"),
        ("Reset", f"chunks that are {' or '.join(resets)}"),
        ("Open chunks", "at most " + ", ".join(filter(None, limits)) if any(limits) else "no limit"),
        ("Copy", "inside the drive" if Mccap.VECTOR_COPY in g.mccap else "not offered"),
        ("Wear", f"reported beyond {g.wit} of 255 from the average" if g.wit else "not reported"),
        (
            "Timings",
            f"read {_us(g.trdt, g.trdm)}, write {_us(g.twrt, g.twrm)}, reset {_us(g.tcrst, g.tcrsm)}",
        ),
        ("LBA lists", forms + slots if forms else "none but single LBAs: the drive has no fabrics binding"),
        ("Transfers", f"up to {size_text(drive.controller.max_transfer)} a command"),
    ]


def _us(typical: int, most: int) -> str:
    return f"{typical / 1000:g} us (at most {most / 1000:g})"


def _parse_range(value: str) -> range:
    """One number, or a range with both ends: 3 or 2-5."""
    low, dash, high = value.partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise click.BadParameter(f"{value!r} is not a number or a range, as 3 or 2-5")
    return range(int(low), int(high if dash else low) + 1)


@click.command()
@click.option("--grp", type=_parse_range, metavar="N[-M]", help="Only these groups.")
@click.option("--pu", type=_parse_range, metavar="N[-M]", help="Only these PUs of a group.")
@click.option("--chk", type=_parse_range, metavar="N[-M]", help="Only these chunks of a PU.")
@click.option("--free", "states", flag_value="free", multiple=True, help="Only Free chunks.")
@click.option("--open", "states", flag_value="open", multiple=True, help="Only Open chunks.")
@click.option("--closed", "states", flag_value="closed", multiple=True, help="Only Closed chunks.")
@click.option("--offline", "states", flag_value="offline", multiple=True, help="Only Offline chunks.")
@click.option("--state", "more", multiple=True, type=click.Choice([state.name.lower() for state in STATES]))
@click.option("--limit", type=click.IntRange(1), help="Rows of the table to show; 100 unless given.")
@click.option("--map", "as_map", is_flag=True, help="Draw the drive, a character for each chunk.")
@click.option("--export", metavar="FILE", help="Write the states of all chunks to a file (-: standard output).")
@click.option(
    "--export-format", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True, help="Syntax of that file."
)
@drive_command
async def chunks(
    session: Session,
    drive: Drive,
    grp: range | None,
    pu: range | None,
    chk: range | None,
    states: Sequence[str],
    more: Sequence[str],
    limit: int | None,
    as_map: bool,
    export: str | None,
    export_format: str,
) -> None:
    """List chunks and their write pointers, draw a map of the drive (--map), or write their states to a file."""
    table = await drive.chunks()
    if export is not None:
        _export(drive, table, export, export_format)
        return
    g = drive.geometry
    index = np.arange(drive.n_chunks)
    fields = (index // (g.num_pu * g.num_chk), index // g.num_chk % g.num_pu, index % g.num_chk)
    chosen = np.ones(drive.n_chunks, bool)
    for values, wanted in zip(fields, (grp, pu, chk), strict=True):
        if wanted is not None:
            chosen &= (values >= wanted.start) & (values < wanted.stop)
    if states or more:
        chosen &= np.isin(table["cs"], [ChunkState[name.upper()] for name in {*states, *more}])
    rows = [int(i) for i in np.flatnonzero(chosen)]
    if session.as_json:
        emit([_chunk_fields(drive, table, i) for i in rows[:limit]])
    elif as_map:
        _print_map(drive, table, chosen)
    else:
        _print_table(drive, table, rows, limit or 100)


def _export(drive: Drive, table: ChunkArray, path: str, export_format: str) -> None:
    """A file that `chunk_states` of a target's configuration takes."""
    try:
        text = "".join(f"{line}\n" for line in format_states(table, drive.geometry, export_format))
    except ValueError as error:
        raise UsageError(str(error)) from None
    try:
        with click.open_file(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None


def _chunk_fields(drive: Drive, table: ChunkArray, index: int) -> dict[str, Any]:
    entry = table[index]
    address = drive.addresses.split(drive.addresses.lba(index))
    wp = int(entry["wp"])
    return {
        "grp": address.grp,
        "pu": address.pu,
        "chk": address.chk,
        "slba": int(entry["slba"]),
        "state": state_name(int(entry["cs"])).lower(),
        "type": "random" if entry["ct"] & ChunkType.RANDOM else "sequential",
        "wli": int(entry["wli"]),
        "cnlb": int(entry["cnlb"]),
        "wp": None if wp == WP_UNDEFINED else wp,
    }


def _print_table(drive: Drive, table: ChunkArray, rows: Sequence[int], limit: int) -> None:
    shown = Table("chunk", "first LBA", "state", "type", "write pointer", "wear", box=None, pad_edge=False)
    for index in rows[:limit]:
        f = _chunk_fields(drive, table, index)
        wp = "-" if f["wp"] is None else f"{f['wp']} of {f['cnlb']}"
        shown.add_row(
            f"{f['grp']}/{f['pu']}/{f['chk']}", f"{f['slba']:#x}", _coloured(int(table[index]["cs"])), f["type"], wp,
            str(f["wli"]),
        )  # fmt: skip
    out = console()
    out.print(shown if rows else "No chunk is like that.")
    if len(rows) > limit:
        out.print(f"... and {len(rows) - limit} more (--limit, --map, or a filter)")


def _coloured(cs: int) -> Text:
    colour = STATES[ChunkState(cs)][1] if cs in STATES else "magenta"
    return Text(state_name(cs), style=colour)


def _print_map(drive: Drive, table: ChunkArray, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    out, g = console(), drive.geometry
    width = max(10, out.width - _MAP_MARGIN)
    legend = Text()
    for state, (letter, colour) in STATES.items():
        count = int(np.count_nonzero(table["cs"][chosen] == state))
        legend.append(f"{letter} ", style=colour).append(f"{state.name.capitalize()} {count}   ")
    out.print(legend)
    for first in range(0, drive.n_chunks, g.num_chk):
        if not chosen[first : first + g.num_chk].any():
            continue
        name = f"{first // g.num_chk // g.num_pu}/{first // g.num_chk % g.num_pu}"
        for start in range(first, first + g.num_chk, width):
            line = Text(f"{name if start == first else '':>{_MAP_MARGIN - 2}}  ")
            for index in range(start, min(start + width, first + g.num_chk)):
                if not chosen[index]:
                    line.append(" ")
                    continue
                letter, colour = STATES.get(int(table["cs"][index]), ("?", "magenta"))  # type: ignore[call-overload]
                line.append(letter, style=colour)
            out.print(line)
