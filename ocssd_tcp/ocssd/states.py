"""Chunk states as text: what the chunks of a new drive are, and what those of a drive have become.

Two syntaxes, those of the predecessors (`ocssd.lines`). In both, later lines win, and chunks that no line names are
Free, sequential and new. `wi=` in a g4 line is this project's addition: it keeps wear where a host writes the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocssd_tcp.ocssd.address import AddressFormat
from ocssd_tcp.ocssd.geometry import U32_MAX, Geometry
from ocssd_tcp.ocssd.layouts import WP_UNDEFINED, ChunkState, ChunkType
from ocssd_tcp.ocssd.lines import ANY, Line, Syntax, TextError, read_lines
from ocssd_tcp.ocssd.wear import resets_of, wear_indices

_PLACE_G3 = {"grp": "grp", "pu": "pu", "chk": "chk"}
_PLACE_G4 = {"group": "grp", "punit": "pu", "chunk": "chk"}
_G3_KEYS = _PLACE_G3 | {name: name for name in ("state", "wp", "type", "wi")}
_G3 = Syntax("g3", _G3_KEYS, frozenset(_G3_KEYS))
_G4_KEYS = _PLACE_G4 | {name: name for name in ("state", "type", "cnlb", "wp", "pe_cycles", "wi")}
_G4 = Syntax("g4", _G4_KEYS, frozenset(_PLACE_G4))
FORMATS = (_G4.name, _G3.name)

_TYPES = {
    _G3.name: {"W_SEQ": ChunkType.SEQUENTIAL, "W_RAN": ChunkType.RANDOM},
    _G4.name: {
        "SEQ": ChunkType.SEQUENTIAL,
        "SEQUENTIAL": ChunkType.SEQUENTIAL,
        "RAN": ChunkType.RANDOM,
        "RANDOM": ChunkType.RANDOM,
    },
}
_NOT_SAID = -1
_G3_UNDEFINED = 65535  #: wp where it means nothing

Entries = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ChunkStates:
    """What every chunk is, by flat index: fields of its log entry, and its resets."""

    cs: NDArray[np.uint8]
    ct: NDArray[np.uint8]
    wli: NDArray[np.uint8]
    cnlb: NDArray[np.uint64]
    wp: NDArray[np.uint64]
    resets: NDArray[np.uint32]


class _Table:
    """The chunks as the lines have left them so far, [grp, pu, chk]. `line`: the last that named the chunk."""

    def __init__(self, geometry: Geometry) -> None:
        shape = (geometry.num_grp, geometry.num_pu, geometry.num_chk)
        self.geometry = geometry
        self.cs = np.full(shape, ChunkState.FREE, np.uint8)
        self.ct = np.full(shape, ChunkType.SEQUENTIAL, np.uint8)
        self.cnlb = np.full(shape, geometry.clba, np.int64)
        self.wp = np.full(shape, _NOT_SAID, np.int64)
        self.resets = np.zeros(shape, np.uint32)
        self.line = np.zeros(shape, np.int32)

    def apply(self, line: Line) -> None:
        """Take over a line. TextError."""
        geometry, said = self.geometry, line.values
        counts = {"grp": geometry.num_grp, "pu": geometry.num_pu, "chk": geometry.num_chk}
        spans = [line.span(key, count) for key, count in counts.items()]
        where = tuple(slice(None) if span == ANY else slice(span.start, span.stop) for span in spans)
        self.line[where] = line.number
        if "cnlb" in said:
            cnlb = line.integer("cnlb", 1, geometry.clba)
            if cnlb % geometry.ws_min:
                raise line.error(f"cnlb={cnlb} is not a multiple of ws_min ({geometry.ws_min})")
            self.cnlb[where] = cnlb
        if "state" in said:
            self.cs[where] = ChunkState[line.word("state", [state.name for state in ChunkState])]
            self.wp[where] = _NOT_SAID
        if "type" in said:
            types = _TYPES[line.syntax.name]
            self.ct[where] = types[line.word("type", list(types))]
            self.wp[where] = _NOT_SAID
        if "wp" in said:
            wp = line.integer("wp", 0, WP_UNDEFINED)
            if line.syntax is _G4 or not _means_no_wp(said):
                self.wp[where] = min(wp, U32_MAX)
        if "wi" in said:
            self.resets[where] = resets_of(line.integer("wi", 0, 255), geometry.pe_cycles)
        if "pe_cycles" in said:
            self.resets[where] = line.integer("pe_cycles", 0, geometry.pe_cycles or U32_MAX)

    def finish(self, source: str) -> ChunkStates:
        """The chunks, if all of them can be. TextError with the line that made the first wrong one what it is."""
        cs, wp, cnlb = self.cs, self.wp, self.cnlb
        is_random = self.ct == ChunkType.RANDOM
        without = is_random | (cs == ChunkState.OFFLINE)
        is_free, is_open = (cs == ChunkState.FREE) & ~without, (cs == ChunkState.OPEN) & ~without
        is_closed = (cs == ChunkState.CLOSED) & ~without
        is_said = wp != _NOT_SAID
        self._refuse(source, is_random & (cs == ChunkState.CLOSED), "a random-write chunk is never CLOSED")
        self._refuse(source, without & is_said, "wp means nothing in an OFFLINE or random-write chunk; leave it out")
        self._refuse(source, is_free & is_said & (wp != 0), "a FREE chunk has wp=0")
        self._refuse(source, is_open & ~is_said, "an OPEN chunk needs wp=")
        self._refuse(source, is_open & ((wp == 0) | (wp >= cnlb)), "wp of an OPEN chunk lies between 0 and its size")
        self._refuse(source, is_open & (wp % self.geometry.ws_min != 0), "wp of an OPEN chunk is a multiple of ws_min")
        self._refuse(source, is_closed & (wp > cnlb), "wp of a CLOSED chunk is at most its size")
        self._refuse_too_many_open(source)
        wp = np.select([without, is_free, is_closed & ~is_said], [_NOT_SAID, 0, cnlb], wp)
        deviates = np.where(cnlb != self.geometry.clba, np.uint8(ChunkType.DEVIATES), np.uint8(0))
        return ChunkStates(
            cs=cs.ravel(),
            ct=(self.ct | deviates).ravel(),
            wli=wear_indices(self.resets, self.geometry.pe_cycles).ravel(),
            cnlb=cnlb.astype(np.uint64).ravel(),
            wp=wp.astype(np.uint64).ravel(),
            resets=self.resets.ravel(),
        )

    def _refuse(self, source: str, is_wrong: NDArray[np.bool_], why: str) -> None:
        if is_wrong.any():
            grp, pu, chk = (int(at) for at in np.unravel_index(int(np.argmax(is_wrong)), is_wrong.shape))
            raise TextError(source, int(self.line[grp, pu, chk]), f"chunk {grp}/{pu}/{chk}: {why}")

    def _refuse_too_many_open(self, source: str) -> None:
        geometry, is_open = self.geometry, self.cs == ChunkState.OPEN
        n_open = int(is_open.sum())
        if 0 < geometry.maxoc < n_open:
            raise TextError(source, 0, f"{n_open} chunks are OPEN, of {geometry.maxoc} that may be (maxoc)")
        most = int(is_open.sum(axis=2).max())
        if 0 < geometry.maxocpu < most:
            raise TextError(source, 0, f"{most} chunks of a unit are OPEN, of {geometry.maxocpu} that may be (maxocpu)")


def _means_no_wp(said: Mapping[str, str]) -> bool:
    """Whether a g3 line, which has to say something, means nothing by its wp."""
    return said["state"] == ChunkState.OFFLINE.name or said["type"] == "W_RAN"


def parse_states(text: str, source: str, geometry: Geometry) -> ChunkStates:
    """What the chunks of a new drive are. TextError for the first line that cannot be."""
    table = _Table(geometry)
    for line in read_lines(text, source, (_G3, _G4)):
        table.apply(line)
    return table.finish(source)


def format_states(entries: Entries, form: AddressFormat, syntax: str = _G4.name) -> Iterator[str]:
    """Lines that say what log entries (all of a drive, in their order) say. ValueError where `syntax` has no words.

    g4 begins with a line for all chunks, and goes on with those that are different.
    """
    is_g3 = syntax == _G3.name
    fresh = (entries["cs"] == ChunkState.FREE) & (entries["ct"] == ChunkType.SEQUENTIAL) & (entries["wli"] == 0)
    if not is_g3:
        yield "group=* punit=* chunk=* state=FREE type=SEQ"
    for index in map(int, np.flatnonzero(~fresh | is_g3)):
        pu, chk = divmod(index, form.num_chk)
        place = (*divmod(pu, form.num_pu), chk)
        yield (_line_g3 if is_g3 else _line_g4)(entries[index], place)


def _has_wp(entry: Any) -> bool:
    """Whether wp means something; what stands there otherwise is the drive's affair."""
    return not entry["ct"] & ChunkType.RANDOM and bool(entry["cs"] != ChunkState.OFFLINE)


