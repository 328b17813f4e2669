"""Plain commands are timed by group as all others are: once each, whichever engine has them and however they arrive."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ocssd_tcp import accel
from ocssd_tcp.commands.tally import MAX_LATENCY_GROUPS, PlainTimes
from ocssd_tcp.ocssd.geometry import Geometry
from tests.support_target import (
    FLUSH,
    NO_SQ_FLOW,
    R2T,
    READ,
    VECTOR_COPY,
    VECTOR_READ,
    VECTOR_RESET,
    VECTOR_WRITE,
    WRITE,
    Host,
    Target,
    capsule,
    complete_engine_only,
    decode,
    h2c,
    timed,
)

SHAPE = Geometry(num_grp=4, num_pu=2, num_chk=2, clba=64, block_bytes=512, mw_cunits=0, ws_min=1, ws_opt=1)
OTHER = replace(SHAPE, num_grp=MAX_LATENCY_GROUPS + 3, num_pu=1, num_chk=1)
BLOCK = SHAPE.block_stride
GROUP, FAR = 1 << SHAPE.grp_shift, 1 << OTHER.grp_shift  #: from a group to the next, in LBAs
LIST_IN_DATA, LISTED = 1, 4  #: forms: a list at the head of the data, and one that stands in the capsule


@pytest.fixture(params=["python", "compiled", "complete"])
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A watched drive of two namespaces, and a host whose commands one engine has."""
    monkeypatch.setenv(accel.VARIABLE, "auto")
    if request.param == "compiled" and accel.engine_name() != "compiled":
        pytest.skip("the compiled engine is not built")
    monkeypatch.setenv(accel.VARIABLE, "require" if request.param == "compiled" else "off")
    target = Target(tmp_path, (SHAPE, OTHER))
    target.directory.subsystem.times = PlainTimes()
    if request.param == "complete":
        with complete_engine_only():
            yield target.host()
    else:
        yield target.host()
    target.close()


def _read(cid: int, slba: int, n_blocks: int = 1, nsid: int = 1) -> bytes:
    return capsule(READ, cid, nsid=nsid, slba=slba, cdw12=n_blocks - 1, sgl_length=n_blocks * BLOCK)


def _listed(opc: int, cid: int, *lbas: int) -> bytes:
    data = struct.pack(f"<{len(lbas)}Q", *lbas)
    fields = {"nsid": 1, "cdw12": len(lbas) - 1, "cdw13": LISTED, "sgl_type": 0x5A, "sgl_length": len(lbas) * BLOCK}
    return capsule(opc, cid, data, **fields)


def _write(cid: int, slba: int, n_blocks: int = 1, nsid: int = 1) -> bytes:
    return capsule(WRITE, cid, bytes(n_blocks * BLOCK), nsid=nsid, slba=slba, cdw12=n_blocks - 1)


def test_each_plain_command_of_a_buffer_is_counted_in_its_group(host: Host) -> None:
    fill = [_write(grp, grp * GROUP, 8) for grp in range(4)] + [_write(8 + grp, grp * FAR, 4, 2) for grp in (0, 1, 34)]
    host.io.ask(b"".join(fill))
    one, two = host.target.namespaces
    assert timed(one) == {(grp, "write"): 1 for grp in range(4)}
    assert timed(two) == {(0, "write"): 1, (1, "write"): 1, (-1, "write"): 1}
    stream = [_read(0, 0), _read(1, 3 * GROUP, 4), _read(2, 34 * FAR, 2, 2), _read(3, 3 * GROUP), _read(4, FAR, 1, 2)]
    stream += [_listed(VECTOR_READ, 5, 2 * GROUP, 0, 4), capsule(VECTOR_READ, 6, nsid=1, slba=GROUP, sgl_length=BLOCK)]
    stream.append(capsule(VECTOR_WRITE, 7, bytes(BLOCK), nsid=1, slba=8))
    host.io.ask(b"".join(stream))
    reads = {(0, "read"): 1, (1, "read"): 1, (2, "read"): 1, (3, "read"): 2}
    assert timed(one) == reads | {(0, "write"): 2} | {(grp, "write"): 1 for grp in (1, 2, 3)}
    assert timed(two) == {(0, "write"): 1, (1, "write"): 1, (-1, "write"): 1, (-1, "read"): 1, (1, "read"): 1}


