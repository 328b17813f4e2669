"""The admin commands of OCSSD 2.0: Geometry; and Set Log Page, by which testers put chunks into a state."""

from __future__ import annotations

from ocssd_tcp.commands.context import Controller
from ocssd_tcp.commands.registry import Command, Nsid, Queue, Reply, Transfer, command
from ocssd_tcp.media.override import OverrideError
from ocssd_tcp.ocssd.layouts import CHUNK_DESCRIPTOR
from ocssd_tcp.wire.layouts import SQE
from ocssd_tcp.wire.opcodes import Admin, LogPage
from ocssd_tcp.wire.status import CommandError, Status


@command(Queue.ADMIN, Admin.GEOMETRY, Transfer.CONTROLLER_TO_HOST, nsid=Nsid.ACTIVE)
def geometry(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """The namespace's Geometry page, 4,096 bytes; Data SGL Length Invalid if the host has less room (OCSSD 2.0, 4)."""
    page = controller.namespaces[cmd.nsid].geometry_page
    if cmd.sgl_length < len(page):
        raise CommandError(Status.DATA_SGL_LENGTH_INVALID, location=SQE.offset("sgl_length"))
    return Reply(data=(page,))


@command(Queue.ADMIN, Admin.SET_LOG_PAGE, Transfer.HOST_TO_CONTROLLER, nsid=Nsid.HANDLER, writes_media=True)
def set_log_page(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """Overwrite whole entries of log page CAh; dwords as in Get Log Page. Only where the operator allowed it.

    All entries are checked before any is changed. Errors: not allowed 0/01h, another page 1/09h, an offset or a length
    that is not of whole entries inside the page, or an entry that cannot be, 0/02h; other data than that 0/0Fh.
    """
    namespace = controller.namespaces.get(cmd.nsid)
    if namespace is None and any(known.allow_set_log_page for known in controller.namespaces.values()):
        raise CommandError(Status.INVALID_NAMESPACE, location=SQE.offset("nsid"))
    if namespace is None or not namespace.allow_set_log_page:
        raise CommandError(Status.INVALID_OPCODE, location=SQE.offset("opc"))
    if cmd.cdw10 & 0xFF != LogPage.CHUNK_INFORMATION:
        raise CommandError(Status.INVALID_LOG_PAGE, location=SQE.offset("cdw10"))
    length = ((cmd.cdw11 & 0xFFFF) << 16 | cmd.cdw10 >> 16) * 4 + 4
    offset = cmd.cdw12 | cmd.cdw13 << 32
    if len(data) != length:
        raise CommandError(Status.DATA_SGL_LENGTH_INVALID, location=SQE.offset("sgl_length"))
    if (offset | length) % CHUNK_DESCRIPTOR.size or offset + length > namespace.engine.log_bytes:
        raise CommandError(Status.INVALID_FIELD, location=SQE.offset("cdw12"))
    try:
        namespace.engine.set_log(offset, data)
    except OverrideError as error:
        raise CommandError(Status.INVALID_FIELD) from error
    return Reply()
