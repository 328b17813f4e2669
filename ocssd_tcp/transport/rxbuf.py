"""The receive buffer, shared by every connection of a process, as only one connection is served at a time.

A connection receives into it, handles what is complete, and keeps the rest (less than one PDU) itself. So an idle
connection costs no buffer, and the memory that bytes arrive in is always warm.
"""

from __future__ import annotations

RX_BYTES = 512 * 1024


class RxBuffer:
    """`data`: the bytes; `view`: a memoryview of all of them."""

    __slots__ = ("data", "view")

    def __init__(self, n_bytes: int = RX_BYTES) -> None:
        self.data = bytearray(n_bytes)
        self.view = memoryview(self.data)
