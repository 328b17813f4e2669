"""The control socket: what is asked, what is answered, what is refused, and what a peer can do to it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from structlog.testing import capture_logs

from ocssd_tcp.commands.dials import Dials
from ocssd_tcp.media.filters.faults import FaultInjector
from ocssd_tcp.media.filters.latency import FLASH
from ocssd_tcp.observe.control import LINE_BYTES, MAX_CONNECTIONS, Commands, ControlServer, Who
from ocssd_tcp.observe.logging import RateLimiter
from ocssd_tcp.observe.tracing import Tracing
from ocssd_tcp.observe.verbs import Controls
from ocssd_tcp.ocssd.layouts import CHUNK_NOTIFICATION
from ocssd_tcp.ocssd.trace_format import read_trace
from ocssd_tcp.transport.aio import Server
from tests.support_target import READ, SMALL, Host, Target, pattern
from tests.support_time import FakeTimers

WHO = Who(pid=77, uid=1000)


class Drive:
    """A drive in memory, and its control."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = Target(folder / "drive", [SMALL, SMALL])
        namespaces = self.target.namespaces
        server = cast(Server, SimpleNamespace(connections=self.target.wires))
        self.dials = Dials(namespaces, FakeTimers())
        self.tracing = Tracing(self.target.directory.subsystem, None, 1 << 16, {})
        injectors = {namespace.nsid: FaultInjector(namespace.geometry) for namespace in namespaces}
        self.controls = Controls(server, self.target.directory, self.dials, self.tracing, injectors)
        self.commands = Commands(self.controls.verbs())

    async def ask(self, verb: Any, **args: Any) -> dict[str, Any]:
        """The answer to a request, as it is on the wire."""
        line = json.dumps({"verb": verb, "args": args}).encode()
        answer: dict[str, Any] = json.loads(json.dumps(await self.commands.answer(line, WHO)))
        return answer

    async def result(self, verb: str, **args: Any) -> Any:
        answer = await self.ask(verb, **args)
        assert answer["ok"], answer
        return answer["result"]

    @property
    def state(self) -> tuple[object, ...]:
        """What a refused request must leave alone."""
        namespaces = self.target.namespaces
        rules = [[armed.rule for armed in injector.rules] for injector in self.controls.injectors.values()]
        plain = [namespace.media is namespace.engine for namespace in namespaces]
        return self.dials.latency, list(self.dials.limits()), rules, plain, self.tracing.ring, self.target.chunks()


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    made = Drive(tmp_path)
    yield made
    made.tracing.stop()
    made.target.close()


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        (b"nonsense", "not JSON", '{"verb": "help"}'),
        (b"\xff\xfe", "not JSON", ""),
        (b"[" * 60000, "not JSON", ""),
        (b'{"verb": ' + b"9" * 5000 + b"}", "not JSON", ""),
        (b"[]", "not a JSON object", ""),
        (b"7", "not a JSON object", ""),
        (b"{}", "no such verb", "verbs: help, info"),
        (b'{"verb": 7}', "no such verb: 7", ""),
        (b'{"verb": {"a": 1}}', "no such verb: not a text", ""),
        (b'{"verb": "reboot"}', 'no such verb: "reboot"', "fault-list"),
        (b'{"verb": "help", "now": 1}', "no such key in a request: now", "verb, args, id"),
        (b'{"verb": "help", "args": [1]}', "args is not an object", ""),
        (b'{"verb": "help", "args": {"x": 1}}', "no such argument: x", "arguments: none"),
        (b'{"verb": "help", "id": []}', "id is neither", ""),
    ],
)
async def test_what_is_no_request_is_refused(drive: Drive, line: bytes, error: str, hint: str) -> None:
    answer = await drive.commands.answer(line, WHO)
    assert not answer["ok"]
    assert error in answer["error"]
    assert hint in answer.get("hint", "")


