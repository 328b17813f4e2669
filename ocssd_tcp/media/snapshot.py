"""What a flush makes durable of one parallel unit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ocssd_tcp.media.shard import PuShard


class Snapshot(NamedTuple):
    """A shard's table at one moment, on its way to the disk."""

    shard: PuShard
    payload: bytes
    fenced: frozenset[int]

    def store(self) -> None:
        """Wait for the data that the table speaks of, then for the table. OSError. Runs off the loop."""
        try:
            os.fdatasync(self.shard.fd)
            self.shard.flushed.store(self.payload)
        except OSError:
            # At once, for whoever closes the drive before the loop hears of it.
            self.shard.has_failed = True
            raise

    def settle(self, *, is_durable: bool) -> None:
        """Note the outcome, on the loop."""
        self.shard.settle(self, is_durable=is_durable)
