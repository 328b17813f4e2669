"""What is wrong with a configuration, in the operator's terms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """One fault: the key path ("namespace.0.clba"; "" for the whole source), why, and the file or option it is in."""

    key: str
    why: str
    source: str = ""

    def __str__(self) -> str:
        key = self.key if self.key.isprintable() else ascii(self.key)
        return ": ".join(part for part in (self.source, key) if part) + f"{self._joint}{self.why}"

    @property
    def _joint(self) -> str:
        """`why` opens with "= VALUE" where a value is at fault: that reads as the assignment it was."""
        return " " if self.why.startswith("= ") else ": "


class ConfigError(Exception):
    """The configuration cannot be used. `problems`: everything that was found, in the order of the file."""

    def __init__(self, key: str, why: str, source: str = "") -> None:
        """A single problem; `ConfigError.of` makes one from several."""
        super().__init__(key, why, source)
        self.problems: tuple[Problem, ...] = (Problem(key, why, source),)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> ConfigError:
        """All of `problems` (at least one) as one error."""
        found = tuple(problems)
        error = cls(*found[0])
        error.problems = found
        return error

    def __str__(self) -> str:
        """One line per problem."""
        return "\n".join(map(str, self.problems))
