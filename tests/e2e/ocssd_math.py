"""OCSSD 2.0 as a host computes it: addresses, the geometry, chunk descriptors and the LBA lists of vector commands.

Written from the specification and the list binding alone, for tests that speak to the drive as outsiders.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

GEOMETRY_OPCODE = 0xE2
GEOMETRY_BYTES = 4096
CHUNK_LOG = 0xCA
DESCRIPTOR = struct.Struct("<BBB5xQQQ")

VECTOR_RESET = 0x90
VECTOR_WRITE = 0x91
VECTOR_READ = 0x92
VECTOR_COPY = 0x93
STAGE_LBA_LIST = 0x95

FREE, CLOSED, OPEN, OFFLINE = 1, 2, 4, 8
SEQUENTIAL = 1

DNR = 0x4000
INVALID_FIELD = DNR | 0x002
UNWRITTEN = DNR | 0x287
INVALID_RESET = DNR | 0x2C1
OUT_OF_ORDER_WRITE = DNR | 0x2F2


class Address(NamedTuple):
    """Where a logical block is."""

    grp: int
    pu: int
    chk: int
    lbk: int


class Chunk(NamedTuple):
    """A chunk descriptor: state CS, type CT, wear index WLI, SLBA, CNLB and the write pointer WP (blocks)."""

    cs: int
    ct: int
    wli: int
    slba: int
    cnlb: int
    wp: int


def chunks(page: bytes) -> list[Chunk]:
    """The descriptors of a chunk information log, or of a vector reset."""
    return [Chunk(*fields) for fields in DESCRIPTOR.iter_unpack(page)]


@dataclass(frozen=True)
class Geometry:
    """The Geometry structure: field widths in bits, counts, CLBA and write sizes in logical blocks."""

    grp_len: int
    pu_len: int
    chk_len: int
    lbk_len: int
    mccap: int
    num_grp: int
    num_pu: int
    num_chk: int
    clba: int
    ws_min: int
    ws_opt: int
    mw_cunits: int
    maxoc: int
    maxocpu: int

    @classmethod
    def decode(cls, page: bytes) -> Self:
        """From the 4096 bytes of admin command E2h."""
        parts = (("<4B", 8), ("<I", 16), ("<HHII", 64), ("<5I", 128))
        return cls(*(value for code, offset in parts for value in struct.unpack_from(code, page, offset)))

    @property
    def chk_shift(self) -> int:
        """Bits below the chunk field."""
        return self.lbk_len

    @property
    def pu_shift(self) -> int:
        """Bits below the parallel unit field."""
        return self.chk_shift + self.chk_len

    @property
    def grp_shift(self) -> int:
        """Bits below the group field."""
        return self.pu_shift + self.pu_len

    @property
    def address_space(self) -> int:
        """Logical blocks that fit the address format, holes included: NSZE."""
        return 1 << self.grp_shift + self.grp_len

    @property
    def num_chunks(self) -> int:
        """Chunks of the namespace: the entries of the chunk information log."""
        return self.num_grp * self.num_pu * self.num_chk

    @property
    def capacity(self) -> int:
        """Logical blocks that exist: NCAP."""
        return self.num_chunks * self.clba

    def lba(self, grp: int, pu: int, chk: int, lbk: int = 0) -> int:
        """The address of a block."""
        return grp << self.grp_shift | pu << self.pu_shift | chk << self.chk_shift | lbk

    def address(self, lba: int) -> Address:
        """The fields of an address."""
        fields = ((self.grp_shift, self.grp_len), (self.pu_shift, self.pu_len), (self.chk_shift, self.chk_len))
        grp, pu, chk = (lba >> shift & (1 << width) - 1 for shift, width in fields)
        return Address(grp, pu, chk, lba & (1 << self.lbk_len) - 1)

    def index(self, lba: int) -> int:
        """The place of an address' chunk in the chunk information log."""
        where = self.address(lba)
        return (where.grp * self.num_pu + where.pu) * self.num_chk + where.chk


@dataclass(frozen=True)
class Progression:
    """List form 2: runs of `run` blocks over `columns` columns a `stride` apart, then rows a `row_stride` apart."""

    base: int
    run: int
    columns: int
    stride: int
    row_stride: int = 0

    def lbas(self, count: int) -> list[int]:
        """The first `count` addresses."""
        return [
            self.base
            + i % self.run
            + i // self.run % self.columns * self.stride
            + i // (self.run * self.columns) * self.row_stride
            for i in range(count)
        ]

    @property
    def cdw13(self) -> int:
        """Form, R-1 and C-1."""
        return 2 | self.run - 1 << 4 | self.columns - 1 << 10


def pack_list(lbas: Sequence[int]) -> bytes:
    """A list as it travels: little-endian 64-bit addresses."""
    return struct.pack(f"<{len(lbas)}Q", *lbas)


def wide(low: str, high: str, value: int) -> dict[str, int]:
    """A 64-bit value in two command dwords."""
    return {low: value & 0xFFFFFFFF, high: value >> 32}


def inline(lba: int, destination: int = 0) -> dict[str, int]:
    """The dwords of list form 0: one block."""
    return {**wide("cdw10", "cdw11", lba), **wide("cdw14", "cdw15", destination), "cdw12": 0, "cdw13": 0}


def with_data(count: int) -> dict[str, int]:
    """The dwords of list form 1, whose lists lead the command's data."""
    return {"cdw12": count - 1, "cdw13": 1}


def progression(count: int, source: Progression, destination: int | None = None) -> dict[str, int]:
    """The dwords of list form 2; with `destination`, a copy's, whose destinations advance like its sources."""
    common = {**wide("cdw10", "cdw11", source.base), "cdw12": count - 1, "cdw13": source.cdw13}
    if destination is not None:
        return {**common, **wide("cdw2", "cdw3", source.stride), **wide("cdw14", "cdw15", destination)}
    return {**common, **wide("cdw14", "cdw15", source.stride), **wide("cdw2", "cdw3", source.row_stride)}


def slots(count: int, slot: int, destination_slot: int = 0) -> dict[str, int]:
    """The dwords of list form 3; `destination_slot` counts for a copy only."""
    return {"cdw10": slot, "cdw12": count - 1, "cdw13": 3, "cdw14": destination_slot}
