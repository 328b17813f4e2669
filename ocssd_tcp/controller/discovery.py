"""The discovery subsystem: which subsystems a host can reach, and where (NVMe-oF 1.1, 5)."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ocssd_tcp.commands.context import Address, SubsystemConfig
from ocssd_tcp.controller.events import AsyncEvent
from ocssd_tcp.controller.subsystem import Subsystem
from ocssd_tcp.wire.layouts import DISCOVERY_ENTRY, DISCOVERY_HEADER
from ocssd_tcp.wire.opcodes import DISCOVERY_NQN, DYNAMIC_CNTLID, ELSEWHERE_PORTID

_TRTYPE_TCP = 3
_SUBTYPE_REFERRAL, _SUBTYPE_NVM, _SUBTYPE_THIS = 1, 2, 3
_TREQ_NO_SQ_FLOW = 4  #: SQ flow control may be disabled; the secure channel is not specified
_EFLAGS_PERSISTENT = 3  #: the same from every connection; persistent connections are served
_ASQSZ = 128

Hosts = frozenset[str]


class _Port(NamedTuple):
    """Where a host can reach us. `portid`: of the listener."""

    portid: int
    address: str
    port: int


class Elsewhere(NamedTuple):
    """A subsystem of another drive, as that drive describes it. `address`: literal."""

    nqn: str
    address: str
    port: int
    treq: int = _TREQ_NO_SQ_FLOW
    asqsz: int = _ASQSZ
    sectype: int = 0


def _literal(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address without its zone, as IPv4 if it is one in IPv6 clothes; ValueError if it is not literal."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return getattr(parsed, "ipv4_mapped", None) or parsed


class Discovery(Subsystem):
    """The discovery subsystem of one NVM subsystem, reachable on every listener by any host.

    GENCTR counts, for each host, the changes that the host can see.
    """

    discovery = True

    def __init__(self, config: SubsystemConfig, subsystem: Subsystem, *, first_cntlid: int = 1) -> None:
        super().__init__(DISCOVERY_NQN, config, first_cntlid=first_cntlid)
        self._subsystem = subsystem
        self._ports: list[_Port] = []
        self._referrals: list[Address] = []
        self._elsewhere: list[bytes] = []  #: entries
        self._common_changes = 0
        self._changes: Counter[str] = Counter()  #: by hosts that an access list names
        self._set_ports(config.listeners, config.advertise)

    def set_listeners(self, listeners: Sequence[Address], advertise: Sequence[Address] = ()) -> None:
        """Say where hosts are accepted, and what is reported instead. ValueError: not a literal address."""
        before = list(self._ports)
        self._set_ports(listeners, advertise)
        if self._ports != before:
            self._changed_for_all()

    def _set_ports(self, listeners: Sequence[Address], advertise: Sequence[Address]) -> None:
        addresses = advertise or listeners
        self._ports = [_Port(i, str(_literal(address)), port) for i, (address, port) in enumerate(addresses, 1)]

    def add_referral(self, address: Address) -> None:
        """Refer hosts to another discovery service. ValueError: not a literal address."""
        referral = (str(_literal(address[0])), address[1])
        if referral not in self._referrals:
            self._referrals.append(referral)
            self._changed_for_all()

    def remove_referral(self, address: Address) -> None:
        """Refer to it no more; without such a referral nothing changes. ValueError: not a literal address."""
        referral = (str(_literal(address[0])), address[1])
        if referral in self._referrals:
            self._referrals.remove(referral)
            self._changed_for_all()

    def set_elsewhere(self, subsystems: Iterable[Elsewhere]) -> None:
        """Tell every host of these too, but for what has our own name. ValueError: not a literal address."""
        others = {each for each in subsystems if each.nqn != self._subsystem.nqn}
        entries = [
            _entry(
                _SUBTYPE_NVM,
                each.nqn,
                _Port(ELSEWHERE_PORTID, str(_literal(each.address)), each.port),
                treq=each.treq,
                asqsz=each.asqsz,
                sectype=each.sectype,
            )
            for each in sorted(others)
        ]
        if entries != self._elsewhere:
            self._elsewhere = entries
            self._changed_for_all()

    def access_changed(self, before: Hosts | None, after: Hosts | None) -> None:
        """The subsystem's access list is another. A change from or to "any host" is everyone's."""
        if before == after:
            return
        if before is None or after is None:
            self._changed_for_all()
            return
        concerned = before ^ after
        self._changes.update(concerned)
        self._notify(concerned)

    def _changed_for_all(self) -> None:
        self._common_changes += 1
        self._notify(None)

    def _notify(self, hosts: Iterable[str] | None) -> None:
        for association in list(self.associations.values()):
            if hosts is None or association.hostnqn in hosts:
                association.raise_event(AsyncEvent.DISCOVERY_CHANGED)

    def discovery_page(self, hostnqn: str, local: Address) -> bytes:
        """Log page 70h for a host whose connection arrived at `local`."""
        entries = [_entry(*record) for record in self._records(hostnqn, local)] + self._elsewhere
        genctr = 1 + self._common_changes + self._changes[hostnqn]
        return DISCOVERY_HEADER.pack(genctr=genctr, numrec=len(entries)) + b"".join(entries)

    def _records(self, hostnqn: str, local: Address) -> Iterator[tuple[int, str, _Port]]:
        """(SUBTYPE, NQN, where) of each entry."""
        ports = list(self._reachable(local))
        if self._subsystem.allows(hostnqn):
            yield from ((_SUBTYPE_NVM, self._subsystem.nqn, port) for port in ports)
        yield from ((_SUBTYPE_THIS, DISCOVERY_NQN, port) for port in ports)
        for address, service in self._referrals:
            yield _SUBTYPE_REFERRAL, DISCOVERY_NQN, _Port(0, address, service)

    def _reachable(self, local: Address) -> Iterator[_Port]:
        """The ports; for one that is bound to any address, the address that this host's connection arrived at."""
        arrived = _literal(local[0])
        for port in self._ports:
            bound = _literal(port.address)
            if not bound.is_unspecified:
                yield port
            elif bound.version == arrived.version:
                yield port._replace(address=str(arrived))


def _entry(
    subtype: int, nqn: str, port: _Port, *, treq: int = _TREQ_NO_SQ_FLOW, asqsz: int = _ASQSZ, sectype: int = 0
) -> bytes:
    return DISCOVERY_ENTRY.pack(
        trtype=_TRTYPE_TCP,
        adrfam=1 if _literal(port.address).version == 4 else 2,
        subtype=subtype,
        treq=treq,
        portid=port.portid,
        cntlid=DYNAMIC_CNTLID,
        asqsz=asqsz,
        eflags=_EFLAGS_PERSISTENT if subtype == _SUBTYPE_THIS else 0,
        trsvcid=str(port.port).encode().ljust(32),
        subnqn=nqn.encode(),
        traddr=port.address.encode().ljust(256),
        sectype=sectype,
    )
