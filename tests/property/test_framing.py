"""Derived forms are the declarations; framing depends on nothing but the bytes of a header."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.structdef import Layout
from ocssd_tcp.transport.batch import CAPSULE, DATA, LISTED, RESPONSE, common_header
from ocssd_tcp.transport.kept import C2H
from ocssd_tcp.wire import layouts
from ocssd_tcp.wire.framer import Frame, Framer
from ocssd_tcp.wire.layouts import C2H_DATA, CAPSULE_CMD, CAPSULE_RESP, COMMON_HEADER, H2C_DATA, R2T
from ocssd_tcp.wire.pdu import HOST_TO_CONTROLLER, MAX_TERM_DATA, SHAPES, PduType
from ocssd_tcp.wire.status import FatalTransportError, Fes
from tests.support_target import DDGST, HDGST, capsule, h2c, icreq, pdu

LIMITS: dict[int, int] = {PduType.CAPSULE_CMD: 8192, PduType.H2C_DATA: 131072, PduType.C2H_DATA: 1 << 20}
LAYOUTS = [value for value in vars(layouts).values() if isinstance(value, Layout)]

u8 = st.integers(0, 0xFF)
u32 = st.integers(0, 0xFFFFFFFF)


def framer(dgst: int = 0, alignment: int = 4) -> Framer:
    made = Framer(HOST_TO_CONTROLLER, LIMITS, alignment)
    made.header_digest, made.data_digest = bool(dgst & HDGST), bool(dgst & DDGST)
    return made


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@settings(max_examples=15)
@given(seed=u32)
def test_derived_struct_and_dtype_are_the_construct_declaration(layout: Layout, seed: int) -> None:
    raw = random.Random(seed).randbytes(layout.size)
    parsed = layout.parse(raw)
    values = {name: parsed[name] for name in layout.names}
    assert layout.unpack_from(raw) == values
    packed = layout.pack(**values)
    assert layout.unpack_from(packed) == values
    assert packed == layout.declaration.build({name: values[name] for name in layout.names})
    (entry,) = np.frombuffer(raw, layout.dtype)
    assert {name: entry[name].tobytes() for name in layout.names} == {
        name: raw[field.offset : field.offset + field.size] for name, field in layout.fields.items()
    }


def joined(low: int, high: int, bits: int) -> int:
    return low | high << bits


@given(raw=st.binary(min_size=72, max_size=72))
def test_capsule_form_of_the_batch_processor_is_the_capsule_cmd(raw: bytes) -> None:
    f = CAPSULE_CMD.parse(raw)
    assert CAPSULE.size <= CAPSULE_CMD.size
    assert CAPSULE.unpack_from(raw) == (
        joined(common_header(f.type, f.flags, f.hlen, f.pdo), f.plen, 32),
        joined(f.opc, f.sqe_flags, 8),
        f.cid,
        f.nsid,
        f.sgl_length,
        f.sgl_type,
        joined(f.cdw10, f.cdw11, 32),
        f.cdw12,
    )
    assert LISTED.size == CAPSULE_CMD.size
    assert LISTED.unpack(raw) == (joined(f.cdw2, f.cdw3, 32), f.cdw13, joined(f.cdw14, f.cdw15, 32))
    assert struct.unpack_from("<Q", raw, 32)[0] == f.sgl_address


@pytest.mark.parametrize("layout", [H2C_DATA, C2H_DATA, R2T], ids=lambda layout: layout.name)
@settings(max_examples=30)
@given(raw=st.binary(min_size=24, max_size=24))
def test_data_form_of_the_batch_processor_is_the_data_pdus_and_the_r2t(layout: Layout, raw: bytes) -> None:
    f = layout.parse(raw)
    offset, length = (f.r2to, f.r2tl) if layout is R2T else (f.datao, f.datal)
    header = joined(common_header(f.type, f.flags, f.hlen, f.pdo), f.plen, 32)
    fields = (header, f.cccid, f.ttag, offset, length)
    assert DATA.size == layout.size
    assert DATA.unpack(raw) == fields
    assert DATA.pack(*fields) == layout.pack(**{name: f[name] for name in layout.names})


@given(cid=st.integers(0, 0xFFFF), datal=u32, plen=u32)
def test_the_form_of_an_answer_with_data_is_a_c2h_data(cid: int, datal: int, plen: int) -> None:
    header = joined(common_header(PduType.C2H_DATA, 4, 24, 24), plen, 32)
    fields = {"type": PduType.C2H_DATA, "flags": 4, "hlen": 24, "pdo": 24, "plen": plen, "cccid": cid, "datal": datal}
    assert C2H.pack(header, cid, datal) == C2H_DATA.pack(**fields)


@given(raw=st.binary(min_size=24, max_size=24))
def test_response_form_of_the_batch_processor_is_the_capsule_resp(raw: bytes) -> None:
    f = CAPSULE_RESP.parse(raw)
    header = joined(common_header(f.type, f.flags, f.hlen, f.pdo), f.plen, 32)
    fields = (header, joined(f.dw0, f.dw1, 32), f.sqhd, f.sqid, f.cid, f.status)
    assert RESPONSE.size == CAPSULE_RESP.size
    assert RESPONSE.unpack(raw) == fields
    assert RESPONSE.pack(*fields) == raw


# --- framing ----------------------------------------------------------------------------------------------


@st.composite
def valid_pdus(draw: st.DrawFn, dgst: int) -> bytes:
    kind = draw(st.sampled_from(["icreq", "capsule", "in-capsule", "h2c", "term"]))
    if kind == "icreq":
        return icreq(dgst=draw(st.integers(0, 3)), hpda=draw(st.integers(0, 31)))
    if kind == "term":
        return pdu(PduType.H2C_TERM_REQ, bytes(16), draw(st.binary(min_size=1, max_size=MAX_TERM_DATA)), dgst=dgst)
    if kind == "capsule":
        return capsule(draw(u8), draw(st.integers(0, 0xFFFF)), dgst=dgst, slba=draw(u32))
    data = draw(st.binary(min_size=1, max_size=300))
    pdo = draw(st.none() | st.sampled_from([80, 96, 128]))
    if kind == "in-capsule":
        return capsule(1, draw(st.integers(0, 0xFFFF)), data, dgst=dgst, changes={"pdo": pdo})
    return h2c(1, 2, draw(u32), data, dgst=dgst, last=draw(st.booleans()), pdo=pdo)


@settings(max_examples=60)
@given(data=st.data(), dgst=st.integers(0, 3))
def test_stream_of_pdus_is_cut_at_their_ends_whatever_has_arrived(data: st.DataObject, dgst: int) -> None:
    pdus = data.draw(st.lists(valid_pdus(dgst), min_size=1, max_size=6))
    stream = bytearray(b"".join(pdus))
    receiver, position = framer(dgst), 0
    for whole in pdus:
        found = receiver.frame(memoryview(stream), position, len(stream))
        assert found is not None
        assert found.plen == len(whole)
        end = position + data.draw(st.integers(0, len(whole) - 1))
        partial = receiver.frame(stream, position, end)
        assert partial == (found if end - position >= found.header_end else None)
        position += found.plen


def judge(raw: bytes, dgst: int) -> Frame | FatalTransportError | None:
    try:
        return framer(dgst).frame(raw, 0, len(raw))
    except FatalTransportError as error:
        return error


@settings(max_examples=200)
@given(
    kind=st.sampled_from([0, 2, 4, 6, 1, 3, 5, 7, 8, 9, 0xFF]),
    flags=u8,
    hlen=st.sampled_from([24, 72, 128, 0, 71]),
    pdo=u8,
    plen=st.sampled_from([0, 24, 71, 72, 76, 128, 152, 153, 8264, 8265, 0xFFFFFFFF]) | u32,
    rest=st.binary(max_size=160),
    dgst=st.integers(0, 3),
)
def test_any_header_is_framed_within_the_limits_or_refused_with_an_exact_error(
    kind: int, flags: int, hlen: int, pdo: int, plen: int, rest: bytes, dgst: int
) -> None:
    """Conformance 14."""
    raw = COMMON_HEADER.struct.pack(kind, flags, hlen, pdo, plen) + rest
    found = judge(raw, dgst)
    if isinstance(found, FatalTransportError):
        assert found.fes in (Fes.INVALID_HEADER_FIELD, Fes.HEADER_DIGEST_ERROR, Fes.DATA_LIMIT_EXCEEDED)
        assert (found.fei < 5) if found.fes is Fes.INVALID_HEADER_FIELD else found.fei == 0
        assert 1 <= len(found.header) <= MAX_TERM_DATA
        assert raw.startswith(found.header)
    elif found is None:
        assert len(raw) < SHAPES[kind].hlen + 4
    else:
        assert found.plen == plen <= found.header_end + 255 + LIMITS.get(found.type, 0) + 4
        assert found.data_bytes <= max(LIMITS.get(found.type, 0), MAX_TERM_DATA)
        assert found.data_offset + found.data_bytes <= found.plen
