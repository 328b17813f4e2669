"""Controllers: start-up, admin commands, events, discovery, and what becomes of a lost connection."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ocssd_tcp.host import Controller, Drive, HostError, Options, StatusError, TransportError, UsageError
from ocssd_tcp.host.connection import Command, sqe
from ocssd_tcp.host.discovery import discover, find_subsystem
from ocssd_tcp.wire.opcodes import DISCOVERY_NQN, Admin, Fctype, Feature, Io, LogPage, Property
from ocssd_tcp.wire.status import DNR, Status
from tests.support_fake_target import NQN, Answer, FakeTarget

HOST = "127.0.0.1"


async def connected(target: FakeTarget, **options: Any) -> Controller:
    return await Controller.connect(HOST, target.port, NQN, Options(**options))


def sent(target: FakeTarget, opcode: int, qid: int | None = None) -> list[dict[str, Any]]:
    return [fields for at, fields, _ in target.log if fields["opc"] == opcode and qid in (None, at)]


async def test_start_up_follows_the_specification() -> None:
    with FakeTarget().running() as target:
        async with await connected(target, queues=2, queue_size=64, kato_ms=15000, hostid=b"H" * 16) as controller:
            assert (controller.cntlid, controller.vs, len(controller.io_queues)) == (7, 0x10400, 2)
            assert controller.info.model == "Fake Drive"
            assert controller.info.version_text == "1.4.0"
            assert controller.max_transfer == 4096 << target.mdts
        names = [(qid, f["opc"], f["nsid"] if f["opc"] == Admin.FABRICS else None) for qid, f, _ in target.log[:8]]
        assert names == [
            (-1, Admin.FABRICS, Fctype.CONNECT),
            (0, Admin.FABRICS, Fctype.PROPERTY_GET),
            (0, Admin.FABRICS, Fctype.PROPERTY_GET),
            (0, Admin.FABRICS, Fctype.PROPERTY_SET),
            (0, Admin.FABRICS, Fctype.PROPERTY_GET),
            (0, Admin.IDENTIFY, None),
            (0, Admin.SET_FEATURES, None),
            (-1, Admin.FABRICS, Fctype.CONNECT),
        ]
        admin, io = target.log[0], target.log[7]
        assert admin[1]["raw"][40:52].hex(" ") == "00 00 00 00 1f 00 00 00 98 3a 00 00"  # SQSIZE 31, KATO 15,000 ms
        assert io[1]["raw"][44:52].hex(" ") == "3f 00 00 00 00 00 00 00"
        assert admin[2][:18] == b"H" * 16 + b"\xff\xff"
        assert io[2][16:18] == b"\x07\0"
        last_set = [f for f in sent(target, Admin.FABRICS) if f["nsid"] == Fctype.PROPERTY_SET][-1]
        assert last_set["cdw12"] >> 14 & 3 == 1  # CC.SHN: a normal shutdown


async def test_fewer_queues_than_asked_for_are_used() -> None:
    with FakeTarget(max_queues=2).running() as target:
        async with await connected(target, queues=8) as controller:
            assert len(controller.io_queues) == 2


async def test_without_queues_there_are_no_io_commands() -> None:
    with FakeTarget().running() as target:
        async with await connected(target, queues=0) as controller:
            drive = await Drive.open(controller)
            with pytest.raises(UsageError, match="without I/O queues"):
                await drive.read(0)


@pytest.mark.parametrize(
    ("nqn", "error", "text"),
    [
        ("nqn.2014-08.org.example:none", StatusError, r"SUBNQN not accepted\): Connect Invalid Parameters \(1/82h"),
        ("n" * 224, UsageError, "not an NVMe Qualified Name"),
        ("", UsageError, "not an NVMe Qualified Name"),
        ("a\0b", UsageError, "not an NVMe Qualified Name"),
    ],
)
async def test_a_name_that_is_not_there_is_refused(nqn: str, error: type[HostError], text: str) -> None:
    with FakeTarget().running() as target, pytest.raises(error, match=text):
        await Controller.connect(HOST, target.port, nqn)


@pytest.mark.parametrize(
    ("options", "changes"),
    [({}, {"header_digest": True}), ({"dgst": 3}, {}), ({"maxh2cdata": 100}, {})],
    ids=["digest refused", "digest forced", "maxh2cdata"],
)
async def test_a_bad_icresp_is_a_transport_error(options: dict[str, Any], changes: dict[str, Any]) -> None:
    with FakeTarget(**({"dgst": 0} | options)).running() as target, pytest.raises(TransportError, match="ICResp"):
        await connected(target, **changes)


@pytest.mark.parametrize("digests", [{}, {"header_digest": True}, {"data_digest": True}], ids=str)
@pytest.mark.parametrize("success", [False, True], ids=["responses", "success flag"])
async def test_logs_are_read_in_pieces(digests: dict[str, bool], success: bool) -> None:
    with FakeTarget(mdts=0, c2h_bytes=100, success=success).running() as target:
        async with await connected(target, disable_sqflow=success, **digests) as controller:
            controller.max_transfer = 128
            log = await controller.get_log(LogPage.CHUNK_INFORMATION, 12 * 32, nsid=1)
            assert log == b"".join(map(target.drive.descriptor, range(12)))
            assert [f["cdw12"] for f in sent(target, Admin.GET_LOG_PAGE)] == [0, 128, 256]
            assert {f["cdw10"] for f in sent(target, Admin.GET_LOG_PAGE)} == {0x1F00CA}
            assert await controller.get_log(0xCA, 32, offset=352, nsid=1) == log[352:]
            for n, offset in ((0, 0), (6, 0), (4, 2)):
                with pytest.raises(UsageError, match="dwords"):
                    await controller.get_log(0xCA, n, offset=offset, nsid=1)


async def test_features_properties_and_namespaces() -> None:
    with FakeTarget(nsids=[1, 2, 5]).running() as target:
        async with await connected(target) as controller:
            await controller.set_feature(Feature.ERROR_RECOVERY, 0x10000, nsid=1)
            assert await controller.get_feature(Feature.ERROR_RECOVERY, nsid=1) == 0x10000
            assert await controller.property_get(Property.CAP, 8) == controller.cap
            assert await controller.active_nsids() == [1, 2, 5]
            assert (await controller.identify_namespace(2)).block_bytes == 512
            assert not await controller.abort(1, 77)
            with pytest.raises(StatusError) as caught:
                await controller.identify_namespace(9)
            assert caught.value.code == Status.INVALID_NAMESPACE


async def test_feature_data_is_returned() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        return Answer(data=b"12345678") if fields["opc"] == Admin.GET_FEATURES else None

    with FakeTarget(script=script).running() as target:
        async with await connected(target) as controller:
            assert await controller.get_feature_data(Feature.TIMESTAMP, 8) == b"12345678"


async def test_a_list_of_namespaces_that_does_not_ascend_is_no_list() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        is_list = fields["opc"] == Admin.IDENTIFY and fields["cdw10"] == 2
        return Answer(data=b"\1\0\0\0" * 1024) if is_list else None

    with FakeTarget(script=script).running() as target:
        async with await connected(target) as controller:
            with pytest.raises(TransportError, match="ascend"):
                await controller.active_nsids()


async def test_an_event_is_decoded() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        return Answer(dw0=0x00D00007) if fields["opc"] == Admin.ASYNC_EVENT_REQUEST else None

    with FakeTarget(script=script).running() as target:
        async with await connected(target) as controller:
            event = await controller.next_event()
            assert (event.type, event.info, event.log_page) == (7, 0, 0xD0)


async def test_keep_alive_is_sent_at_half_of_kato() -> None:
    kept = threading.Event()

    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        if fields["opc"] == Admin.KEEP_ALIVE:
            kept.set()
        return None

    with FakeTarget(script=script).running() as target:
        async with await connected(target, kato_ms=20):
            assert await asyncio.to_thread(kept.wait, 10)


async def test_a_refused_keep_alive_closes_every_queue() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        refused = fields["opc"] == Admin.KEEP_ALIVE
        return Answer(Status.INVALID_FIELD | DNR) if refused else None

    with FakeTarget(script=script).running() as target:
        async with await connected(target, kato_ms=20) as controller:
            why = await asyncio.wait_for(controller.io_queues[0].lost, 10)
            assert str(why) == "Keep Alive: Invalid Field in Command (0/02h, do not retry)"


@contextmanager
def silent(opcode: int) -> Iterator[FakeTarget]:
    """A target that never answers an I/O opcode."""

    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        return Answer(never=True) if qid > 0 and fields["opc"] == opcode else None

    with FakeTarget(script=script).running() as target:
        yield target


async def test_a_lost_connection_fails_every_outstanding_command_at_once() -> None:
    with silent(Io.READ) as target:
        controller = await connected(target, queue_size=4)
        drive = await Drive.open(controller)
        reads = [asyncio.ensure_future(drive.read(0)) for _ in range(10)]  # 3 outstanding, 7 waiting
        await drive.controller.get_feature(Feature.ERROR_RECOVERY)
        controller.io_queues[0].close()
        results = await asyncio.wait_for(asyncio.gather(*reads, return_exceptions=True), 5)
        assert [type(result) for result in results] == [TransportError] * 10
        assert len({id(result) for result in results}) == 10
        with pytest.raises(TransportError, match="closed"):
            await controller.get_feature(Feature.ERROR_RECOVERY)
        await controller.close()


async def test_a_drive_that_goes_away_is_a_transport_error() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        if fields["opc"] == Io.FLUSH and qid > 0:
            raise EOFError  # the target drops the connection
        return None

    with FakeTarget(script=script).running() as target:
        controller = await connected(target)
        drive = await Drive.open(controller)
        with pytest.raises(TransportError, match="drive closed the connection"):
            await drive.flush()
        await controller.close()


async def test_silence_while_an_answer_is_due_loses_the_connection() -> None:
    with silent(Io.READ) as target:
        controller = await connected(target, timeout=0.1)
        drive = await Drive.open(controller)
        with pytest.raises(TransportError, match=r"no answer within 0\.1 s"):
            await drive.read(0)
        await controller.close()


async def test_a_full_queue_lets_commands_wait_in_order() -> None:
    with FakeTarget().running() as target:
        async with await connected(target, queue_size=2) as controller:
            drive = await Drive.open(controller)
            await asyncio.gather(*(drive.read(lba) for lba in range(20)))
            assert [fields["cdw10"] for fields in sent(target, Io.READ, 1)] == list(range(20))


async def test_a_cancelled_command_leaves_the_connection_usable() -> None:
    with silent(Io.FLUSH) as target:
        async with await connected(target, queue_size=3) as controller:
            drive = await Drive.open(controller)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(drive.flush(), 0.01)
            assert len(await drive.read(0)) == 512


async def test_success_with_missing_data_is_no_success() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        return Answer() if qid > 0 and fields["opc"] == Io.READ else None

    with FakeTarget(script=script).running() as target:
        async with await connected(target) as controller:
            drive = await Drive.open(controller)
            with pytest.raises(TransportError, match="0 of 512 bytes"):
                await drive.read(0)


async def test_a_spoilt_data_digest_is_a_transient_transport_error() -> None:
    with FakeTarget(corrupt=True).running() as target:
        with pytest.raises(StatusError) as caught:
            await connected(target, data_digest=True)
        assert caught.value.code == Status.TRANSIENT_TRANSPORT_ERROR


async def test_nobody_listening_is_a_transport_error_with_its_cause() -> None:
    with socket.create_server((HOST, 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(TransportError, match="Connection refused") as caught:
        await Controller.connect(HOST, port, NQN)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


async def test_a_listener_that_says_nothing_is_a_transport_error() -> None:
    with socket.create_server((HOST, 0)) as mute, pytest.raises(TransportError, match="no answer"):
        await Controller.connect(HOST, mute.getsockname()[1], NQN, timeout=0.05)


async def test_a_controller_that_does_not_become_ready_is_given_up() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        is_csts = fields["opc"] == Admin.FABRICS and fields["nsid"] == Fctype.PROPERTY_GET and fields["cdw11"] == 0x1C
        return Answer(dw0=2) if is_csts else None  # CFS

    with FakeTarget(script=script).running() as target, pytest.raises(TransportError, match="fatal status"):
        await connected(target)


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_discovery_lists_every_subsystem(count: int) -> None:
    nqns = [f"nqn.2014-08.org.example:d{i}" for i in range(count)]
    with FakeTarget(subsystems=nqns).running() as target:
        entries = await discover(HOST, target.port)
        assert [entry.subnqn for entry in entries] == nqns
        for entry in entries:
            assert (entry.subtype, entry.trtype, entry.traddr) == ("nvme", "tcp", HOST)
            assert entry.trsvcid == str(target.port)
            assert entry.sqflow_optional
        if count == 1:
            assert await find_subsystem(HOST, target.port) == nqns[0]
        else:
            with pytest.raises(UsageError, match="offers " + (nqns[0] if nqns else "none")):
                await find_subsystem(HOST, target.port)


async def test_discovery_reads_again_while_the_log_changes() -> None:
    reads = 0

    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        nonlocal reads
        if fields["opc"] == Admin.GET_LOG_PAGE:
            reads += 1
            target.genctr += reads <= 4
        return None

    target = FakeTarget(script=script)
    with target.running():
        assert len(await discover(HOST, target.port)) == 1
        assert reads == 6  # header, entries and header, twice


@pytest.mark.parametrize(
    ("numrec", "moving", "text"), [(1 << 60, False, "claims"), (0, True, "changes faster")], ids=["huge", "moving"]
)
async def test_a_discovery_log_that_cannot_be_is_refused(numrec: int, moving: bool, text: str) -> None:
    genctr = 0

    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        nonlocal genctr
        genctr += moving
        if fields["opc"] != Admin.GET_LOG_PAGE:
            return None
        return Answer(data=genctr.to_bytes(8, "little") + numrec.to_bytes(8, "little"))

    with FakeTarget(script=script).running() as target:
        with pytest.raises(TransportError, match=text):
            await discover(HOST, target.port)
        assert target.log[0][2].rstrip(b"\0").find(DISCOVERY_NQN.encode()) == 256


async def test_a_raw_command_can_be_submitted_and_aborted() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        return Answer(dw0=0) if fields["opc"] == Admin.ABORT else None

    with FakeTarget(script=script).running() as target:
        async with await connected(target) as controller:
            command = Command(sqe(Io.FLUSH, 1))
            completion = await controller.io_queues[0].submit(command)
            assert completion.status == Status.SUCCESS
            assert await controller.abort(1, command.cid)
            assert sent(target, Admin.ABORT)[0]["cdw10"] == 1 | command.cid << 16
