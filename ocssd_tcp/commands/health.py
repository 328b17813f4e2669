"""How worn a drive, or a part of it, is, in the terms of SMART (NVMe Base 1.4, 5.14.1.2). Nothing here looks at chunks.

An Open-Channel drive keeps no blocks in reserve: the host has all of them, and those that failed are Offline. What is
left to take their place is the chunks that are not.
"""

from __future__ import annotations

from collections.abc import Collection
from fractions import Fraction

from ocssd_tcp.commands.namespace import Namespace

SPARE_THRESHOLD = 10  #: percent
_MOST_USED = 255


def percentage_used(namespaces: Collection[Namespace]) -> int:
    """Mean program/erase cycles of all chunks as a percentage of what they endure, rounded down, at most 255.

    A namespace without wear (`pe_cycles` 0) has no part in it; 0 if none wears.
    """
    wearing = [namespace for namespace in namespaces if namespace.geometry.pe_cycles]
    lives = sum(Fraction(namespace.engine.n_cycles, namespace.geometry.pe_cycles) for namespace in wearing)
    n_chunks = sum(namespace.geometry.n_chunks for namespace in wearing)
    return min(int(100 * lives / n_chunks), _MOST_USED) if n_chunks else 0


def available_spare(namespaces: Collection[Namespace]) -> int:
    """Percentage of the chunks that are not Offline, rounded down."""
    n_chunks = sum(namespace.geometry.n_chunks for namespace in namespaces)
    n_offline = sum(namespace.engine.n_offline for namespace in namespaces)
    return 100 * (n_chunks - n_offline) // n_chunks if n_chunks else 100


def is_spare_low(namespaces: Collection[Namespace]) -> bool:
    """Whether Critical Warning says so."""
    return available_spare(namespaces) < SPARE_THRESHOLD
