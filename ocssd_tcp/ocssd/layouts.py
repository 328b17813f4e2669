"""The structures of OCSSD 2.0: Geometry page, chunk descriptor, chunk notification.

Offsets and sizes are the specification's; the vendor area of the Geometry page begins with the `OCFB` record, by
which a host learns how LBA lists may be sent over a fabric (LBA-list binding, version 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple

from ocssd_tcp.ocssd.geometry import Geometry, Mccap
from ocssd_tcp.structdef import Layout, raw, reserved, u8, u16, u32, u64

#: Geometry: revision 2.0
MJR, MNR = 2, 0

BINDING_MAGIC = b"OCFB"
BINDING_VERSION = 1
MAX_VECTOR_LBAS = 64

#: WP of Offline and random-write chunks, where it means nothing.
WP_UNDEFINED = 0xFFFF_FFFF_FFFF_FFFF


class ChunkState(IntEnum):
    """CS of a chunk descriptor: exactly one bit."""

    FREE = 0x01
    CLOSED = 0x02
    OPEN = 0x04
    OFFLINE = 0x08


class ChunkType(IntFlag):
    """CT of a chunk descriptor: one of the first two, and perhaps DEVIATES."""

    SEQUENTIAL = 0x01
    RANDOM = 0x02
    DEVIATES = 0x10  #: CNLB is not CLBA


class NotificationState(IntFlag):
    """STATE of a chunk notification."""

    ERROR_RATE_LOW = 1 << 0
    ERROR_RATE_MEDIUM = 1 << 1
    ERROR_RATE_HIGH = 1 << 2
    UNRECOVERABLE = 1 << 3
    REFRESHED = 1 << 4
    WEAR_INDEX = 1 << 8  #: outside the threshold WIT


class NotificationMask(IntFlag):
    """MASK of a chunk notification: what its LBA stands for."""

    LOGICAL_BLOCK = 1 << 0
    CHUNK = 1 << 1
    PARALLEL_UNIT = 1 << 2


#: Geometry page, admin command E2h. Times in ns, sizes in blocks. Bytes 3072 on are vendor specific.
GEOMETRY = Layout(
    "geometry",
    4096,
    "mjr" / u8,
    "mnr" / u8,
    None / reserved(6),
    "grp_len" / u8,
    "pu_len" / u8,
    "chk_len" / u8,
    "lbk_len" / u8,
    None / reserved(4),
    "mccap" / u32,
    None / reserved(12),
    "wit" / u8,
    None / reserved(31),
    "num_grp" / u16,
    "num_pu" / u16,
    "num_chk" / u32,
    "clba" / u32,
    None / reserved(52),
    "ws_min" / u32,
    "ws_opt" / u32,
    "mw_cunits" / u32,
    "maxoc" / u32,
    "maxocpu" / u32,
    None / reserved(44),
    "trdt" / u32,
    "trdm" / u32,
    "twrt" / u32,
    "twrm" / u32,
    "tcrst" / u32,
    "tcrsm" / u32,
    None / reserved(40),
    None / reserved(2816),
    "binding_magic" / raw(4),
    "binding_version" / u8,
    "forms" / u8,
    "n_slots" / u16,
    "max_n" / u16,
    None / reserved(1014),
)

#: One entry of the Chunk Information log page CAh, and of the chunk tables on disk.
CHUNK_DESCRIPTOR = Layout(
    "chunk_descriptor",
    32,
    "cs" / u8,
    "ct" / u8,
    "wli" / u8,
    None / reserved(5),
    "slba" / u64,
    "cnlb" / u64,
    "wp" / u64,
)

#: One entry of the Chunk Notification log page D0h. `nlb` is 0's based and valid with mask bit 0.
CHUNK_NOTIFICATION = Layout(
    "chunk_notification",
    64,
    "nc" / u64,
    "lba" / u64,
    "nsid" / u32,
    "state" / u16,
    "mask" / u8,
    None / reserved(9),
    "nlb" / u16,
    None / reserved(30),
)


class ChunkDescriptor(NamedTuple):
    """A decoded chunk descriptor. `cs` and `ct` are left as numbers: a drive may send what no enum has."""

    cs: int
    ct: int
    wli: int
    slba: int
    cnlb: int
    wp: int


@dataclass(frozen=True, slots=True)
class GeometryPage:
    """A decoded Geometry page: what a host knows of a drive. Serves as `AddressFormat`.

    `binding_version` is 0, and `forms`, `n_slots` and `max_n` with it, if the drive has no `OCFB` record.
    """

    mjr: int
    mnr: int
    grp_len: int
    pu_len: int
    chk_len: int
    lbk_len: int
    mccap: Mccap
    wit: int
    num_grp: int
    num_pu: int
    num_chk: int
    clba: int
    ws_min: int
    ws_opt: int
    mw_cunits: int
    maxoc: int
    maxocpu: int
    trdt: int
    trdm: int
    twrt: int
    twrm: int
    tcrst: int
    tcrsm: int
    binding_version: int
    forms: int
    n_slots: int
    max_n: int


#: Fields of the page that are attributes of `Geometry` by the same name.
_SHARED = tuple(name for name in GEOMETRY.names if hasattr(Geometry, name))


def geometry_page(geometry: Geometry, *, forms: int = 0b11111, n_slots: int = 64) -> bytes:
    """The 4096 bytes of the Geometry page. `forms`: bit i set: list form i is offered; `n_slots`: staged lists."""
    shared = {name: int(getattr(geometry, name)) for name in _SHARED}
    return GEOMETRY.pack(
        mjr=MJR,
        mnr=MNR,
        **shared,
        binding_magic=BINDING_MAGIC,
        binding_version=BINDING_VERSION,
        forms=forms,
        n_slots=n_slots,
        max_n=MAX_VECTOR_LBAS,
    )


def parse_geometry_page(page: bytes | bytearray | memoryview) -> GeometryPage:
    """Decode a Geometry page. ValueError if it is shorter than 4096 bytes or not of major revision 2."""
    if len(page) < GEOMETRY.size:
        raise ValueError(f"a Geometry page has {GEOMETRY.size} bytes, not {len(page)}")
    values = GEOMETRY.unpack_from(page)
    if values["mjr"] != MJR:
        raise ValueError(f"Geometry page of revision {values['mjr']}.{values['mnr']}, not {MJR}.{MNR}")
    if values.pop("binding_magic") != BINDING_MAGIC:
        values.update(binding_version=0, forms=0, n_slots=0, max_n=0)
    values["mccap"] = Mccap(values["mccap"])
    return GeometryPage(**values)


def parse_chunk_descriptors(data: bytes | bytearray | memoryview) -> list[ChunkDescriptor]:
    """Decode whole chunk descriptors. ValueError if `data` is not a multiple of 32 bytes."""
    if len(data) % CHUNK_DESCRIPTOR.size:
        raise ValueError(f"{len(data)} bytes are not a whole number of chunk descriptors")
    return [ChunkDescriptor(*fields) for fields in CHUNK_DESCRIPTOR.struct.iter_unpack(data)]
