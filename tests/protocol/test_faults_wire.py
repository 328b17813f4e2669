"""Faults, notifications and Set Log Page as a host sees them on the wire."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocssd_tcp.media.filters.faults import FaultInjector
from ocssd_tcp.ocssd.fault_rules import FaultKind, FaultRule
from ocssd_tcp.ocssd.layouts import CHUNK_NOTIFICATION, ChunkState
from tests.support_target import (
    C2H_DATA,
    CAPSULE_RESP,
    DNR,
    IN_CAPSULE,
    READ,
    SMALL,
    TRANSPORT,
    VECTOR_READ,
    VECTOR_RESET,
    VECTOR_WRITE,
    Host,
    Target,
    pattern,
)

STRIDE = SMALL.block_bytes
GET_LOG, AER, SET_FEATURES, SET_LOG = 0x02, 0x0C, 0x09, 0xC1
MEDIA_FEEDBACK, HECC, VHECC = 0xCA, 1, 2
EARLY_CLOSE, NEXT_UNIT, HIGH_ECC = 0x2F1 | DNR, 0x2F0 | DNR, 0x2D0 | DNR
READ_ERROR, OFFLINE = 0x281, 0x2C0 | DNR


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = Target(tmp_path / "drive")
    yield target
    target.close()


@pytest.fixture
def host(target: Target) -> Host:
    return target.host()


def arm(target: Target, kind: FaultKind, **fields: range | int) -> None:
    """A rule for chunk 0 of unit 0."""
    namespace = target.namespaces[0]
    rule = FaultRule(kind, pu=range(1), chk=range(1), **fields)  # type: ignore[arg-type]
    namespace.layers.faults = FaultInjector(namespace.geometry, [rule]).layer
    namespace.restack()


def listed(host: Host, opc: int, lbas: list[int], data: bytes = b"", **fields: int) -> list[tuple[int, int, bytes]]:
    """A vector command with its list in the capsule; (kind, status, data) of what comes back."""
    head = struct.pack(f"<{len(lbas)}Q", *lbas)
    fields = {"cdw12": len(lbas) - 1, "cdw13": 4, "sgl_type": TRANSPORT, "sgl_length": len(data)} | fields
    answers = host.command(opc, head, payload=data, **fields)
    return [(pdu.kind, pdu.status if pdu.kind == CAPSULE_RESP else 0, pdu.data) for pdu in answers]


@pytest.mark.parametrize("by_r2t", [False, True])
def test_a_write_that_closes_its_chunk_early(target: Target, host: Host, by_r2t: bool) -> None:
    arm(target, FaultKind.EARLY_CLOSE, blk=range(8, 9))
    data = pattern(12 * STRIDE)
    assert host.write(0, data, by_r2t=by_r2t) == EARLY_CLOSE
    assert target.chunks()[0] == (ChunkState.CLOSED, 8)
    assert host.read(0, 12) == data[: 8 * STRIDE] + bytes(4 * STRIDE)
    assert host.write(8, data[: 4 * STRIDE], by_r2t=by_r2t) == 0x280 | DNR


def test_a_vector_write_names_the_entries_that_failed(target: Target, host: Host) -> None:
    arm(target, FaultKind.EARLY_CLOSE, blk=range(4, 5))
    lbas = [*range(4), *range(64, 72), *range(4, 12)]
    head = struct.pack(f"<{len(lbas)}Q", *lbas)
    payload = pattern(len(lbas) * STRIDE)
    (answer,) = host.command(
        VECTOR_WRITE, head, payload=payload, cdw12=len(lbas) - 1, cdw13=4, sgl_type=TRANSPORT, sgl_length=len(payload)
    )
    assert (answer.status, answer.dw0, answer.dw1) == (EARLY_CLOSE, 0xFF << 12, 0)
    assert target.chunks()[:2] == [(ChunkState.CLOSED, 4), (ChunkState.OPEN, 8)]


def test_a_vector_reset_that_fails_gives_the_descriptors_of_all(target: Target, host: Host) -> None:
    host.write(0, pattern(64 * STRIDE), by_r2t=True)
    host.write(64, pattern(64 * STRIDE), by_r2t=True)
    arm(target, FaultKind.RESET_FAIL)
    answers = listed(host, VECTOR_RESET, [0, 64], sgl_length=64)
    assert [(kind, status) for kind, status, _ in answers] == [(C2H_DATA, 0), (CAPSULE_RESP, OFFLINE)]
    assert [answers[0][2][at] for at in (0, 32)] == [ChunkState.OFFLINE, ChunkState.FREE]


@pytest.mark.parametrize(
    ("feedback", "opc", "status", "bitmap"),
    [
        (0, READ, 0, 0),
        (0, VECTOR_READ, 0, 0),
        (HECC, READ, HIGH_ECC, 0),
        (HECC, VECTOR_READ, 0, 0),
        (VHECC, READ, 0, 0),
        (VHECC, VECTOR_READ, HIGH_ECC, 0b1000),
    ],
)
def test_high_ecc_comes_with_the_data_if_media_feedback_asks_for_it(
    target: Target, host: Host, feedback: int, opc: int, status: int, bitmap: int
) -> None:
    data = pattern(64 * STRIDE)
    host.write(0, data, by_r2t=True)
    arm(target, FaultKind.HIGH_ECC, blk=range(3, 4))
    assert host.status(SET_FEATURES, qid=0, nsid=0, cdw10=MEDIA_FEEDBACK, cdw11=feedback) == 0
    fields = {"cdw12": 7, "sgl_length": 8 * STRIDE, "sgl_type": TRANSPORT}
    lbas = struct.pack("<8Q", *range(8))
    answers = host.command(opc, lbas, cdw13=4, **fields) if opc == VECTOR_READ else host.command(opc, **fields)
    assert b"".join(pdu.data for pdu in answers if pdu.kind == C2H_DATA) == data[: 8 * STRIDE]
    assert (answers[-1].kind, answers[-1].status) == (CAPSULE_RESP, status)
    assert (answers[-1].dw0, answers[-1].dw1) == (bitmap, 0)


def test_a_read_error_is_a_response_without_data_that_may_be_tried_again(target: Target, host: Host) -> None:
    host.write(0, pattern(64 * STRIDE), by_r2t=True)
    arm(target, FaultKind.READ_ERROR, nth=1)
    (answer,) = host.command(READ, cdw12=7, sgl_length=8 * STRIDE)
    assert (answer.kind, answer.status, answer.dw0) == (CAPSULE_RESP, READ_ERROR, 0)
    assert host.read(0, 8) == pattern(64 * STRIDE)[: 8 * STRIDE]


def test_the_host_is_woken_and_finds_what_happened(target: Target, host: Host) -> None:
    host.write(0, pattern(64 * STRIDE), by_r2t=True)
    arm(target, FaultKind.RESET_FAIL)
    assert host.command(AER, qid=0, nsid=0) == []
    listed(host, VECTOR_RESET, [0])
    (event,) = host.admin.take()
    assert (event.kind, event.status, event.dw0) == (CAPSULE_RESP, 0, 0x00D00007)
    answers = host.command(GET_LOG, qid=0, nsid=0xFFFFFFFF, cdw10=0xD0 | 1023 << 16, sgl_length=4096)
    first = CHUNK_NOTIFICATION.unpack_from(answers[0].data)
    assert (first["nc"], first["lba"], first["nsid"], first["state"], first["mask"]) == (1, 0, 1, 8, 2)


# --- Set Log Page -------------------------------------------------------------------------------------


def entries(target: Target, n: int = 2) -> bytearray:
    engine = target.store.engines[0]
    return bytearray(b"".join(engine.log_pieces(0, n * 32)))


def set_log(host: Host, data: bytes, **fields: int) -> int:
    numd = fields.pop("length", len(data)) // 4 - 1
    fields = {"cdw10": 0xCA | numd << 16, "qid": 0} | fields
    return host.status(SET_LOG, data, **fields)


@pytest.fixture
def allowed(target: Target) -> Target:
    target.namespaces[0].allow_set_log_page = True
    return target


@pytest.mark.parametrize("by_r2t", [False, True])
def test_set_log_page_puts_chunks_into_a_state(allowed: Target, host: Host, by_r2t: bool) -> None:
    data = entries(allowed)
    data[0], data[24], data[32] = ChunkState.OPEN, 8, ChunkState.OFFLINE
    if by_r2t:
        status = host.status(SET_LOG, payload=bytes(data), qid=0, cdw10=0xCA | 15 << 16, sgl_type=TRANSPORT)
    else:
        status = set_log(host, bytes(data))
    assert status == 0
    assert allowed.chunks()[:3] == [
        (ChunkState.OPEN, 8),
        (ChunkState.OFFLINE, 0xFFFFFFFFFFFFFFFF),
        (ChunkState.FREE, 0),
    ]
    assert host.write(8, pattern(4 * STRIDE)) == 0


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"cdw12": 16}, 0x002),
        ({"cdw12": 7 * 32}, 0x002),
        ({"cdw13": 1}, 0x002),
        ({"length": 60}, 0x00F),
        ({"length": 128}, 0x00F),
        ({"cdw10": 0xD0 | 15 << 16}, 0x109),
        ({"nsid": 2}, 0x00B),
        ({"nsid": 0xFFFFFFFF}, 0x00B),
    ],
    ids=str,
)
def test_set_log_page_elsewhere_is_refused(allowed: Target, host: Host, change: dict[str, int], status: int) -> None:
    assert set_log(host, bytes(entries(allowed)), **change) == status | DNR


def test_one_wrong_entry_of_set_log_page_changes_none(allowed: Target, host: Host) -> None:
    data = entries(allowed)
    data[0], data[32] = ChunkState.OFFLINE, 0
    assert set_log(host, bytes(data)) == 0x002 | DNR
    assert allowed.chunks()[0] == (ChunkState.FREE, 0)


def test_set_log_page_is_unknown_unless_it_is_allowed(target: Target, host: Host) -> None:
    data = entries(target)
    assert set_log(host, bytes(data), sgl_type=IN_CAPSULE) == 0x001 | DNR
