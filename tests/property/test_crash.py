"""A process killed between any two steps of the media: what it acknowledged is there, wp claims nothing that is not.

One process forks workers. A worker kills itself after a number of executed lines of the media's own code, so that a
kill falls between any two stores; what it had announced and what was acknowledged stand in a file. The parent opens
the drive, compares, and forks the next worker upon what it found.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

import pytest

from ocssd_tcp.media import store as store_module
from ocssd_tcp.media.ops import Extent, MediaStatus, OpKind
from ocssd_tcp.media.table import ChunkShape
from ocssd_tcp.ocssd.layouts import ChunkState, ChunkType
from tests.support_media import TINY, Probe, make_store

GEOMETRY = replace(TINY, mw_cunits=0, clba=32, ws_min=2, ws_opt=2)
CHUNKS = range(8)
RANDOM_CHUNK = 7
SHAPES = {0: {RANDOM_CHUNK: ChunkShape(ChunkType.RANDOM)}}


@dataclass
class Truth:
    """What must be found: the fill of every block that was written, by chunk; `flushed`: at the last flush."""

    blocks: list[dict[int, int]] = field(default_factory=lambda: [{} for _ in CHUNKS])
    flushed: list[dict[int, int]] = field(default_factory=lambda: [{} for _ in CHUNKS])
    #: chunks reset or overwritten since the last flush: after a power cut they may be as they were, or empty
    unsettled: set[int] = field(default_factory=set)


def work(path: Path, seed: int, n_lines: int, truth: Truth, journal: int) -> None:
    """Write, reserve and commit, copy, reset and flush at random; killed after `n_lines` lines of the media's code."""
    dice = random.Random(seed)
    left = n_lines

    def count(frame: FrameType, event: str, argument: object) -> object:
        nonlocal left
        if "ocssd_tcp/media" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return count

    store = make_store(path, GEOMETRY, shapes=SHAPES)
    probe = Probe(store.engines[0])
    sys.settrace(count)
    while True:
        chunk = dice.choice(CHUNKS)
        lblk = dice.randrange(0, 24) if chunk == RANDOM_CHUNK else len(truth.blocks[chunk])
        fill, n_blocks = dice.randrange(1, 256), min(dice.choice([2, 4, 8]), 32 - lblk)
        if dice.random() < 0.05:
            action = "flush"
        elif n_blocks == 0 or (truth.blocks[chunk] and dice.random() < 0.1):
            action = "reset"
        else:
            action = dice.choice(["write", "reserve", "run"])
        line = f"{action} {chunk} {lblk} {n_blocks} {fill}\n".encode()
        os.write(journal, line)
        act(probe, action, chunk, lblk, n_blocks, fill)
        os.write(journal, b"done\n")
        apply(truth, line.decode().split(), is_done=True)


def act(probe: Probe, action: str, chunk: int, lblk: int, n_blocks: int, fill: int) -> None:
    data = memoryview(bytes([fill]) * (n_blocks * probe.stride))
    extent = Extent(chunk, lblk, n_blocks)
    view = probe.engine.memory.view
    if action == "flush":
        op = probe.done(OpKind.FLUSH, [])
    elif action == "reset":
        op = probe.reset(chunk)
    elif action == "run" and chunk != RANDOM_CHUNK:
        at = probe.engine.runs.reserve(chunk, lblk, n_blocks) - probe.engine.memory.base
        view[at : at + len(data)] = data
        assert probe.engine.runs.commit(chunk, lblk, n_blocks)
        return
    elif action == "reserve":
        op = probe.reserve(extent)
        view[op.pieces[0].offset : op.pieces[0].offset + len(data)] = data
        probe.finished.clear()
        probe.submit(op, OpKind.COMMIT)
    else:
        op = probe.done(OpKind.WRITE, [extent], data=data)
    assert probe.finished.pop() is op
    assert op.status == MediaStatus.OK
    probe.finished.clear()


def apply(truth: Truth, words: list[str], *, is_done: bool) -> None:
    """Note an action that was acknowledged, or one that may have been cut off half way."""
    action, (chunk, lblk, n_blocks, fill) = words[0], map(int, words[1:])
    if action == "flush":
        if is_done:
            truth.flushed = [dict(blocks) for blocks in truth.blocks]
            truth.unsettled = set()
    elif action == "reset":
        truth.blocks[chunk] = {}
        truth.unsettled.add(chunk)
    else:
        truth.blocks[chunk].update(dict.fromkeys(range(lblk, lblk + n_blocks), fill))
        if chunk == RANDOM_CHUNK:
            truth.unsettled.add(chunk)


