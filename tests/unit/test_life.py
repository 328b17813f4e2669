"""What a drive remembers of its life: the file, the sums over its chunks, and who keeps them."""

from __future__ import annotations

import queue
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c
from structlog.testing import capture_logs

from ocssd_tcp.commands.context import Health
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.daemon import LIFE_SECONDS, LifeKeeper
from ocssd_tcp.media.engine import Engine
from ocssd_tcp.media.filters.lax import Lax
from ocssd_tcp.media.life import LIFE_HEAD, Life, LifeFile, Usage
from ocssd_tcp.media.ops import Extent, MediaOp, OpKind
from ocssd_tcp.media.store import Store, StoreError, open_store
from ocssd_tcp.ocssd.layouts import ChunkState
from tests.support_media import TINY, Probe, make_store

WEARING = replace(TINY, pe_cycles=20)
DRIVE, FIRST, SECOND = (uuid.UUID(int=value << 120 | value) for value in (0xD0, 0xA1, 0xA2))
LIFE = Life(7, 2, 3_600_123, {FIRST: Usage(1, 2, 3, 4, 5), SECOND: Usage(reads=1 << 40)})


# --- the file -----------------------------------------------------------------------------------------------


def stored(folder: Path, life: Life = LIFE) -> LifeFile:
    file = LifeFile(str(folder), DRIVE)
    file.store(life)
    return file


def test_the_file_is_byte_for_byte_what_it_was(tmp_path: Path) -> None:
    """Drives of today are opened by the versions of tomorrow."""
    file = stored(tmp_path, replace(LIFE, usages={FIRST: Usage(1, 2, 3, 4, 5)}))
    assert Path(file.path).read_bytes() == bytes.fromhex(
        "4f435353444c4946 01000000 05e47528 d00000000000000000000000000000d0"
        "0700000000000000 0200000000000000 fbee360000000000 01000000 00000000"
        "a10000000000000000000000000000a1 0100000000000000 0200000000000000"
        "0300000000000000 0400000000000000 0500000000000000 0000000000000000"
    )


@pytest.mark.parametrize("life", [LIFE, Life()], ids=["two namespaces", "new"])
def test_what_was_stored_is_what_is_loaded(tmp_path: Path, life: Life) -> None:
    assert stored(tmp_path, life).load() == life
    assert [path.name for path in tmp_path.iterdir()] == ["life"]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


