"""Admin commands that are not about pages of data: Abort, Asynchronous Event Request, Keep Alive (NVMe Base 1.4, 5)."""

from __future__ import annotations

from ocssd_tcp.commands.context import Controller
from ocssd_tcp.commands.registry import Command, Nsid, Queue, Reply, Transfer, command
from ocssd_tcp.wire.layouts import SQE
from ocssd_tcp.wire.opcodes import Admin
from ocssd_tcp.wire.status import CommandError, Status

_NOT_ABORTED = 1  #: DW0 of an Abort that came too late


@command(Queue.ADMIN, Admin.ABORT, Transfer.NONE)
def abort(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """Always a success; DW0 bit 0 says that nothing was aborted. The victim is completed first.

    An Abort is done when it returns, so the limit on Aborts in flight (ACL) cannot be passed.
    """
    aborted = controller.abort(cmd.cdw10 & 0xFFFF, cmd.cdw10 >> 16)
    return Reply(dw0=0 if aborted else _NOT_ABORTED)


@command(Queue.ADMIN, Admin.ASYNC_EVENT_REQUEST, Transfer.NONE, discovery=True)
def async_event_request(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply | None:
    """Held until there is an event; Asynchronous Event Request Limit Exceeded above AERL + 1."""
    return controller.hold_event_request(cmd.cid)


@command(Queue.ADMIN, Admin.KEEP_ALIVE, Transfer.NONE, nsid=Nsid.HANDLER, discovery=True)
def keep_alive(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """Restarts the timer; a success also without one. Invalid Field if the command names a namespace."""
    if cmd.nsid:
        raise CommandError(Status.INVALID_FIELD, location=SQE.offset("nsid"))
    controller.keep_alive(now)
    return Reply()
