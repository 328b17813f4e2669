"""Golden bytes: every PDU kind as it stands on the wire, and the published CRC32C vectors."""

from __future__ import annotations

import pytest

from ocssd_tcp.wire.digest import crc32c, digest_bytes
from ocssd_tcp.wire.framer import Frame, Framer
from ocssd_tcp.wire.layouts import (
    C2H_DATA,
    CAPSULE_CMD,
    CAPSULE_RESP,
    CONNECT_SQE,
    CQE,
    H2C_DATA,
    ICREQ,
    ICRESP,
    PROPERTY_SQE,
    R2T,
    SQE,
    TERM_REQ,
)
from ocssd_tcp.wire.pdu import (
    CONTROLLER_TO_HOST,
    HOST_TO_CONTROLLER,
    MAX_TERM_DATA,
    Encoder,
    PduFlag,
    PduType,
    icreq,
    icresp,
    term_req,
)
from ocssd_tcp.wire.status import Fes, Status, on_wire

PLAIN, BOTH = Encoder(), Encoder(header_digest=True, data_digest=True)
DATA = bytes(range(16))

CRC_VECTORS = [
    (b"123456789", "83 92 06 e3"),
    (bytes(32), "aa 36 91 8a"),
    (b"\xff" * 32, "43 ab a8 62"),
    (bytes(range(32)), "4e 79 dd 46"),
    (bytes(reversed(range(32))), "5c db 3f 11"),
    (bytes(512), "c0 ed fc 30"),
    (bytes(4096), "89 41 f9 98"),
    (b"\xa5" * 4096, "d3 33 c9 8a"),
]


@pytest.mark.parametrize(("data", "wire"), CRC_VECTORS)
def test_crc32c_vectors_are_stored_little_endian(data: bytes, wire: str) -> None:
    assert digest_bytes(data) == bytes.fromhex(wire)
    assert digest_bytes(memoryview(bytearray(data))) == bytes.fromhex(wire)


def test_crc32c_of_pieces_is_that_of_the_whole() -> None:
    assert crc32c(b"6789", crc32c(b"12345")) == 0xE3069283


#: name, what the product builds, the bytes, digests in force, and (header_end, data_offset, data_bytes).
_SQE_FLUSH = SQE.pack(opc=0, sqe_flags=0x40, cid=0x7005, nsid=1, sgl_type=0x5A)
_SQE_WRITE = SQE.pack(opc=1, sqe_flags=0x40, cid=0x7005, nsid=1, sgl_length=16, sgl_type=1, cdw10=8, cdw12=3)
_FLUSH_HEX = "00 40 05 70 01 00 00 00" + " 00" * 31 + " 5a" + " 00" * 24
_WRITE_HEX = "01 40 05 70 01 00 00 00" + " 00" * 24 + " 10 00 00 00 00 00 00 01 08" + " 00" * 7 + " 03" + " 00" * 15
_DATA_HEX = "00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f"
_DATA_DIGEST = "eb 08 c9 d9"

