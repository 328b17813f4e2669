"""The control socket: a running drive is asked and changed through it, one JSON object a line (docs/control.md).

Only the user that the daemon runs as can open it, and nothing of it is reachable from a network. What a peer can make
it do is bounded: bytes of a request, connections, seconds to take an answer. Every change is logged with who made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import structlog

from ocssd_tcp.config.values import Kind, shown

LINE_BYTES = 64 << 10  #: of a request
MAX_CONNECTIONS = 16
SEND_SECONDS = 10.0
LINGER_SECONDS = 1.0
LINGER_READS = 64

log = structlog.get_logger("control")
_PEER = struct.Struct("3i")
Json: TypeAlias = dict[str, Any]


class RefusalError(Exception):
    """A request that is refused, with nothing changed. `hint`: what to do instead."""

    def __init__(self, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.hint = hint


class Argument(NamedTuple):
    """An argument of a verb. `default` None: it may be left out, and the handler is given None."""

    name: str
    kind: Kind
    doc: str
    required: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Verb:
    """Something that can be asked for. `handler(**arguments)` gives its result, JSON values; RefusalError, or any
    ValueError or OSError, says why not."""

    name: str
    doc: str
    arguments: tuple[Argument, ...]
    changes: bool
    handler: Callable[..., Awaitable[Any]]

    def describe(self) -> Json:
        """As `help` shows it."""
        return {
            "verb": self.name,
            "does": self.doc,
            "arguments": {argument.name: _described(argument) for argument in self.arguments},
        }

    def parse(self, given: Mapping[str, Any]) -> Json:
        """The arguments by name, checked. RefusalError names the first that is wrong."""
        known = {argument.name: argument for argument in self.arguments}
        for name in given:
            if name not in known:
                allowed = ", ".join(known) or "none"
                raise RefusalError(f"{self.name}: no such argument: {name[:40]}", f"arguments: {allowed}")
        values: Json = {}
        for argument in self.arguments:
            value = given.get(argument.name)
            if value is None:
                if argument.required:
                    raise RefusalError(f"{self.name}: {argument.name} is missing", _described(argument))
                values[argument.name] = argument.default
                continue
            try:
                values[argument.name] = argument.kind.parse(value)
            except ValueError as error:
                reason = f": {error}" if str(error) else ""
                wrong = f"{self.name}: {argument.name} = {shown(value)}{reason}"
                raise RefusalError(wrong, f"allowed: {argument.kind.allowed}") from None
        return values


def _described(argument: Argument) -> str:
    default = "" if argument.default is None else f" Default: {shown(argument.kind.plain(argument.default))}."
    need = "" if argument.required or default else " May be left out."
    return f"{argument.doc} Allowed: {argument.kind.allowed}.{default}{need}"


class Who(NamedTuple):
    """The process at the other end, as the kernel knows it."""

    pid: int
    uid: int


class Commands:
    """The verbs, by name; what a request line is answered with."""

    def __init__(self, verbs: Mapping[str, Verb]) -> None:
        self._verbs = verbs

    async def answer(self, line: bytes, who: Who) -> Json:
        """The answer to one request line."""
        try:
            request = _request(line)
        except RefusalError as error:
            return _refused(error, None)
        echo = request.get("id")
        try:
            return _with_id({"ok": True, "result": await self._execute(request, who)}, echo)
        except RefusalError as error:
            return _refused(error, echo)

    async def _execute(self, request: Json, who: Who) -> Any:
        name, given = request.get("verb"), request.get("args", {})
        for key in request:
            if key not in ("verb", "args", "id"):
                raise RefusalError(f"no such key in a request: {key[:40]}", "keys: verb, args, id")
        if not isinstance(request.get("id"), str | int | None):
            raise RefusalError("id is neither a text nor a whole number", "it is given back with the answer")
        verb = self._verbs.get(name) if isinstance(name, str) else None
        if verb is None:
            raise RefusalError(f"no such verb: {shown(name) if _is_plain(name) else 'not a text'}", self._known())
        if not isinstance(given, dict):
            raise RefusalError("args is not an object", '"args": {"name": value}')
        values = verb.parse(given)
        try:
            result = await verb.handler(**values)
        except RefusalError:
            raise
        except OSError as error:
            raise RefusalError(f"{verb.name}: {error.filename or ''}: {error.strerror or error}") from None
        except ValueError as error:
            raise RefusalError(f"{verb.name}: {error}") from None
        except Exception:
            log.exception("internal error", verb=verb.name)
            raise RefusalError(f"{verb.name}: an internal error of the daemon", "its log has the traceback") from None
        if verb.changes:
            log.info("changed", verb=verb.name, args=given, operator=who.uid, pid=who.pid)
        return result

    def _known(self) -> str:
        return f"verbs: {', '.join(self._verbs)}"


def _request(line: bytes) -> Json:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise RefusalError("not JSON", 'a line is a request: {"verb": "help"}') from None
    if not isinstance(request, dict):
        raise RefusalError("not a JSON object", 'a line is a request: {"verb": "help"}')
    return request


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | None)


def _refused(error: RefusalError, echo: object) -> Json:
    return _with_id({"ok": False, "error": str(error)} | ({"hint": error.hint} if error.hint else {}), echo)


def _with_id(answer: Json, echo: object) -> Json:
    return answer if echo is None or not _is_plain(echo) else {"id": echo, **answer}


class ControlServer:
    """Listens on the socket."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._path: Path | None = None
        self._inode = 0
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, path: Path) -> None:
        """Listen at `path`. OSError, its `filename` the path: something else is there, or it cannot be made."""
        try:
            _clear(path)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.bind(os.fspath(path))
                os.chmod(path, 0o600)  # before listen(): until then nobody can connect
                self._server = await asyncio.start_unix_server(self._serve, sock=sock, limit=LINE_BYTES)
            except BaseException:
                sock.close()
                raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        self._path, self._inode = path, os.lstat(path).st_ino
        log.info("control socket is open", path=str(path))

    async def stop(self) -> None:
        """Answer no more, and remove the socket."""
        if self._server is None or self._path is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            if os.lstat(self._path).st_ino == self._inode:  # not that of a daemon that came after
                os.unlink(self._path)
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                busy = RefusalError("too many connections", f"at most {MAX_CONNECTIONS} at once")
                await _send(writer, _refused(busy, None))
                return
            await self._answer_all(reader, writer, _who(writer))
        except (OSError, TimeoutError):
            return
        finally:
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, who: Who) -> None:
        while True:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                line = end.partial
            except asyncio.LimitOverrunError:
                await _send(writer, _refused(RefusalError(f"a request of more than {LINE_BYTES} bytes"), None))
                await _swallow(reader)
                return
            if line.strip():
                await _send(writer, await self._commands.answer(line, who))
            if not line.endswith(b"\n"):
                return


async def _send(writer: asyncio.StreamWriter, answer: Json) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    async with asyncio.timeout(SEND_SECONDS):
        await writer.drain()


async def _swallow(reader: asyncio.StreamReader) -> None:
    """Take what a peer has sent, within limits: closing on it would take the answer away from the peer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            for _ in range(LINGER_READS):
                if not await reader.read(LINE_BYTES):
                    return


def _who(writer: asyncio.StreamWriter) -> Who:
    """SO_PEERCRED of the connection."""
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as sock:
        pid, uid, _gid = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return Who(pid, uid)


def _clear(path: Path) -> None:
    """Remove the socket of a daemon that is gone. OSError: it is not, or that is no socket."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is something that is no socket; it is left alone")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # its queue is full: somebody listens
    raise OSError(errno.EADDRINUSE, "another daemon answers there: stop it, or set control.socket")
