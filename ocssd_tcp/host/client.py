"""NVMe/TCP on asyncio sockets: a `Connection` per queue, and the `Controller` that they belong to.

A Connection owns a socket and the commands that wait for a place in its queue; the protocol is `host.connection`'s.
Sockets are used directly (`recv_into`, `sendmsg`), so that data goes between the kernel and the caller's buffers
without a copy in between. A Controller owns its queues, start-up, keep alive and shutdown, and knows the admin and
fabrics commands; what I/O commands mean is `host.drive`'s. NVMe-oF 1.1, 3 and 4; NVMe Base 1.4, 5 and 7.6.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import uuid
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice, pairwise
from typing import Any, Self, TypeVar

from ocssd_tcp.host.connection import Command, Completion, Piece, QueueConnection, State, sqe
from ocssd_tcp.host.errors import HostError, StatusError, TransportError, UsageError
from ocssd_tcp.host.identify import AsyncEvent, ControllerInfo, NamespaceInfo
from ocssd_tcp.wire.layouts import CONNECT_DATA, CONNECT_SQE, PROPERTY_SQE
from ocssd_tcp.wire.opcodes import CONTROL_IN_CAPSULE, DYNAMIC_CNTLID, Admin, Cns, Fctype, Feature, Property
from ocssd_tcp.wire.status import Status

T = TypeVar("T")

IDENTIFY_BYTES = 4096
MAX_NQN_BYTES = 223
_ADMIN_ENTRIES = 32
_MAX_PIECE = 1 << 20  #: bytes of one command where MDTS sets no tighter limit
_PAGE = 4096
_DISSQFC = 0x04  #: CATTR bit 2
_AUTHREQ = 0x06  #: Connect DW0 18:17, shifted
_EN, _CC, _SHN_NORMAL = 0x1, 4 << 20 | 6 << 16, 1 << 14  #: CC: enable; entry sizes of 64 and 16 bytes; shutdown
_RDY, _CFS, _SHST_MASK, _SHST_COMPLETE = 0x1, 0x2, 0xC, 0x8  #: CSTS
_SHUTDOWN_SECONDS = 5.0
_IOV_MAX = 512  #: pieces of one vectored send; POSIX systems take at least 1,024
_TICKS = 4  #: how finely `timeout` is watched


class Connection:
    """One queue of a controller: send commands, await their completions.

    Commands that find the queue full wait for room, in order. When the connection is lost, every outstanding and
    waiting command fails with TransportError at once, as does each later one.
    """

    def __init__(self, sock: socket.socket, protocol: QueueConnection, timeout: float) -> None:
        self.protocol = protocol
        self.lost: asyncio.Future[TransportError] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._pieces: deque[Piece] = deque()
        self._waiting: deque[Command] = deque()
        self._flush_due = False
        self._writing = False
        self._timeout = timeout
        self._quiet_ticks = 0
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._timer = self._loop.call_later(timeout / _TICKS, self._watch)
        self._loop.add_reader(sock, self._readable)

    @classmethod
    async def open(cls, address: str, port: int, protocol: QueueConnection, *, seconds: float = 30.0) -> Connection:
        """Connect to `address`:`port` and exchange ICReq and ICResp.

        `seconds`: without any answer while one is due, after which the connection counts as lost; also the limit of
        this call. TransportError, with the OSError as its cause if there is one.
        """
        try:
            async with asyncio.timeout(seconds):
                sock = await _dial(address, port)
                connection = cls(sock, protocol, seconds)
                protocol.start()
                connection._flush()
                try:
                    await connection._ready
                except BaseException:
                    connection.close()
                    raise
                return connection
        except TimeoutError as error:
            raise TransportError(f"no answer from {address}:{port} within {seconds:g} s") from error
        except OSError as error:
            raise TransportError(f"cannot connect to {address}:{port}: {_reason(error)}") from error

    def submit(self, command: Command) -> asyncio.Future[Completion]:
        """Send a command, or queue it until there is room. Commands are sent in the order of these calls."""
        future: asyncio.Future[Completion] = self._loop.create_future()
        command.token = future
        if self.lost.done():
            future.set_exception(self.lost.result().copy())
        elif self._waiting or not self.protocol.has_room:
            self._waiting.append(command)
        else:
            self._send(command)
        return future

    def close(self, why: TransportError | None = None) -> None:
        """Close the socket; what is outstanding fails, with `why` if given."""
        self._lose(why or TransportError("the connection was closed"))

    # --- socket -------------------------------------------------------------------------------

    def _send(self, command: Command) -> None:
        try:
            self.protocol.submit(command)
        except HostError as error:
            command.token.set_exception(error)
            return
        if not self._flush_due:
            # Commands submitted in one turn of the loop leave in one vectored send.
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        self._pieces.extend(self.protocol.take_output())
        if not self._writing:
            self._writable()

    def _writable(self) -> None:
        pieces = self._pieces
        try:
            while pieces and not self.lost.done():
                _drop(pieces, self._sock.sendmsg(islice(pieces, _IOV_MAX)))
        except (BlockingIOError, InterruptedError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock, self._writable)
            return
        except OSError as error:
            self._lose(TransportError(f"the connection was lost: {_reason(error)}"))
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        try:
            n_bytes = self._sock.recv_into(self.protocol.buffer())
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(TransportError(f"the connection was lost: {_reason(error)}"))
            return
        if not n_bytes:
            self._lose(TransportError("the drive closed the connection"))
            return
        self._quiet_ticks = 0
        for command in self.protocol.received(n_bytes):
            if not command.token.done():
                command.token.set_result(command.completion)
        if self.protocol.failure is not None:
            self._flush()
            self._lose(self.protocol.failure)
            return
        if self.protocol.state is State.READY and not self._ready.done():
            self._ready.set_result(None)
        while self._waiting and self.protocol.has_room:
            command = self._waiting.popleft()
            if not command.token.done():
                self._send(command)
        self._flush()

    def _lose(self, error: TransportError) -> None:
        if self.lost.done():
            return
        self.lost.set_result(error)
        self._timer.cancel()
        self._loop.remove_reader(self._sock)
        if self._writing:
            self._loop.remove_writer(self._sock)
        self._sock.close()
        self._fail(self.protocol.abandon(error), error)
        self._fail(self._waiting, error)
        self._waiting.clear()
        if not self._ready.done():
            self._ready.set_exception(error.copy())

    @staticmethod
    def _fail(commands: Iterable[Command], error: TransportError) -> None:
        for command in commands:
            if not command.token.done():
                command.token.set_exception(error.copy())

    def _watch(self) -> None:
        due = any(command.timed for command in self.protocol.outstanding.values())
        self._quiet_ticks = self._quiet_ticks + 1 if due else 0
        if self._quiet_ticks > _TICKS:
            self._lose(TransportError(f"no answer within {self._timeout:g} s"))
            return
        self._timer = self._loop.call_later(self._timeout / _TICKS, self._watch)


def _reason(error: OSError) -> str:
    # asyncio puts its own words into strerror; a name that does not resolve has no errno of the system's
    known = error.errno is not None and not isinstance(error, socket.gaierror)
    return os.strerror(error.errno or 0) if known else str(error.strerror or error)


async def _dial(address: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: OSError = OSError(f"{address} has no address")
    for family, kind, proto, _, target in await loop.getaddrinfo(address, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, target)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def _drop(pieces: deque[Piece], n_bytes: int) -> None:
    """Remove the first `n_bytes` from the queue of pieces."""
    while n_bytes:
        piece = pieces.popleft()
        if len(piece) > n_bytes:
            pieces.appendleft(memoryview(piece)[n_bytes:])
            return
        n_bytes -= len(piece)


@dataclass(frozen=True)
class Options:
    """How to connect. `hostnqn`, `hostid` (16 bytes): this process's own where absent; `queues`: I/O queues asked for;
    `queue_size`: their entries; `kato_ms`: keep alive timeout, 0 for none; `disable_sqflow`: ask to do without SQ flow
    control, so that reads need no response PDU; `timeout`: seconds without an answer after which a queue is lost.
    """

    hostnqn: str | None = None
    hostid: bytes | None = None
    queues: int = 1
    queue_size: int = 128
    kato_ms: int = 15_000
    header_digest: bool = False
    data_digest: bool = False
    disable_sqflow: bool = False
    timeout: float = 30.0


class Controller:
    """An association with a controller: the admin queue, and I/O queues that `drive` and others submit to.

    `info`: Identify Controller. `cap`, `vs`: properties. `max_transfer`: bytes of data that one command may move
    (MDTS). `io_queues`: connections, `io_queues[i]` being QID i + 1. When one queue is lost all are closed.
    """

    def __init__(self, address: str, port: int, nqn: str, options: Options) -> None:
        self.address, self.port, self.nqn, self.options = address, port, nqn, options
        self.cntlid = DYNAMIC_CNTLID
        self.cap = self.vs = 0
        self.max_transfer = CONTROL_IN_CAPSULE
        self.info: ControllerInfo
        self.admin_queue: Connection
        self.io_queues: list[Connection] = []
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, address: str, port: int, nqn: str, options: Options | None = None, **changes: Any) -> Self:
        """Make an association and its I/O queues. `changes`: fields of `Options`.

        TransportError, StatusError (Connect or the start-up commands were refused), UsageError (a name that is no NQN).
        """
        controller = cls(address, port, nqn, replace(options or Options(), **changes))
        try:
            await controller._start()
        except BaseException:
            controller._abandon()
            raise
        return controller

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Orderly shutdown (CC.SHN), then close every queue. Never raises for a connection that is already lost."""
        if self._keeper is not None:
            self._keeper.cancel()
        try:
            if not self.admin_queue.lost.done():
                await self.property_set(Property.CC, _CC | _SHN_NORMAL)
                await self._wait_for_csts(_SHST_MASK, _SHST_COMPLETE, _SHUTDOWN_SECONDS)
        except HostError:
            pass  # the drive may close first
        finally:
            self._abandon()

    # --- start-up -----------------------------------------------------------------------------

    async def _start(self) -> None:
        self.admin_queue = await self._open_queue(0, _ADMIN_ENTRIES, CONTROL_IN_CAPSULE)
        self.cap = await self.property_get(Property.CAP, 8)
        self.vs = await self.property_get(Property.VS)
        await self.property_set(Property.CC, _CC | _EN)
        await self._wait_for_csts(_RDY, _RDY, max(1.0, (self.cap >> 24 & 0xFF) / 2))
        self.info = ControllerInfo.parse(await self.identify(Cns.CONTROLLER))
        if self.info.icdoff:
            raise TransportError(f"ICDOFF {self.info.icdoff}: in-capsule data at an offset, which NVMe/TCP has not")
        self.max_transfer = _MAX_PIECE
        if self.info.mdts:
            self.max_transfer = min(_MAX_PIECE, _PAGE << (self.cap >> 48 & 15) << self.info.mdts)
        if self.options.kato_ms:
            self._keeper = asyncio.create_task(self._keep_alive(self.options.kato_ms / 2000))
        if self.options.queues and not self.info.is_discovery:
            await self._open_io_queues()

    async def _open_io_queues(self) -> None:
        wanted = self.options.queues
        granted = await self.set_feature(Feature.NUMBER_OF_QUEUES, (wanted - 1) << 16 | (wanted - 1))
        count = min(wanted, (granted & 0xFFFF) + 1, (granted >> 16) + 1)
        entries = min(self.options.queue_size, (self.cap & 0xFFFF) + 1)
        if self.info.maxcmd:
            entries = min(entries, self.info.maxcmd + 1)
        size, capsule = max(2, entries), self.info.in_capsule_bytes
        opened = await asyncio.gather(
            *(self._open_queue(qid, size, capsule) for qid in range(1, count + 1)), return_exceptions=True
        )
        self.io_queues = [queue for queue in opened if isinstance(queue, Connection)]
        for result in opened:
            if isinstance(result, BaseException):
                raise result

    async def _open_queue(self, qid: int, entries: int, in_capsule: int) -> Connection:
        options = self.options
        protocol = QueueConnection(
            queue_size=entries,
            header_digest=options.header_digest,
            data_digest=options.data_digest,
            max_in_capsule=in_capsule,
            success_flag=options.disable_sqflow,
        )
        queue = await Connection.open(self.address, self.port, protocol, seconds=options.timeout)
        try:
            await self._connect(queue, qid, entries)
        except BaseException:
            queue.close()
            raise
        queue.lost.add_done_callback(lambda lost: self._abandon(lost.result()))
        return queue

    async def _connect(self, queue: Connection, qid: int, entries: int) -> None:
        options = self.options
        own_nqn, own_id = host_identity()
        data = CONNECT_DATA.pack(
            hostid=options.hostid or own_id,
            cntlid=self.cntlid,
            subnqn=_nqn_bytes(self.nqn),
            hostnqn=_nqn_bytes(options.hostnqn or own_nqn),
        )
        command = Command(
            CONNECT_SQE.pack(
                opc=Admin.FABRICS,
                fctype=Fctype.CONNECT,
                qid=qid,
                sqsize=entries - 1,
                cattr=_DISSQFC if options.disable_sqflow else 0,
                kato=0 if qid else options.kato_ms,
            ),
            (data,),
            control=True,
        )
        completion = await queue.submit(command)
        if completion.status:
            raise StatusError(completion.status, _connect_failure(completion, self.nqn), completion.dw0)
        cntlid = completion.dw0 & 0xFFFF
        if completion.dw0 >> 16 & _AUTHREQ:
            raise TransportError("the drive asks for in-band authentication, which this host does not have")
        if qid and cntlid != self.cntlid:
            raise TransportError(f"I/O queue {qid} belongs to controller {cntlid}, not {self.cntlid}")
        self.cntlid = cntlid

    async def _wait_for_csts(self, mask: int, value: int, seconds: float) -> None:
        """Poll CSTS until its bits of `mask` are `value`. TransportError after `seconds`, or at once if CFS is set."""
        pause = 0.001
        try:
            async with asyncio.timeout(seconds):
                while True:
                    csts = await self.property_get(Property.CSTS)
                    if csts & mask == value:
                        return
                    if csts & _CFS:
                        raise TransportError("the controller reports a fatal status (CSTS.CFS)")
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 0.1)
        except TimeoutError as error:
            raise TransportError(f"the controller did not become ready within {seconds:g} s") from error

    async def _keep_alive(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await execute(self.admin_queue, Command(sqe(Admin.KEEP_ALIVE), control=True), "Keep Alive")
            except HostError as error:
                self._abandon(TransportError(str(error)))
                return

    def _abandon(self, why: TransportError | None = None) -> None:
        """Close whatever is open, without a word to the drive."""
        if self._keeper is not None:
            self._keeper.cancel()
        for queue in [getattr(self, "admin_queue", None), *self.io_queues]:
            if queue is not None:
                queue.close(why)

    # --- commands -----------------------------------------------------------------------------

    async def admin(
        self, command_sqe: bytes, name: str, data_out: Sequence[Piece] = (), data_in: memoryview | None = None
    ) -> Completion:
        """Any admin command. StatusError with `name` if it fails."""
        return await execute(self.admin_queue, Command(command_sqe, data_out, data_in, control=True), name)

    async def property_get(self, offset: int, size: int = 4) -> int:
        """A property of 4 or 8 bytes. NVMe-oF 1.1, 3.5."""
        entry = PROPERTY_SQE.pack(opc=Admin.FABRICS, fctype=Fctype.PROPERTY_GET, attrib=int(size == 8), ofst=offset)
        completion = await self.admin(entry, "Property Get")
        return completion.dw0 | completion.dw1 << 32 if size == 8 else completion.dw0

    async def property_set(self, offset: int, value: int, size: int = 4) -> None:
        """Set a property. NVMe-oF 1.1, 3.6."""
        entry = PROPERTY_SQE.pack(
            opc=Admin.FABRICS, fctype=Fctype.PROPERTY_SET, attrib=int(size == 8), ofst=offset, value=value
        )
        await self.admin(entry, "Property Set")

    async def identify(self, cns: int, nsid: int = 0, *, cntid: int = 0, csi: int = 0) -> bytearray:
        """The 4,096 bytes of an Identify structure."""
        data = bytearray(IDENTIFY_BYTES)
        entry = sqe(Admin.IDENTIFY, nsid, cdw10=cns | cntid << 16, cdw11=csi << 24)
        await self.admin(entry, "Identify", data_in=memoryview(data))
        return data

    async def identify_namespace(self, nsid: int) -> NamespaceInfo:
        """Identify Namespace, decoded; `nsze` 0 for an inactive one. StatusError for an NSID that cannot be."""
        return NamespaceInfo.parse(await self.identify(Cns.NAMESPACE, nsid))

    async def active_nsids(self) -> list[int]:
        """NSIDs of all active namespaces, ascending."""
        found: list[int] = []
        while True:
            data = await self.identify(Cns.ACTIVE_NSIDS, found[-1] if found else 0)
            page = [nsid for (nsid,) in struct.iter_unpack("<I", data) if nsid]
            if any(after <= before for before, after in pairwise([*found[-1:], *page])):
                raise TransportError("the list of active namespaces does not ascend")
            found += page
            if len(page) < IDENTIFY_BYTES // 4:
                return found

    async def get_log(
        self, lid: int, n_bytes: int, *, offset: int = 0, nsid: int = 0, lsp: int = 0, rae: bool = False
    ) -> bytearray:
        """`n_bytes` of a log page from `offset`, both multiples of 4, read in pieces of at most `max_transfer`.

        `rae`: retain the asynchronous event. UsageError for other lengths.
        """
        if n_bytes <= 0 or n_bytes % 4 or offset % 4:
            raise UsageError(f"log pages are read in whole dwords, not {n_bytes} bytes at {offset}")
        data = bytearray(n_bytes)
        for start in range(0, n_bytes, self.max_transfer):
            piece = memoryview(data)[start : start + self.max_transfer]
            numd, lpo = len(piece) // 4 - 1, offset + start
            entry = sqe(
                Admin.GET_LOG_PAGE,
                nsid,
                cdw10=lid | lsp << 8 | rae << 15 | (numd & 0xFFFF) << 16,
                cdw11=numd >> 16,
                cdw12=lpo & 0xFFFFFFFF,
                cdw13=lpo >> 32,
            )
            await self.admin(entry, "Get Log Page", data_in=piece)
        return data

    async def get_feature(self, fid: int, *, nsid: int = 0, sel: int = 0, cdw11: int = 0) -> int:
        """DW0 of Get Features."""
        entry = sqe(Admin.GET_FEATURES, nsid, cdw10=fid | sel << 8, cdw11=cdw11)
        return (await self.admin(entry, "Get Features")).dw0

    async def get_feature_data(self, fid: int, n_bytes: int, *, nsid: int = 0, cdw11: int = 0) -> bytearray:
        """The data structure of a feature that has one."""
        data = bytearray(n_bytes)
        entry = sqe(Admin.GET_FEATURES, nsid, cdw10=fid, cdw11=cdw11)
        await self.admin(entry, "Get Features", data_in=memoryview(data))
        return data

    async def set_feature(self, fid: int, value: int, *, nsid: int = 0, data: bytes = b"", save: bool = False) -> int:
        """Set Features with `value` in CDW11; its DW0."""
        entry = sqe(Admin.SET_FEATURES, nsid, cdw10=fid | save << 31, cdw11=value)
        return (await self.admin(entry, "Set Features", (data,) if data else ())).dw0

    async def next_event(self) -> AsyncEvent:
        """Send an Asynchronous Event Request and wait, without limit, for what completes it."""
        command = Command(sqe(Admin.ASYNC_EVENT_REQUEST), control=True, timed=False)
        return AsyncEvent.from_dw0((await execute(self.admin_queue, command, "Asynchronous Event Request")).dw0)

    async def abort(self, sqid: int, cid: int) -> bool:
        """Abort a command (`Command.cid`) of queue `sqid`; True if the controller aborted it."""
        completion = await self.admin(sqe(Admin.ABORT, cdw10=sqid | cid << 16), "Abort")
        return not completion.dw0 & 1


async def execute(queue: Connection, command: Command, name: str) -> Completion:
    """Submit and await a command that must succeed and move all of its data.

    StatusError with `name`; TransportError if the drive reports success and has moved less.
    """
    completion = await queue.submit(command)
    if completion.status:
        raise StatusError(completion.status, name, completion.dw0, completion.dw1)
    if completion.moved != command.data_bytes:
        raise TransportError(f"{name}: success reported after {completion.moved} of {command.data_bytes} bytes")
    return completion


async def all_of(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """Run calls together. The first failure is raised after every call has ended, so that no buffer is in use."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


@cache
def host_identity() -> tuple[str, bytes]:
    """The HOSTNQN and HOSTID of this process, where the caller gives none."""
    identity = uuid.uuid4()
    return f"nqn.2014-08.org.nvmexpress:uuid:{identity}", identity.bytes


def _nqn_bytes(nqn: str) -> bytes:
    raw = nqn.encode()
    if not 0 < len(raw) <= MAX_NQN_BYTES or b"\0" in raw:
        raise UsageError(f"{nqn!r} is not an NVMe Qualified Name of 1 to {MAX_NQN_BYTES} bytes")
    return raw


def _connect_failure(completion: Completion, nqn: str) -> str:
    """What the drive did not like: IATTR and IPO in DW0 of a Connect that failed with Invalid Parameters."""
    if completion.status & 0x7FF != Status.CONNECT_INVALID_PARAMETERS:
        return f"Connect to {nqn}"
    layout = CONNECT_DATA if completion.dw0 >> 16 & 1 else CONNECT_SQE
    at = completion.dw0 & 0xFFFF
    names = [field.name.upper() for field in layout.fields.values() if field.offset == at]
    return f"Connect to {nqn} ({names[0] if names else f'byte {at}'} not accepted)"