@pytest.mark.parametrize(
    ("verb", "args", "error", "hint"),
    [
        ("statistics", {"nsid": 9}, "nsid 9: no such namespace", "there are: 1, 2"),
        ("statistics", {"nsid": "1"}, 'nsid = "1"', "a whole number from 1"),
        ("statistics", {"nsid": True}, "nsid = true", "a whole number"),
        ("fault-add", {}, "kind is missing", "early-close"),
        ("fault-add", {"kind": "smoke"}, 'kind = "smoke"', '"read-error"'),
        ("fault-add", {"kind": "read-error", "nsid": 3}, "nsid 3", "there are"),
        ("fault-add", {"kind": "read-error", "pu": "5-3"}, "pu = ", 'a range ("0-3")'),
        ("fault-add", {"kind": "read-error", "pu": -1}, "pu = -1", '"*"'),
        ("fault-add", {"kind": "read-error", "pu": 2}, "pu = 2: the drive has 2", ""),
        ("fault-add", {"kind": "read-error", "probability": 1.5}, "probability = 1.5", "a number from 0 to 1"),
        ("fault-add", {"kind": "read-error", "probability": float("nan")}, "probability", ""),
        ("fault-add", {"kind": "read-error", "nth": 0}, "nth = 0", "from 1"),
        ("fault-add", {"kind": "read-error", "nth": 3, "probability": 0.5}, "probability and nth", "one of them"),
        ("fault-add", {"kind": "reset-fail", "blk": 3}, "blk", ""),
        ("fault-add", {"kind": "read-error", "each_block": True}, "no such argument: each_block", "arguments: kind"),
        ("fault-remove", {"number": 5}, "nsid 1 has no fault 5", "fault-list"),
        ("fault-remove", {}, "number is missing", ""),
        ("fault-clear", {"nsid": 5}, "nsid 5", ""),
        ("latency-set", {}, "no times are in force", "flash"),
        ("latency-set", {"read_ns": 5}, "no times are in force", "transfer_ns"),
        ("latency-set", {"flash": "plc"}, 'flash = "plc"', '"tlc"'),
        ("latency-set", {"flash": "tlc", "read_ns": -5}, "read_ns = -5", ""),
        ("latency-set", {"flash": "tlc", "jitter": "much"}, 'jitter = "much"', ""),
        ("limits-set", {"iops": "many"}, 'iops = "many"', ""),
        ("limits-set", {"nsid": 3, "iops": 1}, "nsid 3", ""),
        ("limits-set", {"bytes_per_second": "1 parsec"}, "bytes_per_second", "8KiB"),
        ("chunk-show", {"grp": 0, "pu": 0}, "chk is missing", ""),
        ("chunk-show", {"grp": 0, "pu": 2, "chk": 0}, "pu = 2: the drive has 2", "0 to 1"),
        ("chunk-set", {"grp": 0, "pu": 0, "chk": 0}, "state is missing", '"closed"'),
        ("chunk-set", {"grp": 0, "pu": 0, "chk": 0, "state": "odd"}, 'state = "odd"', '"offline"'),
        ("chunk-set", {"grp": 0, "pu": 0, "chk": 9, "state": "free"}, "chk = 9: the drive has 4", ""),
        ("chunk-set", {"grp": 0, "pu": 0, "chk": 0, "state": "open", "wp": 64}, "chunk 0: wp", ""),
        ("chunk-set", {"grp": 0, "pu": 0, "chk": 0, "state": "closed", "wp": 65}, "chunk 0: wp", ""),
        ("chunk-set", {"grp": 0, "pu": 0, "chk": 0, "state": "free", "wp": 4}, "chunk 0: wp", ""),
        ("trace-start", {}, "names no file", "give path"),
        ("trace-start", {"path": "here"}, 'path = "here"', "an absolute path"),
        ("trace-start", {"path": "/nowhere/t"}, "/nowhere/t: No such file", ""),
        ("trace-start", {"path": "/tmp/t", "size": 7}, "size = 7", ""),
        ("trace-stop", {}, "no trace is being written", "trace-start"),
        ("trace-rotate", {}, "no trace is being written", "trace-start"),
    ],
)
async def test_a_wrong_argument_is_refused_and_changes_nothing(
    drive: Drive, verb: str, args: dict[str, Any], error: str, hint: str
) -> None:
    before = drive.state
    with capture_logs() as logged:
        answer = await drive.ask(verb, **args)
    assert not answer["ok"]
    assert error in answer["error"]
    assert hint in answer.get("hint", "")
    assert drive.state == before
    assert "changed" not in [line["event"] for line in logged]