def found(probe: Probe, chunk: int) -> dict[int, int]:
    """The blocks that can be read, each of one fill."""
    entry = probe.chunk(chunk)
    op = probe.op(OpKind.READ, [Extent(chunk, 0, 32)], dulbe=True)
    readable = [lblk for lblk in range(32) if not op.bitmap >> lblk & 1]
    if chunk != RANDOM_CHUNK:
        assert readable == list(range(entry.wp))
        states = {0: ChunkState.FREE, 32: ChunkState.CLOSED}
        assert entry.cs == states.get(entry.wp, ChunkState.OPEN)
    blocks = {}
    for lblk in readable:
        data = probe.read(chunk, lblk, 1)
        assert set(data) == {data[0]}
        blocks[lblk] = data[0]
    return blocks


def check_kill(truth: Truth, pending: list[str], actual: list[dict[int, int]]) -> None:
    """All that was acknowledged is there; of the one action under way, all or nothing (or some, if it overwrites)."""
    after = Truth([dict(blocks) for blocks in truth.blocks])
    if pending:
        apply(after, pending, is_done=False)
    for chunk in CHUNKS:
        allowed = [truth.blocks[chunk], after.blocks[chunk]]
        if chunk == RANDOM_CHUNK:
            for lblk in range(32):
                assert actual[chunk].get(lblk) in [blocks.get(lblk) for blocks in allowed], (chunk, lblk, pending)
        else:
            assert actual[chunk] in allowed, (chunk, allowed, actual[chunk], pending)


def check_power_cut(truth: Truth, pending: list[str], actual: list[dict[int, int]]) -> None:
    """All that was flushed and not reset since is there; nothing beyond what was ever written."""
    if pending:
        apply(truth, pending, is_done=False)
    for chunk in set(CHUNKS) - truth.unsettled - {RANDOM_CHUNK}:
        flushed, written = truth.flushed[chunk], truth.blocks[chunk]
        assert flushed.items() <= actual[chunk].items() <= written.items(), (chunk, flushed, written, actual[chunk])


def drive(folder: str, seed: int, n_kills: int, is_power_cut: bool) -> None:
    """Kill `n_kills` workers in turn, checking the drive after each."""
    path, dice = Path(folder), random.Random(seed)
    truth = Truth()
    make_store(path, GEOMETRY, shapes=SHAPES).close()
    for kill in range(n_kills):
        journal = path / f"journal-{kill}"
        worker = os.fork()
        if worker == 0:
            fd = os.open(journal, os.O_WRONLY | os.O_CREAT)
            try:
                work(path, dice.randrange(1 << 30), dice.randrange(800), truth, fd)
            finally:
                os._exit(1)
        dice.random()
        _, status = os.waitpid(worker, 0)
        assert os.WIFSIGNALED(status), f"worker {kill} of seed {seed} failed"
        pending: list[str] = []
        for line in journal.read_text().splitlines():
            if line == "done":
                apply(truth, pending, is_done=True)
                pending = []
            else:
                pending = line.split()
        if is_power_cut:
            store_module.boot_id = lambda kill=kill: bytes([kill]) * 16  # type: ignore[misc]
        store = make_store(path, GEOMETRY)
        probe = Probe(store.engines[0])
        actual = [found(probe, chunk) for chunk in CHUNKS]
        (check_power_cut if is_power_cut else check_kill)(truth, pending, actual)
        truth = Truth(actual, [dict(blocks) for blocks in actual])
        probe.done(OpKind.FLUSH, [])
        store.abandon()


@pytest.mark.parametrize("is_power_cut", [False, True], ids=["kill", "power cut"])
@pytest.mark.parametrize("seed", range(2))
def test_what_was_acknowledged_survives_a_kill_anywhere(tmp_path: Path, seed: int, is_power_cut: bool) -> None:
    program = (
        f"from tests.property.test_crash import drive; drive({str(tmp_path)!r}, {seed}, n_kills=60, {is_power_cut=})"
    )
    # -W: forking is safe here, whatever threads numpy has.
    command = [sys.executable, "-W", "ignore", "-c", program]
    root = Path(__file__).parents[2]
    outcome = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
