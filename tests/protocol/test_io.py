"""I/O commands over the wire: statuses, durability, resets, namespaces that go away."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ocssd_tcp.ocssd.geometry import Geometry
from tests.support_target import (
    C2H_DATA,
    CAPSULE_RESP,
    DNR,
    DSM,
    FLUSH,
    NO_SQ_FLOW,
    R2T,
    READ,
    SMALL,
    VECTOR_READ,
    VECTOR_RESET,
    VECTOR_WRITE,
    WRITE,
    Host,
    Target,
    capsule,
    h2c,
    pattern,
)

CHUNK = SMALL.clba
NSZE = SMALL.nsze
FREE, CLOSED, OPEN = 1, 2, 4
WRITE_FAULT, UNWRITTEN, INVALID_RESET, OUT_OF_ORDER = 0x280, 0x287, 0x2C1, 0x2F2
UNIT = 4 * 512
FUA = 1 << 30


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path / "drive", [SMALL, SMALL])
    yield made
    made.close()


@pytest.fixture
def host(target: Target) -> Host:
    return target.host()


def fill(host: Host, chunk: int, seed: int = 0, n_blocks: int = CHUNK) -> bytes:
    """Write the first blocks of a chunk; their data."""
    data = pattern(n_blocks * 512, seed)
    for start in range(0, len(data), 8192):
        assert host.write(chunk * CHUNK + start // 512, data[start : start + 8192]) == 0
    return data


def dsm(*ranges: tuple[int, int], cattr: int = 0) -> bytes:
    """Data of Dataset Management: (slba, nlb) each."""
    return b"".join(struct.pack("<IIQ", cattr, nlb, slba) for slba, nlb in ranges)


def reset(host: Host, *ranges: tuple[int, int], by_r2t: bool = False) -> int:
    """Dataset Management, deallocate; the status."""
    data = dsm(*ranges)
    fields = {"cdw10": len(ranges) - 1, "cdw11": 4}
    return host.status(DSM, payload=data, **fields) if by_r2t else host.status(DSM, data, **fields)


# --- addresses and lengths ----------------------------------------------------------------------------------


def test_the_length_of_a_command_is_that_of_its_own_namespace(tmp_path: Path) -> None:
    """Also right behind a command of the same number of blocks to a namespace whose blocks are smaller."""
    target = Target(tmp_path / "drive", [SMALL, replace(SMALL, block_bytes=4096)])
    host = target.host(cattr=NO_SQ_FLOW)
    assert host.write(0, bytes(UNIT)) == 0
    assert host.write(0, bytes(4 * 4096), nsid=2, by_r2t=True) == 0
    ours, wrong = (capsule(READ, cid, nsid=cid, sgl_length=512) for cid in (1, 2))
    assert [(answer.kind, answer.cid) for answer in host.io.ask(ours + wrong)] == [(C2H_DATA, 1), (CAPSULE_RESP, 2)]
    target.close()


@pytest.mark.parametrize("slba", [NSZE - 1, NSZE, NSZE - 4, (1 << 64) - 1, (1 << 64) - 4])
@pytest.mark.parametrize("n_blocks", [1, 4])
def test_reads_beyond_the_end_give_predefined_data(host: Host, slba: int, n_blocks: int) -> None:
    """Conformance 93, as an Open-Channel drive meets it."""
    fill(host, 7, seed=1)
    expected = pattern(CHUNK * 512, 1) + bytes(4096) if slba < NSZE else bytes(4096)
    start = (slba - (NSZE - CHUNK)) * 512 if slba < NSZE else 0
    assert host.read(slba, n_blocks) == expected[start : start + n_blocks * 512]


@pytest.mark.parametrize("slba", [NSZE, NSZE - 2, (1 << 64) - 1, (1 << 64) - 4])
@pytest.mark.parametrize("by_r2t", [False, True])
def test_writes_beyond_the_end_are_write_faults(host: Host, slba: int, by_r2t: bool) -> None:
    """Conformance 93, as an Open-Channel drive meets it."""
    assert host.write(slba, pattern(UNIT), by_r2t=by_r2t) == DNR | WRITE_FAULT


@pytest.mark.parametrize("nsid", [0, 3, 0xFFFFFFFF])
@pytest.mark.parametrize("opc", [READ, WRITE, DSM, VECTOR_READ, VECTOR_WRITE, VECTOR_RESET])
def test_unknown_namespace_is_refused(host: Host, nsid: int, opc: int) -> None:
    """Conformance 94."""
    data = b"" if opc in (READ, VECTOR_READ, VECTOR_RESET) else bytes(512)
    fields = {} if data else {"sgl_length": 0 if opc == VECTOR_RESET else 512}
    assert host.status(opc, data, nsid=nsid, **fields) == DNR | 0x00B


def test_flush_of_every_namespace_and_of_unknown_ones(host: Host) -> None:
    """Conformance 94."""
    assert [host.status(FLUSH, nsid=nsid) for nsid in (1, 2, 0xFFFFFFFF)] == [0, 0, 0]
    assert [host.status(FLUSH, nsid=nsid) for nsid in (0, 3, 0xFFFFFFFE)] == [DNR | 0x00B] * 3


@pytest.mark.parametrize("opc", [READ, WRITE])
def test_longer_than_mdts_is_an_invalid_field(tmp_path: Path, opc: int) -> None:
    """Conformance 95."""
    target = Target(tmp_path / "long", [Geometry(num_grp=1, num_pu=1, num_chk=1, clba=512, mw_cunits=0)])
    host = target.host()
    fields = {"cdw12": 128, "sgl_length": 129 * 4096}
    assert host.status(opc, **fields) == DNR | 0x002
    assert target.chunks() == [(FREE, 0)]
    target.close()


@pytest.mark.parametrize("opc", [READ, WRITE, VECTOR_READ, VECTOR_WRITE])
@pytest.mark.parametrize("length", [0, 1, UNIT - 1, UNIT + 1, UNIT - 512, UNIT + 512, 2 * UNIT])
def test_sgl_length_other_than_that_of_the_blocks_is_refused_and_the_media_untouched(
    host: Host, opc: int, length: int
) -> None:
    """Conformance 96."""
    cdw13 = 2 | 3 << 4 if opc in (VECTOR_READ, VECTOR_WRITE) else 0
    fields = {"cdw12": 3, "cdw13": cdw13, "sgl_length": length}
    assert host.status(opc, **fields) == DNR | 0x00F
    if opc in (WRITE, VECTOR_WRITE) and length:
        assert host.status(opc, bytes(length), **fields) == DNR | 0x00F
    assert set(host.target.chunks()) == {(FREE, 0)}


@pytest.mark.parametrize("opc", [0x03, 0x04, 0x05, 0x08, 0x0C, 0x0D, 0x19, 0x7E, 0x94, 0x96, 0xFF])
def test_unknown_opcode_is_invalid(host: Host, opc: int) -> None:
    """Conformance 99, 100 and 101: Compare and Write Zeroes are not this drive's."""
    assert host.status(opc, sgl_length=512) == DNR | 0x001
    assert host.status(opc, bytes(512)) == DNR | 0x001


