"""The rules of NVMe/TCP about single PDUs: the IC exchange, digests, and every way to break them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocssd_tcp.transport.connection import TERMINATION_SECONDS, Phase
from tests.support_target import (
    C2H_DATA,
    C2H_TERM,
    CAPSULE_CMD,
    CAPSULE_RESP,
    FLUSH,
    H2C_TERM,
    HDGST,
    ICREQ,
    ICRESP,
    R2T,
    READ,
    WRITE,
    Host,
    Pdu,
    Target,
    Wire,
    capsule,
    h2c,
    icreq,
    pattern,
    pdu,
    sqe,
)

HUGE = 0xFFFFFFFF


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path / "drive")
    yield made
    made.close()


def assert_fatal(wire: Wire, data: bytes, fes: int, fei: int, dgst: int = 0) -> Pdu:
    """The target answers `data` with exactly one C2HTermReq, is deaf from then on, and closes in the end."""
    (term,) = wire.ask(data, dgst)
    assert (term.kind, term.fes, term.fei) == (C2H_TERM, fes, fei)
    assert (term.flags, term.pdo) == (0, 24)
    assert 25 <= term.plen <= 152
    assert term.data == data[: len(term.data)]
    assert not any(term.header[14:])
    assert wire.half_closed
    assert wire.ask(icreq() + capsule(FLUSH, 1, nsid=1)) == []
    assert not wire.closed
    wire.target.pass_time(TERMINATION_SECONDS)
    assert wire.closed
    assert wire.ask(b"") == []
    return term


# --- the IC exchange --------------------------------------------------------------------------------------


def test_icreq_is_answered_with_the_exact_icresp(target: Target) -> None:
    """Conformance 1."""
    wire = target.wire()
    wire.feed(icreq())
    assert bytes(wire.output) == bytes.fromhex("01 00 80 00 80 00 00 00 00 00 00 00 00 00 02 00") + bytes(112)


@pytest.mark.parametrize("dgst", [0, 1, 2, 3])
def test_digests_are_echoed_and_then_used_by_every_pdu(target: Target, dgst: int) -> None:
    """Conformance 2."""
    wire = target.wire()
    (response,) = wire.ask(icreq(dgst=dgst))
    assert response.header[8:12] == bytes([0, 0, 0, dgst])
    host = target.host(dgst=dgst)
    assert host.write(0, pattern(2048)) == 0
    assert host.write(4, pattern(2048), by_r2t=True) == 0
    assert host.read(0, 4) == pattern(2048)


def test_unknown_digest_bits_are_ignored(target: Target) -> None:
    (response,) = target.wire().ask(icreq(dgst=0xFC))
    assert response.header[11] == 0


@pytest.mark.parametrize(
    ("item", "data", "fes", "fei"),
    [
        (3, icreq(pfv=1), 1, 8),
        (4, pdu(ICREQ, bytes(120), plen=127), 1, 4),
        (4, pdu(ICREQ, bytes(120), plen=129), 1, 4),
        (4, pdu(ICREQ, bytes(120), hlen=127), 1, 2),
        (5, icreq(hpda=32), 1, 10),
        (5, icreq(hpda=255), 1, 10),
        (7, capsule(FLUSH, 1, nsid=1), 2, 0),
        (7, capsule(WRITE, 1, bytes(512), nsid=1), 2, 0),
        (7, h2c(1, 1, 0, bytes(512)), 2, 0),
        (14, pdu(ICREQ, bytes(120), plen=HUGE), 1, 4),
        (16, pdu(ICREQ, bytes(120), flags=HDGST), 1, 1),
    ],
)
def test_bad_start_is_fatal(target: Target, item: int, data: bytes, fes: int, fei: int) -> None:
    """Conformance 3, 4, 5, 7, 14 and 16."""
    assert_fatal(target.wire(), data, fes, fei)


@pytest.mark.parametrize("hpda", [0, 3, 7, 31])
@pytest.mark.parametrize("dgst", [0, 3])
def test_data_for_the_host_is_aligned_as_hpda_asks(target: Target, hpda: int, dgst: int) -> None:
    """Conformance 6."""
    host = target.host(hpda=hpda, dgst=dgst)
    assert host.write(0, pattern(2048)) == 0
    data, response = host.command(READ, slba=0, cdw12=3, sgl_length=2048)
    assert (data.kind, response.kind) == (C2H_DATA, CAPSULE_RESP)
    assert data.data == pattern(2048)
    assert data.pdo % ((hpda + 1) * 4) == 0
    assert data.pdo < 28 + (hpda + 1) * 4


@pytest.mark.parametrize("connected", [False, True])
def test_second_icreq_is_fatal(target: Target, connected: bool) -> None:
    """Conformance 8."""
    if connected:
        wire = target.host().io
    else:
        wire = target.wire()
        wire.ask(icreq())
    assert_fatal(wire, icreq(), 2, 0)


def test_icreq_one_byte_at_a_time_is_answered_once(target: Target) -> None:
    """Conformance 9."""
    wire = target.wire()
    for byte in icreq()[:-1]:
        wire.feed(bytes([byte]))
        target.pass_time(0.01)
    assert wire.take() == []
    (response,) = wire.ask(icreq()[-1:])
    assert response.kind == ICRESP


def test_icreq_connect_and_property_get_in_one_segment_are_answered_in_order(target: Target) -> None:
    """Conformance 10."""
    wire, host = target.wire(), Host(target)
    wire.feed(icreq() + host.connect_pdu(0, cid=7) + host.fabrics_pdu(0x04, 0x08, cid=8))
    response, connected, version = wire.take()
    assert response.kind == ICRESP
    assert (connected.cid, connected.status, connected.sqhd) == (7, 0, 1)
    assert (version.cid, version.status, version.dw0, version.sqhd) == (8, 0, 0x00010400, 2)


def test_annotated_minimal_exchange_has_these_bytes(target: Target) -> None:
    """From ICReq to an R2T, as the bytes stand on the wire."""
    wire, host = target.wire(), Host(target, sqsize=31)
    wire.feed(icreq())
    wire.output.clear()
    connect = host.connect_pdu(0, cid=0x7005)
    assert connect[:16] == bytes.fromhex("04 00 48 48 48 04 00 00 7f 40 05 70 01 00 00 00")
    for sent, received in [
        (connect, "05 00 18 00 18 00 00 00 01 00 00 00 00 00 00 00 01 00 00 00 05 70 00 00"),
        (
            host.fabrics_pdu(0x04, 0x00, attrib=1, cid=6),
            "05 00 18 00 18 00 00 00 ff 03 01 1e 20 00 00 00 02 00 00 00 06 00 00 00",
        ),
        (
            host.fabrics_pdu(0x00, 0x14, 0x00460001, cid=7),
            "05 00 18 00 18 00 00 00 00 00 00 00 00 00 00 00 03 00 00 00 07 00 00 00",
        ),
        (
            host.fabrics_pdu(0x04, 0x1C, cid=8),
            "05 00 18 00 18 00 00 00 01 00 00 00 00 00 00 00 04 00 00 00 08 00 00 00",
        ),
    ]:
        wire.feed(sent)
        assert wire.output.hex(" ") == received
        wire.output.clear()
    wire.feed(capsule(0x06, 0x1F, cdw10=1, sgl_length=4096))
    assert wire.output[:24].hex(" ") == "07 04 18 18 18 10 00 00 1f 00 00 00 00 00 00 00 00 10 00 00 00 00 00 00"
    assert wire.output[24 + 4096 :].hex(" ") == "05 00 18 00 18 00 00 00" + " 00" * 8 + " 05 00 00 00 1f 00 00 00"
    host.cntlid = 1
    host.connect_io()
    wire = host.io
    wire.feed(capsule(WRITE, 0xF01F, nsid=1, cdw12=31, sgl_length=16384))
    assert wire.output.hex(" ") == "09 00 18 00 18 00 00 00 1f f0 01 00 00 00 00 00 00 40 00 00 00 00 00 00"


# --- PDUs that break a rule, on a live queue ----------------------------------------------------------------

LIVE = [
    *((11, pdu(kind, bytes(16), bytes(8)), 1, 0) for kind in (0x01, 0x03, 0x05, 0x07, 0x08, 0x09, 0x0A, 0x0B, 0xFF)),
    (12, pdu(CAPSULE_CMD, sqe(FLUSH, 1, nsid=1), hlen=71), 1, 2),
    (12, pdu(CAPSULE_CMD, sqe(FLUSH, 1, nsid=1), hlen=73), 1, 2),
    (12, h2c(1, 1, 0, bytes(8), hlen=28), 1, 2),
    (13, pdu(CAPSULE_CMD, sqe(FLUSH, 1, nsid=1), plen=71), 1, 4),
    (13, pdu(CAPSULE_CMD, sqe(FLUSH, 1, nsid=1), plen=0), 1, 4),
    (13, pdu(CAPSULE_CMD, sqe(FLUSH, 1, nsid=1), plen=73), 1, 3),
    (13, h2c(1, 1, 0, b"", datal=0), 1, 4),
    (14, pdu(CAPSULE_CMD, sqe(WRITE, 1), bytes(8), plen=HUGE), 5, 0),
    (14, pdu(CAPSULE_CMD, sqe(WRITE, 1), plen=HUGE), 1, 3),
    (14, h2c(1, 1, 0, bytes(8), plen=HUGE), 5, 0),
    (16, pdu(CAPSULE_CMD, sqe(FLUSH, 1, nsid=1), flags=HDGST), 1, 1),
    (16, capsule(WRITE, 1, bytes(512), nsid=1, changes={"flags": 2}), 1, 1),
    (16, capsule(WRITE, 1, bytes(512), nsid=1, changes={"flags": 4}), 1, 1),
    (16, h2c(1, 1, 0, bytes(8), flags=8), 1, 1),
    (13, capsule(WRITE, 1, bytes(512), nsid=1, changes={"pdo": 74}), 1, 3),
    (13, pdu(CAPSULE_CMD, sqe(WRITE, 1), bytes(512), pdo=72, plen=72 + 512)[:3] + b"\x44" + bytes(600), 1, 4),
    (31, capsule(WRITE, 1, bytes(8193), nsid=1), 5, 0),
    (29, h2c(1, 1, 0, bytes(131073)), 5, 0),
]


@pytest.mark.parametrize(("item", "data", "fes", "fei"), LIVE)
def test_pdu_that_breaks_a_rule_is_fatal(target: Target, item: int, data: bytes, fes: int, fei: int) -> None:
    """Conformance 11, 12, 13, 14, 16, 19, 29 and 31."""
    assert_fatal(target.host().io, data, fes, fei)


@pytest.mark.parametrize(("item", "data", "fes", "fei"), LIVE)
def test_pdu_that_breaks_a_rule_is_fatal_as_soon_as_its_common_header_is_there(
    target: Target, item: int, data: bytes, fes: int, fei: int
) -> None:
    """Conformance 11 to 14: nothing is waited for, and what the PDU promised is not stored."""
    wire = target.host().io
    wire.feed(data[:8], [1] * 8)
    (term,) = wire.take()
    assert (term.kind, term.fes, term.fei) == (C2H_TERM, fes, fei)
    assert term.data == data[:8]
    assert wire.connection.tx.n == 0


def test_commands_before_the_broken_pdu_are_answered_and_those_after_it_are_not(target: Target) -> None:
    wire = target.host().io
    good = capsule(FLUSH, 1, nsid=1)
    answers = wire.ask(good + pdu(0x0B, bytes(16)) + good)
    assert [answer.kind for answer in answers] == [CAPSULE_RESP, C2H_TERM]


@pytest.mark.parametrize("flip", range(0, 72, 5))
def test_flipped_header_bit_is_a_header_digest_error_and_nothing_is_executed(target: Target, flip: int) -> None:
    """Conformance 15."""
    host = target.host(dgst=3)
    data = bytearray(capsule(WRITE, 1, pattern(2048), dgst=3, nsid=1, cdw12=3))
    if flip < 8:
        data[76 - 1] ^= 0x80  # the common header has errors of its own: break the digest instead
    else:
        data[flip] ^= 0x80
    term = assert_fatal(host.io, bytes(data), 3, 0, dgst=3)
    assert term.data == bytes(data[:72])
    assert target.chunks()[0] == (1, 0)


@pytest.mark.parametrize("fast", [True, False])
def test_header_digest_error_on_h2c_data_is_fatal(target: Target, fast: bool) -> None:
    """Conformance 15."""
    host = target.host(dgst=1)
    (r2t,) = host.io.ask(capsule(WRITE, 5, dgst=1, nsid=1, cdw12=3, sgl_length=2048), 1)
    data = h2c(5, r2t.ttag, 0, pattern(2048), dgst=1, flip_header=True)
    assert_fatal(host.io, data if fast else data[:100], 3, 0, dgst=1)
    assert target.chunks()[0] == (1, 0)


@pytest.mark.parametrize(
    ("dgst", "data", "fei"),
    [
        (1, capsule(FLUSH, 1, nsid=1), 1),
        (2, capsule(WRITE, 1, bytes(512), nsid=1), 1),
        (3, capsule(WRITE, 1, bytes(512), dgst=1, nsid=1), 1),
        (3, h2c(1, 1, 0, bytes(8), dgst=1), 1),
        (3, h2c(1, 1, 0, bytes(8), dgst=2), 1),
    ],
)
def test_missing_digest_flag_is_fatal(target: Target, dgst: int, data: bytes, fei: int) -> None:
    """Conformance 16."""
    assert_fatal(target.host(dgst=dgst).io, data, 1, fei, dgst)


@pytest.mark.parametrize("dgst", [2, 3])
def test_wrong_data_digest_in_a_capsule_fails_that_command_only(target: Target, dgst: int) -> None:
    """Conformance 17."""
    host = target.host(dgst=dgst)
    bad = capsule(WRITE, 1, pattern(2048), dgst=dgst, nsid=1, cdw12=3, changes={"flip_data": True})
    good = capsule(WRITE, 2, pattern(2048, 1), dgst=dgst, nsid=1, cdw12=3)
    failed, done = host.io.ask(bad + good, dgst)
    assert (failed.cid, failed.status) == (1, 0x022)
    assert (done.cid, done.status) == (2, 0)
    assert host.read(0, 4) == pattern(2048, 1)


@pytest.mark.parametrize("split", [None, 60])
@pytest.mark.parametrize("dgst", [2, 3])
def test_wrong_data_digest_on_h2c_data_fails_that_command_only(target: Target, dgst: int, split: int | None) -> None:
    """Conformance 18."""
    host = target.host(dgst=dgst)
    (r2t,) = host.io.ask(capsule(WRITE, 1, dgst=dgst, nsid=1, cdw12=3, sgl_length=2048), dgst)
    assert r2t.kind == R2T
    host.io.feed(h2c(1, r2t.ttag, 0, pattern(2048), dgst=dgst, flip_data=True), [split] if split else None)
    (failed,) = host.io.take(dgst)
    assert (failed.cid, failed.status) == (1, 0x022)
    assert target.chunks()[0] == (1, 0)
    assert host.write(0, pattern(2048, 1), by_r2t=True) == 0
    assert host.read(0, 4) == pattern(2048, 1)


@pytest.mark.parametrize("phase", [Phase.ICREQ, Phase.CONNECT, Phase.LIVE])
@pytest.mark.parametrize("n_data", [0, 1, 128, 129])
@pytest.mark.parametrize("hlen", [24, 25])
def test_h2c_term_req_closes_and_is_never_answered(target: Target, phase: Phase, n_data: int, hlen: int) -> None:
    """Conformance 20. Even if it is malformed."""
    if phase is Phase.LIVE:
        wire = target.host().admin
    else:
        wire = target.wire()
        if phase is Phase.CONNECT:
            wire.ask(icreq())
    assert wire.ask(pdu(H2C_TERM, b"\x01".ljust(16, b"\0"), bytes(n_data), hlen=hlen)) == []
    assert wire.closed
    assert target.directory.associations == []


# --- H2CData against its R2T --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "changes", "fes", "fei"),
    [
        (25, {"ttag": 0x7777}, 1, 10),
        (25, {"ttag": 0}, 1, 10),
        (25, {"ttag": 0xFFFF}, 1, 10),
        (26, {"cccid": 6}, 1, 8),
        (27, {"datao": 512}, 4, 0),
        (27, {"datao": HUGE}, 4, 0),
        (28, {"data": bytes(2560)}, 5, 0),
        (28, {"datal": 1024}, 1, 4),
        (28, {"datal": 0}, 1, 4),
        (28, {"data": bytes(1024)}, 1, 1),
    ],
)
def test_h2c_data_that_does_not_answer_its_r2t_is_fatal(
    target: Target, item: int, changes: dict[str, int | bytes], fes: int, fei: int
) -> None:
    """Conformance 25, 26, 27 and 28."""
    host = target.host()
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, cdw12=3, sgl_length=2048))
    values = {"cccid": 5, "ttag": r2t.ttag, "datao": 0, "data": bytes(2048)} | changes
    term = assert_fatal(host.io, h2c(**values), fes, fei)  # type: ignore[arg-type]
    assert len(term.data) == 24
    assert target.chunks()[0] == (1, 0)


def test_ttag_is_dead_once_its_data_has_arrived(target: Target) -> None:
    """Conformance 25."""
    host = target.host()
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, cdw12=3, sgl_length=2048))
    data = h2c(5, r2t.ttag, 0, pattern(2048))
    (done,) = host.io.ask(data)
    assert done.status == 0
    assert_fatal(host.io, data, 1, 10)
    assert target.chunks()[0] == (4, 4)


def test_ttag_of_another_connection_is_unknown(target: Target) -> None:
    """Conformance 25."""
    host = target.host()
    other = host.connect_io(2)
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, cdw12=3, sgl_length=2048))
    assert_fatal(other, h2c(5, r2t.ttag, 0, pattern(2048)), 1, 10)
    (done,) = host.io.ask(h2c(5, r2t.ttag, 0, pattern(2048)))
    assert done.status == 0


@pytest.mark.parametrize("split", range(1, 48, 3))
def test_padding_before_h2c_data_may_be_cut_anywhere(target: Target, split: int) -> None:
    host = target.host()
    (r2t,) = host.io.ask(capsule(WRITE, 5, nsid=1, cdw12=3, sgl_length=2048))
    host.io.feed(h2c(5, r2t.ttag, 0, pattern(2048), pdo=40), [split])
    (done,) = host.io.take()
    assert (done.kind, done.status) == (CAPSULE_RESP, 0)
    assert host.read(0, 4) == pattern(2048)