async def test_a_bug_is_one_answer_and_one_traceback(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_self: Controls) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Controls, "info", broken)
    commands = Commands(drive.controls.verbs())
    with capture_logs() as logged:
        answer = await commands.answer(b'{"verb": "info"}', WHO)
    assert "an internal error" in answer["error"]
    assert [line["log_level"] for line in logged] == ["error"]


# --- what is done ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("echo", ["a", 7, 0])
async def test_an_id_comes_back(drive: Drive, echo: object) -> None:
    for verb in ("info", "nonsense"):
        line = json.dumps({"verb": verb, "id": echo}).encode()
        assert (await drive.commands.answer(line, WHO))["id"] == echo


async def test_help_lists_every_verb_with_its_arguments(drive: Drive) -> None:
    listed = {entry["verb"]: entry for entry in await drive.result("help")}
    assert listed.keys() == drive.controls.verbs().keys()
    assert all(entry["does"].endswith(".") for entry in listed.values())
    assert "Allowed: " in listed["fault-add"]["arguments"]["kind"]
    assert "Default: 1." in listed["fault-add"]["arguments"]["nsid"]


async def test_info_tells_geometry_and_filters(drive: Drive) -> None:
    await drive.result("fault-add", kind="read-error", nsid=2)
    first, second = (await drive.result("info"))["namespaces"]
    assert (first["nsid"], first["filters"], second["filters"]) == (1, [], ["faults"])
    assert first["geometry"]["clba"] == SMALL.clba


async def test_faults_come_and_go_while_hosts_use_the_drive(drive: Drive) -> None:
    host = drive.target.host()
    assert host.write(0, pattern(8 * 512)) == 0
    added = await drive.result("fault-add", kind="read-error", pu=0, chk="0-1", blk=2)
    assert added == {
        "nsid": 1, "number": 1, "kind": "read-error", "grp": "*", "pu": "0", "chk": "0-1", "blk": "2",
        "probability": 1.0, "seed": 0,
    }  # fmt: skip
    assert host.command(READ, slba=0, cdw12=3, sgl_length=2048)[-1].status & 0x7FF == 0x281
    assert host.read(4, 4)
    assert await drive.result("fault-list") == [added | {"matches": 1, "hits": 1}]
    assert await drive.result("fault-list", nsid=2) == []
    await drive.result("fault-add", kind="high-ecc", nsid=2, nth=5)
    assert await drive.result("fault-remove", number=1) == {"removed": 1}
    assert host.read(0, 4)
    assert [namespace.media is namespace.engine for namespace in drive.target.namespaces] == [True, False]
    assert await drive.result("fault-clear") == {"removed": 1}
    assert all(namespace.media is namespace.engine for namespace in drive.target.namespaces)


async def test_latency_is_set_in_whole_and_in_part(drive: Drive) -> None:
    assert await drive.result("latency-show") == {"on": False}
    shown = await drive.result("latency-set", flash="tlc", jitter=0.25)
    assert shown == {
        "on": True, "read_ns": 77500, "program_ns": 2225000, "erase_ns": 3000000, "transfer_ns": 52433, "jitter": 0.25,
        "seed": 1,
    }  # fmt: skip
    assert await drive.result("latency-set", read_ns=5, seed=9) == shown | {"read_ns": 5, "seed": 9}
    slc = await drive.result("latency-set", flash="slc")
    assert (slc["read_ns"], slc["jitter"], slc["seed"]) == (FLASH["slc"].read_ns, 0.25, 9)
    assert await drive.result("latency-show") == slc
    assert await drive.result("latency-off") == {"on": False}
    times = {"read_ns": 1, "program_ns": 2, "erase_ns": 3, "transfer_ns": 4}
    assert await drive.result("latency-set", **times) == {"on": True, **times, "jitter": 0.0, "seed": 1}


