"""How an LBA list stands in a command, by the five forms of the binding: the host's side of it, written again."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

RESET, WRITE, READ, COPY, STAGE = 0x90, 0x91, 0x92, 0x93, 0x95
INLINE, DATA, PROGRESSION, SLOT, CAPSULE = range(5)
FORMS = (INLINE, DATA, PROGRESSION, SLOT, CAPSULE)
NAMES = ("inline", "data", "progression", "slot", "capsule")
_M64 = (1 << 64) - 1

#: Slots that lists of tests use; others are left to tests of slots.
SOURCE_SLOT, DESTINATION_SLOT = 5, 6


@dataclass(frozen=True)
class Carried:
    """What a form puts where: command dwords, bytes before the data and beside it, lists to stage first."""

    cdws: dict[str, int]
    head: bytes = b""
    beside: bytes = b""
    staged: tuple[tuple[int, Sequence[int]], ...] = ()


def pack(lbas: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(lbas)}Q", *lbas)


def dwords(
    *, n: int, form: int, lbal: int = 0, dlbal: int = 0, second: int = 0, high: int = 0, cdw12: int = 0
) -> dict[str, int]:
    """Command dwords. `second`: CDW2 and CDW3; `high`: CDW13 bits 31:4."""
    low = 0xFFFF_FFFF
    return {
        "cdw2": second & low, "cdw3": second >> 32, "cdw10": lbal & low, "cdw11": lbal >> 32,
        "cdw12": n - 1 | cdw12, "cdw13": form | high << 4, "cdw14": dlbal & low, "cdw15": dlbal >> 32,
    }  # fmt: skip


def steps(lbas: Sequence[int]) -> tuple[int, int, int, int] | None:
    """(R, C, S1, S2) that give a list from its first entry, None if none do."""
    n, base = len(lbas), lbas[0]
    run = next((i for i in range(n) if lbas[i] != base + i), n)
    for columns in range(1, 65):
        s1 = (lbas[run] - base) & _M64 if run < n and columns > 1 else 0
        s2 = (lbas[run * columns] - base) & _M64 if run * columns < n else 0
        given = [(base + i % run + i // run % columns * s1 + i // (run * columns) * s2) & _M64 for i in range(n)]
        if given == list(lbas):
            return run, columns, s1, s2
    return None


def carry(form: int, opcode: int, lbas: Sequence[int], destinations: Sequence[int] = ()) -> Carried | None:
    """A command's list or lists in a form; None if the form cannot carry them, or not for this command."""
    n, copy = len(lbas), opcode == COPY
    if form == INLINE:
        if n != 1:
            return None
        return Carried(dwords(n=1, form=form, lbal=lbas[0], dlbal=destinations[0] if copy else 0))
    if form == DATA:
        if opcode not in (WRITE, COPY):
            return None
        return Carried(dwords(n=n, form=form), head=pack([*lbas, *destinations]))
    if form == SLOT:
        staged: tuple[tuple[int, Sequence[int]], ...] = ((SOURCE_SLOT, lbas),)
        if copy:
            staged += ((DESTINATION_SLOT, destinations),)
        return Carried(dwords(n=n, form=form, lbal=SOURCE_SLOT, dlbal=DESTINATION_SLOT * copy), staged=staged)
    if form == CAPSULE:
        gap = bytes(8)  # lists need not begin where the capsule's data begin
        beside = gap + pack(lbas) + pack(destinations)
        return Carried(dwords(n=n, form=form, lbal=8, dlbal=8 + 8 * n if copy else 0), beside=beside)
    found = steps(lbas)
    if found is None:
        return None
    run, columns, s1, s2 = found
    high = run - 1 | columns - 1 << 6
    if not copy:
        return Carried(dwords(n=n, form=form, lbal=lbas[0], dlbal=s1, second=s2, high=high))
    offsets = [lba - lbas[0] for lba in lbas]
    if s2 or run * columns < n or [lba - destinations[0] for lba in destinations] != offsets:
        return None
    return Carried(dwords(n=n, form=form, lbal=lbas[0], dlbal=destinations[0], second=s1, high=high))
