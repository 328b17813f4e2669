"""What a host on this machine does: `ocssd`, and daemons without a container."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Different TCP ports of 127.0.0.1 that nobody listens on."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    return free_ports(1)[0]


def wait_for(port: int, log: Callable[[], str], seconds: float = 120) -> None:
    """Until somebody listens there. TimeoutError, with the log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(log())


def ocssd(*arguments: str) -> str:
    """What a command of `ocssd` prints."""
    program = Path(sys.executable).with_name("ocssd")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Daemon:
    """`ocssd-tcpd` as a process, with a folder of its own."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        environment: Mapping[str, str] | None = None,
        under: Sequence[str] = (),
    ) -> None:
        """`options`: of `--set`. `environment`: further variables. `under`: a command that starts it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        changes = [word for option in options for word in ("--set", option)]
        command = [*under, sys.executable, "-m", "ocssd_tcp", *changes]
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **(environment or {})}, stdout=log, stderr=log
            )

    def log(self) -> str:
        """What it printed."""
        return self._log.read_text()

    def cpu_seconds(self) -> float:
        """Time that it has spent on CPUs (proc(5), utime and stime)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
