"""The host library without `await`: the same drive, its event loop in a thread of its own.

The thread keeps the association alive between calls. A call may be interrupted (Ctrl-C): its command is then no longer
waited for, and the drive is still usable. Objects may be used by several threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ocssd_tcp.host.client import Options
from ocssd_tcp.host.discovery import discover as discover_async
from ocssd_tcp.host.drive import Drive, open_drive
from ocssd_tcp.host.errors import TransportError
from ocssd_tcp.host.identify import ControllerInfo, DiscoveryEntry, NamespaceInfo
from ocssd_tcp.ocssd.address import AddressMap
from ocssd_tcp.ocssd.layouts import GeometryPage

P = ParamSpec("P")
T = TypeVar("T")


class _Loop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ocssd-host", daemon=True)
        self._thread.start()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run a call to its end. If this thread is interrupted meanwhile, the call is cancelled."""
        if self._loop.is_closed():
            call.close()
            raise TransportError("the connection was closed")
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise TransportError("the connection was closed") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the thread; what still runs is cancelled."""
        if self._loop.is_closed():
            return
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        if task is not None:
            task.cancel()
    await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)


def _blocking(
    verb: Callable[Concatenate[Drive, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncDrive, P], T]:
    """A verb of `Drive` as a method that returns when it is done."""

    @wraps(verb)
    def call(self: SyncDrive, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(verb(self.drive, *args, **kwargs))

    return call


class SyncDrive:
    """A `Drive` whose verbs block. Close it, or use it as a context manager. `drive`: the asynchronous one."""

    def __init__(self, loop: _Loop, drive: Drive) -> None:
        self._loop = loop
        self.drive = drive

    read = _blocking(Drive.read)
    read_into = _blocking(Drive.read_into)
    write = _blocking(Drive.write)
    flush = _blocking(Drive.flush)
    reset = _blocking(Drive.reset)
    reset_with_descriptors = _blocking(Drive.reset_with_descriptors)
    dsm_reset = _blocking(Drive.dsm_reset)
    set_dulbe = _blocking(Drive.set_dulbe)
    vector_read = _blocking(Drive.vector_read)
    vector_read_into = _blocking(Drive.vector_read_into)
    vector_write = _blocking(Drive.vector_write)
    vector_copy = _blocking(Drive.vector_copy)
    stage = _blocking(Drive.stage)
    chunks = _blocking(Drive.chunks)
    chunk = _blocking(Drive.chunk)

    @property
    def geometry(self) -> GeometryPage:
        """What the drive says of itself."""
        return self.drive.geometry

    @property
    def addresses(self) -> AddressMap:
        """LBA arithmetic for this drive."""
        return self.drive.addresses

    @property
    def namespace(self) -> NamespaceInfo:
        """Identify Namespace."""
        return self.drive.namespace

    @property
    def info(self) -> ControllerInfo:
        """Identify Controller."""
        return self.drive.controller.info

    @property
    def block_bytes(self) -> int:
        """Bytes of a logical block as it travels, with its metadata."""
        return self.drive.block_bytes

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Run any coroutine of `drive` or its controller, and wait for it."""
        return self._loop.run(call)

    def close(self) -> None:
        """Orderly shutdown; the drive cannot be used afterwards."""
        try:
            self._loop.run(self.drive.controller.close())
        except TransportError:
            pass  # closed before
        finally:
            self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def connect(
    address: str = "127.0.0.1", port: int = 4420, nqn: str | None = None, *, nsid: int = 1, **options: Any
) -> SyncDrive:
    """Connect to a drive and open namespace `nsid`. `options`: fields of `Options`.

    TransportError, StatusError or UsageError, as `Controller.connect` and `Drive.open`.
    """
    loop = _Loop()
    try:
        return SyncDrive(loop, loop.run(open_drive(address, port, nqn, nsid=nsid, options=Options(**options))))
    except BaseException:
        loop.stop()
        raise


def discover(address: str = "127.0.0.1", port: int = 4420, **options: Any) -> list[DiscoveryEntry]:
    """The discovery log at `address`:`port`."""
    loop = _Loop()
    try:
        return loop.run(discover_async(address, port, Options(**options)))
    finally:
        loop.stop()
