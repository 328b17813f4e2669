"""The time of a drive, dialled: latency and limits of its namespaces, set at the start and while it runs alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.media.filters.base import Timers
from ocssd_tcp.media.filters.latency import Latency, LatencyModel, LatencyParams
from ocssd_tcp.media.filters.limits import Limits, Throttle


class Limit(NamedTuple):
    """Limits in force. `nsid` 0: of the whole drive; 0 elsewhere: none."""

    nsid: int
    iops: int
    bytes_per_second: int


class Dials:
    """Puts the filters that are needed around the namespaces, and takes away those that are not.

    Operations that are held when something changes keep the time they were given.
    """

    def __init__(self, namespaces: Sequence[Namespace], timers: Timers) -> None:
        self.latency: LatencyParams | None = None
        self._namespaces = namespaces
        self._timers = timers
        self._models: dict[int, LatencyModel] = {}
        self._drive = Throttle()
        self._own = {namespace.nsid: Throttle() for namespace in namespaces}

    def set_latency(self, params: LatencyParams | None) -> None:
        """Give the flash of all namespaces these times, which geometry then reports; None: no time at all."""
        self.latency = params
        for namespace in self._namespaces:
            model = self._models.get(namespace.nsid)
            if params is None:
                self._models.pop(namespace.nsid, None)
                namespace.layers.latency = None
                namespace.report(namespace.engine.geometry)
            else:
                if model is None:
                    model = self._models[namespace.nsid] = LatencyModel(namespace.geometry, params)
                    namespace.layers.latency = partial(Latency, model=model, timers=self._timers)
                model.configure(params)
                namespace.report(params.timed(namespace.engine.geometry))
            namespace.restack()

    def set_limits(self, limit: Limit) -> None:
        """Put a limit in force, in place of the one that its namespace, or the drive, had. ValueError: no such nsid."""
        throttle = self._own.get(limit.nsid) if limit.nsid else self._drive
        if throttle is None:
            raise ValueError(f"nsid {limit.nsid}: no such namespace; allowed: 0 (the whole drive) to {len(self._own)}")
        throttle.configure(limit.iops, limit.bytes_per_second)
        for namespace in self._namespaces:
            own = self._own[namespace.nsid]
            namespace.layers.limits = None
            if self._drive.is_limited or own.is_limited:
                stride = namespace.geometry.block_stride
                namespace.layers.limits = partial(
                    Limits, throttles=(self._drive, own), block_stride=stride, timers=self._timers
                )
            namespace.restack()

    def limits(self) -> Iterator[Limit]:
        """The limits in force, the drive's first."""
        for nsid, throttle in [(0, self._drive), *self._own.items()]:
            if throttle.is_limited:
                yield Limit(nsid, throttle.iops, throttle.bytes_per_second)
