"""Whole chunk tables, in bulk: a fresh one, what a killed process left, and whether one can be believed.

A table is the mapped array of 32-byte entries of one parallel unit, exactly as log page CAh shows it. Here it is seen
through numpy, so that a million chunks take a moment and no Python objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocssd_tcp.ocssd.address import AddressMap
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR, WP_UNDEFINED, ChunkState, ChunkType
from ocssd_tcp.ocssd.wear import wear_indices

Entries = NDArray[Any]

ENTRY_BYTES = CHUNK_DESCRIPTOR.size


@dataclass(frozen=True, slots=True)
class ChunkShape:
    """What makes one chunk different: its write type, and its size in blocks (None: clba)."""

    chunk_type: ChunkType = ChunkType.SEQUENTIAL
    cnlb: int | None = None


def entries_of(table: memoryview) -> Entries:
    """The entries of a chunk table, as a structured array over the same memory."""
    return np.frombuffer(table, CHUNK_DESCRIPTOR.dtype)


def fresh_table(geometry: Geometry, pu: int, shapes: Mapping[int, ChunkShape]) -> Entries:
    """The table of the flat parallel unit `pu` of a new drive: all Free. `shapes`: by flat chunk."""
    entries = np.zeros(geometry.num_chk, CHUNK_DESCRIPTOR.dtype)
    entries["cs"] = ChunkState.FREE
    entries["ct"] = ChunkType.SEQUENTIAL
    entries["slba"] = expected_slbas(geometry, pu)
    entries["cnlb"] = geometry.clba
    first = pu * geometry.num_chk
    for chunk, shape in shapes.items():
        if first <= chunk < first + geometry.num_chk:
            cnlb = geometry.clba if shape.cnlb is None else shape.cnlb
            deviates = ChunkType.DEVIATES if cnlb != geometry.clba else 0
            wp = WP_UNDEFINED if shape.chunk_type & ChunkType.RANDOM else 0
            entry = entries[chunk - first]
            entry["ct"], entry["cnlb"], entry["wp"] = shape.chunk_type | deviates, cnlb, wp
    return entries


def expected_slbas(geometry: Geometry, pu: int) -> NDArray[np.uint64]:
    """The LBA of block 0 of each chunk of the flat parallel unit `pu`."""
    first = AddressMap(geometry).lba(pu * geometry.num_chk)
    return np.uint64(first) + (np.arange(geometry.num_chk, dtype=np.uint64) << np.uint64(geometry.lbk_len))


def readable_blocks(entries: Entries, mw_cunits: int) -> NDArray[np.uint32]:
    """Blocks readable from 0 on, per chunk; 0 for random-write chunks, whose blocks are judged one by one."""
    wp = entries["wp"]
    window = np.minimum(wp, np.uint64(mw_cunits))
    blocks = np.where(entries["cs"] == ChunkState.OPEN, wp - window, wp)
    blocks[(entries["cs"] & (ChunkState.FREE | ChunkState.OFFLINE) != 0) | (entries["ct"] & ChunkType.RANDOM != 0)] = 0
    return blocks.astype(np.uint32)


def normalise(entries: Entries, resets: NDArray[np.uint32], pe_cycles: int) -> None:
    """Settle what a killed process left between two stores.

    A write stores wp, then the state; a reset stores wp 0, then the state. So a state that does not fit its wp is the
    older of the two, and wp decides. Closed with wp 0 fits: a chunk that closed early, and the reset of one.
    """
    sequential = entries["ct"] & ChunkType.RANDOM == 0
    state, wp, cnlb = entries["cs"], entries["wp"], entries["cnlb"]
    full = sequential & (wp == cnlb) & ((state == ChunkState.FREE) | (state == ChunkState.OPEN))
    opened = sequential & (state == ChunkState.FREE) & (wp > 0) & (wp < cnlb)
    emptied = sequential & (state == ChunkState.OPEN) & (wp == 0)
    state[full] = ChunkState.CLOSED
    state[opened] = ChunkState.OPEN
    state[emptied] = ChunkState.FREE
    wp[state == ChunkState.OFFLINE] = WP_UNDEFINED
    if pe_cycles:
        entries["wli"] = wear_indices(resets, pe_cycles)


def first_fault(entries: Entries, geometry: Geometry, pu: int, first: int = 0) -> str | None:
    """What is wrong with the first entry that cannot be, None if all can. `first`: the chunk of the first entry."""
    state, kind, wp, cnlb = entries["cs"], entries["ct"], entries["wp"], entries["cnlb"]
    is_random = kind & ChunkType.RANDOM != 0
    deviates = kind & ChunkType.DEVIATES != 0
    write_type = kind & ~np.uint8(ChunkType.DEVIATES)
    undefined = is_random | (state == ChunkState.OFFLINE)
    odd_size = (cnlb == 0) | (cnlb >= geometry.clba) | (cnlb % geometry.ws_min != 0)
    wrong = {
        "slba": entries["slba"] != expected_slbas(geometry, pu)[first : first + len(entries)],
        "ct": (write_type != ChunkType.SEQUENTIAL) & (write_type != ChunkType.RANDOM),
        "cnlb": np.where(deviates, odd_size, cnlb != geometry.clba),
        "cs": ~np.isin(state, [int(known) for known in ChunkState]) | (is_random & (state == ChunkState.CLOSED)),
        "wp": np.select(
            [undefined, state == ChunkState.FREE, state == ChunkState.OPEN],
            [wp != WP_UNDEFINED, wp != 0, (wp == 0) | (wp >= cnlb) | (wp % geometry.ws_min != 0)],
            wp > cnlb,
        ),
    }
    for name, faults in wrong.items():
        if faults.any():
            chk = int(np.argmax(faults))
            value = int(entries[name][chk])
            return f"chunk {first + chk}: {name} {value:#x} cannot be (cs {state[chk]:#04x}, ct {kind[chk]:#04x})"
    return None
