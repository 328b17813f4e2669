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
    n_cycles: int = 0  #: resets in the life of all chunks together
    n_offline: int = 0  #: chunks that are Offline
    uneven: bytearray = field(default_factory=bytearray)  #: by flat chunk: reported as far from the average
    report: Report = ignore
    is_lax: bool = False  #: every block that exists can be read
    stats: Stats = field(default_factory=Stats)
    #: flat chunks without data whose space is still allocated, oldest first
    spares: dict[int, None] = field(default_factory=dict)

    def wear(self, chunk: int, before: int, after: int) -> bool:
        """Note a flat chunk's new wear index; whether it is now further than WIT from the average, and was not lately.

        It has come back when it is within half of that, so that a chunk at the border is not reported at every reset.
        """
        n = self.geometry.n_chunks
        self.wear_sum += after - before
        distance, most = abs(after * n - self.wear_sum), self.geometry.wit * n
        if distance > most > 0:
            self.uneven = self.uneven or bytearray(n)
            is_news = not self.uneven[chunk]
            self.uneven[chunk] = True
            return is_news
        if self.uneven and 2 * distance <= most:
            self.uneven[chunk] = False
        return False
