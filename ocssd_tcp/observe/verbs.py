"""What can be asked of a running drive, and changed about it: the verbs of the control socket (docs/control.md).

A verb is a method under `@verb`, with its arguments; `help`, the checks and the manual's table follow from that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ocssd_tcp.commands.dials import Dials, Limit
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.config.values import Kind, choice, integer, number, size
from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.media.events import Notice
from ocssd_tcp.media.filters.faults import FaultInjector
from ocssd_tcp.media.filters.latency import FLASH, LatencyParams
from ocssd_tcp.media.trace import TraceRing
from ocssd_tcp.observe.control import Argument, Json, RefusalError, Verb
from ocssd_tcp.observe.reports import about, chunk_fields, statistics
from ocssd_tcp.observe.tracing import Tracing
from ocssd_tcp.ocssd.fault_rules import FaultKind, FaultRule
from ocssd_tcp.ocssd.geometry import U32_MAX
from ocssd_tcp.ocssd.layouts import ChunkState, NotificationState
from ocssd_tcp.ocssd.lines import ANY, parse_span, span_text
from ocssd_tcp.transport.aio import Server

_TIMES = ("read_ns", "program_ns", "erase_ns", "transfer_ns")
_U64_MAX = (1 << 64) - 1


def _span(value: object) -> range:
    if type(value) is int and 0 <= value <= U32_MAX:
        return range(value, value + 1)
    if not isinstance(value, str):
        raise ValueError
    return parse_span(value)


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError
    return Path(value)


SPAN = Kind('a number, a range ("0-3"), or "*"', _span, span_text)
ABSOLUTE_PATH = Kind("an absolute path", _path, str)
_NANOSECONDS = integer(0, U32_MAX)
_WHICH_NSID = Argument("nsid", integer(1, U32_MAX), "The namespace.", default=1)
_ANY_NSID = Argument("nsid", integer(1, U32_MAX), "Only this namespace; otherwise all.")
_CHUNK = (
    _WHICH_NSID,
    Argument("grp", integer(0, U32_MAX), "Group.", required=True),
    Argument("pu", integer(0, U32_MAX), "Parallel unit of the group.", required=True),
    Argument("chk", integer(0, U32_MAX), "Chunk of the unit.", required=True),
)

_H = TypeVar("_H", bound=Callable[..., Any])
_VERBS: dict[str, tuple[str, tuple[Argument, ...], bool]] = {}


def verb(*arguments: Argument, changes: bool = False) -> Callable[[_H], _H]:
    """Make a method of `Controls` a verb: its name with dashes, its docstring what it does."""

    def register(method: _H) -> _H:
        _VERBS[method.__name__] = ((method.__doc__ or "").strip(), arguments, changes)
        return method

    return register


_NOTICES = {state.name.lower().replace("_", "-"): state for state in NotificationState if state.name}


@dataclass(frozen=True, slots=True)
class Controls:
    """The parts of a running drive that verbs look at and turn. `injectors`: by NSID, one for every namespace."""

    server: Server
    directory: Directory
    dials: Dials
    tracing: Tracing
    injectors: Mapping[int, FaultInjector]

    def verbs(self) -> dict[str, Verb]:
        """The verbs, by name."""
        return {
            name.replace("_", "-"): Verb(name.replace("_", "-"), doc, arguments, changes, getattr(self, name))
            for name, (doc, arguments, changes) in _VERBS.items()
        }

    def _namespace(self, nsid: int) -> Namespace:
        namespaces = self.directory.subsystem.namespaces
        if nsid not in namespaces:
            raise RefusalError(f"nsid {nsid}: no such namespace", f"there are: {', '.join(map(str, namespaces))}")
        return namespaces[nsid]

    def _nsids(self, nsid: int | None) -> list[int]:
        return list(self.directory.subsystem.namespaces) if nsid is None else [self._namespace(nsid).nsid]

    # --- what there is --------------------------------------------------------------------------------------

    @verb()
    async def help(self) -> list[Json]:
        """Lists the verbs and their arguments."""
        return [entry.describe() for entry in self.verbs().values()]

    @verb()
    async def info(self) -> Json:
        """Says what runs: version, engine, drive, namespaces with geometry and filters."""
        return about(self.directory)

    @verb(_ANY_NSID)
    async def statistics(self, nsid: int | None) -> Json:
        """Counts: commands, statuses and chunks of namespaces and their parallel units; controllers; connections."""
        return await statistics(self.server, self.directory, [self._namespace(one) for one in self._nsids(nsid)])

    # --- faults ---------------------------------------------------------------------------------------------

    @verb(_ANY_NSID)
    async def fault_list(self, nsid: int | None) -> list[Json]:
        """Lists what shall fail, with how often it was asked about (`matches`) and failed (`hits`)."""
        return [
            _fault_fields(one, armed.number, armed.rule) | {"matches": armed.n_matches, "hits": armed.n_hits}
            for one in self._nsids(nsid)
            for armed in self.injectors[one].rules
        ]

    @verb(
        Argument("kind", choice(*(kind.value for kind in FaultKind)), "How it fails.", required=True),
        _WHICH_NSID,
        Argument("grp", SPAN, "Groups.", default=ANY),
        Argument("pu", SPAN, "Parallel units.", default=ANY),
        Argument("chk", SPAN, "Chunks.", default=ANY),
        Argument("blk", SPAN, "Blocks of a chunk.", default=ANY),
        Argument("probability", number(0, 1), "Of each access; 1 unless `nth` is given."),
        Argument("nth", integer(1, _U64_MAX), "The n-th access that matches fails, no other."),
        Argument("seed", integer(0, U32_MAX), "Of the draws.", default=0),
        changes=True,
    )
    async def fault_add(
        self, *, kind: str, nsid: int, probability: float | None, nth: int | None, seed: int, **place: Any
    ) -> Json:
        """Makes accesses fail from now on."""
        if probability is not None and nth is not None:
            raise RefusalError("fault-add: probability and nth", "give one of them")
        chance = 1.0 if probability is None else float(probability)
        rule = FaultRule(FaultKind(kind), **place, probability=chance, nth=nth, seed=seed)
        namespace = self._namespace(nsid)
        added = self.injectors[nsid].add(rule)
        self._arm(namespace)
        return _fault_fields(nsid, added, rule)

    @verb(
        _WHICH_NSID,
        Argument("number", integer(1, _U64_MAX), "The fault, as `fault-list` numbers it.", required=True),
        changes=True,
    )
    async def fault_remove(self, nsid: int, number: int) -> Json:
        """Takes one fault away."""
        namespace = self._namespace(nsid)
        if not self.injectors[nsid].remove(number):
            raise RefusalError(f"nsid {nsid} has no fault {number}", "fault-list shows them")
        self._arm(namespace)
        return {"removed": 1}

    @verb(_ANY_NSID, changes=True)
    async def fault_clear(self, nsid: int | None) -> Json:
        """Takes all faults away."""
        removed = 0
        for one in self._nsids(nsid):
            for armed in self.injectors[one].rules:
                removed += self.injectors[one].remove(armed.number)
            self._arm(self._namespace(one))
        return {"removed": removed}

    def _arm(self, namespace: Namespace) -> None:
        """The filter is there as long as there is something to fail: without filters a namespace is faster."""
        injector = self.injectors[namespace.nsid]
        namespace.layers.faults = injector.layer if injector.rules else None
        namespace.restack()

    # --- time -----------------------------------------------------------------------------------------------

    @verb()
    async def latency_show(self) -> Json:
        """Shows the times of the flash, and whether there are any."""
        return _latency_fields(self.dials.latency)

    @verb(
        Argument("flash", choice(*FLASH), "Cells of the flash, which give the four times."),
        *(Argument(name, _NANOSECONDS, "Nanoseconds. Unchanged unless given.") for name in _TIMES),
        Argument("jitter", number(0, 1), "Standard deviation as a share of the time. Unchanged unless given."),
        Argument("seed", integer(0, U32_MAX), "Of the jitter. Unchanged unless given."),
        changes=True,
    )
    async def latency_set(self, flash: str | None, **given: Any) -> Json:
        """Gives the flash its times, from the next operation on."""
        now, changes = self.dials.latency, {name: value for name, value in given.items() if value is not None}
        if flash is not None:
            base = FLASH[flash] if now is None else replace(FLASH[flash], jitter=now.jitter, seed=now.seed)
        elif now is not None:
            base = now
        elif all(name in changes for name in _TIMES):
            base = LatencyParams(**{name: changes[name] for name in _TIMES})
        else:
            raise RefusalError("latency-set: no times are in force", f"give flash, or all of {', '.join(_TIMES)}")
        self.dials.set_latency(replace(base, **changes))
        return _latency_fields(self.dials.latency)

    @verb(changes=True)
    async def latency_off(self) -> Json:
        """Lets the drive answer at once."""
        self.dials.set_latency(None)
        return _latency_fields(None)

    @verb()
    async def limits_show(self) -> list[Json]:
        """Shows the limits in force; nsid 0 is the whole drive."""
        return [limit._asdict() for limit in self.dials.limits()]

    @verb(
        Argument("nsid", integer(0, U32_MAX), "The namespace; 0: the whole drive.", default=0),
        Argument("iops", integer(0, 1_000_000_000), "Commands per second, 0: no limit. Unchanged unless given."),
        Argument("bytes_per_second", size(0, 1 << 50), "Bytes per second, 0: no limit. Unchanged unless given."),
        changes=True,
    )
    async def limits_set(self, nsid: int, iops: int | None, bytes_per_second: int | None) -> list[Json]:
        """Limits the drive, or one namespace, from the next operation on."""
        if nsid:
            self._namespace(nsid)
        now = next((limit for limit in self.dials.limits() if limit.nsid == nsid), Limit(nsid, 0, 0))
        self.dials.set_limits(
            Limit(
                nsid,
                now.iops if iops is None else iops,
                now.bytes_per_second if bytes_per_second is None else bytes_per_second,
            )
        )
        return await self.limits_show()

    # --- chunks ---------------------------------------------------------------------------------------------

    def _chunk(self, nsid: int, grp: int, pu: int, chk: int) -> tuple[Namespace, int]:
        namespace = self._namespace(nsid)
        g = namespace.geometry
        for name, value, count in (("grp", grp, g.num_grp), ("pu", pu, g.num_pu), ("chk", chk, g.num_chk)):
            if value >= count:
                raise RefusalError(f"{name} = {value}: the drive has {count}", f"allowed: 0 to {count - 1}")
        return namespace, (grp * g.num_pu + pu) * g.num_chk + chk

    @verb(*_CHUNK)
    async def chunk_show(self, nsid: int, grp: int, pu: int, chk: int) -> Json:
        """Shows one chunk as the Chunk Information log has it."""
        return chunk_fields(*self._chunk(nsid, grp, pu, chk))

    @verb(
        *_CHUNK,
        Argument("state", choice(*(state.name.lower() for state in ChunkState)), "Its new state.", required=True),
        Argument(
            "wp",
            integer(0, U32_MAX),
            "Its write pointer, blocks; the least of an open chunk, and all of a closed one, unless given.",
        ),
        changes=True,
    )
    async def chunk_set(self, nsid: int, grp: int, pu: int, chk: int, state: str, wp: int | None) -> Json:
        """Puts one chunk into another state, checked as Set Log Page is."""
        namespace, chunk = self._chunk(nsid, grp, pu, chk)
        namespace.engine.set_chunk(chunk, ChunkState[state.upper()], wp)
        return chunk_fields(namespace, chunk)

    @verb(
        *_CHUNK,
        Argument("state", choice(*_NOTICES), "What there is to say about it.", required=True),
        changes=True,
    )
    async def chunk_notify(self, nsid: int, grp: int, pu: int, chk: int, state: str) -> Json:
        """Raises a chunk notification (log page D0h and its event), such as that of a refresh by the drive."""
        namespace, chunk = self._chunk(nsid, grp, pu, chk)
        notifications = self.directory.subsystem.notifications
        notifications.add(nsid, Notice(namespace.addresses.lba(chunk), _NOTICES[state]))
        return {"nsid": nsid, "nc": notifications.count, "state": state}

    # --- trace ----------------------------------------------------------------------------------------------

    @verb()
    async def trace_show(self) -> Json:
        """Says whether commands are recorded, where, and how many were."""
        return _trace_fields(self.tracing.ring)

    @verb(
        Argument("path", ABSOLUTE_PATH, "The file; that of the configuration, or of the last trace, unless given."),
        Argument("size", size(64 << 10, 64 << 30), "Bytes of the ring; as configured unless given."),
        changes=True,
    )
    async def trace_start(self, path: Path | None, size: int | None) -> Json:
        """Begins a trace; one that is being written ends."""
        if path is None and self.tracing.path is None:
            raise RefusalError("trace-start: the configuration names no file", "give path")
        return _trace_fields(self.tracing.start(path, size))

    @verb(changes=True)
    async def trace_stop(self) -> Json:
        """Ends the trace; its file stays."""
        if self.tracing.stop() is None:
            raise RefusalError("no trace is being written", "trace-start begins one")
        return _trace_fields(None)

    @verb(changes=True)
    async def trace_rotate(self) -> Json:
        """Keeps the trace so far as PATH.old, and begins a new one at PATH."""
        if self.tracing.ring is None:
            raise RefusalError("no trace is being written", "trace-start begins one")
        return _trace_fields(self.tracing.start())


def _fault_fields(nsid: int, number: int, rule: FaultRule) -> Json:
    place = {name: span_text(getattr(rule, name)) for name in ("grp", "pu", "chk", "blk")}
    chance = {"probability": rule.probability} if rule.nth is None else {"nth": rule.nth}
    return {"nsid": nsid, "number": number, "kind": rule.kind.value, **place, **chance, "seed": rule.seed}


def _latency_fields(params: LatencyParams | None) -> Json:
    if params is None:
        return {"on": False}
    return {"on": True, **{name: getattr(params, name) for name in (*_TIMES, "jitter", "seed")}}


def _trace_fields(ring: TraceRing | None) -> Json:
    if ring is None:
        return {"on": False}
    return {"on": True, "path": str(ring.path), "commands": ring.n_recorded, "room": ring.n_slots}
