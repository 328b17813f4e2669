"""The drive as a connected guest sees it: the controller in sysfs, and its namespaces' devices."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from tests.e2e import ocssd_math as ocssd
from tests.e2e.drive import BLOCK, NQN, Drive, wait_until
from tests.e2e.guest import GATEWAY, Completion, Guest

GET_LOG_PAGE = 0x02


@dataclass(frozen=True)
class Namespace:
    """A namespace of a connected drive: its block device and its character device in the guest."""

    guest: Guest
    block: str
    char: str
    nsid: int

    def geometry(self) -> ocssd.Geometry:
        """As the drive reports it."""
        done = self.guest.passthrough(
            self.char, "admin", ocssd.GEOMETRY_OPCODE, self.nsid, receive=ocssd.GEOMETRY_BYTES
        )
        assert done.status == 0
        return ocssd.Geometry.decode(done.data)

    def chunks(self) -> list[ocssd.Chunk]:
        """The whole chunk information log."""
        size = self.geometry().num_chunks * ocssd.DESCRIPTOR.size
        dwords = size // 4 - 1
        cdw = {"cdw10": ocssd.CHUNK_LOG | (dwords & 0xFFFF) << 16, "cdw11": dwords >> 16}
        done = self.guest.passthrough(self.char, "admin", GET_LOG_PAGE, self.nsid, cdw=cdw, receive=size)
        assert done.status == 0
        return ocssd.chunks(done.data)

    def chunk(self, lba: int) -> ocssd.Chunk:
        """The descriptor of the chunk that `lba` is in."""
        return self.chunks()[self.geometry().index(lba)]

    def free_run(self, count: int) -> int:
        """SLBA of the first of `count` Free chunks in a row in one PU."""
        geometry, table = self.geometry(), self.chunks()
        for first in range(len(table) - count + 1):
            run = table[first : first + count]
            one_pu = geometry.index(run[-1].slba) % geometry.num_chk >= count - 1
            if one_pu and all(chunk.cs == ocssd.FREE for chunk in run):
                return run[0].slba
        raise LookupError(f"no {count} free chunks in a row")

    def free_stripe(self) -> list[int]:
        """SLBAs of Free chunks of one number, one in each PU in address order; taken from the end, away from runs."""
        geometry, table = self.geometry(), self.chunks()
        for number in reversed(range(geometry.num_chk)):
            stripe = table[number :: geometry.num_chk]
            if all(chunk.cs == ocssd.FREE for chunk in stripe):
                return [chunk.slba for chunk in stripe]
        raise LookupError("no number whose chunks are free in all PUs")

    def command(
        self, opcode: int, *, cdw: Mapping[str, int], send: bytes = b"", receive: int = 0, width: int = 64
    ) -> Completion:
        """An I/O command by ioctl."""
        return self.guest.passthrough(
            self.char, "io", opcode, self.nsid, cdw=cdw, send=send, receive=receive, width=width
        )

    def stage(self, slot: int, lbas: list[int]) -> None:
        """Stage LBA List."""
        cdw = {"cdw10": slot, "cdw12": len(lbas) - 1}
        assert self.command(ocssd.STAGE_LBA_LIST, cdw=cdw, send=ocssd.pack_list(lbas)).status == 0

    def write(self, slba: int, data: bytes) -> None:
        """Through the block device, O_DIRECT, one ws_min of four blocks at a time."""
        unit = 4 * BLOCK
        self.guest.put("/tmp/write", data)
        seek = slba * BLOCK // unit
        self.guest.run(f"dd if=/tmp/write of={self.block} bs={unit} seek={seek} oflag=direct status=none")

    def read(self, slba: int, blocks: int) -> bytes:
        """Through the block device, O_DIRECT."""
        self.guest.run(
            f"dd if={self.block} of=/tmp/read bs={BLOCK} skip={slba} count={blocks} iflag=direct status=none"
        )
        return self.guest.get("/tmp/read")


class Connection:
    """A guest's connection to a drive: `nvme connect`, what appears in sysfs, `nvme disconnect`."""

    def __init__(self, guest: Guest, nqn: str = NQN) -> None:
        """Take over the connection that was made last, and wait for its namespaces' devices."""
        self._guest = guest
        self._nqn = nqn
        self.controller = controllers(guest, nqn)[-1]
        wait_until(lambda: len(self._heads()) == 2, 30, "both namespaces have devices")

    @classmethod
    def to(cls, guest: Guest, drive: Drive, options: str = "") -> Self:
        """`nvme connect` with `options`."""
        guest.run(f"nvme connect -t tcp -a {GATEWAY} -s {drive.port} -n {drive.nqn} {options}")
        return cls(guest, drive.nqn)

    def attribute(self, name: str) -> str:
        """A sysfs attribute of the controller, such as `state`."""
        return self._guest.run(f"cat /sys/class/nvme/{self.controller}/{name}").out.strip()

    def live(self) -> bool:
        """Whether the controller is in use, not reconnecting."""
        return self.attribute("state") == "live"

    def _heads(self) -> dict[int, str]:
        """NSID to name of the block devices: kernels that scan in parallel number them as they come.

        With native multipath they hang below the subsystem instead of the controller.
        """
        found = self._guest.run(
            f"grep . $(grep -lx {self._nqn} /sys/class/nvme-subsystem/*/subsysnqn | sed s/subsysnqn//)nvme*n*/nsid "
            f"/sys/class/nvme/{self.controller}/nvme*n*/nsid 2>/dev/null",
            check=False,
        ).out
        return {int(nsid): name for name, nsid in re.findall(r"/(nvme\d+n\d+)/nsid:(\d+)", found)}

    def namespace(self, nsid: int) -> Namespace:
        """The namespace's devices."""
        name = self._heads()[nsid]
        wait_until(lambda: self._guest.run(f"ls /dev/{name}", check=False).rc == 0, 10, f"there is a /dev/{name}")
        return Namespace(self._guest, f"/dev/{name}", f"/dev/ng{name.removeprefix('nvme')}", nsid)

    def disconnect(self) -> None:
        """`nvme disconnect`."""
        disconnect(self._guest, self._nqn)


def controllers(guest: Guest, nqn: str = NQN) -> list[str]:
    """The names (nvme0) of the guest's controllers of a subsystem."""
    listing = guest.run(f"grep -lx {nqn} /sys/class/nvme/*/subsysnqn", check=False).out
    return [line.split("/")[-2] for line in listing.split()]


def disconnect(guest: Guest, nqn: str = NQN) -> None:
    """Leave the guest without a connection to a subsystem."""
    guest.run(f"nvme disconnect -n {nqn}")
    wait_until(lambda: not controllers(guest, nqn), 30, "the controllers are gone")


def json_of(guest: Guest, command: str) -> Any:
    """The output of an nvme-cli command that is given `-o json`."""
    return json.loads(guest.run(f"nvme {command} -o json").out)


def raw_of(guest: Guest, command: str) -> bytes:
    """The binary output of an nvme-cli command."""
    guest.run(f"nvme {command} >/tmp/raw")
    return guest.get("/tmp/raw")


def heard(events: Callable[[], list[str]], count: int) -> list[str]:
    """The events, as soon as there are `count`."""
    wait_until(lambda: len(events()) >= count, 10, f"the kernel forwards {count} events")
    return events()
