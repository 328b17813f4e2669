"""Code points of NVMe, NVMe-oF and Open-Channel SSD 2.0 commands."""

from enum import IntEnum, IntFlag


class Admin(IntEnum):
    """Admin opcodes (NVMe Base, Admin Command Set)."""

    GET_LOG_PAGE = 0x02
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    ASYNC_EVENT_REQUEST = 0x0C
    KEEP_ALIVE = 0x18
    FABRICS = 0x7F
    SET_LOG_PAGE = 0xC1  #: the emulators' own
    GEOMETRY = 0xE2  #: OCSSD 2.0


class Io(IntEnum):
    """I/O opcodes (NVM Command Set, OCSSD 2.0, and the LBA-list binding's Stage LBA List)."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    DATASET_MANAGEMENT = 0x09
    FABRICS = 0x7F
    VECTOR_RESET = 0x90
    VECTOR_WRITE = 0x91
    VECTOR_READ = 0x92
    VECTOR_COPY = 0x93
    STAGE_LBA_LIST = 0x95


def command_name(opcode: int, *, is_io: bool) -> str:
    """`vector read`, `admin identify`, or the number of an opcode that there is not."""
    kind: type[Admin] | type[Io] = Io if is_io else Admin
    try:
        name = kind(opcode).name.lower().replace("_", " ")
    except ValueError:
        name = f"{opcode:02x}h"
    return name if is_io else f"admin {name}"


class Fctype(IntEnum):
    """Fabrics command types (opcode 7Fh)."""

    PROPERTY_SET = 0x00
    CONNECT = 0x01
    PROPERTY_GET = 0x04
    AUTH_SEND = 0x05
    AUTH_RECEIVE = 0x06
    DISCONNECT = 0x08


class Cns(IntEnum):
    """Identify: controller or namespace structure."""

    NAMESPACE = 0x00
    CONTROLLER = 0x01
    ACTIVE_NSIDS = 0x02
    NS_DESCRIPTORS = 0x03
    CSI_NAMESPACE = 0x05
    CSI_CONTROLLER = 0x06
    CSI_ACTIVE_NSIDS = 0x07
    INDEPENDENT_NAMESPACE = 0x08
    ALLOCATED_NSIDS = 0x10
    ALLOCATED_NAMESPACE = 0x11
    ATTACHED_CONTROLLERS = 0x12
    CONTROLLERS = 0x13


class LogPage(IntEnum):
    """Log page identifiers."""

    SUPPORTED = 0x00
    ERROR = 0x01
    SMART = 0x02
    FIRMWARE = 0x03
    CHANGED_NAMESPACES = 0x04
    EFFECTS = 0x05
    FEATURE_EFFECTS = 0x12
    DISCOVERY = 0x70
    CHUNK_INFORMATION = 0xCA
    CHUNK_NOTIFICATION = 0xD0


class Feature(IntEnum):
    """Feature identifiers."""

    ARBITRATION = 0x01
    POWER_MANAGEMENT = 0x02
    TEMPERATURE_THRESHOLD = 0x04
    ERROR_RECOVERY = 0x05
    VOLATILE_WRITE_CACHE = 0x06
    NUMBER_OF_QUEUES = 0x07
    INTERRUPT_COALESCING = 0x08
    INTERRUPT_VECTOR = 0x09
    WRITE_ATOMICITY = 0x0A
    ASYNC_EVENT_CONFIG = 0x0B
    TIMESTAMP = 0x0E
    KEEP_ALIVE_TIMER = 0x0F
    HOST_BEHAVIOR = 0x16
    HOST_IDENTIFIER = 0x81
    MEDIA_FEEDBACK = 0xCA


class Property(IntEnum):
    """Controller properties: offsets."""

    CAP = 0x00
    VS = 0x08
    CC = 0x14
    CSTS = 0x1C


class SglType(IntEnum):
    """Byte 15 of SGL1: the two descriptors that NVMe/TCP allows."""

    IN_CAPSULE = 0x01  #: data block, offset: the data is in the capsule
    TRANSPORT = 0x5A  #: transport data block: C2HData, or H2CData on R2T


class ListForm(IntEnum):
    """CDW13 3:0 of a vector command: where its LBA list travels."""

    INLINE = 0
    DATA = 1
    PROGRESSION = 2
    SLOT = 3
    CAPSULE = 4


class Direction(IntFlag):
    """Bits 1:0 of an opcode (of FCTYPE for fabrics commands)."""

    NONE = 0
    HOST_TO_CONTROLLER = 1
    CONTROLLER_TO_HOST = 2


DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
DYNAMIC_CNTLID = 0xFFFF
#: PORTID of a discovery entry that tells of another target; who reads that target's own log finds it there.
ELSEWHERE_PORTID = 0xFFFF
BROADCAST_NSID = 0xFFFFFFFF
MAX_VECTOR_LBAS = 64  #: entries of one vector command (OCSSD 2.0)
CONTROL_IN_CAPSULE = 8192  #: in-capsule data that every queue accepts for admin and fabrics commands
NVME_VERSION = 0x00010400
