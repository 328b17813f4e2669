"""Sockets: listeners and connections on the event loop. The only file of the target with data sockets.

Data sockets are raw and non-blocking, handed to the loop with `add_reader`: one receive and one vectored send per
readable event, no transports, no tasks. Sending goes through writev(2) on the words that the send queue holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import ipaddress
import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol, TypeVar

import structlog

from ocssd_tcp.commands.tally import Histogram
from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.transport.batch import Outcome
from ocssd_tcp.transport.connection import Phase, TargetConnection
from ocssd_tcp.transport.rxbuf import RxBuffer

BACKLOG = 1024
SWEEP_SECONDS = 5.0  #: how often connections are asked for passed deadlines
ACCEPT_PAUSE_SECONDS = 0.2  #: when descriptors have run out


class ListenAddress(Protocol):
    """A numeric host and a port, as a pair that can be made from both and prints as the operator writes it."""

    def __init__(self, host: str, port: int) -> None: ...
    def __iter__(self) -> Iterator[Any]: ...


A = TypeVar("A", bound=ListenAddress)
log = structlog.get_logger("transport")
_writev = ctypes.CDLL(None, use_errno=True).writev  # no argtypes: the address is a c_void_p, and 0.2 us are saved
_writev.restype = ctypes.c_ssize_t


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """`in_capsule_bytes`: of I/O queues. `congestion`: a TCP congestion control by name; empty: the system's, but not
    bbr where a connection does not leave the machine. `poll_us`: how long to look for more input before sleeping.
    `max_connections`: beyond it, new ones are closed."""

    in_capsule_bytes: int
    congestion: str = ""
    poll_us: int = 0
    max_connections: int = 65536


def may_use(congestion: str) -> bool:
    """Whether the kernel has a TCP congestion control, and lets this process use it."""
    with socket.socket() as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        except OSError:
            return False
    return True


def _is_local(host: str, own: str) -> bool:
    """Whether a connection from `host` to our address `own`, both numeric, never leaves this machine."""
    return host == own or ipaddress.ip_address(host).is_loopback


def _do_not_pace(sock: socket.socket) -> None:
    """Replace bbr: where there is no network to be fair to, its pacing costs a quarter of the speed of large reads."""
    with contextlib.suppress(OSError):  # not ours to choose, then
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).startswith(b"bbr"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


class Peer:
    """A connection and its socket."""

    __slots__ = (
        "_fd", "_loop", "_readable", "_reading", "_recv_into", "_server", "_writev", "connection", "sock", "writing",
    )  # fmt: skip

    def __init__(self, server: Server, sock: socket.socket, connection: TargetConnection) -> None:
        self._server = server
        self._loop = server.loop
        self.sock = sock
        self._fd = sock.fileno()
        self._recv_into = sock.recv_into
        self._writev = functools.partial(_writev, self._fd)
        self.connection = connection
        self._readable = self._observed(self.readable)
        self._reading = False
        self.writing = False
        self._read()

    def _read(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def readable(self) -> None:
        """One receive, everything in it handled, one send."""
        connection = self.connection
        try:
            n_bytes = self._recv_into(connection.buffer())
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(os.strerror(error.errno or 0))
            return
        if not n_bytes:
            self._end("the host closed the connection")
            return
        if connection.is_control:
            self._control(n_bytes)
            return
        connection.received(n_bytes, self._server.now())
        if connection.phase is not Phase.LIVE:
            self.flush()
            self._server.rearm()
        elif connection.tx.n:  # the usual end of an event, without the steps that only others need
            try:
                sent = connection.tx.send(self._writev)
            except OSError as error:
                self._end(str(error.strerror))
                return
            if sent:
                connection.sent()
            else:
                self._wait_for_room()

    def _control(self, n_bytes: int) -> None:
        """Bytes have come that can change the state of a controller, or make the connection one of an I/O queue."""
        connection = self.connection
        had_queue = connection.queue is not None
        connection.received(n_bytes, self._server.now())
        if not had_queue and connection.queue is not None:
            self._accelerate()
        self.flush()
        self._server.rearm()

    def _wait_for_room(self) -> None:
        """The socket takes no more: nothing is received until it does."""
        if not self.writing:
            self.writing = True
            self._pause()
            self._loop.add_writer(self._fd, self.flush)

    def _accelerate(self) -> None:
        """A queue has connected: let the compiled engine have the events, if it is there."""
        server = self._server
        reader = self.connection.reader(self._fd, server.now, self._served)
        if reader is not None:
            self._pause()
            self._readable = self._observed(reader)
            self._read()

    def _observed(self, readable: Callable[[], None]) -> Callable[[], None]:
        """A callback for readable events, with what the server's options add to it."""
        server = self._server
        if server.events is not None:
            readable = functools.partial(self._timed, readable, server.events)
        if server.poll_seconds:
            readable = functools.partial(self._polled, readable)
        return readable

    def _timed(self, readable: Callable[[], None], events: Histogram) -> None:
        begun = perf_counter()
        readable()
        events.add(perf_counter() - begun)

    def _polled(self, readable: Callable[[], None]) -> None:
        readable()
        self._server.poll()

    def _served(self, outcome: int) -> None:
        """What the compiled engine leaves to do."""
        if outcome == Outcome.ELSEWHERE:
            self.readable()
        elif outcome == Outcome.QUEUED:
            self.flush()
        elif outcome == Outcome.FAILED:  # ours: what the stream says next can no longer be trusted
            log.exception("internal error", peer=self.connection.peer)
            self._end("internal error")
        else:
            self._end(os.strerror(-outcome))

    def flush(self) -> None:
        """Send what is queued; while the socket takes no more, nothing is received."""
        connection = self.connection
        try:
            done = connection.tx.send(self._writev)
        except OSError as error:
            self._end(str(error.strerror))
            return
        if not done:
            self._wait_for_room()
            return
        connection.sent()
        if self.writing:
            self.writing = False
            self._loop.remove_writer(self._fd)
        if connection.phase is Phase.CLOSED:
            self._end(connection.why_closed)
        else:
            self._read()
            if connection.phase is Phase.TERMINATING:
                self._half_close()

    def _half_close(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._end(self.connection.why_closed)

    def _end(self, why: str) -> None:
        self._pause()
        if self.writing:
            self.writing = False
            self._loop.remove_writer(self._fd)
        if self.sock.fileno() >= 0:
            self.sock.close()
            self._server.forget(self)
            self.connection.lost(why, self._loop.time())

    def abandon(self, why: str) -> None:
        """Close at once, sent or not."""
        self._end(why)


class Server:
    """The listeners and all connections of a daemon.

    `events`: how long each receive with all that follows from it has taken; None: not measured, and to be set before
    the first connection. `n_accepted`, `n_refused`: connections so far, and those above the limit.
    """

    def __init__(self, options: SocketOptions) -> None:
        self.loop = asyncio.get_running_loop()
        self._directory: Directory | None = None
        self._options = options
        self._rx = RxBuffer()
        self._listeners: list[socket.socket] = []
        self._peers: dict[TargetConnection, Peer] = {}
        self._all_gone: asyncio.Event | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._directory_timer: asyncio.TimerHandle | None = None
        self._poll_until = 0.0
        self._polling = False
        self.events: Histogram | None = None
        self.n_accepted = 0
        self.n_refused = 0
        self.now = self.loop.time
        self.poll_seconds = options.poll_us / 1e6

    @property
    def connections(self) -> Collection[TargetConnection]:
        """Those that are open."""
        return self._peers.keys()

    def listen(self, addresses: Sequence[A]) -> list[A]:
        """Bind and listen; the addresses with the ports that were chosen. OSError, its `filename` the address."""
        bound: list[A] = []
        for address in addresses:
            host, port = address
            sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            self._listeners.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                self._prepare(sock)
                sock.bind((host, port))
                sock.listen(BACKLOG)
            except OSError as error:
                self.close_listeners()
                raise OSError(error.errno, error.strerror, str(address)) from error
            bound.append(type(address)(host, sock.getsockname()[1]))
        return bound

    def adopt(self, listener: socket.socket, kind: type[A]) -> A:
        """Take over a TCP socket that listens already; its address. OSError, its `filename` the address."""
        self._listeners.append(listener)
        listener.setblocking(False)
        address = kind(*listener.getsockname()[:2])
        try:
            self._prepare(listener)
        except OSError as error:
            self.close_listeners()
            raise OSError(error.errno, error.strerror, str(address)) from error
        return address

    def _prepare(self, listener: socket.socket) -> None:
        if self._options.congestion:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, self._options.congestion.encode())

    def close_listeners(self) -> None:
        """Listen no more."""
        for listener in self._listeners:
            self.loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()

    def start(self, directory: Directory) -> None:
        """Accept connections to the subsystems of `directory` from now on."""
        self._directory = directory
        for sock in self._listeners:
            self.loop.add_reader(sock.fileno(), self._accept, sock)
        self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)

    def _accept(self, listener: socket.socket) -> None:
        directory = self._directory
        while directory is not None:
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors: leave the host in the backlog for a moment
                log.warning("cannot accept a connection", why=error.strerror)
                self.loop.remove_reader(listener.fileno())
                self.loop.call_later(ACCEPT_PAUSE_SECONDS, self._accept_again, listener)
                return
            if len(self._peers) >= self._options.max_connections:
                sock.close()
                self.n_refused += 1
                continue
            self.n_accepted += 1
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            local = sock.getsockname()
            if not self._options.congestion and _is_local(peer[0], local[0]):
                _do_not_pace(sock)
            connection = TargetConnection(
                directory,
                self._rx,
                self._options.in_capsule_bytes,
                (local[0], local[1]),
                self.loop.time(),
                self._has_output,
                f"{peer[0]}:{peer[1]}",
            )
            self._peers[connection] = Peer(self, sock, connection)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self.loop.add_reader(listener.fileno(), self._accept, listener)

    def _has_output(self, connection: TargetConnection) -> None:
        peer = self._peers.get(connection)
        if peer is not None and not peer.writing:
            peer.flush()

    def forget(self, peer: Peer) -> None:
        """A peer's socket has been closed."""
        self._peers.pop(peer.connection, None)
        if self._all_gone is not None and not self._peers:
            self._all_gone.set()

    # --- time ---------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Look for input without sleeping until `poll_us` after the last event."""
        self._poll_until = self.now() + self.poll_seconds
        if not self._polling:
            self._polling = True
            self.loop.call_soon(self._poll_once)

    def _poll_once(self) -> None:
        if self.now() < self._poll_until:
            self.loop.call_soon(self._poll_once)
        else:
            self._polling = False

    def rearm(self) -> None:
        """Have the directory's next deadline kept; called whenever a controller may have got an earlier one."""
        deadline = self._directory.next_deadline() if self._directory is not None else None
        timer = self._directory_timer
        if timer is not None:
            if deadline is not None and timer.when() <= deadline:
                return  # it will look again when it fires
            timer.cancel()
        self._directory_timer = None if deadline is None else self.loop.call_at(deadline, self._directory_due)

    def _directory_due(self) -> None:
        self._directory_timer = None
        if self._directory is not None:
            self._directory.on_timer(self.now())
        self.rearm()

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection, peer in list(self._peers.items()):
            # libuv tells of a reset once and then forgets the socket, even if there was still something to read.
            error = peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                peer.abandon(os.strerror(error))
                continue
            deadline = connection.next_deadline()
            if deadline is not None and deadline <= now:
                connection.on_timer(now)
                if connection.phase is Phase.CLOSED:
                    peer.abandon(connection.why_closed)
        self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)

    # --- the end --------------------------------------------------------------------------------------------

    async def stop(self, seconds: float) -> None:
        """Accept no more, let the directory say good-bye, give sends `seconds` to end, close everything."""
        self.close_listeners()
        if self._directory is not None:
            self._directory.shutdown(self.now())
        for peer in list(self._peers.values()):
            if not peer.writing:
                peer.abandon("the drive is shutting down")
        if self._peers:
            self._all_gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_gone.wait(), seconds)
        for peer in list(self._peers.values()):
            peer.abandon("the host did not take its answers in time")
        for timer in (self._sweeper, self._directory_timer):
            if timer is not None:
                timer.cancel()
