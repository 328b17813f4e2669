"""The daemon's log: who gets which form, how much a host can provoke, and what a broken stream does."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from ocssd_tcp.observe.logging import RateLimiter, configure


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def logged(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_file_gets_one_json_object_per_line() -> None:
    stream = io.StringIO()
    configure("info", stream)
    structlog.get_logger().bind(cntlid=3).info("controller connected", host="a\nb\x1b[2J")
    [line] = logged(stream)
    assert line["event"] == "controller connected"
    assert (line["level"], line["cntlid"], line["host"]) == ("info", 3, "a\nb\x1b[2J")
    assert "T" in str(line["timestamp"])


def test_a_traceback_stays_on_its_line_of_json() -> None:
    stream = io.StringIO()
    configure("info", stream)
    try:
        raise KeyError("lost")
    except KeyError:
        structlog.get_logger().exception("handler failed")
    [line] = logged(stream)
    assert line["level"] == "error"
    assert "KeyError: 'lost'" in str(line["exception"])


def test_a_terminal_gets_text_and_no_control_characters_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    configure("info", stream)
    structlog.get_logger().info("connect refused", host="a\x1b[2J\nb")
    [line] = stream.getvalue().splitlines()
    assert "connect refused" in line
    assert "\x1b" not in line
    assert r"a\x1b[2J\nb" in line


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lines_below_the_level_are_not_written(level: str, expected: list[str]) -> None:
    stream = io.StringIO()
    configure(level, stream)
    log = structlog.get_logger()
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("line")
    assert [line["level"] for line in logged(stream)] == expected


def test_a_flood_of_one_event_is_cut_and_counted() -> None:
    now = 100.0
    stream = io.StringIO()
    configure("info", stream, RateLimiter(burst=3, period_s=10, clock=lambda: now))
    log = structlog.get_logger()
    for cntlid in range(50):
        log.warning("fatal header", cntlid=cntlid)
    assert [line["cntlid"] for line in logged(stream)] == [0, 1, 2]
    now += 9.9
    log.warning("fatal header", cntlid=50)
    assert len(logged(stream)) == 3
    now += 0.1
    log.warning("fatal header", cntlid=51)
    log.warning("fatal header", cntlid=52)
    first, second = logged(stream)[3:]
    assert (first["cntlid"], first["suppressed"]) == (51, 48)
    assert second["cntlid"] == 52
    assert "suppressed" not in second


def test_a_flood_silences_no_other_event() -> None:
    stream = io.StringIO()
    configure("info", stream, RateLimiter(burst=1, period_s=10, clock=lambda: 0.0))
    log = structlog.get_logger()
    for _ in range(5):
        log.warning("fatal header")
    log.warning("keep alive lost")
    log.error("fatal header")
    assert [(line["level"], line["event"]) for line in logged(stream)] == [
        ("warning", "fatal header"),
        ("warning", "keep alive lost"),
        ("error", "fatal header"),
    ]


def test_ever_new_event_names_do_not_fill_the_memory() -> None:
    limiter = RateLimiter(burst=1, clock=lambda: 0.0)
    for number in range(10_000):
        limiter(None, "info", {"event": str(number)})
    assert len(limiter) <= 1024


@pytest.mark.parametrize("stream", [Broken(), io.TextIOWrapper(io.BytesIO(), "ascii")], ids=["closed pipe", "ascii"])
def test_a_log_that_cannot_be_written_stops_nobody(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    configure("info", stream)
    structlog.get_logger().info("gr\u00f6\u00dfer", value="\u2028")
