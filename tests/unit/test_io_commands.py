"""Handlers of I/O commands by themselves: what they ask of the media, and when they ask the host for data first."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ocssd_tcp.commands import io_scalar, io_vector
from ocssd_tcp.commands.io import Answer, Fetch, IoCommand
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.registry import IO_COMMANDS, Command
from ocssd_tcp.media.ops import Extent, MediaOp, OpKind
from ocssd_tcp.ocssd.address import AddressMap
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.wire.layouts import DSM_RANGE, SQE
from ocssd_tcp.wire.lba_list import pack_lbas
from ocssd_tcp.wire.opcodes import Io, ListForm, SglType
from ocssd_tcp.wire.status import Status

#: Chunks of 16 blocks of 520 bytes; three of them in each of two parallel units.
GEOMETRY = Geometry(
    num_grp=1, num_pu=2, num_chk=3, clba=16, block_bytes=512, metadata_bytes=8, ws_min=4, ws_opt=4, mw_cunits=0
)
STRIDE = 520
SHORT_CHUNK, SHORT = 2, 12


class FakeEngine:
    def cnlb(self, chunk: int) -> int:
        return SHORT if chunk == SHORT_CHUNK else GEOMETRY.clba


class FakeNamespace:
    """As much of a namespace as handlers look at."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.addresses = AddressMap(geometry)
        self.engine = FakeEngine()


class FakeController:
    def __init__(self) -> None:
        self.slots: dict[int, tuple[int, ...]] = {}
        self.volatile_write_cache = True
        self.has_dulbe = False
        self.feedback = 0

    def media_feedback(self, *, vector: bool) -> bool:
        return bool(self.feedback >> vector & 1)

    def dulbe(self, nsid: int) -> bool:
        return self.has_dulbe and nsid == 7


class Bench:
    """Runs handlers. `controller`: what they see of theirs."""

    def __init__(self, geometry: Geometry = GEOMETRY) -> None:
        self.controller = FakeController()
        self.namespace = cast(Namespace, FakeNamespace(geometry))

    def io(self, opcode: int, *, length: int = 0, capsule: bytes = b"", beside: bytes = b"", **cdws: int) -> IoCommand:
        """A command with `length` bytes of data: to come, or (`capsule`) come."""
        fields = dict.fromkeys(SQE.names, 0) | cdws
        in_capsule = bool(capsule)
        fields |= {
            "opc": opcode,
            "nsid": 7,
            "sgl_length": length or len(capsule),
            "sgl_type": SglType.IN_CAPSULE if in_capsule else SglType.TRANSPORT,
        }
        command = Command(SQE.pack(**fields))
        return IoCommand(command, self.namespace, self.controller, memoryview(capsule or beside), _ignore)

    def run(self, io: IoCommand) -> Answer:
        entry = IO_COMMANDS[io.cmd.opc]
        assert entry is not None
        return cast(Answer, entry.handler(io))

    def op(self, io: IoCommand) -> MediaOp:
        answer = self.run(io)
        assert isinstance(answer, MediaOp)
        assert answer.context is io
        return answer


def _ignore(_op: MediaOp) -> None:
    """Nothing here is submitted."""


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_every_io_command_is_in_the_table() -> None:
    assert {opcode for opcode, entry in enumerate(IO_COMMANDS) if entry is not None} == set(Io) - {Io.FABRICS}
    handlers = {entry.handler for entry in IO_COMMANDS if entry is not None}
    assert {io_scalar.read, io_scalar.dataset_management, io_vector.vector_copy, io_vector.stage_lba_list} <= handlers


@pytest.mark.parametrize("has_dulbe", [False, True])
def test_a_read_asks_for_its_blocks_and_whether_all_must_be_there(bench: Bench, has_dulbe: bool) -> None:
    bench.controller.has_dulbe = has_dulbe
    op = bench.op(bench.io(Io.READ, length=20 * STRIDE, cdw10=14, cdw12=19))
    assert op.kind is OpKind.READ
    assert op.extents == [Extent(0, 14, 2), Extent(1, 0, 16), Extent(2, 0, 2)]
    assert op.dulbe is has_dulbe


@pytest.mark.parametrize(("value", "scalar", "vector"), [(0, False, False), (1, True, False), (2, False, True)])
def test_a_read_reports_high_ecc_as_media_feedback_says(bench: Bench, value: int, scalar: bool, vector: bool) -> None:
    bench.controller.feedback = value
    assert bench.op(bench.io(Io.READ, length=STRIDE)).feedback is scalar
    assert bench.op(bench.io(Io.VECTOR_READ, length=STRIDE)).feedback is vector


def test_a_scalar_read_beyond_64_bits_names_nothing(bench: Bench) -> None:
    op = bench.op(bench.io(Io.READ, length=4 * STRIDE, cdw10=0xFFFF_FFFE, cdw11=0xFFFF_FFFF, cdw12=3))
    assert all(extent.chunk == -1 for extent in op.extents)
    assert sum(extent.n_blocks for extent in op.extents) == 4


