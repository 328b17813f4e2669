"""The small HTTP server over real sockets: what it answers, and what it does not put up with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest

from ocssd_tcp.config.values import Address
from ocssd_tcp.observe import http
from ocssd_tcp.observe.http import HttpError, HttpServer, Request, Response, parse

GET = b"GET /text HTTP/1.1\r\nHost: drive\r\n\r\n"


async def _text(request: Request) -> Response:
    return Response(f"{request.path} {sorted(request.query.items())}".encode())


async def _broken(_request: Request) -> Response:
    raise RuntimeError("a bug")


class Site:
    """A running server. `go_on`: lets its stream send the next part, or with `is_flood` all that follow; `n_closed`:
    streams that have ended."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.n_closed = 0
        self.part = b"data: 1\n\n"
        self.is_flood = False
        self.server = HttpServer({"/text": _text, "/broken": _broken, "/stream": self._stream})
        self.address = self.server.listen(Address("127.0.0.1", 0))

    async def _stream(self, _request: Request) -> Response:
        return Response(self._parts(), "text/event-stream")

    async def _parts(self) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield self.part
                await self.go_on.wait()
                if not self.is_flood:
                    self.go_on.clear()
        finally:
            self.n_closed += 1

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address)

    async def ask(self, data: bytes) -> bytes:
        """Send bytes; everything that comes until the server closes."""
        reader, writer = await self.open()
        writer.write(data)
        answer = await reader.read(-1)
        writer.close()
        return answer

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110  (what is waited for happens in the server)
                await asyncio.sleep(0.001)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    found = Site()
    await found.server.start()
    yield found
    await found.server.stop()


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def _body(answer: bytes) -> bytes:
    return answer.split(b"\r\n\r\n", 1)[1]


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (b"/text", b"/text []"),
        (b"/text?ns=2&x=%41", b"/text [('ns', '2'), ('x', 'A')]"),
        (b"/text?ns=1&ns=2", b"/text [('ns', '2')]"),
        (b"http://drive:9420/text", b"/text []"),
    ],
)
async def test_a_path_is_answered_by_its_handler(site: Site, target: bytes, body: bytes) -> None:
    answer = await site.ask(b"GET " + target + b" HTTP/1.1\r\nHost: drive\r\nAccept: */*\r\n\r\n")
    assert (_status(answer), _body(answer)) == (200, body)
    head = answer.split(b"\r\n\r\n")[0]
    assert b"Content-Length: %d" % len(body) in head
    for header in (b"Connection: close", b"Cache-Control: no-store", b"X-Content-Type-Options: nosniff"):
        assert header in head


async def test_head_is_get_without_a_body(site: Site) -> None:
    answer = await site.ask(GET.replace(b"GET", b"HEAD"))
    assert b"Content-Length: 8" in answer
    assert _body(answer) == b""


async def test_http_1_0_needs_no_host(site: Site) -> None:
    assert _status(await site.ask(b"GET /text HTTP/1.0\r\n\r\n")) == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET /text/ HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"GET /../text HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"POST /text HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", 405),
        (b"DELETE /text HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n", 500),
        (b"GET /text HTTP/1.1\r\n\r\n", 400),
        (b"GET /text HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /text HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET /text\r\n\r\n", 400),
        (b"get /text HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET  /text HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /t\x00xt HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET text HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /text HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET /text HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"GET /text HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400),
        (b"GET /text?" + b"&".join(b"a%d=1" % i for i in range(20)) + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"GET /text HTTP/1.1\r\nHost: a\r\nX: " + b"b" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /text HTTP/1.1\r\n" + b"X: 1\r\n" * 5000 + b"\r\n", 431),
        (b"a" * 50_000, 431),
    ],
)
async def test_what_is_no_good_request_is_refused(site: Site, data: bytes, status: int) -> None:
    answer = await site.ask(data)
    assert _status(answer) == status
    assert _body(answer).startswith(b"%d " % status)


async def test_a_refused_method_says_what_is_allowed(site: Site) -> None:
    assert b"\r\nAllow: GET, HEAD\r\n" in await site.ask(b"PUT /text HTTP/1.1\r\nHost: a\r\n\r\n")


async def test_a_request_may_come_in_pieces(site: Site) -> None:
    reader, writer = await site.open()
    for byte in GET:
        writer.write(bytes([byte]))
        await writer.drain()
    assert _status(await reader.read(-1)) == 200
    writer.close()


async def test_a_peer_that_leaves_within_its_request_is_forgotten(site: Site) -> None:
    _reader, writer = await site.open()
    writer.write(GET[:10])
    writer.close()
    await site.until(lambda: site.server.n_connections == 0)
    assert _status(await site.ask(GET)) == 200


async def test_a_request_that_does_not_end_in_time_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.02)
    assert _status(await site.ask(GET[:-2])) == 408


async def test_connections_beyond_the_limit_are_closed_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 2)
    idle = [await site.open() for _ in range(2)]
    await site.until(lambda: site.server.n_connections == 2)
    with contextlib.suppress(ConnectionResetError):
        assert await site.ask(GET) == b""
    for _reader, writer in idle:
        writer.close()
    await site.until(lambda: site.server.n_connections == 0)
    assert _status(await site.ask(GET)) == 200


async def test_a_stream_sends_its_parts_as_they_come(site: Site) -> None:
    reader, writer = await site.open()
    writer.write(GET.replace(b"text", b"stream"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"text/event-stream" in head
    assert b"Content-Length" not in head
    assert await reader.readexactly(9) == b"data: 1\n\n"
    site.go_on.set()
    assert await reader.readexactly(9) == b"data: 1\n\n"
    writer.close()
    site.is_flood = True
    site.go_on.set()
    await site.until(lambda: site.n_closed == 1)
    await site.until(lambda: site.server.n_connections == 0)


async def test_streams_beyond_the_limit_are_told_to_come_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_STREAMS", 1)
    reader, writer = await site.open()
    writer.write(GET.replace(b"text", b"stream"))
    await reader.readuntil(b"data: 1\n\n")
    answer = await site.ask(GET.replace(b"text", b"stream"))
    assert _status(answer) == 503
    assert b"Retry-After" in answer
    assert _status(await site.ask(GET)) == 200
    writer.close()


async def test_a_peer_that_takes_no_bytes_is_dropped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SEND_SECONDS", 0.05)
    site.part, site.is_flood = bytes(1 << 20), True
    site.go_on.set()
    _reader, writer = await site.open()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(GET.replace(b"text", b"stream"))
    await site.until(lambda: site.n_closed == 1)
    await site.until(lambda: site.server.n_connections == 0)
    writer.transport.abort()


async def test_stopping_ends_streams_and_listening(site: Site) -> None:
    reader, writer = await site.open()
    writer.write(GET.replace(b"text", b"stream"))
    await reader.readuntil(b"data: 1\n\n")
    await site.server.stop()
    assert site.n_closed == 1
    with pytest.raises(OSError):
        await site.open()
    writer.close()


async def test_an_address_in_use_is_named() -> None:
    first, second = HttpServer({}), HttpServer({})
    address = first.listen(Address("127.0.0.1", 0))
    with pytest.raises(OSError) as failure:
        second.listen(address)
    assert failure.value.filename == str(address)
    first.close()
    second.close()


def test_a_parsed_request_has_no_more_than_was_asked() -> None:
    method, request = parse(b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (method, request) == ("GET", Request("/a", {"b": "c"}))
    with pytest.raises(HttpError) as failure:
        parse(b"GET /a HTTP/1.1\r\nnonsense\r\nHost: x\r\n\r\n")
    assert failure.value.status == 400
