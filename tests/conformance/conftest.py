"""One target for the whole run, four hosts on it, and a `Lab` for each namespace."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.conformance.lab import GEOMETRY, Lab, Way, Wire
from tests.conformance.rules import Model, Shape
from tests.conformance.target import NAMESPACES, NSIDS, Address, external, running

Hosts = dict[str, Way]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    """The target."""
    given = external()
    if given is not None:
        yield given
        return
    with running(tmp_path_factory.mktemp("conformance")) as address:
        yield address


@pytest.fixture(scope="session")
def hosts(address: Address) -> Iterator[Hosts]:
    """A host for each pair of DULBE and SQ flow control, with digests in all combinations; two of them send no data in
    capsules."""
    found: Hosts = {}
    try:
        for dulbe in (False, True):
            for flow_control in (False, True):
                name = f"{'dulbe' if dulbe else 'plain'}-{'sqflow' if flow_control else 'nosqflow'}"
                found[name] = Way(Wire(address, dulbe=dulbe, flow_control=flow_control), r2t=dulbe == flow_control)
        yield found
    finally:
        for way in found.values():
            way.wire.close()


HOST_NAMES = ("plain-nosqflow", "plain-sqflow", "dulbe-nosqflow", "dulbe-sqflow")


@pytest.fixture(params=HOST_NAMES)
def way(hosts: Hosts, request: pytest.FixtureRequest) -> Way:
    """Each host in turn."""
    return hosts[request.param]


@pytest.fixture
def quiet(hosts: Hosts) -> Way:
    """A host without DULBE, data in capsules."""
    return hosts["plain-sqflow"]


@pytest.fixture
def strict_way(hosts: Hosts) -> Way:
    """A host with DULBE."""
    return hosts["dulbe-sqflow"]


@pytest.fixture(scope="session")
def labs(address: Address, hosts: Hosts) -> dict[str, Lab]:
    """The namespaces by the name of their kind; of a target that was given only the first, as "main"."""
    home = hosts["plain-sqflow"]
    names = list(NAMESPACES) if address.is_own else ["main"]
    return {name: _lab(NSIDS[name], NAMESPACES[name].shape if address.is_own else None, home) for name in names}


def _lab(nsid: int, shape: Shape | None, home: Way) -> Lab:
    shape = shape or _reported(nsid, home)
    n_bytes = shape.num_grp * shape.num_pu * shape.num_chk * 32
    step = home.wire.max_transfer
    parts = (home.wire.log(nsid, at, min(step, n_bytes - at)).data for at in range(0, n_bytes, step))
    return Lab(nsid, Model(shape, b"".join(parts)), home)


def _reported(nsid: int, home: Way) -> Shape:
    """The shape of a drive whose configuration is not known, from its Geometry page."""
    page = home.wire.admin(GEOMETRY, nsid, {}, room=4096).data
    widths = dict(zip(("grp_len", "pu_len", "chk_len", "lbk_len"), page[8:12], strict=True))
    (mccap,) = struct.unpack_from("<I", page, 16)
    num_grp, num_pu, num_chk, clba = struct.unpack_from("<HHII", page, 64)
    ws_min, ws_opt, mw_cunits, maxoc, maxocpu = struct.unpack_from("<IIIII", page, 128)
    namespace = home.wire.drive.namespace
    return Shape(
        num_grp, num_pu, num_chk, clba, ws_min, ws_opt, mw_cunits, home.wire.drive.block_bytes, **widths,
        maxoc=maxoc, maxocpu=maxocpu, vector_copy=bool(mccap & 1), multi_reset=bool(mccap & 2),
        early_reset=bool(mccap & 4), fill=0xFF if namespace.dlfeat & 7 == 2 else 0,
    )  # fmt: skip


def _named(labs: dict[str, Lab], name: str) -> Lab:
    if name not in labs:
        pytest.skip("only on a target of our own")
    return labs[name]


@pytest.fixture
def lab(labs: dict[str, Lab], request: pytest.FixtureRequest) -> Lab:
    """The namespace of an indirect parameter."""
    return _named(labs, request.param)


@pytest.fixture
def main(labs: dict[str, Lab]) -> Lab:
    """Holes in every field, chunks of every kind."""
    return labs["main"]


@pytest.fixture
def odd(labs: dict[str, Lab]) -> Lab:
    """No count is a power of two."""
    return _named(labs, "odd")


@pytest.fixture
def one(labs: dict[str, Lab]) -> Lab:
    """Counts of 1."""
    return _named(labs, "one")


@pytest.fixture
def strict(labs: dict[str, Lab]) -> Lab:
    """No early reset, no copy, few chunks open."""
    return _named(labs, "strict")


@pytest.fixture
def eager(labs: dict[str, Lab]) -> Lab:
    """Multiple reset; chunks wear out soon."""
    return _named(labs, "eager")
