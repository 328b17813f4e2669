"""The order of the filters around an engine. What is not configured is not there, and costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

from ocssd_tcp.media.ops import Media

#: Makes a filter around a media. What shall survive a change of the stack lives in the layer, not in the filter.
Layer: TypeAlias = Callable[[Media], Media]


@dataclass(slots=True)
class Layers:
    """The layers of one namespace, outermost first; None: not configured. May be changed while the drive runs."""

    limits: Layer | None = None
    latency: Layer | None = None
    faults: Layer | None = None
    rules: Layer | None = None


def build_stack(engine: Media, layers: Layers) -> Media:
    """The media of a namespace: `engine` itself, or the configured filters around it."""
    media = engine
    for entry in reversed(fields(layers)):
        layer: Layer | None = getattr(layers, entry.name)
        if layer is not None:
            media = layer(media)
    return media
