"""What a running drive says of itself to its operator, as JSON values."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from ocssd_tcp import __version__
from ocssd_tcp.accel import engine_name
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.tally import Tally
from ocssd_tcp.controller.association import Association
from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.media.table import entries_of
from ocssd_tcp.observe.survey import Pace
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import WP_UNDEFINED, ChunkState, ChunkType, parse_chunk_descriptors
from ocssd_tcp.transport.aio import Server
from ocssd_tcp.transport.connection import TargetConnection
from ocssd_tcp.wire.opcodes import command_name
from ocssd_tcp.wire.status import describe

Json = dict[str, Any]


def about(directory: Directory) -> Json:
    """What runs."""
    subsystem = directory.subsystem
    return {
        "version": __version__,
        "engine": engine_name(),
        "pid": os.getpid(),
        "nqn": subsystem.nqn,
        "serial": subsystem.config.serial,
        "model": subsystem.config.model,
        "namespaces": [_namespace(namespace) for namespace in subsystem.namespaces.values()],
    }


def _namespace(namespace: Namespace) -> Json:
    layers = namespace.layers
    return {
        "nsid": namespace.nsid,
        "uuid": str(namespace.uuid),
        "filters": [entry.name for entry in fields(layers) if getattr(layers, entry.name) is not None],
        "geometry": {entry.name: getattr(namespace.geometry, entry.name) for entry in fields(Geometry)},
    }


def chunk_fields(namespace: Namespace, chunk: int) -> Json:
    """One flat chunk as the Chunk Information log has it."""
    entry = parse_chunk_descriptors(namespace.engine.descriptor(chunk))[0]
    address = namespace.addresses.split(entry.slba)
    return {
        "nsid": namespace.nsid,
        "grp": address.grp,
        "pu": address.pu,
        "chk": address.chk,
        "slba": entry.slba,
        "state": ChunkState(entry.cs).name.lower(),
        "type": "random" if entry.ct & ChunkType.RANDOM else "sequential",
        "wli": entry.wli,
        "cnlb": entry.cnlb,
        "wp": None if entry.wp == WP_UNDEFINED else entry.wp,
    }


async def statistics(server: Server, directory: Directory, namespaces: Iterable[Namespace]) -> Json:
    """What was counted since the daemon started, and how chunks, controllers and connections are now."""
    return {
        "namespaces": [await _counts(namespace) for namespace in namespaces],
        "commands": _tally(directory.subsystem.tally),
        "controllers": [_controller(association) for association in directory.associations],
        "connections": [_connection(connection) for connection in list(server.connections)],
    }


async def _counts(namespace: Namespace) -> Json:
    """Parallel units are looked at one after the other, and hosts are served in between."""
    pace, units = Pace(), []
    for shard in namespace.engine.shards:
        states = np.bincount(entries_of(shard.table)["cs"], minlength=ChunkState.OFFLINE + 1)
        grp, pu = divmod(shard.pu, namespace.geometry.num_pu)
        resets = int(np.frombuffer(shard.wear, np.uint32).sum(dtype=np.uint64))
        counts = {state.name.lower(): int(states[state]) for state in ChunkState}
        units.append({"grp": grp, "pu": pu, **counts, "resets": resets})
        await pace()
    return {
        "nsid": namespace.nsid,
        **asdict(namespace.counters),
        **asdict(namespace.engine.stats),
        "commands": _tally(namespace.tally),
        "pus": units,
    }


def _tally(tally: Tally) -> list[Json]:
    return [
        {
            "command": command_name(outcome.opcode, is_io=outcome.is_io),
            "status": describe(outcome.status),
            "count": count,
        }
        for outcome, count in sorted(tally.items())
    ]


def _controller(association: Association) -> Json:
    return {
        "cntlid": association.cntlid,
        "subnqn": association.subnqn,
        "hostnqn": association.hostnqn,
        "queues": sorted(association.queues),
        "kato_ms": association.kato_ms,
        "errors": association.error_count,
    }


def _connection(connection: TargetConnection) -> Json:
    queue = connection.queue
    return {
        "peer": connection.peer,
        "phase": connection.phase.name.lower(),
        "cntlid": queue.association.cntlid if queue is not None else None,
        "qid": queue.qid if queue is not None else None,
        "outstanding": connection.n_outstanding,
    }
