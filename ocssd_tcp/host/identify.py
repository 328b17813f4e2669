"""Identify structures, discovery entries and asynchronous events as Python values.

Only what a host acts on or shows is decoded; `wire.layouts` has the rest. NVMe Base 1.4, 5.15 and 5.2; NVMe-oF 1.1, 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ocssd_tcp.wire.layouts import DISCOVERY_ENTRY, IDENTIFY_CONTROLLER, IDENTIFY_NAMESPACE

_TRTYPES = {1: "rdma", 2: "fc", 3: "tcp", 254: "loop"}
_ADRFAMS = {1: "ipv4", 2: "ipv6"}
_SUBTYPES = {1: "referral", 2: "nvme", 3: "discovery"}
_EXTENDED_LBA = 0x10  # FLBAS bit 4


def text(raw: bytes) -> str:
    """A fixed-width field of characters, without its padding; bytes that are not UTF-8 are replaced."""
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()


@dataclass(frozen=True)
class ControllerInfo:
    """Identify Controller. `mdts`: log2 of 4 KiB pages, 0 no limit. `in_capsule_bytes`: data in an I/O capsule."""

    vid: int
    serial: str
    model: str
    firmware: str
    subnqn: str
    cntlid: int
    version: int
    mdts: int
    nn: int
    aerl: int
    kas: int
    maxcmd: int
    oncs: int
    vwc: int
    in_capsule_bytes: int
    icdoff: int
    is_discovery: bool

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> ControllerInfo:
        """From the 4,096 bytes of Identify CNS 01h."""
        f: dict[str, Any] = IDENTIFY_CONTROLLER.unpack_from(data)
        return cls(
            vid=f["vid"],
            serial=text(f["sn"]),
            model=text(f["mn"]),
            firmware=text(f["fr"]),
            subnqn=text(f["subnqn"]),
            cntlid=f["cntlid"],
            version=f["ver"],
            mdts=f["mdts"],
            nn=f["nn"],
            aerl=f["aerl"],
            kas=f["kas"],
            maxcmd=f["maxcmd"],
            oncs=f["oncs"],
            vwc=f["vwc"],
            in_capsule_bytes=max(0, f["ioccsz"] * 16 - 64),
            icdoff=f["icdoff"],
            is_discovery=f["cntrltype"] == 2,
        )

    @property
    def version_text(self) -> str:
        """VS as people write it: `1.4.0`."""
        return f"{self.version >> 16}.{self.version >> 8 & 0xFF}.{self.version & 0xFF}"


@dataclass(frozen=True)
class NamespaceInfo:
    """Identify Namespace. Sizes in logical blocks; `metadata_bytes` of one block; `vs0`: 1 marks an OCSSD."""

    nsze: int
    ncap: int
    nuse: int
    block_bytes: int
    metadata_bytes: int
    extended_lba: bool
    dlfeat: int
    dulbe_supported: bool
    nguid: bytes
    vs0: int

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> NamespaceInfo:
        """From the 4,096 bytes of Identify CNS 00h; all zero for an inactive namespace (`nsze` 0)."""
        f: dict[str, Any] = IDENTIFY_NAMESPACE.unpack_from(data)
        # The first LBA format is the only one that an OCSSD has, but any drive may be asked.
        entry = IDENTIFY_NAMESPACE.offset("lbaf0_ms") + (f["flbas"] & 15) * 4
        lbads = data[entry + 2]
        return cls(
            nsze=f["nsze"],
            ncap=f["ncap"],
            nuse=f["nuse"],
            block_bytes=1 << lbads if 9 <= lbads <= 24 else 0,
            metadata_bytes=int.from_bytes(data[entry : entry + 2], "little"),
            extended_lba=bool(f["flbas"] & _EXTENDED_LBA),
            dlfeat=f["dlfeat"],
            dulbe_supported=bool(f["nsfeat"] & 4),
            nguid=f["nguid"],
            vs0=f["vs0"],
        )


@dataclass(frozen=True)
class DiscoveryEntry:
    """One entry of the discovery log. `subtype`: nvme, discovery or referral; unknown codes as numbers."""

    trtype: str
    adrfam: str
    subtype: str
    treq: int
    portid: int
    cntlid: int
    asqsz: int
    subnqn: str
    traddr: str
    trsvcid: str
    sectype: int

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview) -> DiscoveryEntry:
        """From the 1,024 bytes of an entry."""
        f: dict[str, Any] = DISCOVERY_ENTRY.unpack_from(data)
        return cls(
            trtype=_TRTYPES.get(f["trtype"], str(f["trtype"])),
            adrfam=_ADRFAMS.get(f["adrfam"], str(f["adrfam"])),
            subtype=_SUBTYPES.get(f["subtype"], str(f["subtype"])),
            treq=f["treq"],
            portid=f["portid"],
            cntlid=f["cntlid"],
            asqsz=f["asqsz"],
            subnqn=text(f["subnqn"]),
            traddr=text(f["traddr"]),
            trsvcid=text(f["trsvcid"]),
            sectype=f["sectype"],
        )

    @property
    def sqflow_optional(self) -> bool:
        """TREQ bit 2: the controller can do without SQ flow control."""
        return bool(self.treq & 4)


@dataclass(frozen=True)
class AsyncEvent:
    """What completed an Asynchronous Event Request: type, information, and the log page to read (which re-arms it)."""

    type: int
    info: int
    log_page: int

    @classmethod
    def from_dw0(cls, dw0: int) -> AsyncEvent:
        """From completion DW0."""
        return cls(dw0 & 7, dw0 >> 8 & 0xFF, dw0 >> 16 & 0xFF)
