"""The compiled engine over a socket, whole events and sends cut short by the kernel, against the complete engine."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import socket
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from ocssd_tcp import accel
from ocssd_tcp.transport.batch import Outcome
from ocssd_tcp.transport.connection import Phase
from tests.fuzz.load import Load, Queue
from tests.support_target import READ, WRITE, Target, Wire, capsule, complete_engine_only, decode, h2c, pattern

N_STEPS = 30
_writev = ctypes.CDLL(None, use_errno=True).writev
_writev.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_writev.restype = ctypes.c_ssize_t


class SocketWire(Wire):
    """A wire whose I/O queue is served by the compiled engine's reader. The socket takes only little at once.

    `n_events`: calls of the reader; `n_left`: those that left something to do.
    """

    n_events = 0
    n_left = 0

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._socket, self._host = socket.socketpair()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for end in (self._socket, self._host):
            end.setblocking(False)
        self._reader: Callable[[], None] | None = None

    def _receive(self) -> None:
        if self._reader is None:
            self._reader = self.connection.reader(self._socket.fileno(), lambda: self.target.now, self._served)
        if self._reader is None:
            super()._receive()
            return
        while self._inbox and not self.closed:
            del self._inbox[: self._host.send(self._inbox)]
            while not self.closed and self._arrived(self._socket):
                SocketWire.n_events += 1
                self._reader()
                if not self.closed:
                    self._collect()

    @staticmethod
    def _arrived(end: socket.socket) -> int:
        n_bytes = array.array("i", [0])
        fcntl.ioctl(end, termios.FIONREAD, n_bytes)
        return n_bytes[0]

    def _collect(self) -> None:
        while n_bytes := self._arrived(self._host):
            self.output += self._host.recv(n_bytes)

    def _served(self, outcome: int) -> None:
        SocketWire.n_left += 1
        if outcome == Outcome.ELSEWHERE:
            n_bytes = self._socket.recv_into(self.connection.buffer())
            self.connection.received(n_bytes, self.target.now)
        else:
            assert outcome == Outcome.QUEUED
        self._flush()

    def _flush(self) -> None:
        while not self.connection.tx.send(lambda at, count: int(_writev(self._socket.fileno(), at, count))):
            self._collect()
        self._collect()
        super()._flush()

    def finish(self) -> None:
        super().finish()
        self._socket.close()
        self._host.close()


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(accel.VARIABLE, "auto")
    if accel.engine_name() != "compiled":
        pytest.skip("the compiled engine is not built")


@pytest.fixture
def over_sockets(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(Target, "wire", lambda target: SocketWire(target))
    return monkeypatch


def outcome(seed: int, path: Path, faults: float) -> dict[str, object]:
    load = Load(seed, path, faults=faults)
    found = load.run(N_STEPS)
    load.target.close()
    return found


@pytest.mark.parametrize("faults", [0.01, 0.2])
@pytest.mark.parametrize("seed", range(100, 108))
def test_events_and_short_sends_give_the_same_bytes(
    tmp_path: Path, over_sockets: pytest.MonkeyPatch, seed: int, faults: float
) -> None:
    over_sockets.setattr(Queue, "_takes", lambda _queue: 1 << 30)  # here it is the kernel that stops
    fast = outcome(seed, tmp_path / "fast", faults)
    over_sockets.undo()
    over_sockets.setattr(Queue, "_takes", lambda _queue: 1 << 30)
    with complete_engine_only():
        complete = outcome(seed, tmp_path / "complete", faults)
    assert fast == complete


def test_an_event_of_plain_commands_leaves_nothing_to_do(tmp_path: Path, over_sockets: pytest.MonkeyPatch) -> None:
    target = Target(tmp_path)
    host = target.host()
    wire = host.io
    assert host.write(0, pattern(4096, 1)) == 0
    SocketWire.n_events = SocketWire.n_left = 0
    wire.feed(capsule(READ, 1, nsid=1, slba=3, cdw12=0, sgl_length=512))
    wire.feed(capsule(WRITE, 2, nsid=1, slba=8, cdw12=7, sgl_length=4096))
    data, r2t = [answer for answer in wire.take() if answer.data or answer.length == 4096]
    assert data.data == pattern(4096, 1)[3 * 512 : 4 * 512]
    wire.feed(h2c(2, r2t.ttag, 0, pattern(4096, 2)))
    assert [answer.status for answer in wire.take()] == [0]
    assert host.read(8, 8) == pattern(4096, 2)
    assert (SocketWire.n_events, SocketWire.n_left) == (4, 0)
    target.close()


def test_data_is_received_where_it_belongs(tmp_path: Path, over_sockets: pytest.MonkeyPatch) -> None:
    target = Target(tmp_path)
    host = target.host(dgst=3)
    wire = host.io
    content = pattern(64 * 512, 5)
    wire.feed(capsule(WRITE, 2, dgst=3, nsid=1, slba=0, cdw12=63, sgl_length=len(content)))
    (r2t,) = wire.take(3)
    stream = h2c(2, r2t.ttag, 0, content, dgst=3)
    wire.feed(stream[:-3], [60, 1, 700, 5000, 1])  # the last of them ends within the digest
    assert not wire.output
    wire.feed(stream[-3:], [1, 1])
    assert [answer.status for answer in wire.take(3)] == [0]
    assert host.read(0, 64) == content
    target.close()


def test_a_socket_that_is_reset_is_an_error_of_the_reader(tmp_path: Path) -> None:
    target = Target(tmp_path)
    host = target.host()
    listener = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listener.getsockname())
    ours = listener.accept()[0]
    said: list[int] = []
    reader = host.io.connection.reader(ours.fileno(), lambda: 0.0, said.append)
    assert reader is not None
    ours.setblocking(False)
    reader()
    assert not said  # nothing was there
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    reader()
    assert os.strerror(-said.pop()) == "Connection reset by peer"
    reader()
    assert said == [Outcome.ELSEWHERE]  # the end of the stream
    for end in (ours, listener):
        end.close()
    assert host.io.phase is Phase.LIVE
    target.close()


def test_a_closed_processor_takes_no_events(tmp_path: Path) -> None:
    target = Target(tmp_path)
    host = target.host()
    ours, theirs = socket.socketpair()
    said: list[int] = []
    reader = host.io.connection.reader(ours.fileno(), lambda: 0.0, said.append)
    assert reader is not None
    host.admin.cut()
    theirs.send(capsule(READ, 1, nsid=1, sgl_length=512))
    reader()
    assert said == [Outcome.ELSEWHERE]
    assert ours.recv(100) == capsule(READ, 1, nsid=1, sgl_length=512)
    for end in (ours, theirs):
        end.close()
    target.close()


def test_answers_that_fill_the_arena_several_times_are_all_sent(
    tmp_path: Path, over_sockets: pytest.MonkeyPatch
) -> None:
    target = Target(tmp_path)
    host = target.host(sqsize=1000)
    content = pattern(64 * 512)
    assert host.write(0, content, by_r2t=True) == 0
    wire = host.io
    stream = b"".join(capsule(READ, i, nsid=1, slba=i % 64, sgl_length=512) for i in range(1, 1001))
    wire.feed(stream)
    answers = [answer for answer in decode(bytes(wire.output)) if answer.data]
    assert [answer.cid for answer in answers] == list(range(1, 1001))
    assert all(answer.data == content[(answer.cid % 64) * 512 :][:512] for answer in answers)
    target.close()
