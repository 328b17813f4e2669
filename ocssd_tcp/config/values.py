"""The kinds of value a key can have: how each is read from TOML, written back, and described.

A kind's `parse` takes what tomllib gave and returns the value the daemon works with, or raises ValueError (with a
reason, where one says more than `allowed` does). It touches no file and looks up no name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from ocssd_tcp.ocssd.lines import parse_span, span_text

NQN_BYTES = 223  #: NVMe Base, NVMe Qualified Names: the longest, without the terminating zero
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"

_UUID_NQN = "nqn.2014-08.org.nvmexpress:uuid:"
_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,15})\s*(B|KiB|MiB|GiB|TiB)?", re.IGNORECASE)
_NQN = re.compile(r"nqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:.+)?")
_PEER = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]+)(?::([0-9]{1,5}))?")
_DNS_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?")
_DEFAULT_PORT = 4420
_SHOWN_CHARACTERS = 80


class Address(NamedTuple):
    """Where to listen or connect: a numeric IPv4 or IPv6 address (of a peer: or a name), and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        """As it is written in the configuration: an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def nearby(self) -> Address:
        """Where a host on this machine connects to: "all addresses" is none that can be connected to."""
        return self._replace(host={"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host))


@dataclass(frozen=True, slots=True)
class Kind:
    """`allowed`: what may be written, in words. `parse`: TOML value -> value. `plain`: value -> TOML value."""

    allowed: str
    parse: Callable[[object], Any]
    plain: Callable[[Any], object] = lambda value: value


def integer(low: int, high: int) -> Kind:
    """A whole number from `low` to `high`, both included."""

    def parse(value: object) -> int:
        if type(value) is not int or not low <= value <= high:  # a TOML boolean is a Python int
            raise ValueError
        return value

    return Kind(f"a whole number from {low} to {high}", parse)


def number(low: float, high: float) -> Kind:
    """A number, whole or not, from `low` to `high`, both included."""

    def parse(value: object) -> float:
        if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
            raise ValueError  # NaN too: it compares to nothing
        return float(value)  # type: ignore[arg-type]

    return Kind(f"a number from {low} to {high}", parse)


def _byte_count(value: object) -> int:
    if type(value) is int:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError
    return int(match[1]) * _UNITS[(match[2] or "").lower()]


def size(low: int, high: int, multiple: int = 1) -> Kind:
    """A number of bytes from `low` to `high`, as a number or as text with a unit ("8KiB")."""

    def parse(value: object) -> int:
        n_bytes = _byte_count(value)
        if not low <= n_bytes <= high or n_bytes % multiple:
            raise ValueError
        return n_bytes

    step = f", a multiple of {multiple}" if multiple > 1 else ""
    return Kind(f'bytes, {low} to {high}{step}; also as text ("8KiB")', parse)


def size_choice(*choices: int) -> Kind:
    """One of a few numbers of bytes, as a number or as text with a unit."""

    def parse(value: object) -> int:
        n_bytes = _byte_count(value)
        if n_bytes not in choices:
            raise ValueError
        return n_bytes

    return Kind(_either(map(str, choices)) + " bytes", parse)


def choice(*choices: str | int) -> Kind:
    """One of the given values."""

    def parse(value: object) -> str | int:
        for candidate in choices:
            if type(value) is type(candidate) and value == candidate:
                return candidate
        raise ValueError

    return Kind(_either(map(toml, choices)), parse)


def _either(texts: Iterable[str]) -> str:
    *most, last = texts
    return f"{', '.join(most)} or {last}" if most else last


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def ascii_text(longest: int) -> Kind:
    """1 to `longest` printable ASCII characters: what an Identify string holds."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= longest:
            raise ValueError
        if not (value.isascii() and value.isprintable()):
            raise ValueError("not printable ASCII")
        return value

    return Kind(f"text of 1 to {longest} printable ASCII characters", parse)


