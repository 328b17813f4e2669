"""The ring that commands are recorded in: a file of `ocssd.trace_format`, mapped, one record packed for each command.

What a record says is the caller's business: here is the file, and where the next record goes. A killed process loses
nothing that was recorded; a file that would not fit on the disk is refused when it is made, not by a signal later.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ocssd_tcp.media import libc
from ocssd_tcp.ocssd.trace_format import (
    JOINED_RECORD,
    JOINED_SCALAR,
    MAGIC,
    RECORD_BYTES,
    RECORD_HEAD,
    RECORD_SHIFT,
    RECORD_TAIL,
    SEQ_END,
    SEQ_LIMIT,
    TRACE_RECORD,
    file_header,
    slots_in,
)

clock = time.monotonic_ns
pack_fields = TRACE_RECORD.struct.pack_into
pack_record, pack_scalar = JOINED_RECORD.pack_into, JOINED_SCALAR.pack_into
pack_head, pack_tail = RECORD_HEAD.pack, RECORD_TAIL.pack
OLD_SUFFIX = ".old"
_RECORD_WORDS, _COMPLETION = RECORD_BYTES // 8, TRACE_RECORD.offset("completion") // 8
_FEW = 6  #: records that are completed one by one: numpy is faster for more, and costs a cold buffer several us
POPULATE_BYTES = 64 << 20  #: most of a ring whose pages are there from the start


class TraceRing:
    """A trace that is being written.

    `put` records a command. Who cannot afford the call packs records itself, at `seq << RECORD_SHIFT & mask` of `view`,
    adds 1 to `seq` for each, and calls `renumber` before and `complete` after at most a million of them.
    `n_slots`: records that the ring holds.
    """

    __slots__ = ("_completions", "_map", "_words", "mask", "n_slots", "path", "seq", "view")

    def __init__(self, path: Path, n_bytes: int, info: Mapping[str, Any]) -> None:
        """Make the file, its whole ring allocated: at most `n_bytes` of records. An earlier trace there is kept as
        `<path>.old`, instead of the one before it. OSError, also for a file there that is no trace."""
        self.path = path
        self.n_slots = slots_in(n_bytes)
        self.mask = self.n_slots * RECORD_BYTES - 1
        self.seq = 1
        _keep_old(path)
        wall, monotonic = time.time_ns(), clock()
        head = file_header(self.n_slots, info, wall, monotonic)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, len(head) + self.n_slots * RECORD_BYTES)
            os.pwrite(fd, head, 0)
            self._map = mmap.mmap(fd, len(head) + self.n_slots * RECORD_BYTES)
        except BaseException as error:
            os.unlink(path)
            if isinstance(error, OSError) and error.filename is None:
                raise OSError(error.errno, error.strerror, os.fspath(path)) from None
            raise
        finally:
            os.close(fd)
        self.view = memoryview(self._map)[len(head) :]
        slots = np.frombuffer(self.view, TRACE_RECORD.dtype)
        self._completions, self._words = slots["completion"], self.view.cast("Q")
        libc.populate(slots.ctypes.data, min(len(self.view), POPULATE_BYTES))  # else the first round pays for each page

    @property
    def n_recorded(self) -> int:
        """Commands recorded so far; after 4 Gi it begins anew."""
        return self.seq - 1

    def renumber(self) -> None:
        """Begin the numbers anew if they may be used up soon, so that they are not during what follows."""
        if self.seq >= SEQ_LIMIT:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """The next record keeps its place in the ring, and is newer than all others."""
        self.seq = self.seq % self.n_slots + self.n_slots

    def complete(self, first: int) -> None:
        """The commands with numbers from `first` on complete now."""
        now = clock()
        if self.seq - first <= _FEW:
            words, word_mask = self._words, self.mask >> 3
            for word in range(first * _RECORD_WORDS + _COMPLETION, self.seq * _RECORD_WORDS, _RECORD_WORDS):
                words[word & word_mask] = now
            return
        begin = first % self.n_slots
        end = begin + self.seq - first
        self._completions[begin:end] = now
        if end > self.n_slots:
            self._completions[: end - self.n_slots] = now

    def put(
        self,
        nsid: int,
        arrival: int,
        start: int,
        completion: int,
        lba: int,
        pu_mask: int,
        nlb: int,
        cid: int,
        opcode: int,
        flags: int,
        status: int,
        qid: int,
        cntlid: int,
    ) -> None:
        """Record a command. Every value must fit its field of TRACE_RECORD."""
        if self.seq >= SEQ_END:
            self._begin_anew()
        seq = self.seq
        self.seq = seq + 1
        pack_fields(
            self.view, seq << RECORD_SHIFT & self.mask, seq, nsid, arrival, start, completion, lba, pu_mask, nlb, cid,
            opcode, flags, status, qid, cntlid, seq,
        )  # fmt: skip

    def close(self) -> None:
        """Record nothing more. The file stays."""
        del self._completions
        self._words.release()
        self.view.release()
        self._map.close()


def _keep_old(path: Path) -> None:
    if not os.path.lexists(path):
        return
    is_trace = False
    if path.is_file():  # anything else might not let go of whoever opens it
        with path.open("rb") as file:
            is_trace = file.read(len(MAGIC)) == MAGIC
    if not is_trace:
        raise FileExistsError(errno.EEXIST, "there is something that is no trace; it is left alone", os.fspath(path))
    path.replace(path.with_name(path.name + OLD_SUFFIX))
