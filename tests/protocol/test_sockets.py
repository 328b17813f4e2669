"""The daemon as a process, on real sockets: hosts that are slow, silent, cut off or hostile, and its own end."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop

from ocssd_tcp.config.values import Address
from ocssd_tcp.host.sync import SyncDrive, connect
from ocssd_tcp.transport import aio
from ocssd_tcp.transport.aio import Server, SocketOptions
from ocssd_tcp.transport.connection import ICREQ_SECONDS, TargetConnection
from tests.support_target import (
    C2H_TERM,
    CAPSULE_RESP,
    NQN,
    READ,
    WRITE,
    Host,
    Target,
    capsule,
    decode,
    icreq,
    pattern,
    pdu,
)

SECONDS = 20.0  #: for anything that is to happen at once, on a busy machine
BUSY = 3.0  #: what a busy machine may add
MIB = 1 << 20
OPTIONS = [
    f"target.nqn={NQN}", "drive.path=drive", "namespace.num_grp=1", "namespace.num_pu=2",
    "namespace.num_chk=4", "namespace.clba=512", "namespace.mw_cunits=0",
]  # fmt: skip


class Daemon:
    """A daemon in a folder of its own. `stop` and `kill` end it; it can be started again."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = (*OPTIONS, *options)
        self.port = 0
        self.start()

    def start(self) -> None:
        """Start it, on the port it had before if it had one; return when it accepts hosts."""
        listen = f"target.listen=['127.0.0.1:{self.port}']"
        command = [sys.executable, "-m", "ocssd_tcp", *(f"--set={option}" for option in (*self.options, listen))]
        self.log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=self.log)
        assert self.process.stdout is not None
        found = re.search(rb"listening on [\d.]+:(\d+)", self.process.stdout.readline())
        assert found, (self.folder / "log").read_text()
        self.port = int(found[1])
        self.n_idle = self.n_descriptors()

    def stop(self) -> float:
        """SIGTERM; the seconds until it has ended, which must be in order."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SECONDS) == 0
        assert "Traceback" not in (self.folder / "log").read_text()
        return time.monotonic() - begin

    def kill(self) -> None:
        """SIGKILL, as by an operator without patience."""
        self.process.kill()
        self.process.communicate()
        self.log.close()

    def drive(self) -> SyncDrive:
        """A host of good will."""
        return connect(port=self.port)

    def settle(self) -> None:
        """Wait until it has let all connections go."""
        until(lambda: self.n_descriptors() <= self.n_idle)

    def memory(self) -> int:
        """RssAnon, bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    def n_descriptors(self) -> int:
        """Open files and sockets of the process."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the tests that leave it as it was."""
    made = Daemon(tmp_path_factory.mktemp("shared"))
    yield made
    made.stop()
    made.kill()


def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that is to happen at once."""
    end = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


def on_a_loop(doing: Coroutine[Any, Any, None]) -> None:
    """Run a server within the test, on the event loop of the daemon."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(doing)


async def until_async(is_so: Callable[[], bool], seconds: float = SECONDS) -> None:
    """As `until`, on an event loop."""
    end = asyncio.get_running_loop().time() + seconds
    while not is_so():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.005)


def raw(daemon: Daemon, *, receive_bytes: int = 0) -> socket.socket:
    """A connection to send anything on."""
    sock = socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.settimeout(SECONDS)
    sock.connect(("127.0.0.1", daemon.port))
    return sock


