"""The guest's end of the harness: serves requests that arrive on a virtio-serial port, one JSON object a line.

A request is {"id", "op", ...}; its answer has the same id and either the operation's values or {"error"}. Each request
runs in a thread of its own, so that a command stuck in the kernel does not stop the next one. Bytes travel in base64.
Runs in the guest on a bare Python; imports the standard library alone.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

PASSTHROUGH = struct.Struct("<BBHIIIQQII6III")
"""struct nvme_passthru_cmd64 without its result: opcode flags rsvd1 nsid cdw2 cdw3 metadata addr metadata_len data_len
cdw10..cdw15 timeout_ms rsvd2. struct nvme_passthru_cmd has its 32-bit result where rsvd2 is."""

IOCTLS = {
    ("admin", 32): 0xC0484E41,
    ("io", 32): 0xC0484E43,
    ("admin", 64): 0xC0504E47,
    ("io", 64): 0xC0504E48,
}


def run(command: str, stdin: str, timeout: float) -> dict[str, Any]:
    """Run a shell command in a process group of its own; rc is None if it was killed when its time was over."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(base64.b64decode(stdin), timeout)
        rc: int | None = process.returncode
    except subprocess.TimeoutExpired as late:
        os.killpg(process.pid, signal.SIGKILL)
        out, err, rc = late.stdout or b"", late.stderr or b"", None
    return {"rc": rc, "out": base64.b64encode(out).decode(), "err": base64.b64encode(err).decode()}


def put(path: str, content: str) -> dict[str, Any]:
    """Write a file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(base64.b64decode(content))
    return {}


def get(path: str) -> dict[str, Any]:
    """Read a file."""
    with open(path, "rb") as file:
        return {"content": base64.b64encode(file.read()).decode()}


def kmsg(after: int) -> dict[str, Any]:
    """The kernel's log records of a sequence number above `after`: lists of [sequence, level, text]."""
    records: list[list[Any]] = []
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                head, _, text = os.read(fd, 8192).decode(errors="replace").partition(";")
            except BlockingIOError:
                return {"records": records}
            except BrokenPipeError:
                continue  # overwritten while it was read; the next record follows
            priority, sequence = head.split(",")[:2]
            if int(sequence) > after:
                records.append([int(sequence), int(priority) & 7, text.partition("\n")[0]])
    finally:
        os.close(fd)


def passthrough(path: str, queue: str, width: int, command: dict[str, int], send: str, receive: int) -> dict[str, Any]:
    """One NVMe command by ioctl. `send`: bytes for the host-to-controller buffer; `receive`: size of the other kind.

    Answers `status` (the NVMe status with SCT, or a negative errno), `result` (DW0, and DW1 above it where `width` is
    64) and the buffer's bytes afterwards.
    """
    content = base64.b64decode(send) or bytes(receive)
    buffer = (ctypes.c_char * len(content)).from_buffer_copy(content) if content else None
    cdw = [command.get(f"cdw{number}", 0) for number in range(16)]
    head = bytearray(
        PASSTHROUGH.pack(
            command["opcode"], 0, 0, command["nsid"], cdw[2], cdw[3], 0,
            ctypes.addressof(buffer) if buffer is not None else 0, 0, len(content), *cdw[10:16], 60_000, 0,
        )
    )  # fmt: skip
    if width == 64:
        head += bytes(8)
    fd = os.open(path, os.O_RDWR)
    try:
        status = fcntl.ioctl(fd, IOCTLS[queue, width], head)
    except OSError as error:
        status = -(error.errno or 0)
    finally:
        os.close(fd)
    result = int.from_bytes(head[-8:] if width == 64 else head[-4:], "little")
    return {"status": status, "result": result, "data": base64.b64encode(bytes(buffer or b"")).decode()}


OPERATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "run": run,
    "put": put,
    "get": get,
    "kmsg": kmsg,
    "passthrough": passthrough,
}


def serve(port: int) -> None:
    """Answer requests until the file descriptor `port` is closed at its other end."""
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        left = memoryview(json.dumps(message).encode() + b"\n")
        with lock:
            while left:
                left = left[os.write(port, left) :]

    def answer(request: dict[str, Any]) -> None:
        number, operation = request.pop("id"), request.pop("op")
        try:
            send({"id": number, **OPERATIONS[operation](**request)})
        except Exception:
            send({"id": number, "error": traceback.format_exc()})

    send({"id": 0, "kernel": os.uname().release, "cpus": os.cpu_count()})
    with open(port, "rb", closefd=False) as lines:
        for line in lines:
            threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    serve(os.open(sys.argv[1], os.O_RDWR))
