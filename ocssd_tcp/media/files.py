"""The files of one namespace: their names and sizes, making them, and finding out whether they are whole.

ns-N/superblock      written last: a folder without it was never finished
ns-N/pu-G-P.data     the blocks with their metadata, sparse
ns-N/pu-G-P.chunks   header page; the chunk entries; the reset counts: mapped, what the running drive believes
ns-N/pu-G-P.flushed  what was durable at the last flush (`media.flushed`)
ns-N/pu-G-P.map      a bit per block, only where there are random-write chunks
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Iterable, Mapping

import numpy as np

from ocssd_tcp.media.flushed import FlushedCopy
from ocssd_tcp.media.memory import PAGE, round_up
from ocssd_tcp.media.superblock import VERSION, NamespaceSuperblock, StoreError, replace_file, sync_folder
from ocssd_tcp.media.table import ENTRY_BYTES, ChunkShape, Entries, fresh_table
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import ChunkState, ChunkType
from ocssd_tcp.ocssd.states import ChunkStates
from ocssd_tcp.structdef import Layout, raw, reserved, u32

CHUNKS_HEADER = Layout(
    "chunks_header",
    PAGE,
    "magic" / raw(8),
    "version" / u32,
    "pu" / u32,
    "num_chk" / u32,
    "uuid" / raw(16),
    None / reserved(PAGE - 36),
)
CHUNKS_MAGIC = b"OCSSDCHK"

#: What a namespace's folder may hold when it is made again after an interrupted start.
OWN_FILES = re.compile(r"superblock\.tmp|pu-\d+-\d+\.(data|chunks|flushed|map)(\.tmp)?")


class NamespaceFiles:
    """Where the files of a namespace are, and how long."""

    def __init__(self, folder: str, geometry: Geometry) -> None:
        self.folder = folder
        self.geometry = geometry
        self.superblock = os.path.join(folder, "superblock")
        self.chunk_bytes = geometry.clba * geometry.block_stride
        self.data_bytes = round_up(geometry.num_chk * self.chunk_bytes)
        self.table_bytes = geometry.num_chk * ENTRY_BYTES
        self.wear_bytes = geometry.num_chk * 4
        self.chunks_bytes = round_up(PAGE + self.table_bytes + self.wear_bytes)
        self.map_bytes = geometry.num_chk * ((geometry.clba + 7) // 8)

    def path(self, pu: int, kind: str) -> str:
        """The file of the flat parallel unit `pu`."""
        grp, within = divmod(pu, self.geometry.num_pu)
        return os.path.join(self.folder, f"pu-{grp}-{within}.{kind}")

    def has_map(self, pu: int) -> bool:
        """Whether the parallel unit has a written map."""
        return os.path.exists(self.path(pu, "map"))

    def add_maps(self) -> None:
        """Give every parallel unit a written map, empty where there was none. OSError, StoreError.

        The durable copy of a table has its map behind it. It grows after the map is there: a stop in between is seen
        by a copy that is whole only without one.
        """
        for pu in range(self.geometry.n_pu):
            if not self.has_map(pu):
                temporary = self.path(pu, "map.tmp")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                self._make(pu, "map.tmp", bytes(self.map_bytes), is_allocated=True)
                os.rename(temporary, self.path(pu, "map"))
                sync_folder(self.folder)
            self._grow_flushed(pu)

    def _grow_flushed(self, pu: int) -> None:
        path = self.path(pu, "flushed")
        payload = FlushedCopy(path, self.table_bytes + self.wear_bytes).load()
        if payload is not None:
            grown = FlushedCopy(path + ".tmp", len(payload) + self.map_bytes)
            grown.create(payload + bytes(self.map_bytes))
            os.rename(grown.path, path)
            sync_folder(self.folder)

    def flushed(self, pu: int) -> FlushedCopy:
        """The durable copy of a parallel unit's table."""
        n_bytes = self.table_bytes + self.wear_bytes + (self.map_bytes if self.has_map(pu) else 0)
        return FlushedCopy(self.path(pu, "flushed"), n_bytes)

    def header(self, pu: int, identity: uuid.UUID) -> bytes:
        """The header page of a `.chunks` file."""
        return CHUNKS_HEADER.pack(
            magic=CHUNKS_MAGIC, version=VERSION, pu=pu, num_chk=self.geometry.num_chk, uuid=identity.bytes
        )

    def mapped_bytes(self) -> int:
        """Address space that the files take."""
        geometry = self.geometry
        maps = sum(round_up(self.map_bytes) for pu in range(geometry.n_pu) if self.has_map(pu))
        return geometry.n_pu * (self.data_bytes + self.chunks_bytes) + maps

    def open(self, pu: int, kind: str, n_bytes: int) -> int:
        """A descriptor of a file that must be there and have `n_bytes`. StoreError otherwise."""
        path = self.path(pu, kind)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            size = os.fstat(fd).st_size
        except OSError as error:
            raise StoreError(path, f"cannot be opened: {error.strerror}") from error
        if size < n_bytes:
            os.close(fd)
            raise StoreError(path, f"is too short: {size} bytes, not {n_bytes}")
        return fd

    def create(
        self, superblock: NamespaceSuperblock, shapes: Mapping[int, ChunkShape], states: ChunkStates | None = None
    ) -> None:
        """Make the folder and all files, the superblock last. StoreError if something else lies there. OSError.

        `states`: what the chunks are to begin with; it decides over `shapes`.
        """
        os.makedirs(self.folder, exist_ok=True)
        foreign = sorted(name for name in os.listdir(self.folder) if not OWN_FILES.fullmatch(name))
        if foreign:
            raise StoreError(self.folder, f"is no namespace, and holds other things: {', '.join(foreign[:3])}")
        for name in os.listdir(self.folder):
            os.unlink(os.path.join(self.folder, name))
        for pu in range(self.geometry.n_pu):
            table, resets = self._first_table(pu, shapes, states)
            self._create_pu(pu, superblock.uuid, table, resets)
        sync_folder(self.folder)
        replace_file(self.superblock, superblock.pack())
        sync_folder(os.path.dirname(self.folder))

    def _first_table(
        self, pu: int, shapes: Mapping[int, ChunkShape], states: ChunkStates | None
    ) -> tuple[Entries, bytes]:
        """The entries and the reset counts of a parallel unit of a new drive."""
        entries = fresh_table(self.geometry, pu, shapes)
        if states is None:
            return entries, bytes(self.wear_bytes)
        own = slice(pu * self.geometry.num_chk, (pu + 1) * self.geometry.num_chk)
        for name in ("cs", "ct", "wli", "cnlb", "wp"):
            entries[name] = getattr(states, name)[own]
        return entries, states.resets[own].tobytes()

    def _create_pu(self, pu: int, identity: uuid.UUID, entries: Entries, resets: bytes) -> None:
        table = entries.tobytes() + resets
        payload = table
        if (entries["ct"] & ChunkType.RANDOM).any():
            self._make(pu, "map", bytes(self.map_bytes), is_allocated=True)
            payload += bytes(self.map_bytes)
        self._make(pu, "data", b"", n_bytes=self.data_bytes)
        self._allocate(pu, np.flatnonzero(entries["cs"] == ChunkState.OPEN))
        self._make(pu, "chunks", self.header(pu, identity) + table, n_bytes=self.chunks_bytes, is_allocated=True)
        self.flushed(pu).create(payload)

    def _allocate(self, pu: int, chks: Iterable[int]) -> None:
        """Give chunks that are open from the start their space, as those that are opened get it."""
        fd = os.open(self.path(pu, "data"), os.O_RDWR | os.O_CLOEXEC)
        try:
            for chk in chks:
                os.posix_fallocate(fd, int(chk) * self.chunk_bytes, self.chunk_bytes)
        finally:
            os.close(fd)

    def _make(self, pu: int, kind: str, head: bytes, *, n_bytes: int = 0, is_allocated: bool = False) -> None:
        """A new, durable file. `is_allocated`: a full disk must not show later, when the map is written through."""
        fd = os.open(self.path(pu, kind), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            size = round_up(max(n_bytes, len(head)))
            os.ftruncate(fd, size)
            if is_allocated:
                os.posix_fallocate(fd, 0, size)
            at = 0
            while at < len(head):
                at += os.pwrite(fd, head[at:], at)
            os.fsync(fd)
        finally:
            os.close(fd)
