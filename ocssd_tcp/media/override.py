"""Chunks put into another state by an operator: Set Log Page, and the control socket.

Every entry is checked before any is changed, by the rules that a chunk table must meet. An entry that says what the
chunk is already changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ocssd_tcp.media.admission import Admissions
from ocssd_tcp.media.shard import PuShard
from ocssd_tcp.media.shared import Shared
from ocssd_tcp.media.table import ENTRY_BYTES, Entries, entries_of, first_fault
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR, WP_UNDEFINED, ChunkState, ChunkType


class OverrideError(ValueError):
    """Chunks that cannot be put into such a state. Nothing was changed."""


class Overrides:
    """Changes the chunk tables of one namespace. `flush`: makes shards durable some time soon."""

    def __init__(
        self,
        shared: Shared,
        shards: Sequence[PuShard],
        admissions: Admissions,
        flush: Callable[[Iterable[PuShard]], None],
    ) -> None:
        self._shared = shared
        self._shards = shards
        self._admissions = admissions
        self._flush = flush
        self._num_chk = shared.geometry.num_chk

    def apply(self, first: int, entries: Entries) -> None:
        """Replace the log entries from flat chunk `first` on, which must exist. Writes under way there are lost.

        OverrideError: SLBA or CNLB differ, no legal state or type, a write pointer that does not fit, no room to open.
        """
        asked = [self._changes(first + at, entries[at : at + 1]) for at in range(len(entries))]
        changes = [change for change in asked if change is not None]
        self._make_room(changes)
        for shard, chk, entry in changes:
            for op in self._admissions.roll_back(shard, chk):
                self._admissions.fail(op)
            shard.impose(chk, int(entry["cs"][0]), int(entry["ct"][0]), int(entry["wli"][0]), int(entry["wp"][0]))
        self._flush({shard for shard, chk, _entry in changes if shard.needs_flush(chk)})

    def set_state(self, chunk: int, state: ChunkState, wp: int | None) -> None:
        """Put one chunk into a state. `wp`: of Open and Closed chunks; None: the least, or cnlb. OverrideError."""
        shard, chk = self._locate(chunk)
        entry = np.frombuffer(bytearray(shard.descriptor(chk)), CHUNK_DESCRIPTOR.dtype)
        least = {ChunkState.OPEN: self._shared.geometry.ws_min, ChunkState.CLOSED: int(entry["cnlb"][0])}
        entry["cs"] = state
        entry["wp"] = least.get(state, 0) if wp is None else wp
        self.apply(chunk, entry)

    def _locate(self, chunk: int) -> tuple[PuShard, int]:
        pu, chk = divmod(chunk, self._num_chk)
        return self._shards[pu], chk

    def _changes(self, chunk: int, entry: Entries) -> tuple[PuShard, int, Entries] | None:
        """The chunk and its new entry, if it says anything new. OverrideError."""
        shard, chk = self._locate(chunk)
        entry = entry.copy()
        if entry["ct"][0] & ChunkType.RANDOM or entry["cs"][0] == ChunkState.OFFLINE:
            entry["wp"] = WP_UNDEFINED
        now = entries_of(shard.table[chk * ENTRY_BYTES : (chk + 1) * ENTRY_BYTES])
        if (entry == now).all():
            return None
        if entry["cnlb"][0] != now["cnlb"][0]:
            raise OverrideError(f"chunk {chunk}: cnlb is {now['cnlb'][0]} and cannot be {entry['cnlb'][0]}")
        fault = first_fault(entry, self._shared.geometry, shard.pu, chk)
        if fault is not None:
            raise OverrideError(fault)
        if entry["ct"][0] & ChunkType.RANDOM and shard.written is None:
            raise OverrideError(f"chunk {chunk}: its parallel unit has no map for random-write chunks")
        return shard, chk, entry

    def _make_room(self, changes: Sequence[tuple[PuShard, int, Entries]]) -> None:
        geometry, shared = self._shared.geometry, self._shared
        balance: dict[PuShard, int] = {}
        for shard, chk, entry in changes:
            opens = int(entry["cs"][0] == ChunkState.OPEN) - int(shard.is_opened(chk))
            balance[shard] = balance.get(shard, 0) + opens
            if opens > 0 and not shard.may_open(chk):
                raise OverrideError(f"chunk {chk} of unit {shard.pu} cannot open: no space, or its reset is under way")
        if 0 < geometry.maxoc < shared.n_open + sum(balance.values()):
            raise OverrideError(f"more than {geometry.maxoc} chunks would be open (maxoc)")
        if any(0 < geometry.maxocpu < shard.n_open + more for shard, more in balance.items()):
            raise OverrideError(f"more than {geometry.maxocpu} chunks of a unit would be open (maxocpu)")
