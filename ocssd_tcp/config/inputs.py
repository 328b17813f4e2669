"""The text files that a configuration names: chunk states, and what shall fail. Read before the drive is touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ocssd_tcp.config.errors import ConfigError, Problem
from ocssd_tcp.config.schema import Config, NamespaceConfig
from ocssd_tcp.ocssd.fault_rules import FaultFile, FaultRule, parse_reset_fail, parse_write_fail
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.lines import TextError
from ocssd_tcp.ocssd.states import ChunkStates, parse_states

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the operator said about one namespace. `rules`: of the configuration, then of its files."""

    states: ChunkStates | None
    rules: tuple[FaultRule, ...]


def read_inputs(config: Config, seed: int) -> list[Inputs]:
    """The inputs of every namespace. `seed`: of draws that name none. ConfigError with every file that is wrong."""
    problems: list[Problem] = []
    found = []
    for index, namespace in enumerate(config.namespaces):
        reader = _Reader(index, namespace, problems)
        rules = [fault.rule(seed) for fault in config.faults if fault.nsid == index + 1]
        rules += reader.rules("reset_fail", parse_reset_fail, seed)
        rules += reader.rules("write_fail", parse_write_fail, seed)
        states = reader.read("chunk_states", parse_states)
        found.append(Inputs(states, tuple(rules)))
    if problems:
        raise ConfigError.of(problems)
    return found


class _Reader:
    """Reads the files of one namespace, and notes what is wrong with them."""

    def __init__(self, index: int, namespace: NamespaceConfig, problems: list[Problem]) -> None:
        self._index = index
        self._namespace = namespace
        self._problems = problems

    def rules(self, key: str, parse: FaultFile, seed: int) -> list[FaultRule]:
        """The rules of a file; none without one."""

        def with_seed(text: str, source: str, geometry: Geometry) -> list[FaultRule]:
            return parse(text, source, geometry, seed)

        return self.read(key, with_seed) or []

    def read(self, key: str, parse: Callable[[str, str, Geometry], T]) -> T | None:
        """What a file says; None without one, or if it is wrong."""
        path: Path | None = getattr(self._namespace, key)
        if path is None:
            return None
        try:
            return parse(path.read_text(encoding="utf-8"), str(path), self._namespace.geometry)
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
        except UnicodeDecodeError:
            why = "is no text: not UTF-8"
        except TextError as error:
            why = f"line {error.line}: {error.why}" if error.line else error.why
        self._problems.append(Problem(f"namespace.{self._index}.{key}", why, str(path)))
        return None
