"""Get Log Page: the checks that all pages share, and each page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ocssd_tcp.commands.io_scalar
import ocssd_tcp.commands.io_vector  # noqa: F401  (fills the table of I/O commands)
from ocssd_tcp.commands.context import Health
from ocssd_tcp.commands.registry import ADMIN_COMMANDS, IO_COMMANDS
from ocssd_tcp.controller.directory import Directory
from ocssd_tcp.media.events import Notice
from ocssd_tcp.media.life import Usage
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import NotificationState
from ocssd_tcp.wire.layouts import FIRMWARE_LOG, SMART_LOG
from ocssd_tcp.wire.opcodes import Admin, Feature, Io, LogPage
from ocssd_tcp.wire.status import Status
from tests.unit.control_host import GEOMETRY, Outcome, Target, config, live, live_discovery, namespace, sqe

BROADCAST = 0xFFFFFFFF
LENGTHS = {
    LogPage.SUPPORTED: 1024,
    LogPage.ERROR: 4096,
    LogPage.SMART: 512,
    LogPage.FIRMWARE: 512,
    LogPage.CHANGED_NAMESPACES: 4096,
    LogPage.EFFECTS: 4096,
    LogPage.FEATURE_EFFECTS: 1024,
    LogPage.CHUNK_INFORMATION: GEOMETRY.n_chunks * 32,
    LogPage.CHUNK_NOTIFICATION: 1024 * 64,
}


def flagged(page: bytes) -> set[int]:
    return {i // 4 for i in range(0, len(page), 4) if page[i] & 1}


def nsid_of(lid: LogPage) -> int:
    return 1 if lid == LogPage.CHUNK_INFORMATION else BROADCAST


@pytest.mark.parametrize("lid", LENGTHS)
def test_page_has_its_length_and_zeros_after_it(lid: LogPage) -> None:
    """Conformance 81."""
    host, nsid, length = live(Target()), nsid_of(lid), LENGTHS[lid]
    whole = host.get_log(lid, length, nsid=nsid).data
    assert len(whole) == length
    assert host.get_log(lid, length + 512, nsid=nsid).data == whole + bytes(512)
    assert host.get_log(lid, 8, 4, nsid=nsid).data == whole[4:12]
    assert host.get_log(lid, 12, length - 4, nsid=nsid).data == whole[-4:] + bytes(8)


@pytest.mark.parametrize("lid", LENGTHS)
@pytest.mark.parametrize("offset", [2, "end", "end + 4", 1 << 40, 1 << 63])
def test_offset_that_is_odd_or_at_the_end_is_invalid(lid: LogPage, offset: int | str) -> None:
    """Conformance 81."""
    at = {"end": LENGTHS[lid], "end + 4": LENGTHS[lid] + 4}.get(str(offset), offset)
    assert live(Target()).get_log(lid, 4, int(at), nsid=nsid_of(lid)) == Outcome(Status.INVALID_FIELD)


@pytest.mark.parametrize("lid", [0x06, 0x0C, 0x5F, 0x70, 0x80, 0xFF])
def test_unknown_page_is_an_invalid_log_page(lid: int) -> None:
    """Conformance 82."""
    assert live(Target()).get_log(lid) == Outcome(Status.INVALID_LOG_PAGE)


def test_page_longer_than_mdts_is_invalid() -> None:
    host = live(Target(mdts=1))
    assert host.get_log(LogPage.ERROR, 8192).status == Status.SUCCESS
    assert host.get_log(LogPage.ERROR, 8196) == Outcome(Status.INVALID_FIELD)


def test_page_longer_than_the_buffer_is_a_wrong_length() -> None:
    host = live(Target())
    outcome = host.admin(Admin.GET_LOG_PAGE, cdw10=LogPage.SMART | 127 << 16, sgl_length=508)
    assert outcome == Outcome(Status.DATA_SGL_LENGTH_INVALID)


def test_huge_read_without_mdts_takes_no_memory() -> None:
    host = live(Target(mdts=0))
    command = sqe(Admin.GET_LOG_PAGE, cdw10=LogPage.SMART | 0xFFFE << 16, cdw11=0x3FFF, sgl_length=0xFFFFFFFC)
    reply = host.association.execute_admin(host.queues[0], command, b"", 0)
    assert reply is not None
    assert sum(map(len, reply.data)) == 0xFFFFFFFC
    assert len({id(piece) for piece in reply.data}) <= 4


def test_effects_name_exactly_the_commands_that_work() -> None:
    """Conformance 83."""
    target = Target()
    target.directory.subsystem.namespaces[3].allow_set_log_page = True
    page = live(target).get_log(LogPage.EFFECTS, 4096).data
    assert flagged(page[:1024]) == {entry.opcode for entry in ADMIN_COMMANDS if entry}
    assert flagged(page[:1024]) == set(Admin) - {Admin.FABRICS}
    assert flagged(page[1024:2048]) == {entry.opcode for entry in IO_COMMANDS if entry}
    assert flagged(page[1024:2048]) == set(Io) - {Io.FABRICS}
    assert not any(page[2048:])
    writing = {i for i in range(256) if page[1024 + 4 * i] & 2}
    assert writing == {Io.WRITE, Io.DATASET_MANAGEMENT, Io.VECTOR_RESET, Io.VECTOR_WRITE, Io.VECTOR_COPY}
    assert set(page) <= {0, 1, 3}


def test_effects_name_set_log_page_only_where_it_is_allowed() -> None:
    page = live(Target()).get_log(LogPage.EFFECTS, 4096).data
    assert flagged(page[:1024]) == set(Admin) - {Admin.FABRICS, Admin.SET_LOG_PAGE}


def test_effects_without_copy_do_not_name_it() -> None:
    target = Target()
    target.directory = Directory(config(), [namespace(1, Geometry(vector_copy=False))])
    page = live(target).get_log(LogPage.EFFECTS, 4096).data
    assert page[1024 + 4 * Io.VECTOR_COPY] == 0
    assert page[1024 + 4 * Io.VECTOR_READ] == 1


def test_supported_pages_are_those_that_can_be_read() -> None:
    host = live(Target())
    readable = {lid for lid in range(256) if host.get_log(lid, 4, nsid=1).status != Status.INVALID_LOG_PAGE}
    assert flagged(host.get_log(LogPage.SUPPORTED, 1024).data) == readable == set(LENGTHS)


def test_feature_effects_are_the_features_that_can_be_read() -> None:
    host = live(Target())
    readable = {fid for fid in range(256) if host.get_feature(fid, 1).status == Status.SUCCESS}
    assert flagged(host.get_log(LogPage.FEATURE_EFFECTS, 1024).data) == readable
    assert Feature.ERROR_RECOVERY in readable


def test_discovery_controller_has_its_own_pages_only() -> None:
    host = live_discovery(Target())
    readable = {lid for lid in range(256) if host.get_log(lid, 4).status != Status.INVALID_LOG_PAGE}
    assert readable == {LogPage.SUPPORTED, LogPage.ERROR, LogPage.FEATURE_EFFECTS, LogPage.DISCOVERY}
    assert flagged(host.get_log(LogPage.SUPPORTED, 1024).data) == readable
    features = {Feature.ASYNC_EVENT_CONFIG, Feature.KEEP_ALIVE_TIMER}
    assert flagged(host.get_log(LogPage.FEATURE_EFFECTS, 1024).data) == features


def test_firmware_is_one_active_slot() -> None:
    page = FIRMWARE_LOG.unpack_from(live(Target(firmware="0.1.0")).get_log(LogPage.FIRMWARE).data)
    assert (page["afi"], page["frs1"]) == (1, b"0.1.0   ")


def number(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def test_smart_sums_what_hosts_did() -> None:
    target = Target()
    first, second = target.namespaces
    first.counters.blocks_read, first.counters.reads = 250, 10
    second.counters.blocks_read, second.counters.blocks_written, second.counters.writes = 1, 1, 1
    second.engine.stats.n_media_errors = 5
    host = live(target)
    host.identify(0x7F)
    whole = SMART_LOG.unpack_from(host.get_log(LogPage.SMART).data)
    assert number(whole["data_units_read"]) == 3  # 251 blocks of 4 KiB are 2008 sectors
    assert number(whole["data_units_written"]) == 1
    assert (number(whole["host_reads"]), number(whole["host_writes"])) == (10, 1)
    assert (number(whole["media_errors"]), number(whole["error_log_entries"])) == (5, 1)
    assert (whole["critical_warning"], whole["available_spare"]) == (0, 100)
    one = SMART_LOG.unpack_from(host.get_log(LogPage.SMART, nsid=1).data)
    assert (number(one["host_reads"]), number(one["host_writes"]), number(one["media_errors"])) == (10, 0, 0)
    assert host.get_log(LogPage.SMART, nsid=2) == Outcome(Status.INVALID_NAMESPACE)


def test_smart_tells_the_drives_life() -> None:
    target = Target()
    health = Health(power_cycles=3, unsafe_shutdowns=1, power_on_seconds=7200, started=target.now)
    target.directory = Directory(config(), [namespace(1)], health=health)
    target.pass_time(3600)
    page = SMART_LOG.unpack_from(live(target).get_log(LogPage.SMART).data)
    life = [number(page[name]) for name in ("power_cycles", "unsafe_shutdowns", "power_on_hours")]
    assert life == [3, 1, 3]


def test_smart_is_byte_for_byte_what_it_was() -> None:
    target = Target()
    only = namespace(1, replace(GEOMETRY, pe_cycles=1000))
    only.past = Usage(blocks_read=0x1_0000_0000, blocks_written=1000, reads=0x200, writes=0x30, media_errors=4)
    only.counters.blocks_written, only.counters.writes = 250, 1
    only.engine.n_cycles, only.engine.n_offline = 12_500, 1  # type: ignore[misc]
    health = Health(power_cycles=258, unsafe_shutdowns=3, power_on_seconds=3599, started=target.now)
    target.directory = Directory(config(), [only], health=health)
    target.pass_time(1)
    page = live(target).get_log(LogPage.SMART).data
    assert page[:192] == bytes.fromhex(
        "00 3601 60 0a 29" + "00" * 26  # 310 K, 29 of 30 chunks, 416 of 1000 cycles
        + "bb490c0200000000 0000000000000000  0a00000000000000 0000000000000000"
        "0002000000000000 0000000000000000  3100000000000000 0000000000000000"
        "0000000000000000 0000000000000000  0201000000000000 0000000000000000"
        "0100000000000000 0000000000000000  0300000000000000 0000000000000000"
        "0400000000000000 0000000000000000  0000000000000000 0000000000000000"
    )  # fmt: skip
    assert page[192:] == bytes(320)


#: (pe_cycles, cycles of the 30 chunks) of namespaces -> Percentage Used
USED: list[tuple[list[tuple[int, int]], int]] = [
    ([(1000, 0)], 0),
    ([(1000, 299)], 0),
    ([(1000, 300)], 1),
    ([(1000, 29_999)], 99),
    ([(1000, 30_000)], 100),
    ([(1000, 76_500)], 255),
    ([(1000, 76_800)], 255),
    ([(1, 0xFFFF_FFFF * 30)], 255),
    ([(0, 30_000)], 0),
    ([(1000, 15_000), (0, 30_000)], 50),
    ([(1000, 15_000), (100, 3_000)], 75),
    ([(3, 29), (7, 70)], 32),
    ([], 0),
]


@pytest.mark.parametrize(("namespaces", "used"), USED)
def test_percentage_used_is_the_mean_wear(namespaces: list[tuple[int, int]], used: int) -> None:
    target, made = Target(), []
    for nsid, (pe_cycles, n_cycles) in enumerate(namespaces, 1):
        made.append(namespace(nsid, replace(GEOMETRY, pe_cycles=pe_cycles)))
        made[-1].engine.n_cycles = n_cycles  # type: ignore[misc]
    target.directory = Directory(config(), made)
    assert SMART_LOG.unpack_from(live(target).get_log(LogPage.SMART).data)["percentage_used"] == used


def test_percentage_used_of_a_namespace_is_its_own() -> None:
    target = Target()
    target.namespaces[0].engine.n_cycles = GEOMETRY.n_chunks * GEOMETRY.pe_cycles // 2  # type: ignore[misc]
    host = live(target)
    pages = [SMART_LOG.unpack_from(host.get_log(LogPage.SMART, nsid=nsid).data) for nsid in (1, 3, BROADCAST)]
    assert [page["percentage_used"] for page in pages] == [50, 0, 25]


@pytest.mark.parametrize(
    ("n_offline", "spare", "warning"), [(0, 100, 0), (1, 98, 0), (54, 10, 0), (55, 8, 1), (60, 0, 1)]
)
def test_available_spare_is_the_chunks_that_are_not_offline(n_offline: int, spare: int, warning: int) -> None:
    target = Target()
    target.namespaces[0].engine.n_offline = min(n_offline, 30)  # type: ignore[misc]
    target.namespaces[1].engine.n_offline = max(n_offline - 30, 0)  # type: ignore[misc]
    page = SMART_LOG.unpack_from(live(target).get_log(LogPage.SMART).data)
    assert (page["available_spare"], page["critical_warning"]) == (spare, warning)
    assert page["spare_threshold"] == 10


SPARE_EVENT = 0x00020201


def test_spare_below_its_threshold_is_an_event_for_hosts_that_asked() -> None:
    target = Target()
    deaf, host = live(target), live(target)
    host.set_feature(Feature.ASYNC_EVENT_CONFIG, 1)
    for one in (deaf, host):
        for cid in (10, 11, 12, 13):
            assert one.request_event(cid).held
    notice = Notice(0, NotificationState.UNRECOVERABLE)
    engines: list[Any] = [space.engine for space in target.namespaces]
    engines[0].n_offline, engines[1].n_offline = 30, 24
    engines[1].report(notice)
    assert SPARE_EVENT not in {dw0 for _, dw0 in host.events()}  # 10 percent are not below 10
    engines[1].n_offline += 1
    engines[1].report(notice)
    engines[1].report(notice)  # until the page is read
    assert [dw0 for _, dw0 in host.events()].count(SPARE_EVENT) == 1
    assert SPARE_EVENT not in {dw0 for _, dw0 in deaf.events()}
    assert SMART_LOG.unpack_from(host.get_log(LogPage.SMART).data)["critical_warning"] == 1
    engines[1].n_offline += 1
    engines[1].report(notice)
    assert [dw0 for _, dw0 in host.events()].count(SPARE_EVENT) == 2


@settings(max_examples=60, deadline=None)
@given(offset=st.integers(0, LENGTHS[LogPage.CHUNK_INFORMATION] // 4 - 1), dwords=st.integers(1, 400))
def test_chunk_information_is_any_slice_of_the_table(offset: int, dwords: int) -> None:
    target = Target()
    table = target.namespaces[0].engine.page  # type: ignore[attr-defined]
    outcome = live(target).get_log(LogPage.CHUNK_INFORMATION, dwords * 4, offset * 4, nsid=1)
    assert outcome.data == table[offset * 4 :][: dwords * 4].ljust(dwords * 4, b"\0")


@pytest.mark.parametrize("nsid", [0, 2, 4, BROADCAST])
def test_chunk_information_is_a_namespaces_own(nsid: int) -> None:
    assert live(Target()).get_log(LogPage.CHUNK_INFORMATION, nsid=nsid) == Outcome(Status.INVALID_NAMESPACE)
