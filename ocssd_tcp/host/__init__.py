"""An NVMe/TCP host for Open-Channel SSD 2.0 drives: no root, no kernel module, any conforming drive.

    import ocssd_tcp.host

    with ocssd_tcp.host.connect("127.0.0.1", 4420) as drive:
        slba = drive.addresses.join(grp=0, pu=1, chk=5)
        drive.write(slba, bytes(drive.geometry.ws_opt * drive.block_bytes))
        print(drive.chunk(slba))
        drive.reset(slba)

The same verbs with `await`, and many commands in flight, are on `Drive`:

    drive = await ocssd_tcp.host.open_drive("127.0.0.1", 4420, options=Options(queues=2))
    blocks = await asyncio.gather(*(drive.read(lba) for lba in lbas))
    await drive.controller.close()
"""

from ocssd_tcp.host.client import Controller, Options
from ocssd_tcp.host.discovery import find_subsystem
from ocssd_tcp.host.drive import ChunkArray, Drive, StagedList, open_drive
from ocssd_tcp.host.errors import BindingUnsupported, HostError, StatusError, TransportError, UsageError
from ocssd_tcp.host.identify import AsyncEvent, ControllerInfo, DiscoveryEntry, NamespaceInfo
from ocssd_tcp.host.sync import SyncDrive, connect, discover
from ocssd_tcp.ocssd.layouts import ChunkDescriptor, ChunkState, ChunkType, GeometryPage
from ocssd_tcp.wire.opcodes import ListForm
from ocssd_tcp.wire.status import Status

__all__ = [
    "AsyncEvent",
    "BindingUnsupported",
    "ChunkArray",
    "ChunkDescriptor",
    "ChunkState",
    "ChunkType",
    "Controller",
    "ControllerInfo",
    "DiscoveryEntry",
    "Drive",
    "GeometryPage",
    "HostError",
    "ListForm",
    "NamespaceInfo",
    "Options",
    "StagedList",
    "Status",
    "StatusError",
    "SyncDrive",
    "TransportError",
    "UsageError",
    "connect",
    "discover",
    "find_subsystem",
    "open_drive",
]
