"""Hosts that mean ill: the target answers by the rules or closes, keeps its memory, and serves others."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.commands.io import Answer, Fetch, IoCommand
from ocssd_tcp.commands.registry import IO_COMMANDS
from ocssd_tcp.transport import execution
from ocssd_tcp.transport.connection import TERMINATION_SECONDS, Phase
from ocssd_tcp.transport.rxbuf import RX_BYTES
from tests.support_target import (
    C2H_TERM,
    CAPSULE_CMD,
    CAPSULE_RESP,
    DNR,
    FLUSH,
    H2C_DATA,
    R2T,
    READ,
    SMALL,
    STAGE,
    VECTOR_RESET,
    WRITE,
    Host,
    Target,
    Wire,
    capsule,
    h2c,
    icreq,
    pattern,
    pdu,
    sqe,
)

UNIT = 4 * 512
MIB = 1 << 20


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One target for all: what one test does to it must not matter to the next."""
    made = Target(tmp_path_factory.mktemp("hostile") / "drive", [replace(SMALL, pe_cycles=0)])
    yield made
    made.close()


@pytest.fixture(scope="module")
def bystander(target: Target) -> Host:
    """A host of good will, whose I/O must go on."""
    host = target.host(dgst=3, hostnqn="nqn.2014-08.org.example:bystander")
    assert host.write(7 * 64, pattern(UNIT)) == 0
    return host


def intruder(bystander: Host, **options: int) -> Host:
    """A new host; those before it have gone."""
    target = bystander.target
    for wire in list(target.wires.values()):
        if wire not in bystander.wires.values():
            wire.cut()
    return target.host(**options)


def assert_serves(bystander: Host) -> None:
    assert bystander.read(7 * 64, 4) == pattern(UNIT)
    assert bystander.status(FLUSH) == 0


def assert_by_the_rules(wire: Wire, dgst: int = 0) -> None:
    """What came back is a legal stream, a C2HTermReq can only be its end, and the connection is what that says."""
    kinds = [answer.kind for answer in wire.take(dgst)]
    assert C2H_TERM not in kinds[:-1]
    if kinds and kinds[-1] == C2H_TERM:
        assert wire.phase is Phase.TERMINATING
        wire.target.pass_time(TERMINATION_SECONDS)
        assert wire.closed
    elif not wire.closed:
        assert wire.phase in (Phase.ICREQ, Phase.CONNECT, Phase.LIVE)
    assert bool(wire.connection.transfers) <= (wire.phase is Phase.LIVE)
    wire.cut()


# --- bytes --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.binary(min_size=1, max_size=400), prefix=st.sampled_from(["nothing", "icreq", "admin", "io"]))
def test_random_bytes_at_any_stage(target: Target, bystander: Host, data: bytes, prefix: str) -> None:
    """Conformance 125."""
    if prefix in ("admin", "io"):
        host = intruder(bystander)
        wire = host.admin if prefix == "admin" else host.io
    else:
        wire = target.wire()
        if prefix == "icreq":
            wire.ask(icreq())
    wire.feed(data)
    assert_by_the_rules(wire)
    assert_serves(bystander)


