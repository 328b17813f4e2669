"""The durable copy of a parallel unit's chunk table: two halves, written in turn, each with a generation and a CRC.

The mapped table is what the running drive believes and reaches the disk at the kernel's pleasure. After a power cut
only this copy counts: it was written after the data that it speaks of. Writing one half leaves the other whole, so a
torn write costs nothing that was acknowledged.
"""

from __future__ import annotations

import os

from crc32c import crc32c

from ocssd_tcp.media.memory import PAGE, round_up
from ocssd_tcp.structdef import Layout, raw, reserved, u32, u64

MAGIC = b"OCSSDFLU"

FLUSHED_HEADER = Layout(
    "flushed_header",
    PAGE,
    "magic" / raw(8),
    "generation" / u64,
    "n_bytes" / u64,
    "crc" / u32,
    None / reserved(PAGE - 28),
)


class FlushedCopy:
    """The `.flushed` file of one parallel unit, whose table takes `n_bytes`.

    The file is opened for each use: it is needed at flushes only, and drives have a thousand of them.
    """

    __slots__ = ("_generation", "n_bytes", "path")

    def __init__(self, path: str, n_bytes: int) -> None:
        self.path = path
        self.n_bytes = n_bytes
        self._generation: int | None = None  #: of the newest valid half; None: not read yet

    @property
    def half_bytes(self) -> int:
        """Size of one half."""
        return PAGE + round_up(self.n_bytes)

    def create(self, payload: bytes) -> None:
        """Make the file, both halves allocated, with `payload` as generation 1, and sync it. OSError."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, 2 * self.half_bytes)
            self._put(fd, 1, payload)
            os.fsync(fd)
        finally:
            os.close(fd)

    def load(self) -> bytes | None:
        """The newest valid table; None if neither half is whole. OSError if the file cannot be read."""
        newest = self._newest()
        return newest[1] if newest is not None else None

    def _newest(self) -> tuple[int, bytes] | None:
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            halves = [found for half in (0, 1) if (found := self._get(fd, half)) is not None]
        finally:
            os.close(fd)
        return max(halves, default=None)

    def store(self, payload: bytes) -> None:
        """Write `payload` over the older half and wait until it is durable. OSError. One thread at a time."""
        if self._generation is None:
            newest = self._newest()
            self._generation = newest[0] if newest is not None else 0
        generation = self._generation + 1
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._put(fd, generation, payload)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        self._generation = generation

    def _put(self, fd: int, generation: int, payload: bytes) -> None:
        unsealed = FLUSHED_HEADER.pack(magic=MAGIC, generation=generation, n_bytes=len(payload))
        crc = crc32c(payload, crc32c(unsealed))
        header = FLUSHED_HEADER.pack(magic=MAGIC, generation=generation, n_bytes=len(payload), crc=crc)
        data = header + payload
        offset = (generation & 1) * self.half_bytes
        while data:
            written = os.pwrite(fd, data, offset)
            data, offset = data[written:], offset + written

    def _get(self, fd: int, half: int) -> tuple[int, bytes] | None:
        data = os.pread(fd, PAGE + self.n_bytes, half * self.half_bytes)
        if len(data) != PAGE + self.n_bytes:
            return None
        header = FLUSHED_HEADER.unpack_from(data)
        payload = data[PAGE:]
        unsealed = FLUSHED_HEADER.pack(magic=MAGIC, generation=header["generation"], n_bytes=self.n_bytes)
        if header["magic"] != MAGIC or header["n_bytes"] != self.n_bytes:
            return None
        if crc32c(payload, crc32c(unsealed)) != header["crc"]:
            return None
        return header["generation"], payload
