"""Chunk reset (sections 6.2, 8.1 and 9): by Vector Chunk Reset in every list form, and by Dataset Management."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance import lists
from tests.conformance.lab import DSM, Lab, Way, dsm_ranges
from tests.conformance.rules import (
    CLOSED,
    DESCRIPTOR,
    FREE,
    INVALID_FIELD,
    INVALID_RESET,
    LBA_RANGE,
    OFFLINE,
    OFFLINE_CHUNK,
    OK,
    OPEN,
    RANDOM,
    SGL_LENGTH,
    Chunk,
    Outcome,
)

FORMS = pytest.mark.parametrize("form", lists.FORMS, ids=lists.NAMES)
DESCRIPTORS = pytest.mark.parametrize("descriptors", [False, True], ids=["bare", "descriptors"])


#: What is reset -> its first LBA; and the status on a drive that allows early but not multiple reset.
TARGETS: dict[str, tuple[Callable[[Lab], int], int]] = {
    "free": (lambda lab: lab.take(FREE).slba, INVALID_RESET),
    "open": (lambda lab: lab.take(OPEN).slba, OK),
    "closed": (lambda lab: lab.take(CLOSED).slba, OK),
    "offline": (lambda lab: lab.special(is_offline=True).slba, OFFLINE_CHUNK),
    "random": (lambda lab: lab.bring(lab.special(is_random=True), OPEN, lab.shape.ws_min).slba, OK),
    "short": (lambda lab: lab.bring(lab.special(is_short=True), CLOSED).slba, OK),
    "hole": (lambda lab: lab.hole(chk=lab.shape.num_chk), INVALID_RESET),
    "past the address space": (lambda lab: 1 << lab.shape.address_bits, INVALID_RESET),
    "bit 63": (lambda lab: 1 << 63, INVALID_RESET),
    "block 1": (lambda lab: lab.take(CLOSED).slba + 1, INVALID_FIELD),
    "last block": (lambda lab: lab.take(CLOSED).slba + lab.shape.clba - 1, INVALID_FIELD),
}


@DESCRIPTORS
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lab", ["main", "odd"], indirect=True)
def test_a_vector_reset_is_judged_by_the_state_of_its_chunk(lab: Lab, target: str, descriptors: bool, way: Way) -> None:
    if not lab.shape.early_reset or lab.shape.multi_reset:
        pytest.skip("the table is of another kind of drive")
    make, status = TARGETS[target]
    for form in lists.FORMS:
        slba = make(lab)
        if lists.carry(form, lists.RESET, [slba]) is not None:
            outcome = lab.vector_reset(form, [slba], way, descriptors=descriptors)
            assert outcome[:2] == (status, int(status not in (OK, INVALID_FIELD)))
            assert len(outcome.data) == (32 if descriptors and status != INVALID_FIELD else 0)
    chunk = lab.model.find(slba)[0]
    lab.compare([chunk] if chunk else [])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lab", ["main", "odd"], indirect=True)
def test_dataset_management_resets_by_the_same_rules(lab: Lab, target: str, way: Way) -> None:
    if not lab.shape.early_reset or lab.shape.multi_reset:
        pytest.skip("the table is of another kind of drive")
    make, status = TARGETS[target]
    slba = make(lab)
    chunk = lab.model.find(slba)[0]
    outcome = lab.dsm_reset([(slba, chunk.cnlb if chunk else lab.shape.clba)], way)
    assert outcome == Outcome(status)
    lab.compare([chunk] if chunk else [])


def test_the_descriptor_of_a_reset_chunk_is_the_new_one(main: Lab, way: Way) -> None:
    chunk = main.take(CLOSED)
    before = chunk.resets
    outcome = main.vector_reset(lists.INLINE, [chunk.slba], way, descriptors=True)
    state, kind, wli, slba, cnlb, wp = DESCRIPTOR.unpack(outcome.data)
    assert (state, kind, slba, cnlb, wp) == (FREE, 1, chunk.slba, main.shape.clba, 0)
    if main.shape.pe_cycles:
        assert wli == (before + 1) * 255 // main.shape.pe_cycles


@FORMS
def test_every_entry_is_tried_and_the_first_failure_is_the_status(main: Lab, form: int, way: Way) -> None:
    offline, missing = main.special(is_offline=True).slba, main.hole(chk=main.shape.num_chk)
    good, free, again = main.take(CLOSED), main.take(FREE), main.take(OPEN)
    lbas = [good.slba, offline, again.slba, free.slba, missing, good.slba, again.slba]
    if lists.carry(form, lists.RESET, lbas) is None:
        return
    outcome = main.vector_reset(form, lbas, way, descriptors=True)
    assert outcome[:2] == (OFFLINE_CHUNK, 0b1111010)  # twice in a list: the second is a reset of a Free chunk
    states = [entry[0] for entry in DESCRIPTOR.iter_unpack(outcome.data)]
    assert states == [FREE, OFFLINE, FREE, FREE, 0, FREE, FREE]
    main.compare([good, free, again])


@FORMS
def test_one_lba_that_is_no_chunk_start_and_nothing_is_reset(main: Lab, form: int, way: Way) -> None:
    a, b = main.take(CLOSED), main.take(CLOSED)
    lbas = [a.slba, b.slba + main.shape.ws_min]
    if lists.carry(form, lists.RESET, lbas) is not None:
        assert main.vector_reset(form, lbas, way, descriptors=True) == Outcome(INVALID_FIELD)
    main.compare([a, b])


@FORMS
def test_64_chunks_may_be_reset_at_once(main: Lab, form: int, way: Way) -> None:
    """As many as there are, and holes; the bitmap is exact to the last bit."""
    chunks = [main.take(CLOSED) for _ in range(4)]
    lbas = [1 << 63] * 64
    for i, chunk in zip((0, 31, 32, 63), chunks, strict=True):
        lbas[i] = chunk.slba
    if lists.carry(form, lists.RESET, lbas) is not None:
        outcome = main.vector_reset(form, lbas, way, descriptors=True)
        assert outcome[:2] == (INVALID_RESET, (1 << 64) - 1 - (1 << 63 | 1 << 32 | 1 << 31 | 1))
        assert len(outcome.data) == 64 * 32
    main.compare(chunks)


@pytest.mark.parametrize("room", [4, 31, 33, 64, 4096])
def test_a_descriptor_buffer_of_another_length_is_refused(main: Lab, room: int, way: Way) -> None:
    chunk = main.take(CLOSED)
    cdws = lists.dwords(n=1, form=lists.INLINE, lbal=chunk.slba)
    assert way.wire.io(lists.RESET, main.nsid, cdws, room=room) == Outcome(SGL_LENGTH)
    main.compare([chunk])


# --- MCCAP: what a drive allows ------------------------------------------------------------------------


@FORMS
def test_without_early_reset_an_open_chunk_cannot_be_reset(strict: Lab, form: int, way: Way) -> None:
    chunk = strict.take(OPEN)
    if lists.carry(form, lists.RESET, [chunk.slba]) is not None:
        assert strict.vector_reset(form, [chunk.slba], way, descriptors=False) == Outcome(INVALID_RESET, 1)
        assert strict.dsm_reset([(chunk.slba, chunk.cnlb)], way) == Outcome(INVALID_RESET)
    strict.bring(chunk, FREE)
    strict.compare([chunk])


def unworn(lab: Lab) -> Chunk:
    """A chunk that was never reset: those of this drive do not live long."""
    return next(chunk for chunk in lab.model.chunks if not chunk.resets and chunk.state == FREE)


@pytest.mark.parametrize("by", ["vector", "dsm"])
def test_with_multiple_reset_a_free_chunk_is_reset_again_and_wears(eager: Lab, by: str, quiet: Way) -> None:
    chunk = unworn(eager)
    limit = eager.shape.pe_cycles
    assert limit is not None
    for count in range(chunk.resets + 1, limit + 1):
        status = OFFLINE_CHUNK if count == limit else OK  # the last one takes the chunk
        if by == "vector":
            outcome = eager.vector_reset(lists.INLINE, [chunk.slba], quiet, descriptors=True)
            assert outcome[:2] == (status, int(status != OK))
            assert DESCRIPTOR.unpack(outcome.data)[2] == count * 255 // limit
        else:
            assert eager.dsm_reset([(chunk.slba, chunk.cnlb)], quiet) == Outcome(status)
        eager.compare([chunk])
    assert chunk.state == OFFLINE
    assert eager.write(chunk.slba, eager.shape.ws_min, quiet).status != OK
    assert eager.vector_reset(lists.INLINE, [chunk.slba], quiet, descriptors=True)[:2] == (OFFLINE_CHUNK, 1)


def test_with_multiple_reset_one_chunk_may_stand_twice_in_a_list(eager: Lab, quiet: Way) -> None:
    chunk = unworn(eager)
    assert eager.vector_reset(lists.SLOT, [chunk.slba] * 2, quiet, descriptors=True).status == OK
    eager.compare([chunk])
    other = unworn(eager)
    assert eager.dsm_reset([(other.slba, other.cnlb)] * 2, quiet).status == OK
    eager.compare([other])


# --- Dataset Management: decision 14 -----------------------------------------------------------------------

LENGTHS = {"0": 0, "1": 1, "a block less": -1, "a block more": 1, "64 bits of it": 0xFFFF_FFFF}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("lab", ["main", "odd"], indirect=True)
def test_a_range_that_is_no_chunk_is_out_of_range(lab: Lab, length: str, way: Way) -> None:
    chunk = lab.take(CLOSED)
    n_blocks = LENGTHS[length] + (lab.shape.clba if length.startswith("a block") else 0)
    assert lab.dsm_reset([(chunk.slba, n_blocks)], way) == Outcome(LBA_RANGE)
    lab.compare([chunk])


def neighbours(lab: Lab, count: int, last: bool = False) -> list[int]:
    """Flat indexes of sequential chunks of clba blocks that follow each other in one parallel unit."""
    shape, chunks = lab.shape, lab.model.chunks
    for first in range(len(chunks) - count + 1):
        found = chunks[first : first + count]
        one_pu = first // shape.num_chk == (first + count - 1) // shape.num_chk
        at_end = (first + count) % shape.num_chk == 0
        if one_pu and at_end == last and all(c.cnlb == shape.clba and c.state != OFFLINE for c in found):
            return list(range(first, first + count))
    pytest.skip("the drive has no such chunks")


def test_a_range_of_whole_chunks_resets_them_all_where_clba_is_a_power_of_two(main: Lab, way: Way) -> None:
    if main.shape.clba != 1 << main.shape.lbk_len:
        pytest.skip("clba is no power of two")
    chunks = [main.bring(main.model.chunks[index], CLOSED) for index in neighbours(main, 3)]
    assert main.dsm_reset([(chunks[0].slba, 3 * main.shape.clba)], way) == Outcome(OK)
    assert [chunk.state for chunk in chunks] == [FREE] * 3
    main.compare(chunks)


def test_a_range_of_several_chunks_needs_a_clba_that_is_a_power_of_two(odd: Lab, way: Way) -> None:
    chunks = [odd.bring(odd.model.chunks[index], CLOSED) for index in neighbours(odd, 2)]
    for n_blocks in (2 * odd.shape.clba, 1 << odd.shape.lbk_len, 2 << odd.shape.lbk_len):
        assert odd.dsm_reset([(chunks[0].slba, n_blocks)], way) == Outcome(LBA_RANGE)
    odd.compare(chunks)


@pytest.mark.parametrize("n_chunks", [2, 5, 1 << 12])
def test_a_range_that_runs_into_a_hole_is_out_of_range(main: Lab, n_chunks: int, way: Way) -> None:
    """From the last chunk of a parallel unit, where the chunk field has room for more than there are."""
    if main.shape.num_chk == 1 << main.shape.chk_len or main.shape.clba != 1 << main.shape.lbk_len:
        pytest.skip("there is no hole behind the last chunk")
    (index,) = neighbours(main, 1, last=True)
    chunk = main.bring(main.model.chunks[index], CLOSED)
    assert main.dsm_reset([(chunk.slba, n_chunks * main.shape.clba)], way) == Outcome(LBA_RANGE)
    main.compare([chunk])


def test_all_ranges_are_checked_before_the_first_reset(main: Lab, way: Way) -> None:
    a, b, free = main.take(CLOSED), main.take(CLOSED), main.take(FREE)
    clba = main.shape.clba
    bad = [
        ((free.slba, clba), INVALID_RESET),
        ((1 << 63, clba), INVALID_RESET),
        ((b.slba, clba - 1), LBA_RANGE),
        ((b.slba + 1, clba), INVALID_FIELD),
        ((a.slba, clba), INVALID_RESET),  # twice: Free by then
    ]
    for entry, status in bad:
        assert main.dsm_reset([(a.slba, clba), entry], way) == Outcome(status)
    main.compare([a, b, free])
    assert main.dsm_reset([(b.slba, clba), (a.slba, clba)], way) == Outcome(OK)
    main.compare([a, b])


def test_256_ranges_travel_at_once(main: Lab, way: Way) -> None:
    """The last of them counts."""
    chunks = [main.take(CLOSED) for _ in range(6)]
    ranges = [(chunk.slba, chunk.cnlb) for chunk in chunks]
    assert main.dsm_reset([*ranges, *[(1 << 63, 1)] * 250], way) == Outcome(INVALID_RESET)
    main.compare(chunks)


def test_a_buffer_for_more_ranges_than_there_are_is_accepted(main: Lab, way: Way) -> None:
    """Linux sends room for 256 whatever their number."""
    chunk = main.take(CLOSED)
    assert main.dsm_reset([(chunk.slba, chunk.cnlb)], way, extra=255 * 16) == Outcome(OK)
    main.compare([chunk])


def test_hints_change_nothing(main: Lab, way: Way) -> None:
    """Without AD nothing is done, not even to chunks that could not be reset."""
    chunk, free = main.take(CLOSED), main.take(FREE)
    data = dsm_ranges([(chunk.slba, chunk.cnlb), (free.slba, 7), (1 << 63, 1)])
    for hints in (0, 1, 2, 3):
        assert way.wire.io(DSM, main.nsid, {"cdw10": 2, "cdw11": hints}, data=data, r2t=way.r2t) == Outcome(OK)
    main.compare([chunk, free])


@pytest.mark.parametrize("n_bytes", [0, 4, 15, 31])
def test_less_data_than_ranges_is_refused(main: Lab, n_bytes: int, way: Way) -> None:
    chunk = main.take(CLOSED)
    data = dsm_ranges([(chunk.slba, chunk.cnlb)] * 2)[:n_bytes]
    outcome = way.wire.io(DSM, main.nsid, {"cdw10": 1, "cdw11": 4}, data=data, r2t=way.r2t)
    assert outcome == Outcome(SGL_LENGTH)
    main.compare([chunk])


def test_a_reset_random_write_chunk_is_free_and_empty(main: Lab, way: Way) -> None:
    chunk = main.bring(main.special(is_random=True), OPEN, 2 * main.shape.ws_min)
    outcome = main.vector_reset(lists.CAPSULE, [chunk.slba], way, descriptors=True)
    assert DESCRIPTOR.unpack(outcome.data)[:2] == (FREE, RANDOM)
    main.compare([chunk])
