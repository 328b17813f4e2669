"""Commands one after another and many at once: random walks over whole drives, and queues that are filled ahead."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.conformance import lists
from tests.conformance.lab import FLUSH, SCALAR_WRITE, Lab, Way, scalar
from tests.conformance.rules import CLOSED, FREE, OK, OPEN, OUT_OF_ORDER, WRITE_FAULT, Chunk, Outcome

WALK = 60  #: commands of one walk


class Walker:
    """Sends commands of all kinds to places that are likely to matter."""

    def __init__(self, lab: Lab, hosts: list[Way], seed: int) -> None:
        self.lab, self.hosts = lab, hosts
        self.random = random.Random(seed)
        self.chunks = [chunk for chunk in lab.model.chunks if chunk.slba in lab.known or chunk.state == FREE]
        self.near = self.random.sample(self.chunks, min(6, len(self.chunks)))
        self.verbs: list[Callable[[Way], object]] = [
            self.write, self.write, self.write_list, self.write_list, self.write_list, self.read, self.read_list,
            self.copy, self.reset, self.dsm,
        ]  # fmt: skip

    def step(self) -> None:
        self.random.choice(self.verbs)(self.random.choice(self.hosts))

    def form(self, opcode: int, lbas: list[int], destinations: list[int] | None = None) -> int:
        """Any form that can carry the list."""
        able = [form for form in lists.FORMS if lists.carry(form, opcode, lbas, destinations or []) is not None]
        return self.random.choice(able)

    def chunk(self) -> Chunk:
        return self.random.choice(self.near)

    def lba(self) -> int:
        """Anything at all, now and then."""
        if self.random.random() < 0.05:
            return self.random.choice([1 << 63, (1 << 64) - 9, 1 << self.lab.shape.address_bits])
        return self.chunk().slba + self.random.randrange(1 << self.lab.shape.lbk_len)

    def run_of(self, n_units: int) -> list[int]:
        """Whole units at a write pointer, mostly."""
        shape, chunk = self.lab.shape, self.chunk()
        at = chunk.wp if chunk.state == OPEN else 0
        if self.random.random() < 0.1:
            at = self.random.randrange(0, shape.clba, shape.ws_min)
        return [chunk.slba + at + i for i in range(n_units * shape.ws_min)]

    def write(self, way: Way) -> None:
        lbas = self.run_of(self.random.randint(1, 3))
        self.lab.write(lbas[0], len(lbas), way)

    def destinations(self) -> list[int]:
        lbas: list[int] = []
        for _ in range(self.random.randint(1, 3)):
            lbas += self.run_of(self.random.randint(1, 2))
        return lbas[:64]

    def write_list(self, way: Way) -> None:
        lbas = self.destinations()
        if self.random.random() < 0.05:
            self.random.shuffle(lbas)
        self.lab.vector_write(self.form(lists.WRITE, lbas), lbas, way)

    def read(self, way: Way) -> None:
        self.lab.read(self.lba(), self.random.randint(1, 20), way)

    def read_list(self, way: Way) -> None:
        lbas = [self.lba() for _ in range(self.random.choice([1, 2, 7, 64]))]
        self.lab.vector_read(self.form(lists.READ, lbas), lbas, way)

    def copy(self, way: Way) -> None:
        if not self.lab.shape.vector_copy:
            return
        destinations = self.destinations()
        sources = [self.lba() for _ in destinations]
        self.lab.vector_copy(self.form(lists.COPY, sources, destinations), sources, destinations, way)

    def reset(self, way: Way) -> None:
        lbas = [self.chunk().slba for _ in range(self.random.randint(1, 3))]
        if self.random.random() < 0.1:
            lbas.append(self.lba())
        form = self.form(lists.RESET, lbas)
        self.lab.vector_reset(form, lbas, way, descriptors=self.random.random() < 0.5)

    def dsm(self, way: Way) -> None:
        chunks = self.random.sample(self.near, self.random.randint(1, min(2, len(self.near))))
        self.lab.dsm_reset([(chunk.slba, chunk.cnlb) for chunk in chunks], way)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("lab", ["main", "odd", "one", "strict", "tagged"], indirect=True)
def test_whatever_hosts_do_the_drive_is_what_the_rules_say(lab: Lab, hosts: dict[str, Way], seed: int) -> None:
    walker = Walker(lab, list(hosts.values()), seed)
    for _ in range(WALK):
        walker.step()
    lab.compare(walker.near)
    lab.compare_log()


# --- ahead of the answers: decision 7, and slots on one queue --------------------------------------------------


def test_writes_to_one_chunk_may_be_outstanding_together(main: Lab, way: Way) -> None:
    unit = main.shape.ws_min
    chunk = main.take(FREE)
    data = [main.data(unit) for _ in range(chunk.cnlb // unit)]
    calls = [(SCALAR_WRITE, main.nsid, scalar(chunk.slba + i * unit, unit), blocks) for i, blocks in enumerate(data)]
    assert way.wire.all_at_once(calls, r2t=way.r2t) == [Outcome(OK)] * len(calls)
    for i, blocks in enumerate(data):
        main.model.scalar_write(chunk.slba + i * unit, unit, blocks)
    assert chunk.state == CLOSED
    main.compare([chunk])


def test_a_write_ahead_of_those_outstanding_is_out_of_order(main: Lab, way: Way) -> None:
    unit = main.shape.ws_min
    chunk = main.take(FREE)
    data = [main.data(unit) for _ in range(3)]
    order = (0, 2, 1)
    calls = [(SCALAR_WRITE, main.nsid, scalar(chunk.slba + i * unit, unit), data[i]) for i in order]
    assert [outcome.status for outcome in way.wire.all_at_once(calls, r2t=way.r2t)] == [OK, OUT_OF_ORDER, OK]
    for i in order:
        main.model.scalar_write(chunk.slba + i * unit, unit, data[i])
    main.compare([chunk])


def test_a_list_and_the_command_that_uses_it_may_be_outstanding_together(main: Lab, way: Way) -> None:
    """They take effect in order, also where both wait for their data; and the slot can be staged again behind them."""
    unit = main.shape.ws_min
    a, b = main.take(FREE), main.take(FREE)
    calls = []
    for chunk in (a, b):
        lbas, data = [chunk.slba + i for i in range(unit)], main.data(unit)
        calls.append((lists.STAGE, main.nsid, {"cdw10": 30, "cdw12": unit - 1}, lists.pack(lbas)))
        calls.append((lists.WRITE, main.nsid, lists.dwords(n=unit, form=lists.SLOT, lbal=30), data))
        main.model.write(lbas, data)
    assert way.wire.all_at_once(calls, r2t=way.r2t) == [Outcome(OK)] * 4
    main.compare([a, b])


def test_a_write_behind_a_reset_finds_the_chunk_as_it_was_or_free(main: Lab, way: Way) -> None:
    """Both outstanding: either order is lawful, and nothing between."""
    unit = main.shape.ws_min
    chunk = main.take(CLOSED)
    data = main.data(unit)
    calls = [
        (lists.RESET, main.nsid, lists.dwords(n=1, form=lists.INLINE, lbal=chunk.slba), b""),
        (SCALAR_WRITE, main.nsid, scalar(chunk.slba, unit), data),
    ]
    reset, write = way.wire.all_at_once(calls, r2t=way.r2t)
    assert reset == Outcome(OK)
    assert write.status in (OK, WRITE_FAULT)
    main.model.vector_reset([chunk.slba], descriptors=False)
    if write.status == OK:
        main.model.scalar_write(chunk.slba, unit, data)
    main.compare([chunk])


def test_a_flushed_chunk_is_written_again_after_its_reset(main: Lab, way: Way) -> None:
    for state in (CLOSED, OPEN):
        chunk = main.take(state)
        assert way.wire.io(FLUSH, main.nsid, {}) == Outcome(OK)
        assert main.vector_reset(lists.INLINE, [chunk.slba], way, descriptors=True).status == OK
        main.compare([chunk])
        assert main.write(chunk.slba, main.shape.ws_min, way).status == OK
        main.compare([chunk])


@pytest.mark.parametrize("nsid", [1, 0xFFFF_FFFF])
def test_flush_changes_no_chunk(main: Lab, nsid: int, way: Way) -> None:
    """It closes none, and the window stays."""
    chunk = main.take(OPEN)
    assert way.wire.io(FLUSH, nsid, {}) == Outcome(OK)
    main.compare([chunk])
