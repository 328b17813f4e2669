"""Header and data digests: CRC32C, stored little-endian (NVMe/TCP, 3.3.1)."""

from __future__ import annotations

import struct

from crc32c import crc32c

__all__ = ["DIGEST_BYTES", "crc32c", "digest_bytes"]

DIGEST_BYTES = 4
_pack = struct.Struct("<I").pack


def digest_bytes(data: bytes | bytearray | memoryview) -> bytes:
    """The digest of `data` as it stands on the wire."""
    return _pack(crc32c(data))
