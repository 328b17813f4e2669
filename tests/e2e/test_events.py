"""Chunks that misbehave: what the guest's kernel tells its user space, what log page D0h has, and what stays intact."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ocssd_tcp.accel import engine_name
from tests.e2e import ocssd_math as ocssd
from tests.e2e.connection import Connection, Namespace, heard, raw_of
from tests.e2e.drive import BLOCK, Drive, content
from tests.e2e.guest import Guest

GRP, PU = 1, 0
CHUNKS = {"read-error": 10, "high-ecc": 20, "reset-fail": 30, "early-close": 40, "write-next-unit": 50}
"""The number of the chunk of GRP and PU that has the fault, in blocks 9 and 10 if it concerns blocks."""
FAULTS = [
    {"kind": kind, "grp": GRP, "pu": PU, "chk": chk, "blk": "*" if kind == "reset-fail" else "9-10"}
    for kind, chk in CHUNKS.items()
]
LIFE = 2
"""P/E cycles of namespace 2."""

CLBA, UNIT, RUN = 64, 4, 16
"""Blocks of a chunk, ws_min, and what a vector write over all four PUs puts on each."""

AEN = "0xd00007"
"""Type 7, vendor specific; log page D0h."""
HIGH, UNRECOVERABLE, WEAR = 1 << 2, 1 << 3, 1 << 8
BLOCKS, CHUNK = 1, 2

READ_ERROR = 0x281
CLOSED_CHUNK, OFFLINE_CHUNK = ocssd.DNR | 0x280, ocssd.DNR | 0x2C0
NEXT_UNIT, EARLY_CLOSE = ocssd.DNR | 0x2F0, ocssd.DNR | 0x2F1

quietly = pytest.mark.usefixtures("clean_log")


class Entry(NamedTuple):
    """An entry of log page D0h."""

    nc: int
    lba: int
    nsid: int
    state: int
    mask: int
    nlb: int


ENTRY = struct.Struct("<QQIHB9xH30x")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Drive]:
    """A daemon whose drive has faults and wears out; each test gets a new one, for what happens to it stays."""
    drive = Drive(tmp_path, single={"pe_cycles": LIFE}, faults=FAULTS)
    drive.start()
    yield drive
    drive.stop()


def notifications(guest: Guest, connection: Connection, options: str = "") -> list[Entry]:
    """Log page D0h as nvme-cli reads it: what a reader takes who reads 4 KiB at a time."""
    page = raw_of(guest, f"get-log /dev/{connection.controller} --log-id=0xd0 --log-len=4096 --raw-binary {options}")
    return [entry for entry in map(Entry._make, ENTRY.iter_unpack(page)) if entry.nc]


def faulty(namespace: Namespace, kind: str) -> int:
    """SLBA of the chunk that has a fault."""
    return namespace.geometry().lba(GRP, PU, CHUNKS[kind])


def whole(slba: int) -> dict[str, int]:
    """The dwords that name all blocks of a chunk."""
    return ocssd.progression(CLBA, ocssd.Progression(slba, CLBA, 1, 0))


@quietly
@pytest.mark.parametrize(
    ("kind", "opcode", "ends", "told"),
    [
        ("read-error", ocssd.VECTOR_READ, (READ_ERROR, 1 << 9), (9, UNRECOVERABLE, BLOCKS)),
        ("high-ecc", ocssd.VECTOR_READ, (0, 0), (9, HIGH, BLOCKS)),
        ("reset-fail", ocssd.VECTOR_RESET, (OFFLINE_CHUNK, 1), (0, UNRECOVERABLE, CHUNK)),
    ],
)
def test_user_space_hears_of_a_chunk_and_finds_it_in_the_log(
    guest: Guest,
    connected: Connection,
    namespace: Namespace,
    events: Callable[[], list[str]],
    kind: str,
    opcode: int,
    ends: tuple[int, int],
    told: tuple[int, int, int],
) -> None:
    slba, data = faulty(namespace, kind), content(kind, CLBA)
    namespace.write(slba, data)
    assert (events(), notifications(guest, connected)) == ([], [])
    is_read = opcode == ocssd.VECTOR_READ
    cdw = whole(slba) if is_read else ocssd.inline(slba)
    done = namespace.command(opcode, receive=CLBA * BLOCK if is_read else 0, cdw=cdw)
    assert (done.status, done.result) == ends
    if kind == "high-ecc":
        assert done.data == data
    assert heard(events, 1) == [f"{connected.controller} {AEN}"]
    lblk, state, mask = told
    assert notifications(guest, connected) == [Entry(1, slba + lblk, 1, state, mask, 0)]
    assert notifications(guest, connected) == []
    assert (namespace.chunk(slba).cs == ocssd.OFFLINE) == (kind == "reset-fail")


@quietly
def test_the_next_event_comes_when_the_log_has_been_read(
    guest: Guest, connected: Connection, namespace: Namespace, events: Callable[[], list[str]]
) -> None:
    slba = faulty(namespace, "read-error")
    namespace.write(slba, content("next", CLBA))

    def fail(lblk: int, nc: int) -> Entry:
        """Read a block, which fails; what the log will say."""
        done = namespace.command(ocssd.VECTOR_READ, receive=BLOCK, cdw=ocssd.inline(slba + lblk))
        assert (done.status, done.result) == (READ_ERROR, 1)
        return Entry(nc, slba + lblk, 1, UNRECOVERABLE, BLOCKS, 0)

    event = f"{connected.controller} {AEN}"
    first = fail(9, nc=1)
    assert heard(events, 1) == [event]
    second = fail(10, nc=2)
    assert notifications(guest, connected, "--rae") == [first, second]
    third = fail(9, nc=3)
    assert notifications(guest, connected) == [first, second, third]
    fourth = fail(10, nc=4)
    # Had one of the others raised an event of its own, this would be the third or more.
    assert heard(events, 2) == [event] * 2
    assert notifications(guest, connected, "--namespace-id=2") == []
    assert notifications(guest, connected, "--namespace-id=1") == [fourth]


@quietly
def test_wear_is_told_on_the_way_and_at_the_end(
    guest: Guest, connected: Connection, single: Namespace, events: Callable[[], list[str]]
) -> None:
    slba = single.free_run(1)
    lives = [(0, ocssd.FREE, 255 // LIFE, WEAR), (OFFLINE_CHUNK, ocssd.OFFLINE, 255, UNRECOVERABLE)]
    for number, (status, cs, wli, state) in enumerate(lives, 1):
        assert single.command(ocssd.VECTOR_WRITE, send=content(number, 1), cdw=ocssd.inline(slba)).status == 0
        assert single.command(ocssd.VECTOR_RESET, cdw=ocssd.inline(slba)).status == status
        assert len(heard(events, number)) == number
        assert notifications(guest, connected) == [Entry(number, slba, 2, state, CHUNK, 0)]
        assert (single.chunk(slba).cs, single.chunk(slba).wli) == (cs, wli)
    assert [chunk.cs for chunk in single.chunks()].count(ocssd.FREE) == single.geometry().num_chunks - 1


def test_a_block_that_cannot_be_read_is_an_error_of_the_medium_to_the_block_layer(
    guest: Guest, connected: Connection, namespace: Namespace, events: Callable[[], list[str]]
) -> None:
    slba, data, position = faulty(namespace, "read-error"), content("medium", CLBA), guest.log_position()
    namespace.write(slba, data)
    done = guest.run(f"dd if={namespace.block} bs={BLOCK} skip={slba + 9} count=1 iflag=direct", check=False)
    assert done.rc == 1
    assert any("critical medium error" in record.text for record in guest.kernel_log(position))
    heard(events, 1)
    entries = notifications(guest, connected)
    # The status allows another try, and the kernel makes use of that.
    assert [entry.nc for entry in entries] == list(range(1, len(entries) + 1))
    assert {entry[1:] for entry in entries} == {(slba + 9, 1, UNRECOVERABLE, BLOCKS, 0)}
    assert len(events()) == 1
    assert namespace.read(slba, 9) == data[: 9 * BLOCK]
    assert namespace.read(slba + 11, CLBA - 11) == data[11 * BLOCK :]


@quietly
@pytest.mark.parametrize(
    ("kind", "status", "cs", "wp"),
    [("early-close", EARLY_CLOSE, ocssd.CLOSED, 8), ("write-next-unit", NEXT_UNIT, ocssd.OPEN, 12)],
)
def test_a_write_unit_that_fails_costs_no_other_chunk_anything(
    guest: Guest, drive: Drive, connected: Connection, namespace: Namespace, kind: str, status: int, cs: int, wp: int
) -> None:
    geometry, failing = namespace.geometry(), faulty(namespace, kind)
    stripe = [geometry.lba(grp, pu, CHUNKS[kind]) for grp in range(geometry.num_grp) for pu in range(geometry.num_pu)]
    expected = {slba: content(slba, CLBA) for slba in (failing - CLBA, failing + CLBA)}
    for slba, data in expected.items():
        namespace.write(slba, data)

    layout, data = ocssd.Progression(stripe[0], RUN, len(stripe), stripe[1] - stripe[0]), content(kind, CLBA)
    done = namespace.command(ocssd.VECTOR_WRITE, send=data, cdw=ocssd.progression(CLBA, layout))
    # Block 9 is of the third unit: it and the fourth one have failed, on one chunk.
    failed = range(stripe.index(failing) * RUN + 8, (stripe.index(failing) + 1) * RUN)
    assert (done.status, done.result) == (status, sum(1 << entry for entry in failed))
    states = [(chunk.cs, chunk.wp) for chunk in map(namespace.chunk, stripe)]
    assert states == [(cs, wp) if slba == failing else (ocssd.OPEN, RUN) for slba in stripe]

    for column, slba in enumerate(stripe):
        written, rest = data[column * RUN * BLOCK : (column + 1) * RUN * BLOCK], content(("rest", slba), CLBA - RUN)
        if slba != failing:
            namespace.write(slba + RUN, rest)
            expected[slba] = written + rest
        elif cs == ocssd.OPEN:
            rest = content("rest of the failing", CLBA - wp)
            namespace.write(slba + wp, rest)
            expected[slba] = written[: 8 * BLOCK] + bytes(UNIT * BLOCK) + rest
        else:
            lead = ocssd.pack_list(range(slba + wp, slba + wp + UNIT))
            again = namespace.command(ocssd.VECTOR_WRITE, send=lead + rest[: UNIT * BLOCK], cdw=ocssd.with_data(UNIT))
            assert again.status == CLOSED_CHUNK
            expected[slba] = written[: 8 * BLOCK] + bytes((CLBA - 8) * BLOCK)

    table = namespace.chunks()
    assert [chunk.slba for chunk in table if chunk.cs != ocssd.FREE] == sorted(expected)
    for goes_away in (lambda: None, drive.stop, drive.kill):
        connected.disconnect()
        goes_away()
        drive.start()
        connected = Connection.to(guest, drive)
        namespace = connected.namespace(1)
        assert namespace.chunks() == table
        for slba, data in expected.items():
            assert namespace.read(slba, CLBA) == data


@quietly
@pytest.mark.parametrize("choice", ["auto", "off"])
def test_the_daemon_serves_with_the_engine_that_the_environment_of_the_tests_asks_for(
    guest: Guest, drive: Drive, monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    monkeypatch.setenv("OCSSD_TCP_ACCEL", choice)
    assert drive.stop() == 0
    drive.start()
    # The compiled engine is loaded when the first I/O queue is connected.
    namespace = Connection.to(guest, drive).namespace(1)
    slba, data = namespace.free_run(1), content(choice, CLBA)
    namespace.write(slba, data)
    assert namespace.read(slba, CLBA) == data
    assert drive.engine() == engine_name()
