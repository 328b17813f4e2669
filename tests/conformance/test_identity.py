"""What the drive says of itself: Geometry page, Identify, and the Chunk Information log page, byte for byte."""

from __future__ import annotations

import struct

import pytest

from tests.conformance.lab import GEOMETRY, GET_LOG, IDENTIFY, Lab, Way
from tests.conformance.rules import (
    CLOSED,
    DESCRIPTOR,
    DEVIATES,
    FREE,
    INVALID_FIELD,
    INVALID_LOG,
    INVALID_NAMESPACE,
    INVALID_OPCODE,
    NO_WP,
    OFFLINE,
    OK,
    RANDOM,
    SEQUENTIAL,
    SGL_LENGTH,
    Outcome,
)
from tests.conformance.target import NAMESPACES, NSIDS

EACH = pytest.mark.parametrize("lab", NAMESPACES, indirect=True)
NO_NAMESPACES = pytest.mark.parametrize("nsid", [0, 0xFFFF_FFFF, 77, 0xFFFF_FFFE])
DEFAULT_TIMES = (70_000, 100_000, 1_900_000, 3_500_000, 3_000_000, 3_000_000)


# --- Geometry: section 4, and the OCFB record of the binding -----------------------------------------------


@pytest.mark.parametrize("name", NAMESPACES)
def test_the_geometry_page_is_what_was_configured(labs: dict[str, Lab], name: str, way: Way) -> None:
    if name not in labs or len(labs) == 1:
        pytest.skip("only on a target of our own")
    shape, page = labs[name].shape, bytearray(4096)
    page[0] = 2
    page[8:12] = bytes([shape.grp_len, shape.pu_len, shape.chk_len, shape.lbk_len])
    struct.pack_into("<I", page, 16, shape.vector_copy | shape.multi_reset << 1 | shape.early_reset << 2)
    page[32] = 10
    struct.pack_into("<HHII", page, 64, shape.num_grp, shape.num_pu, shape.num_chk, shape.clba)
    limits = (shape.ws_min, shape.ws_opt, shape.mw_cunits, shape.maxoc, shape.maxocpu)
    struct.pack_into("<5I", page, 128, *limits)
    struct.pack_into("<6I", page, 192, *DEFAULT_TIMES)
    struct.pack_into("<4sBBHH", page, 3072, b"OCFB", 1, 0b11111, 64, 64)
    assert way.wire.admin(GEOMETRY, NSIDS[name], {}, room=4096) == Outcome(OK, 0, bytes(page))


def test_the_binding_is_announced(main: Lab, quiet: Way) -> None:
    page = quiet.wire.admin(GEOMETRY, main.nsid, {}, room=4096).data
    magic, version, forms, n_slots, most = struct.unpack_from("<4sBBHH", page, 3072)
    assert (magic, version, most) == (b"OCFB", 1, 64)
    assert forms & 1
    assert not forms >> 5
    assert n_slots or not forms >> 3 & 1


def test_reserved_dwords_of_geometry_are_ignored(main: Lab, way: Way) -> None:
    plain = way.wire.admin(GEOMETRY, main.nsid, {}, room=4096)
    assert way.wire.admin(GEOMETRY, main.nsid, dict.fromkeys(("cdw10", "cdw11", "cdw15"), 7), room=4096) == plain


@NO_NAMESPACES
def test_geometry_needs_a_real_namespace(nsid: int, way: Way) -> None:
    assert way.wire.admin(GEOMETRY, nsid, {}, room=4096) == Outcome(INVALID_NAMESPACE)


def test_geometry_needs_room_for_the_page(main: Lab, way: Way) -> None:
    assert way.wire.admin(GEOMETRY, main.nsid, {}, room=2048) == Outcome(SGL_LENGTH)


@pytest.mark.parametrize("opcode", [0xEA, 0xF1, 0xF2, 0xC1], ids=hex)
def test_commands_of_ocssd_1_2_and_set_log_page_are_unknown(main: Lab, opcode: int, way: Way) -> None:
    assert way.wire.admin(opcode, main.nsid, {}) == Outcome(INVALID_OPCODE)