@pytest.mark.parametrize("flags", [0x41, 0x42, 0x43, 0x00, 0x80, 0xC0])
@pytest.mark.parametrize("opc", [READ, WRITE, 0x05])
def test_fused_commands_and_prps_are_invalid_fields(host: Host, flags: int, opc: int) -> None:
    """Conformance 100."""
    assert host.status(opc, sgl_length=512, sqe_flags=flags) == DNR | 0x002


# --- durability ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["flush", "fua", "nothing"])
@pytest.mark.parametrize("by_r2t", [False, True])
def test_acknowledged_write_is_there_after_the_process_was_killed(tmp_path: Path, then: str, by_r2t: bool) -> None:
    """Conformance 97."""
    target = Target(tmp_path / "drive")
    host, data = target.host(), pattern(UNIT)
    fields = {"cdw12": 3 | (FUA if then == "fua" else 0)}
    status = host.status(WRITE, payload=data, **fields) if by_r2t else host.status(WRITE, data, **fields)
    assert status == 0
    if then == "flush":
        assert host.status(FLUSH) == 0
    target.store.abandon()
    target = Target(tmp_path / "drive")
    assert target.host().read(0, 4) == data
    assert target.chunks()[0] == (OPEN, 4)
    target.close()


@pytest.mark.parametrize("cut_at", [0, 72, 100, 72 + UNIT - 1])
def test_write_that_was_cut_off_leaves_nothing_readable(tmp_path: Path, cut_at: int) -> None:
    """Conformance 104, as a drive that is written once meets it."""
    target = Target(tmp_path / "drive")
    host = target.host()
    assert host.write(0, pattern(UNIT, 1)) == 0
    host.io.feed(capsule(WRITE, 9, pattern(UNIT, 2), nsid=1, slba=4, cdw12=3)[:cut_at])
    target.store.abandon()
    target = Target(tmp_path / "drive")
    assert target.chunks()[0] == (OPEN, 4)
    assert target.host().read(0, 8) == pattern(UNIT, 1) + bytes(UNIT)
    target.close()


