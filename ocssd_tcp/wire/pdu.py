"""NVMe/TCP PDU kinds: their legal shapes as a table, and the encoders of their headers.

Which PDU is legal when is the connection's business, not this module's.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

from ocssd_tcp.wire.digest import DIGEST_BYTES, digest_bytes
from ocssd_tcp.wire.layouts import C2H_DATA, CAPSULE_RESP, COMMON_HEADER, ICREQ, ICRESP, R2T, TERM_REQ
from ocssd_tcp.wire.status import Fes

MAX_TERM_DATA = 128  #: header bytes of the offending PDU that a TermReq may quote
MAX_ALIGNMENT = 31  #: of HPDA and CPDA, 0's based dwords
MIN_MAXH2CDATA = 4096


class PduType(IntEnum):
    """Type, byte 0 of the common header."""

    ICREQ = 0x00
    ICRESP = 0x01
    H2C_TERM_REQ = 0x02
    C2H_TERM_REQ = 0x03
    CAPSULE_CMD = 0x04
    CAPSULE_RESP = 0x05
    H2C_DATA = 0x06
    C2H_DATA = 0x07
    R2T = 0x09


class PduFlag(IntFlag):
    """Flags, byte 1 of the common header."""

    HDGST = 1
    DDGST = 2
    LAST = 4
    SUCCESS = 8


# Plain ints: arithmetic on an IntFlag is slow, and these are used for every PDU.
_HDGST, _DDGST, _LAST = PduFlag.HDGST.value, PduFlag.DDGST.value, PduFlag.LAST.value


class Shape(NamedTuple):
    """What a PDU of a type looks like: HLEN, the flags it may carry, whether it carries data and digests."""

    hlen: int
    flags: int
    data: bool
    digests: bool


SHAPES: dict[int, Shape] = {
    PduType.ICREQ: Shape(128, 0, data=False, digests=False),
    PduType.ICRESP: Shape(128, 0, data=False, digests=False),
    PduType.H2C_TERM_REQ: Shape(24, 0, data=True, digests=False),
    PduType.C2H_TERM_REQ: Shape(24, 0, data=True, digests=False),
    PduType.CAPSULE_CMD: Shape(72, _HDGST | _DDGST, data=True, digests=True),
    PduType.CAPSULE_RESP: Shape(24, _HDGST, data=False, digests=True),
    PduType.H2C_DATA: Shape(24, _HDGST | _DDGST | _LAST, data=True, digests=True),
    PduType.C2H_DATA: Shape(24, 15, data=True, digests=True),
    PduType.R2T: Shape(24, _HDGST, data=False, digests=True),
}

HOST_TO_CONTROLLER = frozenset({PduType.ICREQ, PduType.H2C_TERM_REQ, PduType.CAPSULE_CMD, PduType.H2C_DATA})
CONTROLLER_TO_HOST = frozenset(
    {PduType.ICRESP, PduType.C2H_TERM_REQ, PduType.CAPSULE_RESP, PduType.C2H_DATA, PduType.R2T}
)


def icreq(dgst: int = 0, hpda: int = 0, maxr2t: int = 0) -> bytes:
    """An ICReq PDU. `hpda`, `maxr2t`: 0's based."""
    return ICREQ.pack(type=PduType.ICREQ, hlen=128, plen=128, dgst=dgst, hpda=hpda, maxr2t=maxr2t)


def icresp(dgst: int, maxh2cdata: int) -> bytes:
    """An ICResp PDU. CPDA is 0: the Linux host accepts nothing else."""
    return ICRESP.pack(type=PduType.ICRESP, hlen=128, plen=128, dgst=dgst, maxh2cdata=maxh2cdata)


def term_req(kind: PduType, fes: Fes, fei: int, header: bytes) -> bytes:
    """A TermReq PDU that quotes `header`: at least one byte, as SPDK takes an empty quote for a malformed PDU."""
    quoted = (header or b"\0")[:MAX_TERM_DATA]
    head = TERM_REQ.pack(type=kind, hlen=24, pdo=24, plen=24 + len(quoted), fes=fes, fei=fei)
    return head + quoted


class Encoder:
    """Builds PDU headers for one connection, after its digests and data alignment have been agreed.

    A header comes with its digest and the padding before the data; the data, and its digest, are the caller's to
    add. `alignment`: bytes, the receiver's (xPDA + 1) * 4.
    """

    __slots__ = ("_flags", "alignment", "data_digest", "header_digest")

    def __init__(self, *, header_digest: bool = False, data_digest: bool = False, alignment: int = 4) -> None:
        self.header_digest = header_digest
        self.data_digest = data_digest
        self.alignment = alignment
        self._flags = _HDGST if header_digest else 0

    def _aligned(self, hlen: int) -> int:
        end = hlen + (DIGEST_BYTES if self.header_digest else 0)
        return -(-end // self.alignment) * self.alignment

    def _finish(self, header: bytes, pdo: int = 0) -> bytes:
        if self.header_digest:
            header += digest_bytes(header)
        return header.ljust(pdo, b"\0")

    def capsule_resp(self, dw0: int, dw1: int, sqhd: int, sqid: int, cid: int, status: int) -> bytes:
        """A whole CapsuleResp PDU. `status`: SCT << 8 | SC with DNR, not yet shifted."""
        plen = 24 + (DIGEST_BYTES if self.header_digest else 0)
        return self._finish(
            CAPSULE_RESP.struct.pack(
                PduType.CAPSULE_RESP, self._flags, 24, 0, plen, dw0, dw1, sqhd, sqid, cid, status << 1
            )
        )

    def r2t(self, cccid: int, ttag: int, r2to: int, r2tl: int) -> bytes:
        """A whole R2T PDU; `r2to`, `r2tl` in bytes."""
        plen = 24 + (DIGEST_BYTES if self.header_digest else 0)
        return self._finish(R2T.struct.pack(PduType.R2T, self._flags, 24, 0, plen, cccid, ttag, r2to, r2tl))

    def data_header(self, kind: PduType, cccid: int, ttag: int, datao: int, datal: int, flags: int) -> bytes:
        """Header of a C2HData or H2CData PDU with `datal` > 0 bytes of data from offset `datao`."""
        pdo = self._aligned(24)
        plen = pdo + datal
        flags |= self._flags
        if self.data_digest:
            flags |= _DDGST
            plen += DIGEST_BYTES
        return self._finish(C2H_DATA.struct.pack(kind, flags, 24, pdo, plen, cccid, ttag, datao, datal), pdo)

    def capsule_cmd(self, sqe: bytes, data_bytes: int) -> bytes:
        """Header of a CapsuleCmd PDU with `data_bytes` of in-capsule data to follow (0: none)."""
        pdo = self._aligned(72) if data_bytes else 0
        plen = pdo + data_bytes if data_bytes else 72 + (DIGEST_BYTES if self.header_digest else 0)
        flags = self._flags
        if data_bytes and self.data_digest:
            flags |= _DDGST
            plen += DIGEST_BYTES
        return self._finish(COMMON_HEADER.struct.pack(PduType.CAPSULE_CMD, flags, 72, pdo, plen) + sqe, pdo)
