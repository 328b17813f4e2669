"""Text files about chunks: one line each, `key=value` words, as two generations of QEMU's Open-Channel drive read them.

`g3` spells keys grp, pu, chk, ...; `g4` spells them group, punit, chunk, ..., and knows `*` and comments. A line is of
the syntax that its keys belong to; both accept comments, empty lines, and numbers in decimal or as 0x....
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

#: Every index that a field can have.
ANY = range(1 << 62)


class TextError(ValueError):
    """A file that cannot be used. `source`: its path; `line`: counted from 1, 0 for the file as a whole."""

    def __init__(self, source: str, line: int, why: str) -> None:
        super().__init__(f"{source}:{line}: {why}" if line else f"{source}: {why}")
        self.source = source
        self.line = line
        self.why = why


@dataclass(frozen=True, slots=True)
class Syntax:
    """`keys`: how a file spells a key -> what it means. `required`: spellings that every line has."""

    name: str
    keys: Mapping[str, str]
    required: frozenset[str]


def parse_number(text: str) -> int:
    """A number, decimal or 0x.... ValueError."""
    digits = text.lower()
    is_hex = digits.startswith("0x")
    if not (digits[2:] if is_hex else digits).isalnum() or not digits.isascii() or len(digits) > 20:
        raise ValueError(f"{text!r} is not a number")
    try:
        return int(digits, 16 if is_hex else 10)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def parse_span(text: str) -> range:
    """Indices: a number, two with a dash between them (both included), or `*` for all. ValueError."""
    if text == "*":
        return ANY
    low, dash, high = text.partition("-")
    first = parse_number(low)
    last = parse_number(high) if dash else first
    if last < first:
        raise ValueError(f"{text!r} ends before it begins")
    return range(first, last + 1)


def span_text(span: range) -> str:
    """Indices as they are written."""
    if span == ANY:
        return "*"
    return str(span.start) if len(span) == 1 else f"{span.start}-{span.stop - 1}"


@dataclass(frozen=True, slots=True)
class Line:
    """A line that has words. `values`: by meaning, as text."""

    source: str
    number: int
    syntax: Syntax
    values: Mapping[str, str]

    def error(self, why: str) -> TextError:
        """What is wrong with this line."""
        return TextError(self.source, self.number, why)

    def integer(self, key: str, low: int, high: int) -> int:
        """A number from `low` to `high`. TextError."""
        try:
            value = parse_number(self.values[key])
        except ValueError as error:
            raise self.error(f"{self.spelling(key)}: {error}") from None
        if not low <= value <= high:
            raise self.error(f"{self.spelling(key)}={value} is not in {low} to {high}")
        return value

    def span(self, key: str, count: int) -> range:
        """An index below `count`, or `*`. TextError."""
        if self.values[key] == "*":
            return ANY
        value = self.integer(key, 0, count - 1)
        return range(value, value + 1)

    def word(self, key: str, words: Sequence[str]) -> str:
        """One of `words`. TextError."""
        value = self.values[key]
        if value not in words:
            raise self.error(f"{self.spelling(key)}={value} is none of {', '.join(words)}")
        return value

    def spelling(self, key: str) -> str:
        """How this line's syntax spells a key."""
        return next(spelt for spelt, meaning in self.syntax.keys.items() if meaning == key)


def read_lines(text: str, source: str, syntaxes: Sequence[Syntax]) -> Iterator[Line]:
    """The lines of a file. TextError: no key=value words, keys of no syntax or of two, keys missing or repeated."""
    for number, raw in enumerate(text.splitlines(), 1):
        words = raw.partition("#")[0].split()
        if words:
            yield _line(words, source, number, syntaxes)


def _line(words: Sequence[str], source: str, number: int, syntaxes: Sequence[Syntax]) -> Line:
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise TextError(source, number, f"{word[:40]!r} is not key=value")
        if key in found:
            raise TextError(source, number, f"{key}= stands twice")
        found[key] = value
    syntax = max(syntaxes, key=lambda known: len(found.keys() & known.keys.keys()))
    unknown = [key for key in found if key not in syntax.keys]
    if unknown:
        raise TextError(source, number, f"{unknown[0]}= is no key here; allowed: {', '.join(syntax.keys)}")
    missing = sorted(syntax.required - found.keys())
    if missing:
        raise TextError(source, number, f"{missing[0]}= is missing")
    return Line(source, number, syntax, {syntax.keys[key]: value for key, value in found.items()})
