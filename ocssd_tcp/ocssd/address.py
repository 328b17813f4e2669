"""Logical block addresses: four bit fields, and what they name.

An LBA is (group, parallel unit, chunk, logical block), most significant first, with no gaps. Where a count is not a
power of two the address space has holes: values that fit their field and name nothing. Two numberings of chunks are
used:

* the *address chunk*, `lba >> lbk_len`: holes included, cheap to get from an LBA;
* the *flat chunk*, `(grp * num_pu + pu) * num_chk + chk`: no holes, the order of the Chunk Information log page.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol


class Extent(NamedTuple):
    """`n_blocks` adjacent blocks of one chunk, from `lblk` on.

    `chunk` is the flat index ((grp * num_pu) + pu) * num_chk + chk, or -1 where the address names no chunk.
    `lblk` (and lblk + n_blocks) may lie past the chunk's cnlb: such blocks do not exist.
    """

    chunk: int
    lblk: int
    n_blocks: int


class Address(NamedTuple):
    """The four fields of an LBA."""

    grp: int
    pu: int
    chk: int
    lblk: int


class AddressFormat(Protocol):
    """What addressing needs of a drive: a `Geometry`, or the page that a host read from one."""

    @property
    def num_grp(self) -> int: ...
    @property
    def num_pu(self) -> int: ...
    @property
    def num_chk(self) -> int: ...
    @property
    def clba(self) -> int: ...
    @property
    def grp_len(self) -> int: ...
    @property
    def pu_len(self) -> int: ...
    @property
    def chk_len(self) -> int: ...
    @property
    def lbk_len(self) -> int: ...


class AddressMap:
    """The address arithmetic of one drive. OCSSD 2.0, logical block address format.

    No method raises for any LBA, 64 bits or more: an address that names nothing has chunk -1.
    """

    __slots__ = (
        "_chk_len", "_chk_mask", "_is_dense", "_lbk_len", "_lbk_mask", "_n_chunks", "_num_chk", "_num_grp", "_num_pu",
        "_pu_len", "_pu_mask", "clba", "n_address_chunks",
    )  # fmt: skip

    def __init__(self, form: AddressFormat) -> None:
        self._num_grp, self._num_pu, self._num_chk = form.num_grp, form.num_pu, form.num_chk
        self._pu_len, self._chk_len, self._lbk_len = form.pu_len, form.chk_len, form.lbk_len
        self._pu_mask = (1 << form.pu_len) - 1
        self._chk_mask = (1 << form.chk_len) - 1
        self._lbk_mask = (1 << form.lbk_len) - 1
        self._n_chunks = form.num_grp * form.num_pu * form.num_chk
        #: without holes below the group field, both numberings of chunks are the same
        self._is_dense = form.num_pu == 1 << form.pu_len and form.num_chk == 1 << form.chk_len
        self.clba = form.clba
        #: chunks of the whole address space, holes included
        self.n_address_chunks = 1 << (form.grp_len + form.pu_len + form.chk_len)

    def flat_chunk(self, address_chunk: int) -> int:
        """The flat index of an address chunk, -1 if it names none."""
        if self._is_dense:
            return address_chunk if address_chunk < self._n_chunks else -1
        chk = address_chunk & self._chk_mask
        pu = (address_chunk >> self._chk_len) & self._pu_mask
        grp = address_chunk >> (self._chk_len + self._pu_len)
        if chk >= self._num_chk or pu >= self._num_pu or grp >= self._num_grp:
            return -1
        return (grp * self._num_pu + pu) * self._num_chk + chk

    def address_chunk(self, chunk: int) -> int:
        """The address chunk (`slba >> lbk_len`) of a flat index, which must exist."""
        if self._is_dense:
            return chunk
        flat_pu, chk = divmod(chunk, self._num_chk)
        grp, pu = divmod(flat_pu, self._num_pu)
        return (((grp << self._pu_len) | pu) << self._chk_len) | chk

    def lba(self, chunk: int, lblk: int = 0) -> int:
        """The LBA of block `lblk` of the flat chunk `chunk`, which must exist."""
        return (self.address_chunk(chunk) << self._lbk_len) | lblk

    def join(self, grp: int, pu: int, chk: int, lblk: int = 0) -> int:
        """The LBA of four fields, each of which must fit its width."""
        return (((((grp << self._pu_len) | pu) << self._chk_len) | chk) << self._lbk_len) | lblk

    def split(self, lba: int) -> Address:
        """The four fields of `lba`. Bits above the group field make a group that does not exist."""
        address_chunk = lba >> self._lbk_len
        pu = (address_chunk >> self._chk_len) & self._pu_mask
        grp = address_chunk >> (self._chk_len + self._pu_len)
        return Address(grp, pu, address_chunk & self._chk_mask, lba & self._lbk_mask)

    def exists(self, lba: int) -> bool:
        """Whether `lba` names a block of a chunk of clba blocks."""
        return lba & self._lbk_mask < self.clba and self.flat_chunk(lba >> self._lbk_len) >= 0

    def extent(self, lba: int, n_blocks: int = 1) -> Extent:
        """The extent at `lba`, not cut at the end of the block field: for resets and single blocks."""
        return Extent(self.flat_chunk(lba >> self._lbk_len), lba & self._lbk_mask, n_blocks)

    def runs(self, lbas: Iterable[int]) -> list[Extent]:
        """A vector command's list, cut into runs of adjacent entries of one chunk, in list order.

        Blocks past cnlb but inside the block field belong to their chunk's run. The lengths sum to the list's.
        """
        lbk_len, lbk_mask, flat_chunk = self._lbk_len, self._lbk_mask, self.flat_chunk
        found: list[Extent] = []
        first = -1
        following = -1
        for lba in lbas:
            if lba == following and lba & lbk_mask:
                following += 1
                continue
            if first >= 0:
                found.append(Extent(flat_chunk(first >> lbk_len), first & lbk_mask, following - first))
            first = lba
            following = lba + 1
        if first >= 0:
            found.append(Extent(flat_chunk(first >> lbk_len), first & lbk_mask, following - first))
        return found

    def scalar_runs(self, slba: int, n_blocks: int) -> list[Extent]:
        """The `n_blocks` consecutive LBAs from `slba` on, cut where the chunk field changes.

        Nothing wraps: what lies beyond the address space, or beyond 64 bits, names nothing.
        """
        lbk_len = self._lbk_len
        lblk = slba & self._lbk_mask
        room = self._lbk_mask + 1 - lblk
        address_chunk = slba >> lbk_len
        if n_blocks <= room or address_chunk >= self.n_address_chunks:
            return [Extent(self.flat_chunk(address_chunk), lblk, n_blocks)]
        found = [Extent(self.flat_chunk(address_chunk), lblk, room)]
        n_blocks -= room
        whole = self._lbk_mask + 1
        while n_blocks > 0:
            address_chunk += 1
            if address_chunk >= self.n_address_chunks:
                found.append(Extent(-1, 0, n_blocks))
                break
            found.append(Extent(self.flat_chunk(address_chunk), 0, min(n_blocks, whole)))
            n_blocks -= whole
        return found