PDUS = [
    ("icreq", icreq(), "00 00 80 00 80 00 00 00" + " 00" * 120, 0, (128, 0, 0)),
    (
        "icreq with digests and alignment",
        icreq(dgst=3, hpda=31, maxr2t=15),
        "00 00 80 00 80 00 00 00 00 00 1f 03 0f 00 00 00" + " 00" * 112,
        0,
        (128, 0, 0),
    ),
    (
        "icresp",
        icresp(3, 131072),
        "01 00 80 00 80 00 00 00 00 00 00 03 00 00 02 00" + " 00" * 112,
        0,
        (128, 0, 0),
    ),
    (
        "h2c term req",
        term_req(PduType.H2C_TERM_REQ, Fes.SEQUENCE_ERROR, 0, b"\x05"),
        "02 00 18 18 19 00 00 00 02 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 05",
        3,
        (24, 24, 1),
    ),
    (
        "c2h term req, FEI unaligned at 10",
        term_req(PduType.C2H_TERM_REQ, Fes.INVALID_HEADER_FIELD, 0x01020304, b"\x04\x00\x47"),
        "03 00 18 18 1b 00 00 00 01 00 04 03 02 01 00 00 00 00 00 00 00 00 00 00 04 00 47",
        3,
        (24, 24, 3),
    ),
    ("capsule cmd", PLAIN.capsule_cmd(_SQE_FLUSH, 0), "04 00 48 00 48 00 00 00 " + _FLUSH_HEX, 0, (72, 0, 0)),
    (
        "capsule cmd with data",
        PLAIN.capsule_cmd(_SQE_WRITE, 16) + DATA,
        "04 00 48 48 58 00 00 00 " + _WRITE_HEX + _DATA_HEX,
        0,
        (72, 72, 16),
    ),
    (
        "capsule cmd with digest",
        BOTH.capsule_cmd(_SQE_FLUSH, 0),
        "04 01 48 00 4c 00 00 00 " + _FLUSH_HEX + "33 90 8e 12",
        3,
        (76, 0, 0),
    ),
    (
        "capsule cmd with data and digests",
        BOTH.capsule_cmd(_SQE_WRITE, 16) + DATA + digest_bytes(DATA),
        "04 03 48 4c 60 00 00 00 " + _WRITE_HEX + "73 a5 d2 39" + _DATA_HEX + _DATA_DIGEST,
        3,
        (76, 76, 16),
    ),
    (
        "capsule resp",
        PLAIN.capsule_resp(0, 0, 1, 0, 1, 0),
        "05 00 18 00 18 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 01 00 00 00",
        0,
        (24, 0, 0),
    ),
    (
        "capsule resp, status shifted over the phase bit",
        PLAIN.capsule_resp(0x11223344, 0x55667788, 0x99AA, 0, 0xF01F, on_wire(Status.CONNECT_INVALID_PARAMETERS)),
        "05 00 18 00 18 00 00 00 44 33 22 11 88 77 66 55 aa 99 00 00 1f f0 04 83",
        0,
        (24, 0, 0),
    ),
    (
        "capsule resp with digest",
        BOTH.capsule_resp(0, 0, 1, 0, 1, 0),
        "05 01 18 00 1c 00 00 00 00 00 00 00 00 00 00 00 01 00 00 00 01 00 00 00 04 c5 7a 1d",
        3,
        (28, 0, 0),
    ),
    (
        "h2c data",
        PLAIN.data_header(PduType.H2C_DATA, 0x1005, 7, 4096, 16, PduFlag.LAST) + DATA,
        "06 04 18 18 28 00 00 00 05 10 07 00 00 10 00 00 10 00 00 00 00 00 00 00" + _DATA_HEX,
        0,
        (24, 24, 16),
    ),
    (
        "h2c data with digests",
        BOTH.data_header(PduType.H2C_DATA, 0x1005, 7, 0, 16, 0) + DATA + digest_bytes(DATA),
        "06 03 18 1c 30 00 00 00 05 10 07 00 00 00 00 00 10 00 00 00 00 00 00 00 5b 43 ae ce"
        + _DATA_HEX
        + _DATA_DIGEST,
        3,
        (28, 28, 16),
    ),
    (
        "c2h data",
        PLAIN.data_header(PduType.C2H_DATA, 0x2003, 0, 0, 16, PduFlag.LAST | PduFlag.SUCCESS) + DATA,
        "07 0c 18 18 28 00 00 00 03 20 00 00 00 00 00 00 10 00 00 00 00 00 00 00" + _DATA_HEX,
        0,
        (24, 24, 16),
    ),
    (
        "c2h data with digests",
        BOTH.data_header(PduType.C2H_DATA, 0x2003, 0, 0, 512, PduFlag.LAST) + bytes(512) + digest_bytes(bytes(512)),
        "07 07 18 1c 20 02 00 00 03 20 00 00 00 00 00 00 00 02 00 00 00 00 00 00 83 5f 20 dc"
        + " 00" * 512
        + "c0 ed fc 30",
        3,
        (28, 28, 512),
    ),
    (
        "r2t",
        PLAIN.r2t(0x1005, 7, 8192, 131072),
        "09 00 18 00 18 00 00 00 05 10 07 00 00 20 00 00 00 00 02 00 00 00 00 00",
        0,
        (24, 0, 0),
    ),
    (
        "r2t with digest",
        BOTH.r2t(0x1005, 7, 0, 131072),
        "09 01 18 00 1c 00 00 00 05 10 07 00 00 00 00 00 00 00 02 00 00 00 00 00 c7 77 3d 89",
        3,
        (28, 0, 0),
    ),
]
IDS = [row[0] for row in PDUS]
ROWS = [row[1:] for row in PDUS]


def receiver(dgst: int) -> Framer:
    limits: dict[int, int] = {PduType.CAPSULE_CMD: 8192, PduType.H2C_DATA: 131072, PduType.C2H_DATA: 1 << 20}
    framer = Framer(HOST_TO_CONTROLLER | CONTROLLER_TO_HOST, limits)
    framer.header_digest, framer.data_digest = bool(dgst & 1), bool(dgst & 2)
    return framer


@pytest.mark.parametrize(("built", "wire", "dgst", "shape"), ROWS, ids=IDS)
def test_pdu_is_built_byte_for_byte(built: bytes, wire: str, dgst: int, shape: tuple[int, int, int]) -> None:
    assert built.hex(" ") == bytes.fromhex(wire).hex(" ")


