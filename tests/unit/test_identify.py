"""Identify, structure by structure, and Geometry."""

from __future__ import annotations

import pytest

from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import parse_geometry_page
from ocssd_tcp.wire.layouts import IDENTIFY_NAMESPACE, INDEPENDENT_NAMESPACE
from ocssd_tcp.wire.opcodes import DISCOVERY_NQN, Admin, Cns
from ocssd_tcp.wire.status import Status
from tests.unit.control_host import (
    NQN,
    OTHER_HOSTNQN,
    Outcome,
    Target,
    controller_page,
    live,
    live_discovery,
    namespace,
)

BROADCAST = 0xFFFFFFFF


def u32s(page: bytes) -> list[int]:
    return [value for i in range(0, len(page), 4) if (value := int.from_bytes(page[i : i + 4], "little"))]


def test_controller_has_every_value_that_hosts_check() -> None:
    """Conformance 68."""
    host = live(Target())
    page = controller_page(host)
    assert page["cntlid"] == host.cntlid
    assert page["subnqn"].rstrip(b"\0") == NQN.encode()
    expected = {
        "vid": 0x1D1D, "ver": 0x00010400, "cntrltype": 1, "cmic": 3, "mdts": 7, "ctratt": 0x41, "oaes": 1 << 8,
        "lpa": 0x27, "aerl": 3, "acl": 3, "elpe": 63, "frmw": 3, "kas": 10, "sqes": 0x66, "cqes": 0x44, "maxcmd": 1024,
        "nn": 3, "oncs": 0x44, "vwc": 7, "ioccsz": 516, "iorcsz": 1, "icdoff": 0, "msdbd": 1, "sgls": 0x00300001,
        "fuses": 0, "oacs": 0, "ofcs": 0, "mnan": 0,
    }  # fmt: skip
    assert {name: page[name] for name in expected} == expected


def test_controller_texts_are_padded_with_spaces() -> None:
    page = controller_page(live(Target(serial="S1", model="M", firmware="0.1")))
    assert page["sn"] == b"S1".ljust(20)
    assert page["mn"] == b"M".ljust(40)
    assert page["fr"] == b"0.1     "


def test_controllers_of_one_subsystem_differ_in_cntlid_only() -> None:
    target = Target()
    first, second = controller_page(live(target)), controller_page(live(target, hostnqn=OTHER_HOSTNQN))
    assert first.pop("cntlid") != second.pop("cntlid")
    assert first == second


@pytest.mark.parametrize(("entries", "maxcmd"), [(2, 2), (65536, 0xFFFF)])
def test_maxcmd_is_what_the_queues_hold(entries: int, maxcmd: int) -> None:
    assert controller_page(live(Target(queue_entries=entries)))["maxcmd"] == maxcmd


def test_discovery_controller_says_what_it_is() -> None:
    page = controller_page(live_discovery(Target()))
    expected = {"cntrltype": 2, "dctype": 1, "oaes": 1 << 31, "nn": 0, "cmic": 0, "oncs": 0, "lpa": 0x24, "ioccsz": 4}
    assert {name: page[name] for name in expected} == expected
    assert page["subnqn"].rstrip(b"\0") == DISCOVERY_NQN.encode()


def test_room_for_less_than_a_page_is_a_wrong_length() -> None:
    """Conformance 69."""
    host = live(Target())
    assert host.identify(Cns.CONTROLLER, sgl_length=4095) == Outcome(Status.DATA_SGL_LENGTH_INVALID)
    assert len(host.identify(Cns.CONTROLLER, sgl_length=8192).data) == 4096


@pytest.mark.parametrize("sqe_flags", [0x41, 0x42, 0x00, 0x80, 0xC0])
def test_fused_commands_and_prps_are_refused(sqe_flags: int) -> None:
    """Conformance 69."""
    assert live(Target()).identify(Cns.CONTROLLER, sqe_flags=sqe_flags) == Outcome(Status.INVALID_FIELD)


def test_reserved_flag_bits_are_ignored() -> None:
    assert live(Target()).identify(Cns.CONTROLLER, sqe_flags=0x7C).status == Status.SUCCESS