def test_an_lba_beyond_the_drive_is_of_no_group(host: Host) -> None:
    host.io.ask(_read(0, SHAPE.nsze))
    assert timed(host.target.namespaces[0]) == {(-1, "read"): 1}


@pytest.mark.parametrize("pieces", [1, 2, 3], ids=lambda n: f"{n} pieces")
@pytest.mark.parametrize("n_blocks", [1, 60], ids=["small", "large"])
def test_a_write_is_counted_with_the_last_of_its_data(host: Host, n_blocks: int, pieces: int) -> None:
    length = n_blocks * BLOCK
    (answer,) = host.io.ask(capsule(WRITE, 1, nsid=1, slba=GROUP, cdw12=n_blocks - 1, sgl_length=length))
    assert answer.kind == R2T
    stream = h2c(1, answer.ttag, 0, bytes(length))
    step = len(stream) // pieces
    for piece in range(pieces - 1):
        host.io.feed(stream[piece * step : (piece + 1) * step])
        assert timed(host.target.namespaces[0]) == {}
    (answer,) = host.io.ask(stream[(pieces - 1) * step :])
    assert answer.status == 0
    assert timed(host.target.namespaces[0]) == {(1, "write"): 1}


def test_data_of_several_writes_in_one_buffer_and_a_vector_write(host: Host) -> None:
    slbas = [0, GROUP, 2 * GROUP]
    asked = [capsule(WRITE, i, nsid=1, slba=slba, sgl_length=BLOCK) for i, slba in enumerate(slbas)]
    asked.append(_listed(VECTOR_WRITE, 3, 3 * GROUP, 3 * GROUP + 1))
    answers = host.io.ask(b"".join(asked))
    data = [bytes(BLOCK)] * 3 + [bytes(2 * BLOCK)]
    stream = b"".join(h2c(answer.cid, answer.ttag, 0, data[answer.cid]) for answer in answers)
    assert sorted(answer.cid for answer in host.io.ask(stream) if not answer.status) == [0, 1, 2, 3]
    assert timed(host.target.namespaces[0]) == {(grp, "write"): 1 for grp in range(4)}


def test_a_write_whose_data_overtake_is_counted_once(host: Host) -> None:
    """The complete engine has it wait for the one before."""
    asked = b"".join(capsule(WRITE, i, nsid=1, slba=i, sgl_length=BLOCK) for i in (0, 1))
    first, second = host.io.ask(asked)
    assert host.io.ask(h2c(1, second.ttag, 0, bytes(BLOCK)) + _read(9, 0)) != []
    before = timed(host.target.namespaces[0])
    assert before.get((0, "write"), 0) == 0
    answers = host.io.ask(h2c(0, first.ttag, 0, bytes(BLOCK)))
    assert sorted(answer.cid for answer in answers) == [0, 1]
    assert timed(host.target.namespaces[0])[0, "write"] == 2


def test_resets_are_counted(host: Host) -> None:
    host.io.ask(_write(0, GROUP, 8))
    assert host.status(VECTOR_RESET, nsid=1, slba=GROUP, sgl_type=0x5A) == 0
    assert timed(host.target.namespaces[0]) == {(1, "write"): 1, (1, "reset"): 1}


def test_commands_of_the_complete_engine_between_plain_ones_are_counted_once_too(host: Host) -> None:
    host.io.ask(_write(0, 0, 8))
    copy = struct.pack("<2Q", 0, 2 * GROUP)
    stream = [_read(1, 0), capsule(FLUSH, 2, nsid=1), _read(3, 0), capsule(READ, 4, nsid=1, slba=GROUP, sgl_length=512)]
    host.io.ask(b"".join(stream))
    assert host.status(VECTOR_COPY, copy, nsid=1, cdw13=LIST_IN_DATA) == 0
    counts = timed(host.target.namespaces[0])
    assert counts == {(0, "write"): 1, (0, "read"): 2, (1, "read"): 1, (-1, "flush"): 1, (0, "copy"): 1}


