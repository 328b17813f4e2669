"""Who may import whom, read from the sources."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ocssd_tcp"
NAME = PACKAGE.name

#: An arrow reads "imports", and reaches everything to its right. A layer is a module or package of the top level,
#: but for `ocssd-tcpd`, which alone among the commands may know the target.
#: "" is the package itself, which holds the version and imports nothing.
ARROWS: dict[str, set[str]] = {
    "": set(),
    "__main__": {"cli.start"},
    "cli.start": {"cli.daemon"},
    "cli.daemon": {"cli.ctl", "daemon", "config", "observe"},
    "cli.ctl": {"config"},
    "cli.health": {"config"},
    "cli": {"host"},
    "daemon": {"transport", "config", "observe", "peers"},
    "peers": {"controller", "host"},
    "config": {"ocssd"},
    "observe": {"transport", "config"},
    "transport": {"controller", "wire"},
    "controller": {"commands", "wire"},
    "commands": {"media", "wire"},
    "media": {"ocssd"},
    "host": {"wire", "ocssd"},
    "wire": {"structdef"},
    "ocssd": {"structdef"},
    "structdef": set(),
    "accel": set(),
    "accel.generate": {"media", "wire"},
}
OPEN_TO_ALL = {"accel", ""}

#: Where an event loop may be known.
ASYNC_PLACES = ("cli/", "daemon.py", "host/client.py", "host/sync.py", "observe/", "peers.py", "transport/aio.py")
ASYNC_MODULES = {"asyncio", "uvloop"}
LONGEST = 600

SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_FILES = sorted({*SOURCES, *(ROOT / "tests").rglob("*.py")})


def reach(layer: str) -> set[str]:
    """Everything to the right of a layer."""
    found: set[str] = set()
    waiting = [layer]
    while waiting:
        for further in ARROWS[waiting.pop()] - found:
            found.add(further)
            waiting.append(further)
    return found


def module_of(path: Path) -> str:
    """The dotted name below the package; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    """The layer that a dotted name (below the package) belongs to."""
    return module if module in ARROWS else module.partition(".")[0]


def imports(source: str, module: str) -> set[str]:
    """Absolute names of the modules that `source` imports, wherever in the file; `module` resolves relative ones."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = f"{NAME}.{module}".split(".")[: -node.level]
                base = ".".join([*above, base] if base else above)
            inside = base == NAME or base == f"{NAME}.cli"  # what is imported from these are modules themselves
            found |= {f"{base}.{alias.name}" for alias in node.names} if inside else {base}
    return found


def forbidden(source: str, module: str) -> set[str]:
    """Imports of `source` that no arrow allows."""
    layer = layer_of(module)
    allowed = reach(layer) | {layer} | OPEN_TO_ALL
    inside = {name.removeprefix(NAME).lstrip(".") for name in imports(source, module) if name.split(".")[0] == NAME}
    return {name for name in inside if (layer_of(name) if layer_of(name) in ARROWS else "") not in allowed}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(path: Path) -> None:
    module = module_of(path)
    assert layer_of(module) in ARROWS, "a layer without arrows: declare it"
    assert not forbidden(path.read_text(), module)


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("media.shard", "from ocssd_tcp.wire import layouts", {"wire"}),
        ("wire.pdu", "import ocssd_tcp.media.ops", {"media.ops"}),
        ("ocssd.address", "from ocssd_tcp import media", {"media"}),
        ("ocssd.address", "from ..wire.status import Status", {"wire.status"}),
        ("controller.queue", "def late():\n    from ocssd_tcp.transport.aio import serve", {"transport.aio"}),
        ("transport.connection", "from ocssd_tcp.config.schema import Config", {"config.schema"}),
        ("host.drive", "from ocssd_tcp.commands import registry", {"commands"}),
        ("cli.host", "from ocssd_tcp.daemon import run", {"daemon"}),
        ("cli.host", "from ocssd_tcp.cli.daemon import main", {"cli.daemon"}),
        ("transport.aio", "from ocssd_tcp.media.ops import MediaOp\nfrom ocssd_tcp import __version__", set()),
        ("cli.daemon", "from ocssd_tcp import daemon\nfrom ocssd_tcp.media.store import StoreError", set()),
        ("media.store", "from ocssd_tcp.accel import engine_name\nimport os", set()),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str, found: set[str]) -> None:
    assert forbidden(source, module) == found


@pytest.mark.parametrize("layer", ["media", "ocssd", "structdef"])
def test_media_and_wire_never_meet(layer: str) -> None:
    assert "wire" not in reach(layer)
    assert not {"media", "ocssd"} & reach("wire")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_event_loops_stay_in_their_places(path: Path) -> None:
    if not str(path.relative_to(PACKAGE)).startswith(ASYNC_PLACES):
        assert not ASYNC_MODULES & {name.partition(".")[0] for name in imports(path.read_text(), module_of(path))}


@pytest.mark.parametrize("path", ALL_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_holds_two_subjects(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST
