"""The load behind `ocssd bench`: chunks of its own, commands in flight without a task each, latencies in buckets.

A *slot* has one command outstanding and issues the next from the completion of the last; `qd` slots share a connection.
A slot that writes owns a *stream*: chunks that it alone fills in order, resets when they are full, and fills again, so
that every rule of the media holds by construction. Every block carries its LBA and a number that changes with each
reset of its chunk; all of its bytes can be compared.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from ocssd_tcp.cli.host_common import free_in_turn
from ocssd_tcp.host import ChunkState, Drive, ListForm, TransportError, UsageError
from ocssd_tcp.host.client import Connection
from ocssd_tcp.host.connection import Command, Completion, Piece, sqe
from ocssd_tcp.host.errors import BindingUnsupported
from ocssd_tcp.host.forms import choose, encode
from ocssd_tcp.ocssd.geometry import Mccap
from ocssd_tcp.wire.lba_list import pack_lbas
from ocssd_tcp.wire.opcodes import Io, command_name

MAX_BUFFERS = 1 << 30  #: bytes that all commands in flight may have
_FILLERS = 8  #: parallel units that are filled at a time
_MASK64 = (1 << 64) - 1
_STAMP_BYTES = 16  #: LBA and generation, each a little-endian word
#: Forms of random lists, the cheapest first: they are settled before the run, as looking for a progression takes time.
_FORMS = (ListForm.CAPSULE, ListForm.DATA, ListForm.SLOT, ListForm.PROGRESSION)


class Histogram:
    """Latencies in nanoseconds in logarithmic buckets: a fixed amount of memory, each value known to 1/128."""

    _BITS = 7  #: a power of two has 128 buckets
    _MOST = (1 << 40) - 1  #: longer ones (18 minutes) count as this

    def __init__(self) -> None:
        self.counts = [0] * self._bucket(self._MOST + 1)
        self.n = self.total = self.max = 0

    @classmethod
    def _bucket(cls, ns: int) -> int:
        shift = max(ns.bit_length() - cls._BITS - 1, 0)
        return (shift << cls._BITS) + (ns >> shift)

    def add(self, ns: int) -> None:
        """Count one."""
        self.counts[self._bucket(min(ns, self._MOST))] += 1
        self.n += 1
        self.total += ns
        self.max = max(self.max, ns)

    def merge(self, other: Histogram) -> None:
        """Count all of another."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.n += other.n
        self.total += other.total
        self.max = max(self.max, other.max)

    @property
    def mean(self) -> float:
        """0 if there is none."""
        return self.total / self.n if self.n else 0.0

    def quantile(self, share: float) -> int:
        """The upper edge of the bucket below which `share` (0 to 1) of all lie; never above the maximum."""
        wanted, seen = share * self.n, 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                shift = max((bucket >> self._BITS) - 1, 0)
                return min(((bucket - (shift << self._BITS) + 1) << shift) - 1, self.max)
        return self.max


@dataclass
class OpcodeStats:
    """What became of the commands of one opcode while it was measured; `errors` (by status) always count."""

    name: str
    latency: Histogram = field(default_factory=Histogram)
    n_bytes: int = 0
    errors: Counter[int] = field(default_factory=Counter)


@dataclass(frozen=True)
class Workload:
    """What to do. `read_share`: of the commands, 0 to 1. `n_blocks`: of each command. `vector`: by vector commands.
    `qd`: commands in flight per connection. `seconds`, `count`: where measuring ends, whichever comes first.
    `n_chunks`: to be read from.
    """

    read_share: float
    n_blocks: int
    vector: bool
    qd: int = 1
    connections: int = 1
    seconds: float | None = None
    count: int | None = None
    warm_up: float = 0.0
    verify: bool = False
    n_chunks: int = 8
    seed: int = 0


class Blocks:
    """A buffer of stamped blocks. All bytes after the stamp are the same in every block of one seed."""

    def __init__(self, n_blocks: int, block_bytes: int, seed: int) -> None:
        self.array = np.empty((n_blocks, block_bytes), np.uint8)
        self.array[:] = np.frombuffer(Random(seed).randbytes(block_bytes), np.uint8)
        self.view = self.array.data.cast("B")
        self._seed = seed
        self._stamps = self.array[:, :_STAMP_BYTES].view("<u8")
        self._block_bytes = block_bytes

    def stamp(self, lbas: Sequence[int], generation: int) -> memoryview:
        """The data of `lbas`, which shares the buffer's memory."""
        self._stamps[: len(lbas), 0] = lbas
        self._stamps[:, 1] = (self._seed + generation) & _MASK64
        return self.view[: len(lbas) * self._block_bytes]

    def differing(self, lbas: Sequence[int], generation: int, found: Piece) -> list[int]:
        """The LBAs whose data in `found` is not as it was stamped."""
        self.stamp(lbas, generation)
        expected = self.array[: len(lbas)]
        other = np.frombuffer(found, np.uint8).reshape(expected.shape)
        if np.array_equal(expected, other):
            return []
        return [lbas[int(i)] for i in np.flatnonzero((expected != other).any(axis=1))]


