"""The written map of one parallel unit: a bit per block, in the mapped file `.map`.

In random-write chunks it says which blocks were written. In the others, where wp says that, it is clear but for blocks
below wp that were not written as their write failed (Write Next Unit).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class WrittenMap:
    """`view`: (clba + 7) // 8 bytes per chunk, bit `lblk & 7` of byte `lblk >> 3`."""

    __slots__ = ("_chunk_bytes", "view")

    def __init__(self, view: memoryview, clba: int) -> None:
        self.view = view
        self._chunk_bytes = (clba + 7) // 8

    def _range(self, chk: int, lblk: int, n_blocks: int) -> slice:
        first, end = chk * self._chunk_bytes, self._chunk_bytes
        return slice(first + min(lblk >> 3, end), first + min((lblk + n_blocks + 7) >> 3, end))

    def marked(self) -> NDArray[np.bool_]:
        """Which chunks have marked blocks."""
        rows = np.frombuffer(self.view, np.uint8).reshape(-1, self._chunk_bytes)
        found: NDArray[np.bool_] = np.any(rows, axis=1)
        return found

    def bits(self, chk: int, lblk: int, n_blocks: int) -> int:
        """Bit i: block lblk + i is marked. Bits from `n_blocks` on mean nothing."""
        return int.from_bytes(self.view[self._range(chk, lblk, n_blocks)], "little") >> (lblk & 7)

    def mark(self, chk: int, lblk: int, n_blocks: int) -> None:
        """Mark blocks, which must exist."""
        where = self._range(chk, lblk, n_blocks)
        marked = int.from_bytes(self.view[where], "little") | ((1 << n_blocks) - 1) << (lblk & 7)
        self.view[where] = marked.to_bytes(where.stop - where.start, "little")

    def cut(self, chk: int, n_blocks: int) -> int:
        """Clear all but the first `n_blocks` of a chunk; what remains, bit i for block i."""
        where = slice(chk * self._chunk_bytes, (chk + 1) * self._chunk_bytes)
        before = int.from_bytes(self.view[where], "little")
        after = before & ((1 << n_blocks) - 1)
        if before != after:
            self.view[where] = after.to_bytes(self._chunk_bytes, "little")
        return after
