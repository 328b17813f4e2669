"""Every write rule of OCSSD 2.0 (section 7.1): chunk state by situation by way to say it.

Three places have a say in each cell: the table here, the model, and the drive; all must agree.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance import lists
from tests.conformance.lab import Lab, Way
from tests.conformance.rules import (
    CLOSED,
    FREE,
    INVALID_FIELD,
    OK,
    OPEN,
    OUT_OF_ORDER,
    WRITE_FAULT,
    Chunk,
    Shape,
)

SCALAR = 9  #: beside the list forms: an ordinary Write
COMMANDS = (SCALAR, *lists.FORMS)
COMMAND_NAMES = ("scalar", *lists.NAMES)


class Target:
    """Where a write aims: a chunk or none, its first LBA, its end, and where a write in order would start."""

    def __init__(self, slba: int, end: int, wp: int, chunk: Chunk | None = None) -> None:
        self.slba, self.end, self.wp, self.chunk = slba, end, wp, chunk


def of_chunk(chunk: Chunk) -> Target:
    return Target(chunk.slba, chunk.cnlb, chunk.wp if chunk.state == OPEN else 0, chunk)


def of_none(lab: Lab, slba: int) -> Target:
    return Target(slba, lab.shape.clba, 0)


def a_random_chunk(lab: Lab) -> Target:
    """A random-write chunk with its first unit written: 'in order' is as good as any place."""
    target = of_chunk(lab.bring(lab.special(is_random=True), OPEN, lab.shape.ws_min))
    target.wp = lab.shape.ws_min
    return target


def a_short_chunk(lab: Lab) -> Target:
    """A chunk of its own size, Open."""
    return of_chunk(lab.bring(lab.special(is_short=True), OPEN, lab.shape.ws_min))


TARGETS: dict[str, Callable[[Lab], Target]] = {
    "free": lambda lab: of_chunk(lab.take(FREE)),
    "open": lambda lab: of_chunk(lab.take(OPEN)),
    "closed": lambda lab: of_chunk(lab.take(CLOSED)),
    "offline": lambda lab: of_chunk(lab.special(is_offline=True)),
    "short": a_short_chunk,
    "random": a_random_chunk,
    "hole in grp": lambda lab: of_none(lab, lab.hole(grp=lab.shape.num_grp)),
    "hole in pu": lambda lab: of_none(lab, lab.hole(pu=lab.shape.num_pu)),
    "hole in chk": lambda lab: of_none(lab, lab.hole(chk=lab.shape.num_chk)),
    "past the address space": lambda lab: of_none(lab, 1 << lab.shape.address_bits),
    "bit 63": lambda lab: of_none(lab, 1 << 63),
}

#: Situation -> (first block, blocks) of a write.
SITUATIONS: dict[str, Callable[[Target, Shape], tuple[int, int]]] = {
    "at wp": lambda t, s: (t.wp, s.ws_min),
    "two units at wp": lambda t, s: (t.wp, 2 * s.ws_min),
    "behind wp": lambda t, s: (0, s.ws_min),
    "ahead of wp": lambda t, s: (t.wp + s.ws_min, s.ws_min),
    "not at a unit": lambda t, s: (t.wp + 1, s.ws_min),
    "to the end": lambda t, s: (t.wp, t.end - t.wp),
    "less than a unit": lambda t, s: (t.wp, s.ws_min - 1),
    "more than a unit": lambda t, s: (t.wp, s.ws_min + 1),
}

ALWAYS_FAULT = dict.fromkeys(SITUATIONS, WRITE_FAULT) | {
    "less than a unit": INVALID_FIELD,
    "more than a unit": INVALID_FIELD,
}
WRITABLE = {
    "at wp": OK,
    "two units at wp": OK,
    "behind wp": OUT_OF_ORDER,
    "ahead of wp": OUT_OF_ORDER,
    "not at a unit": OUT_OF_ORDER,
    "to the end": OK,
    "less than a unit": INVALID_FIELD,
    "more than a unit": INVALID_FIELD,
}
ANYWHERE = dict.fromkeys(SITUATIONS, OK) | {"less than a unit": INVALID_FIELD, "more than a unit": INVALID_FIELD}
EXPECTED = {
    "free": WRITABLE | {"behind wp": OK},  # nothing is behind: block 0 is at wp
    "open": WRITABLE,
    "closed": ALWAYS_FAULT,
    "offline": ALWAYS_FAULT,
    "short": WRITABLE,
    "random": ANYWHERE,
    "hole in grp": ALWAYS_FAULT,
    "hole in pu": ALWAYS_FAULT,
    "hole in chk": ALWAYS_FAULT,
    "past the address space": ALWAYS_FAULT,
    "bit 63": ALWAYS_FAULT,
}


def send(lab: Lab, command: int, slba: int, n_blocks: int, way: Way) -> int | None:
    """The status of a write of adjacent blocks; None if this command cannot say it."""
    if n_blocks * lab.shape.stride > way.wire.max_transfer:
        return None
    if command == SCALAR:
        return lab.write(slba, n_blocks, way).status
    lbas = range(slba, slba + n_blocks)
    if n_blocks > 64 or lists.carry(command, lists.WRITE, lbas) is None:
        return None
    return lab.vector_write(command, lbas, way).status


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lab", ["main", "odd"], indirect=True)
def test_a_write_is_judged_by_state_place_and_length(lab: Lab, target: str, situation: str, way: Way) -> None:
    for command in COMMANDS:
        aim = TARGETS[target](lab)
        first, n_blocks = SITUATIONS[situation](aim, lab.shape)
        status = send(lab, command, aim.slba + first, n_blocks, way) if n_blocks else None
        if status is not None:
            assert status == EXPECTED[target][situation], COMMAND_NAMES[COMMANDS.index(command)]
        if aim.chunk is not None:
            lab.compare([aim.chunk])


@pytest.mark.parametrize("command", COMMANDS, ids=COMMAND_NAMES)
@pytest.mark.parametrize("target", ["free", "open", "short", "random"])
def test_a_write_that_passes_the_end_of_the_chunk_is_a_write_fault(
    odd: Lab, target: str, command: int, way: Way
) -> None:
    aim = TARGETS[target](odd)
    unit = odd.shape.ws_min
    for first in (aim.end - unit, aim.end):  # half of it past the end; all of it
        status = send(odd, command, aim.slba + first, 2 * unit if first < aim.end else unit, way)
        assert status in (None, WRITE_FAULT)
    assert aim.chunk is not None
    odd.compare([aim.chunk])


@pytest.mark.parametrize("reach", ["across the end", "from the end"])
def test_a_scalar_write_stays_inside_one_chunk(main: Lab, reach: str, way: Way) -> None:
    unit, clba = main.shape.ws_min, main.shape.clba
    chunk = main.take(OPEN, fill=clba - unit)
    following = main.model.find(chunk.slba + clba)[0]
    status = main.write(chunk.slba + clba - unit, 2 * unit, way).status if reach == "across the end" else None
    assert status in (None, WRITE_FAULT)
    if reach == "from the end":
        main.write(chunk.slba + clba - unit, unit, way)  # fills it
        assert main.write(chunk.slba + clba - unit, unit, way).status == WRITE_FAULT
    main.compare(filter(None, [chunk, following]))


@pytest.mark.parametrize("more", [-1, 1])
def test_a_scalar_write_is_whole_units_before_it_is_anything_else(main: Lab, more: int, way: Way) -> None:
    """As vector writes are: across the end of a chunk too."""
    unit = main.shape.ws_min
    chunk = main.take(CLOSED)
    assert main.write(chunk.slba + chunk.cnlb - unit, 2 * unit + more, way).status == INVALID_FIELD
    main.compare([chunk])


@pytest.mark.parametrize("slba", [(1 << 64) - 1, (1 << 64) - 4, 1 << 63], ids=hex)
def test_a_write_past_64_bits_is_a_write_fault(main: Lab, slba: int, way: Way) -> None:
    assert main.write(slba, main.shape.ws_min, way).status == WRITE_FAULT


def test_a_chunk_lives_from_free_to_closed(main: Lab, way: Way) -> None:
    unit = main.shape.ws_min
    chunk = main.take(FREE)
    for first in range(0, chunk.cnlb, unit):
        main.compare([chunk])
        assert main.write(chunk.slba + first, unit, way).status == OK
    assert chunk.state == CLOSED
    main.compare([chunk])


def test_a_random_write_chunk_takes_any_order_and_never_closes(main: Lab, way: Way) -> None:
    chunk = main.bring(main.special(is_random=True), FREE)
    unit = main.shape.ws_min
    for first in (2 * unit, 0, 2 * unit, 1, chunk.cnlb - unit, unit):
        assert main.write(chunk.slba + first, unit, way).status == OK
        main.compare([chunk])
    main.bring(chunk, FREE)
    main.compare([chunk])


# --- lists over several chunks: decision 15 --------------------------------------------------------

FORMS = pytest.mark.parametrize("form", lists.FORMS, ids=lists.NAMES)


def write_list(lab: Lab, form: int, lbas: list[int], way: Way) -> int | None:
    """The status of a vector write, None if the form cannot carry the list."""
    return lab.vector_write(form, lbas, way).status if lists.carry(form, lists.WRITE, lbas) else None


def blocks(chunk: Chunk, first: int, n_blocks: int) -> list[int]:
    return [chunk.slba + first + i for i in range(n_blocks)]


@FORMS
def test_whole_units_of_several_chunks_may_interleave(main: Lab, form: int, way: Way) -> None:
    unit = main.shape.ws_min
    a, b = main.take(FREE), main.take(OPEN)
    lbas = [
        lba for i in range(2) for lba in (*blocks(a, i * unit, unit), *blocks(b, b.wp + i * unit, unit))
    ]  # A0 B0 A1 B1
    assert write_list(main, form, lbas, way) in (None, OK)
    main.compare([a, b])


@FORMS
def test_less_than_whole_units_may_not_interleave(main: Lab, form: int, way: Way) -> None:
    a, b = main.take(FREE), main.take(FREE)
    lbas = [chunk.slba + i for i in range(main.shape.ws_min) for chunk in (a, b)]  # a0 b0 a1 b1: blocks, not units
    assert write_list(main, form, lbas, way) in (None, INVALID_FIELD)
    main.compare([a, b])


@FORMS
def test_one_run_at_fault_and_nothing_is_written_anywhere(main: Lab, form: int, way: Way) -> None:
    unit = main.shape.ws_min
    good, closed, ahead = main.take(FREE), main.take(CLOSED), main.take(FREE)
    lbas = [*blocks(good, 0, unit), *blocks(ahead, unit, unit), *blocks(closed, 0, unit), *blocks(good, unit, unit)]
    if lists.carry(form, lists.WRITE, lbas) is not None:
        outcome = main.vector_write(form, lbas, way)
        assert outcome.status == OUT_OF_ORDER  # the first fault in list order
        assert outcome.bitmap == ((1 << 2 * unit) - 1) << unit
    main.compare([good, closed, ahead])


SAME_CHUNK_TWICE = {
    "in order": ((0, 1), OK, 0),
    "the same unit": ((0, 0), OUT_OF_ORDER, 0b10),
    "in reverse": ((1, 0), OUT_OF_ORDER, 0b01),
    "with a gap": ((0, 2), OUT_OF_ORDER, 0b10),
}


@FORMS
@pytest.mark.parametrize("order", SAME_CHUNK_TWICE)
def test_one_chunk_twice_in_a_list_is_judged_by_the_pointer_as_moved(
    main: Lab, form: int, order: str, way: Way
) -> None:
    unit = main.shape.ws_min
    chunk, between = main.take(FREE), main.take(FREE)
    (first, second), status, guilty = SAME_CHUNK_TWICE[order]
    lbas = [*blocks(chunk, first * unit, unit), *blocks(between, 0, unit), *blocks(chunk, second * unit, unit)]
    if lists.carry(form, lists.WRITE, lbas) is not None:
        outcome = main.vector_write(form, lbas, way)
        ones = (1 << unit) - 1
        assert outcome.status == status
        assert outcome.bitmap == (ones if guilty & 1 else 0) | (ones << 2 * unit if guilty & 2 else 0)
    main.compare([chunk, between])


@FORMS
def test_a_chunk_that_the_list_itself_fills_takes_no_more(main: Lab, form: int, way: Way) -> None:
    unit = main.shape.ws_min
    chunk, between = main.take(OPEN, fill=main.shape.clba - unit), main.take(FREE)
    lbas = [*blocks(chunk, chunk.wp, unit), *blocks(between, 0, unit), *blocks(chunk, 0, unit)]
    assert write_list(main, form, lbas, way) in (None, WRITE_FAULT)
    main.compare([chunk, between])


@FORMS
def test_a_list_of_64_fills_chunks_and_opens_others(main: Lab, form: int, way: Way) -> None:
    chunks = [main.take(FREE, pu=pu % main.shape.num_pu) for pu in range(8)]
    if main.shape.clba < 8 or 8 % main.shape.ws_min:
        pytest.skip("made for units of at most 8 blocks")
    lbas = [lba for chunk in chunks for lba in blocks(chunk, 0, 8)]
    assert write_list(main, form, lbas, way) in (None, OK)
    main.compare(chunks)


@pytest.mark.parametrize("guilty", [0, 1, 7, 8, 15])
def test_the_bitmap_has_a_bit_for_each_of_64_entries(main: Lab, guilty: int, way: Way) -> None:
    """Unit `guilty` of sixteen aims at a hole: its four bits and no others, DW0 for 0 to 31, DW1 for 32 to 63."""
    if main.shape.ws_min != 4:
        pytest.skip("made for units of 4 blocks")
    chunks = [main.take(FREE) for _ in range(4)]
    lbas = [lba for i in range(16) for lba in blocks(chunks[i % 4], i // 4 * 4, 4)]
    bad = 1 << 62
    lbas[guilty * 4 : guilty * 4 + 4] = [bad, bad + 1, bad + 2, bad + 3]
    following = {(i % 4, i // 4) for i in range(guilty + 1, 16) if i % 4 == guilty % 4}  # no longer at wp
    outcome = main.vector_write(lists.DATA, lbas, way)
    units = {guilty} | {column + row * 4 for column, row in following}
    assert outcome.status == WRITE_FAULT
    assert outcome.bitmap == sum(0xF << unit * 4 for unit in units)
    main.compare(chunks)


def test_a_list_names_blocks_past_the_end_of_its_chunk_one_by_one(main: Lab, way: Way) -> None:
    unit = main.shape.ws_min
    short = main.bring(main.special(is_short=True), FREE)
    outcome = main.vector_write(lists.DATA, blocks(short, short.cnlb - unit, 2 * unit), way)
    assert outcome[:2] == (WRITE_FAULT, ((1 << unit) - 1) << unit)
    main.compare([short])