@pytest.mark.parametrize("cns", [Cns.NAMESPACE, Cns.ALLOCATED_NAMESPACE, Cns.INDEPENDENT_NAMESPACE])
@pytest.mark.parametrize("nsid", [0, 4, BROADCAST])
def test_namespace_that_cannot_be_is_invalid(cns: Cns, nsid: int) -> None:
    """Conformance 70."""
    assert live(Target()).identify(cns, nsid) == Outcome(Status.INVALID_NAMESPACE)


@pytest.mark.parametrize("cns", [Cns.NAMESPACE, Cns.ALLOCATED_NAMESPACE, Cns.INDEPENDENT_NAMESPACE])
def test_inactive_namespace_is_zeros(cns: Cns) -> None:
    """Conformance 70."""
    assert live(Target()).identify(cns, 2) == Outcome(data=bytes(4096))


def test_namespace_is_an_open_channel_ssd_with_holes() -> None:
    """Conformance 70."""
    ns = IDENTIFY_NAMESPACE.unpack_from(live(Target()).identify(Cns.NAMESPACE, 1).data)
    assert (ns["nsze"], ns["ncap"], ns["nuse"]) == (1 << (1 + 2 + 3 + 6), 2 * 3 * 5 * 64, 2 * 3 * 5 * 64)
    assert ns["vs0"] == 1
    assert ns["nsfeat"] & 4
    assert (ns["lbaf0_ms"], ns["lbaf0_lbads"], ns["flbas"], ns["mc"]) == (0, 12, 0, 0)
    assert (ns["nmic"], ns["dlfeat"]) == (1, 1)
    assert (ns["npwg"], ns["npwa"], ns["npdg"], ns["npda"], ns["nows"]) == (3, 3, 63, 63, 7)
    assert (ns["nows"] + 1) % (ns["npwg"] + 1) == 0


def test_metadata_makes_an_extended_format() -> None:
    target = Target()
    target.directory.subsystem.add_namespace(namespace(4, Geometry(block_bytes=512, metadata_bytes=16, dlfeat=2)))
    ns = IDENTIFY_NAMESPACE.unpack_from(live(target).identify(Cns.NAMESPACE, 4).data)
    assert (ns["lbaf0_ms"], ns["lbaf0_lbads"], ns["flbas"], ns["mc"], ns["dlfeat"]) == (16, 9, 0x10, 1, 2)


@pytest.mark.parametrize(
    ("mdts", "geometry", "nows"),
    [
        (1, Geometry(ws_min=1, ws_opt=8), 2),  # 8 KiB: two blocks
        (1, Geometry(ws_min=4, ws_opt=8), 4),  # never less than a write unit
        (0, Geometry(ws_min=4, ws_opt=4096), 4096),
    ],
)
def test_optimal_write_fits_one_command(mdts: int, geometry: Geometry, nows: int) -> None:
    target = Target(mdts=mdts)
    target.directory.subsystem.add_namespace(namespace(4, geometry))
    ns = IDENTIFY_NAMESPACE.unpack_from(live(target).identify(Cns.NAMESPACE, 4).data)
    assert ns["nows"] + 1 == nows


def test_optimal_sizes_that_do_not_fit_their_fields_are_not_given() -> None:
    target = Target()
    target.directory.subsystem.add_namespace(namespace(4, Geometry(clba=1 << 17)))
    ns = IDENTIFY_NAMESPACE.unpack_from(live(target).identify(Cns.NAMESPACE, 4).data)
    assert (ns["nsfeat"], ns["npdg"], ns["nows"]) == (4, 0, 0)


@pytest.mark.parametrize("cns", [Cns.ACTIVE_NSIDS, Cns.ALLOCATED_NSIDS, Cns.CSI_ACTIVE_NSIDS])
@pytest.mark.parametrize(("after", "nsids"), [(0, [1, 3]), (1, [3]), (2, [3]), (3, []), (BROADCAST - 2, [])])
def test_active_namespaces_are_listed_in_order(cns: Cns, after: int, nsids: list[int]) -> None:
    """Conformance 71."""
    assert u32s(live(Target()).identify(cns, after).data) == nsids


@pytest.mark.parametrize("nsid", [BROADCAST - 1, BROADCAST])
def test_list_after_no_namespace_is_invalid(nsid: int) -> None:
    """Conformance 71."""
    assert live(Target()).identify(Cns.ACTIVE_NSIDS, nsid) == Outcome(Status.INVALID_NAMESPACE)


