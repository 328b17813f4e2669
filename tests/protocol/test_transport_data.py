"""How data moves: C2HData, in-capsule data, R2T and H2CData, order, back-pressure, timers and torn connections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.transport.connection import (
    CONNECT_SECONDS,
    ICREQ_SECONDS,
    MAXH2CDATA,
    TERMINATION_SECONDS,
    TRANSFER_SECONDS,
    Phase,
)
from tests.support_target import (
    C2H_DATA,
    C2H_TERM,
    CAPSULE_RESP,
    DNR,
    FLUSH,
    IN_CAPSULE,
    LAST,
    NO_SQ_FLOW,
    R2T,
    READ,
    SUCCESS,
    VECTOR_WRITE,
    WRITE,
    Host,
    Target,
    capsule,
    h2c,
    icreq,
    pattern,
)

LARGE = Geometry(num_grp=1, num_pu=1, num_chk=4, clba=512, mw_cunits=0, ws_min=1)
KEEP_ALIVE = 0x18
KIB = 1024


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path / "drive")
    yield made
    made.close()


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path / "large", [LARGE])
    yield made
    made.close()


# --- reads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dgst", [0, 3])
def test_longest_read_is_gapless_and_only_its_last_pdu_is_marked(large: Target, dgst: int) -> None:
    """Conformance 21, up to MDTS."""
    host = large.host(dgst=dgst)
    content = pattern(512 * KIB)
    assert host.write(0, content, by_r2t=True) == 0
    *data, response = host.command(READ, slba=0, cdw12=127, sgl_length=512 * KIB)
    assert [part.kind for part in data] == [C2H_DATA] * len(data)
    offsets = [part.offset for part in data]
    assert offsets == [sum(part.length for part in data[:i]) for i in range(len(data))]
    assert [bool(part.flags & LAST) for part in data] == [False] * (len(data) - 1) + [True]
    assert b"".join(part.data for part in data) == content
    assert (response.kind, response.status) == (CAPSULE_RESP, 0)


@pytest.mark.parametrize("dgst", [0, 3])
@pytest.mark.parametrize("slba", [0, 1 << 40])
def test_success_flag_replaces_the_response_exactly_where_the_host_gave_up_sq_flow_control(
    target: Target, dgst: int, slba: int
) -> None:
    """Conformance 22. For blocks that were written, and for those that never can be."""
    for cattr in (0, NO_SQ_FLOW):
        host = target.host(cattr=cattr, dgst=dgst)
        host.write(0, pattern(2048))
        answers = host.command(READ, slba=slba, cdw12=3, sgl_length=2048)
        if cattr:
            (data,) = answers
            assert data.flags & (LAST | SUCCESS) == LAST | SUCCESS
        else:
            data, response = answers
            assert data.flags & (LAST | SUCCESS) == LAST
            assert (response.cid, response.status) == (data.cid, 0)


def test_without_sq_flow_control_sqhd_is_ffff_in_every_response(target: Target) -> None:
    """Conformance 22."""
    host = target.host(cattr=NO_SQ_FLOW)
    for opc in (FLUSH, 0x7E):
        (response,) = host.command(opc)
        assert response.sqhd == 0xFFFF


def test_sqhd_counts_completions_modulo_the_queue_size(target: Target) -> None:
    host = target.host(sqsize=4)
    host.write(0, pattern(2048))
    heads = [host.command(READ, slba=0, cdw12=0, sgl_length=512)[-1].sqhd for _ in range(8)]
    assert heads == [3, 4, 0, 1, 2, 3, 4, 0]  # Connect and the write were 1 and 2


# --- writes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dgst", [0, 3])
@pytest.mark.parametrize("cut", [None, 1000])
def test_write_longer_than_maxh2cdata_is_asked_for_whole_and_put_together(
    large: Target, dgst: int, cut: int | None
) -> None:
    """Conformance 23."""
    host, content = large.host(dgst=dgst), pattern(MAXH2CDATA + 4096)
    wire = host.io
    wire.feed(capsule(WRITE, 9, dgst=dgst, nsid=1, cdw12=32, sgl_length=len(content)))
    asked, answers = 0, wire.take(dgst)
    while answers[-1].kind == R2T:
        (r2t,) = answers
        assert r2t.offset == asked
        assert r2t.length > 0
        asked += r2t.length
        for start in range(r2t.offset, asked, MAXH2CDATA):
            part = content[start : min(start + MAXH2CDATA, asked)]
            last = start + len(part) == asked
            wire.feed(h2c(9, r2t.ttag, start, part, last=last, dgst=dgst), [cut] * 200 if cut else None)
        answers = wire.take(dgst)
    assert asked == len(content)
    assert [(answer.kind, answer.cid, answer.status) for answer in answers] == [(CAPSULE_RESP, 9, 0)]
    assert host.read(0, 33) == content


@pytest.mark.parametrize("split", [None, 100])
def test_h2c_data_longer_than_maxh2cdata_is_fatal_even_within_its_r2t(large: Target, split: int | None) -> None:
    """Conformance 29."""
    host, n_bytes = large.host(), MAXH2CDATA + 4096
    (r2t,) = host.io.ask(capsule(WRITE, 9, nsid=1, cdw12=32, sgl_length=n_bytes))
    host.io.feed(h2c(9, r2t.ttag, 0, bytes(n_bytes)), [split] if split else None)
    (term,) = host.io.take()
    assert (term.kind, term.fes, term.fei) == (C2H_TERM, 5, 0)
    assert large.chunks()[0] == (1, 0)


def test_missing_last_flag_on_the_final_h2c_data_is_tolerated(target: Target) -> None:
    host = target.host()
    (r2t,) = host.io.ask(capsule(WRITE, 9, nsid=1, cdw12=3, sgl_length=2048))
    (done,) = host.io.ask(h2c(9, r2t.ttag, 0, pattern(2048), last=False))
    assert done.status == 0


@pytest.mark.parametrize("size", [512, 4, 1, 513])
def test_h2c_data_pdus_of_any_size_make_up_a_transfer(target: Target, size: int) -> None:
    """Conformance 29: longer than one's share is fatal, shorter never is."""
    host, content = target.host(dgst=3), pattern(2048)
    (r2t,) = host.io.ask(capsule(WRITE, 9, dgst=3, nsid=1, cdw12=3, sgl_length=2048), 3)
    for start in range(0, 2048, size):
        assert host.io.take(3) == []
        part = content[start : start + size]
        host.io.feed(h2c(9, r2t.ttag, start, part, last=start + size >= 2048, dgst=3))
    (done,) = host.io.take(3)
    assert done.status == 0
    assert host.read(0, 4) == content


