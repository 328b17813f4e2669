"""Reads that are all alike, one behind the other, and one among them that is not: every engine says the same."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ocssd_tcp.commands.registry import Command
from ocssd_tcp.transport.kept import MAX_KEPT
from tests.support_target import (
    C2H_TERM,
    FLUSH,
    NO_SQ_FLOW,
    READ,
    SMALL,
    VECTOR_READ,
    WRITE,
    Host,
    Pdu,
    Target,
    capsule,
    complete_engine_only,
    pattern,
)

BLOCK = SMALL.block_bytes
UNIT = SMALL.ws_min * BLOCK
N = 9
FIRST_CID = 20

ODD = {
    "alike": capsule(READ, 9, nsid=1, slba=1, sgl_length=BLOCK),
    "another size": capsule(READ, 9, nsid=1, slba=1, cdw12=1, sgl_length=2 * BLOCK),
    "a length that is not that of its blocks": capsule(READ, 9, nsid=1, slba=1, sgl_length=2 * BLOCK),
    "more blocks than its length": capsule(READ, 9, nsid=1, slba=1, cdw12=1, sgl_length=BLOCK),
    "no such namespace": capsule(READ, 9, nsid=2, slba=1, sgl_length=BLOCK),
    "an address beyond the last": capsule(READ, 9, nsid=1, slba=SMALL.nsze, sgl_length=BLOCK),
    "the largest address": capsule(READ, 9, nsid=1, slba=(1 << 64) - 1, sgl_length=BLOCK),
    "a block that was not written": capsule(READ, 9, nsid=1, slba=SMALL.clba - 1, sgl_length=BLOCK),
    "FUA": capsule(READ, 9, nsid=1, slba=1, cdw12=1 << 30, sgl_length=BLOCK),
    "limited retry": capsule(READ, 9, nsid=1, slba=1, cdw12=1 << 31, sgl_length=BLOCK),
    "another kind of SGL": capsule(READ, 9, nsid=1, slba=1, sgl_length=BLOCK, sgl_type=0),
    "fused": capsule(READ, 9, nsid=1, slba=1, sgl_length=BLOCK, sqe_flags=0x41),
    "a vector read": capsule(
        VECTOR_READ, 9, struct.pack("<2Q", 0, 1), nsid=1, cdw12=1, cdw13=4, sgl_length=2 * BLOCK, sgl_type=0x5A
    ),
    "a vector read of one block": capsule(VECTOR_READ, 9, nsid=1, slba=1, sgl_length=BLOCK),
    "a flush": capsule(FLUSH, 9, nsid=1),
    "a write": capsule(WRITE, 9, pattern(UNIT), nsid=1, slba=2 * SMALL.ws_min, cdw12=SMALL.ws_min - 1),
    "a CID that is in use": capsule(READ, 8, nsid=1, slba=1, sgl_length=BLOCK),
}


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path / "drive")
    yield made
    made.close()


def ready(target: Target) -> Host:
    """A host whose CID 8 waits for data, on a drive with two write units; reads of others are errors (DULBE)."""
    host = target.host(cattr=NO_SQ_FLOW)
    if host.read(0, 2 * SMALL.ws_min) != pattern(2 * UNIT):
        assert host.write(0, pattern(2 * UNIT)) == 0
    assert host.command(0x09, qid=0, nsid=1, cdw10=0x05, cdw11=1 << 16)[-1].status == 0
    host.io.ask(capsule(WRITE, 8, nsid=1, slba=SMALL.clba, cdw12=SMALL.ws_min - 1, sgl_length=UNIT))
    return host


def stream(at: int, odd: bytes) -> bytes:
    """`N` reads of one block, the one at `at` replaced."""
    reads = [capsule(READ, FIRST_CID + i, nsid=1, slba=i * 5 % (2 * SMALL.ws_min), sgl_length=BLOCK) for i in range(N)]
    return b"".join([*reads[:at], odd, *reads[at + 1 :]])


def content(answers: list[Pdu]) -> list[tuple[bytes, bytes]]:
    return [(pdu.header, pdu.data) for pdu in answers]


@pytest.mark.parametrize("warm", [False, True], ids=["first buffer", "after alike ones"])
@pytest.mark.parametrize("at", [0, 1, 3, 4, N - 1])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD.keys())
def test_one_that_differs_is_answered_as_by_the_complete_engine(
    tmp_path: Path, odd: bytes, at: int, warm: bool
) -> None:
    answers: list[list[list[tuple[bytes, bytes]]]] = []
    for is_complete in (False, True):
        target = Target(tmp_path / f"drive{is_complete}")
        if is_complete:
            with complete_engine_only():
                host = ready(target)
        else:
            host = ready(target)
        turns = [stream(0, ODD["alike"])] * 2 if warm else []
        answers.append([content(host.io.ask(buffer)) for buffer in [*turns, stream(at, odd), stream(at, odd)]])
        target.close()
    assert answers[0] == answers[1]
    assert len(answers[0][-1]) >= N


@pytest.mark.parametrize("cut", [1, 23, 24, 71, 72, 73, 3 * 72 + 5, 8 * 72 - 1])
def test_a_buffer_that_ends_within_a_read_is_answered_up_to_there(target: Target, cut: int) -> None:
    host = ready(target)
    host.io.ask(stream(0, ODD["alike"]))
    data = stream(0, ODD["alike"])
    first, second = host.io.ask(data[:cut]), host.io.ask(data[cut:])
    assert len(first) == cut // 72
    assert content(first + second) == content(host.io.ask(data))


def test_no_more_are_answered_than_the_queue_holds(tmp_path: Path) -> None:
    """The host cannot have read an answer while the buffer is handled: one more than there are entries is fatal."""
    target = Target(tmp_path / "drive")
    host = target.host(cattr=NO_SQ_FLOW, sqsize=7)
    assert host.write(0, pattern(2 * UNIT)) == 0
    reads = [capsule(READ, cid, nsid=1, slba=cid, sgl_length=BLOCK) for cid in range(8)]
    assert len(host.io.ask(b"".join(reads))) == 8
    assert len(host.io.ask(b"".join(reads))) == 8
    host.io.feed(b"".join([*reads, capsule(READ, 8, nsid=1, slba=0, sgl_length=BLOCK)]))
    assert host.io.phase.name == "TERMINATING"
    target.close()


def test_a_namespace_behind_a_filter_is_plain_again_once_that_has_gone(target: Target) -> None:
    host = ready(target)
    expected = content(host.io.ask(stream(0, ODD["alike"])))
    namespace = target.directory.subsystem.namespaces[1]
    media, n_reads = namespace.media, namespace.counters.reads

    class Around:
        n_seen = 0

        def submit(self, op: object) -> None:
            Around.n_seen += 1
            media.submit(op)  # type: ignore[arg-type]

    namespace.media = Around()
    assert content(host.io.ask(stream(0, ODD["alike"]))) == expected
    assert Around.n_seen == N
    namespace.media = media
    assert content(host.io.ask(stream(0, ODD["alike"]))) == expected
    assert (Around.n_seen, namespace.counters.reads) == (N, n_reads + 2 * N)


def test_what_is_plain_behind_one_that_is_not_takes_the_fast_way_again(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = ready(target)
    executor = host.io.connection.executor
    assert executor is not None
    seen: list[int] = []
    capsule_of = executor.capsule

    def counted(cmd: Command, *args: Any, **options: Any) -> None:
        seen.append(cmd.opc)
        capsule_of(cmd, *args, **options)

    monkeypatch.setattr(executor, "capsule", counted)
    host.io.ask(stream(3, ODD["a flush"]) + stream(3, ODD["a flush"]))
    assert seen == [FLUSH, FLUSH]


def reads(n_blocks: int, n: int = N, first_cid: int = FIRST_CID) -> bytes:
    """`n` reads of the same size."""
    return b"".join(
        capsule(READ, (first_cid + i) % 0x10000, nsid=1, slba=i % 4, cdw12=n_blocks - 1, sgl_length=n_blocks * BLOCK)
        for i in range(n)
    )


@pytest.mark.parametrize("room", [None, 37, 500])
def test_headers_of_one_size_last_until_they_are_sent(target: Target, room: int | None) -> None:
    host = ready(target)
    odd = ODD["no such namespace"]
    expected = [answer for part in (reads(1), odd, reads(2)) for answer in content(host.io.ask(part))]
    for _ in range(4):
        assert content(host.io.ask(reads(1))) == expected[:N]  # the drive has headers ready for these CIDs now
    host.io.takes = None if room is None else lambda: room
    host.io.feed(reads(1) + odd + reads(2))
    while host.io.blocked:
        host.io.writable()
    assert content(host.io.take()) == expected


@pytest.mark.parametrize("room", [None, 37])
def test_headers_last_until_they_are_sent_when_the_connection_ends(target: Target, room: int | None) -> None:
    host = ready(target)
    for _ in range(4):
        expected = content(host.io.ask(reads(1)))
    host.io.takes = None if room is None else lambda: room
    host.io.feed(reads(1) + b"\xff" * 24)
    while host.io.blocked:
        host.io.writable()
    *answers, last = host.io.take()
    assert content(answers) == expected
    assert last.kind == C2H_TERM


def test_a_host_that_uses_every_cid_is_answered(target: Target) -> None:
    host = ready(target)
    for first_cid in range(100, 3 * MAX_KEPT, 60):
        answers = host.io.ask(reads(1, 60, first_cid))
        assert [answer.cid for answer in answers] == list(range(first_cid, first_cid + 60))
        assert all(answer.data == pattern(2 * UNIT)[i % 4 * BLOCK :][:BLOCK] for i, answer in enumerate(answers))