@dataclass
class Stream:
    """Chunks that one slot fills side by side: each write has `run` blocks for every one. `at`: blocks of each that the
    drive has acknowledged. `generation`: how often they were reset. `full`: those still to be reset.
    """

    slbas: Sequence[int]
    run: int
    at: int = 0
    generation: int = 0
    full: list[int] = field(default_factory=list)

    def next_lbas(self, clba: int) -> Sequence[int]:
        """What the next write goes to; less than `run` at the end of a chunk that `run` does not divide."""
        end = min(self.at + self.run, clba)
        if len(self.slbas) == 1:
            return range(self.slbas[0] + self.at, self.slbas[0] + end)
        return [slba + lblk for slba in self.slbas for lblk in range(self.at, end)]


class Slot:
    """One command in flight at a time."""

    def __init__(self, load: Load, queue: Connection, number: int, stream: Stream | None) -> None:
        work, size = load.work, load.drive.block_bytes
        self._load = load
        self._queue = queue
        self._staged_list = number  # a slot of the drive
        self._random = Random(work.seed + number)
        self._stream = stream
        self._data_in = memoryview(bytearray(work.n_blocks * size)) if work.read_share else None
        self._blocks = Blocks(work.n_blocks, size, work.seed)
        self._reading = False
        self._lbas: Sequence[int] = ()
        self._begun = 0

    def next(self) -> None:
        """Issue the next command, or end."""
        load, stream = self._load, self._stream
        if load.stopping:
            load.slot_ended()
            return
        self._reading = stream is None or self._random.random() < load.work.read_share
        if stream is None or self._reading:
            self._lbas = load.random_lbas(self._random)
            self._issue(load.read_opcode, data_in=self._data_in)
        elif stream.full:
            entry = stream.full[-1]
            self._submit(Io.VECTOR_RESET, Command(_entry(Io.VECTOR_RESET, load.drive.nsid, entry, 1)))
        else:
            self._lbas = stream.next_lbas(load.drive.geometry.clba)
            self._issue(load.write_opcode, data_out=self._blocks.stamp(self._lbas, stream.generation))

    def _issue(self, opcode: Io, data_out: memoryview | None = None, data_in: memoryview | None = None) -> None:
        load, lbas = self._load, self._lbas
        nsid = load.drive.nsid
        pieces: list[Piece] = [] if data_out is None else [data_out]
        if not load.work.vector:
            self._submit(opcode, Command(_entry(opcode, nsid, lbas[0], len(lbas)), pieces, data_in))
            return
        encoded = encode(load.form, opcode, lbas, slots=(self._staged_list, 0))
        if encoded.prefix:
            pieces.insert(0, encoded.prefix)
        if load.form is ListForm.SLOT:
            staging = Command(_entry(Io.STAGE_LBA_LIST, nsid, self._staged_list, len(lbas)), (pack_lbas(lbas),))
            self._begun = time.perf_counter_ns()
            self._queue.submit(staging).add_done_callback(self._list_staged)
        self._submit(opcode, Command(sqe(opcode, nsid, **encoded.cdws), pieces, data_in, capsule=encoded.capsule))

    def _submit(self, opcode: Io, command: Command) -> None:
        self._stats = self._load.stats[opcode]
        self._command = command
        self._begun = time.perf_counter_ns()
        self._queue.submit(command).add_done_callback(self._completed)

    def _list_staged(self, future: asyncio.Future[Completion]) -> None:
        # The command that uses the list was sent behind it: if this one failed, so does that.
        took = time.perf_counter_ns() - self._begun
        if future.exception() is None:
            self._load.count(self._load.stats[Io.STAGE_LBA_LIST], took, 0, future.result().status)

    def _completed(self, future: asyncio.Future[Completion]) -> None:
        took = time.perf_counter_ns() - self._begun
        load, command, stats = self._load, self._command, self._stats
        error = future.exception()
        if error is not None:
            load.fail(error)
            load.slot_ended()
            return
        completion = future.result()
        load.count(stats, took, command.data_bytes, completion.status)
        if completion.status:
            if not self._reading:
                load.slot_ended()  # what the stream's chunks hold now is not known
                return
        elif completion.moved != command.data_bytes:
            load.fail(TransportError(f"success reported after {completion.moved} of {command.data_bytes} bytes"))
        elif not self._reading:
            self._advance()
        elif load.work.verify and self._data_in is not None:
            load.note_wrong(self._blocks.differing(self._lbas, 0, self._data_in))
        self.next()

    def _advance(self) -> None:
        """The write or the reset in flight is done."""
        stream = self._stream
        if stream is None:
            return
        if stream.full:
            stream.full.pop()
            if not stream.full:
                stream.at = 0
                stream.generation += 1
            return
        stream.at += len(self._lbas) // len(stream.slbas)
        if stream.at >= self._load.drive.geometry.clba:
            stream.full = list(stream.slbas)


