"""The superblocks of a drive and of its namespaces: what they are, whether they can be believed, how they are replaced.

4 KiB each, sealed with a CRC-32C over the whole page. All that changes in a namespace's life lies in the first 512
bytes, so that a power cut cannot tear an update in place.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, fields
from typing import Any

from crc32c import crc32c

from ocssd_tcp.ocssd.geometry import FLAGS, Geometry, GeometryError
from ocssd_tcp.structdef import Layout, raw, reserved, u8, u32

VERSION = 1
SUPERBLOCK_BYTES = 4096

DRIVE_MAGIC = b"OCSSDDRV"
NAMESPACE_MAGIC = b"OCSSDNSP"

_HEAD = ("magic" / raw(8), "version" / u32, "compat" / u32, "ro_compat" / u32, "incompat" / u32, "uuid" / raw(16))

DRIVE_SUPERBLOCK = Layout("drive_superblock", SUPERBLOCK_BYTES, *_HEAD, "crc" / u32, None / reserved(4052))

_GEOMETRY_NAMES = tuple(field.name for field in fields(Geometry))

NAMESPACE_SUPERBLOCK = Layout(
    "namespace_superblock",
    SUPERBLOCK_BYTES,
    *_HEAD,
    "boot_id" / raw(16),  #: of the boot that last opened it
    "clean" / u8,  #: 1: closed in order, and everything reached the disk
    None / reserved(3),
    *(name / u32 for name in _GEOMETRY_NAMES),
    None / reserved(512 - 60 - 4 * len(_GEOMETRY_NAMES) - 4),
    "crc" / u32,
    None / reserved(SUPERBLOCK_BYTES - 512),
)


class StoreError(Exception):
    """A drive that cannot be opened or made. `path`: the file or folder at fault; `why`: what is the matter."""

    def __init__(self, path: str | os.PathLike[str], why: str) -> None:
        super().__init__(f"{os.fspath(path)}: {why}")
        self.path = os.fspath(path)
        self.why = why


@dataclass(frozen=True, slots=True)
class NamespaceSuperblock:
    """A decoded namespace superblock."""

    uuid: uuid.UUID
    boot_id: bytes
    is_clean: bool
    geometry: Geometry

    def pack(self) -> bytes:
        """The 4 KiB on disk."""
        geometry = {name: int(getattr(self.geometry, name)) for name in _GEOMETRY_NAMES}
        values = {"uuid": self.uuid.bytes, "boot_id": self.boot_id, "clean": int(self.is_clean), **geometry}
        return _seal(NAMESPACE_SUPERBLOCK, NAMESPACE_MAGIC, values)


def pack_drive(identity: uuid.UUID) -> bytes:
    """The 4 KiB of a drive's superblock."""
    return _seal(DRIVE_SUPERBLOCK, DRIVE_MAGIC, {"uuid": identity.bytes})


def read_drive(path: str) -> uuid.UUID:
    """The uuid of a drive. StoreError: missing, damaged, or of a version that this one does not know."""
    return uuid.UUID(bytes=_unseal(DRIVE_SUPERBLOCK, DRIVE_MAGIC, path)["uuid"])


def read_namespace(path: str) -> NamespaceSuperblock:
    """A namespace's superblock. StoreError as for `read_drive`."""
    values = _unseal(NAMESPACE_SUPERBLOCK, NAMESPACE_MAGIC, path)
    shape = {name: bool(values[name]) if name in FLAGS else values[name] for name in _GEOMETRY_NAMES}
    try:
        geometry = Geometry(**shape)
    except GeometryError as error:
        raise StoreError(path, f"holds an impossible geometry: {error}") from error
    return NamespaceSuperblock(uuid.UUID(bytes=values["uuid"]), values["boot_id"], bool(values["clean"]), geometry)


def replace_file(path: str, data: bytes) -> None:
    """Put a file in place as a whole: written and synced beside, then renamed. OSError."""
    temporary = path + ".tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, path)
    sync_folder(os.path.dirname(path))


def update_file(path: str, data: bytes) -> None:
    """Overwrite the head of a file and wait until it is durable. OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, data, 0)
        os.fdatasync(fd)
    finally:
        os.close(fd)


def sync_folder(path: str) -> None:
    """Make the names in a folder durable. OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def differences(path: str, stored: Geometry, wanted: Geometry) -> StoreError | None:
    """An error that names every field in which two geometries differ, None if they do not."""
    found = [
        f"{name} is {getattr(stored, name)}, {getattr(wanted, name)} was asked for"
        for name in _GEOMETRY_NAMES
        if getattr(stored, name) != getattr(wanted, name)
    ]
    return StoreError(path, f"the drive has another geometry: {'; '.join(found)}") if found else None


def _seal(layout: Layout, magic: bytes, values: dict[str, Any]) -> bytes:
    values = {"magic": magic, "version": VERSION, **values}
    return layout.pack(**values, crc=crc32c(layout.pack(**values)))


def _unseal(layout: Layout, magic: bytes, path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(SUPERBLOCK_BYTES)
    except OSError as error:
        raise StoreError(path, f"cannot be read: {error.strerror}") from error
    if len(data) != SUPERBLOCK_BYTES:
        raise StoreError(path, f"is damaged: {len(data)} bytes, not {SUPERBLOCK_BYTES}")
    at = layout.offset("crc")
    values = layout.unpack_from(data)
    if values["magic"] != magic:
        raise StoreError(path, "is not a superblock of this kind")
    if crc32c(data[:at] + bytes(4) + data[at + 4 :]) != values["crc"]:
        raise StoreError(path, "is damaged: its checksum is wrong")
    if values["version"] != VERSION:
        raise StoreError(path, f"has version {values['version']}; this program knows version {VERSION}")
    for name in ("incompat", "ro_compat"):
        if values[name]:
            raise StoreError(path, f"needs features that this program does not know: {name} {values[name]:#x}")
    return values