async def test_limits_are_set_for_the_drive_and_for_namespaces(drive: Drive) -> None:
    drive_limit = {"nsid": 0, "iops": 1000, "bytes_per_second": 0}
    own = {"nsid": 2, "iops": 0, "bytes_per_second": 8192}
    assert await drive.result("limits-set", iops=1000) == [drive_limit]
    assert await drive.result("limits-set", nsid=2, bytes_per_second="8KiB") == [drive_limit, own]
    assert await drive.result("limits-set", bytes_per_second=5) == [drive_limit | {"bytes_per_second": 5}, own]
    await drive.result("limits-set", iops=0, bytes_per_second=0)
    assert await drive.result("limits-show") == [own]


async def test_a_chunk_is_shown_as_the_log_has_it(drive: Drive) -> None:
    assert drive.target.host().write(256, pattern(4 * 512)) == 0
    assert await drive.result("chunk-show", grp=0, pu=1, chk=0) == {
        "nsid": 1, "grp": 0, "pu": 1, "chk": 0, "slba": 256, "state": "open", "type": "sequential", "wli": 0,
        "cnlb": 64, "wp": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "wp"),
    [
        ({"state": "closed"}, 64),
        ({"state": "closed", "wp": 8}, 8),
        ({"state": "open"}, SMALL.ws_min),
        ({"state": "open", "wp": 60}, 60),
        ({"state": "offline"}, None),
        ({"state": "free"}, 0),
    ],
)
async def test_a_chunk_is_put_into_a_state(drive: Drive, asked: dict[str, Any], wp: int | None) -> None:
    shown = await drive.result("chunk-set", nsid=2, grp=0, pu=1, chk=3, **asked)
    assert (shown["state"], shown["wp"]) == (asked["state"], wp)
    assert shown == await drive.result("chunk-show", nsid=2, grp=0, pu=1, chk=3)
    others = [state for at, state in enumerate(drive.target.chunks(2)) if at != 7]
    assert others == [(1, 0)] * 7
    assert drive.target.chunks(1) == [(1, 0)] * 8


@pytest.mark.parametrize(
    ("state", "bits"), [("refreshed", 1 << 4), ("error-rate-high", 1 << 2), ("wear-index", 1 << 8)]
)
async def test_a_notification_is_raised_by_hand(drive: Drive, state: str, bits: int) -> None:
    raised = await drive.result("chunk-notify", nsid=2, grp=0, pu=1, chk=3, state=state)
    assert raised == {"nsid": 2, "nc": 1, "state": state}
    entry = CHUNK_NOTIFICATION.unpack_from(drive.target.directory.subsystem.notifications.page(2))
    lba = drive.target.namespaces[1].addresses.join(0, 1, 3)
    assert (entry["nc"], entry["lba"], entry["nsid"], entry["state"], entry["mask"]) == (1, lba, 2, bits, 2)


async def test_hosts_meet_a_chunk_that_was_put_into_a_state(drive: Drive) -> None:
    host = drive.target.host()
    await drive.result("chunk-set", grp=0, pu=0, chk=0, state="offline")
    assert host.write(0, pattern(4 * 512)) != 0
    await drive.result("chunk-set", grp=0, pu=0, chk=0, state="free")
    assert host.write(0, pattern(4 * 512)) == 0


