"""What the live page shows, as JSON: the state of a drive, or what has changed since a viewer last heard of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any, TypeAlias

from ocssd_tcp import __version__
from ocssd_tcp.accel import engine_name
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.tally import Tally
from ocssd_tcp.controller.association import Association
from ocssd_tcp.observe.drive import Drive
from ocssd_tcp.observe.logging import RECENT, Recent
from ocssd_tcp.observe.metrics import QUANTILES, namespace_tally, opcode_name, status_name
from ocssd_tcp.observe.survey import Cache, ChunkMap, Survey, chunk_map

UPDATE_SECONDS = 1.0
MAP_SECONDS = 2.0  #: a map serves all viewers of this time
MAX_RECENT = 50
MAX_LISTED = 64  #: of controllers, and of namespaces; the numbers of all are told

Json: TypeAlias = dict[str, Any]


class Viewer:
    """One reader of the events: what it has been told, so that it hears only of changes."""

    def __init__(self, nsid: int | None) -> None:
        self.nsid = nsid
        self._parts: Json = {}
        self._rows: dict[int, object] = {}
        self._sampled = 0.0

    def news(self, state: Json) -> Json:
        """The parts of `state` that differ from what was told; of the map its rows, of the samples the new ones."""
        changed = {name: part for name, part in state.items() if self._parts.get(name) != part}
        self._parts = state
        if "map" in changed:
            rows = {row[0]: row for row in changed["map"]["rows"]}
            new = [row for index, row in rows.items() if self._rows.get(index) != row]
            changed["map"] = {**changed["map"], "rows": new}
            self._rows = dict(rows)
        if "samples" in changed:
            new = [sample for sample in changed["samples"] if sample[0] > self._sampled]
            self._sampled = max([self._sampled, *(sample[0] for sample in new)])
            changed["samples"] = new
        return changed


class Live:
    """Makes the states. `surveys`: shared with the metrics."""

    def __init__(self, drive: Drive, surveys: Cache[Survey]) -> None:
        self._drive = drive
        self._surveys = surveys
        self._maps = Cache(chunk_map, MAP_SECONDS)

    async def state(self, nsid: int | None) -> Json:
        """All there is to show, of one namespace in detail (None, or one that is not active: the first)."""
        drive = self._drive
        state: Json = {"drive": self._about(), "samples": [list(sample) for sample in drive.samples]}
        state["controllers"] = self._controllers()
        state["recent"] = [entry._asdict() for entry in self._recent()]
        directory = drive.directory
        namespaces = {} if directory is None else directory.subsystem.namespaces
        state["namespaces"] = {"number": len(namespaces), "listed": sorted(namespaces)[:MAX_LISTED]}
        namespace = namespaces.get(nsid or 0) or next(iter(namespaces.values()), None)
        if namespace is not None:
            counted = await self._surveys.get(namespace.engine)
            drawn = await self._maps.get(namespace.engine)
            state["namespace"] = _about_namespace(namespace, counted, drawn)
            state["map"] = _about_map(namespace, drawn)
        return state

    async def events(self, nsid: int | None) -> AsyncGenerator[bytes, None]:
        """Server-sent events for one viewer: everything first, then changes each second."""
        viewer = Viewer(nsid)
        yield b"retry: 2000\n\n"
        while True:
            news = viewer.news(await self.state(nsid))
            yield b"data: " + encode(news) + b"\n\n"
            await asyncio.sleep(UPDATE_SECONDS)

    def _about(self) -> Json:
        drive = self._drive
        directory = drive.directory
        return {
            "version": __version__,
            "engine": engine_name(),
            "nqn": "" if directory is None else directory.subsystem.nqn,
            "phase": drive.phase.value,
            "started": round(drive.started),
            "connections": len(drive.server.connections),
            "terminated": 0 if directory is None else directory.n_terminated,
            "lag_ms": round(drive.lag * 1000),
        }

    def _recent(self) -> list[Recent]:
        """Lines of the log, injected faults and notices to hosts, oldest first."""
        found = list(RECENT)
        directory = self._drive.directory
        if directory is not None:
            subsystem = directory.subsystem
            for nsid, injector in self._drive.injectors.items():
                for fault in injector.recent:
                    where = _place(subsystem.namespaces.get(nsid), fault.chunk, fault.lblk)
                    found.append(Recent(fault.at, "fault", fault.kind.value, f"nsid={nsid} {where}"))
            for past in subsystem.notifications.recent:
                words = (past.notice.state.name or "").lower().replace("_", " ").replace("|", ", ")
                size = f"n_blocks={past.notice.n_blocks}" if past.notice.n_blocks else "whole chunk"
                found.append(Recent(past.at, "notice", words, f"nsid={past.nsid} lba={past.notice.lba:#x} {size}"))
        return sorted(found, key=lambda entry: entry.at)[-MAX_RECENT:]

    def _controllers(self) -> Json:
        associations = self._drive.associations
        depths: Counter[Association] = Counter()
        for association, depth in self._drive.queue_depths():
            depths[association] += depth
        listed = [
            {
                "cntlid": association.cntlid,
                "hostnqn": association.hostnqn,
                "discovery": association.discovery,
                "queues": sum(1 for qid in association.queues if qid),
                "depth": depths[association],
                "errors": association.error_count,
                "kato_ms": association.kato_ms,
            }
            for association in associations[:MAX_LISTED]
        ]
        return {"number": len(associations), "listed": listed}


def _place(namespace: Namespace | None, chunk: int, lblk: int) -> str:
    """A block as operators name it: group/PU/chunk/block."""
    if namespace is None:
        return f"chunk={chunk} block={lblk}"
    pu, chk = divmod(chunk, namespace.geometry.num_chk)
    grp, pu = divmod(pu, namespace.geometry.num_pu)
    return f"at={grp}/{pu}/{chk}/{lblk}"


def encode(value: Json) -> bytes:
    """JSON in ASCII on one line."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _about_namespace(namespace: Namespace, counted: Survey, drawn: ChunkMap) -> Json:
    geometry = namespace.geometry
    return {
        "nsid": namespace.nsid,
        "uuid": str(namespace.uuid),
        "num_grp": geometry.num_grp,
        "num_pu": geometry.num_pu,
        "num_chk": geometry.num_chk,
        "clba": geometry.clba,
        "block_bytes": geometry.block_bytes,
        "metadata_bytes": geometry.metadata_bytes,
        "bytes": namespace.engine.ncap * geometry.block_stride,
        "readable": counted.readable * geometry.block_stride,
        "filtered": namespace.media is not namespace.engine,
        "n_open": namespace.engine.n_open,
        "maxoc": geometry.maxoc,
        "states": {state.name.lower(): count for state, count in counted.states.items()},
        "wear": {f"{quantile:g}": counted.wear_quantile(quantile) for quantile in QUANTILES},
        "n_resets": counted.n_resets,
        "most_resets": counted.most_resets,
        "commands": _commands(namespace_tally(namespace)),
        "open": [list(chunk) for chunk in drawn.open],
    }


def _commands(tally: Tally) -> list[tuple[str, str, int]]:
    """(opcode, status, count) of I/O commands, those that happened most first."""
    found: dict[tuple[str, str], int] = {}
    for outcome, count in tally.items():
        key = opcode_name(outcome.is_io, outcome.opcode), status_name(outcome.status)
        found[key] = found.get(key, 0) + count
    listed = sorted(found.items(), key=lambda entry: -entry[1])[:MAX_LISTED]
    return [(opcode, status, count) for (opcode, status), count in listed]


def _about_map(namespace: Namespace, drawn: ChunkMap) -> Json:
    return {
        "nsid": namespace.nsid,
        "chunks_per_cell": drawn.chunks_per_cell,
        "pus_per_row": drawn.pus_per_row,
        "rows": [[index, *row] for index, row in enumerate(drawn.rows)],
    }
