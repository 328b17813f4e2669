"""The predecessors' files of failing resets and writes, both syntaxes."""

from __future__ import annotations

import pytest

from ocssd_tcp.media.filters.faults import FaultInjector
from ocssd_tcp.media.ops import Extent, MediaStatus
from ocssd_tcp.ocssd.fault_rules import FaultFile, parse_reset_fail, parse_write_fail
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.lines import TextError, parse_span, span_text

GEOMETRY = Geometry(block_bytes=512)

RESET_EXAMPLE = """\
grp=0 pu=2 chk=11 resetfail_prob=100
grp=1 pu=0 chk=3 resetfail_prob=25
"""
WRITE_EXAMPLE = """\
grp=0 pu=3 chk=1 sec=40 writefail_prob=100
grp=0 pu=3 chk=1 sec=41 writefail_prob=50
"""


def at(grp: int, pu: int, chk: int) -> int:
    return (grp * 4 + pu) * 60 + chk


def test_the_example_of_failing_resets() -> None:
    injector = FaultInjector(GEOMETRY, parse_reset_fail(RESET_EXAMPLE, "reset.txt", GEOMETRY, 7))
    assert all(injector.reset(at(0, 2, 11)) for _ in range(5))
    assert not any(injector.reset(at(0, 2, 12)) for _ in range(5))
    assert 200 < sum(injector.reset(at(1, 0, 3)) for _ in range(1000)) < 300


def test_the_example_of_failing_writes() -> None:
    injector = FaultInjector(GEOMETRY, parse_write_fail(WRITE_EXAMPLE, "write.txt", GEOMETRY, 7))
    chunk = at(0, 3, 1)
    assert injector.write(Extent(chunk, 32, 8)) is None
    assert injector.write(Extent(chunk, 36, 8)) == (MediaStatus.EARLY_CLOSE, 40)
    found = [injector.write(Extent(chunk, 41, 8)) for _ in range(1000)]
    assert 450 < sum(fault == (MediaStatus.EARLY_CLOSE, 41) for fault in found) < 550


def test_a_chunk_whose_write_failed_by_a_file_fails_its_next_reset() -> None:
    injector = FaultInjector(GEOMETRY, parse_write_fail(WRITE_EXAMPLE, "write.txt", GEOMETRY, 7))
    chunk = at(0, 3, 1)
    assert not injector.reset(chunk)
    injector.write(Extent(chunk, 40, 4))
    assert [injector.reset(chunk) for _ in range(2)] == [True, False]


def test_wildcards_comments_and_later_lines() -> None:
    text = """
        # all of them, but one chunk, and there but one block
        group=* punit=* chunk=* sectr=* prob=100
        group=1 punit=0x2 chunk=5 sectr=* prob=0
        group=1 punit=2 chunk=5 sectr=9 prob=100
    """
    injector = FaultInjector(GEOMETRY, parse_write_fail(text, "write.txt", GEOMETRY, 0))
    assert injector.write(Extent(at(0, 0, 0), 4, 4)) == (MediaStatus.EARLY_CLOSE, 4)
    assert injector.write(Extent(at(1, 2, 5), 0, 8)) is None
    assert injector.write(Extent(at(1, 2, 5), 4, 8)) == (MediaStatus.EARLY_CLOSE, 9)
    assert injector.write(Extent(at(1, 2, 5), 10, 30)) is None


def test_a_probability_holds_for_every_block() -> None:
    injector = FaultInjector(
        GEOMETRY, parse_write_fail("group=* punit=* chunk=* sectr=* prob=10", "write.txt", GEOMETRY, 3)
    )
    n_good = sum(injector.write(Extent(0, 0, 8)) is None for _ in range(2000))
    assert n_good / 2000 == pytest.approx(0.9**8, abs=0.05)


@pytest.mark.parametrize(
    ("parse", "text", "why"),
    [
        (parse_reset_fail, "grp=0 pu=2 chk=11", "f:1: resetfail_prob= is missing"),
        (parse_reset_fail, "\ngrp=0 pu=2 chk=60 resetfail_prob=1", "f:2: chk=60 is not in 0 to 59"),
        (parse_reset_fail, "grp=0 pu=2 chk=1 resetfail_prob=101", "f:1: resetfail_prob=101 is not in 0 to 100"),
        (parse_reset_fail, "group=0 punit=2 chunk=1 prob=x", "f:1: prob: 'x' is not a number"),
        (parse_reset_fail, "group=0 punit=2 chunk=1 sectr=1 prob=1", "f:1: sectr= is no key here"),
        (parse_write_fail, "group=0 punit=2 chunk=1 prob=1", "f:1: sectr= is missing"),
        (parse_write_fail, "grp=0 pu=2 chk=1 sec=4096 writefail_prob=1", "f:1: sec=4096 is not in 0 to 4095"),
    ],
)
def test_a_line_that_cannot_be_is_refused_with_its_place(parse: FaultFile, text: str, why: str) -> None:
    with pytest.raises(TextError) as caught:
        parse(text, "f", GEOMETRY, 0)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize("text", ["*", "0", "17", "0-3"])
def test_indices_are_written_as_they_are_read(text: str) -> None:
    assert span_text(parse_span(text)) == text


@pytest.mark.parametrize("text", ["", "-", "1-", "-1", "3-1", "a", "1,2", "1-2-3", "٣", "0x", "1 "])
def test_other_indices_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"number|ends before"):
        parse_span(text)
