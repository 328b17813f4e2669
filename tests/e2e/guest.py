"""A running guest: QEMU without KVM, and the channel to the agent in it."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.e2e.image import Image

BOOT_SECONDS = 180
NO_DWORDS: Mapping[str, int] = MappingProxyType({})
GATEWAY = "10.0.2.2"
"""The machine's 127.0.0.1 as the guest sees it."""
WARNING = 4
"""Kernel log level; smaller is more serious."""

MACHINE = [
    *("-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off,pmu=off,cx16=off", "-smp", "2", "-m", "1024"),
    *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
    *("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="),
    *("-device", "virtio-serial-pci"),
]
"""Two CPUs, so that Linux opens two I/O queues. 6.12 with two CPUs panics under this emulation unless cx16 is off."""
KERNEL_COMMAND_LINE = "console=ttyS0 panic=-1 reboot=t mitigations=off nokaslr quiet rdinit=/init"


class GuestError(Exception):
    """The guest did not boot, does not answer, or its agent failed."""


class CommandError(Exception):
    """A command in the guest did not end with 0."""


@dataclass(frozen=True)
class Result:
    """A finished command. `rc` is None if it was killed when its time was over."""

    rc: int | None
    out: str
    err: str


@dataclass(frozen=True)
class Completion:
    """A finished passthrough command: NVMe status (SCT and SC; DNR is 4000h) or a negative errno, DW0 and DW1, data."""

    status: int
    result: int
    data: bytes


@dataclass(frozen=True)
class Record:
    """A line of the kernel's log; `level` as in syslog, 4 is a warning."""

    sequence: int
    level: int
    text: str


class Guest:
    """A booted guest. `folder` takes the console's log and the sockets; `kill` ends it."""

    def __init__(self, image: Image, folder: Path) -> None:
        self._image = image
        self._folder = folder
        self._socket = folder / "agent.socket"
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._received = b""
        for attempt in (1, 2):
            try:
                self._boot()
                return
            except GuestError:
                self.kill()
                if attempt == 2:
                    raise

    def _boot(self) -> None:
        self._socket.unlink(missing_ok=True)
        self.console = self._folder / "console.log"
        argv = [
            *self._image.qemu, *MACHINE,
            "-kernel", str(self._image.vmlinux), "-initrd", str(self._image.initramfs), "-append", KERNEL_COMMAND_LINE,
            "-serial", f"file:{self.console}",
            "-chardev", f"socket,id=agent,path={self._socket},server=on,wait=off",
            "-device", "virtserialport,chardev=agent,name=agent",
        ]  # fmt: skip
        with open(self._folder / "qemu.log", "wb") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._channel = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            try:
                self._channel.connect(str(self._socket))
                break
            except OSError:
                self._check_alive()
                if time.monotonic() > deadline:
                    raise GuestError("QEMU does not open its socket") from None
                time.sleep(0.05)
        hello = self._answer(0, deadline)
        self.kernel: str = hello["kernel"]
        self.cpus: int = hello["cpus"]

    def _check_alive(self) -> None:
        if self._process.poll() is not None:
            said = (self._folder / "qemu.log").read_text(errors="replace")[-400:]
            console = self.console.read_text(errors="replace")[-800:] if self.console.exists() else ""
            raise GuestError(f"QEMU ended with {self._process.returncode}: {said}\n{console}")

    def _answer(self, number: int, deadline: float) -> dict[str, Any]:
        """Wait for the answer to request `number`; others are kept for whoever waits for them."""
        while number not in self._answers:
            self._channel.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                received = self._channel.recv(1 << 20)
            except TimeoutError:
                self._check_alive()
                raise GuestError(f"no answer in time; the console ends with:\n{self._console_end()}") from None
            if not received:
                self._check_alive()
                raise GuestError("QEMU closed the channel")
            *lines, self._received = (self._received + received).split(b"\n")
            for answer in map(json.loads, lines):
                self._answers[answer["id"]] = answer
        found = self._answers.pop(number)
        if "error" in found:
            raise GuestError(found["error"])
        return found

    def _console_end(self) -> str:
        return self.console.read_text(errors="replace")[-800:]

    def _send(self, op: str, **values: Any) -> int:
        number = next(self._numbers)
        self._channel.settimeout(60)
        self._channel.sendall(json.dumps({"id": number, "op": op, **values}).encode() + b"\n")
        return number

    def _request(self, op: str, patience: float, **values: Any) -> dict[str, Any]:
        return self._answer(self._send(op, **values), time.monotonic() + patience)

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60, check: bool = True) -> Result:
        """Run a shell command. CommandError if it fails or takes longer than `timeout` seconds, unless not `check`."""
        result = self.start(command, stdin=stdin, timeout=timeout)()
        if check and result.rc != 0:
            raise CommandError(f"{command}\nended with {result.rc}\n{result.out}{result.err}")
        return result

    def start(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Callable[[], Result]:
        """Start a shell command; what is returned waits for its end."""
        number = self._send("run", command=command, stdin=base64.b64encode(stdin).decode(), timeout=timeout)
        deadline = time.monotonic() + timeout + 30

        def wait() -> Result:
            answer = self._answer(number, deadline)
            out, err = (base64.b64decode(answer[stream]).decode(errors="replace") for stream in ("out", "err"))
            return Result(answer["rc"], out, err)

        return wait

    def put(self, path: str, content: bytes) -> None:
        """Write a file in the guest."""
        self._request("put", 60, path=path, content=base64.b64encode(content).decode())

    def get(self, path: str) -> bytes:
        """Read a file of the guest."""
        return base64.b64decode(self._request("get", 60, path=path)["content"])

    def passthrough(
        self,
        path: str,
        queue: str,
        opcode: int,
        nsid: int,
        *,
        send: bytes = b"",
        receive: int = 0,
        width: int = 64,
        cdw: Mapping[str, int] = NO_DWORDS,
    ) -> Completion:
        """One command by ioctl on `path`: NVME_IOCTL_ADMIN64_CMD or IO64_CMD, or with `width` 32 their forerunners.

        `cdw`: the dwords cdw2, cdw3 and cdw10 to cdw15 that are not zero.
        """
        answer = self._request(
            "passthrough",
            90,
            path=path,
            queue=queue,
            width=width,
            command={"opcode": opcode, "nsid": nsid, **cdw},
            send=base64.b64encode(send).decode(),
            receive=receive,
        )
        return Completion(answer["status"], answer["result"], base64.b64decode(answer["data"]))

    def kernel_log(self, after: int = 0) -> list[Record]:
        """The kernel's log records with a sequence number above `after`."""
        return [Record(*record) for record in self._request("kmsg", 60, after=after)["records"]]

    def dmesg(self) -> str:
        """The kernel's log as text."""
        return "\n".join(record.text for record in self.kernel_log())

    def log_position(self) -> int:
        """The sequence number of the newest log record, for `kernel_log`."""
        records = self.kernel_log()
        return records[-1].sequence if records else 0

    def network(self, up: bool) -> None:
        """Connect or cut the guest's network card; established connections see silence, not a reset."""
        self.run(f"ip link set eth0 {'up' if up else 'down'}")

    def kill(self) -> None:
        """End the guest at once."""
        if getattr(self, "_channel", None):
            self._channel.close()
        if getattr(self, "_process", None) and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
