"""A namespace as the batch processor sees it: where blocks are, what a list of LBAs names, and how much was done."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.media.runs import Run
from ocssd_tcp.transport.txqueue import IOV_BYTES, pack_iov
from ocssd_tcp.wire.digest import crc32c
from ocssd_tcp.wire.lba_list import progression, unpack_lbas
from ocssd_tcp.wire.opcodes import MAX_VECTOR_LBAS, ListForm

_PROGRESSION, _CAPSULE_LIST = int(ListForm.PROGRESSION), int(ListForm.CAPSULE)


class PlainNamespace:
    """What the processor needs of a namespace, in the form it needs it."""

    __slots__ = (
        "address", "counters", "engine", "grp_shift", "latencies", "lbk_len", "lbk_mask", "memory", "namespace", "nsze",
        "pu_shift", "readable", "stride",
    )  # fmt: skip

    def __init__(self, namespace: Namespace) -> None:
        geometry, engine = namespace.geometry, namespace.engine
        self.namespace = namespace
        self.engine = engine
        self.memory = engine.memory
        self.counters = namespace.counters
        self.latencies = namespace.latencies
        self.nsze = geometry.nsze
        self.lbk_len = geometry.lbk_len
        self.lbk_mask = (1 << geometry.lbk_len) - 1
        self.pu_shift = geometry.pu_shift
        self.grp_shift = geometry.grp_shift
        self.stride = geometry.block_stride
        self.readable = engine.readable
        self.address = engine.address

    def count_reads(self, n_reads: int, n_vector: int, n_blocks: int) -> None:
        """Count reads that have been answered, `n_vector` of them vector reads."""
        counters = self.counters
        counters.reads += n_reads
        counters.vector_reads += n_vector
        counters.blocks_read += n_blocks


def runs_of(space: PlainNamespace, lbas: Sequence[int]) -> list[Run]:
    """A list cut into runs of adjacent LBAs of one chunk each; empty if some LBA is outside the address space."""
    lbk_len, lbk_mask = space.lbk_len, space.lbk_mask
    runs: list[Run] = []
    first = following = lbas[0]
    for lba in (*lbas, -1):
        if lba == following and (lba & lbk_mask or lba == first):
            following += 1
            continue
        if first >= space.nsze:
            return []
        runs.append((first >> lbk_len, first & lbk_mask, following - first))
        first, following = lba, lba + 1
    return runs


def pack_runs(space: PlainNamespace, lbas: Sequence[int], words: bytearray, piece: int) -> int:
    """Pack where the blocks of a list are, a piece per run, from byte `piece` of `words` on; the end, 0 if some block
    is not plainly readable."""
    lbk_len, lbk_mask, stride, nsze = space.lbk_len, space.lbk_mask, space.stride, space.nsze
    readable, address = space.readable, space.address
    first = following = lbas[0]
    for lba in (*lbas, -1):
        if lba == following:
            following += 1
            continue
        if first >= nsze:
            return 0
        chunk, lblk = first >> lbk_len, first & lbk_mask
        if lblk + following - first > readable[chunk]:
            return 0
        pack_iov(words, piece, address[chunk] + lblk * stride, (following - first) * stride)
        piece += IOV_BYTES
        first = lba
        following = lba + 1
    return piece


def append(space: PlainNamespace, run: Run, data: memoryview) -> bool:
    """Write blocks that came in the capsule; False: not a plain append, and nothing changed."""
    engine = space.engine
    place = engine.runs.reserve(*run)
    if not place:
        return False
    offset = place - space.memory.base
    space.memory.view[offset : offset + len(data)] = data
    if not engine.runs.commit(*run):
        engine.runs.abort(*run)
        return False
    space.counters.writes += 1
    space.counters.blocks_written += run[2]
    return True


def plain_list(
    data: bytearray, capsule_at: int, n_capsule: int, n_lbas: int, lbal: int, cdw2: int, cdw13: int, cdw14: int
) -> Sequence[int] | None:
    """The LBAs of a vector read in one of the forms that need nothing but the capsule; None for the others."""
    if n_lbas > MAX_VECTOR_LBAS:
        return None
    if cdw13 == _CAPSULE_LIST:
        if cdw2 or cdw14 or lbal + n_lbas * 8 > n_capsule:
            return None
        return unpack_lbas(data, n_lbas, capsule_at + lbal)
    if cdw13 & 15 != _PROGRESSION or cdw13 >> 16 or n_capsule:
        return None
    return progression(lbal, n_lbas, (cdw13 >> 4 & 63) + 1, (cdw13 >> 10 & 63) + 1, cdw14, cdw2)


def crc_of_pieces(space: PlainNamespace, words: bytearray, piece: int, end: int) -> int:
    """The data digest of the pieces in bytes `piece` .. `end` of `words`."""
    view, base, crc = space.memory.view, space.memory.base, 0
    for address, length in struct.iter_unpack("<QQ", memoryview(words)[piece:end]):
        offset = address - base
        crc = crc32c(view[offset : offset + length], crc)
    return crc
