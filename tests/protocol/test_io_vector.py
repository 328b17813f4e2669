"""Vector writes that wait for their data, over several chunks: all of them or nothing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support_target import (
    CAPSULE_RESP,
    DNR,
    R2T,
    SMALL,
    VECTOR_RESET,
    VECTOR_WRITE,
    WRITE,
    Host,
    Target,
    capsule,
    complete_engine_only,
    h2c,
    pattern,
)

CHUNK = SMALL.clba
UNIT = 4 * 512
FREE, OPEN = 1, 4
OUT_OF_ORDER = 0x2F2
TWO_UNITS = [*range(4), *range(2 * CHUNK, 2 * CHUNK + 4)]  # one of chunk 0, one of chunk 2


@pytest.fixture(params=["batch", "complete"])
def host(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host whose commands go through either engine."""
    target = Target(tmp_path / "drive")
    with nullcontext() if request.param == "batch" else complete_engine_only():
        yield target.host()
    target.close()


def begin(host: Host, cid: int = 9) -> int:
    """A vector write of `TWO_UNITS`, its list in the capsule; the TTAG of its R2T."""
    lbas = struct.pack("<8Q", *TWO_UNITS)
    fields = {"nsid": 1, "cdw12": 7, "cdw13": 4, "sgl_type": 0x5A, "sgl_length": 2 * UNIT}
    (r2t,) = host.io.ask(capsule(VECTOR_WRITE, cid, lbas, **fields))
    assert (r2t.kind, r2t.length) == (R2T, 2 * UNIT)
    return r2t.ttag


def test_data_lands_in_every_chunk_at_once(host: Host) -> None:
    ttag = begin(host)
    data = h2c(9, ttag, 0, pattern(2 * UNIT))
    host.io.feed(data[:-1])
    assert host.target.chunks() == [(FREE, 0)] * 8
    (done,) = host.io.ask(data[-1:])
    assert (done.kind, done.cid, done.status) == (CAPSULE_RESP, 9, 0)
    assert host.target.chunks() == [(OPEN, 4), (FREE, 0)] * 2 + [(FREE, 0)] * 4
    assert host.read(0, 4) + host.read(2 * CHUNK, 4) == pattern(2 * UNIT)


@pytest.mark.parametrize("chunk", [0, 2])
@pytest.mark.parametrize("split", [None, 100])
def test_reset_of_one_of_its_chunks_fails_all_of_it(host: Host, chunk: int, split: int | None) -> None:
    """Nothing of a write that is out of order is done, and the bitmap names every entry of what was rolled back."""
    assert host.write(chunk * CHUNK, pattern(UNIT, 7)) == 0
    lbas = [lba + 4 if lba // CHUNK == chunk else lba for lba in TWO_UNITS]
    fields = {"nsid": 1, "cdw12": 7, "cdw13": 4, "sgl_type": 0x5A, "sgl_length": 2 * UNIT}
    (r2t,) = host.io.ask(capsule(VECTOR_WRITE, 9, struct.pack("<8Q", *lbas), **fields))
    assert host.status(VECTOR_RESET, slba=chunk * CHUNK) == 0
    host.io.feed(h2c(9, r2t.ttag, 0, pattern(2 * UNIT)), [split] if split else None)
    (failed,) = host.io.take()
    assert (failed.cid, failed.status, failed.dw0, failed.dw1) == (9, DNR | OUT_OF_ORDER, 0xFF, 0)
    assert host.target.chunks() == [(FREE, 0)] * 8
    assert host.write(0, pattern(UNIT, 1)) == 0
    assert host.write(2 * CHUNK, pattern(UNIT, 2)) == 0


@pytest.mark.parametrize("chunk", [0, 2])
def test_writes_behind_it_end_after_it(host: Host, chunk: int) -> None:
    ttag = begin(host)
    for cid, lblk in ((10, 4), (11, 8)):
        assert host.io.ask(capsule(WRITE, cid, pattern(UNIT), nsid=1, slba=chunk * CHUNK + lblk, cdw12=3)) == []
    answers = host.io.ask(h2c(9, ttag, 0, pattern(2 * UNIT)))
    assert [(answer.cid, answer.status) for answer in answers] == [(9, 0), (10, 0), (11, 0)]
    assert host.target.chunks()[chunk] == (OPEN, 12)


@pytest.mark.parametrize("chunk", [0, 2])
def test_writes_behind_it_fail_with_it(host: Host, chunk: int) -> None:
    other = host.connect_io(2)
    begin(host)
    assert other.ask(capsule(WRITE, 10, pattern(UNIT), nsid=1, slba=chunk * CHUNK + 4, cdw12=3)) == []
    host.io.cut()
    (failed,) = other.take()
    assert (failed.cid, failed.status) == (10, DNR | OUT_OF_ORDER)
    assert host.target.chunks() == [(FREE, 0)] * 8
