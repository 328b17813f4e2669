"""A drive of one chunk: counts of 1 have address fields of no width. Blocks of 4 KiB with 16 bytes of metadata."""

from __future__ import annotations

import pytest

from tests.conformance import lists
from tests.conformance.lab import SCALAR_READ, SCALAR_WRITE, Lab, Way, scalar
from tests.conformance.rules import CLOSED, FREE, INVALID_RESET, OK, OPEN, SGL_LENGTH, WRITE_FAULT, Outcome


def test_a_chunk_without_chunk_bits_lives_and_dies(one: Lab, way: Way) -> None:
    assert one.shape.address_bits == 3
    chunk = one.bring(one.model.chunks[0], FREE)
    for lba in range(8):
        assert one.write(lba, 1, way).status == OK
        one.compare([chunk])
    assert chunk.state == CLOSED
    assert one.read(0, 8, way).status == OK
    assert one.dsm_reset([(0, 8)], way) == Outcome(OK)
    one.compare([chunk])


@pytest.mark.parametrize("lba", [8, 9, 16, 1 << 32, 1 << 63])
def test_behind_the_only_chunk_is_nothing(one: Lab, lba: int, way: Way) -> None:
    assert one.write(lba, 1, way).status == WRITE_FAULT
    assert one.read(lba, 1, way).status == one.model.read([lba], dulbe=way.wire.dulbe).status
    assert one.vector_reset(lists.INLINE, [lba], way, descriptors=True).status == INVALID_RESET


def test_a_range_of_two_chunks_is_more_than_there_is(one: Lab, way: Way) -> None:
    chunk = one.bring(one.model.chunks[0], CLOSED)
    one.dsm_reset([(0, 16)], way)
    one.compare([chunk])


def test_unwritten_blocks_and_their_metadata_read_as_dlfeat_says(one: Lab, quiet: Way) -> None:
    one.bring(one.model.chunks[0], OPEN, 2)
    outcome = quiet.wire.io(SCALAR_READ, one.nsid, scalar(2, 2), room=2 * 4112)
    assert outcome == Outcome(OK, 0, b"\xff" * 2 * 4112)


@pytest.mark.parametrize("lab", ["odd", "one", "strict", "tagged"], indirect=True)
def test_data_without_their_metadata_are_of_a_wrong_length(lab: Lab, way: Way) -> None:
    n_blocks, chunk = lab.shape.ws_min, lab.take(FREE)
    plain = n_blocks * (lab.shape.stride // 512 * 512)
    cdws = scalar(chunk.slba, n_blocks)
    assert way.wire.io(SCALAR_WRITE, lab.nsid, cdws, data=bytes(plain), r2t=way.r2t) == Outcome(SGL_LENGTH)
    assert way.wire.io(SCALAR_READ, lab.nsid, cdws, room=plain) == Outcome(SGL_LENGTH)
    lab.compare([chunk])


@pytest.mark.parametrize("form", lists.FORMS, ids=lists.NAMES)
@pytest.mark.parametrize("lab", ["odd", "strict", "tagged"], indirect=True)
def test_metadata_travel_with_their_blocks_in_every_form(lab: Lab, form: int, way: Way) -> None:
    """Each block is followed by its metadata, in scalar and vector commands alike; a copy takes them along."""
    unit = lab.shape.ws_min
    source = lab.take(FREE)
    lbas = [source.slba + i for i in range(unit)]
    if lists.carry(form, lists.WRITE, lbas) is None:
        lab.bring(source, OPEN, unit)
    else:
        assert lab.vector_write(form, lbas, way).status == OK
    assert lab.write(source.slba + unit, source.cnlb - unit, way).status == OK
    assert lab.read(source.slba, source.cnlb, way).status == OK
    if lab.shape.vector_copy:
        target = lab.take(FREE)
        if lists.carry(form, lists.COPY, lbas, [target.slba + i for i in range(unit)]) is not None:
            assert lab.vector_copy(form, lbas, [target.slba + i for i in range(unit)], way).status == OK
        lab.compare([target])
    lab.compare([source])
    lab.bring(source, FREE)