def test_no_response_to_a_write_precedes_its_write_pointer(host: Host) -> None:
    """Conformance 104."""
    for unit in range(4):
        answers = host.command(WRITE, pattern(UNIT), slba=unit * 4, cdw12=3)
        assert [answer.kind for answer in answers] == [CAPSULE_RESP]
        assert host.target.chunks()[0] == (OPEN, unit * 4 + 4)


# --- Dataset Management as reset ----------------------------------------------------------------------------


@pytest.mark.parametrize("by_r2t", [False, True])
def test_256_ranges_are_one_reset(tmp_path: Path, by_r2t: bool) -> None:
    """Conformance 98."""
    geometry = Geometry(num_grp=1, num_pu=2, num_chk=128, clba=8, block_bytes=512, mw_cunits=0, multi_reset=True)
    target = Target(tmp_path / "many", [geometry])
    host = target.host()
    for chunk in (0, 100, 255):
        assert host.write(chunk * 8, pattern(UNIT)) == 0
    assert reset(host, *((chunk * 8, 8) for chunk in range(256)), by_r2t=by_r2t) == 0
    assert set(target.chunks()) == {(FREE, 0)}
    target.close()


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        ((NSZE, CHUNK), INVALID_RESET),
        (((1 << 64) - CHUNK, CHUNK), INVALID_RESET),
        ((CHUNK + 1, CHUNK), 0x002),
        ((CHUNK, CHUNK - 1), 0x080),
        ((CHUNK, 0), 0x080),
        ((7 * CHUNK, 2 * CHUNK), 0x080),
        ((CHUNK, 0xFFFFFFC0), 0x080),
        ((4 * CHUNK, CHUNK), INVALID_RESET),  # Free, and there is no multiple reset
        ((0, CHUNK), INVALID_RESET),  # the same chunk twice
    ],
)
@pytest.mark.parametrize("by_r2t", [False, True])
def test_range_that_cannot_be_reset_leaves_all_of_them_as_they_are(
    host: Host, bad: tuple[int, int], status: int, by_r2t: bool
) -> None:
    """Conformance 98: no partial effect."""
    fill(host, 0)
    fill(host, 1, n_blocks=8)
    before = host.target.chunks()
    assert before[:2] == [(CLOSED, CHUNK), (OPEN, 8)]
    assert reset(host, (0, CHUNK), bad, by_r2t=by_r2t) == DNR | status
    assert host.target.chunks() == before
    assert reset(host, (0, 2 * CHUNK), by_r2t=by_r2t) == 0
    assert host.target.chunks()[:2] == [(FREE, 0)] * 2
    assert host.read(0, 4) == bytes(UNIT)


def test_hints_change_nothing_and_linux_may_send_a_longer_buffer(host: Host) -> None:
    """Conformance 98."""
    fill(host, 0)
    assert host.status(DSM, dsm((0, CHUNK)), cdw11=3) == 0
    assert host.target.chunks()[0] == (CLOSED, CHUNK)
    assert host.status(DSM, dsm((0, CHUNK)).ljust(4096, b"\xff"), cdw11=4) == 0
    assert host.target.chunks()[0] == (FREE, 0)
    assert host.status(DSM, dsm((0, CHUNK)), cdw10=1, cdw11=4) == DNR | 0x00F
    assert host.status(DSM, bytes(4112), cdw11=4) == DNR | 0x00F


def test_reset_under_a_write_fails_the_write_and_its_late_data_harms_nothing(host: Host) -> None:
    """Conformance 103."""
    assert host.write(0, pattern(UNIT, 1)) == 0
    (r2t,) = host.io.ask(capsule(WRITE, 9, nsid=1, slba=4, cdw12=3, sgl_length=UNIT))
    assert reset(host, (0, CHUNK)) == 0
    fresh = host.write(0, pattern(UNIT, 2))
    assert fresh == 0
    (failed,) = host.io.ask(h2c(9, r2t.ttag, 0, pattern(UNIT, 3)))
    assert (failed.cid, failed.status) == (9, DNR | OUT_OF_ORDER)
    assert host.target.chunks()[0] == (OPEN, 4)
    assert host.read(0, 8) == pattern(UNIT, 2) + bytes(UNIT)
    assert host.write(4, pattern(UNIT, 4)) == 0
    assert host.read(0, 8) == pattern(UNIT, 2) + pattern(UNIT, 4)


# --- namespaces that go away ----------------------------------------------------------------------------------


