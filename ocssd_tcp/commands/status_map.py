"""What each outcome of the media is on the wire: the one place (OCSSD 2.0 status codes; NVMe media errors)."""

from __future__ import annotations

from ocssd_tcp.media.ops import MediaStatus
from ocssd_tcp.wire.status import Status

NVME_STATUS: dict[MediaStatus, Status] = {
    MediaStatus.OK: Status.SUCCESS,
    MediaStatus.INVALID_LENGTH: Status.INVALID_FIELD,
    MediaStatus.INVALID_ADDRESS: Status.INVALID_FIELD,
    MediaStatus.WRITE_FAULT: Status.WRITE_FAULT,
    MediaStatus.OUT_OF_ORDER: Status.OUT_OF_ORDER_WRITE,
    MediaStatus.UNWRITTEN: Status.DEALLOCATED_OR_UNWRITTEN,
    MediaStatus.OFFLINE_CHUNK: Status.OFFLINE_CHUNK,
    MediaStatus.INVALID_RESET: Status.INVALID_RESET,
    MediaStatus.READ_ERROR: Status.UNRECOVERED_READ_ERROR,
    MediaStatus.HIGH_ECC: Status.READ_HIGH_ECC,
    MediaStatus.EARLY_CLOSE: Status.WRITE_FAIL_CHUNK_EARLY_CLOSE,
    MediaStatus.WRITE_NEXT_UNIT: Status.WRITE_FAIL_WRITE_NEXT_UNIT,
    MediaStatus.ABORTED: Status.OUT_OF_ORDER_WRITE,
    MediaStatus.INTERNAL: Status.INTERNAL_ERROR,
}

#: Refused before any entry was looked at: DW0 and DW1 are zero. For all others the bitmap names the entries at fault.
_ARGUMENT_ERRORS = frozenset({Status.INVALID_FIELD, Status.INTERNAL_ERROR})


def outcome(status: MediaStatus, bitmap: int) -> tuple[Status, int]:
    """The NVMe status of a vector operation, and the bitmap that goes into DW0 (low half) and DW1."""
    nvme = NVME_STATUS[status]
    return nvme, 0 if nvme in _ARGUMENT_ERRORS else bitmap
