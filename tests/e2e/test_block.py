"""The drive as an ordinary block device, used as its rules demand: in order, in whole write units."""

from __future__ import annotations

import pytest

from tests.e2e import ocssd_math as ocssd
from tests.e2e.connection import Connection, Namespace
from tests.e2e.drive import BLOCK, Drive, content
from tests.e2e.guest import Guest

CLEAN = pytest.mark.usefixtures("clean_log")

FIO = (
    "fio --name=verified --direct=1 --bs=16k --verify=crc32c --verify_fatal=1 --verify_state_save=0 --thread "
    "--output-format=terse --filename={device} --offset={offset} --size={size} "
)


@CLEAN
@pytest.mark.parametrize("options", ["", "-g -G", "-g", "-G"])
def test_a_chunk_written_in_order_is_found_after_reconnect(guest: Guest, drive: Drive, options: str) -> None:
    connection = Connection.to(guest, drive, options)
    namespace = connection.namespace(1)
    slba, data = namespace.free_run(1), content(options, 64)
    namespace.write(slba, data)
    chunk = namespace.chunk(slba)
    assert (chunk.cs, chunk.wp) == (ocssd.CLOSED, 64)
    connection.disconnect()

    connection = Connection.to(guest, drive, options)
    assert connection.namespace(1).read(slba, 64) == data
    connection.disconnect()


@CLEAN
@pytest.mark.parametrize(("skip", "blocks"), [(0, 1), (1, 3), (5, 17), (63, 1)])
def test_reads_start_and_end_anywhere(namespace: Namespace, skip: int, blocks: int) -> None:
    slba, data = namespace.free_run(1), content("anywhere", 64)
    namespace.write(slba, data)
    assert namespace.read(slba + skip, blocks) == data[skip * BLOCK : (skip + blocks) * BLOCK]


@CLEAN
def test_the_last_blocks_of_an_open_chunk_are_not_readable_yet(namespace: Namespace) -> None:
    slba, data, window = namespace.free_run(1), content("window", 32), namespace.geometry().mw_cunits
    namespace.write(slba, data)
    chunk = namespace.chunk(slba)
    assert (chunk.cs, chunk.wp) == (ocssd.OPEN, 32)
    readable = 32 - window
    assert namespace.read(slba, 32) == data[: readable * BLOCK] + bytes(window * BLOCK)


@CLEAN
def test_filling_a_chunk_makes_all_of_it_readable(namespace: Namespace) -> None:
    slba, data = namespace.free_run(1), content("filled", 64)
    namespace.write(slba, data[: 40 * BLOCK])
    namespace.write(slba + 40, data[40 * BLOCK :])
    assert namespace.read(slba, 64) == data


@CLEAN
def test_addresses_without_a_chunk_read_as_zeros(namespace: Namespace) -> None:
    geometry = namespace.geometry()
    hole = geometry.lba(1, 0, geometry.num_chk)
    assert namespace.read(hole, 16) == bytes(16 * BLOCK)


@CLEAN
def test_free_chunks_read_as_zeros(namespace: Namespace) -> None:
    assert namespace.read(namespace.free_run(1), 64) == bytes(64 * BLOCK)


@CLEAN
def test_flush_succeeds(guest: Guest, namespace: Namespace) -> None:
    namespace.write(namespace.free_run(1), content("flushed", 8))
    guest.run(f"nvme flush {namespace.block} --namespace-id=1")


@CLEAN
def test_fio_verifies_what_it_wrote_in_order(guest: Guest, namespace: Namespace) -> None:
    chunks = 4
    slba = namespace.free_run(chunks)
    job = FIO.format(device=namespace.block, offset=slba * BLOCK, size=chunks * 64 * BLOCK)
    guest.run(job + "--rw=write --ioengine=psync --do_verify=0 --fsync_on_close=1", timeout=300)
    first = namespace.geometry().index(slba)
    assert {(chunk.cs, chunk.wp) for chunk in namespace.chunks()[first : first + chunks]} == {(ocssd.CLOSED, 64)}
    guest.run(job + "--rw=randread --ioengine=libaio --iodepth=16", timeout=300)
    guest.run(job + "--rw=read --ioengine=psync", timeout=300)


def test_fio_notices_data_that_are_not_its_own(guest: Guest, namespace: Namespace) -> None:
    slba = namespace.free_run(1)
    namespace.write(slba, content("foreign", 64))
    job = FIO.format(device=namespace.block, offset=slba * BLOCK, size=64 * BLOCK)
    assert guest.run(job + "--rw=randread --ioengine=psync", timeout=300, check=False).rc != 0


def test_a_write_away_from_the_write_pointer_fails_and_changes_nothing(guest: Guest, namespace: Namespace) -> None:
    slba = namespace.free_run(1)
    done = guest.run(
        f"dd if=/dev/zero of={namespace.block} bs={4 * BLOCK} seek={slba // 4 + 1} count=1 oflag=direct", check=False
    )
    assert done.rc != 0
    assert "error" in done.err.lower()
    chunk = namespace.chunk(slba)
    assert (chunk.cs, chunk.wp) == (ocssd.FREE, 0)


@CLEAN
@pytest.mark.parametrize("written", [64, 8], ids=["closed", "open"])
def test_dsm_resets_a_chunk(guest: Guest, namespace: Namespace, written: int) -> None:
    slba = namespace.free_run(1)
    namespace.write(slba, content("dsm", written))
    guest.run(f"nvme dsm {namespace.block} --namespace-id=1 --ad --slbs={slba} --blocks=64")
    chunk = namespace.chunk(slba)
    assert (chunk.cs, chunk.wp) == (ocssd.FREE, 0)
    assert namespace.read(slba, 64) == bytes(64 * BLOCK)
    namespace.write(slba, content("dsm again", 64))
    assert namespace.read(slba, 64) == content("dsm again", 64)


@CLEAN
def test_dsm_resets_several_ranges_in_one_command(guest: Guest, namespace: Namespace) -> None:
    slba = namespace.free_run(3)
    for number in range(3):
        namespace.write(slba + number * 64, content(number, 64))
    guest.run(f"nvme dsm {namespace.block} --namespace-id=1 --ad --slbs={slba},{slba + 128} --blocks=64,64")
    first = namespace.geometry().index(slba)
    assert [chunk.cs for chunk in namespace.chunks()[first : first + 3]] == [ocssd.FREE, ocssd.CLOSED, ocssd.FREE]
    assert namespace.read(slba + 64, 64) == content(1, 64)


@CLEAN
def test_dsm_of_a_free_chunk_is_an_invalid_reset(guest: Guest, namespace: Namespace) -> None:
    slba = namespace.free_run(1)
    done = guest.run(f"nvme dsm {namespace.block} --namespace-id=1 --ad --slbs={slba} --blocks=64", check=False)
    assert done.rc != 0
    assert "42c1" in (done.out + done.err).lower()
