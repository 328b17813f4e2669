"""How the LBA lists of vector commands travel over a fabric: binding version 1.

List form (CDW13 3:0), what the form reserves, and the LBAs it names. Slots are the caller's: it passes them in. A
refused list is a status, never an exception, as this runs in the I/O path.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from ocssd_tcp.wire.opcodes import MAX_VECTOR_LBAS, Io, ListForm
from ocssd_tcp.wire.status import Status

LBA_BYTES = 8
N_SLOTS = 64
FORMS = 0b11111  #: bit i: form i is offered
_MASK = (1 << 64) - 1
_LISTS = [struct.Struct(f"<{n}Q") for n in range(2 * MAX_VECTOR_LBAS + 1)]

Slots = Mapping[int, Sequence[int]]


def unpack_lbas(data: bytes | bytearray | memoryview, n: int, offset: int = 0) -> tuple[int, ...]:
    """`n` (at most 128) little-endian LBAs from `offset` of `data`; struct.error if they are not there."""
    return _LISTS[n].unpack_from(data, offset)


def pack_lbas(lbas: Sequence[int]) -> bytes:
    """LBAs as they stand on the wire; at most 128."""
    return _LISTS[len(lbas)].pack(*lbas)


def progression(base: int, n: int, run: int, columns: int, s1: int, s2: int) -> list[int]:
    """LBA_i = base + (i mod run) + ((i div run) mod columns) * s1 + (i div (run * columns)) * s2, modulo 2^64."""
    row = run * columns
    return [(base + i % run + i // run % columns * s1 + i // row * s2) & _MASK for i in range(n)]


def data_list_bytes(opcode: int, cdw13: int, n: int) -> int:
    """Bytes of list at the head of the command's data (form 1: sources, for a copy then destinations), else 0."""
    if cdw13 & 15 != ListForm.DATA or opcode not in (Io.VECTOR_WRITE, Io.VECTOR_COPY):
        return 0
    return n * LBA_BYTES * (2 if opcode == Io.VECTOR_COPY else 1)


def resolve(
    opcode: int,
    n: int,
    cdws: Sequence[int],
    in_capsule: bytes | memoryview,
    data_list: bytes | memoryview,
    slots: Slots,
) -> tuple[Sequence[int], Sequence[int]] | Status:
    """The LBAs of a vector command: (the list, or a copy's sources; a copy's destinations, else empty).

    `cdws`: CDW2, CDW3, CDW10 .. CDW15. `in_capsule`: the capsule's data (form 4). `data_list`: the list that stood
    at the head of the command's own data (form 1), `data_list_bytes()` long. Invalid Field in Command if the form is
    unknown, not allowed for the opcode, has a reserved bit set, or names a list that is not there.
    """
    cdw2, cdw3, cdw10, cdw11, _cdw12, cdw13, cdw14, cdw15 = cdws
    copy = opcode == Io.VECTOR_COPY
    lbal, dlbal = cdw10 | cdw11 << 32, cdw14 | cdw15 << 32
    second, form = cdw2 | cdw3 << 32, cdw13 & 15
    if form == ListForm.PROGRESSION:
        if cdw13 >> 16:
            return Status.INVALID_FIELD
        run, columns = (cdw13 >> 4 & 63) + 1, (cdw13 >> 10 & 63) + 1
        if not copy:
            return progression(lbal, n, run, columns, dlbal, second), ()
        if n > run * columns:
            return Status.INVALID_FIELD
        return progression(lbal, n, run, columns, second, 0), progression(dlbal, n, run, columns, second, 0)
    if cdw13 >> 4 or second or (dlbal and not copy):
        return Status.INVALID_FIELD
    if form == ListForm.INLINE:
        if n != 1:
            return Status.INVALID_FIELD
        return (lbal,), (dlbal,) if copy else ()
    if form == ListForm.SLOT:
        source, destination = slots.get(lbal, ()), slots.get(dlbal, ()) if copy else ()
        if len(source) < n or (copy and len(destination) < n):
            return Status.INVALID_FIELD
        return source[:n], destination[:n]
    if form == ListForm.DATA:
        if lbal or dlbal or not data_list:
            return Status.INVALID_FIELD
        lbas = unpack_lbas(data_list, n * 2 if copy else n)
        return lbas[:n], lbas[n:]
    if form == ListForm.CAPSULE:
        end = len(in_capsule) - n * LBA_BYTES
        if lbal > end or (copy and dlbal > end):
            return Status.INVALID_FIELD
        return unpack_lbas(in_capsule, n, lbal), unpack_lbas(in_capsule, n, dlbal) if copy else ()
    return Status.INVALID_FIELD