def test_commands_to_a_removed_namespace_are_refused_at_once(host: Host) -> None:
    """Conformance 105."""
    data = fill(host, 0)
    (r2t,) = host.io.ask(capsule(WRITE, 9, nsid=1, slba=CHUNK, cdw12=3, sgl_length=UNIT))
    subsystem = host.target.directory.subsystem
    removed = subsystem.remove_namespace(1)
    assert host.status(READ, sgl_length=512) == DNR | 0x00B
    assert host.write(CHUNK + 4, pattern(UNIT)) == DNR | 0x00B
    assert host.write(CHUNK + 4, pattern(UNIT), by_r2t=True) == DNR | 0x00B
    assert host.status(FLUSH) == DNR | 0x00B
    (done,) = host.io.ask(h2c(9, r2t.ttag, 0, pattern(UNIT)))
    assert (done.kind, done.cid, done.status) == (CAPSULE_RESP, 9, 0)  # it was running: left to end
    assert host.read(0, 1, nsid=2) == bytes(512)
    subsystem.add_namespace(removed)
    assert host.read(0, 4) == data[:UNIT]


def test_flush_of_all_where_no_namespace_is_left(host: Host) -> None:
    """Conformance 105."""
    for nsid in (1, 2):
        host.target.directory.subsystem.remove_namespace(nsid)
    (answer,) = host.command(FLUSH, nsid=0xFFFFFFFF)
    assert answer.kind == CAPSULE_RESP


# --- load -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dgst", [0, 3])
@pytest.mark.parametrize("cattr", [0, NO_SQ_FLOW])
def test_random_load_on_four_queues_reads_back_what_it_wrote(tmp_path: Path, dgst: int, cattr: int) -> None:
    """Conformance 102 and 103 as a write-once drive meets them: writes in order, random reads, resets, disconnects."""
    chance = random.Random(dgst * 10 + cattr)
    target = Target(tmp_path / "load", [replace(SMALL, num_grp=2, num_chk=2)])
    host = target.host(dgst=dgst, cattr=cattr)
    for qid in (2, 3, 4):
        host.connect_io(qid)
    content: list[bytearray] = [bytearray() for _ in range(8)]
    for step in range(400):
        qid, chunk = chance.randrange(1, 5), chance.randrange(8)
        held = content[chunk]
        if step % 97 == 50:
            host.wires[qid].cut()
            host.connect_io(qid)
        elif len(held) == 64 * 512 and chance.random() < 0.7:
            assert host.status(VECTOR_RESET, slba=chunk * 64, qid=qid) == 0
            held.clear()
        elif len(held) < 64 * 512 and chance.random() < 0.6:
            n_blocks = 4 * chance.randrange(1, (64 - len(held) // 512) // 4 + 1)
            data = chance.randbytes(n_blocks * 512)
            by_r2t = len(data) > 8192 or chance.random() < 0.5
            assert host.write(chunk * 64 + len(held) // 512, data, qid=qid, by_r2t=by_r2t) == 0
            held += data
        else:
            first = chance.randrange(64)
            n_blocks = chance.randrange(1, 65 - first)
            expected = bytes(held).ljust(64 * 512, b"\0")[first * 512 : (first + n_blocks) * 512]
            assert host.read(chunk * 64 + first, n_blocks, qid=qid) == expected
    target.close()


def test_commands_of_one_segment_are_done_in_order(host: Host) -> None:
    """Writes of one queue may be pipelined, with and without R2T; what they do is what their order says."""
    stream = b"".join(
        [
            capsule(WRITE, 1, pattern(UNIT, 1), nsid=1, cdw12=3),
            capsule(READ, 2, nsid=1, cdw12=3, sgl_length=UNIT),
            capsule(WRITE, 3, nsid=1, slba=4, cdw12=3, sgl_length=UNIT),
            capsule(WRITE, 4, nsid=1, slba=8, cdw12=3, sgl_length=UNIT),
            capsule(WRITE, 5, pattern(UNIT, 5), nsid=1, slba=16, cdw12=3),
            capsule(WRITE, 6, pattern(UNIT, 6), nsid=1, slba=12, cdw12=3),
        ]
    )
    done, data, read, r2t_3, r2t_4, refused = host.io.ask(stream)
    assert (done.cid, read.cid, data.kind, data.data) == (1, 2, C2H_DATA, pattern(UNIT, 1))
    assert [(r2t.kind, r2t.cid) for r2t in (r2t_3, r2t_4)] == [(R2T, 3), (R2T, 4)]
    assert (refused.cid, refused.status) == (5, DNR | OUT_OF_ORDER)
    assert host.io.ask(h2c(4, r2t_4.ttag, 0, pattern(UNIT, 4))) == []  # complete, but not first
    finished = host.io.ask(h2c(3, r2t_3.ttag, 0, pattern(UNIT, 3)))
    assert [(answer.cid, answer.status) for answer in finished] == [(3, 0), (4, 0), (6, 0)]
    assert host.read(0, 16) == b"".join(pattern(UNIT, seed) for seed in (1, 3, 4, 6))
