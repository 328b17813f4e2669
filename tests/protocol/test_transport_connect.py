"""What a connection may do before its queue is connected, and what a controller reset does to its queues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocssd_tcp.transport.connection import Phase
from tests.support_target import (
    C2H_TERM,
    CAPSULE_RESP,
    DNR,
    FLUSH,
    R2T,
    READ,
    WRITE,
    Host,
    Target,
    capsule,
    h2c,
    icreq,
    pattern,
)

UNIT = 4 * 512
CC, ENABLED, DISABLED = 0x14, 0x00460001, 0x00460000


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path / "drive")
    yield made
    made.close()


@pytest.mark.parametrize("dgst", [0, 3])
@pytest.mark.parametrize("qid", [0, 1])
@pytest.mark.parametrize("in_capsule", [b"", bytes(8192)])
def test_anything_but_connect_is_out_of_sequence_on_a_fresh_queue_and_connect_still_works(
    target: Target, dgst: int, qid: int, in_capsule: bytes
) -> None:
    """Conformance 54."""
    host = target.host(dgst=dgst)
    wire = target.wire()
    wire.ask(icreq(dgst))
    for opc, nsid in [(FLUSH, 1), (READ, 1), (0x06, 0), (0x18, 0), (0x7E, 1), (0x7F, 0x00), (0x7F, 0x04), (0x7F, 0x05)]:
        (refused,) = wire.ask(capsule(opc, 9, in_capsule, dgst=dgst, nsid=nsid), dgst)
        assert (refused.kind, refused.cid, refused.status) == (CAPSULE_RESP, 9, DNR | 0x00C)
    assert wire.phase is Phase.CONNECT
    (answer,) = wire.ask(host.connect_pdu(2 if qid else 0), dgst)
    assert answer.status == 0
    assert wire.phase is Phase.LIVE


def test_h2c_data_before_connect_is_fatal(target: Target) -> None:
    wire = target.wire()
    wire.ask(icreq())
    (term,) = wire.ask(h2c(1, 1, 0, bytes(8)))
    assert (term.kind, term.fes, term.fei) == (C2H_TERM, 1, 10)


def test_refused_connect_leaves_the_connection_to_try_again(target: Target) -> None:
    host, wire = Host(target), target.wire()
    wire.ask(icreq())
    (refused,) = wire.ask(host.connect_pdu(0, subnqn=b"nqn.2014-08.org.example:none"))
    assert (refused.status, refused.dw0) == (DNR | 0x182, 0x00010100)
    (answer,) = wire.ask(host.connect_pdu(0))
    assert (answer.status, answer.sqhd) == (0, 1)


def test_data_verify_after_ten_controller_resets_under_io(target: Target) -> None:
    """Conformance 67."""
    host = target.host()
    content = b""
    for turn in range(10):
        wp = len(content) // 512
        data = pattern(UNIT, turn)
        assert host.write(wp, data, by_r2t=bool(turn % 2)) == 0
        content += data
        stream = capsule(WRITE, 1, nsid=1, slba=wp + 4, cdw12=3, sgl_length=UNIT)
        (r2t,) = host.io.ask(stream)
        assert r2t.kind == R2T
        host.io.feed(h2c(1, r2t.ttag, 0, pattern(UNIT, 99))[: turn * 200])
        for value in (DISABLED, ENABLED):
            (answer,) = host.admin.ask(host.fabrics_pdu(0x00, CC, value))
            assert answer.status == 0
        assert host.io.closed
        assert host.io.take() == []
        host.connect_io()
        assert host.read(0, wp + 8) == content + bytes(UNIT)
    assert target.chunks()[0] == (4, 40)