def test_descriptors_are_uuid_and_nguid_and_end() -> None:
    """Conformance 72."""
    target = Target()
    identifier = target.namespaces[1].uuid.bytes
    page = live(target).identify(Cns.NS_DESCRIPTORS, 3).data
    assert page == (b"\x03\x10\0\0" + identifier + b"\x02\x10\0\0" + identifier).ljust(4096, b"\0")
    ns = IDENTIFY_NAMESPACE.unpack_from(live(target).identify(Cns.NAMESPACE, 3).data)
    assert ns["nguid"] == identifier


@pytest.mark.parametrize("cns", [Cns.NS_DESCRIPTORS, Cns.CSI_NAMESPACE, Cns.ATTACHED_CONTROLLERS])
@pytest.mark.parametrize("nsid", [0, 2, 4, BROADCAST])
def test_inactive_namespace_has_neither_descriptors_nor_controllers(cns: Cns, nsid: int) -> None:
    assert live(Target()).identify(cns, nsid) == Outcome(Status.INVALID_NAMESPACE)


@pytest.mark.parametrize("cns", [0x04, 0x09, 0x14, 0x15, 0x1C, 0x7F, 0xFF])
def test_structure_that_is_not_here_is_an_invalid_field(cns: int) -> None:
    """Conformance 73."""
    assert live(Target()).identify(cns, 1) == Outcome(Status.INVALID_FIELD)


@pytest.mark.parametrize("cns", [Cns.NAMESPACE, Cns.NS_DESCRIPTORS])
def test_namespace_is_the_same_through_every_controller(cns: Cns) -> None:
    """Conformance 74."""
    target = Target()
    assert live(target).identify(cns, 1) == live(target, hostnqn=OTHER_HOSTNQN).identify(cns, 1)
    assert live(target).identify(cns, 1) != live(target).identify(cns, 3)


@pytest.mark.parametrize("cns", [Cns.CSI_NAMESPACE, Cns.CSI_CONTROLLER, Cns.CSI_ACTIVE_NSIDS])
def test_only_the_nvm_command_set_is_known(cns: Cns) -> None:
    host = live(Target())
    assert host.identify(cns, 1, cdw11=2 << 24) == Outcome(Status.INVALID_FIELD)
    assert host.identify(cns, 1).status == Status.SUCCESS


def test_independent_namespace_is_ready_and_shared() -> None:
    ns = INDEPENDENT_NAMESPACE.unpack_from(live(Target()).identify(Cns.INDEPENDENT_NAMESPACE, 1).data)
    assert (ns["nstat"], ns["nmic"]) == (1, 1)


@pytest.mark.parametrize("cns", [Cns.CONTROLLERS, Cns.ATTACHED_CONTROLLERS])
def test_controllers_are_listed_from_cntid_on(cns: Cns) -> None:
    target = Target()
    hosts = [live(target) for _ in range(3)]
    page = hosts[0].admin(Admin.IDENTIFY, cdw10=cns | hosts[1].cntlid << 16, nsid=1, sgl_length=4096).data
    assert [int.from_bytes(page[i : i + 2], "little") for i in (0, 2, 4, 6)] == [2, hosts[1].cntlid, hosts[2].cntlid, 0]


def test_geometry_is_the_namespaces_own() -> None:
    host = live(Target())
    page = parse_geometry_page(host.admin(Admin.GEOMETRY, nsid=1, sgl_length=4096).data)
    assert (page.mjr, page.num_grp, page.num_pu, page.num_chk, page.clba, page.forms) == (2, 2, 3, 5, 64, 0b11111)
    assert host.admin(Admin.GEOMETRY, nsid=1, sgl_length=4092) == Outcome(Status.DATA_SGL_LENGTH_INVALID)


@pytest.mark.parametrize("nsid", [0, 2, 4, BROADCAST])
def test_geometry_needs_an_active_namespace(nsid: int) -> None:
    assert live(Target()).admin(Admin.GEOMETRY, nsid=nsid, sgl_length=4096) == Outcome(Status.INVALID_NAMESPACE)
