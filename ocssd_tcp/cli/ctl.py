"""`ocssd-tcpd ctl`: asks a running drive and changes it, over its control socket (docs/control.md).

Verbs and their arguments are the daemon's own: this sends them, and shows the answer.

Exit status: 0 done, 1 the drive refused, 2 the command line or the configuration cannot be, 3 nobody answers.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from ocssd_tcp.config.errors import ConfigError
from ocssd_tcp.config.load import load

REFUSED, USAGE, NOBODY = 1, 2, 3
TIMEOUT_SECONDS = 60.0
_MAX_ANSWER_BYTES = 256 << 20
_PIPE_WIDTH = 160  #: columns where there is no terminal

_CONNECT_ERRORS = {
    errno.ENOENT: "there is no socket; is the daemon running, and with control.socket set to this path?",
    errno.ECONNREFUSED: "nobody answers: the daemon is not running",
    errno.EACCES: "permission denied: only the user that the daemon runs as may use it",
    errno.ENOTSOCK: "that is no socket: name the daemon's control.socket",
}


def _pair(value: str) -> tuple[str, Any]:
    """KEY=VALUE; a value is JSON where it can be, text otherwise."""
    key, equals, text = value.partition("=")
    if not (key and equals):
        raise click.BadParameter(f"{value!r} is not key=value, as nsid=1")
    try:
        return key, json.loads(text)
    except (ValueError, RecursionError):
        return key, text


@click.command()
@click.option("--socket", "path", type=click.Path(path_type=Path), metavar="PATH", help="The drive's control socket.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The drive's configuration, which names its socket.",
)
@click.option("--json", "as_json", is_flag=True, help="The answer as the daemon gave it.")
@click.argument("verb", default="help")
@click.argument("arguments", nargs=-1, type=_pair, metavar="[KEY=VALUE]...")
@click.pass_context
def ctl(
    context: click.Context,
    path: Path | None,
    config_path: Path | None,
    as_json: bool,
    verb: str,
    arguments: Sequence[tuple[str, Any]],
) -> None:
    """Ask a running drive, or change it, without a restart.

    `help` (the default VERB) lists the verbs and their arguments: info, statistics, fault-list, fault-add,
    fault-remove, fault-clear, latency-show, latency-set, latency-off, limits-show, limits-set, chunk-show, chunk-set,
    chunk-notify, trace-show, trace-start, trace-stop, trace-rotate.

    \b
      ocssd-tcpd ctl --config drive.toml fault-add kind=early-close pu=3 chk=0-7 probability=0.25 seed=42
      ocssd-tcpd ctl --socket control.sock latency-set flash=tlc
    """
    files = [config_path] if config_path else context.obj
    answer = _ask(path or _configured(files), {"verb": verb, "args": dict(arguments)})
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    if not answer.get("ok"):
        hint = f" ({answer['hint']})" if answer.get("hint") else ""
        _end(REFUSED, f"{answer.get('error')}{hint}")
    if not as_json:
        _show(verb, answer.get("result"))


def _configured(files: Sequence[Path] | None) -> Path:
    try:
        path = load(files, environment=os.environ).control.socket
    except ConfigError as error:
        _end(USAGE, str(error))
    if path is None and not files:
        _end(USAGE, "which drive? --socket PATH, or --config FILE with control.socket in it")
    if path is None:
        named = ", ".join(map(str, files or ()))
        _end(USAGE, f"{named}: control.socket turns the control socket on, and it is not set")
    return path


def _ask(path: Path, request: Mapping[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT_SECONDS)
        try:
            sock.connect(os.fspath(path))
            sock.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_line(sock))
        except OSError as error:
            _end(NOBODY, f"{path}: {_CONNECT_ERRORS.get(error.errno or 0, error.strerror or error)}")
        except ValueError:
            _end(NOBODY, f"{path}: whoever listens there is no ocssd-tcpd")
    if not isinstance(answer, dict):
        _end(NOBODY, f"{path}: whoever listens there is no ocssd-tcpd")
    return answer


def _line(sock: socket.socket) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n"):
        part = sock.recv(1 << 16)
        if not part or len(received) > _MAX_ANSWER_BYTES:
            break
        received += part
    return bytes(received)


def _end(code: int, message: str) -> NoReturn:
    for line in message.splitlines():
        click.echo(f"ocssd-tcpd: {line}", err=True)
    sys.exit(code)


# --- for people -------------------------------------------------------------------------------


def _show(verb: str, result: Any) -> None:
    out = Console(highlight=False, markup=False, soft_wrap=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    if verb == "help":
        for entry in result:
            out.print(f"{entry['verb']}: {entry['does']}", soft_wrap=True)
            for name, meaning in entry["arguments"].items():
                out.print(f"    {name}: {meaning}", soft_wrap=True)
        return
    _show_value(out, result)


def _is_simple(value: Any) -> bool:
    """Whether a value fits into a cell."""
    return not isinstance(value, dict) and not (isinstance(value, list) and any(isinstance(e, dict) for e in value))


def _show_value(out: Console, value: Any) -> None:
    """An object as lines, what it holds of lists and objects after them; a list of objects as a table."""
    if isinstance(value, dict):
        grid = Table(box=None, show_header=False, pad_edge=False)
        for key, entry in value.items():
            if _is_simple(entry):
                grid.add_row(key, _cell(entry))
        out.print(grid)
        for key, entry in value.items():
            if not _is_simple(entry):
                out.print(f"\n{key}:")
                _show_value(out, entry)
    elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        if all(map(_is_simple, (cell for entry in value for cell in entry.values()))):
            out.print(_table(value))
        else:
            for entry in value:
                _show_value(out, entry)
    else:
        out.print(_cell(value))


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        is_number = all(isinstance(row.get(name), int | float) for row in rows)
        table.add_column(name, justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in names))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "none"
    return str(value)