_SQES = st.builds(
    lambda opc, cid, fields: sqe(opc, cid, **fields),
    st.sampled_from([0, 1, 2, 5, 6, 8, 9, 0x0A, 0x0C, 0x18, 0x7F, 0x90, 0x91, 0x92, 0x93, 0x95, 0xE2])
    | st.integers(0, 255),
    st.integers(0, 3),
    st.dictionaries(
        st.sampled_from(["nsid", "cdw2", "cdw3", "cdw10", "cdw11", "cdw12", "cdw13", "cdw14", "cdw15", "sgl_length"]),
        st.integers(0, 16) | st.sampled_from([64, 512, 4096, 0xFFFF, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF),
    ),
)
_PDUS = st.one_of(
    st.builds(lambda entry, data: pdu(CAPSULE_CMD, entry, data), _SQES, st.binary(max_size=64)),
    st.builds(
        h2c, st.integers(0, 3), st.integers(0, 5), st.sampled_from([0, 512]), st.binary(min_size=1, max_size=600)
    ),
)


@settings(max_examples=120, deadline=None)
@given(stream=st.lists(_PDUS, min_size=1, max_size=12), cut=st.integers(0, 4000), on_admin=st.booleans())
def test_commands_with_random_fields(
    target: Target, bystander: Host, stream: list[bytes], cut: int, on_admin: bool
) -> None:
    """Conformance 124 and 125: every field may be anything."""
    host = intruder(bystander)
    if not on_admin:
        host.target.directory.associations[-1].slots[0] = (0, 1, 2, 3)
    wire = host.admin if on_admin else host.io
    wire.feed(b"".join(stream), [cut])
    assert_by_the_rules(wire)
    assert_serves(bystander)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([0, 2, CAPSULE_CMD, H2C_DATA]),
    hlen=st.sampled_from([24, 72, 128, 0, 255]),
    pdo=st.integers(0, 255),
    plen=st.sampled_from([0, 7, 8, 24, 72, 8264, 131_096, 1 << 20, 1 << 31, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF),
    tail=st.binary(max_size=300),
)
def test_hostile_lengths_allocate_nothing(
    target: Target, bystander: Host, kind: int, hlen: int, pdo: int, plen: int, tail: bytes
) -> None:
    """Conformance 14."""
    host = intruder(bystander)
    host.io.feed(struct.pack("<BBBBI", kind, 0, hlen, pdo, plen) + tail)
    assert len(host.io.connection.tail) <= 308
    assert sum(len(transfer.staging or b"") for transfer in host.io.connection.transfers.values()) == 0
    assert_by_the_rules(host.io)
    assert_serves(bystander)


@pytest.mark.parametrize("fraction", range(1, 72, 10))
def test_header_that_never_ends_holds_a_few_bytes(target: Target, bystander: Host, fraction: int) -> None:
    host = intruder(bystander)
    host.io.feed(capsule(FLUSH, 1, nsid=1)[:fraction])
    assert len(host.io.connection.tail) == fraction


def test_admin_session_cut_at_every_byte_leaves_nothing_behind(target: Target, bystander: Host) -> None:
    """Conformance 39."""
    host = intruder(bystander)
    for wire in host.wires.values():
        wire.cut()
    enable, identify = host.fabrics_pdu(0x00, 0x14, 0x00460001), capsule(0x06, 9, cdw10=1, sgl_length=4096)
    session = icreq() + host.connect_pdu(0) + enable + identify
    n_associations = len(target.directory.associations)
    for end in range(len(session) + 1):
        wire = target.wire()
        wire.feed(session[:end])
        wire.cut()
        assert len(target.directory.associations) == n_associations
    assert_serves(bystander)


def test_io_session_cut_at_every_byte_keeps_what_was_acknowledged_and_nothing_else(
    target: Target, bystander: Host
) -> None:
    """Conformance 39: in-capsule data, an R2T, its data in two PDUs, and a read behind it."""
    host = intruder(bystander, dgst=3)
    data = pattern(2 * UNIT, 5)
    session = capsule(WRITE, 1, data[:UNIT], dgst=3, nsid=1, slba=192, cdw12=3)
    session += capsule(WRITE, 2, dgst=3, nsid=1, slba=196, cdw12=3, sgl_length=UNIT)
    first, second = data[UNIT : UNIT + 512], data[UNIT + 512 :]
    session += h2c(2, 1, 0, first, dgst=3, last=False) + h2c(2, 1, 512, second, dgst=3)
    session += capsule(READ, 3, dgst=3, nsid=1, slba=192, cdw12=7, sgl_length=2 * UNIT)
    for end in range(len(session) + 1):
        wire = host.connect_io(2)
        wire.feed(session[:end])
        done = [answer.cid for answer in wire.take(3) if answer.kind == CAPSULE_RESP]
        wire.cut()
        n_blocks = 4 * sum(cid in done for cid in (1, 2))
        assert target.chunks()[3] == ((4, n_blocks) if n_blocks else (1, 0))
        assert host.read(192, 8) == data[: n_blocks * 512].ljust(2 * UNIT, b"\0")
        if n_blocks:
            assert host.status(VECTOR_RESET, slba=192) == 0
    assert_serves(bystander)


# --- floods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["before Connect", "admin", "io"])
@pytest.mark.parametrize("reads", [True, False])
def test_a_buffer_full_of_capsules(target: Target, bystander: Host, stage: str, reads: bool) -> None:
    """512 KiB of 72-byte capsules at once: answered, or too many for the queue; never stored without bound."""
    host = intruder(bystander)
    wire = {"admin": host.admin, "io": host.io}.get(stage) or target.wire()
    if stage == "before Connect":
        wire.ask(icreq())
    if not reads:
        wire.takes = lambda: 0
    flood = b"".join(capsule(READ, i, nsid=1, sgl_length=512) for i in range(RX_BYTES // 72 + 2))
    wire.feed(flood)
    tx = wire.connection.tx
    assert len(tx.arena) + len(tx.words) < 2 * MIB
    assert len(wire.connection.tail) < 72
    if reads:
        answers = wire.take()
        if stage == "before Connect":
            assert {answer.status for answer in answers} == {DNR | 0x00C}
        else:
            assert (answers[-1].kind, answers[-1].fes) == (C2H_TERM, 2)
            assert sum(answer.kind == CAPSULE_RESP for answer in answers) <= host.sqsize + 1
    else:
        assert wire.waiting >= len(flood) - RX_BYTES
    host.admin.cut()
    wire.cut()
    assert_serves(bystander)


def test_host_that_never_reads_makes_the_target_stop_listening_to_it(target: Target, bystander: Host) -> None:
    """Conformance 37. Its memory stays what one buffer of commands can ask for."""
    host = intruder(bystander)
    host.io.takes = lambda: 0
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(200):
        host.io.feed(b"".join(capsule(READ, cid, nsid=1, sgl_length=512) for cid in range(100)))
    assert_serves(bystander)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    inbox = host.io.waiting  # what the kernel would hold, up to its window
    assert inbox >= 199 * 7200
    assert grown - before < inbox * 2 + MIB
    assert host.io.connection.tx.n <= 3 * 128
    host.admin.cut()
    assert host.io.connection.phase is Phase.CLOSED


@pytest.mark.parametrize("sqsize", [1, 7, 127])
def test_queue_of_writes_that_never_send_their_data(target: Target, bystander: Host, sqsize: int) -> None:
    host = intruder(bystander, sqsize=sqsize)
    before = target.chunks()
    stream = b"".join(
        capsule(WRITE, i, nsid=1, slba=(i % 6) * 64 + i // 6 * 4 % 64, cdw12=3, sgl_length=UNIT) for i in range(2000)
    )
    host.io.feed(stream)
    answers = host.io.take()
    assert sum(answer.kind == R2T for answer in answers) <= sqsize + 1
    assert (answers[-1].kind, answers[-1].fes) == (C2H_TERM, 2)
    assert target.chunks() == before
    assert host.io.connection.transfers == {}
    assert_serves(bystander)


@pytest.mark.parametrize("opc", [WRITE, STAGE, 0x09, 0x91])
def test_length_that_a_command_claims_is_not_allocated_before_it_is_judged(
    target: Target, bystander: Host, opc: int
) -> None:
    host = intruder(bystander)
    for length in (0xFFFFFFFF, 1 << 31, 513 * 1024):
        (answer,) = host.command(opc, sgl_length=length, cdw12=63, cdw13=1 if opc == 0x91 else 0)
        assert answer.kind == CAPSULE_RESP
        assert answer.status & 0x7FF in (0x002, 0x00F)
    assert host.io.connection.transfers == {}


# --- games with tags and identifiers --------------------------------------------------------------------------


def test_data_for_a_transfer_that_was_aborted_is_swallowed(target: Target, bystander: Host) -> None:
    host = intruder(bystander)
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, slba=0, cdw12=3, sgl_length=UNIT))
    (aborted,) = host.admin.ask(capsule(0x08, 6, cdw10=1 | 5 << 16))
    assert (aborted.status, aborted.dw0) == (0, 0)
    (victim,) = host.io.take()
    assert (victim.cid, victim.status) == (5, 0x007)
    (again,) = host.io.ask(capsule(WRITE, 5, nsid=1, slba=0, cdw12=3, sgl_length=UNIT))
    assert again.ttag != r2t.ttag
    assert host.io.ask(h2c(5, r2t.ttag, 0, pattern(UNIT, 8))) == []  # of the aborted one: nobody's
    (done,) = host.io.ask(h2c(5, again.ttag, 0, pattern(UNIT, 9)))
    assert (done.cid, done.status) == (5, 0)
    assert host.read(0, 4) == pattern(UNIT, 9)
    assert host.status(VECTOR_RESET, slba=0) == 0


@pytest.mark.parametrize("n_before", [0, 1, 700])
def test_data_that_arrives_for_a_chunk_reset_meanwhile_harms_no_later_write(
    target: Target, bystander: Host, n_before: int
) -> None:
    """A stale reservation takes its data and fails; the chunk holds what was written to it after the reset."""
    host = intruder(bystander)
    assert host.write(64, pattern(UNIT, 1)) == 0
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, slba=68, cdw12=3, sgl_length=UNIT))
    data = h2c(5, r2t.ttag, 0, pattern(UNIT, 2))
    host.io.feed(data[: 24 + n_before if n_before else 0])
    other = host.connect_io(2)
    assert host.status(VECTOR_RESET, slba=64, qid=2) == 0
    assert host.write(64, pattern(UNIT, 3), qid=2) == 0
    assert other.take() == []
    (failed,) = host.io.ask(data[24 + n_before if n_before else 0 :])
    assert (failed.cid, failed.status) == (5, DNR | 0x2F2)
    assert host.write(68, pattern(UNIT, 4), qid=2) == 0
    assert host.read(64, 8) == pattern(UNIT, 3) + pattern(UNIT, 4)
    assert host.status(VECTOR_RESET, slba=64) == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_random_play_with_tags_never_writes_what_was_not_acknowledged(
    target: Target, bystander: Host, seed: int
) -> None:
    chance, host = random.Random(seed), intruder(bystander)
    tags: list[tuple[int, int]] = []
    wp = 0
    for _ in range(30):
        if host.io.closed or host.io.half_closed:
            break
        if chance.random() < 0.5:
            answers = host.io.ask(
                capsule(
                    WRITE, chance.randrange(4), nsid=1, slba=128 + chance.choice([wp, 4, 8]), cdw12=3, sgl_length=UNIT
                )
            )
        elif tags:
            cid, ttag = chance.choice(tags)
            ttag = ttag if chance.random() < 0.9 else chance.randrange(1 << 16)
            answers = host.io.ask(h2c(cid, ttag, 0, pattern(UNIT, cid)))
        else:
            continue
        tags += [(answer.cid, answer.ttag) for answer in answers if answer.kind == R2T]
        wp += 4 * sum(answer.kind == CAPSULE_RESP and answer.status == 0 for answer in answers)
        assert target.chunks()[2][1] == wp
    host.io.cut()
    assert target.chunks()[2][1] == wp
    if wp:
        host.connect_io(3)
        assert host.status(VECTOR_RESET, slba=128, qid=3) == 0


