"""`ocssd-tcpd ctl` as typed: what is sent, how answers look, and what an operator can mend."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ocssd_tcp.cli.daemon import main
from ocssd_tcp.config.values import integer, matching
from ocssd_tcp.observe.control import Argument, Commands, ControlServer, RefusalError, Verb
from ocssd_tcp.observe.verbs import Controls


def ctl(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["ctl", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


async def show(**given: Any) -> Any:
    if given["text"] == "no":
        raise RefusalError("it will not", "ask for yes")
    return {
        "number": given["number"],
        "on": True,
        "text": given["text"],
        "nothing": None,
        "queues": [0, 1],
        "rows": [{"grp": 0, "share": 0.5, "names": ["a", "b"]}, {"grp": 12, "state": "open"}],
        "parts": [{"nsid": 1, "inner": {"deep": 7}}],
        "empty": [],
    }


NUMBER = Argument("number", integer(0, 9), "A number.", default=3)
TEXT = Argument("text", matching("[a-z0-9-]*", "small letters"), "A text.")
VERB = Verb("show", "Shows it.", (NUMBER, TEXT), False, show)


async def helped() -> Any:
    return [VERB.describe()]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A control socket that is served by another thread."""
    ready, at = threading.Event(), tmp_path / "c"
    ends: list[Callable[[], None]] = []

    async def serve() -> None:
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        ends.append(lambda: loop.call_soon_threadsafe(end.set))
        server = ControlServer(Commands({"show": VERB, "help": Verb("help", "Helps.", (), False, helped)}))
        await server.start(at)
        ready.set()
        await end.wait()
        await server.stop()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    yield at
    ends[0]()
    thread.join(10)


def test_arguments_are_json_where_they_can_be_and_text_elsewhere(path: Path) -> None:
    answer = json.loads(ctl("--socket", str(path), "--json", "show", "number=7", "text=0-3").stdout)
    assert answer["ok"]
    assert (answer["result"]["number"], answer["result"]["text"]) == (7, "0-3")


def test_an_answer_is_shown_as_lines_and_tables(path: Path) -> None:
    shown = ctl("--socket", str(path), "show", "text=x").stdout
    for pattern in (
        r"number +3 *\n", r"on +yes", r"nothing +-", r"queues +0, 1", r"empty +none",
        r"rows:\n *grp +share +names +state",
        r"\n *0 +0\.5 +a, b +-", r"\n *12 +- +- +open", r"parts:\nnsid +1 *\n\ninner:\ndeep +7",
    ):  # fmt: skip
        assert re.search(pattern, shown), pattern


@pytest.mark.parametrize("arguments", [[], ["help"]])
def test_help_is_what_comes_without_a_verb(path: Path, arguments: list[str]) -> None:
    shown = ctl("--socket", str(path), *arguments).stdout
    assert "show: Shows it.\n    number: A number. Allowed: a whole number from 0 to 9. Default: 3.\n" in shown


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "text=no"], "it will not (ask for yes)"),
        (["show", "number=99"], "number = 99 (allowed: a whole number from 0 to 9)"),
        (["reboot"], 'no such verb: "reboot"'),
    ],
)
def test_a_refusal_is_a_message_and_status_1(
    path: Path, options: list[str], arguments: list[str], message: str
) -> None:
    result = ctl("--socket", str(path), *options, *arguments)
    assert (result.exit_code, message in result.stderr) == (1, True)
    assert bool(options) == bool(result.stdout) == ('"ok": false' in result.stdout)


def test_the_socket_is_found_in_the_configuration(path: Path) -> None:
    (path.parent / "drive.toml").write_text('[control]\nsocket = "c"\n')
    file = str(path.parent / "drive.toml")
    assert ctl("--config", file, "show").exit_code == 0
    assert CliRunner().invoke(main, ["--config", file, "ctl", "show"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "parts", "code"),
    [
        ([], ["which drive?", "--socket PATH", "control.socket"], 2),
        (["--config", "plain.toml"], ["plain.toml: control.socket turns the control socket on"], 2),
        (["--config", "missing.toml"], ["missing.toml", "cannot be read"], 2),
        (["--config", "wrong.toml"], ["control.sock", "did you mean socket?"], 2),
        (["--socket", "c", "show", "number"], ["'number' is not key=value"], 2),
        (["--socket", "nothing"], ["nothing: there is no socket", "control.socket"], 3),
        (["--socket", "left-over"], ["left-over: nobody answers: the daemon is not running"], 3),
        (["--socket", "plain.toml"], ["plain.toml: nobody answers"], 3),
    ],
)
def test_what_an_operator_can_mend_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], parts: list[str], code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.toml").touch()
    (tmp_path / "wrong.toml").write_text('[control]\nsock = "c"\n')
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind("left-over")
    result = ctl(*arguments)
    assert result.exit_code == code
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize("answer", [b"", b"hello\n", b"[1]\n", b"{"])
def test_somebody_else_behind_the_socket_is_told_from_a_drive(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "c"))
        listener.listen()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1 << 16)
                peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        result = ctl("--socket", str(tmp_path / "c"), "show")
        thread.join(10)
    assert (result.exit_code, "no ocssd-tcpd" in result.stderr) == (3, True)


def test_the_help_text_names_every_verb() -> None:
    text = " ".join(ctl("--help").stdout.split())
    verbs = Controls.verbs(Controls(*[None] * 5))  # type: ignore[arg-type]
    assert all(name in text for name in verbs)
