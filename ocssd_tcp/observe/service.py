"""What the drive answers to HTTP: the live page and its data, metrics, and whether it is well."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from http import HTTPStatus
from importlib.resources import files

from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.media.filters.faults import FaultInjector
from ocssd_tcp.observe.drive import Drive
from ocssd_tcp.observe.http import HttpServer, Request, Response
from ocssd_tcp.observe.live import Live, encode
from ocssd_tcp.observe.metrics import CONTENT_TYPE, Exporter
from ocssd_tcp.transport.aio import A, Server

HEALTHY_LAG_SECONDS = 5.0  #: a loop that was later than this for its last heartbeat is not well


class Observatory:
    """Watches a drive, and lets others watch; without an address to listen on it does nothing."""

    def __init__(self, server: Server) -> None:
        self.drive = Drive(server)
        self._exporter = Exporter(self.drive)
        self._live = Live(self.drive, self._exporter.surveys)
        self._page, self._policy = _page()
        self._http = HttpServer(
            {
                "/": self._index,
                "/events": self._events,
                "/api/state.json": self._state,
                "/metrics": self._metrics,
                "/healthz": self._healthz,
                "/readyz": self._readyz,
            }
        )

    def listen(self, address: A | None) -> A | None:
        """Bind; the address with the port that was chosen. None: watch nothing. OSError, its `filename` the address."""
        return None if address is None else self._http.listen(address)

    async def start(self, directory: Directory, injectors: Mapping[int, FaultInjector]) -> None:
        """The drive is open: watch, and answer. To be called before connections are accepted. `injectors`: by NSID."""
        if self._http.is_bound:
            self.drive.opened(directory, injectors)
            await self._http.start()

    def closing(self) -> None:
        """The drive is not ready any more."""
        self.drive.closing()

    async def stop(self) -> None:
        """Answer no more."""
        await self._http.stop()

    def close(self) -> None:
        """Give the address back."""
        self._http.close()

    # --- pages --------------------------------------------------------------------------------------------

    async def _index(self, request: Request) -> Response:
        return Response(self._page, "text/html; charset=utf-8", headers={"Content-Security-Policy": self._policy})

    async def _events(self, request: Request) -> Response:
        return Response(self._live.events(_nsid(request)), "text/event-stream")

    async def _state(self, request: Request) -> Response:
        return Response(encode(await self._live.state(_nsid(request))) + b"\n", "application/json")

    async def _metrics(self, request: Request) -> Response:
        return Response(await self._exporter.exposition(), CONTENT_TYPE)

    async def _healthz(self, request: Request) -> Response:
        lag = self.drive.lag
        status = HTTPStatus.OK if lag < HEALTHY_LAG_SECONDS else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(f"lag {lag:.3f} s\n".encode("ascii"), status=status)

    async def _readyz(self, request: Request) -> Response:
        status = HTTPStatus.OK if self.drive.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(f"{self.drive.phase.value}\n".encode("ascii"), status=status)


def _nsid(request: Request) -> int | None:
    text = request.query.get("ns", "")
    return int(text) if re.fullmatch("[0-9]{1,10}", text) else None


def _page() -> tuple[bytes, str]:
    """The live page, and a policy that lets nothing run but the script and the style in it."""
    page = files("ocssd_tcp.observe").joinpath("page.html").read_bytes()

    def hashed(tag: bytes) -> str:
        contents = re.findall(b"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
        return " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode('ascii')}'" for content in contents
        )

    policy = (
        f"default-src 'none'; script-src {hashed(b'script')}; style-src {hashed(b'style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy
