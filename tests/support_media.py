"""Geometries, and a small drive to poke: shared by the tests of the media."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ocssd_tcp.media.engine import Engine
from ocssd_tcp.media.ops import Extent, MediaOp, MediaStatus, OpKind
from ocssd_tcp.media.store import Store, open_store
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import ChunkDescriptor, parse_chunk_descriptors

#: Two parallel units of four chunks of sixteen blocks, the smallest drive on which every rule shows.
TINY = Geometry(num_grp=1, num_pu=2, num_chk=4, clba=16, block_bytes=512, ws_min=4, ws_opt=4, mw_cunits=8, pe_cycles=0)

#: No count is a power of two, and blocks carry metadata.
ODD = Geometry(
    num_grp=3, num_pu=3, num_chk=5, clba=12, block_bytes=512, metadata_bytes=16, ws_min=2, ws_opt=4, mw_cunits=4
)

#: Many parallel units.
WIDE = Geometry(num_grp=4, num_pu=8, num_chk=64, clba=64, block_bytes=512, ws_min=8, ws_opt=16, mw_cunits=0)


class DeferredSyncer:
    """A syncer whose work waits until the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], None], Callable[[BaseException | None], None]]] = []

    def run(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        self.jobs.append((work, done))

    def step(self) -> None:
        """Do the oldest job."""
        work, done = self.jobs.pop(0)
        failure: BaseException | None = None
        try:
            work()
        except OSError as error:
            failure = error
        done(failure)


class Probe:
    """One engine, with short words for its operations."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.stride = engine.geometry.block_stride
        self.finished: list[MediaOp] = []

    def submit(self, op: MediaOp, kind: OpKind | None = None) -> MediaOp:
        op.kind = op.kind if kind is None else kind
        self.engine.submit(op)
        return op

    def op(self, kind: OpKind, extents: Sequence[Extent], **fields: object) -> MediaOp:
        """Submit an operation that need not be done when this returns: see `is_done`."""
        return self.submit(MediaOp(kind, extents, self.finished.append, **fields))  # type: ignore[arg-type]

    def is_done(self, op: MediaOp) -> bool:
        return self.finished.count(op) == 1

    def done(self, kind: OpKind, extents: Sequence[Extent], **fields: object) -> MediaOp:
        """Submit an operation that must be done when this returns."""
        op = self.op(kind, extents, **fields)
        assert self.is_done(op)
        return op

    def data(self, n_blocks: int, fill: int) -> memoryview:
        """Blocks that all differ: the byte `fill`, then `fill + 1`, and so on."""
        return memoryview(b"".join(bytes([(fill + block) & 0xFF]) * self.stride for block in range(n_blocks)))

    def write(self, chunk: int, lblk: int, n_blocks: int, fill: int = 1, **fields: object) -> MediaOp:
        return self.op(OpKind.WRITE, (Extent(chunk, lblk, n_blocks),), data=self.data(n_blocks, fill), **fields)

    def reserve(self, *extents: Extent) -> MediaOp:
        return self.op(OpKind.RESERVE, extents)

    def commit(self, op: MediaOp, fill: int = 1) -> MediaOp:
        """Store the data of a reservation where they belong, and commit it."""
        view = self.engine.memory.view
        data = self.data(sum(extent.n_blocks for extent in op.extents), fill)
        at = 0
        for offset, length in op.pieces:
            view[offset : offset + length] = data[at : at + length]
            at += length
        self.finished.remove(op)
        return self.submit(op, OpKind.COMMIT)

    def abort(self, op: MediaOp) -> MediaOp:
        self.finished.remove(op)
        return self.submit(op, OpKind.ABORT)

    def reset(self, *chunks: int, **fields: object) -> MediaOp:
        return self.op(OpKind.RESET, [Extent(chunk, 0, 1) for chunk in chunks], **fields)

    def read(self, chunk: int, lblk: int, n_blocks: int) -> bytes:
        """The blocks as a host without DULBE sees them."""
        op = self.done(OpKind.READ, (Extent(chunk, lblk, n_blocks),))
        assert op.status == MediaStatus.OK
        return self.bytes_of(op)

    def bytes_of(self, op: MediaOp) -> bytes:
        view = self.engine.memory.view
        return b"".join(view[offset : offset + length] for offset, length in op.pieces)

    def fills(self, chunk: int, lblk: int, n_blocks: int) -> list[int]:
        """The first byte of each block."""
        return list(self.read(chunk, lblk, n_blocks)[:: self.stride])

    def chunk(self, chunk: int) -> ChunkDescriptor:
        return parse_chunk_descriptors(self.engine.descriptor(chunk))[0]


def make_store(path: Path, geometry: Geometry = TINY, **options: object) -> Store:
    """A drive of one namespace in `path`/drive, made if it is not there."""
    return open_store(path / "drive", [geometry], **options)  # type: ignore[arg-type]