WRITES: dict[str, dict[str, Any]] = {
    "scalar": {"opcode": Io.WRITE, "cdw10": 4, "cdw12": 3},
    "progression": {"opcode": Io.VECTOR_WRITE, "cdw10": 4, "cdw12": 3, "cdw13": ListForm.PROGRESSION | 3 << 4},
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_whose_data_came_along_is_done_at_once(bench: Bench, write: str) -> None:
    data = bytes(4 * STRIDE)
    op = bench.op(bench.io(capsule=data, **WRITES[write]))
    assert (op.kind, op.extents) == (OpKind.WRITE, [Extent(0, 4, 4)])
    assert op.data == memoryview(data)


@pytest.mark.parametrize("write", WRITES)
def test_a_write_whose_data_are_to_come_sets_its_room_aside(bench: Bench, write: str) -> None:
    op = bench.op(bench.io(length=4 * STRIDE, **WRITES[write]))
    assert (op.kind, op.extents, op.data) == (OpKind.RESERVE, [Extent(0, 4, 4)], None)


@pytest.mark.parametrize(("cdw12", "has_cache", "fua"), [(0, True, False), (1 << 30, True, True), (0, False, True)])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_durable_first_if_it_says_so_or_there_is_no_cache(
    bench: Bench, write: str, cdw12: int, has_cache: bool, fua: bool
) -> None:
    bench.controller.volatile_write_cache = has_cache
    fields = WRITES[write] | {"cdw12": 3 | cdw12}
    assert bench.op(bench.io(length=4 * STRIDE, **fields)).fua is fua
    assert bench.op(bench.io(capsule=bytes(4 * STRIDE), **fields)).fua is fua


def test_a_scalar_write_over_the_end_of_its_chunk_is_a_write_fault(bench: Bench) -> None:
    assert bench.run(bench.io(Io.WRITE, length=8 * STRIDE, cdw10=12, cdw12=7)) is Status.WRITE_FAULT


def test_a_scalar_write_is_first_of_all_whole_units(bench: Bench) -> None:
    """As in vector writes: an argument error, whatever lies where it would go."""
    assert bench.run(bench.io(Io.WRITE, length=5 * STRIDE, cdw10=12, cdw12=4)) is Status.INVALID_FIELD


def test_a_list_at_the_head_of_the_data_is_fetched_before_the_blocks(bench: Bench) -> None:
    lbas = [16, 17, 18, 19, 0, 1, 2, 3]
    io = bench.io(Io.VECTOR_WRITE, length=8 * (8 + STRIDE), cdw12=7, cdw13=ListForm.DATA)
    assert bench.run(io) == Fetch(64)
    io.fetched = memoryview(pack_lbas(lbas))
    op = bench.op(io)
    assert (op.kind, op.extents) == (OpKind.RESERVE, [Extent(1, 0, 4), Extent(0, 0, 4)])


def test_a_list_and_its_blocks_in_one_capsule_need_nothing_more(bench: Bench) -> None:
    blocks = bytes(range(256)) * 8 + bytes(4 * STRIDE - 2048)
    io = bench.io(Io.VECTOR_WRITE, capsule=pack_lbas([0, 1, 2, 3]) + blocks, cdw12=3, cdw13=ListForm.DATA)
    op = bench.op(io)
    assert op.kind is OpKind.WRITE
    assert op.data == memoryview(blocks)


@pytest.mark.parametrize("length", [8 * (8 + STRIDE) - 1, 8 * (8 + STRIDE) + 1, 64, 8 * STRIDE])
def test_nothing_is_fetched_for_data_of_a_wrong_length(bench: Bench, length: int) -> None:
    io = bench.io(Io.VECTOR_WRITE, length=length, cdw12=7, cdw13=ListForm.DATA)
    assert bench.run(io) is Status.DATA_SGL_LENGTH_INVALID


def test_a_copy_has_sources_and_destinations(bench: Bench) -> None:
    bench.controller.has_dulbe = True
    io = bench.io(Io.VECTOR_COPY, length=8 * 8, cdw12=3, cdw13=ListForm.DATA)
    assert bench.run(io) == Fetch(64)
    io.fetched = memoryview(pack_lbas([5, 9, 9, 1 << 63, 16, 17, 18, 19]))
    op = bench.op(io)
    assert op.kind is OpKind.COPY
    assert op.extents == [Extent(0, 5, 1), Extent(0, 9, 1), Extent(0, 9, 1), Extent(-1, 0, 1)]
    assert op.destinations == [Extent(1, 0, 4)]
    assert op.dulbe


def test_without_copy_there_is_no_such_command() -> None:
    bench = Bench(Geometry(vector_copy=False))
    assert bench.run(bench.io(Io.VECTOR_COPY, length=1, cdw13=0xFFFF_FFFF)) is Status.INVALID_OPCODE


@pytest.mark.parametrize("length", [0, 3 * 32])
def test_a_vector_reset_tries_its_chunks_one_by_one(bench: Bench, length: int) -> None:
    bench.controller.slots[9] = (16, 1 << 40, 17, 99)
    op = bench.op(bench.io(Io.VECTOR_RESET, length=length, cdw10=9, cdw12=2, cdw13=ListForm.SLOT))
    assert op.kind is OpKind.RESET
    assert op.extents == [Extent(1, 0, 1), Extent(-1, 0, 1), Extent(1, 1, 1)]
    assert not op.whole


def ranges(*pairs: tuple[int, int]) -> bytes:
    return b"".join(DSM_RANGE.pack(cattr=1, nlb=nlb, slba=slba) for slba, nlb in pairs)


def dsm(bench: Bench, data: bytes, n: int, cdw11: int = 4) -> Answer:
    io = bench.io(Io.DATASET_MANAGEMENT, length=len(data), cdw10=n - 1, cdw11=cdw11)
    assert bench.run(io) == Fetch(len(data))
    io.fetched = memoryview(data)
    return bench.run(io)


def test_dataset_management_resets_all_or_nothing(bench: Bench) -> None:
    op = dsm(bench, ranges((0, 32), (32, SHORT), (64, 16)), 3)
    assert isinstance(op, MediaOp)
    assert (op.kind, op.whole) == (OpKind.RESET, True)
    assert op.extents == [Extent(0, 0, 16), Extent(1, 0, 16), Extent(2, 0, SHORT), Extent(3, 0, 16)]


@pytest.mark.parametrize(
    ("slba", "nlb", "status"),
    [
        (48, 16, Status.INVALID_RESET),  # no such chunk
        (49, 0, Status.INVALID_RESET),  # before block bits and length
        (1 << 63, 16, Status.INVALID_RESET),
        (1, 16, Status.INVALID_FIELD),
        (1, 0, Status.INVALID_FIELD),  # before the length
        (0, 0, Status.LBA_OUT_OF_RANGE),
        (0, 15, Status.LBA_OUT_OF_RANGE),
        (0, 64, Status.LBA_OUT_OF_RANGE),  # over the end of the parallel unit
        (64, 0xFFFF_FFF0, Status.LBA_OUT_OF_RANGE),
        (32, 8, Status.LBA_OUT_OF_RANGE),
    ],
)
def test_a_range_breaks_the_first_of_its_rules(bench: Bench, slba: int, nlb: int, status: Status) -> None:
    assert dsm(bench, ranges((0, 16), (slba, nlb)), 2) is status


def test_hints_alone_do_nothing(bench: Bench) -> None:
    assert dsm(bench, ranges((1, 0)), 1, cdw11=3) is Status.SUCCESS


@pytest.mark.parametrize(("n", "length"), [(2, 31), (1, 0), (256, 255 * 16), (1, 256 * 16 + 16)])
def test_a_buffer_that_cannot_hold_the_ranges_is_refused(bench: Bench, n: int, length: int) -> None:
    io = bench.io(Io.DATASET_MANAGEMENT, length=length, cdw10=n - 1, cdw11=4)
    assert bench.run(io) is Status.DATA_SGL_LENGTH_INVALID


def test_a_staged_list_belongs_to_the_controller(bench: Bench) -> None:
    lbas = (1, 1 << 63, 3)
    io = bench.io(Io.STAGE_LBA_LIST, length=24, cdw10=63, cdw12=2)
    assert bench.run(io) == Fetch(24)
    assert not bench.controller.slots
    io.fetched = memoryview(pack_lbas(lbas))
    assert bench.run(io) is Status.SUCCESS
    assert bench.controller.slots == {63: lbas}


@pytest.mark.parametrize("opcode", [Io.VECTOR_READ, Io.VECTOR_WRITE, Io.VECTOR_RESET, Io.VECTOR_COPY])
@pytest.mark.parametrize("form", ListForm)
def test_data_in_the_capsule_that_nobody_asked_for_are_refused(bench: Bench, opcode: int, form: ListForm) -> None:
    """But for a list beside them, and then only within it."""
    bench.controller.slots[0] = (0,)
    io = bench.io(opcode, beside=bytes(7), length=STRIDE if opcode in (Io.VECTOR_READ, Io.VECTOR_WRITE) else 0)
    io.cmd.cdw13 = form
    assert bench.run(io) is Status.INVALID_FIELD


def test_flush_is_the_media_s(bench: Bench) -> None:
    op = bench.op(bench.io(Io.FLUSH))
    assert (op.kind, tuple(op.extents)) == (OpKind.FLUSH, ())
