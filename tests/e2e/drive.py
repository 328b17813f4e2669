"""The daemon under test, as a process on this machine."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.e2e.guest import GATEWAY

NQN = "nqn.2014-08.org.example:e2e-drive"
SERIAL = "OCE2E00001"
BLOCK = 4096
ESTABLISHED = "01"

NAMESPACE = {
    "num_grp": 2,
    "num_pu": 2,
    "num_chk": 96,
    "clba": 64,
    "block_bytes": BLOCK,
    "ws_min": 4,
    "ws_opt": 8,
    "mw_cunits": 16,
}
"""Small chunks, for an emulated guest manages some hundred commands a second; 96 chunks leave holes behind each PU."""

SINGLE_BLOCK_NAMESPACE = {**NAMESPACE, "num_pu": 1, "num_chk": 16, "ws_min": 1, "ws_opt": 1, "mw_cunits": 0}
"""Where one block can be written, as list form 0 needs, and read at once."""


NO_KEYS: Mapping[str, Any] = MappingProxyType({})


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
    """The daemon on a loopback port that stays the same over restarts, with its configuration and data in `folder`.

    `single`: keys of namespace 2 that are not as SINGLE_BLOCK_NAMESPACE has them. `faults`: the [[fault]] tables.
    `discovery`: the [discovery] table. The environment, and with it the choice of the engine, is that of the tests.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nqn: str = NQN,
        serial: str = SERIAL,
        single: Mapping[str, Any] = NO_KEYS,
        faults: Sequence[Mapping[str, Any]] = (),
        discovery: Mapping[str, Any] = NO_KEYS,
    ) -> None:
        self.nqn = nqn
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.log = folder / "daemon.log"
        self._config = folder / "drive.toml"
        tables: list[tuple[str, Mapping[str, Any]]] = [
            ("[target]", {"listen": [f"127.0.0.1:{self.port}"], "advertise": [f"{GATEWAY}:{self.port}"], "nqn": nqn}),
            ("[drive]", {"path": "drive", "serial": serial}),
            ("[discovery]", discovery),
            ("[[namespace]]", NAMESPACE),
            ("[[namespace]]", {**SINGLE_BLOCK_NAMESPACE, **single}),
            *(("[[fault]]", fault) for fault in faults),
        ]
        # For texts, numbers, truths and lists of them, JSON is TOML.
        lines = [[head, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())] for head, keys in tables]
        self._process: subprocess.Popen[bytes] | None = None
        self._config.write_text("\n".join(line for table in lines for line in table) + "\n")

    def start(self) -> None:
        """Start the daemon, unless it runs, and wait until it listens."""
        if self._process is not None and self._process.poll() is None:
            return
        with open(self.log, "ab") as log:
            argv = [sys.executable, "-m", "ocssd_tcp", "--config", str(self._config)]
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._listens, 30, "the daemon listens")

    def _listens(self) -> bool:
        status = self._running.poll()
        if status is not None:
            raise RuntimeError(f"the daemon ended with {status}:\n{self.log.read_text()[-2000:]}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the daemon was not started"
        return self._process

    def kill(self) -> None:
        """kill -9."""
        self._running.kill()
        self._running.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status. It may take ten times the second that the daemon promises."""
        self._running.terminate()
        try:
            return self._running.wait(10)
        finally:
            self._running.kill()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The daemon stands still (SIGSTOP): its connections stay, and nothing is answered."""
        self._running.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._running.send_signal(signal.SIGCONT)

    def engine(self) -> str:
        """What `--version` calls the engine that the process has in its memory."""
        return "compiled" if "/_twin." in Path(f"/proc/{self._running.pid}/maps").read_text() else "python"

    def connections(self) -> int:
        """TCP connections that the daemon's side holds open, as the machine's kernel counts them."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(row[1].endswith(f":{self.port:04X}") and row[3] == ESTABLISHED for row in rows)
