"""The disk space behind the blocks of one parallel unit, chunk by chunk."""

from __future__ import annotations

import os

from ocssd_tcp.media import libc
from ocssd_tcp.media.shared import Stats

#: Most bytes of a chunk whose pages are asked for when it opens: more would hold up the loop for too long.
POPULATE_BYTES = 16 << 20


class Space:
    """`fd`: the data file. `address`: where it is mapped.

    A store through a map of a full disk would be SIGBUS, so chunks get their space before the first byte is stored.
    """

    __slots__ = ("_address", "_chunk_bytes", "_fd", "_stats")

    def __init__(self, fd: int, address: int, chunk_bytes: int, stats: Stats) -> None:
        self._fd = fd
        self._address = address
        self._chunk_bytes = chunk_bytes
        self._stats = stats

    def allocate(self, chk: int) -> bool:
        """Give a chunk its space, and its first pages; False if the disk has none. What it holds stays."""
        start = chk * self._chunk_bytes
        try:
            os.posix_fallocate(self._fd, start, self._chunk_bytes)
        except OSError:
            self._stats.n_media_errors += 1
            return False
        libc.populate(self._address + start, min(self._chunk_bytes, POPULATE_BYTES))
        return True

    def give_back(self, chk: int, n_chunks: int = 1) -> None:
        """Take the space of chunks, and what they hold."""
        try:
            libc.punch_hole(self._fd, chk * self._chunk_bytes, n_chunks * self._chunk_bytes)
        except OSError:
            self._stats.n_media_errors += 1
