"""What a service manager hands over and wants to be told: sockets that listen already, and READY, STOPPING, WATCHDOG.

sd_listen_fds(3) and sd_notify(3) are this small; a library would be larger than what it does. Without a manager, or
under one that knows none of it, nothing happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Mapping

_FIRST_DESCRIPTOR = 3
_MAX_DESCRIPTORS = 1024


def inherited(environment: Mapping[str, str]) -> list[socket.socket]:
    """The sockets that a .socket unit passed to this process; none without one. OSError: one of them is no TCP
    listener."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    text = environment.get("LISTEN_FDS", "")
    count = int(text) if text.isdecimal() and len(text) <= 4 else 0
    return [_listener(_FIRST_DESCRIPTOR + index) for index in range(min(count, _MAX_DESCRIPTORS))]


def _listener(descriptor: int) -> socket.socket:
    wrong = OSError(errno.ENOTSOCK, f"descriptor {descriptor} is no TCP socket that listens", "LISTEN_FDS")
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise wrong from error
    is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type == socket.SOCK_STREAM
    if not is_tcp or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()  # not ours to close
        raise wrong
    return sock


class Notifier:
    """Tells the service manager how the daemon is doing."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_seconds = _watchdog_seconds(environment)
        self._timer: asyncio.TimerHandle | None = None

    def ready(self, status: str) -> None:
        """Hosts are served from now on; `status`, a line, says where. From here on the event loop has to show that it
        turns, if the manager asks for that."""
        self._send(f"READY=1\nSTATUS={status}")
        if self._address and self._watchdog_seconds:
            self._beat()

    def stopping(self) -> None:
        """The daemon ends."""
        self._send("STOPPING=1")
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self._send("WATCHDOG=1")
        self._timer = asyncio.get_running_loop().call_later(self._watchdog_seconds / 2, self._beat)

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A manager that cannot be told does not keep hosts from the drive.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as s:
            s.connect(self._address)
            s.send(message.encode())


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """How often a sign of life is expected; 0: never."""
    text = environment.get("WATCHDOG_USEC", "")
    meant = environment.get("WATCHDOG_PID", str(os.getpid()))
    return int(text) / 1e6 if text.isdecimal() and len(text) <= 18 and meant == str(os.getpid()) else 0.0
