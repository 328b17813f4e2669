"""`python -m ocssd_tcp.cli.health FILE...`: whether the drive that a configuration describes answers.

For a container's health check: what `ocssd-tcpd --config FILE...` with the same environment serves is asked to begin
an NVMe/TCP connection, which takes a turn of its event loop. That happens every few seconds, for every drive of a
fleet: so this imports little.

Exit status: 0 it answers; 1 it does not, with a line on standard error that says why.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from ocssd_tcp.config.errors import ConfigError
from ocssd_tcp.config.load import load
from ocssd_tcp.config.values import Address

SECONDS = 4.0
_IC_BYTES = 128
_COMMON_HEADER = struct.Struct("<BBBBI")  #: type, flags, HLEN, PDO, PLEN (NVMe/TCP 3.1)
_ICREQ, _ICRESP = (_COMMON_HEADER.pack(kind, 0, _IC_BYTES, 0, _IC_BYTES) for kind in (0, 1))


def answers(address: Address) -> None:
    """ICReq, ICResp. OSError: the drive does not answer; ValueError: somebody else does."""
    with socket.create_connection(address.nearby, SECONDS) as sock:
        sock.sendall(_ICREQ.ljust(_IC_BYTES, b"\0"))
        reply = sock.recv(_IC_BYTES, socket.MSG_WAITALL)
    if not reply.startswith(_ICRESP):
        raise ValueError("what answers is no NVMe/TCP target")


def main(files: Sequence[str]) -> int:
    """The exit status."""
    where = "configuration"
    try:
        address = load([Path(name) for name in files], environment=os.environ).target.listen[0]
        where = str(address)
        answers(address)
    except (ConfigError, OSError, ValueError) as error:
        print(f"{where}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
