"""The wear-level index: how much of a chunk's life is behind it, of 255 (OCSSD 2.0, Chunk Information)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def wear_index(resets: int, pe_cycles: int) -> int:
    """WLI: 0 new to 255 end of life, where the last of `pe_cycles` resets takes the chunk. 0 cycles: no wear."""
    return min(resets * 255 // pe_cycles, 255) if pe_cycles else 0


def resets_of(wli: int, pe_cycles: int) -> int:
    """The fewest resets that a wear index stands for."""
    return -(-wli * pe_cycles // 255)


def wear_indices(resets: NDArray[np.uint32], pe_cycles: int) -> NDArray[np.uint8]:
    """`wear_index` of many."""
    if not pe_cycles:
        return np.zeros(resets.shape, np.uint8)
    indices: NDArray[np.uint64] = resets.astype(np.uint64) * np.uint64(255) // np.uint64(pe_cycles)
    return indices.clip(max=255).astype(np.uint8)
