"""Rules that concern several keys at once; each yields (key path, why) where it is broken."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ocssd_tcp.config.schema import Config
from ocssd_tcp.config.values import shown
from ocssd_tcp.ocssd.fault_rules import FaultKind, FaultRuleError
from ocssd_tcp.ocssd.geometry import GeometryError

SOCKET_PATH_BYTES = 107  #: sun_path, without its terminating zero
VECTOR_BLOCKS = 64  #: the longest vector command (OCSSD 2.0: NLB is at most 63, 0's based)
LIST_BYTES = VECTOR_BLOCKS * 8
_PAGE_BYTES = 4096  #: CAP.MPSMIN is 0


def broken_rules(config: Config) -> Iterator[tuple[str, str]]:
    """What is wrong with a configuration whose keys are each right on their own."""
    yield from _impossible_geometries(config)
    yield from _transfer_limit(config)
    yield from _repeated_uuids(config)
    yield from _long_socket_paths(config)
    yield from _impossible_faults(config)
    yield from _failing_lax_writes(config)
    yield from _incomplete_latency(config)
    yield from _misplaced_limits(config)


def _impossible_geometries(config: Config) -> Iterator[tuple[str, str]]:
    for index, namespace in enumerate(config.namespaces):
        try:
            _ = namespace.geometry
        except GeometryError as error:
            yield f"namespace.{index}.{error.key}", error.why


def _transfer_limit(config: Config) -> Iterator[tuple[str, str]]:
    """A host may send the blocks of a vector command, their metadata and their list as one transfer."""
    if config.target.mdts == 0:
        return
    for index, namespace in enumerate(config.namespaces):
        needed = VECTOR_BLOCKS * (namespace.block_bytes + namespace.metadata_bytes) + LIST_BYTES
        least = ((needed - 1) // _PAGE_BYTES).bit_length()
        if config.target.mdts < least:
            yield (
                "target.mdts",
                f"= {config.target.mdts}: {VECTOR_BLOCKS} blocks with metadata and their list are {needed} bytes in "
                f"namespace.{index}; allowed: 0 (no limit) or {least} and more",
            )


def _long_socket_paths(config: Config) -> Iterator[tuple[str, str]]:
    path = config.control.socket
    if path is not None and len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        why = f"a socket's absolute path has at most {SOCKET_PATH_BYTES} bytes"
        yield "control.socket", f"= {shown(str(path))}: {why}, this one {len(os.fsencode(path))}"


def _repeated_uuids(config: Config) -> Iterator[tuple[str, str]]:
    seen: dict[object, int] = {}
    for index, namespace in enumerate(config.namespaces):
        if namespace.uuid is not None and seen.setdefault(namespace.uuid, index) != index:
            yield f"namespace.{index}.uuid", f"= {shown(str(namespace.uuid))}: namespace.{seen[namespace.uuid]} has it"


def _incomplete_latency(config: Config) -> Iterator[tuple[str, str]]:
    latency = config.latency
    if latency.flash is not None:
        return
    missing = [name for name, value in latency.times.items() if value is None]
    if latency.is_on and missing:
        yield f"latency.{missing[0]}", "absent: set it, or set latency.flash"
    elif missing and latency.jitter:
        yield "latency.jitter", f"= {latency.jitter}: there is no latency to vary; set latency.flash or the four times"


def _misplaced_limits(config: Config) -> Iterator[tuple[str, str]]:
    seen: dict[int, int] = {}
    for index, limit in enumerate(config.limits):
        key = f"limits.{index}.nsid"
        if limit.nsid > len(config.namespaces):
            yield key, f"= {limit.nsid}: allowed: 0 (the whole drive) to {len(config.namespaces)}"
        elif seen.setdefault(limit.nsid, index) != index:
            yield key, f"= {limit.nsid}: limits.{seen[limit.nsid]} has it"


def _impossible_faults(config: Config) -> Iterator[tuple[str, str]]:
    for index, fault in enumerate(config.faults):
        key, n_namespaces = f"fault.{index}", len(config.namespaces)
        if fault.nsid > n_namespaces:
            yield f"{key}.nsid", f"= {fault.nsid}: allowed: 1 to {n_namespaces}"
            continue
        if fault.kind is None:
            yield f"{key}.kind", f"absent: allowed: {', '.join(kind.value for kind in FaultKind)}"
            continue
        if fault.nth and fault.probability < 1:
            yield f"{key}.nth", f"= {fault.nth}: there is a probability too; set one of them"
        try:
            fault.rule(seed=0).check(config.namespaces[fault.nsid - 1].geometry)
        except FaultRuleError as error:
            yield f"{key}.{error.key}", error.why
        except GeometryError:
            pass  # reported as such


def _failing_lax_writes(config: Config) -> Iterator[tuple[str, str]]:
    """Without an order of writes there is no write pointer at which one could fail."""
    why = "is not strict, and only in strict namespaces do writes fail"
    for index, namespace in enumerate(config.namespaces):
        if not namespace.strict and namespace.write_fail is not None:
            yield f"namespace.{index}.write_fail", f"= {shown(str(namespace.write_fail))}: namespace.{index} {why}"
    for index, fault in enumerate(config.faults):
        lax = [number for number, namespace in enumerate(config.namespaces, 1) if not namespace.strict]
        if fault.nsid in lax and fault.kind in (FaultKind.EARLY_CLOSE.value, FaultKind.WRITE_NEXT_UNIT.value):
            yield f"fault.{index}.kind", f"= {shown(fault.kind)}: namespace.{fault.nsid - 1} {why}"
