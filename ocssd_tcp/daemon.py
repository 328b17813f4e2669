"""The composition root: builds every object of a drive from the configuration, runs it, and takes it down again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import structlog
import uvloop

from ocssd_tcp import __version__
from ocssd_tcp.commands.context import Health, SubsystemConfig
from ocssd_tcp.commands.dials import Dials, Limit
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.config import ConfigError
from ocssd_tcp.config.inputs import Inputs, read_inputs
from ocssd_tcp.config.sample import effective
from ocssd_tcp.config.schema import Config
from ocssd_tcp.config.values import Address
from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.media.engine import Engine
from ocssd_tcp.media.filters.faults import FaultInjector
from ocssd_tcp.media.filters.latency import FLASH
from ocssd_tcp.media.filters.lax import Lax
from ocssd_tcp.media.filters.stack import Layers
from ocssd_tcp.media.life import Life, LifeFile, Usage
from ocssd_tcp.media.store import Store, StoreError, open_store
from ocssd_tcp.media.sync import InlineSyncer
from ocssd_tcp.observe.control import Commands, ControlServer
from ocssd_tcp.observe.service import Observatory
from ocssd_tcp.observe.systemd import Notifier, inherited
from ocssd_tcp.observe.tracing import Tracing
from ocssd_tcp.observe.verbs import Controls
from ocssd_tcp.ocssd.fault_rules import FaultKind
from ocssd_tcp.peers import Peers
from ocssd_tcp.transport.aio import Server, SocketOptions, may_use
from ocssd_tcp.transport.clock import LoopTimers

DRAIN_SECONDS = 0.5  #: for responses that are still in the queue when the daemon is told to end
IDLE_SECONDS = 0.5  #: how often the media is asked whether it has housekeeping to do
IDLE_STEP_SECONDS = 0.005  #: between two pieces of it
LIFE_SECONDS = 60.0  #: how often the counts of SMART are written down: the most that a killed daemon forgets

Announce = Callable[[str, Sequence[Address]], None]
log = structlog.get_logger("daemon")


class ThreadSyncer:
    """The media's `Syncer`: one thread, by this name, in which fdatasync may take its time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str = "sync") -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(1, name)

    def run(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Run `work` in the thread, then `done` on the loop with what it raised."""

        def ended(future: Future[None]) -> None:
            self._loop.call_soon_threadsafe(done, future.exception())

        self._pool.submit(work).add_done_callback(ended)

    def close(self) -> None:
        """Wait for what was begun."""
        self._pool.shutdown()


class Housekeeper:
    """Gives the media time for what may not happen on the data path, a small piece at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engines: Sequence[Engine]) -> None:
        self._loop = loop
        self._engines = engines
        self._timer = loop.call_later(IDLE_SECONDS, self._step)

    def _step(self) -> None:
        more = False
        for engine in self._engines:
            if engine.wants_idle:
                more = engine.idle() or more
        self._timer = self._loop.call_later(IDLE_STEP_SECONDS if more else IDLE_SECONDS, self._step)

    def close(self) -> None:
        """Stop."""
        self._timer.cancel()


