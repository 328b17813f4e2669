"""The batch processor against the complete engine: the same bytes in, the same bytes out, the same drive afterwards."""

from __future__ import annotations

import ctypes
import itertools
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp import accel
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.transport.txqueue import TxQueue
from tests.fuzz.load import Load
from tests.support_target import (
    C2H_DATA,
    CAPSULE_RESP,
    NO_SQ_FLOW,
    R2T,
    READ,
    VECTOR_READ,
    WRITE,
    Host,
    Pdu,
    Target,
    capsule,
    complete_engine_only,
    h2c,
    pattern,
)

N_STEPS = 40
ONE_BLOCK = Geometry(num_grp=1, num_pu=2, num_chk=2, clba=1024, block_bytes=512, mw_cunits=0, ws_min=1, ws_opt=1)
MANY_CHUNKS = replace(ONE_BLOCK, num_chk=512, clba=8)


@pytest.fixture(params=["off", "require"], ids=["python", "compiled"], autouse=True)
def _engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which batch processor is compared: the one in Python, and its compiled twin where that was built."""
    monkeypatch.setenv(accel.VARIABLE, "auto")
    if request.param == "require" and accel.engine_name() != "compiled":
        pytest.skip("the compiled engine is not built")
    monkeypatch.setenv(accel.VARIABLE, request.param)


def outcome(seed: int, path: Path, **options: float) -> dict[str, object]:
    load = Load(seed, path, **options)
    found = load.run(N_STEPS)
    load.target.close()
    return found


@pytest.mark.parametrize("seed", range(25))
def test_random_hosts_cannot_tell_the_engines_apart(tmp_path: Path, seed: int) -> None:
    fast = outcome(seed, tmp_path / "fast")
    with complete_engine_only():
        complete = outcome(seed, tmp_path / "complete")
    assert [len(stream) for stream in fast["output"]] == [len(stream) for stream in complete["output"]]  # type: ignore[attr-defined]
    assert fast == complete


@pytest.mark.parametrize("seed", range(1000, 1006))
def test_broken_streams_do_not_tell_them_apart_either(tmp_path: Path, seed: int) -> None:
    fast = outcome(seed, tmp_path / "fast", faults=0.2)
    with complete_engine_only():
        complete = outcome(seed, tmp_path / "complete", faults=0.2)
    assert fast == complete


@pytest.mark.parametrize("seed", range(2))
def test_a_run_is_decided_by_its_seed(tmp_path: Path, seed: int) -> None:
    """What the comparison stands on: one engine asked twice does the same."""
    assert outcome(seed, tmp_path / "once") == outcome(seed, tmp_path / "twice")


# --- batches that ask for as much as they can ---------------------------------------------------------------


def both(tmp_path: Path, run: Callable[[Host], list[Pdu]], geometry: Geometry = ONE_BLOCK, **options: int) -> list[Pdu]:
    """What a host gets from either engine; the same."""
    found = []
    for name in ("fast", "complete"):
        target = Target(tmp_path / name, [geometry])
        if name == "fast":
            host = target.host(**options)
        else:
            with complete_engine_only():
                host = target.host(**options)
        found.append(run(host))
        target.close()
    assert found[0] == found[1]
    return found[0]


def scattered(cid: int, dgst: int, first: int) -> bytes:
    """A vector read of 64 blocks, none beside the one before."""
    lbas = struct.pack("<64Q", *((first + 2 * i) % 256 for i in range(64)))
    fields = {"nsid": 1, "cdw12": 63, "cdw13": 4, "sgl_type": 0x5A, "sgl_length": 64 * 512}
    return capsule(VECTOR_READ, cid, lbas, dgst=dgst, **fields)


@pytest.mark.parametrize("dgst", [0, 3])
@pytest.mark.parametrize("cattr", [0, NO_SQ_FLOW])
@pytest.mark.parametrize("n_scattered", [1, 7, 13, 14, 15, 16, 30, 100])
def test_scattered_reads_among_plain_ones_fit_whatever_their_share(
    tmp_path: Path, dgst: int, cattr: int, n_scattered: int
) -> None:
    def run(host: Host) -> list[Pdu]:
        content = pattern(256 * 512)
        for start in range(0, 256, 16):
            assert host.write(start, content[start * 512 : (start + 16) * 512]) == 0
        stream = b"".join(scattered(i, dgst, i) for i in range(n_scattered))
        stream += b"".join(capsule(READ, i, dgst=dgst, nsid=1, slba=i, sgl_length=512) for i in range(n_scattered, 128))
        return host.io.ask(stream, dgst)

    answers = both(tmp_path, run, dgst=dgst, cattr=cattr, sqsize=127)
    content = pattern(256 * 512)
    data = {answer.cid: answer.data for answer in answers if answer.kind == C2H_DATA}
    assert len(data) == 128
    for cid in range(128):
        lbas = [(cid + 2 * i) % 256 for i in range(64)] if cid < n_scattered else [cid]
        assert data[cid] == b"".join(content[lba * 512 : lba * 512 + 512] for lba in lbas)
    assert sum(answer.kind == CAPSULE_RESP for answer in answers) == (0 if cattr else 128)


@pytest.mark.parametrize("dgst", [0, 3])
def test_data_of_a_whole_queue_of_writes_in_one_buffer(tmp_path: Path, dgst: int) -> None:
    def run(host: Host) -> list[Pdu]:
        answers: list[Pdu] = []
        for first in range(0, 900, 50):  # few at a time, so that the send queue has not grown before
            group = range(first, first + 50)
            writes = (capsule(WRITE, i, dgst=dgst, nsid=1, slba=i * 8, sgl_length=512) for i in group)
            answers += host.io.ask(b"".join(writes), dgst)
        assert [(answer.kind, answer.cid) for answer in answers] == [(R2T, i) for i in range(900)]
        stream = b"".join(h2c(i, answers[i].ttag, 0, pattern(512, i), dgst=dgst) for i in range(900))
        return host.io.ask(stream, dgst)

    answers = both(tmp_path, run, MANY_CHUNKS, dgst=dgst, sqsize=1000)
    assert [(answer.cid, answer.status) for answer in answers] == [(i, 0) for i in range(900)]


# --- the send queue -----------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    pieces=st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=80)), min_size=1, max_size=40),
    takes=st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any),
    more=st.binary(max_size=30),
)
def test_short_sends_lose_and_repeat_nothing(pieces: list[tuple[bool, bytes]], takes: list[int], more: bytes) -> None:
    queue, sent, expected = TxQueue(), bytearray(), b"".join(data for _, data in pieces) + more
    for is_copied, data in pieces:
        (queue.copy if is_copied else queue.add)(data)
    rooms = itertools.cycle(takes)

    def writev(address: ctypes.c_void_p, count: int) -> int:
        before, room = len(sent), next(rooms)
        for base, length in struct.iter_unpack("<QQ", ctypes.string_at(address, count * 16)):
            sent.extend(ctypes.string_at(base, min(length, room - (len(sent) - before))))
        return len(sent) - before

    added = False
    while not queue.send(writev) or not added:
        if not added and more:
            queue.copy(more)
        added = True
    assert bytes(sent) == expected
    assert (queue.n, queue.n_bytes, queue.used) == (0, 0, 0)


def test_more_pieces_than_one_writev_takes() -> None:
    queue = TxQueue()
    units = [bytes([i % 256]) * 3 for i in range(5000)]
    for unit in units:
        queue.add(unit)
    assert queue.gather() == b"".join(units)
    assert not queue
