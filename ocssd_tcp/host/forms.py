"""How a host sends an LBA list: which form of the binding, and what it puts into the command.

`wire.lba_list` has the reverse. Nothing is sent from here; staging a list in a slot is `host.drive`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from ocssd_tcp.host.errors import BindingUnsupported, UsageError
from ocssd_tcp.wire.lba_list import pack_lbas, progression
from ocssd_tcp.wire.opcodes import Io, ListForm

_MASK64 = (1 << 64) - 1
_MASK32 = (1 << 32) - 1


class EncodedList(NamedTuple):
    """CDWs of a vector command, the list's bytes before its data (form 1) and those beside it (form 4)."""

    cdws: dict[str, int]
    prefix: bytes = b""
    capsule: bytes = b""


class Steps(NamedTuple):
    """A list as a progression: runs of `run` blocks over `columns` columns `s1` apart, rows `s2` apart."""

    run: int
    columns: int
    s1: int
    s2: int


def as_progression(lbas: Sequence[int], destinations: Sequence[int] = ()) -> Steps | None:
    """The steps that give `lbas`, and of a copy `destinations` too, from their first entries; None if none do."""
    n = len(lbas)
    offsets = [(lba - lbas[0]) & _MASK64 for lba in lbas]
    run = _length(n, lambda i: offsets[i] == i)
    columns, s1, s2 = 1, 0, 0
    if run < n:
        s1 = offsets[run]
        columns = _length(-(-n // run), lambda i: offsets[i * run] == i * s1 & _MASK64)
        if run * columns < n:
            s2 = offsets[run * columns]
    if progression(0, n, run, columns, s1, s2) != offsets:
        return None
    if destinations:  # one set of steps serves both lists, and has no rows
        other = [(lba - destinations[0]) & _MASK64 for lba in destinations]
        if other != offsets or run * columns < n:
            return None
    return Steps(run, columns, s1, s2)


def _length(n: int, fits: Callable[[int], bool]) -> int:
    """How many of 0 .. n - 1 fit, from the first on without a gap."""
    return next((i for i in range(n) if not fits(i)), n)


def choose(
    opcode: int,
    lbas: Sequence[int],
    destinations: Sequence[int],
    offered: Collection[ListForm],
    wanted: ListForm | None,
) -> ListForm:
    """The form for a list: `wanted`, or the one that costs least of those the drive offers.

    BindingUnsupported if there is none; UsageError if `wanted` cannot carry this list.
    """
    possible = {
        ListForm.INLINE: len(lbas) == 1,
        ListForm.PROGRESSION: as_progression(lbas, destinations) is not None,
        ListForm.CAPSULE: True,
        ListForm.DATA: opcode in (Io.VECTOR_WRITE, Io.VECTOR_COPY),
        ListForm.SLOT: True,
    }
    if wanted is None:
        for form, is_possible in possible.items():
            if is_possible and (form in offered or form is ListForm.INLINE):
                return form
        raise BindingUnsupported(f"the drive offers no form for a list of {len(lbas)} LBAs; use scalar commands")
    if not possible[wanted]:
        raise UsageError(f"form {wanted.value} ({wanted.name.lower()}) cannot carry this list of {len(lbas)} LBAs")
    if wanted not in offered and wanted is not ListForm.INLINE:
        raise BindingUnsupported(f"the drive does not offer form {wanted.value} ({wanted.name.lower()})")
    return wanted


def encode(
    form: ListForm, opcode: int, lbas: Sequence[int], destinations: Sequence[int] = (), slots: tuple[int, int] = (0, 0)
) -> EncodedList:
    """Put a list into a command by `form`, which must be possible for it. `slots`: of the list and the destinations."""
    lbal = dlbal = second = 0
    shape = 0
    prefix = capsule = b""
    if form is ListForm.INLINE:
        lbal, dlbal = lbas[0], destinations[0] if destinations else 0
    elif form is ListForm.DATA:
        prefix = pack_lbas([*lbas, *destinations])
    elif form is ListForm.PROGRESSION:
        steps = as_progression(lbas, destinations)
        if steps is None:
            raise UsageError("the list is not a progression")
        shape = (steps.run - 1) << 4 | (steps.columns - 1) << 10
        lbal = lbas[0]
        dlbal, second = (destinations[0], steps.s1) if opcode == Io.VECTOR_COPY else (steps.s1, steps.s2)
    elif form is ListForm.SLOT:
        lbal, dlbal = slots[0], slots[1] if destinations else 0
    else:
        capsule = pack_lbas([*lbas, *destinations])
        dlbal = len(lbas) * 8 if destinations else 0
    cdws = {
        "cdw2": second & _MASK32,
        "cdw3": second >> 32,
        "cdw10": lbal & _MASK32,
        "cdw11": lbal >> 32,
        "cdw12": len(lbas) - 1,
        "cdw13": form | shape,
        "cdw14": dlbal & _MASK32,
        "cdw15": dlbal >> 32,
    }
    return EncodedList(cdws, prefix, capsule)
