"""From TOML files, environment variables and `--set` options to a `Config`, or to everything that is wrong with them.

Reads the files it is told to and touches no other. What a single key may hold is its `Kind`'s business, what keys
may hold together that of `rules`; this module finds keys, names them in errors, and keeps track of where each value
came from.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ocssd_tcp.config.errors import ConfigError, Problem
from ocssd_tcp.config.rules import broken_rules
from ocssd_tcp.config.schema import TABLES, Config, Table, keys_of
from ocssd_tcp.config.values import shown

Raw = dict[str, Any]
VARIABLE_PREFIX = "OCSSD_SET_"  #: of environment variables that change a key

_TABLES_BY_NAME = {declared.name: declared for declared in TABLES.values()}


class _Origin(NamedTuple):
    """Where a value came from: as an error names it, and the folder that a relative path starts from."""

    source: str
    folder: Path


def load(
    files: Path | Sequence[Path] | None = None,
    overrides: Sequence[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """The configuration in `files` (none: the defaults), changed by `environment` and then by `overrides`.

    `files`: of several, the keys of a later one win. `environment`: its variables "OCSSD_SET_KEY__PATH" count, the
    others do not. `overrides`: "key.path=value" each, in their order.
    Relative paths become absolute: from the folder of the file, or from the current one for overrides and defaults.
    ConfigError with every problem found.
    """
    loader = _Loader([files] if isinstance(files, Path) else files or [])
    loader.environment(environment or {})
    for override in overrides:
        loader.override(override)
    return loader.build()


class _Loader:
    """The values as written (`raw`), where they came from (`origins`, the latest last), and the problems so far."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.raw: Raw = {}
        self.origins: dict[str, _Origin] = {}
        self.problems: list[Problem] = []
        self._default = _Origin(str(files[-1]), files[-1].parent) if files else _Origin("defaults", Path())
        for path in files:
            self._read(path)

    def complain(self, key: str, why: str) -> None:
        """Note a problem, with the file, the variable or the option that it came from."""
        near = [origin for place, origin in self.origins.items() if _one_holds_the_other(place, key)]
        self.problems.append(Problem(key, why, (near or [self._default])[-1].source))

    def _came_from(self, place: str, origin: _Origin) -> None:
        self.origins.pop(place, None)
        self.origins[place] = origin

    # --- files ------------------------------------------------------------------------------

    def _read(self, path: Path) -> None:
        """Keys of a table are added to those of the files before; an array of tables takes the place of theirs."""
        origin = _Origin(str(path), path.parent)
        for name, content in _read(path).items():
            before = self.raw.get(name)
            if isinstance(content, dict) and isinstance(before, dict):
                before.update(content)
                for key in content:
                    self._came_from(f"{name}.{key}", origin)
            else:
                self.raw[name] = content
                self._came_from(name, origin)

    # --- variables and --set ----------------------------------------------------------------

    def environment(self, variables: Mapping[str, str]) -> None:
        """Apply OCSSD_SET_TARGET__MAX_QUEUES=8 and the like. Their order is not the operator's: what names a row wins
        over what goes for every row, and rows are made in the order of their numbers."""
        found: list[tuple[tuple[int, str], list[str], str, str]] = []
        for name, value in variables.items():
            if not name.startswith(VARIABLE_PREFIX):
                continue
            steps = name.removeprefix(VARIABLE_PREFIX).lower().split("__")
            source = _printable(f"{name}={value}")
            if not all(steps) or len(steps) < 2:
                example = f"{VARIABLE_PREFIX}TARGET__MAX_QUEUES"
                self.problems.append(Problem("", f"name a table and a key, such as {example}", source))
                continue
            row = steps[1] if len(steps) > 2 else ""
            found.append(((len(row), row), steps, value, source))
        found.sort()
        for _, steps, _, _ in found:
            self._make_rows(steps)
        for _, steps, value, source in found:
            self._set(steps, value, source)

    def override(self, text: str) -> None:
        """Apply one "key.path=value" to the raw values."""
        source = _printable(f"--set {text}")
        path, equals, value = text.partition("=")
        steps = path.strip().split(".")
        if not equals or not all(steps):
            self.problems.append(Problem("", "write key=value, such as target.max_queues=8", source))
            return
        self._make_rows(steps)
        self._set(steps, value, source)

    def _set(self, steps: list[str], value: str, source: str) -> None:
        try:
            for place in _assign(self.raw, steps, _toml_value(value)):
                self._came_from(place, _Origin(source, Path()))
        except ConfigError as error:
            self.problems.append(Problem(*error.problems[0][:2], source))

    def _make_rows(self, steps: list[str]) -> None:
        """So that namespace.0.clba means the default namespace, and the next number a further one."""
        declared = _TABLES_BY_NAME.get(steps[0])
        if declared is None or not declared.repeated:
            return
        rows = self.raw.setdefault(declared.name, [{} for _ in range(declared.at_least)])
        if isinstance(rows, list) and len(steps) > 2 and steps[1] == str(len(rows)):
            rows.append({})

    # --- raw values -> Config -----------------------------------------------------------------

    def build(self) -> Config:
        """The configuration, or ConfigError with every problem."""
        for name in self.raw:
            if name not in _TABLES_BY_NAME:
                self.complain(name, f"no such table{_nearest(name, _TABLES_BY_NAME)}")
        parts: dict[str, Any] = {}
        for attribute, declared in TABLES.items():
            parts[attribute] = self._rows(declared) if declared.repeated else self._single(declared)
        if self.problems:  # rules over values that could not be read would only add noise
            raise ConfigError.of(self.problems)
        config = Config(**parts)
        for key, why in broken_rules(config):
            self.complain(key, why)
        if self.problems:
            raise ConfigError.of(self.problems)
        return config

    def _single(self, declared: Table) -> Any:
        return self._content(declared, self.raw.get(declared.name, {}), declared.name)

    def _rows(self, declared: Table) -> tuple[Any, ...]:
        rows = self.raw.get(declared.name, [{} for _ in range(declared.at_least)])
        if not isinstance(rows, list):
            self.complain(declared.name, f"write {declared.heading}: there can be several")
            return ()
        if not declared.at_least <= len(rows) <= declared.at_most:
            self.complain(declared.name, f"{len(rows)} of them; allowed: {declared.at_least} to {declared.at_most}")
            return ()
        return tuple(self._content(declared, row, f"{declared.name}.{index}") for index, row in enumerate(rows))

    def _content(self, declared: Table, raw: object, place: str) -> Any:
        if not isinstance(raw, dict):
            self.complain(place, f"= {shown(raw)}: allowed: a table, {declared.heading}")
            return None
        known = {entry.name: entry for entry in keys_of(declared.content)}
        values: Raw = {}
        for name, written in raw.items():
            at = f"{place}.{name}"
            if name not in known:
                self.complain(at, f"= {shown(written)}: no such key{_nearest(name, known)}")
                continue
            kind = known[name].kind
            try:
                values[name] = kind.parse(written)
            except ValueError as error:
                reason = f"{error}; " if str(error) else ""
                self.complain(at, f"= {shown(written)}: {reason}allowed: {kind.allowed}")
        for entry in known.values():
            path = values.get(entry.name, entry.default)
            if isinstance(path, Path):
                values[entry.name] = self._absolute(f"{place}.{entry.name}", path)
        return declared.content(**values)

    def _absolute(self, at: str, path: Path) -> Path:
        """A path is relative to the file that it stands in; given otherwise, to the current folder."""
        holding = [origin for place, origin in self.origins.items() if f"{at}.".startswith(f"{place}.")]
        return Path(os.path.abspath((holding or [self._default])[-1].folder / path))


