"""The shape of a drive: how many groups, parallel units, chunks and blocks, and the rules that writes obey.

A `Geometry` is validated when it is made, so whoever holds one need not check it again. It knows neither where the
drive is stored nor how its Geometry page (`ocssd.layouts`) is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntFlag
from functools import cached_property

U8_MAX, U16_MAX, U32_MAX = 0xFF, 0xFFFF, 0xFFFF_FFFF

#: Sum of the address field widths: NSZE = 1 << sum is a 64-bit number.
MAX_ADDRESS_BITS = 63

#: Legal range of each numeric field: the wire width of its place in the Geometry page (OCSSD 2.0, Geometry).
RANGES: dict[str, tuple[int, int]] = {
    "num_grp": (1, U16_MAX),
    "num_pu": (1, U16_MAX),
    "num_chk": (1, U32_MAX),
    "clba": (1, U32_MAX),
    "ws_min": (1, U32_MAX),
    "ws_opt": (1, U32_MAX),
    "mw_cunits": (0, U32_MAX),
    "maxoc": (0, U32_MAX),
    "maxocpu": (0, U32_MAX),
    "wit": (0, U8_MAX),
    "pe_cycles": (0, U32_MAX),
    "trdt": (0, U32_MAX),
    "trdm": (0, U32_MAX),
    "twrt": (0, U32_MAX),
    "twrm": (0, U32_MAX),
    "tcrst": (0, U32_MAX),
    "tcrsm": (0, U32_MAX),
}

#: Fields that take one of a few values.
CHOICES: dict[str, tuple[int, ...]] = {
    "block_bytes": (512, 4096),
    "metadata_bytes": (0, 8, 16, 32, 64),
    "dlfeat": (0, 1, 2),
}

FLAGS = ("early_reset", "multi_reset", "vector_copy")


class Mccap(IntFlag):
    """Media and controller capabilities, Geometry bytes 16-19. Bit 2 is the extension that emulators share."""

    VECTOR_COPY = 1 << 0
    MULTI_RESET = 1 << 1  #: a Free chunk may be reset again
    EARLY_RESET = 1 << 2  #: an Open chunk may be reset


class GeometryError(ValueError):
    """A geometry that cannot be. `key`: the field at fault; `why`: its value and what is allowed."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key
        self.why = why


def field_width(count: int) -> int:
    """Bits of an address field that can hold 0 .. count - 1; 0 for a count of 1."""
    return (count - 1).bit_length()


