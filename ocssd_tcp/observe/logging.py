"""The daemon's log: one line per control event, to standard error; none per I/O.

People at a terminal get columns, everything else (a journal, a file, a container's collector) gets a JSON object per
line. What a host sends may stand in a line and may provoke many: values are escaped, and lines of one event are
limited in number. A log that cannot be written (a closed pipe, a full disk) is lost; the drive goes on.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple, TextIO

import structlog

_BURST = 10
_PERIOD_S = 10.0
_KEYS = 1024
_RECENT = 50
_RECENT_CHARACTERS = 300


class Recent(NamedTuple):
    """A line of the log as the live page shows it. `at`: Unix time."""

    at: float
    level: str
    event: str
    details: str


RECENT: deque[Recent] = deque(maxlen=_RECENT)  #: the last lines of the process, oldest first


def _remember(_logger: object, level: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor that keeps the line in RECENT."""
    words = (f"{name}={value}" for name, value in line.items() if name not in ("event", "level", "exc_info"))
    RECENT.append(Recent(time.time(), level, str(line.get("event")), " ".join(words)[:_RECENT_CHARACTERS]))
    return line


class RateLimiter:
    """At most `burst` lines per event name and level in each period of `period_s` seconds.

    The first line of the next period says how many were left out, as `suppressed`. `clock` gives seconds. No more
    than `_KEYS` names are remembered: names are the code's own words, but the bound costs nothing.
    """

    def __init__(
        self, burst: int = _BURST, period_s: float = _PERIOD_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._period_s = period_s
        self._clock = clock
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}  # begin of the period, lines in it

    def __len__(self) -> int:
        """How many event names are remembered."""
        return len(self._windows)

    def __call__(self, _logger: object, level: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """As a structlog processor: the line, or structlog.DropEvent. What an operator did is never left out."""
        if "operator" in line:
            return line
        now = self._clock()
        key = (level, str(line.get("event")))
        begin, count = self._windows.get(key, (now, 0))
        if now - begin >= self._period_s:
            if count > self._burst:
                line["suppressed"] = count - self._burst
            begin, count = now, 0
        if len(self._windows) >= _KEYS and key not in self._windows:
            self._windows.clear()
        self._windows[key] = (begin, count + 1)
        if count >= self._burst:
            raise structlog.DropEvent
        return line


class _LineWriter:
    """What structlog hands finished lines to: one method for each level, all the same."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: closed, or not to be encoded
            return

    debug = info = warning = error = critical = msg


def _for_people() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        structlog.dev.ConsoleRenderer(
            colors="NO_COLOR" not in os.environ,
            repr_native_str=True,  # a host's text could otherwise move the cursor of the operator's terminal
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _for_machines() -> list[structlog.typing.Processor]:
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(default=str),
    ]


def configure(level: str = "info", stream: TextIO | None = None, limiter: RateLimiter | None = None) -> None:
    """Set up structlog for the process: lines of `level` ("debug", "info", "warning", "error") and above go to
    `stream` (standard error)."""
    out = stream or sys.stderr
    structlog.configure(
        processors=[
            RateLimiter() if limiter is None else limiter,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _remember,
            *(_for_people() if out.isatty() else _for_machines()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: _LineWriter(out),
        cache_logger_on_first_use=False,
    )
