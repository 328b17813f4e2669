"""What nvme-cli sees of the drive: discovery, Identify, Geometry, the chunk information log, queues."""

from __future__ import annotations

import struct

import pytest

from tests.e2e import ocssd_math as ocssd
from tests.e2e.connection import Connection, Namespace, json_of, raw_of
from tests.e2e.drive import BLOCK, NAMESPACE, NQN, SERIAL, Drive, wait_until
from tests.e2e.guest import GATEWAY, Guest

pytestmark = pytest.mark.usefixtures("clean_log")

SPACE = 2 * 2 * 128 * 64
"""Blocks of namespace 1's address space: 96 chunks take seven bits."""
CAPACITY = 2 * 2 * 96 * 64


def test_discover_lists_the_drive_at_the_advertised_address(guest: Guest, drive: Drive) -> None:
    records = json_of(guest, f"discover -t tcp -a {GATEWAY} -s {drive.port}")["records"]
    entries = [record for record in records if record["subnqn"] == NQN]
    assert [(entry["trtype"], entry["traddr"], entry["trsvcid"]) for entry in entries] == [
        ("tcp", GATEWAY, str(drive.port))
    ]


def test_connect_all_connects_what_discovery_lists(guest: Guest, drive: Drive) -> None:
    guest.run(f"nvme connect-all -t tcp -a {GATEWAY} -s {drive.port}")
    connection = Connection(guest)
    assert connection.live()
    connection.disconnect()


def test_a_discovery_leaves_no_connection_behind(guest: Guest, drive: Drive) -> None:
    guest.run(f"nvme discover -t tcp -a {GATEWAY} -s {drive.port}")
    wait_until(lambda: drive.connections() == 0, 10, "all connections are closed")


def test_list_shows_both_namespaces(guest: Guest, namespace: Namespace, single: Namespace) -> None:
    devices = {device["DevicePath"]: device for device in json_of(guest, "list")["Devices"]}
    assert set(devices) == {namespace.block, single.block}
    shown = devices[namespace.block]
    assert (shown["SerialNumber"], shown["SectorSize"]) == (SERIAL, BLOCK)
    assert (shown["UsedBytes"], shown["PhysicalSize"]) == (CAPACITY * BLOCK, SPACE * BLOCK)


