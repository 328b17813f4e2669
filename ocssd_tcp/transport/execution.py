"""The complete engine of a queue: every command, in every shape, from its capsule to its response.

It checks what the dispatch table says, gets the data a handler needs, submits operations to the media and turns their
outcomes into responses. `transport.batch` handles the plain shapes of I/O faster; whatever it leaves comes here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog

import ocssd_tcp.commands.io_scalar
import ocssd_tcp.commands.io_vector  # noqa: F401  (both fill the table of I/O commands)
from ocssd_tcp.commands.io import Answer, Fetch, IoCommand
from ocssd_tcp.commands.registry import IO_COMMANDS, Command, Entry, Nsid, Reply
from ocssd_tcp.commands.registry import Transfer as Moves
from ocssd_tcp.commands.status_map import outcome
from ocssd_tcp.controller.queue import QueuePair
from ocssd_tcp.media.ops import MediaOp, MediaStatus, OpKind
from ocssd_tcp.media.trace import clock
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR
from ocssd_tcp.transport.responder import Responder
from ocssd_tcp.transport.transfer import RunTransfer, Transfer
from ocssd_tcp.wire.opcodes import BROADCAST_NSID, CONTROL_IN_CAPSULE, Admin, Direction, Io, ListForm, SglType
from ocssd_tcp.wire.status import CommandError, Status

log = structlog.get_logger("transport")
_NO_DATA = memoryview(b"")
_NO_DESCRIPTOR = bytes(CHUNK_DESCRIPTOR.size)  #: for a reset entry that names no chunk
_VECTOR = frozenset({Io.VECTOR_RESET, Io.VECTOR_WRITE, Io.VECTOR_READ, Io.VECTOR_COPY, Io.STAGE_LBA_LIST})
MAX_DISCARDED = 256  #: aborted commands whose data may still come
_FUSE, _PSDT_SGL = 0x03, 0x40


class Transport(Protocol):
    """What the executor needs of its connection."""

    responder: Responder
    transfers: dict[int, Transfer]

    def request_data(self, transfer: Transfer) -> None: ...
    def new_ttag(self) -> int: ...
    def notify(self) -> None: ...


class Executor:
    """Executes the commands of one queue.

    `outstanding`: cid -> the command's transfer, or None while the media or the controller holds it.
    """

    def __init__(self, transport: Transport, queue: QueuePair) -> None:
        self.outstanding: dict[int, Transfer | None] = {}
        self._transport = transport
        self._queue = queue
        self._association = queue.association
        self._subsystem = queue.association.subsystem
        self._responder = transport.responder
        self._live = True
        self._staging: Transfer | None = None  # the list of a slot, on its way
        self._held: deque[tuple[Entry, IoCommand]] = deque()  # commands of slots that came after it
        limit = self._subsystem.max_transfer
        self._max_transfer = limit or (1 << 32)

    def overflows(self, n_elsewhere: int) -> bool:
        """Whether one more command would be more than the queue holds: those outstanding, here and elsewhere, and
        those whose responses the host cannot have read yet."""
        return len(self.outstanding) + n_elsewhere + self._responder.n_completed >= self._queue.entries

    # --- from the capsule to the handler ----------------------------------------------------------------

    def capsule(self, cmd: Command, data: memoryview, now: float, *, is_broken: bool = False) -> None:
        """Execute a command. `data`: its in-capsule data, valid during the call. `is_broken`: it has a wrong digest."""
        try:
            if cmd.cid in self.outstanding:
                self._fail(cmd, Status.CID_CONFLICT)
                return
            if self._subsystem.trace is not None:
                cmd.arrival = clock()
                self._responder.traced[cmd.cid] = cmd
            if is_broken:
                self._fail(cmd, Status.TRANSIENT_TRANSPORT_ERROR)
            elif self._queue.qid == 0 or cmd.opc == Admin.FABRICS:
                self._control(cmd, data, now)
            else:
                self._io(cmd, data)
        except CommandError as error:
            self._fail(cmd, error.status, error.dw0, location=error.location)
        except Exception:
            log.exception("internal error", opcode=cmd.opc, cid=cmd.cid)
            self.outstanding.pop(cmd.cid, None)
            self._fail(cmd, Status.INTERNAL_ERROR)

    def _fail(self, cmd: Command, status: int, dw0: int = 0, dw1: int = 0, location: int = 0xFFFF) -> None:
        self._association.failed(self._queue, cmd, status, location)
        self._responder.respond(cmd.cid, status, dw0, dw1)

    def _check_sgl(self, cmd: Command, moves: int, n_capsule: int, *, list_beside: bool = False) -> Status:
        """SGL1 against what the command moves (bits of `Direction`) and what the capsule carries.

        `list_beside`: a vector command, whose list may stand in the capsule beside an SGL that is not.
        """
        if not cmd.sgl_length and not n_capsule and not moves & Direction.CONTROLLER_TO_HOST:
            return Status.SUCCESS  # no data: hosts send several descriptors, or none
        if cmd.sgl_length > self._max_transfer:
            return Status.INVALID_FIELD
        if list_beside and not cmd.sgl_length and cmd.sgl_type != SglType.IN_CAPSULE:
            return Status.SUCCESS  # no data but, perhaps, a list
        if cmd.sgl_type == SglType.TRANSPORT:
            return Status.SUCCESS if list_beside or not n_capsule else Status.SGL_TYPE_INVALID
        if cmd.sgl_type != SglType.IN_CAPSULE or not moves & Direction.HOST_TO_CONTROLLER:
            return Status.SGL_TYPE_INVALID
        if cmd.sgl_address:
            return Status.SGL_OFFSET_INVALID
        return Status.SUCCESS if cmd.sgl_length == n_capsule else Status.DATA_SGL_LENGTH_INVALID

    # --- admin and fabrics commands ---------------------------------------------------------------------

    def _control(self, cmd: Command, data: memoryview, now: float) -> None:
        if cmd.opc == Admin.FABRICS:
            self._finish_control(cmd, self._association.execute_fabrics(self._queue, cmd, bytes(data), now))
            return
        entry = self._association.check_admin(cmd)
        status = self._check_sgl(cmd, entry.transfer, len(data)) if entry.transfer else Status.SUCCESS
        if status:
            raise CommandError(status)
        if entry.transfer == Moves.HOST_TO_CONTROLLER and cmd.sgl_length and cmd.sgl_type == SglType.TRANSPORT:
            if cmd.sgl_length > CONTROL_IN_CAPSULE:
                raise CommandError(Status.DATA_SGL_LENGTH_INVALID)
            self._fetch(cmd, None, cmd.sgl_length)
            return
        self._execute_admin(cmd, bytes(data), now)

    def _execute_admin(self, cmd: Command, data: bytes, now: float) -> None:
        self.outstanding[cmd.cid] = None
        try:
            reply = self._association.execute_admin(self._queue, cmd, data, now)
        except BaseException:
            self.outstanding.pop(cmd.cid, None)
            raise
        if reply is not None:
            self.outstanding.pop(cmd.cid, None)
            self._finish_control(cmd, reply)

    def _finish_control(self, cmd: Command, reply: Reply) -> None:
        if reply.status:
            self._association.failed(self._queue, cmd, reply.status, reply.location)
        else:
            self._association.subsystem.tally.count(is_io=self._queue.qid > 0, opcode=cmd.opc)
        self._responder.reply(cmd.cid, reply, cmd.sgl_length)

    # --- I/O commands -----------------------------------------------------------------------------------

    def _io(self, cmd: Command, data: memoryview) -> None:
        if cmd.sqe_flags & _FUSE or cmd.sqe_flags & 0xC0 != _PSDT_SGL:
            raise CommandError(Status.INVALID_FIELD, location=1)
        if not self._association.enabled:
            raise CommandError(Status.COMMAND_SEQUENCE_ERROR)
        entry = IO_COMMANDS[cmd.opc]
        namespace = self._association.namespaces.get(cmd.nsid)
        if namespace is None:
            if entry is not None and entry.nsid is Nsid.HANDLER and cmd.nsid == BROADCAST_NSID:
                self._broadcast(cmd, entry)
                return
            raise CommandError(Status.INVALID_NAMESPACE, location=4)
        if entry is None:
            raise CommandError(Status.INVALID_OPCODE, location=0)
        self._check_io_sgl(cmd, entry, len(data))
        io = IoCommand(cmd, namespace, self._association, data, self._media_done)
        if self._staging is not None and _uses_slots(cmd):
            self._hold(entry, io)
        else:
            self._run(entry, io)

    def _check_io_sgl(self, cmd: Command, entry: Entry, n_capsule: int) -> None:
        vector = cmd.opc in _VECTOR
        if entry.transfer == Moves.NONE and not vector:
            return
        moves = _MOVES[entry.transfer]
        status = self._check_sgl(cmd, moves, n_capsule, list_beside=vector)
        if status:
            raise CommandError(status, location=24)

    def _run(self, entry: Entry, io: IoCommand) -> None:
        answer: Answer = entry.handler(io)
        if isinstance(answer, MediaOp):
            self.outstanding[io.cmd.cid] = None
            self._submit(answer, io)
        elif isinstance(answer, Fetch):
            self._fetch(io.cmd, io, answer.n_bytes)
        elif isinstance(answer, Reply):
            io.namespace.tally.count(is_io=True, opcode=io.cmd.opc, status=answer.status)
            self._responder.reply(io.cmd.cid, answer, io.cmd.sgl_length)
        elif answer:
            self._fail(io.cmd, answer)
        else:
            io.namespace.tally.count(is_io=True, opcode=io.cmd.opc)
            self._responder.respond(io.cmd.cid)

    def _submit(self, op: MediaOp, io: IoCommand) -> None:
        io.submitted = clock()
        if io.cmd.arrival:
            self._responder.traced[io.cmd.cid] = op
        io.namespace.media.submit(op)

    def _hold(self, entry: Entry, io: IoCommand) -> None:
        """Keep a command of slots until the list that is on its way has arrived: on one queue they take effect in
        order (LBA-list binding, form 3)."""
        io.capsule = memoryview(bytes(io.capsule))  # what it showed is the receive buffer's
        self.outstanding[io.cmd.cid] = None
        self._held.append((entry, io))

    def _go_on(self, transfer: Transfer) -> None:
        """If `transfer` was a list on its way, go on with the commands behind it, up to the next such list."""
        if transfer is not self._staging:
            return
        self._staging = None
        while self._held and self._staging is None:
            entry, io = self._held.popleft()
            del self.outstanding[io.cmd.cid]
            self._run(entry, io)

    def _broadcast(self, cmd: Command, entry: Entry) -> None:
        """Flush with NSID FFFFFFFFh: every namespace; it completes with the first failure, once all have ended."""
        namespaces = list(self._association.namespaces.values())
        io = IoCommand(cmd, namespaces[0], self._association, _NO_DATA, self._media_done)
        done = self._joined(io, len(namespaces))
        self.outstanding[cmd.cid] = None
        for namespace in namespaces:
            part = IoCommand(cmd, namespace, self._association, _NO_DATA, done)
            self._submit(entry.handler(part), part)

    # --- data from the host -----------------------------------------------------------------------------

    def _fetch(self, cmd: Command, io: IoCommand | None, n_bytes: int) -> None:
        """Collect the first `n_bytes` of a command's data, then go on with it."""
        transfer = Transfer(self._transport.new_ttag(), cmd.cid, cmd.sqe, io=io, length=n_bytes)
        transfer.stage()
        if io is not None and cmd.opc == Io.STAGE_LBA_LIST:
            self._staging = transfer
        self.outstanding[cmd.cid] = transfer
        self._transport.request_data(transfer)

    def transferred(self, transfer: Transfer, now: float) -> None:
        """All data of a transfer has arrived."""
        if self.outstanding.get(transfer.cid) is not transfer:
            return  # aborted: the command has ended already
        if isinstance(transfer, RunTransfer):
            self._land(transfer)
            return
        if transfer.op is not None and transfer.io is not None:
            self.outstanding[transfer.cid] = None
            transfer.io.failed = transfer.failed
            transfer.op.kind = OpKind.ABORT if transfer.failed else OpKind.COMMIT
            self._submit(transfer.op, transfer.io)
            return
        cmd = transfer.cmd
        del self.outstanding[cmd.cid]
        try:
            if transfer.failed:
                self._fail(cmd, transfer.failed)
            elif transfer.io is None:
                self._execute_admin(cmd, bytes(transfer.staging or b""), now)
            else:
                entry = IO_COMMANDS[cmd.opc]
                transfer.io.fetched = memoryview(transfer.staging or b"")
                if entry is not None:
                    self._run(entry, transfer.io)
        except CommandError as error:
            self._fail(cmd, error.status, error.dw0, location=error.location)
        self._go_on(transfer)

    def _land(self, transfer: RunTransfer) -> None:
        """The data of a plain write is complete: commit its runs now, or as soon as what was reserved before allows."""
        if not transfer.failed and transfer.commit():
            if transfer.arrival:
                transfer.started = clock()
                self._responder.ended.append((transfer, Status.SUCCESS))
            times = self._subsystem.times
            if times is not None:
                transfer.count(times)
            del self.outstanding[transfer.cid]
            self._responder.respond(transfer.cid)
            return
        io = IoCommand(transfer.cmd, transfer.namespace, self._association, _NO_DATA, self._media_done)
        io.failed = transfer.failed
        self.outstanding[transfer.cid] = None
        kind = OpKind.ABORT if transfer.failed else OpKind.COMMIT
        self._submit(MediaOp(kind, transfer.extents(), self._media_done, context=io), io)

    def _joined(self, io: IoCommand, n_ops: int) -> Callable[[MediaOp], None]:
        """A `done` for `n_ops` operations of one command, which ends with the first failure once all have ended."""
        ended: list[MediaStatus] = []

        def done(op: MediaOp) -> None:
            ended.append(op.status)
            if len(ended) == n_ops:
                op.status = next((status for status in ended if status), MediaStatus.OK)
                op.context = io
                self._media_done(op)

        return done

    @staticmethod
    def _give_up(transfer: Transfer) -> None:
        """Roll back what was reserved for a transfer whose data nobody waits for any more."""
        if isinstance(transfer, RunTransfer):
            transfer.namespace.engine.submit(MediaOp(OpKind.ABORT, transfer.extents(), _ignore))
        elif transfer.op is not None and transfer.io is not None:
            Executor._roll_back(transfer.op, transfer.io)

    # --- what the media answers -------------------------------------------------------------------------

    def _media_done(self, op: MediaOp) -> None:
        """An operation has ended, perhaps within `submit`, perhaps after the connection has gone."""
        io = op.context
        if not isinstance(io, IoCommand):
            return
        if not self._live:
            if op.kind is OpKind.RESERVE and op.status is MediaStatus.OK:
                self._roll_back(op, io)
            return
        self.outstanding.pop(io.cmd.cid, None)
        if io.submitted:
            io.namespace.latencies.add(op, (clock() - io.submitted) * 1e-9)
        _FINISH[op.kind](self, op, io)
        self._transport.notify()

    @staticmethod
    def _roll_back(op: MediaOp, io: IoCommand) -> None:
        op.kind = OpKind.ABORT
        op.done = _ignore
        io.namespace.media.submit(op)

    def _finish(self, op: MediaOp, io: IoCommand) -> None:
        """Complete a command that has no data to send. Only vector commands report a bitmap."""
        cmd = io.cmd
        status, bitmap = outcome(op.status, op.bitmap)
        if io.failed:
            status, bitmap = Status(io.failed), 0
        if status:
            vector = cmd.opc in _VECTOR
            self._fail(cmd, status, bitmap & 0xFFFFFFFF if vector else 0, bitmap >> 32 if vector else 0)
            return
        counters = io.namespace.counters
        if cmd.opc in (Io.WRITE, Io.VECTOR_WRITE):
            counters.writes += 1
            counters.vector_writes += cmd.opc == Io.VECTOR_WRITE
            counters.blocks_written += (cmd.cdw12 & 0xFFFF) + 1
        elif op.kind is not OpKind.READ:  # reads have been counted with their data
            io.namespace.tally.count(is_io=True, opcode=cmd.opc)
        self._responder.respond(cmd.cid)

    def _finish_read(self, op: MediaOp, io: IoCommand) -> None:
        if op.status is not MediaStatus.OK and op.status is not MediaStatus.HIGH_ECC:
            self._finish(op, io)
            return
        counters = io.namespace.counters
        counters.reads += 1
        counters.vector_reads += io.cmd.opc == Io.VECTOR_READ
        counters.blocks_read += (io.cmd.cdw12 & 0xFFFF) + 1
        memory = io.namespace.engine.memory
        if self._responder.media_data(io.cmd.cid, memory, op.pieces, io.cmd.sgl_length, op.status):
            return
        self._finish(op, io)

    def _finish_reserve(self, op: MediaOp, io: IoCommand) -> None:
        """Room is set aside: ask for the data. A list that was fetched before is the head of the command's data."""
        if op.status is not MediaStatus.OK:
            self._finish(op, io)
            return
        base = len(io.fetched) if io.fetched is not None else 0
        cmd = io.cmd
        transfer = Transfer(
            self._transport.new_ttag(), cmd.cid, cmd.sqe, io=io, base=base, length=cmd.sgl_length - base
        )
        transfer.place(op, io.namespace.engine)
        self.outstanding[io.cmd.cid] = transfer
        self._transport.request_data(transfer)

    def _finish_reset(self, op: MediaOp, io: IoCommand) -> None:
        """A vector reset reports the descriptors of the chunks it tried, whatever came of it, if asked for them."""
        cmd = io.cmd
        status, bitmap = outcome(op.status, op.bitmap)
        if cmd.opc != Io.VECTOR_RESET or not cmd.sgl_length or status is Status.INVALID_FIELD:
            self._finish(op, io)
            return
        if status:
            self._association.failed(self._queue, cmd, status, 0xFFFF)
        else:
            io.namespace.tally.count(is_io=True, opcode=cmd.opc)
        engine = io.namespace.engine
        descriptors = b"".join(
            _NO_DESCRIPTOR if extent.chunk < 0 else engine.descriptor(extent.chunk) for extent in op.extents
        )
        reply = Reply(status, bitmap & 0xFFFFFFFF, bitmap >> 32, (descriptors,), data_with_error=True)
        self._responder.reply(cmd.cid, reply, cmd.sgl_length)

    # --- the end -------------------------------------------------------------------------------------------

    def release(self, cid: int) -> bool:
        """Forget a command that the controller held; whether there was one."""
        return self.outstanding.pop(cid, self) is not self

    def abort(self, cid: int) -> bool:
        """End a command that waits for data with Abort Requested; its data will be discarded when it comes.

        A host may abort and never send that data, so there is a limit to the tags that wait for it: beyond it a command
        is not aborted, as NVMe allows.
        """
        transfer = self.outstanding.get(cid)
        if transfer is None or len(self._transport.transfers) - len(self.outstanding) >= MAX_DISCARDED:
            return False
        del self.outstanding[cid]
        self._give_up(transfer)
        transfer.discard()
        cmd = transfer.cmd
        if cmd.arrival:  # a plain write is not in the table, but for this
            self._responder.traced.setdefault(cid, cmd)
        self._fail(cmd, Status.ABORT_REQUESTED)
        self._go_on(transfer)
        return True

    def drop(self) -> None:
        """The queue has gone: no command is answered any more, and what was set aside is given back."""
        self._live = False
        waiting = [transfer for transfer in self.outstanding.values() if transfer is not None]
        for transfer in sorted(waiting, key=lambda transfer: transfer.ttag):  # so that all engines fail others alike
            self._give_up(transfer)
        self._held.clear()
        self.outstanding.clear()
        self._responder.traced.clear()


