"""The drives next to this one: what their discovery logs say is told in ours, so that one address finds a whole fleet.

From each peer only the entries of its own are taken, not what it took from others: a drive that has gone would
otherwise live on in the logs of those that keep telling each other about it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeAlias, TypeVar

import structlog

from ocssd_tcp.controller.discovery import Discovery, Elsewhere
from ocssd_tcp.host.client import Options
from ocssd_tcp.host.discovery import MAX_ENTRIES, discover
from ocssd_tcp.host.errors import HostError
from ocssd_tcp.host.identify import DiscoveryEntry
from ocssd_tcp.wire.opcodes import ELSEWHERE_PORTID

ANSWER_SECONDS = 5.0  #: for a name to be resolved, and for each answer of a peer
READ_SECONDS = 10.0  #: for all of one peer's log
PATIENCE = 2  #: failures in a row that change nothing yet
MAX_PEERS = 4096
_AT_ONCE = 16  #: bounds what logs of MAX_ENTRIES take while they are read

Place: TypeAlias = tuple[str, int]  #: a name or a literal address, and a port
T = TypeVar("T")
log = structlog.get_logger("peers")


class _Answers(Generic[T]):
    """What places said when they were last asked. One that fails to answer is believed a little longer."""

    def __init__(self, lost: str, found: str) -> None:
        """`lost`, `found`: lines of the log for the first failure, and for the answer after it."""
        self._lost = lost
        self._found = found
        self._said: dict[Place, frozenset[T]] = {}
        self._failures: dict[Place, int] = {}

    def __getitem__(self, place: Place) -> frozenset[T]:
        return self._said.get(place, frozenset())

    def answered(self, place: Place, said: Iterable[T]) -> None:
        """`said`: all that holds from now on."""
        self._said[place] = frozenset(said)
        if self._failures.pop(place, 0):
            log.info(self._found, peer=_text(place))

    def failed(self, place: Place, why: str) -> None:
        """Once more in a row."""
        self._failures[place] = failures = self._failures.get(place, 0) + 1
        if failures == 1:
            log.warning(self._lost, peer=_text(place), why=why)
        if failures > PATIENCE:
            self._said.pop(place, None)

    def keep(self, places: Iterable[Place]) -> None:
        """Forget all others."""
        kept = set(places)
        for gone in (self._said.keys() | self._failures.keys()) - kept:
            self._said.pop(gone, None)
            self._failures.pop(gone, None)


class Peers:
    """Reads the discovery logs of `places` every `seconds`, as host `hostnqn`, into `discovery`."""

    def __init__(self, discovery: Discovery, places: Sequence[Place], seconds: float, hostnqn: str) -> None:
        self._discovery = discovery
        self._places = list(places)
        self._seconds = seconds
        self._options = Options(hostnqn=hostnqn, timeout=ANSWER_SECONDS)
        self._names: _Answers[Place] = _Answers("the name of peers is not known", "the name of peers is known again")
        self._logs: _Answers[Elsewhere] = _Answers("a peer does not answer", "a peer answers again")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read for the first time at once, if there are any peers."""
        if self._places:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.refresh()
            except Exception:  # ours; the drive itself is well, and the next reading may be too
                log.exception("internal error")
            await asyncio.sleep(self._seconds)

    async def refresh(self) -> None:
        """Read all peers once."""
        await asyncio.gather(*map(self._resolve, self._places))
        self._names.keep(self._places)
        addresses = sorted({address for place in self._places for address in self._names[place]})[:MAX_PEERS]
        gate = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._read(address, gate) for address in addresses))
        self._logs.keep(addresses)
        found = sorted({entry for address in addresses for entry in self._logs[address]})
        self._discovery.set_elsewhere(found[:MAX_ENTRIES])

    async def _resolve(self, place: Place) -> None:
        host, port = place
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            self._names.failed(place, str(error) or "no answer")
        else:
            self._names.answered(place, {(str(sockaddr[0]), port) for *_, sockaddr in found})

    async def _read(self, address: Place, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                async with asyncio.timeout(READ_SECONDS):
                    entries = await discover(*address, self._options)
            except TimeoutError:
                self._logs.failed(address, f"no answer within {READ_SECONDS:g} s")
            except (HostError, OSError) as error:
                self._logs.failed(address, str(error))
            else:
                self._logs.answered(address, _own(entries))


def _own(entries: Iterable[DiscoveryEntry]) -> Iterator[Elsewhere]:
    """What a log says of NVM subsystems over TCP, without what its service was told itself."""
    for entry in entries:
        if (entry.subtype, entry.trtype) != ("nvme", "tcp") or entry.portid == ELSEWHERE_PORTID:
            continue
        with contextlib.suppress(ValueError):  # a name or a port that is none: nothing that could be told further
            ipaddress.ip_address(entry.traddr)
            port = int(entry.trsvcid)
            if 0 < port < 1 << 16 and entry.subnqn:
                yield Elsewhere(entry.subnqn, entry.traddr, port, entry.treq, entry.asqsz, entry.sectype)


def _text(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
