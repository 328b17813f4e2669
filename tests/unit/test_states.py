"""Chunk states as text: both syntaxes in and out, and what a drive makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.media.ops import MediaStatus
from ocssd_tcp.ocssd.address import AddressMap
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR, WP_UNDEFINED, ChunkState, ChunkType
from ocssd_tcp.ocssd.lines import TextError
from ocssd_tcp.ocssd.states import ChunkStates, format_states, parse_states
from tests.support_media import TINY, Probe, make_store

#: Large enough for the predecessors' own examples.
GEOMETRY = Geometry(block_bytes=512)
FREE, OPEN, CLOSED, OFFLINE = ChunkState.FREE, ChunkState.OPEN, ChunkState.CLOSED, ChunkState.OFFLINE
SEQ, RAN, DEVIATES = ChunkType.SEQUENTIAL, ChunkType.RANDOM, ChunkType.DEVIATES

G3_EXAMPLE = """\
grp=0 pu=1 chk=7 state=OPEN wp=96 type=W_SEQ wi=3
grp=1 pu=0 chk=0 state=OPEN wp=65535 type=W_RAN wi=0
grp=1 pu=3 chk=59 state=OFFLINE wp=65535 type=W_SEQ wi=250
"""
G4_EXAMPLE = """\
# everything fresh, then two special chunks
group=* punit=* chunk=* state=FREE type=SEQ
group=* punit=* chunk=0 type=RANDOM
group=1 punit=2 chunk=0x10 state=OPEN type=SEQ wp=0x40
"""


def chunk(states: ChunkStates, grp: int, pu: int, chk: int) -> tuple[int, int, int, int]:
    """(CS, CT, WP, WLI)."""
    at = (grp * 4 + pu) * 60 + chk
    return int(states.cs[at]), int(states.ct[at]), int(states.wp[at]), int(states.wli[at])


def test_the_example_of_the_third_generation() -> None:
    states = parse_states(G3_EXAMPLE, "states.txt", GEOMETRY)
    assert chunk(states, 0, 1, 7) == (OPEN, SEQ, 96, 3)
    assert chunk(states, 1, 0, 0) == (OPEN, RAN, WP_UNDEFINED, 0)
    assert chunk(states, 1, 3, 59) == (OFFLINE, SEQ, WP_UNDEFINED, 250)
    assert int((states.cs == FREE).sum()) == 480 - 3


def test_the_example_of_the_fourth_generation() -> None:
    states = parse_states(G4_EXAMPLE, "states.txt", GEOMETRY)
    assert chunk(states, 0, 0, 0) == (FREE, RAN, WP_UNDEFINED, 0)
    assert chunk(states, 1, 2, 16) == (OPEN, SEQ, 64, 0)
    assert int((states.ct == RAN).sum()) == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (FREE, SEQ, 0, 0)),
        ("group=0 punit=0 chunk=0 state=CLOSED", (CLOSED, SEQ, 4096, 0)),
        ("group=0 punit=0 chunk=0 state=CLOSED wp=0", (CLOSED, SEQ, 0, 0)),
        ("group=0 punit=0 chunk=0 state=CLOSED wp=7", (CLOSED, SEQ, 7, 0)),
        ("group=0 punit=0 chunk=0 state=CLOSED cnlb=1024", (CLOSED, SEQ | DEVIATES, 1024, 0)),
        ("group=0 punit=0 chunk=0 cnlb=4096", (FREE, SEQ, 0, 0)),
        ("group=0 punit=0 chunk=0 state=OPEN type=RAN", (OPEN, RAN, WP_UNDEFINED, 0)),
        ("group=0 punit=0 chunk=0 state=OFFLINE", (OFFLINE, SEQ, WP_UNDEFINED, 0)),
        ("group=0 punit=0 chunk=0 pe_cycles=500", (FREE, SEQ, 0, 127)),
        ("group=0 punit=0 chunk=0 pe_cycles=1000 state=OFFLINE", (OFFLINE, SEQ, WP_UNDEFINED, 255)),
        ("group=0 punit=0 chunk=0 wi=9", (FREE, SEQ, 0, 9)),
        ("group=0 punit=0 chunk=0 state=OPEN wp=8\ngroup=0 punit=0 chunk=* state=FREE", (FREE, SEQ, 0, 0)),
        ("group=0 punit=0 chunk=0 state=OPEN\ngroup=0 punit=0 chunk=0 wp=8", (OPEN, SEQ, 8, 0)),
        ("wi=0 type=W_SEQ wp=8 state=OPEN chk=0 pu=0 grp=0", (OPEN, SEQ, 8, 0)),
        ("\n  \n# nothing\ngroup=0 punit=0 chunk=0 state=OPEN wp=8 # but this", (OPEN, SEQ, 8, 0)),
    ],
)
def test_what_lines_say_of_the_first_chunk(text: str, expected: tuple[int, int, int, int]) -> None:
    assert chunk(parse_states(text, "states.txt", GEOMETRY), 0, 0, 0) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello", "states.txt:1: 'hello' is not key=value"),
        ("group=0 punit=0", "states.txt:1: chunk= is missing"),
        ("grp=0 pu=1 chk=7 state=OPEN wp=96 type=W_SEQ", "states.txt:1: wi= is missing"),
        ("group=0 punit=0 chunk=0 wp=1 wp=2", "states.txt:1: wp= stands twice"),
        ("group=0 punit=0 chunk=0 colour=red", "states.txt:1: colour= is no key here"),
        ("grp=0 punit=0 chunk=0 state=FREE", "states.txt:1: grp= is no key here"),
        ("group=2 punit=0 chunk=0", "states.txt:1: group=2 is not in 0 to 1"),
        ("group=0 punit=0 chunk=-1", "states.txt:1: chunk: '-1' is not a number"),
        ("group=0 punit=0 chunk=0x", "states.txt:1: chunk: '0x' is not a number"),
        ("\n\ngroup=0 punit=0 chunk=60", "states.txt:3: chunk=60 is not in 0 to 59"),
        ("group=0 punit=0 chunk=0 state=open", "states.txt:1: state=open is none of FREE, CLOSED, OPEN, OFFLINE"),
        ("group=0 punit=0 chunk=0 type=W_SEQ", "states.txt:1: type=W_SEQ is none of SEQ"),
        ("group=0 punit=0 chunk=0 state=OPEN", "states.txt:1: chunk 0/0/0: an OPEN chunk needs wp="),
        ("group=0 punit=0 chunk=0 state=OPEN wp=0", "states.txt:1: chunk 0/0/0: wp of an OPEN chunk lies"),
        ("group=0 punit=0 chunk=0 state=OPEN wp=4096", "states.txt:1: chunk 0/0/0: wp of an OPEN chunk lies"),
        ("group=0 punit=0 chunk=0 state=OPEN wp=6", "states.txt:1: chunk 0/0/0: wp of an OPEN chunk is a multiple"),
        ("group=0 punit=0 chunk=0 state=CLOSED wp=5000", "states.txt:1: chunk 0/0/0: wp of a CLOSED chunk is at most"),
        ("group=0 punit=0 chunk=0 state=FREE wp=4", "states.txt:1: chunk 0/0/0: a FREE chunk has wp=0"),
        ("group=0 punit=0 chunk=0 state=OFFLINE wp=4", "states.txt:1: chunk 0/0/0: wp means nothing"),
        ("group=0 punit=0 chunk=0 type=RAN wp=4", "states.txt:1: chunk 0/0/0: wp means nothing"),
        ("group=0 punit=0 chunk=0 type=RAN state=CLOSED", "states.txt:1: chunk 0/0/0: a random-write chunk is never"),
        ("group=0 punit=0 chunk=0 cnlb=4097", "states.txt:1: cnlb=4097 is not in 1 to 4096"),
        ("group=0 punit=0 chunk=0 cnlb=6", "states.txt:1: cnlb=6 is not a multiple of ws_min (4)"),
        ("group=0 punit=0 chunk=0 pe_cycles=1001", "states.txt:1: pe_cycles=1001 is not in 0 to 1000"),
        ("group=0 punit=0 chunk=0 wi=256", "states.txt:1: wi=256 is not in 0 to 255"),
        (G4_EXAMPLE + "group=1 punit=2 chunk=16 cnlb=32", "states.txt:5: chunk 1/2/16: wp of an OPEN chunk lies"),
        (G3_EXAMPLE.replace("96", "4100"), "states.txt:1: chunk 0/1/7: wp of an OPEN chunk lies"),
    ],
)
def test_a_line_that_cannot_be_is_refused_with_its_place(text: str, why: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_states(text, "states.txt", GEOMETRY)
    assert str(caught.value).startswith(why)


@pytest.mark.parametrize(("limits", "key"), [({"maxoc": 3}, "maxoc"), ({"maxocpu": 1}, "maxocpu")])
def test_more_open_chunks_than_there_may_be_are_refused(limits: dict[str, int], key: str) -> None:
    text = "group=0 punit=* chunk=0 state=OPEN wp=4\ngroup=0 punit=0 chunk=1 state=OPEN wp=4"
    with pytest.raises(TextError, match=key):
        parse_states(text, "states.txt", replace(GEOMETRY, **limits))


def test_a_drive_is_made_with_these_chunks_once(tmp_path: Path) -> None:
    text = """
        group=0 punit=0 chunk=0 state=OPEN wp=8 pe_cycles=5
        group=0 punit=0 chunk=1 state=CLOSED wp=4
        group=0 punit=0 chunk=2 state=OFFLINE
        group=0 punit=1 chunk=0 state=OPEN type=RANDOM
        group=0 punit=1 chunk=1 cnlb=8
    """
    geometry = replace(TINY, mw_cunits=0, pe_cycles=10)
    states = {0: parse_states(text, "states.txt", geometry)}
    store = make_store(tmp_path, geometry, states=states)
    probe = Probe(store.engines[0])
    assert [(probe.chunk(at).cs, probe.chunk(at).wp) for at in (0, 1, 2, 3)] == [
        (OPEN, 8),
        (CLOSED, 4),
        (OFFLINE, WP_UNDEFINED),
        (FREE, 0),
    ]
    assert (probe.chunk(0).wli, probe.chunk(5).cnlb, store.engines[0].ncap) == (127, 8, 7 * 16 + 8)
    assert probe.write(0, 8, 8, fill=1).status == MediaStatus.OK
    assert probe.fills(0, 0, 16) == [*[0] * 8, *range(1, 9)]
    assert probe.write(4, 4, 4, fill=5).status == MediaStatus.OK
    assert probe.fills(4, 0, 8) == [0, 0, 0, 0, 5, 6, 7, 8]
    assert probe.write(5, 0, 8).status == MediaStatus.OK
    assert probe.chunk(5).cs == CLOSED
    for _ in range(4):
        assert probe.reset(0).status == MediaStatus.OK
        probe.write(0, 0, 16)
    assert probe.reset(0).status == MediaStatus.OFFLINE_CHUNK
    store.close()
    store = make_store(tmp_path, geometry, states=states)
    assert Probe(store.engines[0]).chunk(0).cs == OFFLINE
    store.close()


def entries_of(states: ChunkStates, geometry: Geometry) -> np.ndarray:  # type: ignore[type-arg]
    entries = np.zeros(geometry.n_chunks, CHUNK_DESCRIPTOR.dtype)
    for name in ("cs", "ct", "wli", "cnlb", "wp"):
        entries[name] = getattr(states, name)
    entries["slba"] = [AddressMap(geometry).lba(chunk) for chunk in range(geometry.n_chunks)]
    return entries


STATE = st.one_of(
    st.just("state=FREE type=SEQ"),
    st.just("state=OFFLINE type=SEQ"),
    st.sampled_from(["state=FREE type=RAN", "state=OPEN type=RAN", "state=OFFLINE type=RAN"]),
    st.integers(1, 3).map(lambda units: f"state=OPEN type=SEQ wp={units * 4}"),
    st.integers(0, 16).map(lambda wp: f"state=CLOSED type=SEQ wp={wp}"),
)


@settings(max_examples=30, deadline=None)
@given(lines=st.lists(STATE, min_size=8, max_size=8), wear=st.integers(0, 255), syntax=st.sampled_from(["g3", "g4"]))
def test_what_is_exported_can_be_imported(lines: list[str], wear: int, syntax: str) -> None:
    geometry = replace(TINY, pe_cycles=1000)
    text = "\n".join(f"group=0 punit={at // 4} chunk={at % 4} {line} wi={wear}" for at, line in enumerate(lines))
    first = parse_states(text, "first", geometry)
    exported = "\n".join(format_states(entries_of(first, geometry), geometry, syntax))
    again = parse_states(exported, "again", geometry)
    assert (entries_of(first, geometry) == entries_of(again, geometry)).all()


def test_g4_says_how_large_a_chunk_is_and_g3_cannot() -> None:
    states = parse_states("group=0 punit=0 chunk=1 cnlb=8", "states.txt", TINY)
    entries = entries_of(states, TINY)
    assert list(format_states(entries, TINY)) == [
        "group=* punit=* chunk=* state=FREE type=SEQ",
        "group=0 punit=0 chunk=1 state=FREE type=SEQ cnlb=8",
    ]
    with pytest.raises(ValueError, match="chunk 0/0/1 has 8 blocks"):
        list(format_states(entries, TINY, "g3"))
