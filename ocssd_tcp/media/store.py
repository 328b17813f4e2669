"""A drive on disk: a folder with a superblock and a folder for each namespace; made, locked, recovered, opened, closed.

Which chunk table counts after a start: the mapped one, if the drive was closed in order or if only the process died
(then what it left between two stores is settled); the durable copy of the last flush, if the machine was started
again since.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import sys
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ocssd_tcp.media.engine import Engine
from ocssd_tcp.media.files import NamespaceFiles
from ocssd_tcp.media.memory import PAGE, PREDEFINED_BYTES, Memory, Staging
from ocssd_tcp.media.runs import HotTables
from ocssd_tcp.media.shard import PuShard
from ocssd_tcp.media.shared import Shared
from ocssd_tcp.media.superblock import (
    NamespaceSuperblock,
    StoreError,
    differences,
    pack_drive,
    read_drive,
    read_namespace,
    sync_folder,
    update_file,
)
from ocssd_tcp.media.sync import InlineSyncer, Syncer
from ocssd_tcp.media.table import ChunkShape, entries_of, first_fault, normalise, readable_blocks
from ocssd_tcp.media.written import WrittenMap
from ocssd_tcp.ocssd.address import AddressMap
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import ChunkState, ChunkType
from ocssd_tcp.ocssd.states import ChunkStates

__all__ = ["ChunkShape", "Store", "StoreError", "open_store"]

#: Most chunks, and most parallel units (two files each), of one namespace.
MAX_CHUNKS = 1 << 22
MAX_PUS = 1 << 14

#: Room for writes to random-write chunks that are under way.
STAGING_BYTES = 64 << 20

_NAMESPACE = re.compile(r"ns-\d+")


class Store:
    """An open drive. `engines`: its namespaces, nsid 1 first. `uuid`: the drive's own.

    `is_new`: it was made by this opening. `was_clean`: it was closed in order the last time, or never open.
    """

    def __init__(
        self, path: str, identity: uuid.UUID, memory: Memory, lock: int, *, is_new: bool, was_clean: bool
    ) -> None:
        self.path = path
        self.uuid = identity
        self.memory = memory
        self.is_new = is_new
        self.was_clean = was_clean
        self.engines: list[Engine] = []
        self._lock = lock
        self._namespaces: list[_OpenNamespace] = []
        self._is_open = True

    def adopt(self, namespace: _OpenNamespace) -> None:
        """Own the descriptors of a namespace from now on."""
        self._namespaces.append(namespace)

    def close(self) -> None:
        """Flush, mark the namespaces clean, let the drive go. Views of its memory stay valid. Idempotent.

        A namespace that the disk would not take stays marked unclean. Close connections before.
        """
        if not self._is_open:
            return
        self._is_open = False
        try:
            for engine, namespace in zip(self.engines, self._namespaces, strict=True):
                with contextlib.suppress(OSError):
                    if engine.close():
                        namespace.sync_tables()
                        namespace.mark(is_clean=True)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let the drive go as a killed process would: nothing is flushed, the namespaces stay marked unclean."""
        self._is_open = False
        for namespace in self._namespaces:
            namespace.release()
        self._namespaces = []
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@dataclass(slots=True)
class _OpenNamespace:
    """The descriptors and the superblock of an open namespace."""

    files: NamespaceFiles
    superblock: NamespaceSuperblock
    descriptors: list[int]

    def sync_tables(self) -> None:
        """Wait until the mapped tables are durable. OSError."""
        for pu in range(self.files.geometry.n_pu):
            for kind in ("chunks", "map") if self.files.has_map(pu) else ("chunks",):
                fd = os.open(self.files.path(pu, kind), os.O_RDWR | os.O_CLOEXEC)
                try:
                    os.fdatasync(fd)
                finally:
                    os.close(fd)

    def mark(self, *, is_clean: bool) -> None:
        """Note in the superblock that the namespace is in use by this boot, or that it was closed in order. OSError."""
        superblock = replace(self.superblock, is_clean=is_clean, boot_id=boot_id())
        update_file(self.files.superblock, superblock.pack())

    def release(self) -> None:
        """Close the descriptors."""
        while self.descriptors:
            os.close(self.descriptors.pop())


