"""Structures on the wire: NVMe/TCP PDUs, queue entries, fabrics commands, Identify and the base log pages.

Each is declared once. Section names are those of NVMe Base 1.4/2.0, NVMe over Fabrics 1.1 and NVMe/TCP 1.0. Fields
that this product neither sets nor reads are `reserved`.
"""

from __future__ import annotations

from ocssd_tcp.structdef import Layout, raw, reserved, u8, u16, u32, u64

# --- PDUs (NVMe/TCP, 3.6) ---------------------------------------------------------------------

COMMON_HEADER = Layout("common_header", 8, "type" / u8, "flags" / u8, "hlen" / u8, "pdo" / u8, "plen" / u32)

_CH = ("type" / u8, "flags" / u8, "hlen" / u8, "pdo" / u8, "plen" / u32)

ICREQ = Layout(
    "icreq", 128, *_CH,
    "pfv" / u16,  # 0
    "hpda" / u8,  # host PDU data alignment, 0's based dwords
    "dgst" / u8,  # bit 0 header digest, bit 1 data digest
    "maxr2t" / u32,  # 0's based
    reserved(112),
)  # fmt: skip

ICRESP = Layout(
    "icresp", 128, *_CH,
    "pfv" / u16,
    "cpda" / u8,
    "dgst" / u8,
    "maxh2cdata" / u32,  # bytes, a multiple of 4, not 0's based
    reserved(112),
)  # fmt: skip

TERM_REQ = Layout("term_req", 24, *_CH, "fes" / u16, "fei" / u32, reserved(10))

_SQE = (
    "opc" / u8,
    "sqe_flags" / u8,  # 1:0 FUSE, 7:6 PSDT
    "cid" / u16,
    "nsid" / u32,
    "cdw2" / u32,
    "cdw3" / u32,
    "mptr" / u64,
    "sgl_address" / u64,
    "sgl_length" / u32,
    reserved(3),
    "sgl_type" / u8,
    "cdw10" / u32,
    "cdw11" / u32,
    "cdw12" / u32,
    "cdw13" / u32,
    "cdw14" / u32,
    "cdw15" / u32,
)

SQE = Layout("sqe", 64, *_SQE)
CAPSULE_CMD = Layout("capsule_cmd", 72, *_CH, *_SQE)

_CQE = (
    "dw0" / u32,
    "dw1" / u32,
    "sqhd" / u16,
    "sqid" / u16,
    "cid" / u16,
    "status" / u16,  # bit 0 phase (0 in fabrics), 8:1 SC, 11:9 SCT, 14 More, 15 DNR
)

CQE = Layout("cqe", 16, *_CQE)
CAPSULE_RESP = Layout("capsule_resp", 24, *_CH, *_CQE)

_DATA = ("cccid" / u16, "ttag" / u16, "datao" / u32, "datal" / u32, reserved(4))

H2C_DATA = Layout("h2c_data", 24, *_CH, *_DATA)
C2H_DATA = Layout("c2h_data", 24, *_CH, *_DATA)
R2T = Layout("r2t", 24, *_CH, "cccid" / u16, "ttag" / u16, "r2to" / u32, "r2tl" / u32, reserved(4))

# --- fabrics commands (NVMe-oF 1.1, 3) ----------------------------------------------------------

CONNECT_SQE = Layout(
    "connect_sqe", 64,
    "opc" / u8, "sqe_flags" / u8, "cid" / u16, "fctype" / u8, reserved(35),
    "recfmt" / u16, "qid" / u16,
    "sqsize" / u16,  # 0's based entries
    "cattr" / u8,  # bit 2: no SQ flow control
    reserved(1),
    "kato" / u32,  # milliseconds
    reserved(12),
)  # fmt: skip

CONNECT_DATA = Layout(
    "connect_data", 1024,
    "hostid" / raw(16), "cntlid" / u16, reserved(238), "subnqn" / raw(256), "hostnqn" / raw(256), reserved(256),
)  # fmt: skip

PROPERTY_SQE = Layout(
    "property_sqe", 64,
    "opc" / u8, "sqe_flags" / u8, "cid" / u16, "fctype" / u8, reserved(35),
    "attrib" / u8,  # 2:0 size: 0 four bytes, 1 eight
    reserved(3), "ofst" / u32, "value" / u64, reserved(8),
)  # fmt: skip

# --- Identify (NVMe Base, 5.17) -----------------------------------------------------------------

