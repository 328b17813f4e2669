"""Status codes: the numbers of the specifications, Do Not Retry, names, and what each outcome of the media becomes."""

from __future__ import annotations

import pytest

from ocssd_tcp.commands.status_map import NVME_STATUS, outcome
from ocssd_tcp.media.ops import MediaStatus
from ocssd_tcp.wire.status import DNR, Status, describe, on_wire

#: OCSSD 2.0, status codes: media outcome -> (SCT, SC, Do Not Retry, whether the bitmap names entries).
ON_THE_WIRE = {
    MediaStatus.OK: (0, 0x00, False, True),
    MediaStatus.INVALID_LENGTH: (0, 0x02, True, False),
    MediaStatus.INVALID_ADDRESS: (0, 0x02, True, False),
    MediaStatus.WRITE_FAULT: (2, 0x80, True, True),
    MediaStatus.OUT_OF_ORDER: (2, 0xF2, True, True),
    MediaStatus.UNWRITTEN: (2, 0x87, True, True),
    MediaStatus.OFFLINE_CHUNK: (2, 0xC0, True, True),
    MediaStatus.INVALID_RESET: (2, 0xC1, True, True),
    MediaStatus.READ_ERROR: (2, 0x81, False, True),
    MediaStatus.HIGH_ECC: (2, 0xD0, True, True),
    MediaStatus.EARLY_CLOSE: (2, 0xF1, True, True),
    MediaStatus.WRITE_NEXT_UNIT: (2, 0xF0, True, True),
    MediaStatus.ABORTED: (2, 0xF2, True, True),
    MediaStatus.INTERNAL: (0, 0x06, False, False),
}


@pytest.mark.parametrize("media", MediaStatus)
def test_each_outcome_of_the_media_has_its_status(media: MediaStatus) -> None:
    sct, sc, is_final, has_bitmap = ON_THE_WIRE[media]
    everything = (1 << 64) - 1
    status, bitmap = outcome(media, everything)
    assert on_wire(status) == sct << 8 | sc | (DNR if is_final else 0)
    assert bitmap == (everything if has_bitmap else 0)


def test_every_outcome_is_mapped() -> None:
    assert set(NVME_STATUS) == set(MediaStatus)


@pytest.mark.parametrize("status", Status, ids=lambda status: status.name)
def test_do_not_retry_is_the_only_bit_that_is_added(status: Status) -> None:
    assert on_wire(status) & ~DNR == status
    assert on_wire(on_wire(status)) == on_wire(status)


def test_success_is_never_marked() -> None:
    assert on_wire(Status.SUCCESS) == 0


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0x42F2, "Out of Order Write (2/F2h, do not retry)"),
        (0x02F2, "Out of Order Write (2/F2h)"),
        (0x4002, "Invalid Field in Command (0/02h, do not retry)"),
        (0x42C0, "Offline Chunk (2/C0h, do not retry)"),
        (0x0000, "Success (0/00h)"),
        (0x07FF, "Unknown Status (7/FFh)"),
    ],
)
def test_people_read_a_status_as_name_and_code(status: int, text: str) -> None:
    assert describe(status) == text
