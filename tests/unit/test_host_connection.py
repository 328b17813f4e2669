"""The host's side of one NVMe/TCP queue: bytes out, bytes in, and every rule that a controller can break."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.host.connection import DIRECT_BYTES, Command, Completion, QueueConnection, State, sqe
from ocssd_tcp.host.errors import TransportError, UsageError
from ocssd_tcp.wire.digest import digest_bytes
from ocssd_tcp.wire.pdu import Encoder, PduFlag, PduType, icreq, icresp, term_req
from ocssd_tcp.wire.status import Fes, Status

READ = sqe(0x02, 1, cdw10=0x11223344, cdw11=0x55, cdw12=7)
WRITE = sqe(0x01, 1, cdw12=1)
LAST, SUCCESS = PduFlag.LAST, PduFlag.SUCCESS
TAIL = b"\x05\x00\x18"  # the first bytes of a CapsuleResp

SPLITS = {
    "whole": lambda data: [data],
    "byte by byte": lambda data: [data[i : i + 1] for i in range(len(data))],
    "with a tail": lambda data: [data + TAIL],
}


def feed(connection: QueueConnection, data: bytes) -> list[Command]:
    """Receive `data` as a socket would deliver it; the commands it completed."""
    done: list[Command] = []
    while data:
        buffer = connection.buffer()
        n = min(len(buffer), len(data))
        buffer[:n] = data[:n]
        data = data[n:]
        done += connection.received(n)
    return done


def joined(connection: QueueConnection) -> bytes:
    return b"".join(connection.take_output())


def ready(maxh2cdata: int = 8192, *, hdgst: bool = False, ddgst: bool = False, **options: int) -> QueueConnection:
    connection = QueueConnection(header_digest=hdgst, data_digest=ddgst, **options)  # type: ignore[arg-type]
    connection.start()
    assert joined(connection) == icreq(hdgst | ddgst << 1)
    feed(connection, icresp(hdgst | ddgst << 1, maxh2cdata))
    assert connection.state is State.READY
    return connection


def submitted(connection: QueueConnection, command: Command) -> Command:
    connection.submit(command)
    connection.take_output()
    return command


def reader(n_bytes: int = 4096) -> Command:
    return Command(READ, data_in=memoryview(bytearray(n_bytes)))


def resp(cid: int, status: int = 0, dw0: int = 0, dw1: int = 0) -> bytes:
    return Encoder().capsule_resp(dw0, dw1, 0, 0, cid, status)


def c2h(cid: int, at: int, data: bytes, flags: int = 0, **digests: bool) -> bytes:
    encoder = Encoder(**digests)
    pdu = encoder.data_header(PduType.C2H_DATA, cid, 0, at, len(data), flags) + data
    return pdu + digest_bytes(data) if encoder.data_digest else pdu


# --- what is sent -----------------------------------------------------------------------------


@pytest.mark.parametrize(("hdgst", "ddgst", "dgst"), [(0, 0, "00"), (1, 0, "01"), (0, 1, "02"), (1, 1, "03")])
def test_icreq_asks_for_the_digests(hdgst: int, ddgst: int, dgst: str) -> None:
    connection = QueueConnection(header_digest=bool(hdgst), data_digest=bool(ddgst))
    connection.start()
    assert joined(connection).hex(" ") == f"00 00 80 00 80 00 00 00 00 00 00 {dgst} 00 00 00 00" + " 00" * 112


def test_read_capsule_has_a_transport_sgl_and_no_data() -> None:
    connection = ready()
    connection.submit(reader(0x1000))
    assert joined(connection).hex(" ") == (
        "04 00 48 00 48 00 00 00 "  # CapsuleCmd, HLEN 72, PLEN 72
        "02 40 00 00 01 00 00 00 " + "00 " * 16 +  # Read, PSDT 01b, cid 0, nsid 1
        "00 00 00 00 00 00 00 00 00 10 00 00 00 00 00 5a "  # SGL1: 4,096 bytes
        "44 33 22 11 55 00 00 00 07 00 00 00" + " 00" * 12
    )  # fmt: skip


def test_small_write_carries_its_data_in_the_capsule() -> None:
    connection = ready(max_in_capsule=16)
    connection.submit(Command(WRITE, (b"\x01\x02", b"\x03\x04")))
    out = joined(connection)
    assert out[:8].hex(" ") == "04 00 48 48 4c 00 00 00"
    assert out[32:48].hex(" ") == "00 00 00 00 00 00 00 00 04 00 00 00 00 00 00 01"
    assert out[72:] == b"\x01\x02\x03\x04"


def test_capsule_with_both_digests_has_the_bytes_of_the_specification() -> None:
    connection = ready(hdgst=True, ddgst=True)
    connection.submit(Command(WRITE, (bytes(512),)))
    out = joined(connection)
    assert out[:8].hex(" ") == "04 03 48 4c 50 02 00 00"
    assert out[72:76] == digest_bytes(out[:72])
    assert out[-4:].hex(" ") == "c0 ed fc 30"  # of 512 zeros


@pytest.mark.parametrize(("control", "sgl_type"), [(False, 0x5A), (True, 0x01)])
def test_control_commands_carry_8_kib_whatever_ioccsz_says(control: bool, sgl_type: int) -> None:
    connection = ready(max_in_capsule=0)
    connection.submit(Command(WRITE, (bytes(8192),), control=control))
    assert joined(connection)[8 + 39] == sgl_type


def test_list_in_the_capsule_stands_beside_a_transport_sgl() -> None:
    connection = ready()
    connection.submit(Command(sqe(0x92, 1), data_in=memoryview(bytearray(1024)), capsule=b"L" * 16))
    out = joined(connection)
    assert out[32:48].hex(" ") == "00 00 00 00 00 00 00 00 00 04 00 00 00 00 00 5a"
    assert out[72:] == b"L" * 16


def test_list_that_does_not_fit_the_capsule_is_refused_before_it_is_sent() -> None:
    connection = ready(max_in_capsule=8)
    with pytest.raises(UsageError, match="16 bytes"):
        connection.submit(Command(READ, capsule=bytes(16)))
    assert connection.has_room
    assert not connection.outstanding


def test_cpda_pads_the_data() -> None:
    connection = QueueConnection()
    connection.start()
    connection.take_output()
    feed(connection, icresp(0, 8192)[:10] + b"\x1f" + icresp(0, 8192)[11:])
    connection.submit(Command(WRITE, (b"data",)))
    out = joined(connection)
    assert (out[3], out[4]) == (128, 132)
    assert out[72:] == bytes(56) + b"data"


def test_a_queue_holds_one_command_less_than_entries() -> None:
    connection = ready(queue_size=3)
    first, second = reader(), reader()
    connection.submit(first)
    connection.submit(second)
    assert (first.cid, second.cid, connection.has_room) == (0, 1, False)
    with pytest.raises(UsageError, match="full"):
        connection.submit(reader())
    feed(connection, resp(0))
    assert connection.has_room


def test_nothing_is_sent_before_the_connection_is_initialised() -> None:
    with pytest.raises(TransportError, match="not initialised"):
        QueueConnection().submit(reader())
    with pytest.raises(UsageError):
        QueueConnection(queue_size=1)


# --- R2T --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("r2tl", "expected"),
    [
        (8192, [(0, 4096, 0), (4096, 4096, 4)]),
        (10000, [(0, 4096, 0), (4096, 4096, 0), (8192, 1808, 4)]),
        (4096, [(0, 4096, 4)]),
        (1, [(0, 1, 4)]),
    ],
)
def test_r2t_is_answered_in_pieces_of_maxh2cdata(r2tl: int, expected: list[tuple[int, int, int]]) -> None:
    connection = ready(maxh2cdata=4096)
    data = bytes(i % 251 for i in range(10000))
    command = submitted(connection, Command(WRITE, (data[:3], memoryview(data)[3:5000], data[5000:])))
    feed(connection, Encoder().r2t(command.cid, 0x1234, 0, r2tl))
    out = joined(connection)
    for at, length, flags in expected:
        assert out[:24].hex(" ") == (
            f"06 {flags:02x} 18 18 " + (24 + length).to_bytes(4, "little").hex(" ") + " 00 00 34 12 "
            + at.to_bytes(4, "little").hex(" ") + " " + length.to_bytes(4, "little").hex(" ") + " 00 00 00 00"
        )  # fmt: skip
        assert out[24 : 24 + length] == data[at : at + length]
        out = out[24 + length :]
    assert not out


def test_r2ts_in_turn_fetch_the_whole_and_the_data_is_not_copied() -> None:
    connection = ready(maxh2cdata=1 << 20)
    data = bytearray(20000)
    command = submitted(connection, Command(WRITE, (data,)))
    for at, n in ((0, 12000), (12000, 8000)):
        feed(connection, Encoder().r2t(command.cid, 1, at, n))
        header, piece = connection.take_output()
        assert isinstance(piece, memoryview)
        assert piece.obj is data
        assert len(header) == 24
    (done,) = feed(connection, resp(command.cid))
    assert done.completion == Completion(0, 0, 0, 20000)


def test_h2c_data_has_digests_per_pdu() -> None:
    connection = ready(maxh2cdata=4096, hdgst=True, ddgst=True)
    command = submitted(connection, Command(WRITE, (bytes(range(250)) * 40,)))
    feed(connection, Encoder(header_digest=True).r2t(command.cid, 1, 0, 8192))
    out = joined(connection)
    for _ in range(2):
        pdu, out = out[: 28 + 4096 + 4], out[28 + 4096 + 4 :]
        assert pdu[24:28] == digest_bytes(pdu[:24])
        assert pdu[-4:] == digest_bytes(pdu[28:-4])
    assert not out


# --- what is received -------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_icresp_makes_the_connection_ready(split: str) -> None:
    connection = QueueConnection()
    connection.start()
    for piece in SPLITS[split](icresp(0, 65536)):
        feed(connection, piece)
    assert (connection.state, connection.maxh2cdata) == (State.READY, 65536)


@pytest.mark.parametrize("split", SPLITS)
def test_capsule_resp_completes_its_command(split: str) -> None:
    connection = ready()
    command = submitted(connection, Command(sqe(0x00, 1), token="mine"))
    golden = bytes.fromhex("050018001800000078563412 01000000 0000 0000 0000 e485")  # status 2/F2h, DNR
    done = [found for piece in SPLITS[split](golden) for found in feed(connection, piece)]
    assert done == [command]
    assert command.token == "mine"
    assert command.completion == Completion(0x42F2, 0x12345678, 1, 0)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("digests", [{}, {"header_digest": True, "data_digest": True}], ids=["plain", "digests"])
def test_c2h_data_lands_in_the_callers_buffer(split: str, digests: dict[str, bool]) -> None:
    connection = ready(hdgst=bool(digests), ddgst=bool(digests))
    buffer = bytearray(300)
    command = submitted(connection, Command(READ, data_in=memoryview(buffer)))
    data = bytes(range(100)) * 3
    stream = (
        c2h(0, 0, data[:100], **digests)
        + c2h(0, 100, data[100:], LAST, **digests)
        + Encoder(**digests).capsule_resp(0, 0, 5, 0, 0, 0)
    )
    done = [found for piece in SPLITS[split](stream) for found in feed(connection, piece)]
    assert done == [command]
    assert command.completion == Completion(0, 0, 0, 300)
    assert buffer == data


def test_large_data_is_received_where_it_belongs() -> None:
    connection = ready()
    buffer = bytearray(DIRECT_BYTES * 4)
    submitted(connection, Command(READ, data_in=memoryview(buffer)))
    pdu = c2h(0, 0, bytes(range(256)) * (len(buffer) // 256), LAST)
    feed(connection, pdu[: 24 + 100])
    place = connection.buffer()
    assert place.obj is buffer
    assert len(place) == len(buffer) - 100
    connection.received(0)
    feed(connection, pdu[124:])
    assert buffer == pdu[24:]


def test_data_of_two_commands_may_interleave() -> None:
    connection = ready()
    first, second = (submitted(connection, reader(8)) for _ in range(2))
    stream = c2h(0, 0, b"aaaa") + c2h(1, 0, b"bbbb") + c2h(0, 4, b"AAAA", LAST) + c2h(1, 4, b"BBBB", LAST)
    done = feed(connection, stream + resp(1) + resp(0))
    assert done == [second, first]
    assert (first.data_in, second.data_in) == (b"aaaaAAAA", b"bbbbBBBB")


def test_success_flag_completes_without_a_response() -> None:
    connection = ready(success_flag=True)
    command = submitted(connection, reader(4))
    assert feed(connection, c2h(0, 0, b"data", LAST | SUCCESS)) == [command]
    assert command.completion == Completion(0, 0, 0, 4)
    assert not connection.outstanding


def test_wrong_data_digest_fails_that_command_alone() -> None:
    connection = ready(ddgst=True)
    spoilt, good = submitted(connection, reader(4)), submitted(connection, reader(4))
    pdu = c2h(0, 0, b"data", LAST, data_digest=True)
    feed(connection, pdu[:-1] + bytes([pdu[-1] ^ 1]) + resp(0) + c2h(1, 0, b"data", LAST, data_digest=True) + resp(1))
    assert spoilt.completion is not None
    assert spoilt.completion.status == Status.TRANSIENT_TRANSPORT_ERROR
    assert good.completion == Completion(0, 0, 0, 4)


def test_short_reads_are_reported_as_moved() -> None:
    connection = ready()
    (done,) = feed(connection, c2h(submitted(connection, reader(8)).cid, 0, b"data", LAST) + resp(0))
    assert done.completion == Completion(0, 0, 0, 4)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 2000), max_size=6),
    pieces=st.lists(st.integers(1, 400), min_size=1, max_size=5),
    digests=st.booleans(),
)
def test_any_split_of_a_stream_gives_the_same(cuts: list[int], pieces: list[int], digests: bool) -> None:
    options = {"header_digest": digests, "data_digest": digests}
    connection = ready(hdgst=digests, ddgst=digests)
    data = bytes(i * 7 % 256 for i in range(sum(pieces)))
    command = submitted(connection, reader(len(data)))
    stream, at = b"", 0
    for n in pieces:
        stream += c2h(0, at, data[at : at + n], LAST if at + n == len(data) else 0, **options)
        at += n
    stream += Encoder(**options).capsule_resp(0, 0, 0, 0, 0, 0)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    done = [found for a, b in pairwise(edges) for found in feed(connection, stream[a:b])]
    assert done == [command]
    assert command.data_in == data
    assert command.completion == Completion(0, 0, 0, len(data))


# --- what a controller may not do -------------------------------------------------------------


def spoilt_icresp(at: int, value: bytes) -> bytes:
    pdu = bytearray(icresp(0, 65536))
    pdu[at : at + len(value)] = value
    return bytes(pdu)


@pytest.mark.parametrize(
    ("pdu", "fes", "fei"),
    [
        (spoilt_icresp(8, b"\1"), Fes.INVALID_HEADER_FIELD, 8),
        (spoilt_icresp(10, b"\x20"), Fes.INVALID_HEADER_FIELD, 10),
        (spoilt_icresp(11, b"\1"), Fes.INVALID_HEADER_FIELD, 11),
        (spoilt_icresp(12, b"\x00\x08\0\0"), Fes.INVALID_HEADER_FIELD, 12),
        (spoilt_icresp(12, b"\x02\x10\0\0"), Fes.INVALID_HEADER_FIELD, 12),
        (spoilt_icresp(2, b"\x7f"), Fes.INVALID_HEADER_FIELD, 2),
        (spoilt_icresp(4, b"\x81"), Fes.INVALID_HEADER_FIELD, 4),
        (spoilt_icresp(0, b"\x08"), Fes.INVALID_HEADER_FIELD, 0),
        (resp(0), Fes.SEQUENCE_ERROR, 0),
    ],
    ids=["pfv", "cpda", "dgst", "maxh2cdata small", "maxh2cdata odd", "hlen", "plen", "type", "response first"],
)
def test_a_bad_start_ends_with_a_term_req(pdu: bytes, fes: Fes, fei: int) -> None:
    connection = QueueConnection()
    connection.start()
    connection.take_output()
    feed(connection, pdu)
    assert connection.failure is not None
    assert connection.failure.fes == fes
    out = joined(connection)
    assert out[:4] == b"\2\0\x18\x18"
    assert (out[8], int.from_bytes(out[10:14], "little")) == (fes, fei)
    assert pdu.startswith(out[24:])
    assert len(out) > 24


R2T = Encoder().r2t
VIOLATIONS: dict[str, tuple[bytes, Fes, int]] = {
    "a second ICResp": (icresp(0, 65536), Fes.SEQUENCE_ERROR, 0),
    "a host's PDU": (icreq(), Fes.INVALID_HEADER_FIELD, 0),
    "response to no command": (resp(9), Fes.INVALID_HEADER_FIELD, 20),
    "data for no command": (c2h(9, 0, b"data"), Fes.INVALID_HEADER_FIELD, 8),
    "data for a write": (c2h(1, 0, b"data"), Fes.DATA_OUT_OF_RANGE, 0),
    "data that skips ahead": (c2h(0, 4, b"data"), Fes.DATA_OUT_OF_RANGE, 0),
    "data sent twice": (c2h(0, 0, b"data") * 2, Fes.DATA_OUT_OF_RANGE, 0),
    "more data than asked for": (c2h(0, 0, bytes(17)), Fes.DATA_OUT_OF_RANGE, 0),
    "data after the last": (c2h(0, 0, b"data", LAST) + c2h(0, 4, b"data"), Fes.DATA_OUT_OF_RANGE, 0),
    "SUCCESS with flow control": (c2h(0, 0, b"data", LAST | SUCCESS), Fes.INVALID_HEADER_FIELD, 1),
    "SUCCESS before the last": (c2h(0, 0, b"data", SUCCESS), Fes.INVALID_HEADER_FIELD, 1),
    "DATAL that is not PLEN's": (
        c2h(0, 0, b"data")[:16] + b"\3\0\0\0" + c2h(0, 0, b"data")[20:], Fes.INVALID_HEADER_FIELD, 16
    ),
    "a data PDU without data": (c2h(0, 0, b"")[:24], Fes.INVALID_HEADER_FIELD, 4),
    "R2T for no command": (R2T(9, 1, 0, 4), Fes.INVALID_HEADER_FIELD, 8),
    "R2T for a read": (R2T(0, 1, 0, 4), Fes.DATA_OUT_OF_RANGE, 0),
    "R2T for in-capsule data": (R2T(2, 1, 0, 4), Fes.DATA_OUT_OF_RANGE, 0),
    "R2T of nothing": (R2T(1, 1, 0, 0), Fes.DATA_OUT_OF_RANGE, 0),
    "R2T that skips ahead": (R2T(1, 1, 4, 4), Fes.DATA_OUT_OF_RANGE, 0),
    "R2T beyond the end": (R2T(1, 1, 0, 10001), Fes.DATA_OUT_OF_RANGE, 0),
    "R2T twice": (R2T(1, 1, 0, 4) * 2, Fes.DATA_OUT_OF_RANGE, 0),
    "header digest not agreed on": (Encoder(header_digest=True).r2t(1, 1, 0, 4), Fes.INVALID_HEADER_FIELD, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_controller_that_breaks_the_protocol_gets_a_term_req(name: str) -> None:
    stream, fes, fei = VIOLATIONS[name]
    connection = ready()
    for command in (reader(16), Command(WRITE, (bytes(10000),)), Command(WRITE, (bytes(100),))):
        submitted(connection, command)
    feed(connection, stream)
    assert connection.failure is not None
    assert connection.failure.fes == fes
    assert "broke NVMe/TCP" in str(connection.failure)
    out = connection.take_output()[-1]
    assert (out[0], out[8], int.from_bytes(out[10:14], "little")) == (PduType.H2C_TERM_REQ, fes, fei)
    assert len(out) > 24
    assert len(connection.abandon(TransportError("gone"))) == 3
    with pytest.raises(TransportError, match="broke NVMe/TCP"):
        connection.submit(reader())


def test_a_wrong_header_digest_is_fatal() -> None:
    connection = ready(hdgst=True)
    command = submitted(connection, reader())
    pdu = Encoder(header_digest=True).capsule_resp(0, 0, 0, 0, command.cid, 0)
    feed(connection, pdu[:-1] + bytes([pdu[-1] ^ 1]))
    assert connection.failure is not None
    assert connection.failure.fes == Fes.HEADER_DIGEST_ERROR


def test_commands_completed_before_a_violation_are_delivered() -> None:
    connection = ready()
    command = submitted(connection, reader())
    assert feed(connection, resp(0, 0x4002) + resp(0)) == [command]
    assert connection.failure is not None


@pytest.mark.parametrize("split", ["whole", "byte by byte"])
@pytest.mark.parametrize(
    ("fes", "fei", "text"),
    [
        (Fes.DATA_LIMIT_EXCEEDED, 0, "data limit exceeded"),
        (Fes.INVALID_HEADER_FIELD, 4, "invalid header field at byte 4"),
        (0x77, 0, "FES 0x0077"),
    ],
)
def test_a_term_req_from_the_drive_is_named_and_not_answered(split: str, fes: Fes, fei: int, text: str) -> None:
    connection = ready()
    for piece in SPLITS[split](term_req(PduType.C2H_TERM_REQ, fes, fei, bytes(72))):
        feed(connection, piece)
    assert str(connection.failure) == f"the drive ended the connection: {text}"
    assert not connection.take_output()


@settings(max_examples=100, deadline=None)
@given(garbage=st.binary(min_size=1, max_size=300), initialised=st.booleans())
def test_garbage_never_raises(garbage: bytes, initialised: bool) -> None:
    connection = ready() if initialised else QueueConnection()
    if not initialised:
        connection.start()
    feed(connection, garbage)
    assert connection.state in State
    assert len(joined(connection)) <= 128 + 24 + 128