class Load:
    """One run: `prepare`, `measure`, `read_back` where asked for, and always `tidy_up`.

    UsageError before anything is written if the drive cannot take the workload. `phase` and `fraction` are for those
    who wait; the results are in `stats`, `elapsed` (s), `cpu` (s of this process), `wrong` and `first_wrong`.
    """

    def __init__(self, drive: Drive, work: Workload) -> None:
        self.drive = drive
        self.work = work
        self.read_opcode = Io.VECTOR_READ if work.vector else Io.READ
        self.write_opcode = Io.VECTOR_WRITE if work.vector else Io.WRITE
        opcodes = (self.read_opcode, self.write_opcode, Io.VECTOR_RESET, Io.STAGE_LBA_LIST)
        self.stats = {opcode: OpcodeStats(command_name(opcode, is_io=True)) for opcode in opcodes}
        self.form = ListForm.INLINE
        self.phase = ""
        self.stopping = False
        self.elapsed = self.cpu = 0.0
        self.wrong = 0
        self.first_wrong: int | None = None
        self._n_slots = work.qd * work.connections
        self._n_writers = self._n_slots if work.read_share < 1 else 0
        self._readable: list[int] = []
        self._streams: list[Stream] = []
        self._filled = 0
        self._measuring = False
        self._started = self._cpu_started = 0.0
        self._n_done = 0
        self._failure: BaseException | None = None
        self._active = 0
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._check()
        geometry = drive.geometry
        # Where the list has to be a progression, it is one run in one chunk.
        whole = not work.vector or self.form is ListForm.PROGRESSION
        self._read_run = work.n_blocks if whole else 1
        self._write_run = work.n_blocks if whole else geometry.ws_min
        self._step = max(1, drive.controller.max_transfer // drive.block_bytes // geometry.ws_min) * geometry.ws_min

    # --- what it may do -----------------------------------------------------------------------

    def _check(self) -> None:
        drive, work, geometry = self.drive, self.work, self.drive.geometry
        n_bytes = work.n_blocks * drive.block_bytes
        queues, entries = len(drive.controller.io_queues), (drive.controller.cap & 0xFFFF) + 1
        most = drive.controller.max_transfer
        if queues < work.connections:
            raise UsageError(f"-c {work.connections}: the drive grants {queues} I/O queues")
        if work.qd >= entries:
            raise UsageError(f"-q {work.qd}: a queue of this drive has {entries} entries, one of which stays free")
        if n_bytes > most or work.n_blocks > geometry.clba:
            raise UsageError(
                f"{work.n_blocks} blocks: a command moves {most} bytes, a chunk has {geometry.clba} blocks"
            )
        if geometry.ws_min * drive.block_bytes > most:
            raise UsageError(f"the drive reports a ws_min of {geometry.ws_min} blocks and commands of {most} bytes")
        if drive.block_bytes < _STAMP_BYTES:
            raise UsageError(f"blocks of {drive.block_bytes} bytes have no room for a stamp")
        if self._n_writers and work.n_blocks % geometry.ws_min:
            raise UsageError(f"{work.n_blocks} blocks: this drive takes writes of multiples of {geometry.ws_min}")
        if self._n_slots * n_bytes > MAX_BUFFERS:
            raise UsageError(f"{self._n_slots} commands of {n_bytes} bytes: {MAX_BUFFERS} bytes at most are in flight")
        if work.vector:
            if work.n_blocks > drive.max_lbas:
                raise UsageError(f"--vector {work.n_blocks}: a list has at most {drive.max_lbas} LBAs")
            self.form = self._list_form()
            if self.form is ListForm.SLOT and self._n_slots > geometry.n_slots:
                raise UsageError(f"{self._n_slots} lists in flight: the drive has {geometry.n_slots} slots for lists")

    def _list_form(self) -> ListForm:
        opcodes = [self.read_opcode] * (self.work.read_share > 0) + [self.write_opcode] * (self.work.read_share < 1)
        wanted, lbas = self.drive.form, range(self.work.n_blocks)
        if wanted is None and len(lbas) > 1:
            usable = [form for form in _FORMS if form in self.drive.forms]
            if self.read_opcode in opcodes and ListForm.DATA in usable:
                usable.remove(ListForm.DATA)
            if not usable:
                raise BindingUnsupported("the drive offers no form for the lists of this load; use a scalar mode")
            return usable[0]
        for opcode in opcodes:
            form = choose(opcode, lbas, (), self.drive.forms, wanted)
        return form

    async def _take_chunks(self) -> None:
        """Choose Free chunks, one of each parallel unit in turn."""
        drive, geometry = self.drive, self.drive.geometry
        table, free = await free_in_turn(drive)
        turn = free[table["cnlb"][free] == geometry.clba]
        width = max(1, self.work.n_blocks // self._write_run)
        n_written = self._n_writers * width
        n_needed = n_written + (self.work.read_share > 0)
        if len(turn) < n_needed:
            raise UsageError(
                f"{n_needed} Free chunks are needed and {len(turn)} are there: lower -q or -c, or reset some"
            )
        per_unit = np.unique(turn[:n_written] // geometry.num_chk, return_counts=True)[1].max(initial=0)
        for name, limit, wanted in (("maxoc", geometry.maxoc, n_written), ("maxocpu", geometry.maxocpu, per_unit)):
            if limit and wanted > limit:
                raise UsageError(f"{wanted} Open chunks are needed, the drive allows {limit} ({name}): lower -q or -c")
        slbas = [
            drive.addresses.lba(int(i)) for i in turn[: n_written + self.work.n_chunks * (self.work.read_share > 0)]
        ]
        self._streams = [Stream(slbas[at : at + width], self._write_run) for at in range(0, n_written, width)]
        if self.work.read_share:
            self._readable = slbas[n_written:]

    def random_lbas(self, random: Random) -> Sequence[int]:
        """What the next read asks for: one aligned run of blocks, or single blocks anywhere."""
        run, draw, chunks = self._read_run, random.random, self._readable
        per_chunk = self.drive.geometry.clba // run
        n_places = per_chunk * len(chunks)
        if run == self.work.n_blocks:
            chunk, place = divmod(int(draw() * n_places), per_chunk)
            start = chunks[chunk] + place * run
            return range(start, start + run)
        places = [int(draw() * n_places) for _ in range(self.work.n_blocks)]
        return [chunks[place // per_chunk] + place % per_chunk for place in places]

    # --- before and after ---------------------------------------------------------------------

    def fraction(self) -> float:
        """How much of the present phase is done, 0 to 1."""
        if not self._measuring:
            return self._filled / max(1, len(self._readable) * self.drive.geometry.clba)
        by_time = (time.perf_counter() - self._started) / self.work.seconds if self.work.seconds else 0.0
        return max(by_time, self._n_done / self.work.count if self.work.count else 0.0)

    async def prepare(self) -> None:
        """Choose the chunks, and fill those that are to be read from."""
        self.phase = "preparing"
        await self._take_chunks()
        geometry = self.drive.geometry
        units: dict[tuple[int, ...], list[int]] = {}
        for slba in self._readable:
            units.setdefault(self.drive.addresses.split(slba)[:2], []).append(slba)
        waiting = iter(units.values())  # one chunk of a unit at a time: no drive allows fewer to be Open

        async def fill() -> None:
            for slbas in waiting:
                for slba in slbas:
                    await self._fill(slba, 0)

        await self._together(fill() for _ in range(min(_FILLERS, geometry.maxoc or _FILLERS)))

    async def _fill(self, slba: int, wp: int) -> None:
        clba = self.drive.geometry.clba
        blocks = Blocks(min(self._step, clba), self.drive.block_bytes, self.work.seed)
        for at in range(wp, clba, self._step):
            if self.stopping:
                return
            lbas = range(slba + at, slba + min(at + self._step, clba))
            await self.drive.write(lbas[0], blocks.stamp(lbas, 0))
            self._filled += len(lbas)

    async def _together(self, calls: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Run calls. Cancelled, it ends when their present commands have ended, so that no write comes late."""
        tasks = [asyncio.create_task(call) for call in calls]
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            self.stopping = True
            await asyncio.wait(tasks)
            raise
        for task in tasks:
            task.result()

    async def read_back(self) -> None:
        """Compare what the streams hold now, as far as it can be read."""
        self.phase = "reading back"
        geometry, size = self.drive.geometry, self.drive.block_bytes
        blocks = Blocks(min(self._step, geometry.clba), size, self.work.seed)
        for stream in self._streams:
            end = stream.at if stream.at == geometry.clba else max(0, stream.at - geometry.mw_cunits)
            whole = stream.full or stream.slbas  # some may have been reset already
            for slba in whole:
                for at in range(0, end, self._step):
                    lbas = range(slba + at, slba + min(at + self._step, end))
                    found = await self.drive.read(lbas[0], len(lbas))
                    self.note_wrong(blocks.differing(lbas, stream.generation, found))

    async def tidy_up(self) -> None:
        """Make every chunk that was written Free again. Open ones that the drive keeps are filled first."""
        self.phase, self.stopping = "tidying up", False
        for slba in [*self._readable, *(slba for stream in self._streams for slba in stream.slbas)]:
            chunk = await self.drive.chunk(slba)
            if chunk.cs == ChunkState.OPEN and Mccap.EARLY_RESET not in self.drive.geometry.mccap:
                await self._fill(slba, chunk.wp)
            if chunk.cs in (ChunkState.OPEN, ChunkState.CLOSED):
                await self.drive.reset(slba, form=ListForm.INLINE)

    # --- the run ------------------------------------------------------------------------------

    async def measure(self) -> None:
        """Warm up, measure, and wait for what is in flight. TransportError if a connection is lost."""
        self.phase = "warming up"
        queues, work = self.drive.controller.io_queues, self.work
        self._active = self._n_slots
        slots = [
            Slot(self, queues[i % work.connections], i, self._streams[i] if self._streams else None)
            for i in range(self._n_slots)
        ]
        # Without this the collector looks through all that was ever imported, in the middle of a run.
        gc.collect()
        gc.freeze()
        try:
            for slot in slots:
                slot.next()
            await asyncio.wait([self._over], timeout=work.warm_up)
            self.phase, self._measuring = "measuring", True
            self._started, self._cpu_started = time.perf_counter(), time.process_time()
            await asyncio.wait([self._over], timeout=work.seconds)
            self._end_of_measuring()
        finally:
            self.stopping = True
            await self._idle
            gc.unfreeze()
        if self._failure is not None:
            raise self._failure

    def _end_of_measuring(self) -> None:
        if self._measuring:
            self.elapsed = time.perf_counter() - self._started
            self.cpu = time.process_time() - self._cpu_started
            self._measuring = False
        if not self._over.done():
            self._over.set_result(None)

    def count(self, stats: OpcodeStats, took_ns: int, n_bytes: int, status: int) -> None:
        """A command has completed."""
        if status:
            stats.errors[status] += 1
        elif self._measuring:
            stats.latency.add(took_ns)
            stats.n_bytes += n_bytes
        if self._measuring and n_bytes:
            self._n_done += 1
            if self._n_done == self.work.count:
                self._end_of_measuring()

    def note_wrong(self, lbas: Sequence[int]) -> None:
        """Blocks whose data is not what was written."""
        if lbas:
            self.wrong += len(lbas)
            self.first_wrong = lbas[0] if self.first_wrong is None else self.first_wrong

    def fail(self, error: BaseException) -> None:
        """The run cannot go on."""
        self.stopping = True
        self._failure = self._failure or error
        self._end_of_measuring()

    def slot_ended(self) -> None:
        """One slot issues no more."""
        self._active -= 1
        if not self._active:
            self._end_of_measuring()
            self._idle.set_result(None)


def _entry(opcode: Io, nsid: int, lba: int, n_blocks: int) -> bytes:
    """An SQE with one LBA (or the slot of a list) and a count of blocks."""
    return sqe(opcode, nsid, cdw10=lba & 0xFFFFFFFF, cdw11=lba >> 32, cdw12=n_blocks - 1)