@dataclass(frozen=True)
class Geometry:
    """Geometry of one namespace. Counts are counts, sizes are in blocks unless `_bytes`, times are in ns.

    Raises GeometryError for the first field that breaks a rule. OCSSD 2.0, Geometry.
    """

    num_grp: int = 2  #: groups
    num_pu: int = 4  #: parallel units per group
    num_chk: int = 60  #: chunks per parallel unit
    clba: int = 4096  #: logical blocks per chunk
    block_bytes: int = 4096  #: data bytes of a logical block
    metadata_bytes: int = 0  #: bytes that follow each block's data (extended LBA format)
    ws_min: int = 4  #: every write is a multiple of it
    ws_opt: int = 8  #: the write size that performs best
    mw_cunits: int = 24  #: blocks that must follow a block of an Open chunk before it can be read
    maxoc: int = 0  #: most chunks open at once; 0: no limit
    maxocpu: int = 0  #: most chunks open in one parallel unit; 0: only maxoc limits
    early_reset: bool = True  #: MCCAP bit 2
    multi_reset: bool = False  #: MCCAP bit 1
    vector_copy: bool = True  #: MCCAP bit 0
    wit: int = 10  #: wear-level index delta threshold; 0: not reported
    pe_cycles: int = 1000  #: resets that a chunk lives through; 0: no wear
    dlfeat: int = 1  #: unwritten blocks read as 0: zeros, unreported; 1: zeros; 2: FFh
    trdt: int = 70_000
    trdm: int = 100_000
    twrt: int = 1_900_000
    twrm: int = 3_500_000
    tcrst: int = 3_000_000
    tcrsm: int = 3_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_field(field.name)
        if self.ws_opt % self.ws_min:
            raise GeometryError("ws_opt", f"{self.ws_opt} is not a multiple of ws_min ({self.ws_min})")
        if self.clba % self.ws_min:
            raise GeometryError("clba", f"{self.clba} is not a multiple of ws_min ({self.ws_min})")
        if self.mw_cunits > self.clba:
            raise GeometryError("mw_cunits", f"{self.mw_cunits} is more than clba ({self.clba})")
        if 0 < self.maxoc < self.maxocpu:
            raise GeometryError("maxocpu", f"{self.maxocpu} is more than maxoc ({self.maxoc})")
        bits = self.grp_len + self.pu_len + self.chk_len + self.lbk_len
        if bits > MAX_ADDRESS_BITS:
            widths = f"group {self.grp_len}, pu {self.pu_len}, chunk {self.chk_len}, block {self.lbk_len}"
            raise GeometryError("num_chk", f"addresses need {bits} bits ({widths}); at most {MAX_ADDRESS_BITS} allowed")

    def _check_field(self, key: str) -> None:
        value = getattr(self, key)
        if key in FLAGS:
            if not isinstance(value, bool):
                raise GeometryError(key, f"{value!r} is not true or false")
            return
        if isinstance(value, bool) or not isinstance(value, int):
            raise GeometryError(key, f"{value!r} is not a whole number")
        if key in CHOICES:
            if value not in CHOICES[key]:
                raise GeometryError(key, f"{value} is not one of {', '.join(map(str, CHOICES[key]))}")
            return
        low, high = RANGES[key]
        if not low <= value <= high:
            raise GeometryError(key, f"{value} is not in {low} to {high}")

    @cached_property
    def grp_len(self) -> int:
        """Width of the group field, bits."""
        return field_width(self.num_grp)

    @cached_property
    def pu_len(self) -> int:
        """Width of the parallel unit field, bits."""
        return field_width(self.num_pu)

    @cached_property
    def chk_len(self) -> int:
        """Width of the chunk field, bits."""
        return field_width(self.num_chk)

    @cached_property
    def lbk_len(self) -> int:
        """Width of the logical block field, bits."""
        return field_width(self.clba)

    @cached_property
    def chk_shift(self) -> int:
        """Bit position of the chunk field."""
        return self.lbk_len

    @cached_property
    def pu_shift(self) -> int:
        """Bit position of the parallel unit field."""
        return self.lbk_len + self.chk_len

    @cached_property
    def grp_shift(self) -> int:
        """Bit position of the group field."""
        return self.lbk_len + self.chk_len + self.pu_len

    @cached_property
    def nsze(self) -> int:
        """Blocks of the whole address space, holes included: Identify Namespace NSZE."""
        return 1 << (self.grp_shift + self.grp_len)

    @cached_property
    def ncap(self) -> int:
        """Blocks that exist, if every chunk has clba of them: Identify Namespace NCAP."""
        return self.n_chunks * self.clba

    @cached_property
    def n_pu(self) -> int:
        """Parallel units in all groups."""
        return self.num_grp * self.num_pu

    @cached_property
    def n_chunks(self) -> int:
        """Chunks in all parallel units: entries of the Chunk Information log page."""
        return self.n_pu * self.num_chk

    @cached_property
    def block_stride(self) -> int:
        """Bytes of a block with its metadata: what travels and what is stored."""
        return self.block_bytes + self.metadata_bytes

    @cached_property
    def mccap(self) -> Mccap:
        """The capability bits of the Geometry page."""
        flags = (self.vector_copy, self.multi_reset, self.early_reset)
        return Mccap(sum(bit for bit, is_set in zip(Mccap, flags, strict=True) if is_set))