IDENTIFY_CONTROLLER = Layout(
    "identify_controller", 4096,
    "vid" / u16, "ssvid" / u16, "sn" / raw(20), "mn" / raw(40), "fr" / raw(8), "rab" / u8, reserved(3),
    "cmic" / u8, "mdts" / u8, "cntlid" / u16, "ver" / u32, "rtd3r" / u32, "rtd3e" / u32, "oaes" / u32,
    "ctratt" / u32, "rrls" / u16, reserved(9), "cntrltype" / u8, reserved(16), reserved(6), reserved(122),
    "oacs" / u16, "acl" / u8, "aerl" / u8, "frmw" / u8, "lpa" / u8, "elpe" / u8, "npss" / u8, "avscc" / u8,
    "apsta" / u8, "wctemp" / u16, "cctemp" / u16, reserved(50), "kas" / u16, reserved(190),
    "sqes" / u8, "cqes" / u8, "maxcmd" / u16, "nn" / u32, "oncs" / u16, "fuses" / u16, "fna" / u8, "vwc" / u8,
    "awun" / u16, "awupf" / u16, "icsvscc" / u8, "nwpc" / u8, "acwu" / u16, "ocfs" / u16, "sgls" / u32,
    "mnan" / u32, reserved(224), "subnqn" / raw(256), reserved(768),
    "ioccsz" / u32, "iorcsz" / u32, "icdoff" / u16, "fcatt" / u8, "msdbd" / u8, "ofcs" / u16, "dctype" / u8,
    reserved(241), "psd0_mp" / u16, reserved(2), "psd0_enlat" / u32, "psd0_exlat" / u32, reserved(20), reserved(2016),
)  # fmt: skip

IDENTIFY_NAMESPACE = Layout(
    "identify_namespace", 4096,
    "nsze" / u64, "ncap" / u64, "nuse" / u64, "nsfeat" / u8, "nlbaf" / u8, "flbas" / u8, "mc" / u8, "dpc" / u8,
    "dps" / u8, "nmic" / u8, "rescap" / u8, "fpi" / u8, "dlfeat" / u8, "nawun" / u16, "nawupf" / u16, "nacwu" / u16,
    "nabsn" / u16, "nabo" / u16, "nabspf" / u16, "noiob" / u16, "nvmcap" / raw(16), "npwg" / u16, "npwa" / u16,
    "npdg" / u16, "npda" / u16, "nows" / u16, reserved(30), "nguid" / raw(16), "eui64" / raw(8),
    "lbaf0_ms" / u16,  # metadata bytes of a block
    "lbaf0_lbads" / u8,  # log2 of the block size
    "lbaf0_rp" / u8,
    reserved(252),
    "vs0" / u8,  # 1: an Open-Channel SSD (Linux, SPDK)
    reserved(3711),
)  # fmt: skip

INDEPENDENT_NAMESPACE = Layout(
    "independent_namespace", 4096,
    "nsfeat" / u8, "nmic" / u8, "rescap" / u8, "fpi" / u8, "anagrpid" / u32, "nsattr" / u8, reserved(1),
    "nvmsetid" / u16, "endgid" / u16,
    "nstat" / u8,  # bit 0: ready; Linux skips a namespace without it
    reserved(4081),
)  # fmt: skip

# --- log pages (NVMe Base, 5.16) ----------------------------------------------------------------

ERROR_LOG_ENTRY = Layout(
    "error_log_entry", 64,
    "count" / u64, "sqid" / u16, "cid" / u16, "status" / u16, "location" / u16, "lba" / u64, "nsid" / u32, "vs" / u8,
    "trtype" / u8, reserved(2), "csi" / u64, "transport" / u16, reserved(22),
)  # fmt: skip

SMART_LOG = Layout(
    "smart_log", 512,
    "critical_warning" / u8, "temperature" / u16, "available_spare" / u8, "spare_threshold" / u8,
    "percentage_used" / u8,
    reserved(26),
    "data_units_read" / raw(16), "data_units_written" / raw(16), "host_reads" / raw(16), "host_writes" / raw(16),
    "busy_time" / raw(16), "power_cycles" / raw(16), "power_on_hours" / raw(16), "unsafe_shutdowns" / raw(16),
    "media_errors" / raw(16), "error_log_entries" / raw(16), reserved(320),
)  # fmt: skip

FIRMWARE_LOG = Layout("firmware_log", 512, "afi" / u8, reserved(7), "frs1" / raw(8), reserved(496))

DISCOVERY_HEADER = Layout("discovery_header", 1024, "genctr" / u64, "numrec" / u64, "recfmt" / u16, reserved(1006))

DISCOVERY_ENTRY = Layout(
    "discovery_entry", 1024,
    "trtype" / u8,  # 3: TCP
    "adrfam" / u8,  # 1: IPv4, 2: IPv6
    "subtype" / u8,  # 2: NVM subsystem, 3: this discovery subsystem
    "treq" / u8,  # bit 2: SQ flow control may be disabled
    "portid" / u16, "cntlid" / u16, "asqsz" / u16, "eflags" / u16, reserved(20), "trsvcid" / raw(32), reserved(192),
    "subnqn" / raw(256), "traddr" / raw(256), "sectype" / u8, reserved(255),
)  # fmt: skip

# --- data of I/O commands -------------------------------------------------------------------------

DSM_RANGE = Layout("dsm_range", 16, "cattr" / u32, "nlb" / u32, "slba" / u64)  # nlb is not 0's based