# --- what must not happen, happens ----------------------------------------------------------------------------


@pytest.mark.parametrize("by_r2t", [False, True])
def test_defect_in_a_handler_ends_one_command_or_its_connection_and_nothing_else(
    bystander: Host, monkeypatch: pytest.MonkeyPatch, by_r2t: bool
) -> None:
    """No exception leaves `received`, wherever the handler ran."""
    host, entry = intruder(bystander), IO_COMMANDS[STAGE]
    assert entry is not None

    def broken(io: IoCommand) -> Answer:
        if io.data is None:
            return Fetch(8)
        raise RuntimeError("a defect")

    table = [*IO_COMMANDS]
    table[STAGE] = replace(entry, handler=broken)
    monkeypatch.setattr(execution, "IO_COMMANDS", table)
    host.io.feed(capsule(STAGE, 5, b"" if by_r2t else bytes(8), nsid=1, sgl_length=8))
    if by_r2t:
        (r2t,) = host.io.take()
        host.io.feed(h2c(5, r2t.ttag, 0, bytes(8)))
    answers = host.io.take()
    assert host.io.closed or [(answer.cid, answer.status) for answer in answers] == [(5, 0x006)]
    assert host.command(0x18, qid=0, nsid=0)[0].status == 0
    assert_serves(bystander)
