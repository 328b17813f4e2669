"""Flush and FUA: which chunk tables go to the disk, in which order, and who is told when.

The waiting happens off the event loop, in a `Syncer` that the daemon gives. Here is no thread and no asyncio; one
job runs at a time, and requests that arrive meanwhile share the next.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from ocssd_tcp.media.shard import PuShard

Done = Callable[[bool], None]


class Syncer(Protocol):
    """Where the media waits for the disk."""

    def run(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Run `work` in the one worker thread, in order; then call `done` on the loop with what it raised, or None."""
        ...


class InlineSyncer:
    """A syncer that waits: for tools, for tests, and for the end of a drive."""

    def run(self, work: Callable[[], None], done: Callable[[BaseException | None], None]) -> None:
        """Run `work` at once, then `done`."""
        failure: BaseException | None = None
        try:
            work()
        except Exception as error:
            failure = error
        done(failure)


class _Request(NamedTuple):
    shards: frozenset[PuShard]
    done: Done


class Flusher:
    """Makes shards durable, on request. `done(ok)` is called for every request, in order, perhaps at once.

    Not ok: the disk refused. What a failed fdatasync lost cannot be known, so the shards of that job stay failed until
    the drive is opened again.
    """

    def __init__(self, syncer: Syncer) -> None:
        self._syncer = syncer
        self._waiting: list[_Request] = []
        self._is_running = False
        self._is_closed = False
        #: held by the job that writes, so that closing the drive waits for it
        self._writing = threading.Lock()

    def request(self, shards: Iterable[PuShard], done: Done) -> None:
        """Make durable all that `shards` hold now, then call `done`."""
        self._waiting.append(_Request(frozenset(shards), done))
        if not self._is_running:
            self._start()

    def _start(self) -> None:
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        if self._is_closed:
            for request in batch:
                request.done(False)
            return
        shards = frozenset[PuShard]().union(*(request.shards for request in batch))
        snapshots = [shard.snapshot() for shard in shards if shard.dirty[0] and not shard.has_failed]
        if not snapshots:
            self._finish(batch)
            return

        def work() -> None:
            with self._writing:
                if self._is_closed:
                    # The drive may be another process's by now.
                    raise OSError(errno.EBADF, "the drive was closed")
                for snapshot in snapshots:
                    snapshot.store()

        def done(failure: BaseException | None) -> None:
            self._is_running = False
            for snapshot in snapshots:
                snapshot.settle(is_durable=failure is None)
            self._finish(batch)

        self._is_running = True
        self._syncer.run(work, done)

    def _finish(self, batch: list[_Request]) -> None:
        for request in batch:
            request.done(not any(shard.has_failed for shard in request.shards))
        if not self._is_running:
            self._start()

    def close(self, shards: Iterable[PuShard]) -> bool:
        """Wait for the job that is being written, then make `shards` durable here. False if the disk refused."""
        with self._writing:
            self._is_closed = True
        outcome: list[bool] = []
        inline = Flusher(InlineSyncer())
        inline.request(shards, outcome.append)
        return outcome[0]
