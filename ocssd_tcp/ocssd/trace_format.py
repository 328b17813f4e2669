"""The file of a trace: a header, what was known of the drive, and a ring of fixed-size records, one for each command.

Writer and reader share this module, and neither needs the other. A record carries its number twice, as its first and
its last bytes, and a record is written from front to back: what a killed daemon left half written, or what is being
written while it is read, does not show the same number twice and is left out.

    0                header (TRACE_HEADER)
    64               `info_bytes` of JSON: version, drive, namespaces with geometry, seeds
    `records_offset` the ring: `n_slots` records (TRACE_RECORD); number n is in slot n % n_slots
"""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.structdef import Layout, raw, reserved, u8, u16, u32, u64

MAGIC = b"OCSSDTRC"
VERSION = 1
PAGE_BYTES = 4096
MIN_SLOTS = 64  #: a page of records
MAX_INFO_BYTES = 16 << 20
MAX_SLOTS = 1 << 30
SEQ_END = (1 << 32) - 1  #: numbers begin anew here; a writer of many records looks once, and does so at SEQ_LIMIT
SEQ_LIMIT = SEQ_END - (1 << 20)
MASK_BITS = 64

TRACE_HEADER = Layout(
    "trace_header",
    64,
    "magic" / raw(8),
    "version" / u32,
    "record_bytes" / u32,
    "n_slots" / u64,
    "records_offset" / u64,
    "info_bytes" / u64,
    "wall_ns" / u64,  # CLOCK_REALTIME and CLOCK_MONOTONIC at one moment: what the records' times count from
    "monotonic_ns" / u64,
    None / reserved(8),
)

#: `seq`: 1 for the first command. Times are CLOCK_MONOTONIC. `start`: 0 if the media was not asked. `completion`: 0
#: as long as the response is not queued; such a record is not whole. `pu_mask`: 0, or for a command with a list of
#: addresses bit i for the parallel units whose number modulo 64 is i. `nlb`: 0's based. `status`: SCT << 8 | SC.
TRACE_RECORD = Layout(
    "trace_record",
    64,
    "seq" / u32,
    "nsid" / u32,
    "arrival" / u64,
    "start" / u64,
    "completion" / u64,
    "lba" / u64,
    "pu_mask" / u64,
    "nlb" / u16,
    "cid" / u16,
    "opcode" / u8,
    "flags" / u8,
    "status" / u16,
    "qid" / u16,
    "cntlid" / u16,
    "check" / u32,
)
#: The same in parts, fewer to pack where many records have some in common: seq, RECORD_HEAD, lba, pu_mask, nlb, cid,
#: RECORD_TAIL, check. The head is nsid to `completion`; the tail `opcode` to `status`, joined, and `qid` and `cntlid`.
#: JOINED_SCALAR is without the mask, which a scalar command has not.
JOINED_RECORD = struct.Struct("<I28sQQHH8sI")
JOINED_SCALAR = struct.Struct("<I28sQ8xHH8sI")
RECORD_HEAD = struct.Struct("<IQQQ")
RECORD_TAIL = struct.Struct("<II")
RECORD_BYTES = TRACE_RECORD.size
RECORD_SHIFT = RECORD_BYTES.bit_length() - 1

Records = NDArray[Any]

#: What a reader takes from the description of a namespace, each less than this.
_BOUNDS = {"num_grp": 1 << 16, "num_pu": 1 << 16, "pu_len": 17, "chk_len": 33, "lbk_len": 33}


class TraceFlag(IntFlag):
    """Bits of a record's `flags`."""

    PLAIN = 1 << 0  #: the batch processor handled all of it
    FUA = 1 << 1
    HAS_EXTENT = 1 << 2  #: `lba`, `nlb` and the parallel units are those of the command; else it names no blocks


class TraceError(Exception):
    """A file that is no trace, or not one that this version reads."""


