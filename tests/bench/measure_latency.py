"""How exactly held completions come: `python -m tests.bench.measure_latency` prints the table of docs/latency.md.

First the timers by themselves; then a daemon in a process of its own and a host in this one, over loopback. What host,
network and target need without a model is measured with all four times at zero and taken off. The host's loop never
sleeps, so that its waking up is no part of the figures.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import uvloop

from ocssd_tcp.host import Drive, Options, open_drive
from ocssd_tcp.transport.clock import LoopTimers

BUS_NS = 52_433
SECONDS = 3.0
TIMES_US = (77.5, 1000.0, 2200.0)
GEOMETRY = {"num_grp": 2, "num_pu": 4, "num_chk": 16, "clba": 1024}


@contextmanager
def daemon(read_ns: int, transfer_ns: int) -> Iterator[int]:
    """A drive whose reads take this long; its port."""
    keys = {f"namespace.{key}": value for key, value in GEOMETRY.items()}
    keys |= {"latency.read_ns": read_ns, "latency.transfer_ns": transfer_ns}
    keys |= {"latency.program_ns": 0, "latency.erase_ns": 0}
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--set={key}={value}" for key, value in keys.items()]
        options += ["--set=target.listen=['127.0.0.1:0']", f"--set=drive.path={folder}/drive"]
        process = subprocess.Popen(
            [sys.executable, "-m", "ocssd_tcp", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            found = re.search(rb"listening on [\d.]+:(\d+)", process.stdout.readline()) if process.stdout else None
            if found is None:
                raise RuntimeError("the daemon did not start")
            yield int(found[1])
        finally:
            process.terminate()
            process.communicate()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Drive]:
    """The drive, through one queue."""
    drive = await open_drive(port=port, options=Options(queues=1))
    try:
        yield drive
    finally:
        await drive.controller.close()


async def fill(drive: Drive) -> list[int]:
    """Write one chunk of every parallel unit; their first addresses, spread over the groups."""
    geometry, addresses = drive.geometry, drive.addresses
    starts = [addresses.join(grp, pu, 0) for pu in range(geometry.num_pu) for grp in range(geometry.num_grp)]
    for start in starts:
        if (await drive.chunk(start)).wp == 0:
            await drive.write(start, bytes(geometry.clba * drive.block_bytes))
    return starts


def go_round(loop: asyncio.AbstractEventLoop) -> None:
    """Keep the event loop from sleeping until its end."""
    loop.call_soon(go_round, loop)


async def lateness(seconds: float) -> list[float]:
    """How many seconds late each of many timers of `seconds` is, one after the other."""
    loop = asyncio.get_running_loop()
    timers = LoopTimers(loop)
    late: list[float] = []
    until = timers.now() + SECONDS
    while (when := timers.now() + seconds) < until:
        passed = asyncio.Event()

        def note(when: float = when, passed: asyncio.Event = passed) -> None:
            late.append(timers.now() - when)
            passed.set()

        timers.call_at(when, note)
        await passed.wait()
    timers.close()
    return late


async def one_at_a_time(drive: Drive, start: int) -> list[float]:
    """Seconds of each of many reads, one outstanding."""
    spent: list[float] = []
    until = time.perf_counter() + SECONDS
    while (begun := time.perf_counter()) < until:
        await drive.read(start + len(spent) % 1000)
        spent.append(time.perf_counter() - begun)
    return spent


async def deep(drive: Drive, starts: Sequence[int], depth: int) -> tuple[float, list[float]]:
    """Reads per second with `depth` outstanding, over `starts` in turn; and the seconds of each read."""
    spent: list[float] = []
    until = time.perf_counter() + SECONDS

    async def reader(number: int) -> None:
        start = starts[number % len(starts)]
        while (begun := time.perf_counter()) < until:
            await drive.read(start + number)
            spent.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*map(reader, range(depth)))
    return len(spent) / (time.perf_counter() - begun), spent


def microseconds(spent: Sequence[float]) -> float:
    """The median."""
    return statistics.median(spent) * 1e6


def spread(errors: Sequence[float]) -> str:
    """Errors in microseconds, in words."""
    return f"median error {statistics.median(errors):+.1f} us, 90 % below {statistics.quantiles(errors, n=10)[8]:+.1f}"


async def measure() -> None:
    """All of it."""
    for time_us in TIMES_US:
        late = [second * 1e6 for second in await lateness(time_us / 1e6)]
        print(f"{time_us} us, timers alone: {spread(late)}")
    go_round(asyncio.get_running_loop())
    with daemon(0, 0) as port:
        async with connected(port) as drive:
            starts = await fill(drive)
            base = microseconds(await one_at_a_time(drive, starts[0]))
    print(f"no time at all: median {base:.1f} us at QD1")
    for read_us in TIMES_US:
        with daemon(round(read_us * 1000), 0) as port:
            async with connected(port) as drive:
                starts = await fill(drive)
                spent = [second * 1e6 - base - read_us for second in await one_at_a_time(drive, starts[0])]
        print(f"{read_us} us, QD1: {spread(spent)}")
    for read_us, name, n_units in ((77.5, "one unit", 1), (1000.0, "one unit", 1), (1000.0, "all units", 8)):
        period = read_us + BUS_NS / 1000
        with daemon(round(read_us * 1000), BUS_NS) as port:
            async with connected(port) as drive:
                starts = await fill(drive)
                rate, spent = await deep(drive, starts[:n_units], 32)
        print(
            f"{read_us} us, QD32, {name}: {rate:.0f} reads/s, model {n_units / period * 1e6:.0f}; "
            f"median {microseconds(spent):.0f} us, model {32 / n_units * period:.0f}"
        )


if __name__ == "__main__":
    uvloop.run(measure())