async def test_statistics_count_commands_chunks_controllers_and_connections(drive: Drive) -> None:
    host = drive.target.host()
    assert host.write(0, pattern(4 * 512)) == 0
    assert host.status(0x6A) & 0x7FF == 1
    shown = await drive.result("statistics")
    first, second = shown["namespaces"]
    assert (first["writes"], first["blocks_written"], second["writes"]) == (1, 4, 0)
    assert first["commands"] == [{"command": "6ah", "status": first["commands"][0]["status"], "count": 1}]
    assert first["pus"][0] == {"grp": 0, "pu": 0, "free": 3, "closed": 0, "open": 1, "offline": 0, "resets": 0}
    assert [entry["hostnqn"] for entry in shown["controllers"]] == [host.hostnqn]
    assert sorted(entry["qid"] for entry in shown["connections"]) == [0, 1]
    assert [entry["nsid"] for entry in (await drive.result("statistics", nsid=2))["namespaces"]] == [2]


async def test_a_trace_begins_turns_over_and_ends(drive: Drive) -> None:
    host, path = drive.target.host(), drive.folder / "t"

    def use() -> None:
        assert host.write(drive.target.chunks()[0][1], pattern(4 * 512)) == 0

    assert await drive.result("trace-show") == {"on": False}
    begun = await drive.result("trace-start", path=str(path), size="64KiB")
    assert begun == {"on": True, "path": str(path), "commands": 0, "room": 1024}
    use()
    assert (await drive.result("trace-show"))["commands"] == 1
    assert (await drive.result("trace-rotate"))["commands"] == 0
    assert len(read_trace(drive.folder / "t.old").records) == 1
    use()
    assert await drive.result("trace-stop") == {"on": False}
    use()
    assert len(read_trace(path).records) == 1
    assert (await drive.result("trace-start"))["path"] == str(path)


async def test_a_trace_that_cannot_begin_leaves_the_one_before(drive: Drive) -> None:
    await drive.result("trace-start", path=str(drive.folder / "t"))
    ring = drive.tracing.ring
    assert not (await drive.ask("trace-start", path=str(drive.folder / "missing" / "t")))["ok"]
    assert drive.tracing.ring is ring
    assert drive.tracing.path == drive.folder / "t"


async def test_every_change_is_logged_with_who_made_it(drive: Drive) -> None:
    limiter = RateLimiter(burst=2)
    lines: list[dict[str, Any]] = []
    structlog.configure(processors=[limiter, lambda _logger, _name, line: lines.append(dict(line)) or ""])
    try:
        for iops in range(20):
            await drive.result("limits-set", iops=iops)
        await drive.result("limits-show")
    finally:
        structlog.reset_defaults()
    changes = [line for line in lines if line["event"] == "changed"]
    assert [line["args"] for line in changes] == [{"iops": iops} for iops in range(20)]
    assert {(line["verb"], line["operator"], line["pid"]) for line in changes} == {("limits-set", 1000, 77)}


# --- the socket -----------------------------------------------------------------------------------------


@pytest.fixture
async def path(drive: Drive) -> AsyncIterator[Path]:
    """Where a server listens."""
    server = ControlServer(drive.commands)
    await server.start(drive.folder / "c")
    yield drive.folder / "c"
    await server.stop()
    assert not (drive.folder / "c").exists()


