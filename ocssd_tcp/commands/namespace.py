"""A namespace as the commands see it: an identity, a geometry, and the media behind it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from ocssd_tcp.commands.tally import Counters, Latencies, Tally
from ocssd_tcp.media.engine import Engine
from ocssd_tcp.media.filters.stack import Layers, build_stack
from ocssd_tcp.media.life import Usage
from ocssd_tcp.media.ops import Media
from ocssd_tcp.ocssd.address import AddressMap
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import geometry_page
from ocssd_tcp.wire.lba_list import FORMS, N_SLOTS


@dataclass(slots=True)
class Namespace:
    """An active namespace.

    `media` executes operations: the engine itself, or filters around it. `engine` owns the chunk tables (log page
    CAh, the batch processor's tables). `uuid` is stable for the life of the drive; NGUID is its 16 bytes. `layers`: the
    filters around the engine; `restack` after a change of them. `tally`: I/O commands by outcome, but for the reads and
    writes that succeeded, which `counters` has. `past`: what `usage` was when the drive was opened. `latencies`: of
    all that the media did, and of plain commands while somebody watches.
    """

    nsid: int
    geometry: Geometry
    engine: Engine
    media: Media
    uuid: uuid.UUID
    counters: Counters = field(default_factory=Counters)
    past: Usage = field(default_factory=Usage)
    tally: Tally = field(default_factory=Tally)
    latencies: Latencies = field(init=False)
    layers: Layers = field(default_factory=Layers)
    allow_set_log_page: bool = False
    geometry_page: bytes = field(init=False)
    addresses: AddressMap = field(init=False)

    def __post_init__(self) -> None:
        self.geometry_page = geometry_page(self.geometry, forms=FORMS, n_slots=N_SLOTS)
        self.addresses = AddressMap(self.geometry)
        self.latencies = Latencies(self.geometry.num_pu * self.geometry.num_chk, self.geometry.num_grp)

    def usage(self) -> Usage:
        """What the namespace has been through in its life."""
        past, counters = self.past, self.counters
        return Usage(
            blocks_read=past.blocks_read + counters.blocks_read,
            blocks_written=past.blocks_written + counters.blocks_written,
            reads=past.reads + counters.reads,
            writes=past.writes + counters.writes,
            media_errors=past.media_errors + self.engine.stats.n_media_errors,
        )

    def report(self, geometry: Geometry) -> None:
        """Have hosts see `geometry`: the shape of the engine's, with other times."""
        self.geometry = geometry
        self.geometry_page = geometry_page(self.geometry, forms=FORMS, n_slots=N_SLOTS)

    def restack(self) -> None:
        """Put the filters of `layers` around the engine. Operations under way keep the path they are on."""
        self.media = build_stack(self.engine, self.layers)