def receive(sock: socket.socket, n_bytes: int) -> bytes:
    """Exactly so many bytes."""
    found = bytearray()
    while len(found) < n_bytes:
        part = sock.recv(min(n_bytes - len(found), 65536))
        assert part
        found += part
    return bytes(found)


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send a capsule; its CapsuleResp."""
    sock.sendall(data)
    return receive(sock, 24)


class RawHost:
    """An admin and an I/O queue on raw sockets."""

    def __init__(self, daemon: Daemon, **socket_options: int) -> None:
        self.pdus = Host(cast(Target, None))
        self.admin = raw(daemon)
        self.io = raw(daemon, **socket_options)
        for qid, sock in enumerate((self.admin, self.io)):
            sock.sendall(icreq())
            receive(sock, 128)
            (answer,) = decode(exchange(sock, self.pdus.connect_pdu(qid)))
            assert answer.status == 0
            if qid == 0:
                self.pdus.cntlid = answer.dw0
                exchange(sock, self.pdus.fabrics_pdu(0x00, 0x14, 0x00460001))

    def close(self) -> None:
        """Go away."""
        self.admin.close()
        self.io.close()


def chunk_of(drive: SyncDrive, chunk: int) -> int:
    """The first LBA of a flat chunk."""
    return drive.addresses.lba(chunk)


# --- hosts ----------------------------------------------------------------------------------------------------


def test_slow_reader_gets_everything_and_holds_up_nobody(daemon: Daemon) -> None:
    """Conformance 37: the window of one host is closed; memory stays, others are served, and nothing is lost."""
    with daemon.drive() as drive:
        content = pattern(128 * 4096)
        drive.write(chunk_of(drive, 0), content)
        slow = RawHost(daemon, receive_bytes=4096)
        before = daemon.memory()
        fields = {"nsid": 1, "slba": 0, "cdw12": 127, "sgl_length": len(content)}
        slow.io.sendall(b"".join(capsule(READ, cid, **fields) for cid in range(64)))
        for _ in range(20):
            assert drive.read(chunk_of(drive, 0), 4) == content[: 4 * 4096]
        assert daemon.memory() - before < 4 * MIB  # of 32 MiB that were asked for
        for cid in range(64):
            header = receive(slow.io, 24)
            assert struct.unpack_from("<H", header, 8) == (cid,)
            assert receive(slow.io, len(content)) == content
            (response,) = decode(receive(slow.io, 24))
            assert (response.cid, response.status) == (cid, 0)
        slow.close()
        drive.reset(chunk_of(drive, 0))


def test_a_capsule_larger_than_one_receive_arrives(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, f"target.in_capsule_bytes={264 << 10}")
    content = pattern(256 << 10, 3)
    host = RawHost(daemon)
    host.io.sendall(capsule(WRITE, 1, content, nsid=1, slba=0, cdw12=63))
    (written,) = decode(receive(host.io, 24))
    host.io.sendall(capsule(READ, 2, nsid=1, slba=0, cdw12=63, sgl_length=len(content)))
    data, _ = decode(receive(host.io, 24 + len(content) + 24))
    assert (written.cid, written.status, data.data) == (1, 0, content)
    host.close()
    daemon.stop()
    daemon.kill()


def test_300_silent_sockets_do_not_hold_up_a_host(daemon: Daemon) -> None:
    """Conformance 38."""
    daemon.settle()
    silent = [raw(daemon) for _ in range(300)]
    until(lambda: daemon.n_descriptors() >= daemon.n_idle + 300)
    with daemon.drive() as drive:
        drive.write(chunk_of(drive, 1), pattern(8 * 4096))
        assert drive.read(chunk_of(drive, 1), 8) == pattern(8 * 4096)
        drive.reset(chunk_of(drive, 1))
    for sock in silent:
        sock.close()
    daemon.settle()


@pytest.mark.parametrize("n_sent", [0, 1, 127, 128, 700])
def test_half_closed_connection_is_closed(daemon: Daemon, n_sent: int) -> None:
    """Conformance 39."""
    sock = raw(daemon)
    sock.sendall((icreq() + Host(cast(Target, None)).connect_pdu(0))[:n_sent])
    sock.shutdown(socket.SHUT_WR)
    if n_sent >= 128:
        receive(sock, 128)
    assert sock.recv(1) == b""
    sock.close()


def test_broken_pdu_gets_its_term_req_then_the_end(daemon: Daemon) -> None:
    """Conformance 19: half-closed by the target, and closed once the host closes."""
    host = RawHost(daemon)
    host.io.sendall(pdu(0x0B, bytes(16)) + bytes(100_000))
    (term,) = decode(receive(host.io, 24 + 128))
    assert (term.kind, term.fes, term.fei) == (C2H_TERM, 1, 0)
    assert host.io.recv(1) == b""
    assert exchange(host.admin, capsule(0x18, 9))[0] == CAPSULE_RESP  # the controller lives on
    host.close()
    daemon.settle()


def test_connections_cut_anywhere_leave_nothing_behind(daemon: Daemon) -> None:
    """The daemon is what it was. (In memory they are cut at every byte; resets have a test of their own.)"""
    host = Host(cast(Target, None))
    connected = host.connect_pdu(0)
    enable, identify = host.fabrics_pdu(0x00, 0x14, 0x00460001), capsule(0x06, 9, cdw10=1, sgl_length=4096)
    session = icreq() + connected + enable + identify
    with daemon.drive() as drive:
        for end in range(1, len(session) + 1, 7):
            sock = raw(daemon)
            sock.sendall(session[:end])
            sock.close()
        drive.write(chunk_of(drive, 2), pattern(8 * 4096))
        assert drive.read(chunk_of(drive, 2), 8) == pattern(8 * 4096)
        drive.reset(chunk_of(drive, 2))
    daemon.settle()
    assert "Traceback" not in (daemon.folder / "log").read_text()


def test_many_hosts_that_come_and_go_cost_nothing(daemon: Daemon) -> None:
    """Conformance 57."""
    before = daemon.memory()
    for _ in range(100):
        RawHost(daemon).close()
    daemon.settle()
    assert daemon.memory() - before < 4 * MIB


def test_reset_behind_unread_bytes_ends_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop tells of it once, while there is still something to read, and never again."""
    monkeypatch.setattr(aio, "SWEEP_SECONDS", 0.02)
    target = Target(tmp_path / "drive")

    async def run() -> None:
        server = Server(SocketOptions(8192))
        (address,) = server.listen([Address("127.0.0.1", 0)])
        server.start(target.directory)
        with socket.create_connection((address.host, address.port)) as sock:
            sock.sendall(icreq()[:100])
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until_async(lambda: server.n_accepted > 0 and not server.connections, ICREQ_SECONDS / 2)
        await server.stop(0.1)

    on_a_loop(run())
    target.close()


