"""Which engine runs the I/O path: the complete one in Python, or its compiled twin.

The twin is an optional part of the build and never required. `OCSSD_TCP_ACCEL` decides: "auto" (the default) takes
it where it was built, "off" leaves it alone, "require" refuses to run without it. This module imports nothing of the
rest, so that every layer may ask it; the twin itself belongs to the transport, whose batch processor it replaces.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from types import ModuleType

VARIABLE = "OCSSD_TCP_ACCEL"
_CHOICES = ("auto", "off", "require")


class EngineError(Exception):
    """OCSSD_TCP_ACCEL holds no known word, or requires a twin that was not built."""


def _twin_is_built() -> bool:
    return importlib.util.find_spec(f"{__name__}._twin") is not None


def engine_name(environment: Mapping[str, str] = os.environ) -> str:
    """The engine that runs in this `environment`: "python" or "compiled". EngineError as the class says."""
    choice = environment.get(VARIABLE) or "auto"
    if choice not in _CHOICES:
        raise EngineError(f"{VARIABLE}={choice!a}: allowed: {', '.join(_CHOICES)}")
    if choice == "off":
        return "python"
    if _twin_is_built():
        return "compiled"
    if choice == "require":
        raise EngineError(
            f"{VARIABLE}=require, but the compiled engine is not built: install the package where there is a C "
            f"compiler, or set {VARIABLE}=auto"
        )
    return "python"


def twin() -> ModuleType | None:
    """The compiled engine's module, None where the complete one runs. EngineError as the class says."""
    return importlib.import_module(f"{__name__}._twin") if engine_name() == "compiled" else None
