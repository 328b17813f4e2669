"""A daemon with latency and limits, over a socket: what it says and does, whatever the time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocssd_tcp.host.sync import SyncDrive, connect

OPTIONS = [
    "--set=target.listen=['127.0.0.1:0']", "--set=drive.path=drive", "--set=namespace.num_chk=4",
    "--set=namespace.clba=64", "--set=namespace.mw_cunits=0",
    "--set=latency.flash=slc", "--set=latency.program_ns=1000", "--set=latency.erase_ns=200",
    "--set=latency.jitter=0.1",
    "--set=limits.0.iops=1000000", "--set=limits.1.nsid=1", "--set=limits.1.bytes_per_second=1GiB",
]  # fmt: skip


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncDrive]:
    folder: Path = tmp_path_factory.mktemp("time")
    process = subprocess.Popen([sys.executable, "-m", "ocssd_tcp", *OPTIONS], cwd=folder, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        found = re.search(rb"listening on [\d.]+:(\d+)", process.stdout.readline())
        assert found
        with connect(port=int(found[1])) as drive:
            yield drive
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_geometry_reports_the_times_of_the_model(drive: SyncDrive) -> None:
    page = drive.geometry
    assert (page.trdt, page.trdm) == (60_000, 72_000)
    assert (page.twrt, page.twrm) == (21_000, 21_300)
    assert (page.tcrst, page.tcrsm) == (200, 260)


def test_commands_end_and_move_what_they_should(drive: SyncDrive) -> None:
    data = bytes(range(256)) * (64 * drive.block_bytes // 256)
    start = drive.addresses.join(1, 2, 3)
    target = drive.addresses.join(0, 1, 0)
    for _ in range(2):
        drive.write(start, data)  # in pieces, through R2T
        assert drive.read(start, 64) == data
        drive.vector_copy([start + block for block in range(4)], [target + block for block in range(4)])
        assert drive.vector_read([target + 3, start + 5]) == data[3 * 4096 : 4 * 4096] + data[5 * 4096 : 6 * 4096]
        drive.reset([start, target])
        assert drive.chunk(start).wp == 0
    drive.flush()