def open_store(
    path: str | os.PathLike[str],
    geometries: Sequence[Geometry],
    uuids: Sequence[uuid.UUID | None] = (),
    *,
    create: bool = True,
    syncer: Syncer | None = None,
    keep_allocated: int = 64,
    shapes: Mapping[int, Mapping[int, ChunkShape]] | None = None,
    states: Mapping[int, ChunkStates] | None = None,
    failed_units: Collection[int] = (),
) -> Store:
    """Open the drive in the folder `path`, one namespace for each geometry; with `create`, make what is not there.

    `uuids`: of the namespaces; where None or absent, one is made and kept. `syncer`: where flushes wait (default: they
    block). `keep_allocated`: chunks without data that keep their space, for each namespace. `shapes`: namespace index
    -> flat chunk -> what makes it different, for namespaces that are made. `states`:
    namespace index -> what their chunks are to begin with. `failed_units`: namespace indices whose
    parallel units shall all have a written map, without which no write can skip a unit.

    StoreError: in use by another process, missing, damaged, other than asked for, too large, or no drive at all.
    """
    path = os.path.abspath(path)
    if sys.byteorder != "little":
        raise StoreError(path, "this machine is big-endian; drives are little-endian and used in place")
    for geometry in geometries:
        if geometry.n_chunks > MAX_CHUNKS or geometry.n_pu > MAX_PUS:
            size = f"{geometry.n_pu} parallel units of {geometry.num_chk} chunks"
            raise StoreError(path, f"{size} are too many: at most {MAX_PUS} parallel units and {MAX_CHUNKS} chunks")
    _raise_descriptor_limit()
    with contextlib.ExitStack() as undo:
        try:
            lock = _lock(path, create=create)
            undo.callback(os.close, lock)
            identity, is_new = _open_drive(path, lock, create=create)
            namespaces = []
            for index, geometry in enumerate(geometries):
                wanted = uuids[index] if index < len(uuids) else None
                differing = (shapes or {}).get(index, {})
                first = (states or {}).get(index)
                namespace = _find_namespace(
                    path, index, geometry, wanted, create=create, shapes=differing, states=first
                )
                namespaces.append(namespace)
            for index in failed_units:
                namespaces[index].files.add_maps()
            _refuse_more(path, len(geometries))
            was_clean = all(namespace.superblock.is_clean for namespace in namespaces)
            memory = Memory(_address_space(namespaces))
            store = Store(path, identity, memory, lock, is_new=is_new, was_clean=was_clean)
            undo.pop_all()
            undo.callback(store.abandon)
            _fill(store, namespaces, syncer or InlineSyncer(), keep_allocated)
        except OSError as error:
            raise StoreError(error.filename or path, error.strerror or str(error)) from error
        undo.pop_all()
    return store