async def talk(path: Path, sent: bytes) -> list[dict[str, Any]]:
    """Send bytes, then nothing more; every answer."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(sent)
        writer.write_eof()
        return [json.loads(line) async for line in reader]
    finally:
        writer.close()


async def test_the_socket_is_for_its_owner_only(path: Path) -> None:
    assert os.lstat(path).st_mode & 0o777 == 0o600


async def test_lines_are_answered_in_order_over_the_socket(path: Path) -> None:
    lines = [{"verb": "limits-set", "args": {"iops": 5}, "id": 1}, {"verb": "x", "id": 2}, {"verb": "limits-show"}]
    sent = b"\n".join(json.dumps(line).encode() for line in lines)
    first, second, third = await talk(path, b"\n \n" + sent)
    assert (first["id"], first["ok"], second["id"], second["ok"]) == (1, True, 2, False)
    assert third["result"] == first["result"]


async def test_the_kernel_says_who_changed_something(path: Path) -> None:
    with capture_logs() as logged:
        await talk(path, b'{"verb": "latency-off"}\n')
    [line] = [line for line in logged if line["event"] == "changed"]
    assert (line["operator"], line["pid"]) == (os.getuid(), os.getpid())


@pytest.mark.parametrize("sent", [b"x" * (LINE_BYTES + 1), b"x" * (4 * LINE_BYTES) + b"\n"])
async def test_a_request_without_end_is_refused(path: Path, sent: bytes) -> None:
    [answer] = await talk(path, sent)
    assert str(LINE_BYTES) in answer["error"]


async def test_connections_are_bounded(path: Path) -> None:
    held = [await asyncio.open_unix_connection(str(path)) for _ in range(MAX_CONNECTIONS)]
    for reader, writer in held:
        writer.write(b'{"verb": "trace-show"}\n')
        await reader.readline()
    [answer] = await talk(path, b"")
    assert "too many connections" in answer["error"]
    for _, writer in held:
        writer.close()


async def test_peers_that_leave_at_once_do_no_harm(path: Path) -> None:
    for sent in (b"", b'{"verb": "statistics"}\n' * 50):
        _, writer = await asyncio.open_unix_connection(str(path))
        writer.write(sent)
        writer.transport.abort()
    [answer] = await talk(path, b'{"verb": "trace-show"}\n')
    assert answer["ok"]


async def test_the_socket_of_a_killed_daemon_is_taken_over(drive: Drive) -> None:
    path = drive.folder / "c"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    server = ControlServer(drive.commands)
    await server.start(path)
    assert (await talk(path, b'{"verb": "trace-show"}'))[0]["ok"]
    await server.stop()


async def test_the_socket_of_a_living_daemon_is_left_alone(drive: Drive, path: Path) -> None:
    with pytest.raises(OSError, match="another daemon answers there") as caught:
        await ControlServer(drive.commands).start(path)
    assert caught.value.filename == str(path)
    assert (await talk(path, b'{"verb": "trace-show"}'))[0]["ok"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_text("mine"), "no socket; it is left alone"),
        (lambda path: path.mkdir(), "no socket; it is left alone"),
        (lambda path: path.parent.rmdir(), "No such file"),
    ],
)
async def test_a_path_that_cannot_be_listened_on_is_named(drive: Drive, make: Any, why: str) -> None:
    folder = drive.folder / "sub"
    folder.mkdir()
    make(folder / "c")
    before = list(drive.folder.rglob("*"))
    with pytest.raises(OSError, match=why) as caught:
        await ControlServer(drive.commands).start(folder / "c")
    assert caught.value.filename == str(folder / "c")
    assert list(drive.folder.rglob("*")) == before


async def test_the_end_spares_the_socket_of_a_daemon_that_came_after(drive: Drive) -> None:
    path = drive.folder / "c"
    old, new = ControlServer(drive.commands), ControlServer(drive.commands)
    await old.start(path)
    path.rename(drive.folder / "gone")
    await new.start(path)
    await old.stop()
    assert (await talk(path, b'{"verb": "trace-show"}'))[0]["ok"]
    await new.stop()
    await new.stop()


async def test_the_end_does_not_wait_for_idle_peers(drive: Drive) -> None:
    server = ControlServer(drive.commands)
    await server.start(drive.folder / "c")
    reader, writer = await asyncio.open_unix_connection(str(drive.folder / "c"))
    writer.write(b'{"verb": "trace-show"}\n')
    await reader.readline()
    await asyncio.wait_for(server.stop(), 5)
    assert await reader.read() == b""
    writer.close()


def test_a_host_is_not_an_operator(drive: Drive) -> None:
    """Nothing of the control is reachable by NVMe: the drive answers as one without it."""
    host: Host = drive.target.host()
    assert host.status(0xC0, qid=0) & 0x7FF == 1
