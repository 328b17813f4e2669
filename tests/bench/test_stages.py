"""What a command costs in the target, stage by stage, without a socket: `make bench`.

Each figure is the best of several rounds, in microseconds per command, on one core. Nothing is asserted about time. Set
BENCH_JSON to a path to keep the figures, with the machine they were taken on.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ocssd_tcp import __version__
from ocssd_tcp.accel import engine_name
from ocssd_tcp.observe.logging import configure
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.wire.framer import Framer
from ocssd_tcp.wire.layouts import CAPSULE_CMD
from ocssd_tcp.wire.lba_list import pack_lbas
from ocssd_tcp.wire.pdu import HOST_TO_CONTROLLER, PduType
from tests.support_target import (
    CAPSULE_RESP,
    DDGST,
    HDGST,
    NO_SQ_FLOW,
    READ,
    VECTOR_READ,
    WRITE,
    Host,
    Target,
    capsule,
    complete_engine_only,
    h2c,
    pattern,
)

ROUNDS, SECONDS = 5, 0.05
DRIVE = Geometry(num_grp=1, num_pu=2, num_chk=64, clba=256, mw_cunits=0, pe_cycles=0)
BLOCK = DRIVE.block_bytes
_figures: dict[str, float] = {}


def best_us(work: Callable[[], object], per_call: int) -> float:
    """Microseconds per command of `work`, which handles `per_call` commands."""
    best = float("inf")
    for _ in range(ROUNDS):
        calls, begin = 0, time.perf_counter()
        while (now := time.perf_counter()) < begin + SECONDS:
            work()
            calls += 1
        best = min(best, (now - begin) / calls)
    return best * 1e6 / per_call


def report(name: str, us: float) -> None:
    _figures[name] = round(us, 3)
    print(f"  {name:52}{us:9.2f} us")


@pytest.fixture(scope="module", autouse=True)
def kept() -> Iterator[None]:
    configure("error")
    print(f"\nengine {engine_name()}, Python {platform.python_version()}, {platform.machine()}")
    yield
    path = os.environ.get("BENCH_JSON")
    if path:
        machine = {"version": __version__, "engine": engine_name(), "python": platform.python_version()}
        Path(path).write_text(json.dumps(machine | {"us_per_command": _figures}, indent=1))


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target(tmp_path / "drive", [DRIVE])
    yield target
    target.close()


def connected(target: Target, dgst: int = 0) -> Host:
    """A host without SQ flow control; two chunks are full."""
    host = target.host(dgst=dgst, cattr=NO_SQ_FLOW, sqsize=255)
    for lba in range(0, 2 * DRIVE.clba, 16):
        assert host.write(lba, pattern(16 * BLOCK), by_r2t=True) == 0
    return host


def exchange(host: Host, stream: bytes) -> Callable[[], None]:
    """Feed a stream that fits the receive buffer as one segment, and throw the answers away as a socket would."""
    connection = host.io.connection
    rx, tx, now = host.target.rx, connection.tx, host.target.now

    def work() -> None:
        rx.view[: len(stream)] = stream
        connection.buffer()
        connection.received(len(stream), now)
        tx.send(lambda _address, _count: tx.n_bytes)
        connection.sent()

    return work


def reads(n_commands: int, n_blocks: int, dgst: int = 0) -> bytes:
    length = n_blocks * BLOCK
    return b"".join(
        capsule(READ, cid, dgst=dgst, nsid=1, slba=cid * 7 % 200, cdw12=n_blocks - 1, sgl_length=length)
        for cid in range(n_commands)
    )


@pytest.mark.parametrize("n_commands", [1, 8, 32, 128])
def test_reads_of_4_kib(target: Target, n_commands: int) -> None:
    report(
        f"4 KiB reads, {n_commands} in a buffer", best_us(exchange(connected(target), reads(n_commands, 1)), n_commands)
    )


def test_reads_with_both_digests(target: Target) -> None:
    host, dgst = connected(target, HDGST | DDGST), HDGST | DDGST
    report("4 KiB reads with both digests, 32 in a buffer", best_us(exchange(host, reads(32, 1, dgst)), 32))


def test_reads_in_the_complete_engine(target: Target) -> None:
    with complete_engine_only():
        host = connected(target)
        report("4 KiB reads, 32 in a buffer, complete engine", best_us(exchange(host, reads(32, 1)), 32))


def test_vector_reads(target: Target) -> None:
    lbas = [chunk * DRIVE.clba + row for chunk in (0, 1) for row in range(8)]
    stream = b"".join(
        capsule(VECTOR_READ, cid, pack_lbas(lbas), nsid=1, cdw12=15, cdw13=4, sgl_type=0x5A, sgl_length=16 * BLOCK)
        for cid in range(8)
    )
    report("vector reads of 16 x 4 KiB, form 4, 8 in a buffer", best_us(exchange(connected(target), stream), 8))


@pytest.mark.parametrize("n_blocks", [4, 32])
def test_writes_by_r2t(target: Target, n_blocks: int) -> None:
    host = connected(target)
    length, spent, n_writes = n_blocks * BLOCK, 0.0, 0
    data = pattern(length)
    for lba in range(2 * DRIVE.clba, 60 * DRIVE.clba, n_blocks):
        cid = host.cid()
        command = capsule(WRITE, cid, nsid=1, slba=lba, cdw12=n_blocks - 1, sgl_length=length)
        begin = time.perf_counter()
        host.io.feed(command)
        spent += time.perf_counter() - begin
        (r2t,) = host.io.take()
        payload = h2c(cid, r2t.ttag, 0, data)
        begin = time.perf_counter()
        host.io.feed(payload)
        spent += time.perf_counter() - begin
        (answer,) = host.io.take()
        assert (answer.kind, answer.status) == (CAPSULE_RESP, 0)
        n_writes += 1
    report(f"writes of {length >> 10} KiB by R2T, one at a time (with the copy)", spent * 1e6 / n_writes)


def test_framing(target: Target) -> None:
    stream = reads(32, 1)
    framer = Framer(HOST_TO_CONTROLLER, {PduType.CAPSULE_CMD: 8192})

    def work() -> None:
        for at in range(0, len(stream), CAPSULE_CMD.size):
            framer.frame(stream, at, len(stream))

    report("framing of a capsule (complete engine)", best_us(work, 32))


def test_decoding(target: Target) -> None:
    pdu = reads(1, 1)
    report("decoding a capsule: derived struct", best_us(lambda: CAPSULE_CMD.struct.unpack_from(pdu), 1))
    report("decoding a capsule: construct", best_us(lambda: CAPSULE_CMD.parse(pdu), 1))