def boot_id() -> bytes:
    """16 bytes that change whenever the machine starts. Where the kernel does not say: always new, which is safe."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return uuid.UUID(file.read().strip()).bytes
    except (OSError, ValueError):
        return uuid.uuid4().bytes


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _lock(path: str, *, create: bool) -> int:
    """The drive's superblock, open and locked; empty if it was not there."""
    superblock = os.path.join(path, "superblock")
    if not os.path.exists(superblock):
        if not create:
            raise StoreError(path, "no drive is there")
        os.makedirs(path, exist_ok=True)
        others = sorted(os.listdir(path))
        if others:
            raise StoreError(path, f"is no drive: no superblock, but other things: {', '.join(others[:3])}")
    fd = os.open(superblock, os.O_RDWR | (os.O_CREAT if create else 0) | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise StoreError(path, "is in use by another process") from error
    return fd


def _open_drive(path: str, lock: int, *, create: bool) -> tuple[uuid.UUID, bool]:
    """The drive's uuid, and whether it was made: a superblock never written, in a folder of its own, is written now."""
    if create and os.listdir(path) == ["superblock"] and not any(os.pread(lock, PAGE, 0)):
        identity = uuid.uuid4()
        # In place, not by a rename: this file is the lock.
        os.pwrite(lock, pack_drive(identity), 0)
        os.fsync(lock)
        sync_folder(path)
        sync_folder(os.path.dirname(path))
        return identity, True
    return read_drive(os.path.join(path, "superblock")), False


def _refuse_more(path: str, n_namespaces: int) -> None:
    known = {f"ns-{index + 1}" for index in range(n_namespaces)}
    more = sorted(name for name in os.listdir(path) if _NAMESPACE.fullmatch(name) and name not in known)
    if more:
        raise StoreError(os.path.join(path, more[0]), f"is a namespace beyond the {n_namespaces} that were asked for")


def _find_namespace(
    path: str,
    index: int,
    geometry: Geometry,
    wanted: uuid.UUID | None,
    *,
    create: bool,
    shapes: Mapping[int, ChunkShape],
    states: ChunkStates | None,
) -> _OpenNamespace:
    """A namespace whose superblock is what was asked for; made if it is not there."""
    files = NamespaceFiles(os.path.join(path, f"ns-{index + 1}"), geometry)
    if not os.path.exists(files.superblock):
        if not create:
            raise StoreError(files.folder, "the drive has no such namespace")
        superblock = NamespaceSuperblock(wanted or uuid.uuid4(), bytes(16), True, geometry)
        files.create(superblock, shapes, states)
        return _OpenNamespace(files, superblock, [])
    superblock = read_namespace(files.superblock)
    difference = differences(files.superblock, superblock.geometry, geometry)
    if difference is not None:
        raise difference
    if wanted is not None and wanted != superblock.uuid:
        raise StoreError(files.superblock, f"the namespace has uuid {superblock.uuid}, {wanted} was asked for")
    return _OpenNamespace(files, superblock, [])


def _needs_staging(namespace: _OpenNamespace) -> bool:
    return any(namespace.files.has_map(pu) for pu in range(namespace.files.geometry.n_pu))


def _address_space(namespaces: Sequence[_OpenNamespace]) -> int:
    fills = {_fill_byte(namespace.files.geometry) for namespace in namespaces}
    staging = STAGING_BYTES * sum(map(_needs_staging, namespaces))
    files = sum(namespace.files.mapped_bytes() for namespace in namespaces)
    return files + staging + PREDEFINED_BYTES * (len(fills) + 1)


def _fill_byte(geometry: Geometry) -> int:
    return 0xFF if geometry.dlfeat == 2 else 0x00


def _fill(store: Store, namespaces: Sequence[_OpenNamespace], syncer: Syncer, keep_allocated: int) -> None:
    """Map, recover and check the namespaces, and build their engines."""
    predefined: dict[int, int] = {}
    sink = store.memory.map_anonymous(PREDEFINED_BYTES)
    for namespace in namespaces:
        store.adopt(namespace)
        geometry = namespace.files.geometry
        fill = _fill_byte(geometry)
        if fill not in predefined:
            predefined[fill] = store.memory.map_predefined(fill)
        opening = _Opening(store.memory, namespace)
        opening.recover()
        engine = Engine(
            opening.shared,
            opening.shards,
            opening.tables,
            identity=namespace.superblock.uuid,
            predefined=predefined[fill],
            sink=sink,
            staging=Staging(store.memory, STAGING_BYTES) if _needs_staging(namespace) else None,
            syncer=syncer,
            keep_allocated=keep_allocated,
            unswept=() if namespace.superblock.is_clean else opening.shards,
            ncap=opening.ncap,
        )
        store.engines.append(engine)
    for namespace in namespaces:  # a drive that does not open as a whole has not been in use
        namespace.mark(is_clean=False)


class _Opening:
    """A namespace on its way from files to an engine: mapped by the constructor, believed after `recover`."""

    def __init__(self, memory: Memory, namespace: _OpenNamespace) -> None:
        self._namespace = namespace
        geometry = namespace.files.geometry
        self._addresses = AddressMap(geometry)
        n_address_chunks = self._addresses.n_address_chunks
        # Pages of numpy's zeros that are never written take no memory.
        self._readable = np.zeros(n_address_chunks, np.uint32)
        self._address = np.zeros(n_address_chunks, np.uint64)
        self._table = np.zeros(1 << (geometry.grp_len + geometry.pu_len), np.uint64)
        self.tables = HotTables(
            readable=self._readable.data.cast("B").cast("I"),
            address=self._address.data.cast("B").cast("Q"),
            reserved=np.zeros(n_address_chunks, np.uint32).data.cast("B").cast("I"),
            table=self._table.data.cast("B").cast("Q"),
            dirty=memoryview(bytearray(len(self._table))),
        )
        self.shared = Shared(geometry, memory)
        self.ncap = 0
        self.shards = [self._map(pu) for pu in range(geometry.n_pu)]

    def _map(self, pu: int) -> PuShard:
        files, memory = self._namespace.files, self.shared.memory
        geometry = files.geometry
        data_fd = files.open(pu, "data", files.data_bytes)
        self._namespace.descriptors.append(data_fd)
        offset = memory.map_file(data_fd, files.data_bytes)
        chunks = self._map_whole(pu, "chunks", files.chunks_bytes)
        header = files.header(pu, self._namespace.superblock.uuid)
        if memory.view[chunks : chunks + PAGE] != header:
            raise StoreError(files.path(pu, "chunks"), "is damaged, or of another drive: its header is wrong")
        table = chunks + PAGE
        wear = table + files.table_bytes
        written = None
        if files.has_map(pu):
            at = self._map_whole(pu, "map", files.map_bytes)
            written = WrittenMap(memory.view[at : at + files.map_bytes], geometry.clba)
        first = self._addresses.address_chunk(pu * geometry.num_chk)
        last = first + geometry.num_chk
        starts = np.arange(geometry.num_chk, dtype=np.uint64) * np.uint64(files.chunk_bytes)
        self._table[first >> geometry.chk_len] = memory.base + table
        self._address[first:last] = starts + np.uint64(memory.base + offset)
        return PuShard(
            self.shared,
            pu,
            fd=data_fd,
            offset=offset,
            table=memory.view[table:wear],
            wear=memory.view[wear : wear + files.wear_bytes].cast("I"),
            readable=self.tables.readable[first:last],
            reserved=self.tables.reserved[first:last],
            dirty=self.tables.dirty[first >> geometry.chk_len :],
            written=written,
            flushed=files.flushed(pu),
        )

    def _map_whole(self, pu: int, kind: str, n_bytes: int) -> int:
        fd = self._namespace.files.open(pu, kind, n_bytes)
        try:
            return self.shared.memory.map_file(fd, n_bytes)
        finally:
            os.close(fd)

    def recover(self) -> None:
        """Make the tables what they were, and refuse those that cannot be. StoreError, OSError."""
        superblock = self._namespace.superblock
        is_new_boot = not superblock.is_clean and superblock.boot_id != boot_id()
        for shard in self.shards:
            if is_new_boot:
                self._restore(shard)
            self._check(shard, is_clean=superblock.is_clean)
            if not superblock.is_clean:
                shard.dirty[0] = 1
                self._settle_resets(shard)
        if is_new_boot:
            self._namespace.sync_tables()

    @staticmethod
    def _settle_resets(shard: PuShard) -> None:
        """Make resets durable that a kill cut off, before their chunks are written again. OSError."""
        is_free = entries_of(shard.table)["cs"] == ChunkState.FREE
        is_free_on_disk = np.frombuffer(shard.flushed_states(), np.uint8) == ChunkState.FREE
        if (is_free & ~is_free_on_disk).any():
            snapshot = shard.snapshot()
            snapshot.store()
            snapshot.settle(is_durable=True)

    @staticmethod
    def _restore(shard: PuShard) -> None:
        try:
            payload = shard.flushed.load()
        except OSError as error:
            raise StoreError(shard.flushed.path, f"cannot be read: {error.strerror}") from error
        if payload is None:
            raise StoreError(shard.flushed.path, "is damaged: neither copy of the chunk table is whole")
        shard.restore(payload)

    def _check(self, shard: PuShard, *, is_clean: bool) -> None:
        files = self._namespace.files
        geometry = files.geometry
        entries = entries_of(shard.table)
        is_random = entries["ct"] & ChunkType.RANDOM != 0
        if not is_clean:
            normalise(entries, np.frombuffer(shard.wear, np.uint32), geometry.pe_cycles)
        fault = first_fault(entries, geometry, shard.pu)
        if fault is not None:
            raise StoreError(files.path(shard.pu, "chunks"), f"is damaged: {fault}")
        if is_random.any():
            if shard.written is None:
                raise StoreError(files.path(shard.pu, "map"), "is missing, and there are random-write chunks")
            for chk in np.flatnonzero(is_random & (entries["cs"] == ChunkState.FREE)):
                shard.forget_written(int(chk))
        first = self._addresses.address_chunk(shard.pu * geometry.num_chk)
        self._readable[first : first + geometry.num_chk] = readable_blocks(entries, geometry.mw_cunits)
        if shard.written is not None:
            shard.find_holes(map(int, np.flatnonzero(~is_random & shard.written.marked())))
        self.shared.wear_sum += int(entries["wli"].sum())
        self.shared.n_cycles += int(np.frombuffer(shard.wear, np.uint32).sum(dtype=np.uint64))
        self.shared.n_offline += int(np.count_nonzero(entries["cs"] == ChunkState.OFFLINE))
        shard.count_open(int(np.count_nonzero(entries["cs"] == ChunkState.OPEN)))
        self.ncap += int(entries["cnlb"].sum())
