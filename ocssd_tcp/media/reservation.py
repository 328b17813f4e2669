"""A part of a write that is under way: blocks of one chunk that were set aside for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocssd_tcp.media.ops import MediaStatus, Piece

if TYPE_CHECKING:
    from ocssd_tcp.media.admission import Admission
    from ocssd_tcp.media.shard import PuShard


class Reservation:
    """Blocks `lblk` .. `end` of chunk `chk`, set aside for a write that is under way.

    `admission` is the write's, None as long as only the batch processor knows of it. `staged`: where the data of a
    random-write chunk wait until they are complete. `fault`: how the write will fail, with `good` the first block that
    is not stored; then `end` is where the next write to the chunk goes, its cnlb if it takes none.
    """

    __slots__ = ("admission", "chk", "end", "fault", "good", "is_ordered", "lblk", "shard", "staged")

    def __init__(self, shard: PuShard, chk: int, lblk: int, end: int, *, is_ordered: bool = True) -> None:
        self.shard = shard
        self.chk = chk
        self.lblk = lblk
        self.end = end
        self.is_ordered = is_ordered
        self.admission: Admission | None = None
        self.staged: Piece | None = None
        self.fault = MediaStatus.OK
        self.good = end
