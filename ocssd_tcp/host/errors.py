"""What can go wrong on the host side, as four exceptions under `HostError`.

The drive refused (`StatusError`), the caller asked for nonsense (`UsageError`), the connection is gone or never was
(`TransportError`), or the drive does not carry LBA lists in the form asked for (`BindingUnsupported`).
"""

from __future__ import annotations

from typing import Any

from ocssd_tcp.wire.status import Fes, describe


class HostError(Exception):
    """Any error of the host library."""


class UsageError(HostError):
    """The request is impossible before anything is sent: wrong length, LBA that does not exist, no room, bad name."""


class BindingUnsupported(UsageError):  # noqa: N818 - the word says what is missing
    """The drive does not offer a form in which this LBA list could travel."""


class TransportError(HostError):
    """The connection could not be made, was lost, or one side broke NVMe/TCP; every command on it has failed.

    `fes`: the Fatal Error Status if a TermReq PDU was sent or received.
    """

    def __init__(self, message: str, fes: Fes | None = None) -> None:
        super().__init__(message)
        self.fes = fes

    def copy(self) -> TransportError:
        """The same error, to be raised by another command of the connection."""
        return TransportError(str(self), self.fes)


class StatusError(HostError):
    """A command completed with an error status.

    `status`: SCT << 8 | SC, with DNR in bit 14. `bitmap`: of a vector command, bit i is set where entry i failed, else
    0. `failed`: the same as list indexes. `dw0`, `dw1`: as completed. `data`: what came with the error, where the
    specification says that it is good (Read High ECC; the descriptors of a vector reset), else None.
    """

    def __init__(self, status: int, command: str, dw0: int = 0, dw1: int = 0, data: Any = None) -> None:
        super().__init__(f"{command}: {describe(status)}")
        self.status = status
        self.command = command
        self.dw0 = dw0
        self.dw1 = dw1
        self.data = data
        self.bitmap = 0

    @property
    def code(self) -> int:
        """SCT << 8 | SC without DNR: comparable with `wire.status.Status`."""
        return self.status & 0x7FF

    @property
    def failed(self) -> list[int]:
        """Indexes of the list entries that failed."""
        return [i for i in range(64) if self.bitmap >> i & 1]
