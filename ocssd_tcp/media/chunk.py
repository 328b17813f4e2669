"""What a chunk is: its states, what moves it between them, and what it refuses. OCSSD 2.0, chunk model.

The tables are the rules; `media.shard` applies them to one chunk, `media.table` to whole chunk tables.
"""

from __future__ import annotations

from enum import IntEnum, auto

from ocssd_tcp.media.ops import MediaStatus
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import ChunkState, ChunkType


class ChunkEvent(IntEnum):
    """What happens to a chunk."""

    WRITTEN = 0  #: blocks were added, and there is room for more
    FILLED = auto()  #: wp reached cnlb
    CLOSED_EARLY = auto()  #: a write failed
    RESET = auto()
    RESET_FAILED = auto()  #: or one too many


#: (state, event) -> next state. A random-write chunk never fills.
TRANSITIONS: dict[tuple[int, ChunkEvent], ChunkState] = {
    (ChunkState.FREE, ChunkEvent.WRITTEN): ChunkState.OPEN,
    (ChunkState.FREE, ChunkEvent.FILLED): ChunkState.CLOSED,
    (ChunkState.FREE, ChunkEvent.CLOSED_EARLY): ChunkState.CLOSED,
    (ChunkState.FREE, ChunkEvent.RESET): ChunkState.FREE,
    (ChunkState.FREE, ChunkEvent.RESET_FAILED): ChunkState.OFFLINE,
    (ChunkState.OPEN, ChunkEvent.WRITTEN): ChunkState.OPEN,
    (ChunkState.OPEN, ChunkEvent.FILLED): ChunkState.CLOSED,
    (ChunkState.OPEN, ChunkEvent.CLOSED_EARLY): ChunkState.CLOSED,
    (ChunkState.OPEN, ChunkEvent.RESET): ChunkState.FREE,
    (ChunkState.OPEN, ChunkEvent.RESET_FAILED): ChunkState.OFFLINE,
    (ChunkState.CLOSED, ChunkEvent.RESET): ChunkState.FREE,
    (ChunkState.CLOSED, ChunkEvent.RESET_FAILED): ChunkState.OFFLINE,
}

#: States in which a chunk takes no write, judged before the write pointer.
WRITE_REFUSALS: dict[int, MediaStatus] = {
    ChunkState.CLOSED: MediaStatus.WRITE_FAULT,
    ChunkState.OFFLINE: MediaStatus.WRITE_FAULT,
}

#: Low 16 bits of a chunk entry's first word, state and write type, of the chunks that take plain appends.
KIND_MASK = 0xFF | (ChunkType.SEQUENTIAL | ChunkType.RANDOM) << 8
FREE_SEQUENTIAL = ChunkState.FREE | ChunkType.SEQUENTIAL << 8
OPEN_SEQUENTIAL = ChunkState.OPEN | ChunkType.SEQUENTIAL << 8


def reset_refusals(geometry: Geometry) -> dict[int, MediaStatus]:
    """States in which a chunk takes no reset, by the capabilities of the drive (MCCAP bits 1 and 2)."""
    refusals: dict[int, MediaStatus] = {ChunkState.OFFLINE: MediaStatus.OFFLINE_CHUNK}
    if not geometry.multi_reset:
        refusals[ChunkState.FREE] = MediaStatus.INVALID_RESET
    if not geometry.early_reset:
        refusals[ChunkState.OPEN] = MediaStatus.INVALID_RESET
    return refusals
