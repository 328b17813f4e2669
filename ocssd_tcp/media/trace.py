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

from ocssd_tcp.ocssd.trace_format import (
    MAGIC,
    RECORD_BYTES,
    RECORD_SHIFT,
    SEQ_MASK,
    TRACE_RECORD,
    file_header,
    slots_in,
)

clock = time.monotonic_ns
pack_record = TRACE_RECORD.struct.pack_into
OLD_SUFFIX = ".old"


class TraceRing:
    """A trace that is being written.

    To record: `pack_record(ring.view, (ring.seq << RECORD_SHIFT) & ring.mask, ring.seq, ..., ring.seq ^ SEQ_MASK)`,
    then `ring.seq = ring.seq + 1 & SEQ_MASK`; `put` does that. `n_slots`: records that the ring holds.
    """

    __slots__ = ("_map", "mask", "n_slots", "path", "seq", "view")

    def __init__(self, path: Path, n_bytes: int, info: Mapping[str, Any]) -> None:
        """Make the file, its whole ring allocated: at most `n_bytes` of records. An earlier trace there is kept as
        `<path>.old`, instead of the one before it. OSError, also for a file there that is no trace."""
        self.path = path
        self.n_slots = slots_in(n_bytes)
        self.mask = self.n_slots * RECORD_BYTES - 1
        self.seq = 0
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
        qid: int,
        cntlid: int,
        status: int,
        opcode: int,
        flags: int,
    ) -> None:
        """Record a command. Every value must fit its field of TRACE_RECORD."""
        seq = self.seq
        self.seq = seq + 1 & SEQ_MASK
        pack_record(
            self.view, (seq << RECORD_SHIFT) & self.mask, seq, nsid, arrival, start, completion, lba, pu_mask, nlb, cid,
            qid, cntlid, status, opcode, flags, seq ^ SEQ_MASK,
        )  # fmt: skip

    def close(self) -> None:
        """Record nothing more. The file stays."""
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