def resealed(data: bytes, **changes: int | bytes) -> bytes:
    """The file with other values in its head, its checksum right."""
    head = LIFE_HEAD.unpack_from(data) | changes | {"crc": 0}
    unsealed = LIFE_HEAD.pack(**head) + data[LIFE_HEAD.size :]
    return unsealed[:12] + crc32c(unsealed).to_bytes(4, "little") + unsealed[16:]


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "is damaged: 0 bytes"),
    "a head cut off": (lambda data: data[:63], "is damaged: 63 bytes"),
    "a record cut off": (lambda data: data[:-1], "checksum"),
    "something behind": (lambda data: data + b"\0", "checksum"),
    "endless": (lambda data: data + bytes(1 << 20), "is damaged: 1048577 bytes"),
    "magic": (lambda data: flipped(data, 0), "checksum"),
    "checksum": (lambda data: flipped(data, 12), "checksum"),
    "a count": (lambda data: flipped(data, 33), "checksum"),
    "a record": (lambda data: flipped(data, 90), "checksum"),
    "more records than there are": (lambda data: resealed(data, n_namespaces=0xFFFFFFFF), "is damaged: 192 bytes"),
    "fewer records than there are": (lambda data: resealed(data, n_namespaces=1), "is damaged: 192 bytes"),
    "another version": (lambda data: resealed(data, version=2), "has version 2; this program knows version 1"),
    "another drive": (lambda data: resealed(data, uuid=FIRST.bytes), "is of another drive"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_file_that_cannot_be_believed_is_refused(tmp_path: Path, kind: str) -> None:
    damage, words = DAMAGE[kind]
    file = stored(tmp_path)
    path = Path(file.path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match=words):
        file.load()


def test_a_file_that_is_not_there_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        LifeFile(str(tmp_path), DRIVE).load()


# --- sums over the chunks -----------------------------------------------------------------------------------


def worn(engine: Engine) -> tuple[int, int]:
    """(cycles, Offline chunks) as the engine keeps them, which must be what counting gives."""
    counted = (
        sum(sum(shard.wear) for shard in engine.shards),
        sum(engine.descriptor(chunk)[0] == ChunkState.OFFLINE for chunk in range(engine.geometry.n_chunks)),
    )
    assert (engine.n_cycles, engine.n_offline) == counted
    return counted


def test_wear_and_lost_chunks_are_known_without_counting(tmp_path: Path) -> None:
    store = make_store(tmp_path, WEARING)
    probe = Probe(store.engines[0])
    assert worn(probe.engine) == (0, 0)
    for _ in range(3):
        probe.write(1, 0, 16)
        probe.reset(1)
    assert worn(probe.engine) == (3, 0)
    for _ in range(20):
        probe.write(5, 0, 16)
        probe.reset(5)
    assert worn(probe.engine) == (23, 1)
    probe.engine.set_chunk(2, ChunkState.OFFLINE)
    assert worn(probe.engine) == (23, 2)
    probe.engine.set_chunk(2, ChunkState.FREE)
    assert worn(probe.engine) == (23, 1)
    entry = bytearray(probe.engine.descriptor(1))
    entry[2] = 128  # the wear index: half a life
    probe.engine.set_log(32, bytes(entry))
    assert worn(probe.engine) == (31, 1)
    store.close()
    store = make_store(tmp_path, WEARING)
    assert worn(store.engines[0]) == (31, 1)
    store.abandon()
    store = make_store(tmp_path, WEARING)
    assert worn(store.engines[0]) == (31, 1)
    store.close()


def test_a_lost_chunk_that_lax_rules_bring_back_is_lost_no_more(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    engine = store.engines[0]
    engine.set_chunk(3, ChunkState.OFFLINE)
    assert worn(engine) == (0, 1)
    Lax(engine).submit(MediaOp(OpKind.RESET, [Extent(3, 0, 1)], lambda _op: None))
    assert worn(engine) == (1, 0)
    store.close()


# --- how the last opening ended -----------------------------------------------------------------------------


def test_a_drive_knows_whether_it_is_new_and_how_it_was_left(tmp_path: Path) -> None:
    def opened() -> Store:
        return make_store(tmp_path)

    store = opened()
    assert (store.is_new, store.was_clean) == (True, True)
    store.close()
    store = opened()
    assert (store.is_new, store.was_clean) == (False, True)
    store.abandon()
    store = opened()
    assert (store.is_new, store.was_clean) == (False, False)
    store.close()
    assert opened().was_clean


def test_an_opening_that_fails_leaves_the_drive_as_it_was(tmp_path: Path) -> None:
    open_store(tmp_path / "drive", [TINY, TINY]).close()
    chunks = tmp_path / "drive" / "ns-2" / "pu-0-1.chunks"
    whole = chunks.read_bytes()
    chunks.write_bytes(flipped(whole, 0))
    with pytest.raises(StoreError, match="header is wrong"):
        open_store(tmp_path / "drive", [TINY, TINY])
    chunks.write_bytes(whole)
    store = open_store(tmp_path / "drive", [TINY, TINY])
    assert store.was_clean
    store.close()


# --- the keeper ---------------------------------------------------------------------------------------------


class Loop:
    """An event loop with one timer, which goes off when the test says so."""

    def __init__(self) -> None:
        self.due: Callable[[], None] | None = None
        self._ended: queue.Queue[Callable[[], None]] = queue.Queue()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Loop:
        assert (seconds, self.due) == (LIFE_SECONDS, None)
        self.due = callback
        return self

    def cancel(self) -> None:
        self.due = None

    def call_soon_threadsafe(self, callback: Callable[..., None], *arguments: object) -> None:
        self._ended.put(lambda: callback(*arguments))

    def go_off(self) -> None:
        """The timer, and what its thread has to say at the end."""
        callback, self.due = self.due, None
        assert callback is not None
        callback()
        self.hear()

    def hear(self) -> None:
        self._ended.get(timeout=20)()


class Daemon:
    """As much of a daemon as the keeper needs. `now`: its clock; `logged`: events, and why."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop: Any = Loop()
        self.now = 1000.0
        self.logged: list[tuple[str, str]] = []

    def start(self) -> None:
        self.store = make_store(self.path)
        engine = self.store.engines[0]
        self.namespace = Namespace(1, engine.geometry, engine, engine, engine.uuid)
        with capture_logs() as logged:
            self.keeper = LifeKeeper(self.loop, self.store, [self.namespace], lambda: self.now)
        self.logged += [(line["event"], line["why"]) for line in logged]

    def stop(self) -> None:
        self.keeper.close()
        self.store.close()

    def kill(self) -> None:
        """Nothing is written any more."""
        self.loop.cancel()
        self.store.abandon()

    @property
    def file(self) -> LifeFile:
        return LifeFile(self.store.path, self.store.uuid)

    def tell(self) -> tuple[int, int, float, Usage]:
        health: Health = self.keeper.health
        return health.power_cycles, health.unsafe_shutdowns, health.age(self.now), self.namespace.usage()


def test_a_life_goes_on_after_a_restart(tmp_path: Path) -> None:
    drive = Daemon(tmp_path)
    drive.start()
    assert drive.tell() == (1, 0, 0, Usage())
    drive.namespace.counters.reads, drive.namespace.counters.blocks_read = 3, 24
    drive.namespace.engine.stats.n_media_errors = 1
    drive.now += 90.5
    drive.stop()
    drive.start()
    assert drive.tell() == (2, 0, 90.5, Usage(blocks_read=24, reads=3, media_errors=1))
    drive.namespace.counters.writes, drive.namespace.counters.blocks_written = 1, 8
    drive.now += 10
    assert drive.tell() == (2, 0, 100.5, Usage(24, 8, 3, 1, 1))
    drive.stop()
    drive.start()
    assert drive.tell() == (3, 0, 100.5, Usage(24, 8, 3, 1, 1))
    drive.stop()
    assert drive.logged == []


def test_a_kill_is_an_unsafe_shutdown_and_forgets_what_was_not_yet_written(tmp_path: Path) -> None:
    drive = Daemon(tmp_path)
    drive.start()
    drive.namespace.counters.reads = 3
    drive.now += 50
    drive.kill()
    drive.start()
    assert drive.tell() == (2, 1, 0, Usage())
    drive.stop()
    drive.start()
    assert drive.tell() == (3, 1, 0, Usage())
    drive.stop()


def test_what_is_counted_is_written_down_while_the_drive_runs(tmp_path: Path) -> None:
    drive = Daemon(tmp_path)
    drive.start()
    for n_reads in (1, 2):
        drive.namespace.counters.reads = n_reads
        drive.now += LIFE_SECONDS
        drive.loop.go_off()
        life = drive.file.load()
        assert (life.power_on_ms, life.usages) == (n_reads * 60_000, {drive.namespace.uuid: Usage(reads=n_reads)})
    drive.kill()
    drive.start()
    assert drive.tell() == (2, 1, 120, Usage(reads=2))
    drive.stop()


def test_a_drive_that_ends_while_its_life_is_written_waits_and_writes_the_last_word(tmp_path: Path) -> None:
    drive = Daemon(tmp_path)
    drive.start()
    begin, drive.loop.due = drive.loop.due, None
    begin()
    drive.namespace.counters.reads = 5
    drive.stop()
    drive.loop.hear()
    assert drive.loop.due is None
    assert drive.file.load().usages == {drive.namespace.uuid: Usage(reads=5)}


@pytest.mark.parametrize("leave", [None, b"", b"x" * 200], ids=["missing", "empty", "rubbish"])
def test_a_drive_whose_file_is_lost_begins_anew_and_says_so(tmp_path: Path, leave: bytes | None) -> None:
    drive = Daemon(tmp_path)
    drive.start()
    drive.namespace.counters.reads = 3
    drive.stop()
    path = Path(drive.file.path)
    path.unlink()
    if leave is not None:
        path.write_bytes(leave)
    drive.start()
    assert drive.tell() == (1, 0, 0, Usage())
    assert [event for event, _ in drive.logged] == ["counters begin anew"]
    assert str(path) in drive.logged[0][1]
    drive.stop()
    drive.start()
    assert drive.tell() == (2, 0, 0, Usage())
    assert len(drive.logged) == 1
    drive.stop()


def test_a_killed_drive_of_a_version_without_the_file_counts_that(tmp_path: Path) -> None:
    make_store(tmp_path).abandon()
    drive = Daemon(tmp_path)
    drive.start()
    assert drive.tell() == (1, 1, 0, Usage())
    drive.stop()


def test_a_disk_that_takes_no_file_stops_nothing(tmp_path: Path) -> None:
    drive = Daemon(tmp_path)
    drive.start()
    drive.now += 5
    drive.stop()
    obstacle = Path(drive.store.path) / "life.tmp"
    obstacle.mkdir()  # where the new file would go
    drive.start()
    assert drive.tell() == (2, 0, 5, Usage())
    with capture_logs() as logged:
        drive.loop.go_off()
    assert [event for event, _ in drive.logged] == [line["event"] for line in logged] == ["counters are not kept"]
    assert drive.file.load().power_cycles == 1
    obstacle.rmdir()
    drive.loop.go_off()
    assert drive.file.load().power_cycles == 2
    drive.stop()