def _line_g3(entry: Any, place: tuple[int, int, int]) -> str:
    if entry["ct"] & ChunkType.DEVIATES:
        raise ValueError(f"chunk {'/'.join(map(str, place))} has {entry['cnlb']} blocks, which g3 cannot say; use g4")
    kind = "W_RAN" if entry["ct"] & ChunkType.RANDOM else "W_SEQ"
    wp = entry["wp"] if _has_wp(entry) else _G3_UNDEFINED
    state = ChunkState(int(entry["cs"])).name
    return f"grp={place[0]} pu={place[1]} chk={place[2]} state={state} wp={wp} type={kind} wi={entry['wli']}"


def _line_g4(entry: Any, place: tuple[int, int, int]) -> str:
    words = [f"group={place[0]} punit={place[1]} chunk={place[2]} state={ChunkState(int(entry['cs'])).name}"]
    words.append(f"type={'RAN' if entry['ct'] & ChunkType.RANDOM else 'SEQ'}")
    if entry["ct"] & ChunkType.DEVIATES:
        words.append(f"cnlb={entry['cnlb']}")
    if _has_wp(entry) and entry["cs"] != ChunkState.FREE:
        words.append(f"wp={entry['wp']}")
    if entry["wli"]:
        words.append(f"wi={entry['wli']}")
    return " ".join(words)