class LifeKeeper:
    """Remembers the life of an open drive, and writes it down: now, every LIFE_SECONDS, and when it is closed.

    `health` has this start in it, and the namespaces have their past. `now`: seconds, monotonic. Close it before the
    store. The writing has a thread of its own, so that no Flush waits for it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        namespaces: Sequence[Namespace],
        now: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._file = LifeFile(store.path, store.uuid)
        self._namespaces = namespaces
        self._now = now
        self._is_closed = False
        self._syncer = ThreadSyncer(loop, "life")
        life = self._remember(is_new=store.is_new)
        for namespace in namespaces:
            namespace.past = life.usages.get(namespace.uuid, Usage())
        self.health = Health(
            power_cycles=life.power_cycles + 1,
            unsafe_shutdowns=life.unsafe_shutdowns + (not store.was_clean),
            power_on_seconds=life.power_on_ms / 1000,
            started=now(),
        )
        InlineSyncer().run(self._writing(), self._note)
        self._wait()

    def _remember(self, *, is_new: bool) -> Life:
        try:
            return self._file.load()
        except StoreError as error:
            if not is_new:
                log.warning("counters begin anew", why=str(error))
            return Life()

    def _writing(self) -> Callable[[], None]:
        """What writes down how it is now."""
        life = Life(
            self.health.power_cycles,
            self.health.unsafe_shutdowns,
            power_on_ms=int(self.health.age(self._now()) * 1000),
            usages={namespace.uuid: namespace.usage() for namespace in self._namespaces},
        )
        return lambda: self._file.store(life)

    def _wait(self) -> None:
        self._timer = self._loop.call_later(LIFE_SECONDS, self._begin)

    def _begin(self) -> None:
        self._syncer.run(self._writing(), self._ended)

    def _ended(self, error: BaseException | None) -> None:
        self._note(error)
        if not self._is_closed:
            self._wait()

    @staticmethod
    def _note(error: BaseException | None) -> None:
        if error is not None:
            log.warning("counters are not kept", why=str(error))

    def close(self) -> None:
        """Write it down for the last time."""
        self._is_closed = True
        self._timer.cancel()
        self._syncer.close()
        InlineSyncer().run(self._writing(), self._note)


def run(config: Config, *, announce: Announce) -> int:
    """Serve the drive until SIGTERM or SIGINT; the exit status.

    `announce(nqn, addresses)` is called once hosts are accepted, with the ports that were chosen. StoreError: the
    drive cannot be used. OSError: an address cannot be listened on (its `filename` is that address). ConfigError: this
    process has none of `target.cpus`, or may not use `target.congestion`.
    """
    if config.target.cpus:
        _pin(config.target.cpus)
    if config.target.congestion:
        _check_congestion(config.target.congestion)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(config, announce))


def _pin(cpus: Sequence[int]) -> None:
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        usable = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
        raise ConfigError("target.cpus", f"= {list(cpus)}: none is there; this process may use {usable}") from error


def _check_congestion(name: str) -> None:
    if not may_use(name):
        known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
        usable = ", ".join(filter(may_use, known.read_text().split())) if known.exists() else "others"
        raise ConfigError("target.congestion", f'= "{name}": this process may use {usable}')


async def _serve(config: Config, announce: Announce) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    target = config.target
    seed = secrets.randbelow(1 << 32)  # of faults that name none
    inputs = read_inputs(config, seed)
    server = Server(
        SocketOptions(
            in_capsule_bytes=target.in_capsule_bytes,
            congestion=target.congestion,
            poll_us=target.poll_us,
            max_connections=target.max_controllers * (target.max_queues + 1) + 1024,
        )
    )
    async with contextlib.AsyncExitStack() as undo:
        undo.callback(server.close_listeners)
        # Before the drive is touched: a port in use leaves no trace.
        addresses = [server.adopt(sock, Address) for sock in inherited(os.environ)] or server.listen(target.listen)
        observatory = Observatory(server)
        undo.callback(observatory.close)
        observed = observatory.listen(config.observe.listen)
        syncer = ThreadSyncer(loop)
        store = open_store(
            config.drive.path,
            [namespace.geometry for namespace in config.namespaces],
            [namespace.uuid for namespace in config.namespaces],
            syncer=syncer,
            keep_allocated=config.drive.keep_allocated,
            states={index: given.states for index, given in enumerate(inputs) if given.states is not None},
            failed_units=_with_failed_units(config, inputs),
        )
        undo.callback(store.close)
        undo.callback(syncer.close)
        timers = LoopTimers(loop)
        undo.callback(timers.close)
        nqn = target.nqn or f"nqn.2014-08.org.nvmexpress:uuid:{store.uuid}"
        namespaces = _namespaces(config, store)
        life = LifeKeeper(loop, store, namespaces, timers.now)
        undo.callback(life.close)
        dials = Dials(namespaces, timers)
        _dial(config, dials)
        directory = _directory(config, nqn, namespaces, addresses, life.health)
        tracing = Tracing(directory.subsystem, config.trace.path, config.trace.size, _trace_info(config, nqn))
        undo.callback(tracing.stop)
        if config.trace.path is not None:
            tracing.start()
        injectors = _arm(namespaces, inputs, seed)
        await observatory.start(directory, injectors)
        undo.push_async_callback(observatory.stop)
        control = ControlServer(Commands(Controls(server, directory, dials, tracing, injectors).verbs()))
        if config.control.socket is not None:
            await control.start(config.control.socket)
            undo.push_async_callback(control.stop)
        housekeeper = Housekeeper(loop, store.engines)
        undo.callback(housekeeper.close)
        server.start(directory)
        undo.push_async_callback(server.stop, DRAIN_SECONDS)
        peers = Peers(directory.discovery, config.discovery.peers, config.discovery.refresh_seconds, nqn)
        peers.start()
        undo.push_async_callback(peers.stop)
        gc.collect()
        gc.freeze()
        log.info("drive is open", path=str(config.drive.path), nqn=nqn, listening=[str(a) for a in addresses])
        if observed is not None:
            log.info("live page and metrics", url=f"http://{observed}/")
        announce(nqn, addresses)
        notifier = Notifier(os.environ)
        notifier.ready(f"{nqn} on {', '.join(map(str, addresses))}")
        await stopping.wait()
        log.info("drive is closing")
        notifier.stopping()
        observatory.closing()
    log.info("drive is closed")
    return 0


def _layers(config: Config, nsid: int, engine: Engine) -> Layers:
    """The filters that the configuration asks for around one namespace, but for those of `_dial` and `_arm`."""
    return Layers() if config.namespaces[nsid - 1].strict else Layers(rules=lambda _inner: Lax(engine))


def _with_failed_units(config: Config, inputs: Sequence[Inputs]) -> list[int]:
    """Indices of the namespaces whose writes may fail with Write Next Unit, now or at a word on the control socket."""
    kinds = [{rule.kind for rule in given.rules} for given in inputs]
    is_controlled = config.control.socket is not None
    return [index for index, known in enumerate(kinds) if is_controlled or FaultKind.WRITE_NEXT_UNIT in known]


def _arm(namespaces: Sequence[Namespace], inputs: Sequence[Inputs], seed: int) -> dict[int, FaultInjector]:
    """An injector for every namespace, by NSID, and its filter where there is something to fail."""
    injectors = {}
    for namespace, given in zip(namespaces, inputs, strict=True):
        skips_units = namespace.engine.keeps_failed_units
        is_strict = not namespace.engine.is_lax
        injector = FaultInjector(namespace.geometry, given.rules, skips_units=skips_units, fails_writes=is_strict)
        injectors[namespace.nsid] = injector
        if given.rules:
            namespace.layers.faults = injector.layer
            namespace.restack()
            log.info("faults are armed", nsid=namespace.nsid, n_rules=len(given.rules), seed_of_those_without=seed)
    return injectors


def _dial(config: Config, dials: Dials) -> None:
    """Set latency and limits as they are configured."""
    latency = config.latency
    if latency.is_on:
        base = FLASH[latency.flash or "tlc"]  # without `flash` all four times are there
        times = {name: value for name, value in latency.times.items() if value is not None}
        dials.set_latency(replace(base, **times, jitter=latency.jitter, seed=latency.seed))
    for limit in config.limits:
        dials.set_limits(Limit(limit.nsid, limit.iops, limit.bytes_per_second))


def _trace_info(config: Config, nqn: str) -> dict[str, object]:
    """What the header of a trace says beside the namespaces: all that a replay needs."""
    return {"version": __version__, "nqn": nqn, "configuration": effective(config)}


def _namespaces(config: Config, store: Store) -> list[Namespace]:
    """The namespaces with their filters, nsid 1 on."""
    namespaces = [
        Namespace(nsid, engine.geometry, engine, engine, engine.uuid) for nsid, engine in enumerate(store.engines, 1)
    ]
    for namespace, given in zip(namespaces, config.namespaces, strict=True):
        namespace.allow_set_log_page = given.allow_set_log_page
        namespace.layers = _layers(config, namespace.nsid, namespace.engine)
        namespace.restack()
    return namespaces


def _directory(
    config: Config, nqn: str, namespaces: Sequence[Namespace], addresses: Sequence[Address], health: Health
) -> Directory:
    """The subsystem of the drive, and its discovery service."""
    target, drive, discovery = config.target, config.drive, config.discovery
    subsystem = SubsystemConfig(
        nqn=nqn,
        serial=drive.serial,
        model=drive.model,
        firmware=__version__,
        allowed_hosts=() if discovery.only else target.allowed_hosts,
        max_queues=target.max_queues,
        queue_entries=target.queue_entries,
        max_controllers=target.max_controllers,
        in_capsule_bytes=target.in_capsule_bytes,
        mdts=target.mdts,
        listeners=addresses,
        advertise=target.advertise,
    )
    first_cntlid = 1 + secrets.randbelow(0xFFEF)
    directory = Directory(subsystem, namespaces, health=health, first_cntlid=first_cntlid)
    for address in discovery.referrals:
        directory.discovery.add_referral(address)
    return directory
