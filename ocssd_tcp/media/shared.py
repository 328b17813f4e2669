"""What the shards of one namespace have in common."""

from __future__ import annotations

from dataclasses import dataclass, field

from ocssd_tcp.media.events import Report, ignore
from ocssd_tcp.media.memory import Memory
from ocssd_tcp.ocssd.geometry import Geometry


@dataclass(slots=True)
class Stats:
    """What a namespace has been through since it was opened."""

    n_resets: int = 0
    n_media_errors: int = 0  #: failed reads, writes and resets, space not to be had, flushes refused


@dataclass(slots=True)
class Shared:
    """What the shards of one namespace share: the geometry, the memory, and the few things that span parallel units."""

    geometry: Geometry
    memory: Memory
    n_open: int = 0  #: chunks open, or about to be opened by a reservation
    wear_sum: int = 0  #: of the wear indices of all chunks
    report: Report = ignore
    is_lax: bool = False  #: every block that exists can be read
    stats: Stats = field(default_factory=Stats)
    #: flat chunks without data whose space is still allocated, oldest first
    spares: dict[int, None] = field(default_factory=dict)

    def wear(self, before: int, after: int) -> bool:
        """Note a chunk's new wear index; whether that takes it further than WIT from the average, and it was not."""
        n = self.geometry.n_chunks
        most = self.geometry.wit * n
        was_even = abs(before * n - self.wear_sum) <= most
        self.wear_sum += after - before
        return 0 < most < abs(after * n - self.wear_sum) and was_even
