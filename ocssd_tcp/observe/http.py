"""A very small HTTP server: GET and HEAD, one request per connection, answers and event streams. Nothing can be changed
through it.

Written here because a framework would be the largest part of the program for a handful of fixed pages. What a peer can
make it do is bounded: bytes of a request, seconds for each step, connections, streams, and bytes that wait to be sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeAlias
from urllib.parse import parse_qsl

import structlog

from ocssd_tcp.transport.aio import A

HEAD_BYTES = 8192  #: of a request: its line and its headers
HEAD_SECONDS = 5.0  #: to send them
SEND_SECONDS = 10.0  #: to take an answer, or a part of a stream
LINGER_SECONDS = 1.0  #: to close after an answer
MAX_CONNECTIONS = 64
MAX_STREAMS = 16
_BUFFERED_BYTES = 64 << 10
_MAX_FIELDS = 16
_LINGER_READS = 64

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (?:http://[^/ ]{1,255})?(/[!-~]{0,2000}) HTTP/1\.[01]")
_HEADER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[ \t!-~\x80-\xff]*")
_COMMON_HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

log = structlog.get_logger("http")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: a path, and the fields of its query (the last one of a name)."""

    path: str
    query: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. `body`: all of it, or its parts as they come, for as long as the peer listens."""

    body: bytes | AsyncGenerator[bytes, None]
    content_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)


Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class HttpError(Exception):
    """A request that gets no answer but this status."""

    def __init__(self, status: HTTPStatus, **headers: str) -> None:
        super().__init__(status.phrase)
        self.status = status
        self.headers = headers


def parse(head: bytes) -> tuple[str, Request]:
    """Method and request of a head (RFC 9112), which ends in an empty line. HttpError."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None or not all(map(_HEADER_LINE.fullmatch, lines[1:])):
        raise HttpError(HTTPStatus.BAD_REQUEST)
    if sum(line.lower().startswith(b"host:") for line in lines[1:]) != 1 and lines[0].endswith(b"1.1"):
        raise HttpError(HTTPStatus.BAD_REQUEST)
    path, _, query = match[2].decode("ascii").partition("?")
    try:
        fields = dict(parse_qsl(query, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise HttpError(HTTPStatus.BAD_REQUEST) from None
    return match[1].decode("ascii"), Request(path, fields)


class HttpServer:
    """Serves `routes`: path -> handler."""

    def __init__(self, routes: Mapping[str, Handler]) -> None:
        self._routes = routes
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._n_streams = 0

    @property
    def n_connections(self) -> int:
        """Connections that are open."""
        return len(self._tasks)

    @property
    def is_bound(self) -> bool:
        """Whether `listen` has been called."""
        return self._socket is not None

    def listen(self, address: A) -> A:
        """Bind; the address with the port that was chosen. OSError, its `filename` the address."""
        host, port = address
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, port))
            sock.listen(MAX_CONNECTIONS)
        except OSError as error:
            sock.close()
            raise OSError(error.errno, error.strerror, str(address)) from error
        self._socket = sock
        return type(address)(host, sock.getsockname()[1])

    async def start(self) -> None:
        """Answer requests."""
        if self._socket is not None:
            self._server = await asyncio.start_server(self._connected, sock=self._socket, limit=HEAD_BYTES)

    async def stop(self) -> None:
        """Answer no more, and end what is under way."""
        self.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()
        elif self._socket is not None:
            self._socket.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(_BUFFERED_BYTES)
        try:
            method, response = await self._answer(reader)
            await self._send(reader, writer, method, response)
            await _linger(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return  # the peer has gone, or is too slow
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, Response]:
        method = "GET"
        try:
            try:
                async with asyncio.timeout(HEAD_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError:
                raise HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
            except TimeoutError:
                raise HttpError(HTTPStatus.REQUEST_TIMEOUT) from None
            method, request = parse(head)
            if method not in ("GET", "HEAD"):
                raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")
            handler = self._routes.get(request.path)
            if handler is None:
                raise HttpError(HTTPStatus.NOT_FOUND)
            return method, await handler(request)
        except HttpError as error:
            return method, _refusal(error)
        except Exception:
            log.exception("internal error")
            return method, _refusal(HttpError(HTTPStatus.INTERNAL_SERVER_ERROR))

    async def _send(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, response: Response
    ) -> None:
        if not isinstance(response.body, bytes) and self._n_streams >= MAX_STREAMS:
            response = _refusal(HttpError(HTTPStatus.SERVICE_UNAVAILABLE, **{"Retry-After": "10"}))
        headers = {**_COMMON_HEADERS, "Content-Type": response.content_type, **response.headers}
        if isinstance(response.body, bytes):
            headers["Content-Length"] = str(len(response.body))
        lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        if method == "HEAD":
            return
        if isinstance(response.body, bytes):
            writer.write(response.body)
            await _drained(writer)
            return
        self._n_streams += 1
        try:
            async with contextlib.aclosing(response.body) as parts:
                async for part in parts:
                    writer.write(part)
                    await _drained(writer)
                    if reader.at_eof() or writer.is_closing():
                        return
        finally:
            self._n_streams -= 1


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let the peer read the answer before the connection goes: closing with its bytes unread would be a reset."""
    writer.write_eof()
    async with asyncio.timeout(LINGER_SECONDS):
        for _ in range(_LINGER_READS):
            if not await reader.read(HEAD_BYTES):
                return


async def _drained(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0)  # a peer that takes everything at once does not get the loop for itself
    async with asyncio.timeout(SEND_SECONDS):
        await writer.drain()


def _refusal(error: HttpError) -> Response:
    text = f"{error.status.value} {error.status.phrase}\n"
    return Response(text.encode("ascii"), status=error.status, headers=error.headers)
