"""MAXOC and MAXOCPU (section 7.4): what would open one chunk too many is a write fault, and nothing changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance import lists
from tests.conformance.lab import Lab, Way
from tests.conformance.rules import CLOSED, FREE, OK, OPEN, WRITE_FAULT, Chunk, Outcome

FORMS = pytest.mark.parametrize("form", lists.FORMS, ids=lists.NAMES)


@pytest.fixture
def chunks(strict: Lab) -> Iterator[list[list[Chunk]]]:
    """Free chunks by parallel unit, and none Open before or after."""
    assert (strict.shape.maxoc, strict.shape.maxocpu) == (3, 2)
    for chunk in strict.model.chunks:
        if chunk.state == OPEN:
            strict.bring(chunk, FREE)
    found = [[strict.take(FREE, pu=pu) for _ in range(5)] for pu in range(2)]
    yield found
    strict.compare(chunk for unit in found for chunk in unit)
    for unit in found:
        for chunk in unit:
            strict.bring(chunk, FREE)


def start(lab: Lab, *chunks: Chunk) -> None:
    for chunk in chunks:
        assert lab.write(chunk.slba, lab.shape.ws_min).status == OK


def test_a_parallel_unit_opens_no_more_than_maxocpu(strict: Lab, chunks: list[list[Chunk]], way: Way) -> None:
    start(strict, *chunks[0][:2])
    assert strict.write(chunks[0][2].slba, 2, way).status == WRITE_FAULT
    assert strict.write(chunks[1][0].slba, 2, way).status == OK


def test_the_drive_opens_no_more_than_maxoc(strict: Lab, chunks: list[list[Chunk]], way: Way) -> None:
    start(strict, *chunks[0][:2], chunks[1][0])
    assert strict.write(chunks[1][1].slba, 2, way).status == WRITE_FAULT
    for chunk in (*chunks[0][:2], chunks[1][0]):  # what is open goes on
        assert strict.write(chunk.slba + 2, 2, way).status == OK


def test_a_chunk_that_closes_makes_room(strict: Lab, chunks: list[list[Chunk]], way: Way) -> None:
    start(strict, *chunks[0][:2])
    assert strict.write(chunks[0][2].slba, 2, way).status == WRITE_FAULT
    strict.write(chunks[0][0].slba + 2, strict.shape.clba - 2, way)
    assert chunks[0][0].state == CLOSED
    assert strict.write(chunks[0][2].slba, 2, way).status == OK


def test_a_write_of_a_whole_chunk_counts_while_it_runs(strict: Lab, chunks: list[list[Chunk]], way: Way) -> None:
    whole = strict.shape.clba
    start(strict, chunks[0][0])
    for chunk in chunks[0][1:3]:  # Free to Closed in one step: room again afterwards
        assert strict.write(chunk.slba, whole, way).status == OK
    start(strict, chunks[0][3])
    assert strict.write(chunks[0][4].slba, whole, way).status == WRITE_FAULT


@FORMS
def test_a_list_that_opens_too_many_opens_none(strict: Lab, chunks: list[list[Chunk]], form: int, way: Way) -> None:
    """The bitmap names the entries of the chunks that could not be opened."""
    lbas = [chunk.slba + i for chunk in chunks[0][:3] for i in range(2)]
    if lists.carry(form, lists.WRITE, lbas) is not None:
        assert strict.vector_write(form, lbas, way) == Outcome(WRITE_FAULT, 0b110000)
    four = [chunks[0][0], chunks[1][0], chunks[0][1], chunks[1][1]]
    lbas = [chunk.slba + i for chunk in four for i in range(2)]
    if lists.carry(form, lists.WRITE, lbas) is not None:
        assert strict.vector_write(form, lbas, way) == Outcome(WRITE_FAULT, 0b11000000)
        assert strict.vector_write(form, lbas[:6], way) == Outcome(OK)
    assert all(chunk.state == FREE for chunk in chunks[0][2:])


def test_a_chunk_may_stand_in_a_list_more_than_once(strict: Lab, chunks: list[list[Chunk]], way: Way) -> None:
    """It opens once."""
    a, b = chunks[0][:2]
    lbas = [chunk.slba + at + i for at in (0, 2) for chunk in (a, b) for i in range(2)]
    assert strict.vector_write(lists.DATA, lbas, way) == Outcome(OK)


def test_a_place_above_the_limit_fails_by_its_own_rule_first(strict: Lab, chunks: list[list[Chunk]], way: Way) -> None:
    """Rules of the chunk come before the limit, and argument errors before both."""
    start(strict, *chunks[0][:2])
    free = chunks[0][2]
    assert strict.write(free.slba + 2, 2, way).status not in (OK, WRITE_FAULT)
    assert strict.write(free.slba, 1, way).status not in (OK, WRITE_FAULT)
