"""What a discovery subsystem knows: the subsystems that can be reached, and where. NVMe-oF 1.1, 5."""

from __future__ import annotations

from typing import Any

from ocssd_tcp.host.client import Controller, Options
from ocssd_tcp.host.errors import TransportError, UsageError
from ocssd_tcp.host.identify import DiscoveryEntry
from ocssd_tcp.wire.layouts import DISCOVERY_ENTRY, DISCOVERY_HEADER
from ocssd_tcp.wire.opcodes import DISCOVERY_NQN, ELSEWHERE_PORTID, LogPage

MAX_ENTRIES = 4096
_ATTEMPTS = 10


async def discover(
    address: str, port: int = 4420, options: Options | None = None, **changes: Any
) -> list[DiscoveryEntry]:
    """The entries of the discovery log at `address`:`port`.

    `options`, `changes`: as for `Controller.connect`; there are no I/O queues and no keep alive. TransportError if the
    log keeps changing while it is read, or claims more entries than anybody has.
    """
    changes = {**changes, "queues": 0, "kato_ms": 0}
    async with await Controller.connect(address, port, DISCOVERY_NQN, options, **changes) as controller:
        for _ in range(_ATTEMPTS):
            header = DISCOVERY_HEADER.unpack_from(await _log(controller, DISCOVERY_HEADER.size, 0))
            n_entries = header["numrec"]
            if n_entries > MAX_ENTRIES:
                raise TransportError(f"the discovery log claims {n_entries} entries")
            log = bytearray()
            if n_entries:
                log = await _log(controller, n_entries * DISCOVERY_ENTRY.size, DISCOVERY_HEADER.size)
            after = DISCOVERY_HEADER.unpack_from(await _log(controller, DISCOVERY_HEADER.size, 0))
            if after["genctr"] == header["genctr"]:
                view = memoryview(log)
                return [DiscoveryEntry.parse(view[at:]) for at in range(0, len(log), DISCOVERY_ENTRY.size)]
    raise TransportError("the discovery log changes faster than it can be read")


async def find_subsystem(address: str, port: int = 4420, options: Options | None = None) -> str:
    """The NQN of the one subsystem that `address`:`port` offers. UsageError if there are none or several.

    What a target with peers tells of them does not count.
    """
    entries = [entry for entry in await discover(address, port, options) if entry.portid != ELSEWHERE_PORTID]
    nqns = sorted({entry.subnqn for entry in entries if entry.subtype == "nvme" and entry.trtype == "tcp"})
    if len(nqns) != 1:
        found = ", ".join(nqns) if nqns else "none"
        raise UsageError(f"name a subsystem by its NQN: {address}:{port} offers {found}")
    return nqns[0]


async def _log(controller: Controller, n_bytes: int, offset: int) -> bytearray:
    return await controller.get_log(LogPage.DISCOVERY, n_bytes, offset=offset)
