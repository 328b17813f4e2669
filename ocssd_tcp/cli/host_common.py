"""What the commands of `ocssd` share: options, addresses, output as text or JSON, and errors as exit codes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click
import numpy as np
from rich.console import Console

from ocssd_tcp.host import (
    ChunkState,
    ChunkType,
    Drive,
    HostError,
    ListForm,
    Options,
    StatusError,
    TransportError,
    UsageError,
    open_drive,
)
from ocssd_tcp.wire.status import describe

DEFAULT_PORT = 4420
SEARCHED = 1 << 20  #: chunks looked at for Free ones
EXIT_STATUS, EXIT_USAGE, EXIT_TRANSPORT = 1, 2, 3
#: State of a chunk: its letter on a map, and its colour.
STATES: dict[ChunkState, tuple[str, str]] = {
    ChunkState.FREE: (".", "green"),
    ChunkState.OPEN: ("o", "yellow"),
    ChunkState.CLOSED: ("#", "blue"),
    ChunkState.OFFLINE: ("X", "red"),
}
_PIPE_WIDTH = 120  #: columns where there is no terminal
_HEX = 16


@dataclass(frozen=True)
class Session:
    """The common options of one invocation."""

    address: str
    port: int
    nqn: str | None
    nsid: int
    form: ListForm | None
    as_json: bool
    options: Options

    async def open(self) -> Drive:
        """Connect and open the namespace."""
        drive = await open_drive(self.address, self.port, self.nqn, nsid=self.nsid, options=self.options)
        drive.form = self.form
        return drive


def parse_endpoint(value: str) -> tuple[str, int]:
    """HOST[:PORT], an IPv6 address in brackets if a port follows."""
    host, colon, port = value.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")) or value.endswith("]"):
        host, port = value, str(DEFAULT_PORT)
    if not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise click.BadParameter(
            f"{value!r} is not HOST or HOST:PORT, as 127.0.0.1:{DEFAULT_PORT} or [::1]:{DEFAULT_PORT}"
        )
    return host.strip("[]"), int(port)


@dataclass(frozen=True)
class AddressText:
    """An address as typed: an LBA, or group/PU/chunk[/block], which needs the drive's geometry to become one."""

    text: str
    parts: tuple[int, ...]

    def lba(self, drive: Drive) -> int:
        """The LBA. UsageError if the parts name nothing on this drive; a plain LBA may name anything."""
        if len(self.parts) == 1:
            return self.parts[0]
        geometry = drive.geometry
        counts = (geometry.num_grp, geometry.num_pu, geometry.num_chk, geometry.clba)
        for name, part, count in zip(("group", "PU", "chunk", "block"), self.parts, counts, strict=False):
            if part >= count:
                raise UsageError(f"{self.text}: {name} {part} does not exist, the drive has 0 to {count - 1}")
        grp, pu, chk, lblk = (*self.parts, 0)[:4]
        return drive.addresses.join(grp, pu, chk, lblk)


