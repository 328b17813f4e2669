"""Every read rule of OCSSD 2.0 (sections 7.2 and 7.3): unreadable blocks are predefined data, or 2/87h with DULBE."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance import lists
from tests.conformance.lab import SCALAR_READ, Lab, Way, scalar
from tests.conformance.rules import (
    CLOSED,
    FREE,
    INVALID_FIELD,
    INVALID_NAMESPACE,
    OFFLINE,
    OK,
    OPEN,
    SGL_LENGTH,
    UNWRITTEN,
    Outcome,
)

FORMS = pytest.mark.parametrize("form", lists.FORMS, ids=lists.NAMES)


#: What is read -> (first LBA, blocks, how many of these can be read from the first on), of a lab.
Place = Callable[[Lab], tuple[int, int, int]]


def of_free(lab: Lab) -> tuple[int, int, int]:
    return lab.take(FREE).slba, 3, 0


def of_open(lab: Lab) -> tuple[int, int, int]:
    """From block 0 over wp, with the window between."""
    chunk = lab.take(OPEN, fill=lab.shape.clba - lab.shape.ws_min)
    return chunk.slba, chunk.wp + 1, max(0, chunk.wp - lab.shape.mw_cunits)


def of_window(lab: Lab) -> tuple[int, int, int]:
    """The last readable block, and the first that is not."""
    if not lab.shape.mw_cunits:
        pytest.skip("the drive has no window")
    chunk = lab.take(OPEN, fill=lab.shape.clba - lab.shape.ws_min)
    edge = chunk.wp - lab.shape.mw_cunits
    return chunk.slba + edge - 1, 2, 1


def of_less_than_window(lab: Lab) -> tuple[int, int, int]:
    """An Open chunk with no more blocks than the window: none can be read."""
    if lab.shape.mw_cunits < lab.shape.ws_min:
        pytest.skip("the drive has no such window")
    chunk = lab.take(OPEN, fill=lab.shape.ws_min)
    return chunk.slba, chunk.wp, 0


def of_closed(lab: Lab) -> tuple[int, int, int]:
    chunk = lab.take(CLOSED)
    return chunk.slba, chunk.cnlb, chunk.cnlb


def of_one_block(lab: Lab) -> tuple[int, int, int]:
    """Reads need no alignment."""
    return lab.take(CLOSED).slba + 1, 1, 1


def of_reset(lab: Lab) -> tuple[int, int, int]:
    """What was written is gone after a reset."""
    chunk = lab.bring(lab.take(CLOSED), FREE)
    return chunk.slba, chunk.cnlb, 0


def of_offline(lab: Lab) -> tuple[int, int, int]:
    return lab.special(is_offline=True).slba, 3, 0


def of_random(lab: Lab) -> tuple[int, int, int]:
    """The first unit written, the second not."""
    chunk = lab.bring(lab.special(is_random=True), OPEN, lab.shape.ws_min)
    return chunk.slba, lab.shape.ws_min + 1, lab.shape.ws_min


def of_short(lab: Lab) -> tuple[int, int, int]:
    """Over the end of a Closed chunk of its own size."""
    short = lab.bring(lab.special(is_short=True), CLOSED)
    return short.slba, short.cnlb + 1, short.cnlb


def of_past_clba(lab: Lab) -> tuple[int, int, int]:
    if lab.shape.clba == 1 << lab.shape.lbk_len:
        pytest.skip("there are no addresses past the end of a chunk")
    chunk = lab.take(CLOSED)
    return chunk.slba + chunk.cnlb - 1, 2, 1


PLACES: dict[str, Place] = {
    "free": of_free,
    "open": of_open,
    "window": of_window,
    "less than the window": of_less_than_window,
    "closed": of_closed,
    "one block": of_one_block,
    "reset": of_reset,
    "offline": of_offline,
    "random": of_random,
    "short": of_short,
    "past clba": of_past_clba,
    "hole in grp": lambda lab: (lab.hole(grp=lab.shape.num_grp), 2, 0),
    "hole in pu": lambda lab: (lab.hole(pu=lab.shape.num_pu), 2, 0),
    "hole in chk": lambda lab: (lab.hole(chk=lab.shape.num_chk), 2, 0),
    "past the address space": lambda lab: (1 << lab.shape.address_bits, 2, 0),
    "last address": lambda lab: ((1 << lab.shape.address_bits) - 1, 2, 0),
    "bit 63": lambda lab: (1 << 63, 2, 0),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("lab", ["main", "odd", "one"], indirect=True)
def test_a_read_judges_each_block_by_itself(lab: Lab, place: str, way: Way) -> None:
    slba, n_blocks, n_readable = PLACES[place](lab)
    n_blocks = min(n_blocks, 64)
    n_readable = min(n_readable, n_blocks)
    lbas = range(slba, slba + n_blocks)
    assert [lab.model.is_readable(lba) for lba in lbas] == [i < n_readable for i in range(n_blocks)]
    fails = way.wire.dulbe and n_readable < n_blocks
    unread = (1 << n_blocks) - (1 << n_readable)
    outcome = lab.read(slba, n_blocks, way)
    assert outcome[:2] == (UNWRITTEN if fails else OK, 0)
    for form in lists.FORMS:
        if lists.carry(form, lists.READ, lbas) is not None:
            listed = lab.vector_read(form, lbas, way)
            assert listed[:2] == ((UNWRITTEN, unread) if fails else (OK, 0))
            assert listed.data == outcome.data


def test_a_scalar_read_crosses_from_chunk_to_chunk(main: Lab, way: Way) -> None:
    """LBA arithmetic goes on at the next chunk where clba is a power of two."""
    if main.shape.clba != 1 << main.shape.lbk_len:
        pytest.skip("the next LBA is no chunk's")
    first = main.bring(next(c for c in main.model.chunks if c.cnlb == main.shape.clba and c.state != OFFLINE), CLOSED)
    following = main.model.find(first.slba + main.shape.clba)[0]
    if following is not None and following.state != OFFLINE and not following.is_random:
        main.bring(following, CLOSED)
    assert main.read(first.slba + main.shape.clba - 2, 4, way).status == OK


def test_a_scalar_read_goes_through_chunks_of_every_kind_and_holes(main: Lab, way: Way) -> None:
    """A whole parallel unit: chunks that were never touched, short, random and Offline ones, and what follows them."""
    shape = main.shape
    n_blocks = min((1 << shape.chk_len + shape.lbk_len) + 3, way.wire.max_transfer // shape.stride, 1024)
    for chunk in main.model.chunks[: shape.num_chk]:
        if chunk.state != OFFLINE:
            main.bring(chunk, FREE if chunk.is_random else OPEN, shape.ws_min)
    assert main.read(0, n_blocks, way).status == (UNWRITTEN if way.wire.dulbe else OK)


@FORMS
def test_a_list_may_repeat_entries_and_go_backwards(main: Lab, form: int, way: Way) -> None:
    a, b = main.take(CLOSED), main.take(CLOSED)
    for lbas in ([a.slba + 3, a.slba + 2, a.slba + 1], [b.slba] * 5, [a.slba + 1, b.slba + 1, a.slba + 1, b.slba + 1]):
        if lists.carry(form, lists.READ, lbas) is not None:
            assert main.vector_read(form, lbas, way).status == OK


@FORMS
def test_the_bitmap_of_a_read_names_any_of_64_entries(main: Lab, form: int, way: Way) -> None:
    """Holes at 0, 31, 32 and 63, and nothing else."""
    chunk = main.take(CLOSED)
    lbas = [chunk.slba + i % min(16, chunk.cnlb) for i in range(64)]
    for i in (0, 31, 32, 63):
        lbas[i] = 1 << 63 | i
    if lists.carry(form, lists.READ, lbas) is not None:
        outcome = main.vector_read(form, lbas, way)
        wanted = (UNWRITTEN, 1 << 63 | 1 << 32 | 1 << 31 | 1) if way.wire.dulbe else (OK, 0)
        assert outcome[:2] == wanted


@FORMS
def test_all_64_entries_of_a_list_may_be_missing(main: Lab, form: int, way: Way) -> None:
    lbas = [main.take(FREE).slba] * 64
    if lists.carry(form, lists.READ, lbas) is not None:
        outcome = main.vector_read(form, lbas, way)
        assert outcome[:2] == ((UNWRITTEN, (1 << 64) - 1) if way.wire.dulbe else (OK, 0))


def test_a_striped_list_reads_units_of_several_chunks(main: Lab, way: Way) -> None:
    """Runs over columns over rows, the shape of a progression with both strides."""
    shape = main.shape
    columns = [main.take(CLOSED) for _ in range(4)]
    for form in lists.FORMS:
        lbas = [c.slba + row * 4 + i for row in range(min(4, shape.clba // 4)) for c in columns for i in range(4)]
        if lists.carry(form, lists.READ, lbas) is not None:
            assert main.vector_read(form, lbas, way).status == OK


def test_a_progression_of_runs_columns_and_rows_is_read_in_that_order(main: Lab, way: Way) -> None:
    shape = main.shape
    if shape.num_pu < 2 or shape.num_grp < 2 or shape.clba < 4:
        pytest.skip("the drive is too small")
    chk = 3 if shape.num_chk > 3 else 0
    for grp in range(2):
        for pu in range(2):
            main.bring(main.model.chunks[(grp * shape.num_pu + pu) * shape.num_chk + chk], CLOSED)
    lbas = [shape.lba(grp, pu, chk, 1 + i) for grp in range(2) for pu in range(2) for i in range(3)]
    assert lists.steps(lbas) == (3, 2, shape.lba(0, 1, 0), shape.lba(1, 0, 0))
    assert main.vector_read(lists.PROGRESSION, lbas, way).status == OK


def test_a_progression_may_step_backwards(main: Lab, way: Way) -> None:
    """Sums wrap modulo 2^64."""
    chunk = main.take(CLOSED)
    lbas = [chunk.slba + 6 - 2 * i for i in range(4)]
    assert lists.steps(lbas) == (1, 1, 0, (1 << 64) - 2)
    assert main.vector_read(lists.PROGRESSION, lbas, way).status == OK


def test_a_closed_chunk_has_no_window(main: Lab, way: Way) -> None:
    unit = main.shape.ws_min
    chunk = main.take(OPEN, fill=main.shape.clba - unit)
    last = chunk.slba + chunk.wp - 1
    if main.shape.mw_cunits:
        assert not main.model.is_readable(last)
        main.read(last, 1, way)
    assert main.write(chunk.slba + chunk.wp, unit, way).status == OK
    assert main.read(last, 1, way).status == OK
    assert main.model.is_readable(last)


# --- what is wrong before any block is looked at --------------------------------------------------------


@pytest.mark.parametrize("off_by", [-1, 1, -512])
def test_a_read_into_a_buffer_of_another_length_is_refused(main: Lab, off_by: int, way: Way) -> None:
    room = 2 * main.shape.stride + off_by
    refused = Outcome(SGL_LENGTH)
    assert way.wire.io(SCALAR_READ, main.nsid, scalar(0, 2), room=room) == refused
    cdws = lists.dwords(n=2, form=lists.PROGRESSION, high=1)
    assert way.wire.io(lists.READ, main.nsid, cdws, room=room) == refused


@pytest.mark.parametrize("opcode", [SCALAR_READ, lists.READ])
def test_a_read_without_a_buffer_is_refused(main: Lab, opcode: int, way: Way) -> None:
    assert way.wire.io(opcode, main.nsid, scalar(0, 1)) == Outcome(SGL_LENGTH)


def test_a_read_of_more_than_mdts_is_refused(main: Lab, way: Way) -> None:
    n_blocks = way.wire.max_transfer // main.shape.stride + 1
    if n_blocks > 1 << 16:
        pytest.skip("no command can ask for as much")
    outcome = way.wire.io(SCALAR_READ, main.nsid, scalar(0, n_blocks), room=n_blocks * main.shape.stride)
    assert outcome == Outcome(INVALID_FIELD)


@pytest.mark.parametrize("nsid", [0, 99, 0xFFFF_FFFE, 0xFFFF_FFFF])
@pytest.mark.parametrize("opcode", [SCALAR_READ, *range(0x90, 0x94), 0x95])
def test_io_needs_a_real_namespace(main: Lab, nsid: int, opcode: int, way: Way) -> None:
    data = bytes(8) if opcode & 1 else b""
    outcome = way.wire.io(opcode, nsid, scalar(0, 1), data=data, room=0 if data else main.shape.stride)
    assert outcome == Outcome(INVALID_NAMESPACE)


def test_limited_retry_and_fua_are_accepted(main: Lab, way: Way) -> None:
    """CDW12 bits 31 and 30, and the bits between that OCSSD 2.0 reserves."""
    chunk = main.take(CLOSED)
    for bits in (1 << 31, 1 << 30, 0x3FFF << 16):
        cdws = lists.dwords(n=1, form=lists.INLINE, lbal=chunk.slba, cdw12=bits)
        wanted = main.model.read([chunk.slba], dulbe=way.wire.dulbe)
        assert way.wire.io(lists.READ, main.nsid, cdws, room=main.shape.stride) == wanted
