"""The verbs of a drive, against a target that keeps the rules of chunks."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import ocssd_tcp.host as host
from ocssd_tcp.host import (
    BindingUnsupported,
    ChunkState,
    Controller,
    Drive,
    ListForm,
    Options,
    Status,
    StatusError,
    SyncDrive,
    TransportError,
    UsageError,
)
from ocssd_tcp.ocssd.layouts import GEOMETRY
from ocssd_tcp.wire.opcodes import Admin, Io
from ocssd_tcp.wire.status import DNR
from tests.support_fake_target import NQN, Answer, FakeTarget, tiny

HOST = "127.0.0.1"
#: no progression: two runs of four, then two of two
SCATTERED = (0, 1, 2, 3, 128, 129, 130, 131, 448, 449, 450, 451, 4, 5, 6, 7)
LISTS = [ListForm.PROGRESSION, ListForm.SLOT, ListForm.CAPSULE]


def connect(target: FakeTarget, **options: Any) -> SyncDrive:
    return host.connect(HOST, target.port, **options)


def pattern(n_blocks: int, size: int = 512) -> bytes:
    return b"".join(bytes([i + 1]) * size for i in range(n_blocks))


def opcodes(target: FakeTarget) -> list[tuple[int, int]]:
    """Opcode and list form of what came to the I/O queues."""
    return [(f["opc"], f["cdw13"] & 15) for qid, f, _ in target.log if qid > 0 and f["opc"] != Admin.FABRICS]


def test_the_example_of_the_package_works() -> None:
    with FakeTarget().running() as target, host.connect(HOST, target.port) as drive:
        slba = drive.addresses.join(grp=0, pu=1, chk=2)
        drive.write(slba, bytes(drive.geometry.ws_opt * drive.block_bytes))
        assert drive.chunk(slba) == (ChunkState.OPEN, 1, 0, slba, 32, 8)
        drive.reset(slba)
        drive.flush()
        assert drive.chunk(slba).cs == ChunkState.FREE
        assert drive.info.serial == "FAKE1"
        assert drive.namespace.dulbe_supported


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"header_digest": True, "data_digest": True},
        {"disable_sqflow": True, "queues": 3},
    ],
    ids=["plain", "digests", "no flow control"],
)
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"r2t_bytes": 700, "c2h_bytes": 300, "in_capsule": 0, "maxh2cdata": 4096},
        {"in_capsule": 1 << 16, "mdts": 1, "success": True},
    ],
    ids=["large pieces", "small pieces", "in capsules"],
)
def test_data_comes_back_however_it_travels(options: dict[str, Any], shape: dict[str, Any]) -> None:
    with FakeTarget(**shape).running() as target, connect(target, **options) as drive:
        data = pattern(32)
        drive.write(448, np.frombuffer(data, np.uint8))
        assert drive.read(448, 32) == data
        buffer = bytearray(1024)
        drive.read_into(450, buffer)
        assert buffer == data[1024:2048]
        into = np.zeros((2, 512), np.uint8)
        drive.vector_read_into([479, 448], into)
        assert into.tobytes() == data[-512:] + data[:512]


@pytest.mark.parametrize("form", [ListForm.DATA, *LISTS, None])
def test_a_vector_write_and_read_by_every_form(form: ListForm | None) -> None:
    lbas = range(64, 96) if form is ListForm.PROGRESSION else SCATTERED
    read_form = None if form is ListForm.DATA else form
    with FakeTarget(geometry=tiny(mw_cunits=0)).running() as target, connect(target) as drive:
        data = pattern(len(lbas))
        drive.vector_write(lbas, data, form=form)
        assert drive.vector_read(lbas, form=read_form) == data
        used = opcodes(target)
        expected = ListForm.CAPSULE if form is None else form
        assert (Io.VECTOR_WRITE, expected) in used
        assert ((Io.STAGE_LBA_LIST, 0) in used) == (form is ListForm.SLOT)


@pytest.mark.parametrize("form", [ListForm.DATA, *LISTS, None])
def test_a_copy_by_every_form(form: ListForm | None) -> None:
    with FakeTarget(geometry=tiny(mw_cunits=0)).running() as target, connect(target) as drive:
        drive.write(448, pattern(32))
        sources = range(448, 456) if form in (ListForm.PROGRESSION, None) else [449, 448, 451, 450, 463, 462, 460, 448]
        drive.vector_copy(sources, range(64, 72), form=form)
        assert drive.read(64, 8) == b"".join(pattern(32)[(lba - 448) * 512 :][:512] for lba in sources)
        assert (Io.VECTOR_COPY, ListForm.PROGRESSION if form is None else form) in opcodes(target)


@pytest.mark.parametrize("form", LISTS)
def test_a_reset_by_every_form_returns_descriptors(form: ListForm) -> None:
    with FakeTarget().running() as target, connect(target) as drive:
        for slba in (0, 128, 256):
            drive.write(slba, pattern(4))
        found = drive.reset_with_descriptors([0, 128, 256], form=form)
        assert found["cs"].tolist() == [ChunkState.FREE] * 3
        assert found["slba"].tolist() == [0, 128, 256]


def test_a_form_may_be_the_drives_habit() -> None:
    with FakeTarget().running() as target, connect(target) as drive:
        drive.drive.form = ListForm.SLOT
        drive.vector_read([1, 2])
        assert opcodes(target) == [(Io.STAGE_LBA_LIST, 0), (Io.VECTOR_READ, ListForm.SLOT)]


def test_a_staged_list_is_used_without_staging_again() -> None:
    with FakeTarget().running() as target, connect(target) as drive:
        drive.write(0, pattern(32))
        staged = drive.stage(9, [5, 3, 31])
        assert (staged.slot, staged[1], staged[1:]) == (9, 3, (3, 31))
        for _ in range(2):
            assert drive.vector_read(staged) == b"".join(bytes([lba + 1]) * 512 for lba in staged)
        drive.vector_copy(drive.stage(1, [4, 3, 2, 1]), drive.stage(2, [64, 65, 66, 67]))
        assert [opcode for opcode, _ in opcodes(target)].count(Io.STAGE_LBA_LIST) == 3
        with pytest.raises(UsageError, match="slot 64"):
            drive.stage(64, [1])


async def test_many_staged_commands_in_flight_keep_their_lists() -> None:
    with FakeTarget().running() as target:
        drive = await host.open_drive(HOST, target.port)
        async with drive.controller:
            await drive.write(0, pattern(32))
            lists = [[i, 31 - i, i] for i in range(32)]
            found = await asyncio.gather(*(drive.vector_read(lbas, form=ListForm.SLOT) for lbas in lists))
            assert found == [b"".join(bytes([lba + 1]) * 512 for lba in lbas) for lbas in lists]


def test_writes_beyond_mdts_go_in_order_in_whole_units() -> None:
    with FakeTarget(mdts=1, geometry=tiny(ws_min=3, ws_opt=3, clba=30)).running() as target, connect(target) as drive:
        drive.write(0, pattern(30))
        writes = [(f["cdw10"], f["cdw12"] + 1) for _, f, _ in target.log if f["opc"] == Io.WRITE]
        assert writes == [(0, 15), (15, 15)]  # 8 KiB hold 16 blocks
        drive.read(0, 30)
        reads = [(f["cdw10"], f["cdw12"] + 1) for qid, f, _ in target.log if f["opc"] == Io.READ and qid]
        assert sorted(reads) == [(0, 16), (16, 14)]


@pytest.mark.parametrize("verb", ["write", "vector_write"])
def test_fua_is_bit_30(verb: str) -> None:
    with FakeTarget().running() as target, connect(target) as drive:
        getattr(drive, verb)(0 if verb == "write" else [0, 1, 2, 3], pattern(4), fua=True)
        assert target.log[-1][1]["cdw12"] == 1 << 30 | 3


def test_commands_of_a_parallel_unit_share_a_queue() -> None:
    with FakeTarget().running() as target, connect(target, queues=2) as drive:
        for lba in (0, 64, 128, 160, 256, 384):
            drive.read(lba)
        assert [qid for qid, f, _ in target.log if f["opc"] == Io.READ and qid > 0] == [1, 1, 2, 2, 1, 2]


def test_extended_lbas_carry_metadata() -> None:
    with FakeTarget(geometry=tiny(metadata_bytes=16, mw_cunits=0)).running() as target, connect(target) as drive:
        assert drive.block_bytes == 528
        drive.write(0, pattern(4, 528))
        assert drive.vector_read([3, 0]) == b"\4" * 528 + b"\1" * 528


def test_chunks_are_an_array_of_descriptors() -> None:
    with FakeTarget(geometry=tiny(num_chk=60, clba=4096)).running() as target, connect(target) as drive:
        drive.write(drive.addresses.lba(61), pattern(4))
        table = drive.chunks()
        assert len(table) == 240
        assert np.flatnonzero(table["cs"] == ChunkState.OPEN).tolist() == [61]
        assert drive.chunks(60, 2)["wp"].tolist() == [0, 4]
        for first, count in ((-1, 1), (0, 0), (239, 2)):
            with pytest.raises(UsageError, match="the drive has 0 to 239"):
                drive.chunks(first, count)


def test_dataset_management_resets_whole_chunks() -> None:
    with FakeTarget().running() as target, connect(target) as drive:
        drive.write(0, pattern(4))
        drive.write(448, pattern(32))
        drive.dsm_reset([0, 448])
        assert target.log[-1][2].hex() == "00000000200000000000000000000000" + "0000000020000000c001000000000000"
        assert (target.log[-1][1]["cdw10"], target.log[-1][1]["cdw11"]) == (1, 4)
        with pytest.raises(StatusError) as caught:
            drive.dsm_reset([0], [31])
        assert caught.value.code == Status.LBA_OUT_OF_RANGE
        with pytest.raises(UsageError):
            drive.dsm_reset([])
        with pytest.raises(UsageError):
            drive.dsm_reset([0], [1, 2])


def test_dulbe_is_set_for_the_namespace() -> None:
    with FakeTarget().running() as target, connect(target) as drive:
        drive.set_dulbe(True)
        assert (target.log[-1][1]["nsid"], target.log[-1][1]["cdw11"]) == (1, 1 << 16)


# --- refusals ---------------------------------------------------------------------------------


def test_a_refused_vector_command_says_which_entries() -> None:
    with FakeTarget().running() as target, connect(target) as drive:
        drive.write(128, pattern(4))
        with pytest.raises(StatusError, match=r"Vector Chunk Reset: Invalid Reset \(2/C1h, do not retry\)") as caught:
            drive.reset_with_descriptors([0, 128, 256])
        error = caught.value
        assert (error.code, error.bitmap, error.failed) == (Status.INVALID_RESET, 0b101, [0, 2])
        assert error.data["slba"].tolist() == [0, 128, 256]
        with pytest.raises(StatusError) as caught:
            drive.write(4, pattern(4))
        assert (caught.value.code, caught.value.failed, caught.value.data) == (Status.OUT_OF_ORDER_WRITE, [], None)


def test_high_ecc_comes_with_its_data() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        is_read = qid > 0 and fields["opc"] == Io.VECTOR_READ
        return Answer(Status.READ_HIGH_ECC | DNR, 2, 0, b"E" * 1024) if is_read else None

    with FakeTarget(script=script).running() as target, connect(target) as drive:
        with pytest.raises(StatusError, match="High ECC") as caught:
            drive.vector_read([1, 2])
        assert bytes(caught.value.data) == b"E" * 1024
        assert caught.value.failed == [1]


@pytest.mark.parametrize(
    ("verb", "arguments", "text"),
    [
        ("read", (0, 0), "0 blocks"),
        ("read", (1 << 64, 1), "not a 64-bit LBA"),
        ("read", (-1, 1), "not a 64-bit LBA"),
        ("read_into", (0, bytearray(100)), "whole number of blocks of 512"),
        ("read_into", (0, np.zeros((4, 1024), np.uint8)[:, ::2]), "contiguous"),
        ("write", (0, b""), "whole number of blocks"),
        ("write", (0, bytes(100)), "100 bytes of data"),
        ("vector_write", ([0, 1], bytes(512)), "expected 2 blocks"),
        ("vector_read", ([],), "1 to 64 LBAs, not 0"),
        ("vector_read", (range(65),), "1 to 64 LBAs, not 65"),
        ("vector_copy", ([0, 1], [5]), "2 sources and 1 destinations"),
        ("reset", ([],), "1 to 64 LBAs"),
        ("reset", ([0, 1 << 64],), "64-bit"),
        ("chunk", (0x1000000,), "names no chunk"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_sent(verb: str, arguments: tuple[Any, ...], text: str) -> None:
    with FakeTarget().running() as target, connect(target) as drive:
        before = len(target.log)
        with pytest.raises(UsageError, match=text):
            getattr(drive, verb)(*arguments)
        assert len(target.log) == before


def test_a_drive_without_the_binding_takes_single_lbas() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        plain = target.drive.page[:3072].ljust(4096, b"\0")
        return Answer(data=plain) if qid == 0 and fields["opc"] == Admin.GEOMETRY else None

    target = FakeTarget(script=script)
    with target.running(), connect(target) as drive:
        drive.write(0, pattern(32))
        assert drive.vector_read([31]) == b"\x20" * 512
        drive.reset(0)
        with pytest.raises(BindingUnsupported, match="no form for a list of 2"):
            drive.reset([0, 128])
        with pytest.raises(BindingUnsupported, match="does not offer form 4"):
            drive.vector_read([0, 1], form=ListForm.CAPSULE)
        with pytest.raises(UsageError, match="slot 0"):
            drive.stage(0, [1])


def spoilt(**fields: int) -> bytes:
    page = bytearray(FakeTarget().drive.page)
    for name, value in fields.items():
        field = GEOMETRY.fields[name]
        page[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little")
    return bytes(page)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (spoilt(mjr=1), "revision 1.0"),
        (spoilt(num_chk=0), "num_chk 0"),
        (spoilt(num_pu=3), "num_pu 3 in an address field of 1 bits"),
        (spoilt(clba=0xFFFFFFFF), "clba 4294967295"),
        (spoilt(lbk_len=255), "addresses of 259 bits"),
        (spoilt(ws_min=0), "ws_min 0"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(page: bytes, text: str) -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        return Answer(data=page) if qid == 0 and fields["opc"] == Admin.GEOMETRY else None

    with FakeTarget(script=script).running() as target, pytest.raises(UsageError, match=text):
        connect(target)


@pytest.mark.parametrize(
    ("status", "text"),
    [(Status.INVALID_OPCODE, "is not an Open-Channel SSD"), (Status.INVALID_NAMESPACE, "has no namespace 1")],
)
def test_a_namespace_without_geometry_is_no_open_channel_ssd(status: Status, text: str) -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        return Answer(status | DNR) if qid == 0 and fields["opc"] == Admin.GEOMETRY else None

    with FakeTarget(script=script).running() as target, pytest.raises(UsageError, match=text):
        connect(target)


def test_an_inactive_namespace_is_refused() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        return Answer(data=bytes(4096)) if fields["opc"] == Admin.IDENTIFY and fields["cdw10"] == 0 else None

    with FakeTarget(script=script).running() as target, pytest.raises(UsageError, match="not active"):
        connect(target)


# --- the blocking facade ----------------------------------------------------------------------


def test_a_closed_drive_says_so() -> None:
    with FakeTarget().running() as target:
        drive = connect(target)
        drive.close()
        drive.close()
        with pytest.raises(TransportError, match="closed"):
            drive.read(0)


def test_blocking_discovery_lists_subsystems() -> None:
    with FakeTarget().running() as target:
        assert [entry.subnqn for entry in host.discover(HOST, target.port)] == [NQN]


def test_a_named_subsystem_needs_no_discovery() -> None:
    with FakeTarget(subsystems=[NQN, "nqn.2014-08.org.example:other"]).running() as target:
        with connect(target, nqn=NQN) as drive:
            assert drive.drive.controller.nqn == NQN
        with pytest.raises(UsageError, match="name a subsystem"):
            connect(target)


async def test_the_asynchronous_drive_opens_on_any_controller() -> None:
    with FakeTarget(nsids=[1, 2]).running() as target:
        async with await Controller.connect(HOST, target.port, NQN, Options(queues=2)) as controller:
            first, second = await Drive.open(controller), await Drive.open(controller, 2)
            await asyncio.gather(first.read(0), second.read(0))
            assert sorted(f["nsid"] for qid, f, _ in target.log if qid > 0 and f["opc"] == Io.READ) == [1, 2]