def _read(path: Path) -> Raw:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("", f"cannot be read: {error.strerror}", str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError("", "not a TOML file: not UTF-8 text", str(path)) from None
    except RecursionError:
        raise ConfigError("", "not a TOML file: nested too deeply", str(path)) from None
    except ValueError as error:  # TOMLDecodeError is one, and so is a number of too many digits
        raise ConfigError("", f"not a TOML file: {error}", str(path)) from None


def _toml_value(text: str) -> object:
    """What `text` means as a TOML value; text that is none stands for itself, so that a path needs no quotes."""
    try:
        read = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text.strip()
    return read["value"] if read.keys() == {"value"} else text.strip()


def _assign(node: Any, steps: Sequence[str], value: object, place: str = "") -> Iterator[str]:
    """Set the value at a key path, in every row where a number is left out; yields each full path that was set."""
    step, *rest = steps
    if isinstance(node, list) and not step.isdecimal():
        for index, row in enumerate(node):
            yield from _assign(row, steps, value, f"{place}.{index}")
        return
    at = f"{place}.{step}" if place else step
    entry: int | str = step
    if isinstance(node, list):
        if step not in map(str, range(len(node))):
            raise ConfigError(at, f"there are {len(node)}, numbered from 0")
        entry = int(step)
    elif not isinstance(node, dict):
        raise ConfigError(place, "not a table")
    elif rest:
        node.setdefault(step, {})
    if rest:
        yield from _assign(node[entry], rest, value, at)
    else:
        node[entry] = value
        yield at


def _printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


def _one_holds_the_other(place: str, key: str) -> bool:
    return f"{key}.".startswith(f"{place}.") or place.startswith(f"{key}.")


def _nearest(name: str, known: Collection[str]) -> str:
    """A hint at what an unknown name was meant to be."""
    elsewhere = [
        declared.heading for declared in TABLES.values() if name in {entry.name for entry in keys_of(declared.content)}
    ]
    if elsewhere:
        return f"; it belongs under {elsewhere[0]}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; allowed: {', '.join(known)}"
