"""A namespace under test beside its model: each command goes to both, and both must say the same.

`Wire` sends raw commands of one host, legal or not. `Lab` knows commands, list forms and chunk states, compares
outcomes, and can compare whole chunks (descriptor and contents) afterwards.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest

import ocssd_tcp.host
from ocssd_tcp.host.client import Connection
from ocssd_tcp.host.connection import Command, Completion, sqe
from tests.conformance import lists
from tests.conformance.rules import CLOSED, FREE, OFFLINE, OPEN, Chunk, Model, Outcome
from tests.conformance.target import Address

FLUSH, SCALAR_WRITE, SCALAR_READ, DSM = 0x00, 0x01, 0x02, 0x09
GET_LOG, IDENTIFY, SET_FEATURES, GEOMETRY = 0x02, 0x06, 0x09, 0xE2
SLOW_BLOCKS = 64  #: a chunk of more blocks is compared in parts


class Wire:
    """One host: its association, with or without SQ flow control and digests; DULBE as it says."""

    def __init__(self, address: Address, *, dulbe: bool, flow_control: bool) -> None:
        self.dulbe = dulbe
        self.drive = ocssd_tcp.host.connect(
            address.host,
            address.port,
            address.nqn,
            disable_sqflow=not flow_control,
            header_digest=dulbe,
            data_digest=dulbe != flow_control,
        )
        controller = self.drive.drive.controller
        for nsid in self.drive.run(controller.active_nsids()):
            self.drive.run(controller.set_feature(5, int(dulbe) << 16, nsid=nsid))
        self.max_transfer = controller.max_transfer
        self._admin, self._io = controller.admin_queue, controller.io_queues[0]

    def io(
        self,
        opcode: int,
        nsid: int,
        cdws: dict[str, int],
        *,
        data: bytes = b"",
        room: int = 0,
        beside: bytes = b"",
        r2t: bool = False,
    ) -> Outcome:
        """One I/O command. `room`: bytes of buffer for its data; `r2t`: its data go in no capsule, however short."""
        return self._run(self._io, opcode, nsid, cdws, data=data, room=room, beside=beside, r2t=r2t)

    def admin(self, opcode: int, nsid: int, cdws: dict[str, int], *, room: int = 0) -> Outcome:
        """One admin command."""
        return self._run(self._admin, opcode, nsid, cdws, room=room, control=True)

    def all_at_once(self, calls: Sequence[tuple[int, int, dict[str, int], bytes]], *, r2t: bool) -> list[Outcome]:
        """Several I/O commands without data for the host, (opcode, nsid, dwords, data), sent before any is answered."""
        commands = [Command(sqe(opcode, nsid, **cdws), (data,) if data else ()) for opcode, nsid, cdws, data in calls]
        completions = self.drive.run(_submit(self._io, commands, r2t=r2t))
        return [Outcome(done.status, done.dw0 | done.dw1 << 32) for done in completions]

    def _run(
        self,
        queue: Connection,
        opcode: int,
        nsid: int,
        cdws: dict[str, int],
        *,
        data: bytes = b"",
        room: int = 0,
        beside: bytes = b"",
        r2t: bool = False,
        control: bool = False,
    ) -> Outcome:
        buffer = bytearray(room)
        command = Command(
            sqe(opcode, nsid, **cdws),
            (data,) if data else (),
            memoryview(buffer) if room else None,
            capsule=beside,
            control=control,
        )
        (done,) = self.drive.run(_submit(queue, [command], r2t=r2t and not beside))
        moved = done.moved if room else 0
        return Outcome(done.status, done.dw0 | done.dw1 << 32, bytes(buffer[:moved]))

    def log(self, nsid: int, offset: int, n_bytes: int, lid: int = 0xCA) -> Outcome:
        """Get Log Page of whole dwords from any byte offset."""
        numd = n_bytes // 4 - 1
        cdws = {
            "cdw10": lid | (numd & 0xFFFF) << 16, "cdw11": numd >> 16,
            "cdw12": offset & 0xFFFF_FFFF, "cdw13": offset >> 32,
        }  # fmt: skip
        return self.admin(GET_LOG, nsid, cdws, room=n_bytes)

    def close(self) -> None:
        self.drive.close()


async def _submit(queue: Connection, commands: Sequence[Command], *, r2t: bool) -> list[Completion]:
    protocol = queue.protocol
    limit = protocol.max_in_capsule
    protocol.max_in_capsule = 0 if r2t else limit
    try:
        futures = [queue.submit(command) for command in commands]
    finally:
        protocol.max_in_capsule = limit
    return [await future for future in futures]


@dataclass(frozen=True)
class Way:
    """How commands travel: which host sends them, and whether short data wait for an R2T."""

    wire: Wire
    r2t: bool


class Lab:
    """One namespace and its model. `home`: a host without DULBE, for preparations and comparisons."""

    def __init__(self, nsid: int, model: Model, home: Way) -> None:
        self.nsid, self.model, self.home = nsid, model, home
        self.shape = model.shape
        self._serial = 0
        self.known: set[int] = set()  # chunks whose contents the model knows
        plain = [chunk for chunk in model.chunks if not chunk.is_random and chunk.cnlb == model.shape.clba]
        #: least recently taken first; to begin with, those that follow each other are of different parallel units
        self._turn = sorted(plain, key=lambda chunk: chunk.slba % (1 << model.shape.chk_len + model.shape.lbk_len))

    # --- commands on drive and model ------------------------------------------------------------

    def data(self, n_blocks: int) -> bytes:
        """Blocks unlike any others."""
        words = self.shape.stride // 8
        blocks = []
        for _ in range(n_blocks):
            self._serial += 1
            blocks.append(struct.pack("<Q", self._serial << 20 | self.nsid) * words)
        return b"".join(blocks)

    def write(self, slba: int, n_blocks: int, way: Way | None = None) -> Outcome:
        way, data = way or self.home, self.data(n_blocks)
        outcome = way.wire.io(SCALAR_WRITE, self.nsid, scalar(slba, n_blocks), data=data, r2t=way.r2t)
        return self._same(outcome, self.model.scalar_write(slba, n_blocks, data))

    def read(self, slba: int, n_blocks: int, way: Way | None = None) -> Outcome:
        way = way or self.home
        room = n_blocks * self.shape.stride
        outcome = way.wire.io(SCALAR_READ, self.nsid, scalar(slba, n_blocks), room=room)
        wanted = self.model.read(range(slba, slba + n_blocks), dulbe=way.wire.dulbe)
        return self._same(outcome, Outcome(wanted.status, 0, wanted.data))

    def vector_write(self, form: int, lbas: Sequence[int], way: Way) -> Outcome:
        data = self.data(len(lbas))
        return self._same(self._vector(lists.WRITE, form, lbas, way, data=data), self.model.write(lbas, data))

    def vector_read(self, form: int, lbas: Sequence[int], way: Way) -> Outcome:
        room = len(lbas) * self.shape.stride
        outcome = self._vector(lists.READ, form, lbas, way, room=room)
        return self._same(outcome, self.model.read(lbas, dulbe=way.wire.dulbe))

    def vector_copy(self, form: int, sources: Sequence[int], destinations: Sequence[int], way: Way) -> Outcome:
        outcome = self._vector(lists.COPY, form, sources, way, destinations)
        return self._same(outcome, self.model.copy(sources, destinations, dulbe=way.wire.dulbe))

    def vector_reset(self, form: int, lbas: Sequence[int], way: Way, *, descriptors: bool) -> Outcome:
        outcome = self._vector(lists.RESET, form, lbas, way, room=len(lbas) * 32 if descriptors else 0)
        self.known.update(lbas)
        wanted = self.model.vector_reset(lbas, descriptors=descriptors)
        self._same(self._without_wear(outcome), self._without_wear(wanted))
        return outcome

    def dsm_reset(self, ranges: Sequence[tuple[int, int]], way: Way, *, extra: int = 0) -> Outcome:
        """`extra`: bytes of buffer past the ranges."""
        outcome = way.wire.io(
            DSM, self.nsid, {"cdw10": len(ranges) - 1, "cdw11": 4}, data=dsm_ranges(ranges) + bytes(extra), r2t=way.r2t
        )
        return self._same(outcome, self.model.dsm_reset(ranges))

    def _vector(
        self,
        opcode: int,
        form: int,
        lbas: Sequence[int],
        way: Way,
        destinations: Sequence[int] = (),
        *,
        data: bytes = b"",
        room: int = 0,
    ) -> Outcome:
        carried = lists.carry(form, opcode, lbas, destinations)
        assert carried is not None, "the form cannot carry the list: ask `can` first"
        for slot, entries in carried.staged:
            staged = self.stage(slot, entries, way)
            assert staged == Outcome(0)
        data = carried.head + data
        return way.wire.io(opcode, self.nsid, carried.cdws, data=data, room=room, beside=carried.beside, r2t=way.r2t)

    def stage(self, slot: int, lbas: Sequence[int], way: Way) -> Outcome:
        cdws = {"cdw10": slot, "cdw12": len(lbas) - 1}
        return way.wire.io(lists.STAGE, self.nsid, cdws, data=lists.pack(lbas), r2t=way.r2t)

    # --- chunks in a given state -------------------------------------------------------------------

    def take(self, state: int = FREE, *, fill: int | None = None, pu: int | None = None) -> Chunk:
        """A sequential chunk of clba blocks in `state`; Open with `fill` blocks (half of it). In `pu` if that matters.

        Chunks are taken in turn, so that calls that follow each other give different ones.
        """
        plain = [chunk for chunk in self._turn if chunk.state != OFFLINE and (pu is None or chunk.pu == pu)]
        chunk = plain[0]
        if state == CLOSED:  # to fill one takes longest: perhaps one is that was not taken lately
            idle = plain[: len(plain) // 2]
            chunk = next((idler for idler in idle if idler.state == CLOSED and idler.slba in self.known), chunk)
        self._turn.remove(chunk)
        self._turn.append(chunk)
        return self.bring(chunk, state, fill)

    def bring(self, chunk: Chunk, state: int, fill: int | None = None) -> Chunk:
        """A chunk in `state`, whatever it was."""
        if state == chunk.state == CLOSED and chunk.slba in self.known:
            return chunk
        if chunk.state != FREE or chunk.slba not in self.known:
            if chunk.state == OPEN and not self.shape.early_reset:
                self._write_to(chunk, chunk.cnlb)
            if chunk.state != FREE:
                assert self.vector_reset(lists.INLINE, [chunk.slba], self.home, descriptors=False) == Outcome(0)
            self.known.add(chunk.slba)
        unit = self.shape.ws_min
        half = max(unit, chunk.cnlb // 2 // unit * unit)
        end = {FREE: 0, OPEN: half if fill is None else fill, CLOSED: chunk.cnlb}[state]
        self._write_to(chunk, end)
        return chunk

    def _write_to(self, chunk: Chunk, end: int) -> None:
        unit = self.shape.ws_min
        at = len(chunk.blocks) if chunk.is_random else chunk.wp
        step = max(1, self.home.wire.max_transfer // self.shape.stride // unit) * unit
        while at < end:
            n_blocks = min(step, end - at)
            assert self.write(chunk.slba + at, n_blocks) == Outcome(0)
            at += n_blocks

    def special(self, *, is_random: bool = False, is_short: bool = False, is_offline: bool = False) -> Chunk:
        """A chunk that no host can make: random-write, shorter than clba, or Offline. Skips if the drive has none."""
        for chunk in self.model.chunks:
            kind = (chunk.is_random, chunk.cnlb < self.shape.clba, chunk.state == OFFLINE)
            if kind == (is_random, is_short, is_offline):
                return chunk
        pytest.skip("the drive has no such chunk")

    def hole(self, *, grp: int = 0, pu: int = 0, chk: int = 0) -> int:
        """The LBA of these fields, which must name no chunk. Skips if the drive has a chunk there, or no such field."""
        shape = self.shape
        lba = shape.lba(grp, pu, chk)
        if pu >> shape.pu_len or chk >> shape.chk_len or self.model.find(lba)[0] is not None:
            pytest.skip("the address space has no such hole")
        return lba

    # --- comparisons ----------------------------------------------------------------------------------

    def compare(self, chunks: Iterable[Chunk]) -> None:
        """The drive's chunks are what the model's are: descriptors, and contents as a host without DULBE reads them."""
        for chunk in chunks:
            index = self.model.chunks.index(chunk)
            outcome = self.home.wire.log(self.nsid, index * 32, 32)
            wanted = self._without_wear(Outcome(0, 0, self.model.descriptor(chunk)))
            self._same(self._without_wear(outcome), wanted, f"the descriptor of chunk {index}")
            if chunk.slba in self.known:
                for first, n_blocks in self._parts(chunk):
                    self.read(chunk.slba + first, n_blocks)

    def _parts(self, chunk: Chunk) -> list[tuple[int, int]]:
        if chunk.cnlb <= SLOW_BLOCKS:
            return [(0, chunk.cnlb)]
        around = min(max(0, chunk.wp - self.shape.mw_cunits - SLOW_BLOCKS // 2), chunk.cnlb - SLOW_BLOCKS)
        return [(0, SLOW_BLOCKS), (around, SLOW_BLOCKS)]

    def compare_log(self) -> None:
        """The whole chunk log is the model's."""
        size = len(self.model.chunks) * 32
        wanted = b"".join(map(self.model.descriptor, self.model.chunks))
        outcome = self.home.wire.log(self.nsid, 0, size)
        self._same(self._without_wear(outcome), self._without_wear(Outcome(0, 0, wanted)), "the chunk log")

    def _same(self, outcome: Outcome, wanted: Outcome, what: str = "the data") -> Outcome:
        if outcome != wanted:
            self._start_over()
        assert outcome[:2] == wanted[:2], f"got {_text(outcome)}, the rules say {_text(wanted)}"
        assert outcome.data == wanted.data, f"{what}: other bytes than the rules say"
        return outcome

    def _start_over(self) -> None:
        """Drive and model disagree: one test shows it, and the others go on from what the drive says."""
        n_bytes, step = len(self.model.chunks) * 32, self.home.wire.max_transfer
        log = b"".join(
            self.home.wire.log(self.nsid, at, min(step, n_bytes - at)).data for at in range(0, n_bytes, step)
        )
        for chunk, reported in zip(self.model.chunks, Model(self.shape, log).chunks, strict=True):
            reported.resets = chunk.resets
            vars(chunk).update(vars(reported))
        self.known.clear()

    def _without_wear(self, outcome: Outcome) -> Outcome:
        """An outcome with descriptors, their wear indexes 0 where the rules do not say how a chunk wears."""
        if self.shape.pe_cycles is not None:
            return outcome
        data = bytearray(outcome.data)
        data[2::32] = bytes(len(data[2::32]))
        return outcome._replace(data=bytes(data))


def scalar(slba: int, n_blocks: int) -> dict[str, int]:
    return {"cdw10": slba & 0xFFFF_FFFF, "cdw11": slba >> 32, "cdw12": n_blocks - 1}


def dsm_ranges(ranges: Sequence[tuple[int, int]]) -> bytes:
    return b"".join(struct.pack("<IIQ", 0xA5A5_A5A5, n_blocks, slba) for slba, n_blocks in ranges)


def _text(outcome: Outcome) -> str:
    return f"status {outcome.status:#06x} bitmap {outcome.bitmap:#x} with {len(outcome.data)} bytes"
