"""The binding's lists, from the fields of a command to LBAs. What each form reserves is tested over the wire."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.wire.lba_list import FORMS, N_SLOTS, data_list_bytes, pack_lbas, progression, resolve, unpack_lbas
from ocssd_tcp.wire.opcodes import Io, ListForm
from ocssd_tcp.wire.status import Status

RESET, WRITE, READ, COPY = Io.VECTOR_RESET, Io.VECTOR_WRITE, Io.VECTOR_READ, Io.VECTOR_COPY
WORD = st.integers(0, 0xFFFF_FFFF)
LBA = st.integers(0, (1 << 64) - 1)


def cdws(*, second: int = 0, lbal: int = 0, cdw12: int = 0, cdw13: int = 0, dlbal: int = 0) -> tuple[int, ...]:
    """CDW2, CDW3, CDW10 .. CDW15."""
    pairs = [struct.unpack("<II", value.to_bytes(8, "little")) for value in (second, lbal, dlbal)]
    return (*pairs[0], *pairs[1], cdw12, cdw13, *pairs[2])


def test_every_form_and_64_slots_are_offered() -> None:
    assert sum(1 << form for form in ListForm) == FORMS
    assert N_SLOTS == 64


def test_the_example_of_the_binding() -> None:
    """Four blocks on each of four parallel units: CDW10 0x5008, CDW12 15, CDW13 0xc32, CDW14 0x40000."""
    lists = resolve(READ, 16, cdws(lbal=0x5008, cdw12=15, cdw13=0xC32, dlbal=0x40000), b"", b"", {})
    assert lists == ([pu << 18 | 0x5008 + i for pu in range(4) for i in range(4)], ())


@settings(max_examples=60)
@given(LBA, st.integers(1, 64), st.integers(1, 64), st.integers(1, 64), LBA, LBA)
def test_a_progression_is_runs_over_columns_over_rows(
    base: int, n: int, run: int, columns: int, s1: int, s2: int
) -> None:
    wanted = []
    for row in range(n):
        for column in range(columns):
            wanted += [(base + row * s2 + column * s1 + i) % (1 << 64) for i in range(run)]
        if len(wanted) >= n:
            break
    assert progression(base, n, run, columns, s1, s2) == wanted[:n]


@settings(max_examples=40)
@given(st.lists(LBA, max_size=128), st.integers(0, 9))
def test_lists_are_packed_little_endian(lbas: list[int], offset: int) -> None:
    data = pack_lbas(lbas)
    assert data == b"".join(lba.to_bytes(8, "little") for lba in lbas)
    assert unpack_lbas(bytes(offset) + data, len(lbas), offset) == tuple(lbas)


@pytest.mark.parametrize(
    ("opcode", "form", "n_bytes"),
    [
        (WRITE, ListForm.DATA, 5 * 8),
        (COPY, ListForm.DATA, 5 * 16),
        (READ, ListForm.DATA, 0),
        (RESET, ListForm.DATA, 0),
        (WRITE, ListForm.SLOT, 0),
        (COPY, ListForm.CAPSULE, 0),
    ],
)
def test_only_writes_and_copies_carry_a_list_at_the_head_of_their_data(opcode: int, form: int, n_bytes: int) -> None:
    assert data_list_bytes(opcode, form | 0xFFF0, 5) == n_bytes


def test_a_copy_has_two_lists_in_every_form() -> None:
    both = ((1, 2), (7, 8))
    data = pack_lbas([1, 2, 7, 8])
    slots = {3: (1, 2, 99), 63: (7, 8)}
    assert resolve(COPY, 2, cdws(cdw13=ListForm.DATA), b"", data, {}) == both
    assert resolve(COPY, 2, cdws(cdw13=ListForm.SLOT, lbal=3, dlbal=63), b"", b"", slots) == both
    assert resolve(COPY, 2, cdws(cdw13=ListForm.CAPSULE, lbal=0, dlbal=16), data, b"", {}) == both
    assert resolve(COPY, 1, cdws(lbal=1, dlbal=7), b"", b"", {}) == ((1,), (7,))
    progressions = resolve(COPY, 2, cdws(cdw13=ListForm.PROGRESSION | 1 << 4, lbal=1, dlbal=7), b"", b"", {})
    assert progressions == ([1, 2], [7, 8])


def test_lists_in_a_capsule_may_overlap() -> None:
    data = pack_lbas([1, 2, 3])
    assert resolve(COPY, 2, cdws(cdw13=ListForm.CAPSULE, lbal=8, dlbal=0), data, b"", {}) == ((2, 3), (1, 2))


@settings(max_examples=300)
@given(
    st.sampled_from([RESET, WRITE, READ, COPY]),
    st.integers(1, 64),
    st.tuples(*[st.one_of(st.just(0), st.integers(0, 64), WORD)] * 5, st.one_of(st.integers(0, 15), WORD), WORD, WORD),
    st.binary(max_size=600),
    st.dictionaries(st.integers(0, 63), st.lists(LBA, min_size=1, max_size=64).map(tuple), max_size=3),
)
def test_whatever_a_host_sends_is_a_list_or_a_status(
    opcode: int, n: int, words: tuple[int, ...], capsule: bytes, slots: dict[int, tuple[int, ...]]
) -> None:
    head = bytes(data_list_bytes(opcode, words[5], n))
    lists = resolve(opcode, n, words, capsule, head, slots)
    if isinstance(lists, Status):
        assert lists == Status.INVALID_FIELD
    else:
        assert [len(part) for part in lists] == [n, n if opcode == COPY else 0]
        assert all(0 <= lba < 1 << 64 for part in lists for lba in part)


@pytest.mark.parametrize("n_staged", [0, 1, 2, 3, 4])
def test_a_slot_serves_as_many_lbas_as_it_holds_and_no_more(n_staged: int) -> None:
    staged = {3: tuple(range(n_staged)), 9: tuple(range(64))}
    for fields in ({"lbal": 3, "dlbal": 9}, {"lbal": 9, "dlbal": 3}):
        lists = resolve(COPY, 3, cdws(cdw13=ListForm.SLOT, **fields), b"", b"", staged)
        assert (lists == ((0, 1, 2), (0, 1, 2))) == (n_staged >= 3)
        assert (lists == Status.INVALID_FIELD) == (n_staged < 3)