def _uses_slots(cmd: Command) -> bool:
    """Whether the command stages a list, or finds its own in a slot."""
    return cmd.opc == Io.STAGE_LBA_LIST or (cmd.opc in _VECTOR and cmd.cdw13 & 15 == ListForm.SLOT)


def _ignore(_op: MediaOp) -> None:
    """Nobody waits for this operation."""


_MOVES: dict[int, int] = {
    Moves.NONE: Direction.CONTROLLER_TO_HOST,  # a vector reset's descriptors
    Moves.HOST_TO_CONTROLLER: Direction.HOST_TO_CONTROLLER,
    Moves.WRITE: Direction.HOST_TO_CONTROLLER,
    Moves.CONTROLLER_TO_HOST: Direction.CONTROLLER_TO_HOST,
}

_FINISH: dict[OpKind, Callable[[Executor, MediaOp, IoCommand], None]] = {
    OpKind.READ: Executor._finish_read,
    OpKind.WRITE: Executor._finish,
    OpKind.RESERVE: Executor._finish_reserve,
    OpKind.COMMIT: Executor._finish,
    OpKind.ABORT: Executor._finish,
    OpKind.RESET: Executor._finish_reset,
    OpKind.COPY: Executor._finish,
    OpKind.FLUSH: Executor._finish,
}
