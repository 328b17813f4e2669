"""A subsystem: its NQN, namespaces, the hosts that may use it, and its controllers (NVMe Base 1.4, 1.5)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ocssd_tcp.commands.context import Health, SubsystemConfig
from ocssd_tcp.commands.health import is_spare_low
from ocssd_tcp.commands.namespace import Namespace
from ocssd_tcp.commands.tally import PlainTimes, Tally
from ocssd_tcp.controller.events import AsyncEvent
from ocssd_tcp.media.events import Notifications
from ocssd_tcp.media.trace import TraceRing

if TYPE_CHECKING:
    from ocssd_tcp.controller.association import Association

MAX_CNTLID = 0xFFEF


class Subsystem:
    """An NVM subsystem, or (`discovery`) the discovery subsystem.

    `namespaces`: active ones by NSID; change them by `add_namespace` and `remove_namespace` only. `allowed_hosts`:
    None for any. `associations`: live controllers by CNTLID. CNTLIDs are handed out in turn from `first_cntlid` on,
    so that one is not soon used again: Linux refuses a controller whose CNTLID another one of its own still has.
    `tally`: admin and fabrics commands by outcome, and I/O commands that named no active namespace.
    `trace`: where commands are recorded; None: nowhere. `times`: what times plain commands; None: nobody watches. Both
    may be changed while the drive runs.
    """

    discovery = False

    def __init__(
        self,
        nqn: str,
        config: SubsystemConfig,
        namespaces: Iterable[Namespace] = (),
        *,
        allowed_hosts: Iterable[str] | None = None,
        health: Health | None = None,
        first_cntlid: int = 1,
    ) -> None:
        self.nqn = nqn
        self.config = config
        self.namespaces = {namespace.nsid: namespace for namespace in namespaces}
        self.allowed_hosts = None if allowed_hosts is None else frozenset(allowed_hosts)
        self.health = health or Health()
        self.max_transfer = config.max_transfer
        self.notifications = Notifications()  #: about chunks, of all namespaces
        self.notifications.listener = self._chunks_changed
        for nsid, namespace in self.namespaces.items():
            namespace.engine.report_to(self.notifications.reporter(nsid))
        self.associations: dict[int, Association] = {}
        self.tally = Tally()
        self.trace: TraceRing | None = None
        self.times: PlainTimes | None = None
        self._next_cntlid = first_cntlid

    def allows(self, hostnqn: str) -> bool:
        """Whether a host may connect, and may know that this subsystem exists."""
        return self.allowed_hosts is None or hostnqn in self.allowed_hosts

    def new_cntlid(self) -> int | None:
        """A CNTLID that no live controller has, or None when there are as many controllers as there may be."""
        if len(self.associations) >= min(self.config.max_controllers, MAX_CNTLID):
            return None
        cntlid = self._next_cntlid
        while cntlid in self.associations:
            cntlid = cntlid % MAX_CNTLID + 1
        self._next_cntlid = cntlid % MAX_CNTLID + 1
        return cntlid

    def add_namespace(self, namespace: Namespace) -> None:
        """Make a namespace active and tell the hosts; ValueError if its NSID is taken."""
        if namespace.nsid in self.namespaces:
            raise ValueError(f"nsid {namespace.nsid} is active")
        self.namespaces[namespace.nsid] = namespace
        namespace.engine.report_to(self.notifications.reporter(namespace.nsid))
        self.namespace_changed(namespace.nsid)

    def remove_namespace(self, nsid: int) -> Namespace:
        """Make a namespace inactive and tell the hosts; commands that run are left to end. KeyError without it."""
        namespace = self.namespaces.pop(nsid)
        for association in self.associations.values():
            association.features.error_recovery.pop(nsid, None)
        self.namespace_changed(nsid)
        return namespace

    def _chunks_changed(self) -> None:
        """Tell every controller that log page D0h has something new, and if that leaves few chunks, so does SMART."""
        is_low = is_spare_low(self.namespaces.values())
        for association in list(self.associations.values()):
            association.raise_event(AsyncEvent.CHUNK_NOTIFICATION)
            if is_low:
                association.raise_event(AsyncEvent.SPARE_IS_LOW)

    def namespace_changed(self, nsid: int) -> None:
        """Tell every controller that a namespace came, went or changed."""
        for association in list(self.associations.values()):
            association.namespace_changed(nsid)
