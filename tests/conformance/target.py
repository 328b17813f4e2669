"""The drive under test: `python -m ocssd_tcp` in a process of its own, with a namespace for each kind of geometry.

States that no host can produce are made before the daemon starts: chunks of their own size or write type when the drive
is made, Offline chunks by wearing them out.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ocssd_tcp.media.ops import Extent, MediaOp, OpKind
from ocssd_tcp.media.store import ChunkShape, open_store
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import ChunkType
from tests.conformance.rules import Shape

NQN = "nqn.2014-08.org.example:conformance"
IN_CAPSULE_BYTES = 64 << 10
ROOT = Path(__file__).resolve().parents[2]


class Kind(NamedTuple):
    """A namespace. `keys`: its configuration; `shapes`: chunks that differ, by flat index; `worn`: Offline chunks."""

    keys: Mapping[str, int | bool]
    shapes: Mapping[int, ChunkShape] = {}
    worn: tuple[int, ...] = ()

    @property
    def shape(self) -> Shape:
        """What the rules need of the configuration."""
        keys = dict(self.keys)
        stride = int(keys.pop("block_bytes")) + int(keys.pop("metadata_bytes", 0))
        fill = 0xFF if keys.pop("dlfeat", 1) == 2 else 0x00
        counts = {"grp_len": "num_grp", "pu_len": "num_pu", "chk_len": "num_chk", "lbk_len": "clba"}
        widths = {width: (int(keys[count]) - 1).bit_length() for width, count in counts.items()}
        return Shape(**keys, **widths, stride=stride, fill=fill)  # type: ignore[arg-type]


RANDOM = ChunkShape(ChunkType.RANDOM)

#: Holes in every field, and a chunk of every kind. The longest list fits into its blocks.
MAIN = Kind(
    {
        "num_grp": 3, "num_pu": 3, "num_chk": 12, "clba": 16, "block_bytes": 512,
        "ws_min": 4, "ws_opt": 8, "mw_cunits": 8, "pe_cycles": 1000,
    },
    {9: ChunkShape(cnlb=12), 10: RANDOM, 21: ChunkShape(ChunkType.RANDOM, 8), 22: ChunkShape(cnlb=4)},
    (11, 23),
)  # fmt: skip

#: No count is a power of two: blocks past clba have addresses.
ODD = Kind(
    {
        "num_grp": 3, "num_pu": 3, "num_chk": 5, "clba": 12, "block_bytes": 512, "metadata_bytes": 8,
        "ws_min": 3, "ws_opt": 6, "mw_cunits": 4, "pe_cycles": 1000,
    },
    {3: ChunkShape(cnlb=9), 4: RANDOM},
    (9,),
)  # fmt: skip

#: Counts of 1: address fields of no width.
ONE = Kind(
    {
        "num_grp": 1, "num_pu": 1, "num_chk": 1, "clba": 8, "block_bytes": 4096, "metadata_bytes": 16,
        "ws_min": 1, "ws_opt": 1, "mw_cunits": 0, "dlfeat": 2, "pe_cycles": 0,
    }
)  # fmt: skip

#: Nothing is allowed that need not be, and few chunks may be open.
STRICT = Kind(
    {
        "num_grp": 1, "num_pu": 2, "num_chk": 8, "clba": 8, "block_bytes": 4096, "metadata_bytes": 8,
        "ws_min": 2, "ws_opt": 4, "mw_cunits": 2, "maxoc": 3, "maxocpu": 2,
        "early_reset": False, "multi_reset": False, "vector_copy": False, "pe_cycles": 0,
    }
)  # fmt: skip

#: Everything may be reset again, and wears out soon.
EAGER = Kind(
    {
        "num_grp": 2, "num_pu": 1, "num_chk": 16, "clba": 16, "block_bytes": 512,
        "ws_min": 2, "ws_opt": 2, "mw_cunits": 0, "multi_reset": True, "pe_cycles": 3,
    }
)  # fmt: skip

#: Small blocks with long metadata.
TAGGED = Kind(
    {
        "num_grp": 1, "num_pu": 3, "num_chk": 4, "clba": 24, "block_bytes": 512, "metadata_bytes": 16,
        "ws_min": 8, "ws_opt": 8, "mw_cunits": 16, "pe_cycles": 0,
    }
)  # fmt: skip

NAMESPACES = {"main": MAIN, "odd": ODD, "one": ONE, "strict": STRICT, "eager": EAGER, "tagged": TAGGED}
NSIDS = {name: nsid for nsid, name in enumerate(NAMESPACES, 1)}


class Address(NamedTuple):
    """Where the target is. `is_own`: started here, so that its configuration is known."""

    host: str
    port: int
    nqn: str
    is_own: bool


def external() -> Address | None:
    """The target that OCSSD_TEST_TARGET names as `host:port,nqn`, to be tested instead of one of our own."""
    text = os.environ.get("OCSSD_TEST_TARGET")
    if not text:
        return None
    where, _, nqn = text.partition(",")
    host, _, port = where.rpartition(":")
    return Address(host.strip("[]"), int(port), nqn, is_own=False)


@contextmanager
def running(folder: Path) -> Iterator[Address]:
    """A daemon with a drive in `folder`."""
    config = folder / "drive.toml"
    config.write_text(_configuration())
    _prepare(folder / "drive")
    errors = (folder / "daemon.log").open("wb")
    daemon = subprocess.Popen(
        [sys.executable, "-m", "ocssd_tcp", "--config", str(config)], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors
    )
    try:
        assert daemon.stdout is not None
        found = re.search(rb"listening on ([\d.]+):(\d+)", daemon.stdout.readline())
        assert found, (folder / "daemon.log").read_text()
        yield Address(found[1].decode(), int(found[2]), NQN, is_own=True)
        daemon.terminate()
        assert daemon.wait(10) == 0
        log = (folder / "daemon.log").read_text()
        assert '"error"' not in log, log  # whatever hosts send, it is no error of the daemon's
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()  # type: ignore[union-attr]
        errors.close()


def _configuration() -> str:
    tables = ["[target]", 'listen = ["127.0.0.1:0"]', f'nqn = "{NQN}"', f"in_capsule_bytes = {IN_CAPSULE_BYTES}"]
    tables += ["[drive]", 'path = "drive"']
    for kind in NAMESPACES.values():
        tables.append("[[namespace]]")
        tables += [f"{key} = {str(value).lower()}" for key, value in kind.keys.items()]
    return "\n".join(tables)


def _prepare(path: Path) -> None:
    geometries = [Geometry(**kind.keys) for kind in NAMESPACES.values()]  # type: ignore[arg-type]
    shapes = {index: kind.shapes for index, kind in enumerate(NAMESPACES.values())}
    store = open_store(path, geometries, [uuid.UUID(int=nsid) for nsid in NSIDS.values()], create=True, shapes=shapes)
    for kind, engine in zip(NAMESPACES.values(), store.engines, strict=True):
        unit = memoryview(bytes(kind.shape.ws_min * kind.shape.stride))
        for chunk in kind.worn:
            for _ in range(int(kind.keys["pe_cycles"])):
                engine.submit(MediaOp(OpKind.WRITE, [Extent(chunk, 0, kind.shape.ws_min)], _ignore, data=unit))
                engine.submit(MediaOp(OpKind.RESET, [Extent(chunk, 0, 1)], _ignore))
    store.close()


def _ignore(_op: MediaOp) -> None:
    """The log of the running drive shows what came of it."""
