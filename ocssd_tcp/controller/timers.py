"""The timers of an association: keep alive, and how long it may be there without being enabled. Sans-I/O.

Times are in seconds on the clock that `now` comes from.
"""

from __future__ import annotations

from ocssd_tcp.commands.context import KAS_MS

ASSOCIATION_SECONDS = 120.0  #: from Connect, from a reset or from a shutdown, until CC.EN = 1
IDLE_DISCOVERY_MS = 120_000  #: a discovery controller without keep alive that nobody talks to
GRACE_SECONDS = 0.5
MAX_KATO_MS = 0xFFFFFFFF


def effective_kato(kato_ms: int) -> int:
    """The timeout in effect for a requested one: rounded up to KAS, as far as 32 bits hold; 0 stays 0."""
    return min(-(-kato_ms // KAS_MS) * KAS_MS, MAX_KATO_MS)


class KeepAlive:
    """Traffic-based keep alive: it expires after one to two timeouts without traffic, and a grace period.

    Traffic on I/O queues is only a flag, so that the I/O path does not read the clock; a set flag starts a new period
    when this one ends. An end without traffic is a suspicion first. The judgement follows GRACE_SECONDS later, after
    the sockets were read once more, so an event loop that stalled for longer than the timeout kills nobody; a
    judgement that comes late is a stall, too, and is put off again.
    """

    def __init__(self, kato_ms: int) -> None:
        self._period = kato_ms / 1000
        self._suspect = False
        self.deadline: float | None = None

    def change(self, kato_ms: int) -> None:
        """Use another timeout (0: off) from the next start on."""
        self._period = kato_ms / 1000

    def start(self, now: float) -> None:
        """Begin a new period, if there is a timeout."""
        self._suspect = False
        self.deadline = now + self._period if self._period else None

    def restart(self, now: float) -> None:
        """Begin a new period if one is running."""
        if self.deadline is not None:
            self.start(now)

    def stop(self) -> None:
        """Judge nobody."""
        self.deadline = None

    def expired(self, now: float, traffic: bool) -> bool:
        """Whether the host is gone. `traffic`: whether anything arrived since the last time this was asked."""
        if self.deadline is None or now < self.deadline:
            return False
        if traffic:
            self.start(now)
            return False
        if self._suspect and now <= self.deadline + GRACE_SECONDS:
            return True
        self._suspect = True
        self.deadline = now + GRACE_SECONDS
        return False
