"""Abort of writes that wait for their data, and what a host can make the drive remember by it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.transport.execution import MAX_DISCARDED
from tests.support_target import CAPSULE_RESP, R2T, WRITE, Host, Pdu, Target, capsule, h2c, pattern

ABORT = 0x08
WIDE = Geometry(num_grp=1, num_pu=1, num_chk=2, clba=4096, block_bytes=512, mw_cunits=0)
UNIT = 4 * 512


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    target = Target(tmp_path / "drive", [WIDE])
    yield target.host()
    target.close()


def begin(host: Host, cid: int, slba: int) -> Pdu:
    """A write of one unit, to its R2T."""
    (r2t,) = host.io.ask(capsule(WRITE, cid, nsid=1, slba=slba, cdw12=3, sgl_length=UNIT))
    assert r2t.kind == R2T
    return r2t


def abort(host: Host, cid: int) -> int:
    """DW0 of the Abort: bit 0 is set if the command was not aborted."""
    (answer,) = host.admin.ask(capsule(ABORT, host.cid(), cdw10=1 | cid << 16))
    assert answer.status == 0
    return answer.dw0


def test_data_of_an_aborted_write_is_thrown_away(host: Host) -> None:
    r2t = begin(host, 7, 0)
    assert abort(host, 7) == 0
    (victim,) = host.io.take()
    assert (victim.kind, victim.cid, victim.status & 0x7FF) == (CAPSULE_RESP, 7, 0x07)
    assert host.io.ask(h2c(7, r2t.ttag, 0, pattern(UNIT))) == []
    assert host.target.chunks()[0] == (1, 0)
    assert host.write(0, pattern(UNIT), by_r2t=True) == 0


def test_aborts_without_the_data_are_refused_beyond_a_limit(host: Host) -> None:
    for cid in range(MAX_DISCARDED):
        begin(host, cid, 0)
        assert abort(host, cid) == 0
        host.io.take()
    r2t = begin(host, 1000, 4096)
    assert abort(host, 1000) == 1
    (answer,) = host.io.ask(h2c(1000, r2t.ttag, 0, pattern(UNIT)))
    assert (answer.cid, answer.status) == (1000, 0)
