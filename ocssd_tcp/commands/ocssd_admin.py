"""The admin command of OCSSD 2.0: Geometry."""

from __future__ import annotations

from ocssd_tcp.commands.context import Controller
from ocssd_tcp.commands.registry import Command, Nsid, Queue, Reply, Transfer, command
from ocssd_tcp.wire.layouts import SQE
from ocssd_tcp.wire.opcodes import Admin
from ocssd_tcp.wire.status import CommandError, Status


@command(Queue.ADMIN, Admin.GEOMETRY, Transfer.CONTROLLER_TO_HOST, nsid=Nsid.ACTIVE)
def geometry(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """The namespace's Geometry page, 4,096 bytes; Data SGL Length Invalid if the host has less room (OCSSD 2.0, 4)."""
    page = controller.namespaces[cmd.nsid].geometry_page
    if cmd.sgl_length < len(page):
        raise CommandError(Status.DATA_SGL_LENGTH_INVALID, location=SQE.offset("sgl_length"))
    return Reply(data=(page,))
