"""A target in memory with observers, and what they need of a server: shared by the tests of metrics and live page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from ocssd_tcp.commands.tally import Histogram
from ocssd_tcp.observe.drive import Drive, Phase
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.transport.aio import Server
from tests.support_target import SMALL, Target


class MemoryServer:
    """The connections of a target in memory, as a `Server` shows them."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.events: Histogram | None = None
        self.n_accepted = 3
        self.n_refused = 1

    @property
    def connections(self) -> Any:
        return self._target.wires.keys()


@contextmanager
def watched(path: Path, *geometries: Geometry, **options: Any) -> Iterator[tuple[Target, Drive]]:
    """A target whose drive is open and watched, but for the heartbeat, which tests make themselves."""
    target = Target(path, geometries or (SMALL,), **options)
    drive = Drive(cast(Server, MemoryServer(target)))
    drive.directory = target.directory
    drive.phase = Phase.OPEN
    try:
        yield target, drive
    finally:
        target.close()
