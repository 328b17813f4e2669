"""Vector Chunk Copy (section 8.4): sources obey the read rules, destinations the write rules; all travels or none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance import lists
from tests.conformance.lab import Lab, Way
from tests.conformance.rules import (
    CLOSED,
    FREE,
    INVALID_FIELD,
    INVALID_OPCODE,
    OK,
    OPEN,
    OUT_OF_ORDER,
    UNWRITTEN,
    WRITE_FAULT,
    Chunk,
    Outcome,
)

FORMS = pytest.mark.parametrize("form", lists.FORMS, ids=lists.NAMES)


def blocks(slba: int, n_blocks: int) -> list[int]:
    return list(range(slba, slba + n_blocks))


def status_of(lab: Lab, form: int, sources: list[int], destinations: list[int], way: Way) -> int | None:
    """The status of a copy, None if the form cannot carry the lists."""
    if lists.carry(form, lists.COPY, sources, destinations) is None:
        return None
    return lab.vector_copy(form, sources, destinations, way).status


def in_window(lab: Lab) -> int:
    if lab.shape.mw_cunits < lab.shape.ws_min:
        pytest.skip("the drive has no such window")
    chunk = lab.take(OPEN, fill=lab.shape.clba - lab.shape.ws_min)
    return chunk.slba + chunk.wp - lab.shape.ws_min


#: What is copied -> its first LBA, and whether it is there.
SOURCES: dict[str, tuple[Callable[[Lab], int], bool]] = {
    "closed": (lambda lab: lab.take(CLOSED).slba, True),
    "closed, not at a unit": (lambda lab: lab.take(CLOSED).slba + 1, True),
    "free": (lambda lab: lab.take(FREE).slba, False),
    "window": (in_window, False),
    "above wp": (lambda lab: lab.take(OPEN, fill=lab.shape.ws_min).slba + lab.shape.ws_min, False),
    "offline": (lambda lab: lab.special(is_offline=True).slba, False),
    "random": (lambda lab: lab.bring(lab.special(is_random=True), OPEN, lab.shape.ws_min).slba, True),
    "hole": (lambda lab: lab.hole(chk=lab.shape.num_chk), False),
    "bit 63": (lambda lab: 1 << 63, False),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("lab", ["main", "odd"], indirect=True)
def test_a_source_obeys_the_read_rules(lab: Lab, source: str, way: Way) -> None:
    if not lab.shape.vector_copy:
        pytest.skip("the drive has no copy")
    make, is_there = SOURCES[source]
    n_blocks = lab.shape.ws_min
    for form in lists.FORMS:
        sources, target = blocks(make(lab), n_blocks), lab.take(FREE)
        destinations = blocks(target.slba, n_blocks)
        if lists.carry(form, lists.COPY, sources, destinations) is not None:
            outcome = lab.vector_copy(form, sources, destinations, way)
            fails = way.wire.dulbe and not is_there
            assert outcome[:2] == ((UNWRITTEN, (1 << n_blocks) - 1) if fails else (OK, 0))
            assert target.state == (FREE if fails else OPEN)
            lab.compare([target])


#: Where a copy goes -> its first LBA, blocks in units, and the status.
DESTINATIONS: dict[str, tuple[Callable[[Lab], int], int, int]] = {
    "free": (lambda lab: lab.take(FREE).slba, 0, OK),
    "open": (lambda lab: at_wp(lab.take(OPEN)), 0, OK),
    "behind wp": (lambda lab: lab.take(OPEN).slba, 0, OUT_OF_ORDER),
    "ahead of wp": (lambda lab: lab.take(FREE).slba + lab.shape.ws_min, 0, OUT_OF_ORDER),
    "closed": (lambda lab: lab.take(CLOSED).slba, 0, WRITE_FAULT),
    "offline": (lambda lab: lab.special(is_offline=True).slba, 0, WRITE_FAULT),
    "random": (lambda lab: lab.bring(lab.special(is_random=True), FREE).slba + lab.shape.ws_min, 0, OK),
    "past the end": (lambda lab: lab.special(is_short=True).slba + lab.shape.clba - lab.shape.ws_min, 0, WRITE_FAULT),
    "hole": (lambda lab: lab.hole(chk=lab.shape.num_chk), 0, WRITE_FAULT),
    "bit 63": (lambda lab: 1 << 63, 0, WRITE_FAULT),
    "less than a unit": (lambda lab: lab.take(FREE).slba, -1, INVALID_FIELD),
    "more than a unit": (lambda lab: lab.take(FREE).slba, 1, INVALID_FIELD),
}


def at_wp(chunk: Chunk) -> int:
    return chunk.slba + chunk.wp


@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("lab", ["main", "odd"], indirect=True)
def test_a_destination_obeys_the_write_rules(lab: Lab, destination: str, way: Way) -> None:
    if not lab.shape.vector_copy:
        pytest.skip("the drive has no copy")
    make, more, status = DESTINATIONS[destination]
    n_blocks = lab.shape.ws_min + more
    for form in lists.FORMS:
        first, source = make(lab), lab.take(CLOSED)
        sources, destinations = blocks(source.slba, n_blocks), blocks(first, n_blocks)
        if lists.carry(form, lists.COPY, sources, destinations) is not None:
            outcome = lab.vector_copy(form, sources, destinations, way)
            guilty = 0 if status in (OK, INVALID_FIELD) else (1 << n_blocks) - 1
            assert outcome == Outcome(status, guilty)
        chunk = lab.model.find(first)[0]
        lab.compare([source, chunk] if chunk else [source])


@FORMS
def test_a_copy_gathers_blocks_into_several_chunks(main: Lab, form: int, way: Way) -> None:
    unit = main.shape.ws_min
    a, b = main.take(CLOSED), main.take(CLOSED)
    c, d = main.take(FREE), main.take(FREE)
    sources = [lba for i in range(unit) for lba in (a.slba + i, b.slba + unit - i)]  # any order
    destinations = [*blocks(c.slba, unit), *blocks(d.slba, unit)]
    assert status_of(main, form, sources, destinations, way) in (None, OK)
    main.compare([a, b, c, d])


@FORMS
def test_one_missing_source_and_nothing_is_copied_with_dulbe(main: Lab, form: int, way: Way) -> None:
    unit = main.shape.ws_min
    good, missing, target = main.take(CLOSED), main.take(FREE), main.take(FREE)
    sources = [*blocks(good.slba, unit - 1), missing.slba]
    destinations = blocks(target.slba, unit)
    if lists.carry(form, lists.COPY, sources, destinations) is not None:
        outcome = main.vector_copy(form, sources, destinations, way)
        assert outcome == (Outcome(UNWRITTEN, 1 << unit - 1) if way.wire.dulbe else Outcome(OK))
    main.compare([target])


@FORMS
def test_a_chunk_may_be_copied_onto_its_own_end(main: Lab, form: int, way: Way) -> None:
    """All is read before anything is written: the source is what it was."""
    unit = main.shape.ws_min
    if main.shape.clba < main.shape.mw_cunits + 2 * unit:
        pytest.skip("nothing of an Open chunk can be read")
    chunk = main.take(OPEN, fill=main.shape.clba - unit)
    sources, destinations = blocks(chunk.slba, unit), blocks(chunk.slba + chunk.wp, unit)
    assert status_of(main, form, sources, destinations, way) in (None, OK)
    main.compare([chunk])


@FORMS
def test_a_copy_does_not_shrink_the_window(main: Lab, form: int, way: Way) -> None:
    """What a copy has written is readable when as much follows it as after a write."""
    unit = main.shape.ws_min
    source, target = main.take(CLOSED), main.take(FREE)
    if status_of(main, form, blocks(source.slba, unit), blocks(target.slba, unit), way) is not None:
        assert main.model.is_readable(target.slba) == (unit > main.shape.mw_cunits)
        main.read(target.slba, unit, way)
    main.compare([target])


@FORMS
def test_64_blocks_are_copied_at_once(main: Lab, form: int, way: Way) -> None:
    unit = main.shape.ws_min
    if main.shape.clba % 16 or 16 % unit:
        pytest.skip("made for chunks of 16 blocks")
    sources = [lba for chunk in (main.take(CLOSED) for _ in range(4)) for lba in blocks(chunk.slba, 16)]
    targets = [main.take(FREE) for _ in range(4)]
    destinations = [lba for chunk in targets for lba in blocks(chunk.slba, 16)]
    assert status_of(main, form, sources, destinations, way) in (None, OK)
    main.compare(targets)


def test_the_bitmap_of_a_copy_names_destinations_up_to_entry_63(main: Lab, way: Way) -> None:
    unit = main.shape.ws_min
    if main.shape.clba % 16 or 16 % unit:
        pytest.skip("made for chunks of 16 blocks")
    sources = blocks(main.take(CLOSED).slba, 16) * 4
    targets = [main.take(FREE) for _ in range(3)] + [main.take(CLOSED)]
    destinations = [lba for chunk in targets for lba in blocks(chunk.slba, 16)]
    outcome = main.vector_copy(lists.DATA, sources, destinations, way)
    assert outcome == Outcome(WRITE_FAULT, 0xFFFF << 48)
    main.compare(targets)


def test_a_drive_without_copy_does_not_know_the_opcode(strict: Lab, way: Way) -> None:
    cdws = lists.dwords(n=1, form=lists.INLINE)
    assert way.wire.io(lists.COPY, strict.nsid, cdws) == Outcome(INVALID_OPCODE)