def test_command_has_one_r2t_outstanding_at_a_time(target: Target) -> None:
    """Conformance 24. A list at the head of the data is fetched first, by an R2T of its own."""
    host, content = target.host(), pattern(2048)
    lbas = b"".join(lba.to_bytes(8, "little") for lba in range(4))
    fields = {"nsid": 1, "cdw12": 3, "cdw13": 1, "sgl_length": 2048 + 32}
    (first,) = host.io.ask(capsule(VECTOR_WRITE, 9, **fields))
    assert (first.kind, first.offset, first.length) == (R2T, 0, 32)
    (second,) = host.io.ask(h2c(9, first.ttag, 0, lbas))
    assert (second.kind, second.offset, second.length) == (R2T, 32, 2048)
    (done,) = host.io.ask(h2c(9, second.ttag, 32, content))
    assert (done.kind, done.status) == (CAPSULE_RESP, 0)
    assert host.read(0, 4) == content


def test_live_ttags_are_unique_and_neither_0_nor_ffff(target: Target) -> None:
    host = target.host(sqsize=63)
    ws_min = target.namespaces[0].geometry.ws_min
    stream = b"".join(
        capsule(WRITE, i, nsid=1, slba=i % 2 * 64 + i // 2 * ws_min, cdw12=ws_min - 1, sgl_length=ws_min * 512)
        for i in range(30)
    )
    tags = [answer.ttag for answer in host.io.ask(stream)]
    assert len(set(tags)) == 30
    assert not {0, 0xFFFF} & set(tags)


def test_ttags_that_wrap_skip_those_still_live(target: Target) -> None:
    host = target.host()
    (held,) = host.io.ask(capsule(WRITE, 1, nsid=1, cdw12=3, sgl_length=2048))
    assert held.ttag == 1
    host.io.connection.last_ttag = 0xFFFD
    tags = []
    for cid in (2, 3):
        (r2t,) = host.io.ask(capsule(WRITE, cid, nsid=1, slba=64 * cid, cdw12=3, sgl_length=2048))
        tags.append(r2t.ttag)
    assert tags == [0xFFFE, 2]


# --- in-capsule data ----------------------------------------------------------------------------------------


def test_8_kib_in_a_capsule_are_accepted_for_fabrics_and_admin_commands_whatever_ioccsz_says(tmp_path: Path) -> None:
    """Conformance 30."""
    target = Target(tmp_path / "drive", in_capsule_bytes=0)
    host = target.host()
    for qid in (0, 2):
        wire = target.wire()
        wire.feed(icreq())
        wire.take()
        plain = host.connect_pdu(qid, cid=5)
        longer = bytearray(plain + bytes(7168))
        longer[4:8] = len(longer).to_bytes(4, "little")
        longer[8 + 32 : 8 + 36] = (8192).to_bytes(4, "little")
        (answer,) = wire.ask(bytes(longer))
        assert (answer.cid, answer.status) == (5, 0)
    (answer,) = host.admin.ask(capsule(0x09, 6, bytes(8192), cdw10=0x0E))
    assert (answer.cid, answer.status) == (6, DNR | 0x00F)
    target.close()


@pytest.mark.parametrize("limit", [0, 512, 4096])
def test_in_capsule_data_beyond_ioccsz_is_fatal_on_an_io_queue(tmp_path: Path, limit: int) -> None:
    """Conformance 31."""
    target = Target(tmp_path / "drive", in_capsule_bytes=limit)
    host = target.host()
    if limit:
        (answer,) = host.io.ask(capsule(0x7E, 5, bytes(limit), nsid=1))
        assert answer.status == DNR | 0x001
    (term,) = host.io.ask(capsule(WRITE, 6, bytes(limit + 1), nsid=1))
    assert (term.kind, term.fes, term.fei) == (C2H_TERM, 5, 0)
    assert target.directory.associations
    target.close()


IN_CAPSULE_FAULTS = [
    (32, WRITE, pattern(2048), {"sgl_address": 8}, 0x016),
    (32, WRITE, pattern(2048), {"sgl_address": 1 << 63}, 0x016),
    (33, WRITE, pattern(2048), {"sgl_length": 2049}, 0x00F),
    (33, WRITE, pattern(2048), {"sgl_length": 2047}, 0x00F),
    (33, WRITE, pattern(2048), {"sgl_length": 0}, 0x00F),
    (33, WRITE, pattern(2048), {"sgl_length": 0xFFFFFFFF}, 0x002),
    (34, WRITE, pattern(2048), {"sgl_type": 0x00}, 0x011),
    (34, WRITE, pattern(2048), {"sgl_type": 0x5A}, 0x011),
    (34, READ, b"", {"sgl_type": 0x00}, 0x011),
    (34, READ, b"", {"sgl_type": 0x01}, 0x011),
    (34, READ, b"", {"sgl_type": 0x20}, 0x011),
    (34, READ, b"", {"sgl_type": 0x40}, 0x011),
    (34, READ, b"", {"sgl_type": 0x5B}, 0x011),
    (34, READ, pattern(2048), {"sgl_type": 0x5A}, 0x011),
    (35, 0x7E, pattern(4096), {}, 0x001),
    (35, FLUSH, pattern(4096), {}, None),
]


@pytest.mark.parametrize("dgst", [0, 3])
@pytest.mark.parametrize(("item", "opc", "data", "changes", "status"), IN_CAPSULE_FAULTS)
def test_refused_command_leaves_the_stream_in_step(
    target: Target, dgst: int, item: int, opc: int, data: bytes, changes: dict[str, int], status: int | None
) -> None:
    """Conformance 32, 33, 34 and 35: the exact status, and the command behind it is executed."""
    host = target.host(dgst=dgst)
    fields = {"nsid": 1, "cdw12": 3} | ({} if data else {"sgl_length": 2048}) | changes
    bad = capsule(opc, 1, data, dgst=dgst, **fields)
    good = capsule(WRITE, 2, pattern(2048, 1), dgst=dgst, nsid=1, cdw12=3)
    refused, done = host.io.ask(bad + good, dgst)
    assert (refused.kind, refused.cid, refused.status) == (CAPSULE_RESP, 1, 0 if status is None else DNR | status)
    assert (done.cid, done.status) == (2, 0)
    assert host.read(0, 4) == pattern(2048, 1)


@pytest.mark.parametrize("sgl_type", [0x00, 0x5A, IN_CAPSULE])
def test_sgl_of_a_command_without_data_is_not_judged(target: Target, sgl_type: int) -> None:
    assert target.host().status(FLUSH, sgl_type=sgl_type, sgl_address=99) == 0


@pytest.mark.parametrize("opc", [0x90, 0x93])
@pytest.mark.parametrize("sgl_type", [0x00, 0x5A])
@pytest.mark.parametrize("in_capsule", [False, True])
def test_vector_command_without_data_may_have_an_sgl_that_says_nothing(
    target: Target, opc: int, sgl_type: int, in_capsule: bool
) -> None:
    host = target.host()
    assert host.write(0, pattern(2048)) == 0
    fields = {"sgl_type": sgl_type, "sgl_length": 0}
    lists = b"".join(lba.to_bytes(8, "little") for lba in ([0] if opc == 0x90 else [0, 1, 2, 3, 64, 65, 66, 67]))
    n_lbas = 1 if opc == 0x90 else 4
    if in_capsule:
        status = host.status(opc, lists, cdw12=n_lbas - 1, cdw13=4, cdw14=32 if opc == 0x93 else 0, **fields)
    else:
        status = host.status(opc, cdw12=n_lbas - 1, cdw13=2 | 3 << 4, cdw14=64 if opc == 0x93 else 0, **fields)
    assert status == 0


# --- command identifiers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cid", [0xF01F, 0x0000, 0xFFFF])
def test_cid_is_echoed_as_it_came(target: Target, cid: int) -> None:
    """Conformance 36."""
    host = target.host()
    assert [answer.cid for answer in host.command(FLUSH, cid=cid)] == [cid]
    assert [answer.cid for answer in host.command(WRITE, cid=cid, payload=pattern(2048), cdw12=3)] == [cid]
    assert [answer.cid for answer in host.command(READ, cid=cid, cdw12=3, sgl_length=2048)] == [cid, cid]
    assert [answer.cid for answer in host.command(0x7E, cid=cid)] == [cid]


def test_cid_in_use_is_a_conflict_and_the_older_command_lives(target: Target) -> None:
    host = target.host()
    (r2t,) = host.io.ask(capsule(WRITE, 7, nsid=1, cdw12=3, sgl_length=2048))
    for again in (
        capsule(READ, 7, nsid=1, sgl_length=512),
        capsule(WRITE, 7, nsid=1, slba=4, cdw12=3, sgl_length=2048),
    ):
        (conflict,) = host.io.ask(again)
        assert (conflict.cid, conflict.status) == (7, 0x003)
    (done,) = host.io.ask(h2c(7, r2t.ttag, 0, pattern(2048)))
    assert (done.cid, done.status) == (7, 0)


@pytest.mark.parametrize("sqsize", [1, 3])
def test_queue_holds_its_entries_and_one_more_is_fatal(target: Target, sqsize: int) -> None:
    host = target.host(sqsize=sqsize)
    stream = b"".join(capsule(WRITE, i, nsid=1, slba=4 * i, cdw12=3, sgl_length=2048) for i in range(sqsize + 1))
    assert [answer.kind for answer in host.io.ask(stream)] == [R2T] * (sqsize + 1)
    (term,) = host.io.ask(capsule(FLUSH, 99, nsid=1))
    assert (term.kind, term.fes, term.fei) == (C2H_TERM, 2, 0)
    assert target.chunks()[0] == (1, 0)


# --- back-pressure ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cattr", [0, NO_SQ_FLOW])
@pytest.mark.parametrize("step", [1, 7, 4096, 100_000])
def test_full_queue_of_reads_survives_a_host_that_reads_slowly(target: Target, cattr: int, step: int) -> None:
    """Conformance 37."""
    host = target.host(cattr=cattr, sqsize=127, kato=60_000)
    assert host.write(0, pattern(4096)) == 0
    wire, room = host.io, 0
    wire.takes = lambda: room
    stream = b"".join(capsule(READ, i, nsid=1, slba=i % 8, sgl_length=512) for i in range(128))
    wire.feed(stream)
    assert wire.output == b""
    wire.feed(capsule(FLUSH, 500, nsid=1))
    assert wire.waiting == 72  # the target does not read while it cannot send
    assert len(wire.connection.tx.arena) + len(wire.connection.tx.words) < 256 * KIB
    (alive,) = host.command(KEEP_ALIVE, qid=0, nsid=0)
    assert alive.status == 0
    room = step
    for _ in range(100_000 // step + 2):
        wire.takes = iter([step, 0]).__next__
        wire.writable()
    wire.takes = None
    wire.writable()
    answers = wire.take()
    data = {answer.cid: answer.data for answer in answers if answer.kind == C2H_DATA}
    assert data == {i: pattern(4096)[i % 8 * 512 : i % 8 * 512 + 512] for i in range(128)}
    responses = [answer for answer in answers if answer.kind == CAPSULE_RESP]
    assert [answer.cid for answer in responses] == ([500] if cattr else [*range(128), 500])


# --- timers and torn connections ------------------------------------------------------------------------------


def test_silent_connection_is_closed_after_its_timer(target: Target) -> None:
    """Conformance 38."""
    silent, slow = target.wire(), target.wire()
    slow.feed(icreq()[:100])
    target.pass_time(ICREQ_SECONDS - 0.01)
    assert not silent.closed
    target.pass_time(0.02)
    assert silent.closed
    assert slow.closed
    assert silent.take() == slow.take() == []


def test_connection_without_connect_is_closed_after_its_timer(target: Target) -> None:
    wire = target.wire()
    wire.ask(icreq())
    target.pass_time(CONNECT_SECONDS - 0.01)
    assert not wire.closed
    target.pass_time(0.02)
    assert wire.closed


def test_thousand_silent_connections_do_not_hold_up_a_host(target: Target) -> None:
    """Conformance 38."""
    silent = [target.wire() for _ in range(1000)]
    host = target.host()
    assert host.write(0, pattern(2048)) == 0
    target.pass_time(ICREQ_SECONDS)
    assert all(wire.closed for wire in silent)
    assert host.read(0, 4) == pattern(2048)


def test_r2t_without_any_progress_ends_the_connection(target: Target) -> None:
    host = target.host()
    host.io.ask(capsule(WRITE, 5, nsid=1, cdw12=3, sgl_length=2048))
    target.pass_time(TRANSFER_SECONDS - 0.01)
    assert host.io.phase is Phase.LIVE
    target.pass_time(0.02)
    assert host.io.closed
    assert target.directory.associations  # the controller lives on
    host.connect_io()
    assert host.write(0, pattern(2048)) == 0


def test_r2t_with_slow_progress_does_not(target: Target) -> None:
    host, content = target.host(), pattern(2048)
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, cdw12=3, sgl_length=2048))
    stream = h2c(5, r2t.ttag, 0, content)
    for position in range(0, len(stream), 259):
        target.pass_time(TRANSFER_SECONDS - 1)
        host.io.feed(stream[position : position + 259])
    (done,) = host.io.take()
    assert done.status == 0