def test_id_ctrl_shows_an_open_channel_drive(guest: Guest, connected: Connection) -> None:
    shown = json_of(guest, f"id-ctrl /dev/{connected.controller}")
    assert (shown["vid"], shown["sn"].strip(), shown["subnqn"]) == (0x1D1D, SERIAL, NQN)
    assert (shown["nn"], shown["mdts"], shown["ioccsz"]) == (2, 7, (64 + 8192) // 16)
    assert shown["oncs"] & 4, "Dataset Management"
    assert shown["lpa"] & 4, "offsets in Get Log Page"
    assert shown["kas"]


def test_id_ns_shows_the_address_space_and_the_capacity(guest: Guest, namespace: Namespace) -> None:
    shown = json_of(guest, f"id-ns {namespace.block}")
    assert (shown["nsze"], shown["ncap"]) == (SPACE, CAPACITY)
    assert shown["nuse"] <= shown["ncap"]
    assert shown["nsfeat"] & 4, "DULBE"
    assert shown["dlfeat"] & 7 == 1, "unwritten blocks read as zeros"
    assert shown["lbafs"][shown["flbas"] & 15]["ds"] == BLOCK.bit_length() - 1


def test_id_ns_is_marked_as_open_channel(guest: Guest, namespace: Namespace) -> None:
    assert raw_of(guest, f"id-ns {namespace.block} --raw-binary")[384] == 1


def test_geometry_by_admin_passthrough(guest: Guest, namespace: Namespace) -> None:
    page = raw_of(
        guest, f"admin-passthru {namespace.char} --opcode=0xe2 --namespace-id=1 --data-len=4096 --read --raw-binary"
    )
    geometry = ocssd.Geometry.decode(page)
    assert page[:2] == b"\x02\x00"
    assert (geometry.grp_len, geometry.pu_len, geometry.chk_len, geometry.lbk_len) == (1, 1, 7, 6)
    assert {name: getattr(geometry, name) for name in NAMESPACE if name != "block_bytes"} == {
        name: value for name, value in NAMESPACE.items() if name != "block_bytes"
    }
    assert geometry.mccap == 0b101, "copy, early reset"
    assert (geometry.address_space, geometry.capacity) == (SPACE, CAPACITY)


def test_geometry_tells_of_the_list_binding(guest: Guest, namespace: Namespace) -> None:
    page = guest.passthrough(namespace.char, "admin", ocssd.GEOMETRY_OPCODE, 1, receive=4096).data
    assert page[3072:3077] == b"OCFB\x01"
    assert page[3077] & 0b1111 == 0b1111, "forms 0 to 3"
    assert int.from_bytes(page[3080:3082], "little") == 64


def test_chunk_log_by_get_log(guest: Guest, namespace: Namespace) -> None:
    size = namespace.geometry().num_chunks * ocssd.DESCRIPTOR.size
    page = raw_of(guest, f"get-log {namespace.block} --log-id=0xca --namespace-id=1 --log-len={size} --raw-binary")
    table, geometry = ocssd.chunks(page), namespace.geometry()
    assert table == namespace.chunks()
    assert [chunk.slba for chunk in table] == [
        geometry.lba(grp, pu, chk)
        for grp in range(geometry.num_grp)
        for pu in range(geometry.num_pu)
        for chk in range(geometry.num_chk)
    ]
    assert {(chunk.ct, chunk.cnlb) for chunk in table} == {(ocssd.SEQUENTIAL, geometry.clba)}


@pytest.mark.parametrize(("offset", "size"), [(0, 32), (95 * 32, 64), (96 * 32 + 8, 16), (383 * 32, 32)])
def test_part_of_the_chunk_log(guest: Guest, namespace: Namespace, offset: int, size: int) -> None:
    whole = b"".join(ocssd.DESCRIPTOR.pack(*chunk) for chunk in namespace.chunks())
    page = raw_of(
        guest,
        f"get-log {namespace.block} --log-id=0xca --namespace-id=1 --log-len={size} --lpo={offset} --raw-binary",
    )
    assert page == whole[offset : offset + size]


@pytest.mark.parametrize("command", ["smart-log", "error-log", "fw-log"])
def test_the_standard_logs_are_read(guest: Guest, connected: Connection, command: str) -> None:
    assert json_of(guest, f"{command} /dev/{connected.controller}") is not None


def test_the_effects_log_tells_of_the_vector_commands(guest: Guest, connected: Connection) -> None:
    # By get-log: the effects-log of nvme-cli 2.3 prints nothing, whatever the target.
    page = raw_of(guest, f"get-log /dev/{connected.controller} --log-id=5 --log-len=4096 --raw-binary")
    io_commands = struct.unpack_from("<256I", page, 1024)
    vector = (ocssd.VECTOR_RESET, ocssd.VECTOR_WRITE, ocssd.VECTOR_READ, ocssd.VECTOR_COPY, ocssd.STAGE_LBA_LIST)
    assert all(io_commands[opcode] & 1 for opcode in vector)


def test_there_are_as_many_io_queues_as_cpus(guest: Guest, drive: Drive, connected: Connection) -> None:
    assert guest.cpus >= 2
    assert connected.attribute("queue_count") == str(guest.cpus + 1)
    assert drive.connections() == guest.cpus + 1


def test_disconnect_leaves_no_connection_behind(guest: Guest, drive: Drive) -> None:
    Connection.to(guest, drive).disconnect()
    wait_until(lambda: drive.connections() == 0, 10, "all connections are closed")