def parse_address(value: str) -> AddressText:
    """0x185007, 1593351, 1/2/5/7, or 1/2/5 for the first block of a chunk."""
    try:
        parts = tuple(int(part, 0) for part in value.split("/"))
    except ValueError:
        parts = ()
    if len(parts) not in (1, 3, 4) or min(parts) < 0 or max(parts) >= 1 << 64:
        raise click.BadParameter(f"{value!r} is not an address: an LBA as 0x185007, or group/PU/chunk/block as 1/2/5/7")
    return AddressText(value, parts)


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the common options, and call it with a `Session` first."""
    options = [
        click.option(
            "-a", "--address", type=parse_endpoint, metavar="HOST[:PORT]", default=f"127.0.0.1:{DEFAULT_PORT}",
            show_default=True, envvar="OCSSD_ADDRESS", help="Where the drive listens. Also from OCSSD_ADDRESS.",
        ),
        click.option("-n", "--nqn", help="Subsystem; found by discovery if the target has only one."),
        click.option("--nsid", type=click.IntRange(1, 0xFFFFFFFE), default=1, show_default=True, help="Namespace."),
        click.option("--hostnqn", help="This host's NQN; made up if absent."),
        click.option("-g", "--hdr-digest", is_flag=True, help="Header digests."),
        click.option("-G", "--data-digest", is_flag=True, help="Data digests."),
        click.option(
            "--form", type=click.Choice(["auto", *(form.name.lower() for form in ListForm)]), default="auto",
            show_default=True, help="How LBA lists of vector commands travel.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Machine-readable output."),
    ]  # fmt: skip

    @wraps(command)
    def call(
        address: tuple[str, int],
        nqn: str | None,
        nsid: int,
        hostnqn: str | None,
        hdr_digest: bool,
        data_digest: bool,
        form: str,
        as_json: bool,
        **kwargs: Any,
    ) -> Any:
        options = Options(hostnqn=hostnqn, header_digest=hdr_digest, data_digest=data_digest, disable_sqflow=True)
        wanted = None if form == "auto" else ListForm[form.upper()]
        session = Session(*address, nqn, nsid, wanted, as_json, options)
        return with_exit_codes(session, lambda: command(session, **kwargs))

    for option in reversed(options):
        call = option(call)
    return call


def drive_command(command: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Any]:
    """A command `async def (session, drive, ...)`: connected before, shut down in order after."""

    @wraps(command)
    def call(session: Session, **kwargs: Any) -> None:
        async def run() -> None:
            drive = await session.open()
            async with drive.controller:
                await command(session, drive, **kwargs)

        asyncio.run(run())

    return connection_options(call)


def with_exit_codes(session: Session, call: Callable[[], Any]) -> Any:
    """Run `call`; an error of the host library becomes one line that says what to do, and an exit code."""
    try:
        return call()
    except HostError as error:
        code, hint = _explain(session, error)
        if session.as_json:
            fields: dict[str, Any] = {"error": str(error)}
            if isinstance(error, StatusError):
                fields |= {"status": error.status, "name": describe(error.status), "failed": error.failed}
            click.echo(json.dumps(fields))
        click.echo(f"ocssd: {error}{hint}", err=True)
        sys.exit(code)


def _explain(session: Session, error: HostError) -> tuple[int, str]:
    if isinstance(error, StatusError):
        entries = f"; entries {', '.join(map(str, error.failed))} of the list" if error.failed not in ([], [0]) else ""
        return EXIT_STATUS, entries
    if isinstance(error, TransportError):
        if isinstance(error.__cause__, ConnectionRefusedError):
            return EXIT_TRANSPORT, " - is the drive running? `make run` starts one; -a names another address"
        return EXIT_TRANSPORT, ""
    return EXIT_USAGE, ""


# --- output -----------------------------------------------------------------------------------


def console() -> Console:
    """Standard output for people; in a pipe, wide enough that tables are not cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH, soft_wrap=False)


def emit(value: Any) -> None:
    """A value as JSON on standard output."""
    click.echo(json.dumps(value, indent=2))


def size_text(n_bytes: int) -> str:
    """`16 MiB`, `7.5 GiB`."""
    size = float(n_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def address_text(drive: Drive, lba: int) -> str:
    """`1/2/5/7 (0x185007)`."""
    return f"{'/'.join(map(str, drive.addresses.split(lba)))} ({lba:#x})"


def state_name(cs: int) -> str:
    """`Free`, `Open`, `Closed`, `Offline`, or the number."""
    try:
        return ChunkState(cs).name.capitalize()
    except ValueError:
        return f"{cs:#04x}"


def hexdump(data: bytes | bytearray, start: int = 0) -> str:
    """Lines of 16 bytes with offsets and characters; repeated lines are shown once, then `*`."""
    lines: list[str] = []
    previous, skipping = b"", False
    for at in range(0, len(data), _HEX):
        row = bytes(data[at : at + _HEX])
        if row == previous and at + _HEX < len(data):
            if not skipping:
                lines.append("*")
            skipping = True
            continue
        previous, skipping = row, False
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start + at:08x}  {row.hex(' '):<47}  |{shown}|")
    return "\n".join(lines)


async def free_in_turn(drive: Drive) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The head of the chunk table, and in it the indices of Free, sequential chunks: one of each PU in turn."""
    table = await drive.chunks(0, min(drive.n_chunks, SEARCHED))
    free = np.flatnonzero((table["cs"] == ChunkState.FREE) & (table["ct"] & ChunkType.SEQUENTIAL != 0))
    return table, free[np.lexsort((free // drive.geometry.num_chk, free % drive.geometry.num_chk))]