@pytest.mark.parametrize("fraction", range(0, 2072, 97))
def test_connection_cut_in_the_middle_of_h2c_data_writes_nothing(target: Target, fraction: int) -> None:
    """Conformance 39, and 104: nothing above wp is ever readable."""
    host = target.host()
    assert host.write(0, pattern(2048, 1)) == 0
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, slba=4, cdw12=3, sgl_length=2048))
    host.io.feed(h2c(5, r2t.ttag, 0, pattern(2048, 2))[:fraction])
    host.io.cut()
    assert target.chunks()[0] == (4, 4)
    host.connect_io()
    assert host.read(4, 4) == bytes(2048)
    assert host.write(4, pattern(2048, 3)) == 0
    assert host.read(0, 8) == pattern(2048, 1) + pattern(2048, 3)


def test_cut_connection_takes_the_reservations_with_it_and_fails_those_above(target: Target) -> None:
    """Conformance 39."""
    host = target.host()
    other = host.connect_io(2)
    (below,) = host.io.ask(capsule(WRITE, 5, nsid=1, cdw12=3, sgl_length=2048))
    (above,) = other.ask(capsule(WRITE, 6, nsid=1, slba=4, cdw12=3, sgl_length=2048))
    assert other.ask(h2c(6, above.ttag, 0, pattern(2048))) == []  # its data is there, what is below is not
    host.io.cut()
    (failed,) = other.take()
    assert (failed.cid, failed.status) == (6, DNR | 0x2F2)
    assert below.kind == R2T
    assert target.chunks()[0] == (1, 0)
    assert host.write(0, pattern(2048), qid=2) == 0


def test_admin_connection_that_is_cut_takes_the_io_queues_with_it(target: Target) -> None:
    host = target.host()
    host.admin.cut()
    assert host.io.closed
    assert target.directory.associations == []
    other = Host(target)
    other.connect()
    assert other.cntlid != host.cntlid


@pytest.mark.parametrize("idle", [0.0, 600.0])
def test_host_that_never_reads_does_not_keep_a_connection_that_is_to_be_closed(target: Target, idle: float) -> None:
    """Conformance 37. What is queued is sent, if the host takes it in time."""
    host, slow = target.host(), target.host()
    for wire in (host.io, slow.io):
        wire.takes = lambda: 0
        wire.feed(capsule(FLUSH, 5, nsid=1))
    target.pass_time(idle)
    host.admin.cut()
    slow.admin.cut()
    assert host.io.phase is slow.io.phase is Phase.CLOSED
    assert not host.io.closed
    slow.io.takes = None
    slow.io.writable()
    assert slow.io.closed
    assert [answer.cid for answer in slow.io.take()] == [5]
    target.pass_time(TERMINATION_SECONDS)
    assert host.io.closed