@pytest.mark.parametrize("opcode", [0x04, 0x05, 0x08, 0x0C, 0x94, 0x96, 0x97, 0x9F, 0xFF], ids=hex)
def test_io_commands_outside_the_model_are_unknown(main: Lab, opcode: int, way: Way) -> None:
    assert way.wire.io(opcode, main.nsid, {}) == Outcome(INVALID_OPCODE)


# --- Identify: section 3 -----------------------------------------------------------------------------------


@EACH
def test_identify_namespace_shows_an_open_channel_drive(lab: Lab, way: Way) -> None:
    page = way.wire.admin(IDENTIFY, lab.nsid, {"cdw10": 0}, room=4096).data
    shape = lab.shape
    nsze, ncap, nuse = struct.unpack_from("<QQQ", page)
    assert nsze == 1 << shape.address_bits  # holes included
    assert ncap == sum(chunk.cnlb for chunk in lab.model.chunks)  # what is there
    assert nuse <= ncap <= nsze
    assert page[24] & 0x04  # DULBE is supported
    assert page[384] == 1  # vs[0]: Open-Channel SSD 2.0
    metadata, block_exponent, _ = struct.unpack_from("<HBB", page, 128 + 4 * (page[26] & 15))
    assert (1 << block_exponent) + metadata == shape.stride
    assert bool(page[26] & 0x10) == bool(metadata)  # FLBAS: extended LBAs
    assert bool(page[27] & 1) == bool(metadata)  # MC: in extended LBAs
    assert not page[27] & 2  # and never in a buffer of their own
    assert not page[29] & 0x7  # no protection information
    assert page[33] & 7 in ((2,) if shape.fill else (0, 1))  # DLFEAT


def test_identify_controller_announces_what_there_is(labs: dict[str, Lab], way: Way) -> None:
    page = way.wire.admin(IDENTIFY, 0, {"cdw10": 1}, room=4096).data
    (vid,) = struct.unpack_from("<H", page)
    mdts = page[77]
    (oncs,) = struct.unpack_from("<H", page, 520)
    assert vid == 0x1D1D
    assert page[261] & 0x04  # LPA: log offsets, without which SPDK reads no chunk table
    assert oncs & 0x0004  # Dataset Management
    assert not oncs & 0x000B  # nor Compare, Write Uncorrectable, Write Zeroes
    assert page[525] & 1  # VWC
    strides = [lab.shape.stride for lab in labs.values()]
    assert not mdts or 4096 << mdts >= 64 * max(strides) + 512


# --- Chunk Information: section 5, decision 17 ----------------------------------------------------------------


def size_of(lab: Lab) -> int:
    return len(lab.model.chunks) * 32


def parts_of(lab: Lab, way: Way) -> bytes:
    """The whole log in pieces that MDTS allows."""
    step = way.wire.max_transfer
    parts = (way.wire.log(lab.nsid, at, min(step, size_of(lab) - at)).data for at in range(0, size_of(lab), step))
    return b"".join(parts)


@EACH
def test_the_log_has_a_descriptor_for_each_chunk_in_order(lab: Lab, way: Way) -> None:
    """Chunk fastest, then parallel unit, then group; SLBA composed of the fields."""
    shape, log = lab.shape, parts_of(lab, way)
    places = [
        (grp, pu, chk) for grp in range(shape.num_grp) for pu in range(shape.num_pu) for chk in range(shape.num_chk)
    ]
    for place, (state, kind, _, slba, cnlb, wp) in zip(places, DESCRIPTOR.iter_unpack(log), strict=True):
        assert slba == shape.lba(*place)
        assert state.bit_count() == 1
        assert kind & (SEQUENTIAL | RANDOM) in (SEQUENTIAL, RANDOM)
        assert bool(kind & DEVIATES) == (cnlb != shape.clba)
        assert wp == NO_WP if state == OFFLINE or kind & RANDOM else wp <= cnlb
    assert not any(any(log[at + 3 : at + 8]) for at in range(0, len(log), 32))