@pytest.mark.parametrize(("built", "wire", "dgst", "shape"), ROWS, ids=IDS)
def test_pdu_is_framed_whole_byte_by_byte_and_with_a_tail(
    built: bytes, wire: str, dgst: int, shape: tuple[int, int, int]
) -> None:
    whole = bytes.fromhex(wire)
    framer = receiver(dgst)
    expected = Frame(whole[0], whole[1], *shape, len(whole))
    assert framer.frame(whole, 0, len(whole)) == expected
    padded = b"\xff" * 5 + whole + b"\xff" * 64
    assert framer.frame(memoryview(bytearray(padded)), 5, len(padded)) == expected
    for end in range(len(whole)):
        assert framer.frame(whole, 0, end) == (expected if end >= expected.header_end else None)


@pytest.mark.parametrize(
    ("layout", "wire", "values"),
    [
        (ICREQ, PDUS[1][2], {"type": 0, "hlen": 128, "plen": 128, "hpda": 31, "dgst": 3, "maxr2t": 15}),
        (ICRESP, PDUS[2][2], {"type": 1, "hlen": 128, "plen": 128, "cpda": 0, "dgst": 3, "maxh2cdata": 131072}),
        (TERM_REQ, PDUS[4][2], {"type": 3, "pdo": 24, "plen": 27, "fes": 1, "fei": 0x01020304}),
        (CAPSULE_CMD, PDUS[6][2], {"opc": 1, "sqe_flags": 0x40, "cid": 0x7005, "sgl_type": 1, "cdw10": 8, "cdw12": 3}),
        (CAPSULE_RESP, PDUS[10][2], {"dw0": 0x11223344, "dw1": 0x55667788, "sqhd": 0x99AA, "status": 0x8304}),
        (H2C_DATA, PDUS[12][2], {"cccid": 0x1005, "ttag": 7, "datao": 4096, "datal": 16}),
        (C2H_DATA, PDUS[14][2], {"cccid": 0x2003, "ttag": 0, "datao": 0, "datal": 16}),
        (R2T, PDUS[16][2], {"cccid": 0x1005, "ttag": 7, "r2to": 8192, "r2tl": 131072}),
    ],
)
def test_declaration_and_derived_form_read_the_same_fields(layout: object, wire: str, values: dict[str, int]) -> None:
    data = bytes.fromhex(wire)
    parsed = layout.parse(data)  # type: ignore[attr-defined]
    unpacked = layout.unpack_from(data)  # type: ignore[attr-defined]
    for name, value in values.items():
        assert (name, parsed[name], unpacked[name]) == (name, value, value)


@pytest.mark.parametrize(
    ("layout", "offsets"),
    [
        (SQE, {"cid": 2, "nsid": 4, "cdw2": 8, "mptr": 16, "sgl_address": 24, "sgl_length": 32, "sgl_type": 39}),
        (SQE, {"cdw10": 40, "cdw11": 44, "cdw12": 48, "cdw13": 52, "cdw14": 56, "cdw15": 60}),
        (CQE, {"dw0": 0, "dw1": 4, "sqhd": 8, "sqid": 10, "cid": 12, "status": 14}),
        (CONNECT_SQE, {"fctype": 4, "recfmt": 40, "qid": 42, "sqsize": 44, "cattr": 46, "kato": 48}),
        (PROPERTY_SQE, {"fctype": 4, "attrib": 40, "ofst": 44, "value": 48}),
        (TERM_REQ, {"fes": 8, "fei": 10}),
    ],
)
def test_fields_are_where_the_specification_puts_them(layout: object, offsets: dict[str, int]) -> None:
    assert {name: layout.offset(name) for name in offsets} == offsets  # type: ignore[attr-defined]


def test_term_req_quotes_one_byte_at_least_and_128_at_most() -> None:
    """Conformance 19."""
    for header, quoted in [(b"", b"\0"), (b"\x04", b"\x04"), (bytes(200), bytes(MAX_TERM_DATA))]:
        built = term_req(PduType.C2H_TERM_REQ, Fes.SEQUENCE_ERROR, 0, header)
        assert built[24:] == quoted
        assert int.from_bytes(built[4:8], "little") == len(built) == 24 + len(quoted)
        assert 25 <= len(built) <= 152


@pytest.mark.parametrize(("hpda", "pdo"), [(0, 28), (3, 32), (7, 32), (15, 64), (31, 128)])
def test_data_is_padded_with_zeros_to_the_alignment_that_the_receiver_asked_for(hpda: int, pdo: int) -> None:
    encoder = Encoder(header_digest=True, data_digest=True, alignment=(hpda + 1) * 4)
    header = encoder.data_header(PduType.C2H_DATA, 1, 0, 0, 512, PduFlag.LAST)
    assert header[3] == pdo == len(header)
    assert header[24:28] == digest_bytes(header[:24])
    assert not any(header[28:])
    assert int.from_bytes(header[4:8], "little") == pdo + 512 + 4