class PuMap(NamedTuple):
    """How a namespace's LBAs name parallel units: the address bits below the unit, its width, and the counts."""

    pu_shift: int
    pu_len: int
    num_grp: int
    num_pu: int

    def name(self, address_pu: int) -> str:
        """`group/unit` of `lba >> pu_shift`."""
        return f"{address_pu >> self.pu_len}/{address_pu & (1 << self.pu_len) - 1}"

    def existing(self, address_pus: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of the numbers name a parallel unit."""
        units = address_pus & np.uint64((1 << self.pu_len) - 1)
        return (address_pus >> np.uint64(self.pu_len) < self.num_grp) & (units < self.num_pu)

    @property
    def n_addresses(self) -> int:
        """Numbers that existing units can have are less than this."""
        return self.num_grp << self.pu_len


def slots_in(n_bytes: int) -> int:
    """Records of a ring of at most `n_bytes`: a power of two, so that a record's number says where it is."""
    return min(max(1 << (n_bytes // RECORD_BYTES).bit_length() >> 1, MIN_SLOTS), MAX_SLOTS)


def file_header(n_slots: int, info: Mapping[str, Any], wall_ns: int, monotonic_ns: int) -> bytes:
    """All of a trace file before its ring. `info`: JSON values; `namespaces` is that of `describe`, by NSID as text."""
    text = json.dumps(info).encode()
    offset = -(-(TRACE_HEADER.size + len(text)) // PAGE_BYTES) * PAGE_BYTES
    header = TRACE_HEADER.pack(
        magic=MAGIC,
        version=VERSION,
        record_bytes=RECORD_BYTES,
        n_slots=n_slots,
        records_offset=offset,
        info_bytes=len(text),
        wall_ns=wall_ns,
        monotonic_ns=monotonic_ns,
    )
    return (header + text).ljust(offset, b"\0")


def describe(geometry: Geometry) -> dict[str, int]:
    """A namespace in the `info` of a trace: what a reader needs to take addresses apart."""
    names = ("num_grp", "num_pu", "num_chk", "clba", "grp_len", "pu_len", "chk_len", "lbk_len")
    return {name: getattr(geometry, name) for name in (*names, "block_bytes", "metadata_bytes", "ws_min")}


@dataclass(frozen=True)
class Trace:
    """A trace that was read. `records`: whole ones, oldest first. `n_torn`: slots whose record was not whole."""

    info: Mapping[str, Any]
    n_slots: int
    wall_ns: int
    monotonic_ns: int
    records: Records
    n_torn: int

    @property
    def n_lost(self) -> int:
        """Records that were overwritten before the first of these, up to 4 Gi of them."""
        return int(self.records["seq"][0]) - 1 if len(self.records) else 0

    @property
    def nsids(self) -> list[int]:
        """The namespaces that the header describes."""
        return [int(nsid) for nsid in self.info["namespaces"]]

    def pu_map(self, nsid: int) -> PuMap:
        """How the addresses of one of the `nsids` name parallel units."""
        known = self.info["namespaces"][str(nsid)]
        return PuMap(known["lbk_len"] + known["chk_len"], known["pu_len"], known["num_grp"], known["num_pu"])

    def wall(self, moment_ns: int) -> int:
        """A record's time as nanoseconds since 1970."""
        return moment_ns - self.monotonic_ns + self.wall_ns


def read_trace(path: Path) -> Trace:
    """Read a trace, also one that is being written. TraceError if it is none; OSError if it cannot be read."""
    with path.open("rb") as file:
        n_bytes = file.seek(0, 2)
        if not n_bytes:
            raise TraceError("an empty file, not a trace")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse_trace(data)


def parse_trace(data: bytes | mmap.mmap) -> Trace:
    """Take a trace file apart. TraceError if it is none, or of another version, or cut short."""
    if len(data) < TRACE_HEADER.size or data[: len(MAGIC)] != MAGIC:
        raise TraceError("not a trace of ocssd-tcpd")
    header = TRACE_HEADER.unpack_from(data[: TRACE_HEADER.size])
    if header["version"] != VERSION or header["record_bytes"] != RECORD_BYTES:
        raise TraceError(f"a trace of version {header['version']}; this program reads version {VERSION}")
    n_slots, offset = header["n_slots"], header["records_offset"]
    if n_slots & n_slots - 1 or not MIN_SLOTS <= n_slots <= MAX_SLOTS or header["info_bytes"] > MAX_INFO_BYTES:
        raise TraceError("a trace whose header is damaged")
    if TRACE_HEADER.size + header["info_bytes"] > offset or offset + n_slots * RECORD_BYTES > len(data):
        raise TraceError("a trace that was cut short")
    info = _info(bytes(data[TRACE_HEADER.size : TRACE_HEADER.size + header["info_bytes"]]))
    # A copy, as the ring may be in use: what is checked is what is returned.
    slots = np.frombuffer(data[offset : offset + n_slots * RECORD_BYTES], TRACE_RECORD.dtype)
    records, n_torn = whole_records(slots)
    return Trace(info, n_slots, header["wall_ns"], header["monotonic_ns"], records, n_torn)


def _info(text: bytes) -> dict[str, Any]:
    try:
        info = json.loads(text)
        for nsid, known in info["namespaces"].items():
            if not nsid.isdecimal() or not all(
                type(known[name]) is int and 0 <= known[name] < high for name, high in _BOUNDS.items()
            ):
                raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise TraceError("a trace whose header is damaged") from None
    found: dict[str, Any] = info
    return found


def whole_records(slots: Records) -> tuple[Records, int]:
    """The records of a ring that are whole, oldest first, and how many slots hold one that is not."""
    number, check = slots["seq"], slots["check"]
    place = np.arange(len(slots), dtype=np.uint32)
    is_whole = (number == check) & (number & np.uint32(len(slots) - 1) == place) & (slots["completion"] != 0)
    is_torn = ~is_whole & ((number != 0) | (check != 0))
    found = slots[is_whole]
    if len(found):
        age = (found["seq"] - found["seq"][0]).astype(np.int32)  # numbers wrap; a ring holds less than half of them
        found = found[np.argsort(age, kind="stable")]
    return found, int(np.count_nonzero(is_torn))
