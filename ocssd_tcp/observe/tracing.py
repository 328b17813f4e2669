"""Starting, stopping and renewing the trace of a drive (docs/trace.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from ocssd_tcp.controller.subsystem import Subsystem
from ocssd_tcp.media.trace import TraceRing
from ocssd_tcp.ocssd.trace_format import describe

log = structlog.get_logger("trace")


class Tracing:
    """The trace of one subsystem. `info`: what its header says beside the namespaces, JSON values.

    `path`, `n_bytes`: where and how large, unless `start` is told otherwise.
    """

    def __init__(self, subsystem: Subsystem, path: Path | None, n_bytes: int, info: Mapping[str, Any]) -> None:
        self.path = path
        self.n_bytes = n_bytes
        self._subsystem = subsystem
        self._info = info

    @property
    def ring(self) -> TraceRing | None:
        """The trace that is being written; None: none."""
        return self._subsystem.trace

    def start(self, path: Path | None = None, n_bytes: int | None = None) -> TraceRing:
        """Begin a trace; the one that was written before, if any, ends once this one can be written.

        ValueError: nobody said where. OSError: it cannot be written there; nothing has changed then.
        """
        path, n_bytes = path or self.path, n_bytes or self.n_bytes
        if path is None:
            raise ValueError("no path of a trace is known")
        namespaces = {str(nsid): describe(namespace.geometry) for nsid, namespace in self._subsystem.namespaces.items()}
        ring = TraceRing(path, n_bytes, {**self._info, "namespaces": namespaces})
        self.stop()
        self.path, self.n_bytes = path, n_bytes
        self._subsystem.trace = ring
        log.info("trace started", path=str(path), commands=ring.n_slots)
        return ring

    def stop(self) -> TraceRing | None:
        """End the trace. Its file stays; commands under way are not in it. What was written, None if nothing."""
        ring, self._subsystem.trace = self._subsystem.trace, None
        if ring is not None:
            ring.close()
            log.info("trace stopped", path=str(ring.path), recorded=ring.n_recorded)
        return ring