def _act(host: Host) -> None:
    host.io.ask(_write(0, 0, 8) + _read(1, 0))
    assert host.write(8, bytes(BLOCK), by_r2t=True) == 0
    assert host.write(9, bytes(40 * BLOCK), by_r2t=True) == 0
    host.io.ask(_write(2, GROUP, 8))
    assert host.status(VECTOR_RESET, nsid=1, slba=GROUP, sgl_type=0x5A) == 0


def test_plain_commands_are_not_timed_while_nobody_watches(tmp_path: Path) -> None:
    target = Target(tmp_path, (SHAPE,))
    host = target.host()
    _act(host)
    assert timed(target.namespaces[0]) == {}
    target.directory.subsystem.times = PlainTimes()  # and from now on they are
    host.read(0)
    assert timed(target.namespaces[0]) == {(0, "read"): 1}
    target.directory.subsystem.times = None
    host.read(0)
    assert timed(target.namespaces[0]) == {(0, "read"): 1}
    target.close()


# --- events that the compiled engine has as a whole -----------------------------------------------------------


@pytest.fixture
def event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Host, Callable[[bytes], bytes]]]:
    """A host, and what sends bytes to its I/O queue by a socket and gives what the event was answered with."""
    monkeypatch.setenv(accel.VARIABLE, "auto")
    if accel.engine_name() != "compiled":
        pytest.skip("the compiled engine is not built")
    target = Target(tmp_path, (SHAPE, OTHER))
    target.directory.subsystem.times = PlainTimes()
    host = target.host(cattr=NO_SQ_FLOW)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    serve = host.io.connection.reader(ours.fileno(), lambda: target.now, lambda _outcome: None)
    assert serve is not None

    def exchange(stream: bytes) -> bytes:
        theirs.sendall(stream)
        serve()
        host.io.writable()  # what was left for the connection to send
        answer = bytes(host.io.output)
        host.io.output.clear()
        with contextlib.suppress(BlockingIOError):
            answer = theirs.recv(1 << 20) + answer
        return answer

    yield host, exchange
    ours.close()
    theirs.close()
    target.close()


def test_an_event_of_plain_commands_is_counted(event: tuple[Host, Callable[[bytes], bytes]]) -> None:
    host, exchange = event
    one, two = host.target.namespaces
    exchange(_write(0, GROUP, 8) + _write(1, 34 * FAR, 4, 2) + _read(2, GROUP) + _read(3, GROUP))
    assert timed(one) == {(1, "write"): 1, (1, "read"): 2}
    assert timed(two) == {(-1, "write"): 1}
    (row,) = two.latencies.rows.values()
    assert 0 < row.total < 60  # seconds, not nanoseconds
    (answer,) = decode(exchange(capsule(WRITE, 5, nsid=1, slba=0, sgl_length=BLOCK)))
    assert timed(one) == {(1, "write"): 1, (1, "read"): 2}
    exchange(h2c(5, answer.ttag, 0, bytes(BLOCK)))
    assert timed(one) == {(1, "write"): 1, (1, "read"): 2, (0, "write"): 1}


def test_an_event_that_the_complete_engine_goes_on_with_is_counted_once(
    event: tuple[Host, Callable[[bytes], bytes]],
) -> None:
    host, exchange = event
    exchange(_write(0, GROUP, 8))
    exchange(_read(1, GROUP) + capsule(FLUSH, 2, nsid=1) + _read(3, GROUP))
    exchange(_read(1, GROUP))
    assert timed(host.target.namespaces[0]) == {(1, "write"): 1, (1, "read"): 3, (-1, "flush"): 1}


def test_writes_that_overtake_in_one_event_are_counted_once(event: tuple[Host, Callable[[bytes], bytes]]) -> None:
    host, exchange = event
    asked = b"".join(capsule(WRITE, i, nsid=1, slba=i, sgl_length=BLOCK) for i in (0, 1))
    first, second = decode(exchange(asked))
    exchange(h2c(1, second.ttag, 0, bytes(BLOCK)) + h2c(0, first.ttag, 0, bytes(BLOCK)))
    assert timed(host.target.namespaces[0]) == {(0, "write"): 2}
