"""One flat range of addresses that holds a whole drive: data, chunk tables, predefined data.

Files are mapped shared, so that what is stored survives the process; a `Piece` or a plain address can name any byte.
The range lives until the last view of it is gone, whatever happened to the store: a view that waits in a socket's
queue never points to nothing.
"""

from __future__ import annotations

import ctypes
import weakref

from ocssd_tcp.media import libc
from ocssd_tcp.media.ops import Piece

PAGE = 4096

#: Size of an area of predefined data; longer unreadable ranges take several pieces of it.
PREDEFINED_BYTES = 1 << 20


def round_up(n_bytes: int) -> int:
    """`n_bytes` rounded up to whole pages."""
    return -(-n_bytes // PAGE) * PAGE


class Memory:
    """`capacity` bytes of address space, filled from the start by `map_file` and `map_anonymous`.

    `base`: its address. `view`: all of it, of bytes. Touching what is not mapped yet is a fault of the process, so
    pieces come only from here. OSError if the address space is not to be had.
    """

    __slots__ = ("_used", "base", "capacity", "view")

    def __init__(self, capacity: int) -> None:
        self.capacity = max(round_up(capacity), PAGE)
        self.base = libc.reserve(self.capacity)
        self._used = 0
        array = (ctypes.c_ubyte * self.capacity).from_address(self.base)
        # Views keep the array alive. At exit the process ends anyway, and views may still be in use.
        finalizer = weakref.finalize(array, libc.unmap, self.base, self.capacity)
        finalizer.atexit = False  # type: ignore[misc]  # a property, which the stubs do not show
        self.view = memoryview(array).cast("B")

    def _take(self, n_bytes: int) -> int:
        offset, self._used = self._used, self._used + round_up(n_bytes)
        if self._used > self.capacity:
            raise MemoryError(f"{self._used} bytes of a range of {self.capacity}")
        return offset

    def map_file(self, fd: int, n_bytes: int) -> int:
        """Map a file of `n_bytes`, in whole pages; its offset in the range. The descriptor may be closed after it."""
        offset = self._take(n_bytes)
        libc.map_file(self.base + offset, round_up(n_bytes), fd)
        return offset

    def map_anonymous(self, n_bytes: int) -> int:
        """Map `n_bytes` of zeroed, writable memory; its offset in the range."""
        offset = self._take(n_bytes)
        libc.map_anonymous(self.base + offset, round_up(n_bytes), libc.PROT_READ | libc.PROT_WRITE)
        return offset

    def map_predefined(self, fill: int) -> int:
        """Map PREDEFINED_BYTES of the byte `fill`; their offset in the range. Zeros are read-only and cost nothing."""
        if fill:
            offset = self.map_anonymous(PREDEFINED_BYTES)
            self.view[offset : offset + PREDEFINED_BYTES] = bytes([fill]) * PREDEFINED_BYTES
            return offset
        offset = self._take(PREDEFINED_BYTES)
        libc.map_anonymous(self.base + offset, PREDEFINED_BYTES, libc.PROT_READ)
        return offset


class Staging:
    """A bounded area of the range for data that may not be in place before it is complete.

    `take` and `give` are first fit over a short, sorted list of what is free.
    """

    __slots__ = ("_free", "_memory", "_offset", "_size")

    def __init__(self, memory: Memory, size: int) -> None:
        self._memory, self._size = memory, round_up(size)
        self._offset = memory.map_anonymous(size)
        self._free = [Piece(self._offset, self._size)]

    def take(self, n_bytes: int) -> Piece | None:
        """A free piece of `n_bytes`; None if there is no room for it."""
        for index, (offset, length) in enumerate(self._free):
            if length >= n_bytes:
                self._free[index : index + 1] = [Piece(offset + n_bytes, length - n_bytes)] if length > n_bytes else []
                return Piece(offset, n_bytes)
        return None

    def give(self, piece: Piece) -> None:
        """Take a piece back; when all are back, their pages go too."""
        merged: list[Piece] = []
        for offset, length in sorted([*self._free, piece]):
            if merged and merged[-1].offset + merged[-1].length == offset:
                merged[-1] = Piece(merged[-1].offset, merged[-1].length + length)
            else:
                merged.append(Piece(offset, length))
        self._free = merged
        if merged[0].length == self._size:
            libc.discard(self._memory.base + self._offset, self._size)