@pytest.mark.parametrize(
    ("of_listener", "option", "expected"),
    [("bbr", "", "reno"), ("reno", "", "reno"), ("reno", "bbr", "bbr"), ("cubic", "", "cubic")],
)
def test_a_connection_of_the_machine_to_itself_is_not_paced_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_listener: str, option: str, expected: str
) -> None:
    if not aio.may_use(of_listener) or not aio.may_use(expected):
        pytest.skip(f"this kernel lets us have no {of_listener} or no {expected}")
    target = Target(tmp_path / "drive")
    found: list[bytes] = []

    class Peer(aio.Peer):
        def __init__(self, server: Server, sock: socket.socket, connection: TargetConnection) -> None:
            found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16))
            super().__init__(server, sock, connection)

    monkeypatch.setattr(aio, "Peer", Peer)

    async def run() -> None:
        server = Server(SocketOptions(8192, congestion=option))
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, of_listener.encode())
        address = server.adopt(listener, Address)
        server.start(target.directory)
        with socket.create_connection((address.host, address.port)):
            await until_async(lambda: bool(found))
        await server.stop(0.1)

    on_a_loop(run())
    target.close()
    assert [name.rstrip(b"\0").decode() for name in found] == [expected]


@pytest.mark.parametrize(
    ("host", "own", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.2", "127.0.0.1", True),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("::1", "::1", True),
        ("fe80::1%eth0", "fe80::1%eth0", True),
        ("fe80::1%eth0", "fe80::2%eth0", False),
    ],
)
def test_who_is_on_the_same_machine(host: str, own: str, expected: bool) -> None:
    assert aio._is_local(host, own) is expected


# --- the end ----------------------------------------------------------------------------------------------------


def test_sigterm_ends_the_daemon_within_a_second_whoever_is_connected(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    drive, stuck, silent = daemon.drive(), RawHost(daemon, receive_bytes=4096), raw(daemon)
    try:
        drive.write(chunk_of(drive, 0), pattern(128 * 4096))
        fields = {"nsid": 1, "slba": 0, "cdw12": 127, "sgl_length": 128 * 4096}
        stuck.io.sendall(b"".join(capsule(READ, cid, **fields) for cid in range(64)))
        assert daemon.stop() < 1.0 + BUSY
    finally:
        daemon.kill()
        drive.close()
        stuck.close()
        silent.close()


def test_killed_daemon_has_what_it_acknowledged_when_it_is_started_again(tmp_path: Path) -> None:
    """Conformance 97 and 104: kill -9 under writes; what was answered is there, and wp claims nothing else."""
    daemon = Daemon(tmp_path)
    content = pattern(288 * 4096)
    with daemon.drive() as drive:
        first = chunk_of(drive, 1)
        for lblk in range(0, 256, 32):
            drive.write(first + lblk, content[lblk * 4096 : (lblk + 32) * 4096])
        daemon.kill()
    daemon.start()
    try:
        with daemon.drive() as drive:
            chunk = drive.chunk(first)
            assert chunk.wp == 256
            assert drive.read(first, 256) == content[: 256 * 4096]
            drive.write(first + 256, content[256 * 4096 : 288 * 4096])
            assert drive.read(first + 256, 32) == content[256 * 4096 : 288 * 4096]
        daemon.stop()
    finally:
        daemon.kill()