@pytest.mark.parametrize("name", NAMESPACES)
def test_chunks_are_of_the_kinds_that_were_made(labs: dict[str, Lab], name: str, way: Way) -> None:
    if name not in labs or len(labs) == 1:
        pytest.skip("only on a target of our own")
    kind, lab = NAMESPACES[name], labs[name]
    log = list(DESCRIPTOR.iter_unpack(parts_of(lab, way)))
    for index, (state, chunk_type, wli, _, cnlb, _) in enumerate(log):
        wanted = kind.shapes.get(index)
        blocks = wanted.cnlb if wanted is not None and wanted.cnlb else lab.shape.clba
        assert cnlb == blocks
        assert bool(chunk_type & RANDOM) == bool(wanted is not None and wanted.chunk_type == RANDOM)
        if index in kind.worn:
            assert (state, wli) == (OFFLINE, 255)


@EACH
def test_any_piece_of_the_log_can_be_read(lab: Lab, way: Way) -> None:
    """Offsets and lengths are whole dwords, and of nothing else."""
    log, end = parts_of(lab, way), size_of(lab)
    for offset in (0, 4, 28, 32, 36, end // 2 // 4 * 4, end - 4):
        for length in (4, 28, 32, 36, 64, 100, end - offset):
            if 0 < length <= end - offset and length <= way.wire.max_transfer:
                assert way.wire.log(lab.nsid, offset, length) == Outcome(OK, 0, log[offset : offset + length])


@EACH
@pytest.mark.parametrize("past", [4, 32, 4096])
def test_past_its_end_the_log_is_zeros(lab: Lab, past: int, way: Way) -> None:
    """A host gets all the bytes that it asked for."""
    log, end = parts_of(lab, way), size_of(lab)
    for offset in {max(0, end - 36), end - 32, end - 4}:
        outcome = way.wire.log(lab.nsid, offset, end - offset + past)
        assert outcome == Outcome(OK, 0, log[offset:] + bytes(past))


@EACH
@pytest.mark.parametrize("offset", ["at the end", "beyond", "1", "2", "3", "33", "high dword", "64 bits"])
def test_an_offset_beyond_the_end_or_off_a_dword_is_refused(lab: Lab, offset: str, way: Way) -> None:
    end = size_of(lab)
    at = {"at the end": end, "beyond": end + 4, "high dword": 1 << 32, "64 bits": (1 << 64) - 4}.get(offset)
    assert way.wire.log(lab.nsid, int(offset) if at is None else at, 32) == Outcome(INVALID_FIELD)


def test_log_specific_bits_are_ignored(main: Lab, way: Way) -> None:
    """LSP and RAE mean nothing here."""
    plain = way.wire.log(main.nsid, 0, 32)
    for bits in (0xF << 8, 1 << 15):
        assert way.wire.admin(GET_LOG, main.nsid, {"cdw10": 0xCA | bits | 7 << 16}, room=32) == plain


@NO_NAMESPACES
def test_the_log_needs_a_real_namespace(nsid: int, way: Way) -> None:
    assert way.wire.log(nsid, 0, 32) == Outcome(INVALID_NAMESPACE)


def test_an_unknown_log_page_is_refused(main: Lab, way: Way) -> None:
    assert way.wire.log(main.nsid, 0, 32, lid=0xCB) == Outcome(INVALID_LOG)


def test_a_log_of_more_than_mdts_is_refused(main: Lab, way: Way) -> None:
    assert way.wire.log(main.nsid, 0, way.wire.max_transfer + 4) == Outcome(INVALID_FIELD)


def test_the_log_shows_each_step_of_a_chunk_at_once_to_every_host(main: Lab, hosts: dict[str, Way]) -> None:
    unit = main.shape.ws_min
    chunk = main.take(FREE)
    index = main.model.chunks.index(chunk)
    for _ in range(min(8, chunk.cnlb // unit)):
        main.write(chunk.slba + chunk.wp, unit)
        for way in hosts.values():
            assert way.wire.log(main.nsid, index * 32 + 24, 8).data == chunk.wp.to_bytes(8, "little")
    main.bring(chunk, FREE)
    for way in hosts.values():
        assert way.wire.log(main.nsid, index * 32, 4).data[0] == FREE


def test_namespaces_have_nothing_in_common(labs: dict[str, Lab], way: Way) -> None:
    """One LBA, another block in each."""
    if len(labs) == 1:
        pytest.skip("only on a target of our own")
    filled = [lab for name, lab in labs.items() if name != "eager"]  # whose chunks do not live long
    for lab in filled:
        lab.bring(lab.model.chunks[0], CLOSED)
    for lab in filled:
        assert lab.read(0, 1, way).status == OK
