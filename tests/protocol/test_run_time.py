"""A daemon that is looked at and changed while it runs, from its configuration to its end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ocssd_tcp.host import Status, StatusError, connect
from ocssd_tcp.ocssd.trace_format import read_trace
from ocssd_tcp.wire.layouts import SMART_LOG
from ocssd_tcp.wire.opcodes import LogPage

SECONDS = 20.0
CONFIG = """
[target]
listen = ["127.0.0.1:0"]
[drive]
path = "drive"
[[namespace]]
num_grp = 1
num_pu = 2
num_chk = 4
clba = 64
mw_cunits = 0
[control]
socket = "control"
[trace]
path = "drive.trace"
size = "64KiB"
"""


def start(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A daemon, and the port it listens on."""
    (folder / "drive.toml").write_text(CONFIG)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ocssd_tcp", "--config", "drive.toml"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    found = re.search(r"listening on [\d.]+:(\d+)", line)
    assert found, (folder / "log").read_text()
    return process, int(found[1])


def end(process: subprocess.Popen[bytes], number: int) -> int:
    process.send_signal(number)
    process.communicate(timeout=SECONDS)
    return process.returncode


def ask(folder: Path, verb: str, **args: Any) -> Any:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SECONDS)
        sock.connect(str(folder / "control"))
        sock.sendall(json.dumps({"verb": verb, "args": args}).encode() + b"\n")
        answer = json.loads(sock.makefile("rb").readline())
    assert answer["ok"], answer
    return answer["result"]


def test_a_running_drive_is_changed_watched_and_traced(tmp_path: Path) -> None:
    process, port = start(tmp_path)
    try:
        with connect(port=port) as drive:
            drive.write(0, bytes(4 * drive.block_bytes))
            ask(tmp_path, "fault-add", kind="read-error", pu=0, chk=0, blk=1)
            with pytest.raises(StatusError) as caught:
                drive.read(0, 4)
            assert caught.value.status & 0x7FF == Status.UNRECOVERED_READ_ERROR
            ask(tmp_path, "fault-clear")
            assert drive.read(0, 4) == bytes(4 * drive.block_bytes)
            ask(tmp_path, "latency-set", flash="slc")
            assert drive.read(0, 4) == bytes(4 * drive.block_bytes)
            assert ask(tmp_path, "info")["namespaces"][0]["filters"] == ["latency"]
            assert len(ask(tmp_path, "statistics")["controllers"]) == 1
            assert ask(tmp_path, "trace-show")["commands"] > 5
    finally:
        status = end(process, signal.SIGTERM)
    assert status == 0
    assert not (tmp_path / "control").exists()
    records = read_trace(tmp_path / "drive.trace").records
    io = records[(records["qid"] > 0) & (records["lba"] == 0) & (records["opcode"] != 0x7F)]
    assert [(int(row["opcode"]), int(row["status"])) for row in io] == [(1, 0), (2, 0x281), (2, 0), (2, 0)]
    assert io["completion"][-1] - io["start"][-1] >= 40_000  # an SLC page takes its time
    log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["verb"] for line in log if line["event"] == "changed"] == ["fault-add", "fault-clear", "latency-set"]


def test_a_killed_daemon_leaves_a_trace_and_a_socket_that_the_next_one_takes(tmp_path: Path) -> None:
    process, port = start(tmp_path)
    with connect(port=port) as drive:
        drive.write(0, bytes(4 * drive.block_bytes))
        end(process, signal.SIGKILL)
    assert (tmp_path / "control").exists()
    assert 1 in read_trace(tmp_path / "drive.trace").records["opcode"]
    process, _ = start(tmp_path)
    assert ask(tmp_path, "trace-show")["commands"] == 0
    assert end(process, signal.SIGTERM) == 0
    assert 1 in read_trace(tmp_path / "drive.trace.old").records["opcode"]


SMART_COUNTS = ("power_cycles", "unsafe_shutdowns", "data_units_written", "host_writes", "host_reads")


def life(folder: Path, number: int, *, n_writes: int = 0) -> list[int]:
    """Start the daemon, read what SMART counts, let a host write and read, and end the daemon by a signal."""
    process, port = start(folder)
    try:
        with connect(port=port) as drive:
            page = SMART_LOG.unpack_from(drive.run(drive.drive.controller.get_log(LogPage.SMART, SMART_LOG.size)))
            for lblk in range(0, 4 * n_writes, 4):
                drive.write(lblk, bytes(4 * drive.block_bytes))
                drive.read(lblk, 2)
    finally:
        end(process, number)
    return [int.from_bytes(page[name], "little") for name in SMART_COUNTS]


def test_what_smart_counts_outlives_the_daemon(tmp_path: Path) -> None:
    assert life(tmp_path, signal.SIGTERM, n_writes=3) == [1, 0, 0, 0, 0]
    assert life(tmp_path, signal.SIGTERM) == [2, 0, 1, 3, 3]
    assert life(tmp_path, signal.SIGKILL) == [3, 0, 1, 3, 3]
    assert life(tmp_path, signal.SIGKILL) == [4, 1, 1, 3, 3]
    assert life(tmp_path, signal.SIGTERM) == [5, 2, 1, 3, 3]
    assert life(tmp_path, signal.SIGTERM) == [6, 2, 1, 3, 3]


@pytest.mark.parametrize("leave", [b"", b"no more"])
def test_a_drive_with_a_damaged_life_opens_and_counts_anew(tmp_path: Path, leave: bytes) -> None:
    life(tmp_path, signal.SIGTERM, n_writes=1)
    file = tmp_path / "drive" / "life"
    file.write_bytes(leave)
    assert life(tmp_path, signal.SIGTERM) == [1, 0, 0, 0, 0]
    assert life(tmp_path, signal.SIGTERM) == [2, 0, 0, 0, 0]
    log = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    why = [line["why"] for line in log if line["event"] == "counters begin anew"]
    assert why == [f"{file}: is damaged: {len(leave)} bytes"]
