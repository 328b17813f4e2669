"""What holds for every filter, and their order around the engine."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from ocssd_tcp.media import filters
from ocssd_tcp.media.filters.base import Filter
from ocssd_tcp.media.filters.stack import Layers, build_stack
from ocssd_tcp.media.ops import MediaOp, OpKind

MODULES = [
    importlib.import_module(f"{filters.__name__}.{found.name}") for found in pkgutil.iter_modules(filters.__path__)
]
KNOWN = [
    entry
    for module in MODULES
    for entry in vars(module).values()
    if isinstance(entry, type) and issubclass(entry, Filter) and entry.__module__ == module.__name__
]


class Recorder:
    """The innermost media: completes everything, and says what it saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def submit(self, op: MediaOp) -> None:
        self.seen.append("engine")
        op.done(op)


class Named(Filter):
    """A filter that notes that it was passed."""

    HANDLES = frozenset({OpKind.READ})
    PASSES = frozenset(OpKind) - HANDLES

    def __init__(self, inner: object, name: str, seen: list[str]) -> None:
        super().__init__(inner)  # type: ignore[arg-type]
        self.name = name
        self.seen = seen

    def handle(self, op: MediaOp) -> None:
        self.seen.append(self.name)
        self.inner.submit(op)


@pytest.mark.parametrize("known", [entry for entry in KNOWN if entry is not Filter], ids=lambda entry: entry.__name__)
def test_a_filter_declares_every_kind_of_operation_once(known: type[Filter]) -> None:
    assert set(OpKind) == known.HANDLES | known.PASSES
    assert not known.HANDLES & known.PASSES


def test_without_filters_the_media_is_the_engine() -> None:
    engine = Recorder()
    assert build_stack(engine, Layers()) is engine


def test_operations_pass_limits_latency_faults_and_rules_in_this_order() -> None:
    engine = Recorder()
    names = ("faults", "limits", "rules", "latency")
    layers = Layers(**{name: lambda inner, name=name: Named(inner, name, engine.seen) for name in names})
    finished: list[MediaOp] = []
    build_stack(engine, layers).submit(MediaOp(OpKind.READ, (), finished.append))
    assert engine.seen == ["limits", "latency", "faults", "rules", "engine"]
    assert len(finished) == 1


def test_what_a_filter_passes_goes_to_the_inner_media_untouched() -> None:
    engine = Recorder()
    media = build_stack(engine, Layers(limits=lambda inner: Named(inner, "limits", engine.seen)))
    media.submit(MediaOp(OpKind.FLUSH, (), lambda op: None))
    assert engine.seen == ["engine"]
