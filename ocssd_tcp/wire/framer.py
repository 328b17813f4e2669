"""From received bytes to PDUs: every length and flag is checked here, before anything is waited for or stored.

The framer copies nothing and keeps no bytes; it looks at a buffer and says what stands at an offset. It does not know
which PDU is legal in which state of a connection. Rules: NVMe/TCP 3.6 and 3.7.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ocssd_tcp.wire.digest import DIGEST_BYTES, crc32c
from ocssd_tcp.wire.layouts import COMMON_HEADER
from ocssd_tcp.wire.pdu import MAX_TERM_DATA, SHAPES, PduFlag, PduType
from ocssd_tcp.wire.status import FatalTransportError, Fes

_common = COMMON_HEADER.struct.unpack_from
_HDGST, _DDGST = PduFlag.HDGST.value, PduFlag.DDGST.value  # plain ints: arithmetic on an IntFlag is slow
_FEI_TYPE, _FEI_FLAGS, _FEI_HLEN, _FEI_PDO, _FEI_PLEN = range(5)


class Frame(NamedTuple):
    """A PDU whose header is complete and legal.

    `header_end`: offset from its start of the first byte after header and header digest. `data_offset`, `data_bytes`:
    its data, from its start (0, 0: none); the data itself may not have arrived. `plen`: bytes of the whole PDU.
    """

    type: int
    flags: int
    header_end: int
    data_offset: int
    data_bytes: int
    plen: int


class Framer:
    """The limits of one receiving side of a connection.

    `accepts`: PDU types this side may receive. `alignment`: bytes, its own (xPDA + 1) * 4. `max_data`: per PDU type,
    the most data bytes of one PDU; more is FES 05h before any of it is read.
    """

    def __init__(self, accepts: Collection[int], max_data: dict[int, int], alignment: int = 4) -> None:
        self.accepts = frozenset(accepts)
        self.max_data = max_data
        self.alignment = alignment
        self.header_digest = False
        self.data_digest = False

    def frame(self, buffer: bytes | bytearray | memoryview, offset: int, end: int) -> Frame | None:
        """The PDU that begins at `offset` of a buffer filled up to `end`; None while its header is incomplete.

        FatalTransportError, with the header received so far, if it breaks a rule.
        """
        available = end - offset
        if available < COMMON_HEADER.size:
            return None
        kind, flags, hlen, pdo, plen = _common(buffer, offset)
        if kind not in self.accepts:
            raise self._fatal(Fes.INVALID_HEADER_FIELD, _FEI_TYPE, "PDU type not legal here", buffer, offset, end)
        shape = SHAPES[kind]
        if hlen != shape.hlen:
            raise self._fatal(Fes.INVALID_HEADER_FIELD, _FEI_HLEN, f"HLEN {hlen}", buffer, offset, end)
        digests = shape.digests and self.header_digest
        if bool(flags & _HDGST) != digests or flags & ~shape.flags & 0xF:
            raise self._fatal(Fes.INVALID_HEADER_FIELD, _FEI_FLAGS, f"flags {flags:#x}", buffer, offset, end)
        header_end = hlen + DIGEST_BYTES if digests else hlen
        data_bytes = 0
        if plen != header_end:
            data_bytes = self._data_bytes(buffer, offset, end, header_end)
        elif kind == PduType.H2C_DATA or kind == PduType.C2H_DATA:
            raise self._fatal(Fes.INVALID_HEADER_FIELD, _FEI_PLEN, "a data PDU without data", buffer, offset, end)
        if available < header_end:
            return None
        if digests and crc32c(buffer[offset : offset + hlen]) != int.from_bytes(
            buffer[offset + hlen : offset + header_end], "little"
        ):
            raise self._fatal(Fes.HEADER_DIGEST_ERROR, 0, "header digest", buffer, offset, end)
        return Frame(kind, flags, header_end, pdo if data_bytes else 0, data_bytes, plen)

    def _data_bytes(self, buffer: bytes | bytearray | memoryview, offset: int, end: int, header_end: int) -> int:
        """Bytes of data of a PDU that is longer, or shorter, than its header."""
        kind, flags, _hlen, pdo, plen = _common(buffer, offset)
        shape = SHAPES[kind]
        if not shape.data or plen < header_end:
            raise self._fatal(Fes.INVALID_HEADER_FIELD, _FEI_PLEN, f"PLEN {plen}", buffer, offset, end)
        if not shape.digests:  # a TermReq: its PDO is not looked at, as senders differ
            if plen > header_end + MAX_TERM_DATA:
                raise self._fatal(Fes.INVALID_HEADER_FIELD, _FEI_PLEN, f"PLEN {plen}", buffer, offset, end)
            return int(plen - header_end)
        if bool(flags & _DDGST) != self.data_digest:
            raise self._fatal(Fes.INVALID_HEADER_FIELD, _FEI_FLAGS, f"flags {flags:#x}", buffer, offset, end)
        if pdo < header_end or pdo % self.alignment or pdo >= plen:
            raise self._fatal(Fes.INVALID_HEADER_FIELD, _FEI_PDO, f"PDO {pdo}", buffer, offset, end)
        data_bytes = plen - pdo - (DIGEST_BYTES if self.data_digest else 0)
        if data_bytes < 1:
            raise self._fatal(Fes.INVALID_HEADER_FIELD, _FEI_PLEN, f"PLEN {plen}", buffer, offset, end)
        if data_bytes > self.max_data.get(kind, 0):
            raise self._fatal(Fes.DATA_LIMIT_EXCEEDED, 0, f"{data_bytes} bytes of data", buffer, offset, end)
        return int(data_bytes)

    @staticmethod
    def _fatal(
        fes: Fes, fei: int, why: str, buffer: bytes | bytearray | memoryview, offset: int, end: int
    ) -> FatalTransportError:
        shape = SHAPES.get(buffer[offset])
        quoted = min(end - offset, shape.hlen if shape else MAX_TERM_DATA, MAX_TERM_DATA)
        return FatalTransportError(fes, fei, why, bytes(buffer[offset : offset + quoted]))
