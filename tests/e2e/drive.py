"""The daemon under test as a process, and the drive as a connected guest sees it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import ocssd_math as ocssd
from tests.e2e.guest import GATEWAY, Completion, Guest

NQN = "nqn.2014-08.org.example:e2e-drive"
SERIAL = "OCE2E00001"
BLOCK = 4096
ESTABLISHED = "01"
GET_LOG_PAGE = 0x02

NAMESPACE = {
    "num_grp": 2,
    "num_pu": 2,
    "num_chk": 24,
    "clba": 64,
    "block_bytes": BLOCK,
    "ws_min": 4,
    "ws_opt": 8,
    "mw_cunits": 16,
}
"""Small chunks, for an emulated guest manages some hundred commands a second; 24 chunks leave holes behind each PU."""

SINGLE_BLOCK_NAMESPACE = {**NAMESPACE, "num_pu": 1, "num_chk": 16, "ws_min": 1, "ws_opt": 1, "mw_cunits": 0}
"""Where one block can be written, as list form 0 needs, and read at once."""


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll until `condition` holds. TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def content(seed: object, blocks: int) -> bytes:
    """Data that differs from block to block and from seed to seed."""
    return random.Random(str(seed)).randbytes(blocks * BLOCK)


class Drive:
    """The daemon on a loopback port that stays the same over restarts, with its configuration and data in `folder`."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.log = folder / "daemon.log"
        self._config = folder / "drive.toml"
        tables: list[tuple[str, dict[str, Any]]] = [
            ("[target]", {"listen": [f"127.0.0.1:{self.port}"], "advertise": [f"{GATEWAY}:{self.port}"], "nqn": NQN}),
            ("[drive]", {"path": "drive", "serial": SERIAL}),
            ("[[namespace]]", NAMESPACE),
            ("[[namespace]]", SINGLE_BLOCK_NAMESPACE),
        ]
        # For texts, numbers and lists of them, JSON is TOML.
        lines = [[head, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())] for head, keys in tables]
        self._config.write_text("\n".join(line for table in lines for line in table) + "\n")

    def start(self) -> None:
        """Start the daemon and wait until it listens."""
        with open(self.log, "ab") as log:
            argv = [sys.executable, "-m", "ocssd_tcp", "--config", str(self._config)]
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._listens, 30, "the daemon listens")

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"the daemon ended with {self._process.returncode}:\n{self.log.read_text()[-2000:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """kill -9."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status. The daemon has a few seconds for what it promises to do in one."""
        self._process.terminate()
        try:
            return self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def connections(self) -> int:
        """TCP connections that the daemon's side holds open, as the machine's kernel counts them."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(f":{self.port:04X}") and row[3] == ESTABLISHED for row in rows)


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

    def __init__(self, guest: Guest, drive: Drive, options: str = "") -> None:
        self._guest = guest
        guest.run(f"nvme connect -t tcp -a {GATEWAY} -s {drive.port} -n {NQN} {options}")
        self.adopt()

    @classmethod
    def made(cls, guest: Guest) -> Connection:
        """The connection that something else, such as `nvme connect-all`, has made."""
        self = cls.__new__(cls)
        self._guest = guest
        self.adopt()
        return self

    def adopt(self) -> None:
        """Find the controller and wait for its namespaces' devices."""
        self.controller = self._controllers(self._guest)[-1]
        wait_until(lambda: len(self._heads()) == 2, 30, "both namespaces have devices")

    @staticmethod
    def _controllers(guest: Guest) -> list[str]:
        """The names (nvme0) of all controllers of the drive."""
        listing = guest.run(f"grep -lx {NQN} /sys/class/nvme/*/subsysnqn", check=False).out
        return [line.split("/")[-2] for line in listing.split()]

    @classmethod
    def none_left(cls, guest: Guest) -> bool:
        """Whether the guest has no controller of the drive."""
        return not cls._controllers(guest)

    def attribute(self, name: str) -> str:
        """A sysfs attribute of the controller, such as `state`."""
        return self._guest.run(f"cat /sys/class/nvme/{self.controller}/{name}").out.strip()

    def live(self) -> bool:
        """Whether the controller is in use, not reconnecting."""
        return self.attribute("state") == "live"

    def _heads(self) -> list[str]:
        """The block devices; with native multipath they hang below the subsystem instead of the controller."""
        script = f"""
            grep -lx {NQN} /sys/class/nvme-subsystem/*/subsysnqn | while read -r found; do
                ls -d "${{found%/*}}"/nvme*n* /sys/class/nvme/{self.controller}/nvme*n*
            done 2>/dev/null"""
        names = {line.rsplit("/", 1)[-1] for line in self._guest.run(script, check=False).out.split()}
        heads = sorted(name for name in names if name.strip("0123456789n") == "vme" and "c" not in name)
        ready = self._guest.run(f"ls {' '.join('/dev/' + name for name in heads)} 2>/dev/null", check=False).out.split()
        return [path.removeprefix("/dev/") for path in ready] if heads else []

    def namespace(self, nsid: int) -> Namespace:
        """The namespace's devices."""
        name = next(head for head in self._heads() if head.endswith(f"n{nsid}"))
        return Namespace(self._guest, f"/dev/{name}", f"/dev/ng{name.removeprefix('nvme')}", nsid)

    def disconnect(self) -> None:
        """`nvme disconnect`, and wait until the controller is gone."""
        self._guest.run(f"nvme disconnect -n {NQN}")
        wait_until(lambda: self.none_left(self._guest), 30, "the controller is gone")


def json_of(guest: Guest, command: str) -> Any:
    """The output of an nvme-cli command that is given `-o json`."""
    return json.loads(guest.run(f"nvme {command} -o json").out)


def raw_of(guest: Guest, command: str) -> bytes:
    """The binary output of an nvme-cli command."""
    guest.run(f"nvme {command} >/tmp/raw")
    return guest.get("/tmp/raw")
