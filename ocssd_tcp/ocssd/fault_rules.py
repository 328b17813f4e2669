"""What shall fail: rules by address, from the configuration, from an operator, or from the predecessors' files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.lines import ANY, Syntax, read_lines, span_text


class FaultKind(Enum):
    """How an access to the media fails."""

    EARLY_CLOSE = "early-close"  #: a write: the chunk closes at the unit that failed
    WRITE_NEXT_UNIT = "write-next-unit"  #: a write: the chunk goes on behind the unit that failed
    RESET_FAIL = "reset-fail"  #: a reset: the chunk is Offline
    READ_ERROR = "read-error"
    HIGH_ECC = "high-ecc"  #: a read: the data are good, but not for long


class FaultRuleError(ValueError):
    """A rule that cannot be. `key`: what is at fault."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key} {why}")
        self.key = key
        self.why = why


@dataclass(frozen=True, slots=True)
class FaultRule:
    """Accesses of a kind to the blocks `blk` of the chunks `chk` of the units `pu` of the groups `grp`.

    `probability`: of each such access, drawn from `seed`; or `nth`: the n-th of them fails, no other. An access is the
    part of an operation that lies in one chunk; the block at fault is the first that the rule names.

    `each_block`: drawn for every block instead, as the predecessors do; where such rules overlap the last one counts,
    and a chunk whose write failed by one fails its next reset.
    """

    kind: FaultKind
    grp: range = ANY
    pu: range = ANY
    chk: range = ANY
    blk: range = ANY
    probability: float = 1.0
    nth: int | None = None
    seed: int = 0
    each_block: bool = False

    def check(self, geometry: Geometry) -> None:
        """FaultRuleError if the rule names what a drive does not have, or says too much or nothing."""
        counts = {"grp": geometry.num_grp, "pu": geometry.num_pu, "chk": geometry.num_chk, "blk": geometry.clba}
        for key, count in counts.items():
            span: range = getattr(self, key)
            if span != ANY and span.stop > count:
                raise FaultRuleError(key, f"= {span_text(span)}: the drive has {count}, counted from 0")
        if self.kind is FaultKind.RESET_FAIL and self.blk != ANY:
            raise FaultRuleError("blk", f"= {span_text(self.blk)}: a reset concerns the whole chunk; leave it out")
        if not 0 <= self.probability <= 1:
            raise FaultRuleError("probability", f"= {self.probability}: allowed: 0 to 1")
        if self.nth is not None and self.nth < 1:
            raise FaultRuleError("nth", f"= {self.nth}: allowed: 1 and more")


_PLACE_G3 = {"grp": "grp", "pu": "pu", "chk": "chk"}
_PLACE_G4 = {"group": "grp", "punit": "pu", "chunk": "chk"}
_SECTOR_G3, _SECTOR_G4 = {"sec": "blk"}, {"sectr": "blk"}


def _syntax(name: str, keys: dict[str, str]) -> Syntax:
    return Syntax(name, keys, frozenset(keys))


_RESET_FAIL = (
    _syntax("g3", _PLACE_G3 | {"resetfail_prob": "probability"}),
    _syntax("g4", _PLACE_G4 | {"prob": "probability"}),
)
_WRITE_FAIL = (
    _syntax("g3", _PLACE_G3 | _SECTOR_G3 | {"writefail_prob": "probability"}),
    _syntax("g4", _PLACE_G4 | _SECTOR_G4 | {"prob": "probability"}),
)


def parse_reset_fail(text: str, source: str, geometry: Geometry, seed: int) -> list[FaultRule]:
    """The rules of a file of failing resets, both syntaxes. TextError."""
    return _parse(text, source, geometry, seed, FaultKind.RESET_FAIL, _RESET_FAIL)


def parse_write_fail(text: str, source: str, geometry: Geometry, seed: int) -> list[FaultRule]:
    """The rules of a file of failing writes, both syntaxes. TextError."""
    return _parse(text, source, geometry, seed, FaultKind.EARLY_CLOSE, _WRITE_FAIL)


#: (text, source, geometry, seed) -> rules. TextError.
FaultFile = Callable[[str, str, Geometry, int], list[FaultRule]]


def _parse(
    text: str, source: str, geometry: Geometry, seed: int, kind: FaultKind, syntaxes: tuple[Syntax, ...]
) -> list[FaultRule]:
    return [
        FaultRule(
            kind,
            grp=line.span("grp", geometry.num_grp),
            pu=line.span("pu", geometry.num_pu),
            chk=line.span("chk", geometry.num_chk),
            blk=line.span("blk", geometry.clba) if "blk" in line.values else ANY,
            probability=line.integer("probability", 0, 100) / 100,
            seed=seed,
            each_block=True,
        )
        for line in read_lines(text, source, syntaxes)
    ]