def matching(pattern: str, allowed: str) -> Kind:
    """Text that `pattern` matches as a whole."""
    compiled = re.compile(pattern)

    def parse(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError
        return value

    return Kind(allowed, parse)


def list_of(kind: Kind, *, may_be_empty: bool) -> Kind:
    """A TOML array of `kind`, without repetitions; parsed to a tuple."""

    def parse(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("not a list")
        if not value and not may_be_empty:
            raise ValueError("an empty list")
        entries = []
        for entry in value:
            try:
                parsed = kind.parse(entry)
            except ValueError as error:
                raise ValueError(f"{toml(entry)}: {error}" if str(error) else f"not {toml(entry)}") from None
            if parsed in entries and getattr(parsed, "port", None) != 0:  # each port 0 is another port
                raise ValueError(f"{toml(entry)} twice")
            entries.append(parsed)
        return tuple(entries)

    return Kind(f"a list of {kind.allowed}", parse, lambda value: [kind.plain(entry) for entry in value])


def _split_address(value: object) -> Address:
    if not isinstance(value, str):
        raise ValueError
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError("no port from 0 to 65535 at its end")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError("names are not looked up, an IPv6 address stands in brackets") from None
    if bracketed != (address.version == 6):
        raise ValueError("an IPv6 address, and no other, stands in brackets")
    return Address(str(address), int(port))


def _advertised(value: object) -> Address:
    address = _split_address(value)
    if address.port == 0:
        raise ValueError("port 0 cannot be connected to")
    if ipaddress.ip_address(address.host).is_unspecified:
        raise ValueError("no host can connect to that address")
    return address


def _peer(value: object) -> Address:
    match = _PEER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("an IPv6 address stands in brackets" if isinstance(value, str) else "")
    host, port = match[1], int(match[2] or _DEFAULT_PORT)
    if host.startswith("[") or re.fullmatch("[0-9.]+", host):
        return _advertised(f"{host}:{port}")
    if not _DNS_NAME.fullmatch(host):
        raise ValueError("not a host name")
    if not 0 < port <= 65535:
        raise ValueError("no port from 1 to 65535 at its end")
    return Address(host, port)


def _nqn(value: object) -> str:
    name = _host_nqn(value)
    if name == DISCOVERY_NQN:
        raise ValueError("that is the discovery subsystem's")
    if not _NQN.fullmatch(name):
        raise ValueError
    if name.startswith(_UUID_NQN):
        try:
            canonical = str(UUID(name.removeprefix(_UUID_NQN)))
        except ValueError:
            canonical = ""
        if name.removeprefix(_UUID_NQN).lower() != canonical:
            raise ValueError("no UUID after uuid:")
    return name


def _host_nqn(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    if not value.isprintable():
        raise ValueError("not printable")
    if len(value.encode()) > NQN_BYTES:
        raise ValueError(f"{len(value.encode())} bytes")
    return value


def _uuid(value: object) -> UUID:
    if not isinstance(value, str) or len(value) != 36:
        raise ValueError
    uuid = UUID(value)
    if not uuid.int:
        raise ValueError("all zeros means none")
    return uuid


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return Path(value)


def _span(value: object) -> range:
    if type(value) is int and value >= 0:
        return range(value, value + 1)
    if not isinstance(value, str):
        raise ValueError
    return parse_span(value)


BOOLEAN = Kind("true or false", _boolean)
LISTEN = Kind('addresses with a port ("127.0.0.1:4420", "[::1]:4420"; port 0 picks one)', _split_address, str)
LISTEN_OR_NOT = Kind(
    'an address with a port ("127.0.0.1:9420", "[::1]:9420"; port 0 picks one), or ""',
    lambda value: None if value == "" else _split_address(value),
    str,
)
ADVERTISE = Kind('addresses with a port ("10.0.2.2:4420", "[fd00::1]:4420")', _advertised, str)
PEER = Kind(f'names or addresses, with or without a port ("drive7", "10.0.2.2:{_DEFAULT_PORT}")', _peer, str)
NQN = Kind(
    f'"nqn.yyyy-mm.reverse.domain:name" or "{_UUID_NQN}<uuid>", at most {NQN_BYTES} bytes',
    _nqn,
)
HOST_NQN = Kind(f"host NQNs of 1 to {NQN_BYTES} bytes", _host_nqn)
UUID_TEXT = Kind("a UUID, 8-4-4-4-12 hexadecimal digits, not all zero", _uuid, str)
SPAN = Kind('a number, a range ("0-3"), or "*"', _span, span_text)
PATH = Kind("a path", _path, str)
OPTIONAL_PATH = Kind('a path, or "" for none', lambda value: None if value == "" else _path(value), str)


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(map(_escaped, value)) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, int) and value.bit_length() > 64:
        return hex(value)  # Python refuses to write very long numbers in decimal
    return str(value)


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08X}"


def shown(value: object) -> str:
    """A value as a message quotes it: as TOML, cut where it gets long."""
    text = toml(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
