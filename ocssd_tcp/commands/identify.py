"""Identify: every structure, one function each (NVMe Base 1.4, 5.15; Open-Channel SSD 2.0, 3)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeAlias

from ocssd_tcp.commands.context import AERL, ERROR_LOG_ENTRIES, KAS_MS, Controller
from ocssd_tcp.commands.logpages import offered_lpa
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.registry import Command, Nsid, Queue, Registry, Reply, Transfer, command
from ocssd_tcp.ocssd.geometry import U16_MAX
from ocssd_tcp.wire.layouts import IDENTIFY_CONTROLLER, IDENTIFY_NAMESPACE, INDEPENDENT_NAMESPACE, SQE
from ocssd_tcp.wire.opcodes import BROADCAST_NSID, NVME_VERSION, Admin, Cns
from ocssd_tcp.wire.status import CommandError, Status

IDENTIFY_BYTES = 4096
_ZEROS = bytes(IDENTIFY_BYTES)
_MAX_NSIDS = IDENTIFY_BYTES // 4
_MAX_CNTLIDS = IDENTIFY_BYTES // 2 - 1
_CSI_NVM = 0

VID = 0x1D1D  #: host stacks know Open-Channel SSDs by it
_CMIC = 0x03  #: several ports, several controllers
_CTRATT = 0x41  #: 128-bit host identifier, traffic-based keep alive
_ONCS = 0x0044  #: Dataset Management, Timestamp
_VWC = 0x07  #: present; Flush may name all namespaces
_SGLS = 0x00300001  #: byte-aligned SGLs, in-capsule offsets, transport data blocks
_IO_OAES, _DISCOVERY_OAES = 1 << 8, 1 << 31
_CNTRLTYPE_IO, _CNTRLTYPE_DISCOVERY = 1, 2

_NSFEAT_DULBE, _NSFEAT_OPTIMAL_IO = 1 << 2, 1 << 4
_FLBAS_EXTENDED, _MC_EXTENDED = 0x10, 1
_NMIC_SHARED = 1
_NSTAT_READY = 1
_NIDT_NGUID, _NIDT_UUID = 2, 3

Page: TypeAlias = Callable[[Controller, Command], bytes]
IDENTIFY_PAGES: Registry[Page] = Registry()
_ON_DISCOVERY = frozenset({Cns.CONTROLLER})


def _page(cns: Cns) -> Callable[[Page], Page]:
    def register(page: Page) -> Page:
        IDENTIFY_PAGES.add(cns, page)
        return page

    return register


def _invalid(field: str) -> CommandError:
    return CommandError(Status.INVALID_FIELD, location=SQE.offset(field))


def _invalid_namespace() -> CommandError:
    return CommandError(Status.INVALID_NAMESPACE, location=SQE.offset("nsid"))


@command(Queue.ADMIN, Admin.IDENTIFY, Transfer.CONTROLLER_TO_HOST, nsid=Nsid.HANDLER, discovery=True)
def identify(controller: Controller, cmd: Command, data: bytes, now: float) -> Reply:
    """4,096 bytes. Invalid Field for a structure that is not here, Data SGL Length Invalid for less room."""
    cns = cmd.cdw10 & 0xFF
    page = IDENTIFY_PAGES.get(cns)
    if page is None or (controller.discovery and cns not in _ON_DISCOVERY):
        raise _invalid("cdw10")
    if cmd.sgl_length < IDENTIFY_BYTES:
        raise CommandError(Status.DATA_SGL_LENGTH_INVALID, location=SQE.offset("sgl_length"))
    return Reply(data=(page(controller, cmd).ljust(IDENTIFY_BYTES, b"\0"),))


# --- controllers ----------------------------------------------------------------------------------


@_page(Cns.CONTROLLER)
def identify_controller(controller: Controller, cmd: Command) -> bytes:
    """Identify Controller (5.15.2.2)."""
    config = controller.config
    fields: dict[str, int | bytes] = {
        "vid": VID,
        "sn": _ascii(config.serial, 20),
        "mn": _ascii(config.model, 40),
        "fr": _ascii(config.firmware, 8),
        "rab": 6,
        "mdts": config.mdts,
        "cntlid": controller.cntlid,
        "ver": NVME_VERSION,
        "ctratt": _CTRATT,
        "acl": 3,
        "aerl": AERL,
        "frmw": 0x03,  # one slot, read-only
        "lpa": offered_lpa(controller),
        "elpe": ERROR_LOG_ENTRIES - 1,
        "kas": KAS_MS // 100,
        "maxcmd": min(config.queue_entries, U16_MAX),
        "sgls": _SGLS,
        "subnqn": controller.subnqn.encode(),
        "ioccsz": 4,
        "iorcsz": 1,
        "msdbd": 1,
    }
    fields |= _discovery_fields() if controller.discovery else _io_fields(controller)
    return IDENTIFY_CONTROLLER.pack(**fields)


def _discovery_fields() -> dict[str, int]:
    return {"cntrltype": _CNTRLTYPE_DISCOVERY, "dctype": 1, "oaes": _DISCOVERY_OAES}


def _io_fields(controller: Controller) -> dict[str, int]:
    return {
        "cntrltype": _CNTRLTYPE_IO,
        "cmic": _CMIC,
        "oaes": _IO_OAES,
        "wctemp": 0x157,
        "cctemp": 0x175,
        "sqes": 0x66,
        "cqes": 0x44,
        "nn": _highest_nsid(controller),
        "oncs": _ONCS,
        "vwc": _VWC,
        "ioccsz": (SQE.size + controller.config.in_capsule_bytes) // 16,
        "psd0_mp": 0x09C4,
        "psd0_enlat": 16,
        "psd0_exlat": 4,
    }


def _ascii(text: str, width: int) -> bytes:
    return text.encode("ascii", "replace")[:width].ljust(width)


@_page(Cns.CSI_CONTROLLER)
def csi_controller(controller: Controller, cmd: Command) -> bytes:
    """NVM command set controller data: no limits."""
    _check_csi(cmd)
    return _ZEROS


@_page(Cns.ATTACHED_CONTROLLERS)
def attached_controllers(controller: Controller, cmd: Command) -> bytes:
    """Controllers that can reach a namespace: all of them."""
    if cmd.nsid not in controller.namespaces:
        raise _invalid_namespace()
    return subsystem_controllers(controller, cmd)


@_page(Cns.CONTROLLERS)
def subsystem_controllers(controller: Controller, cmd: Command) -> bytes:
    """Count, then controller IDs from CNTID (CDW10 31:16) on."""
    found = [cntlid for cntlid in controller.controllers() if cntlid >= cmd.cdw10 >> 16][:_MAX_CNTLIDS]
    return struct.pack(f"<{len(found) + 1}H", len(found), *found)


# --- namespaces -----------------------------------------------------------------------------------


def _highest_nsid(controller: Controller) -> int:
    return max(controller.namespaces, default=1)


def _check_csi(cmd: Command) -> None:
    if cmd.cdw11 >> 24 != _CSI_NVM:
        raise _invalid("cdw11")


def _namespace(controller: Controller, cmd: Command) -> Namespace | None:
    """The active namespace, None for an inactive one; Invalid Namespace if there can be no such NSID."""
    if not 0 < cmd.nsid <= _highest_nsid(controller):
        raise _invalid_namespace()
    return controller.namespaces.get(cmd.nsid)


@_page(Cns.NAMESPACE)
@_page(Cns.ALLOCATED_NAMESPACE)
def identify_namespace(controller: Controller, cmd: Command) -> bytes:
    """Identify Namespace (5.15.2.1); zeros for an inactive one."""
    namespace = _namespace(controller, cmd)
    return namespace_page(namespace, controller.config.max_transfer) if namespace else _ZEROS


def namespace_page(namespace: Namespace, max_transfer: int) -> bytes:
    """Identify Namespace of an active namespace. NSZE is the whole address space, holes included."""
    geometry, ncap = namespace.geometry, namespace.engine.ncap
    extended = bool(geometry.metadata_bytes)
    optimal = _optimal_io(namespace, max_transfer)
    return IDENTIFY_NAMESPACE.pack(
        nsze=geometry.nsze,
        ncap=ncap,
        nuse=ncap,
        nsfeat=_NSFEAT_DULBE | (_NSFEAT_OPTIMAL_IO if optimal else 0),
        flbas=_FLBAS_EXTENDED if extended else 0,
        mc=_MC_EXTENDED if extended else 0,
        nmic=_NMIC_SHARED,
        dlfeat=geometry.dlfeat,
        nvmcap=(ncap * geometry.block_bytes).to_bytes(16, "little"),
        nguid=namespace.uuid.bytes,
        lbaf0_ms=geometry.metadata_bytes,
        lbaf0_lbads=geometry.block_bytes.bit_length() - 1,
        vs0=1,
        **optimal,
    )


def _optimal_io(namespace: Namespace, max_transfer: int) -> dict[str, int]:
    """NPWG and its kin (0's based): writes are multiples of ws_min, deallocation is of whole chunks.

    Empty if they do not fit their fields. NOWS is at most what one command can move.
    """
    geometry = namespace.geometry
    longest = max_transfer // geometry.block_stride if max_transfer else geometry.ws_opt
    nows = max(geometry.ws_min, min(geometry.ws_opt, longest) // geometry.ws_min * geometry.ws_min)
    if max(geometry.clba, nows) > U16_MAX:
        return {}
    unit, chunk = geometry.ws_min - 1, geometry.clba - 1
    return {"npwg": unit, "npwa": unit, "npdg": chunk, "npda": chunk, "nows": nows - 1}


@_page(Cns.NS_DESCRIPTORS)
def ns_descriptors(controller: Controller, cmd: Command) -> bytes:
    """Namespace identification descriptors: UUID, and the same 16 bytes as NGUID (5.15.2.4)."""
    namespace = controller.namespaces.get(cmd.nsid)
    if namespace is None:
        raise _invalid_namespace()
    identifier = namespace.uuid.bytes
    return b"".join(bytes((nidt, len(identifier), 0, 0)) + identifier for nidt in (_NIDT_UUID, _NIDT_NGUID))


@_page(Cns.ACTIVE_NSIDS)
@_page(Cns.ALLOCATED_NSIDS)
def active_nsids(controller: Controller, cmd: Command) -> bytes:
    """NSIDs above the given one, ascending (5.15.2.3)."""
    if cmd.nsid >= BROADCAST_NSID - 1:
        raise _invalid_namespace()
    found = sorted(nsid for nsid in controller.namespaces if nsid > cmd.nsid)[:_MAX_NSIDS]
    return struct.pack(f"<{len(found)}I", *found)


@_page(Cns.CSI_ACTIVE_NSIDS)
def csi_active_nsids(controller: Controller, cmd: Command) -> bytes:
    """NSIDs of the NVM command set above the given one: all of them."""
    _check_csi(cmd)
    return active_nsids(controller, cmd)


@_page(Cns.CSI_NAMESPACE)
def csi_namespace(controller: Controller, cmd: Command) -> bytes:
    """NVM command set data of a namespace: nothing special."""
    _check_csi(cmd)
    if cmd.nsid not in controller.namespaces:
        raise _invalid_namespace()
    return _ZEROS


@_page(Cns.INDEPENDENT_NAMESPACE)
def independent_namespace(controller: Controller, cmd: Command) -> bytes:
    """I/O command set independent data: shared, and ready (Linux skips a namespace that is not)."""
    if _namespace(controller, cmd) is None:
        return _ZEROS
    return INDEPENDENT_NAMESPACE.pack(nsfeat=_NSFEAT_DULBE, nmic=_NMIC_SHARED, nstat=_NSTAT_READY)
