"""Faults: which accesses to the media fail, by rules that can be replayed.

A draw depends on the rule's seed and kind, on the chunk, and on how many draws the rule has made for this chunk: so the
same commands to a chunk meet the same failures, whatever goes on in other chunks and however fast.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from ocssd_tcp.media.filters.base import Filter
from ocssd_tcp.media.ops import Extent, Injector, Media, MediaOp, MediaStatus, OpKind
from ocssd_tcp.ocssd.fault_rules import FaultKind, FaultRule, FaultRuleError
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.lines import ANY

_WRITE_FAULTS = {
    FaultKind.EARLY_CLOSE: MediaStatus.EARLY_CLOSE,
    FaultKind.WRITE_NEXT_UNIT: MediaStatus.WRITE_NEXT_UNIT,
}
_READ_FAULTS = (FaultKind.READ_ERROR, FaultKind.HIGH_ECC)
_ORDER = {kind: number for number, kind in enumerate(FaultKind)}
_U64 = (1 << 64) - 1
_KNOWN_CHUNKS = 1 << 16  #: chunks whose rules are remembered
RECENT = 32  #: faults that are remembered


class Faults(Filter):
    """Gives every operation that reaches the media an injector. Innermost: what it makes fail costs time as well."""

    HANDLES = frozenset({OpKind.READ, OpKind.WRITE, OpKind.RESERVE, OpKind.RESET, OpKind.COPY})
    PASSES = frozenset({OpKind.COMMIT, OpKind.ABORT, OpKind.FLUSH})

    __slots__ = ("_injector",)

    def __init__(self, inner: Media, injector: Injector) -> None:
        super().__init__(inner)
        self._injector = injector

    def handle(self, op: MediaOp) -> None:
        """Let the engine ask the injector."""
        op.inject = self._injector
        self.inner.submit(op)


class ArmedRule:
    """A rule at work. `number`: its name; `n_matches`: accesses it was asked about; `n_hits`: those that failed."""

    __slots__ = ("draws", "n_hits", "n_matches", "number", "rule")

    def __init__(self, number: int, rule: FaultRule) -> None:
        self.number = number
        self.rule = rule
        self.n_matches = 0
        self.n_hits = 0
        self.draws: dict[int, int] = {}  #: chunk -> how many

    def hits(self, chunk: int, blk: range, lblk: int, mask: int) -> int:
        """Of the blocks in `mask` (bit i: block lblk + i) that lie in `blk`: those at fault."""
        low, high = max(blk.start - lblk, 0), max(min(blk.stop - lblk, mask.bit_length()), 0)
        candidates = mask & ((1 << high) - 1) >> low << low
        if not candidates:
            return 0
        self.n_matches += 1
        hits = self._drawn(chunk, lblk, candidates) if self.rule.each_block else self._first(chunk, candidates)
        self.n_hits += bool(hits)
        return hits

    def _first(self, chunk: int, candidates: int) -> int:
        is_hit = self.n_matches == self.rule.nth if self.rule.nth is not None else self._draw(chunk, 0)
        return candidates & -candidates if is_hit else 0

    def _drawn(self, chunk: int, lblk: int, candidates: int) -> int:
        hits = 0
        while candidates:
            bit = candidates & -candidates
            candidates ^= bit
            if self._draw(chunk, lblk + bit.bit_length()):
                hits |= bit
        return hits

    def _draw(self, chunk: int, lblk: int) -> bool:
        rule = self.rule
        if rule.probability in (0, 1):
            return rule.probability == 1
        count = self.draws.get(chunk, 0)
        self.draws[chunk] = count + 1
        value = rule.seed
        for part in (_ORDER[rule.kind], chunk, lblk, count):
            value = _mix(value + part)
        return value < rule.probability * (1 << 64)


def _mix(value: int) -> int:
    """One step of SplitMix64: 64 bits that look like chance."""
    value = (value + 0x9E3779B97F4A7C15) & _U64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _U64
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _U64
    return value ^ value >> 31


class _Here(NamedTuple):
    """A rule that concerns a chunk, and which of its blocks."""

    armed: ArmedRule
    blk: range


class Fault(NamedTuple):
    """An access that a rule made fail. `at`: Unix time. `chunk`: flat."""

    at: float
    kind: FaultKind
    chunk: int
    lblk: int


class FaultInjector:
    """The `Injector` of one namespace. Rules may come and go while the drive runs.

    `skips_units`: whether the engine can keep units whose write failed (`Engine.keeps_failed_units`). `fails_writes`:
    whether there is an order in which writes can fail; lax rules know none. `n_injected`: faults so far, by kind;
    `recent`: the last RECENT of them.
    """

    def __init__(
        self,
        geometry: Geometry,
        rules: Iterable[FaultRule] = (),
        *,
        skips_units: bool = True,
        fails_writes: bool = True,
    ) -> None:
        self._geometry = geometry
        self._skips_units = skips_units
        self._fails_writes = fails_writes
        self._armed: dict[int, ArmedRule] = {}
        self._last = 0
        self._here: dict[int, list[_Here]] = {}
        self._doomed: set[int] = set()  #: chunks whose next reset fails
        self.n_injected = dict.fromkeys(FaultKind, 0)
        self.recent: deque[Fault] = deque(maxlen=RECENT)
        for rule in rules:
            self.add(rule)

    @property
    def rules(self) -> list[ArmedRule]:
        """All rules, oldest first."""
        return list(self._armed.values())

    def add(self, rule: FaultRule) -> int:
        """Arm a rule; its number. FaultRuleError, nothing changed."""
        rule.check(self._geometry)
        if rule.kind in _WRITE_FAULTS and not self._fails_writes:
            raise FaultRuleError("kind", f"= {rule.kind.value}: only in strict namespaces do writes fail")
        if rule.kind is FaultKind.WRITE_NEXT_UNIT and not self._skips_units:
            raise FaultRuleError("kind", "= write-next-unit: the drive was opened without the maps that this needs")
        self._last += 1
        self._armed[self._last] = ArmedRule(self._last, rule)
        self._here.clear()
        return self._last

    def remove(self, number: int) -> bool:
        """Disarm a rule; whether there was one."""
        self._here.clear()
        return self._armed.pop(number, None) is not None

    def layer(self, inner: Media) -> Faults:
        """The filter around a media (a `stack.Layer`)."""
        return Faults(inner, self)

    # ---- what the engine asks

    def write(self, extent: Extent) -> tuple[MediaStatus, int] | None:
        """The first block of a write that fails, and how. Every rule is asked, so that none depends on another."""
        chunk, lblk, n_blocks = extent
        mask, worst = (1 << n_blocks) - 1, None
        for armed, blk in self._rules_at(chunk):
            status = _WRITE_FAULTS.get(armed.rule.kind)
            hits = self._hits(armed, chunk, blk, lblk, mask) if status is not None else 0
            if status is None or not hits:
                continue
            if armed.rule.each_block:
                self._doomed.add(chunk)
            at = lblk + (hits & -hits).bit_length() - 1
            if worst is None or at < worst[1]:
                worst = (status, at)
        return worst

    def read(self, extent: Extent, readable: int) -> tuple[int, int]:
        """The blocks of a read that cannot be read, and those of high ECC."""
        found = dict.fromkeys(_READ_FAULTS, 0)
        for armed, blk in self._rules_at(extent.chunk):
            if armed.rule.kind in found:
                found[armed.rule.kind] |= self._hits(armed, extent.chunk, blk, extent.lblk, readable)
        errors = found[FaultKind.READ_ERROR]
        return errors, found[FaultKind.HIGH_ECC] & ~errors

    def reset(self, chunk: int) -> bool:
        """Whether a reset fails."""
        is_failing = chunk in self._doomed
        if is_failing:
            self._doomed.discard(chunk)
            self._note(FaultKind.RESET_FAIL, chunk, 0)
        for armed, _blk in self._rules_at(chunk):
            if armed.rule.kind is FaultKind.RESET_FAIL and self._hits(armed, chunk, ANY, 0, 1):
                is_failing = True
        return is_failing

    def _hits(self, armed: ArmedRule, chunk: int, blk: range, lblk: int, mask: int) -> int:
        """As `ArmedRule.hits`, and noted."""
        hits = armed.hits(chunk, blk, lblk, mask)
        if hits:
            self._note(armed.rule.kind, chunk, lblk + (hits & -hits).bit_length() - 1)
        return hits

    def _note(self, kind: FaultKind, chunk: int, lblk: int) -> None:
        self.n_injected[kind] += 1
        self.recent.append(Fault(time.time(), kind, chunk, lblk))

    def _rules_at(self, chunk: int) -> list[_Here]:
        here = self._here.get(chunk)
        if here is None:
            if len(self._here) >= _KNOWN_CHUNKS:
                self._here.clear()
            here = self._here[chunk] = self._find(chunk)
        return here

    def _find(self, chunk: int) -> list[_Here]:
        pu, chk = divmod(chunk, self._geometry.num_chk)
        grp, pu = divmod(pu, self._geometry.num_pu)
        found: list[_Here] = []
        for armed in self._armed.values():
            rule = armed.rule
            if grp not in rule.grp or pu not in rule.pu or chk not in rule.chk:
                continue
            if rule.each_block:  # a later line takes its blocks from earlier ones
                found = [part for old in found for part in _without(old, rule)]
            found.append(_Here(armed, rule.blk))
        return found


def _without(old: _Here, rule: FaultRule) -> list[_Here]:
    """What remains of a rule at a chunk when `rule` comes after it."""
    if not old.armed.rule.each_block or old.armed.rule.kind is not rule.kind:
        return [old]
    parts = (range(old.blk.start, rule.blk.start), range(max(rule.blk.stop, old.blk.start), old.blk.stop))
    return [_Here(old.armed, range(part.start, min(part.stop, old.blk.stop))) for part in parts if part]
