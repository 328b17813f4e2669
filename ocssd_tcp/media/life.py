"""The life of a drive: what SMART tells that no chunk table holds, kept in a file of its own beside the superblock.

life    a head for the drive, then a record for each namespace; replaced as a whole, so a stop leaves the old or the new

It is no part of the data: a drive whose file is missing or damaged opens, and counts from 0. Whether the last end was
in order is not said here, the superblocks of the namespaces know.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from crc32c import crc32c

from ocssd_tcp.media.superblock import StoreError, replace_file
from ocssd_tcp.structdef import Layout, raw, reserved, u32, u64

VERSION = 1
MAGIC = b"OCSSDLIF"

LIFE_HEAD = Layout(
    "life_head",
    64,
    "magic" / raw(8),
    "version" / u32,
    "crc" / u32,  #: CRC-32C of the whole file, with 0 here
    "uuid" / raw(16),  #: of the drive
    "power_cycles" / u64,
    "unsafe_shutdowns" / u64,
    "power_on_ms" / u64,
    "n_namespaces" / u32,
    None / reserved(4),
)

LIFE_RECORD = Layout(
    "life_record",
    64,
    "uuid" / raw(16),  #: of the namespace
    "blocks_read" / u64,
    "blocks_written" / u64,
    "reads" / u64,
    "writes" / u64,
    "media_errors" / u64,
    None / reserved(8),
)

MAX_BYTES = 1 << 20  #: more than that is no file of ours


class Usage(NamedTuple):
    """What a namespace has been through since it was made: blocks, and commands of hosts."""

    blocks_read: int = 0
    blocks_written: int = 0
    reads: int = 0
    writes: int = 0
    media_errors: int = 0


@dataclass(frozen=True, slots=True)
class Life:
    """The life of a drive so far. `power_on_ms`: milliseconds it was open. `usages`: by the uuid of the namespace."""

    power_cycles: int = 0
    unsafe_shutdowns: int = 0
    power_on_ms: int = 0
    usages: Mapping[uuid.UUID, Usage] = field(default_factory=dict)


class LifeFile:
    """The file of the drive `identity` in its folder. It belongs to whoever has the drive open."""

    def __init__(self, folder: str, identity: uuid.UUID) -> None:
        self.path = os.path.join(folder, "life")
        self._identity = identity

    def store(self, life: Life) -> None:
        """Replace what is there and wait until it is durable. OSError: the old file, if there was one, still holds."""
        values: dict[str, int | bytes] = {
            "magic": MAGIC,
            "version": VERSION,
            "uuid": self._identity.bytes,
            "power_cycles": life.power_cycles,
            "unsafe_shutdowns": life.unsafe_shutdowns,
            "power_on_ms": life.power_on_ms,
            "n_namespaces": len(life.usages),
        }
        records = b"".join(
            LIFE_RECORD.pack(uuid=identity.bytes, **usage._asdict()) for identity, usage in life.usages.items()
        )
        crc = crc32c(records, crc32c(LIFE_HEAD.pack(**values)))
        replace_file(self.path, LIFE_HEAD.pack(**values, crc=crc) + records)

    def load(self) -> Life:
        """What was stored last. StoreError: missing, damaged, of another drive or of a version not known here."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise StoreError(self.path, f"cannot be read: {error.strerror}") from error
        if not LIFE_HEAD.size <= len(data) <= MAX_BYTES:
            raise StoreError(self.path, f"is damaged: {len(data)} bytes")
        head = LIFE_HEAD.unpack_from(data)
        at = LIFE_HEAD.offset("crc")
        if head["magic"] != MAGIC or crc32c(data[:at] + bytes(4) + data[at + 4 :]) != head["crc"]:
            raise StoreError(self.path, "is damaged: its checksum is wrong")
        if head["version"] != VERSION:
            raise StoreError(self.path, f"has version {head['version']}; this program knows version {VERSION}")
        if head["uuid"] != self._identity.bytes:
            raise StoreError(self.path, "is of another drive")
        if len(data) != LIFE_HEAD.size + head["n_namespaces"] * LIFE_RECORD.size:
            raise StoreError(self.path, f"is damaged: {len(data)} bytes")
        usages = {}
        for start in range(LIFE_HEAD.size, len(data), LIFE_RECORD.size):
            record = LIFE_RECORD.unpack_from(data, start)
            namespace = uuid.UUID(bytes=record.pop("uuid"))
            usages[namespace] = Usage(**record)
        return Life(head["power_cycles"], head["unsafe_shutdowns"], head["power_on_ms"], usages)
