"""The drive as a host sees it: a daemon over loopback under the load of `ocssd bench`, part of `make bench`.

A row is one run of the load tool. Nothing is asserted about time, only that no command failed and no block was wrong.
BENCH_JSON gets these figures beside those of the stages. BENCH_SECONDS is how long a row is measured, BENCH_SET holds
further options of the daemon, as BENCH_SET="target.poll_us=50".
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ocssd_tcp import __version__
from ocssd_tcp.accel import engine_name
from ocssd_tcp.cli.host import main

SECONDS = os.environ.get("BENCH_SECONDS", "2")
SETTINGS = os.environ.get("BENCH_SET", "").split()
#: No wear, as a run resets a chunk often; nothing around the media.
DRIVE = {"num_grp": 2, "num_pu": 4, "num_chk": 32, "clba": 1024, "mw_cunits": 0, "pe_cycles": 0}
ROWS = {
    "4 KiB reads, QD 1": "--mode randread -q 1",
    "4 KiB reads, QD 4": "--mode randread -q 4",
    "4 KiB reads, QD 32": "--mode randread -q 32",
    "4 KiB reads, QD 32, both digests": "--mode randread -q 32 -g -G",
    "4 KiB reads, 4 connections x QD 8": "--mode randread -q 8 -c 4",
    "128 KiB reads, QD 8": "--mode randread -s 128KiB -q 8",
    "16 KiB writes, QD 1": "--mode seqwrite -s 16KiB -q 1",
    "16 KiB writes, QD 8": "--mode seqwrite -s 16KiB -q 8",
    "128 KiB writes, QD 8": "--mode seqwrite -s 128KiB -q 8",
    "vector reads, 16 x 4 KiB, QD 8": "--mode vecread --vector 16 -q 8",
    "vector writes, 16 x 4 KiB, QD 8": "--mode vecwrite --vector 16 -q 8",
    "16 KiB, 70 % reads, QD 16": "--mode mix --mix 70 -s 16KiB -q 16",
}
COLUMNS = ("IOPS", "MB/s", "mean us", "p50", "p90", "p99", "p99.9", "tool")


@pytest.fixture(scope="session")
def figures() -> Iterator[dict[str, Any]]:
    """Of all rows; kept at the very end, when the other benchmarks have written theirs."""
    found: dict[str, Any] = {}
    yield found
    path = Path(os.environ.get("BENCH_JSON") or os.devnull)
    machine = {"version": __version__, "engine": engine_name(), "python": platform.python_version(), "set": SETTINGS}
    stages = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(stages | machine | {"end_to_end": found}, indent=1))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A daemon whose files lie in memory where that is possible."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        options = [f"--set=namespace.{key}={value}" for key, value in DRIVE.items()]
        options += ["--set=target.listen=['127.0.0.1:0']", f"--set=drive.path={folder}/drive"]
        options += [f"--set={setting}" for setting in SETTINGS]
        process = subprocess.Popen(
            [sys.executable, "-m", "ocssd_tcp", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            found = re.search(rb"listening on [\d.]+:(\d+)", process.stdout.readline()) if process.stdout else None
            assert found is not None, "the daemon did not start"
            print("\n\n" + ", ".join([f"engine {engine_name()}", f"{SECONDS} s per row", *SETTINGS]))
            print(f"  {'':36}" + "".join(f"{column:>9}" for column in COLUMNS))
            yield int(found[1])
        finally:
            process.terminate()
            process.communicate()


@pytest.mark.parametrize("name", ROWS)
def test_load(port: int, name: str, figures: dict[str, Any]) -> None:
    line = f"bench -a 127.0.0.1:{port} -t {SECONDS} --json {ROWS[name]}"
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["errors"], found["wrong_blocks"]) == (0, 0)
    row = found["opcodes"].get("both") or next(iter(found["opcodes"].values()))
    latency = row["latency_us"]
    cells = [f"{row['iops']:.0f}", f"{row['mb_per_s']:.0f}"]
    cells += [f"{latency[key]:.0f}" for key in ("mean", "p50", "p90", "p99", "p99.9")]
    print(f"  {name:36}" + "".join(f"{cell:>9}" for cell in [*cells, f"{found['tool_cpu']:.0%}"]))
    figures[name] = found
