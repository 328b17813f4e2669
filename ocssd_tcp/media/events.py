"""What the drive has to say about its chunks: the queue behind log page D0h (OCSSD 2.0, Chunk Notification).

One queue for the drive. Readers take the oldest entries first; when nobody reads, the oldest are lost and the count
goes on, so that a reader sees how many.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from ocssd_tcp.ocssd.layouts import CHUNK_NOTIFICATION, NotificationMask, NotificationState

#: Entries that are kept for readers; log page D0h is as long.
CAPACITY = 1024
RECENT = 32  #: that are remembered for the drive's operator


class Notice(NamedTuple):
    """Something worth knowing. `lba`: the first block concerned. `n_blocks`: 0 for a whole chunk."""

    lba: int
    state: NotificationState
    n_blocks: int = 0


Report: TypeAlias = Callable[[Notice], None]


def ignore(_notice: Notice) -> None:
    """The report of a drive that nobody listens to."""


class _Entry(NamedTuple):
    nsid: int
    packed: bytes


class Past(NamedTuple):
    """A notice that has been given. `at`: Unix time."""

    at: float
    nsid: int
    notice: Notice


class Notifications:
    """The queue. `listener` is called after every addition, and after a read that left something behind.

    `recent`: the last RECENT notices, whether or not a host has read them.
    """

    def __init__(self) -> None:
        self.listener: Callable[[], None] | None = None
        self.count = 0  #: NC of the newest entry
        self.recent: deque[Past] = deque(maxlen=RECENT)
        self._entries: deque[_Entry] = deque(maxlen=CAPACITY)

    def reporter(self, nsid: int) -> Report:
        """What the engine of a namespace calls with its notices."""

        def report(notice: Notice) -> None:
            self.add(nsid, notice)

        return report

    def add(self, nsid: int, notice: Notice) -> None:
        """Queue a notice; the oldest is dropped if there is no room."""
        self.count += 1
        packed = CHUNK_NOTIFICATION.pack(
            nc=self.count,
            lba=notice.lba,
            nsid=nsid,
            state=notice.state,
            mask=NotificationMask.LOGICAL_BLOCK if notice.n_blocks else NotificationMask.CHUNK,
            nlb=max(notice.n_blocks - 1, 0),
        )
        self._entries.append(_Entry(nsid, packed))
        self.recent.append(Past(time.time(), nsid, notice))
        if self.listener is not None:
            self.listener()

    def page(self, nsid: int | None) -> bytes:
        """Log page D0h: entries oldest first, then zeros. `nsid`: only those of one namespace; None: all."""
        return b"".join(self._chosen(nsid)).ljust(CAPACITY * CHUNK_NOTIFICATION.size, b"\0")

    def _chosen(self, nsid: int | None) -> list[bytes]:
        return [entry.packed for entry in self._entries if nsid is None or entry.nsid == nsid]

    def consume(self, nsid: int | None, n_entries: int) -> None:
        """Remove the oldest `n_entries` that `page(nsid)` shows."""
        before = len(self._entries)
        kept: list[_Entry] = []
        for entry in self._entries:
            if n_entries > 0 and (nsid is None or entry.nsid == nsid):
                n_entries -= 1
            else:
                kept.append(entry)
        self._entries = deque(kept, CAPACITY)
        if self.listener is not None and 0 < len(kept) < before:
            self.listener()
