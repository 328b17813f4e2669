"""`ocssd bench`, against the tests' own target: what it sends, what it leaves, what it says."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from click import BadParameter
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.cli.host import main
from ocssd_tcp.cli.host_bench import parse_size
from ocssd_tcp.cli.host_load import Blocks, Histogram, Stream
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.wire.opcodes import Io, ListForm
from ocssd_tcp.wire.status import Status
from tests.support_fake_target import Answer, FakeTarget, tiny

QUICK = "--warm-up 0 --seed 3 --count 120"


def bench(target: FakeTarget, line: str) -> Result:
    result = CliRunner().invoke(main, ["bench", *line.split(), "-a", f"127.0.0.1:{target.port}"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run(line: str, **changes: Any) -> tuple[dict[str, Any], FakeTarget]:
    """The figures of a run that has to succeed, and its target."""
    target = FakeTarget(success=True, **changes)
    with target.running():
        result = bench(target, f"{line} --json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), target


def sent(target: FakeTarget, opcode: Io) -> list[dict[str, Any]]:
    """The SQEs of one I/O opcode."""
    return [fields for qid, fields, _ in target.log if qid and fields["opc"] == opcode]


# --- histogram --------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=60), st.sampled_from([0.0, 0.5, 0.9, 0.999, 1.0]))
def test_quantiles_are_exact_to_one_in_128_and_never_too_low(values: list[int], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = next(value for i, value in enumerate(sorted(values), 1) if i >= share * len(values))
    assert exact <= histogram.quantile(share) + (exact == 1 << 40) <= max(values) + 1
    assert histogram.quantile(share) <= exact + exact // 128
    assert (histogram.n, histogram.max, histogram.mean) == (len(values), max(values), sum(values) / len(values))


def test_a_histogram_does_not_grow() -> None:
    histogram = Histogram()
    size = len(histogram.counts)
    histogram.add(1 << 80)
    assert (len(histogram.counts), histogram.max) == (size, 1 << 80)
    assert size < 5000


def test_histograms_add_up() -> None:
    one, other, all_of_them = Histogram(), Histogram(), Histogram()
    for value in range(0, 5000, 7):
        (one if value % 3 else other).add(value)
        all_of_them.add(value)
    one.merge(other)
    assert vars(one) == vars(all_of_them)


def test_an_empty_histogram_is_zero() -> None:
    assert (Histogram().mean, Histogram().quantile(0.5)) == (0.0, 0)


# --- data -------------------------------------------------------------------------------------


def test_blocks_tell_lba_and_generation_and_every_byte_counts() -> None:
    blocks, lbas = Blocks(4, 512, 9), [7, 1 << 63, 8]
    data = bytearray(blocks.stamp(lbas, 2))
    assert [int.from_bytes(data[at : at + 8], "little") for at in (0, 512, 1024)] == lbas
    assert blocks.differing(lbas, 2, data) == []
    assert blocks.differing(lbas, 1, data) == lbas
    assert blocks.differing([7, 9, 8], 2, data) == [9]
    data[1535] ^= 1
    assert blocks.differing(lbas, 2, data) == [8]


@pytest.mark.parametrize(
    ("stream", "lbas"),
    [
        (Stream([64], 8), range(64, 72)),
        (Stream([64], 8, at=28), range(92, 96)),
        (Stream([0, 128], 2, at=4), [4, 5, 132, 133]),
    ],
)
def test_a_stream_goes_on_where_it_is(stream: Stream, lbas: Sequence[int]) -> None:
    assert list(stream.next_lbas(32)) == list(lbas)


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("4KiB", 4096), ("128k", 131072), ("1 MiB", 1 << 20), ("16 b", 16)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "k", "4GiB", "0", "2M", "-4k", "4.5k", "٤k", "1" * 9])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(BadParameter):
        parse_size(text)


# --- loads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "opcodes", "n_bytes"),
    [
        ("--mode randread -q 4", {"read"}, 512),
        ("--mode randread -s 4KiB -q 3 -c 2 -g -G", {"read"}, 4096),
        ("--mode seqwrite -q 2", {"write", "vector reset"}, 2048),
        ("--mode seqwrite -s 10KiB", {"write", "vector reset"}, 10240),
        ("--mode vecread -q 2", {"vector read"}, 8192),
        ("--mode vecread --vector 1", {"vector read"}, 512),
        ("--mode vecwrite --vector 8 -q 2 -G", {"vector write", "vector reset"}, 4096),
        ("--mode mix -q 4 --chunks 3", {"read", "write", "both", "vector reset"}, 2048),
        ("--mode mix --mix 100 -q 4 --chunks 3", {"read"}, 512),
        ("--mode mix --mix 40 --vector 4 -q 2", {"vector read", "vector write", "both", "vector reset"}, 2048),
    ],
)
def test_every_mode_moves_data_and_leaves_nothing(line: str, opcodes: set[str], n_bytes: int) -> None:
    found, target = run(f"{line} {QUICK} --verify")
    assert set(found["opcodes"]) == opcodes
    moving = found["opcodes"].get("both") or next(iter(found["opcodes"].values()))
    assert moving["commands"] == 120
    assert (found["command_bytes"], found["errors"], found["wrong_blocks"], found["verified"]) == (n_bytes, 0, 0, True)
    assert target.drive.wp == {}


@pytest.mark.parametrize("metadata_bytes", [0, 16])
@pytest.mark.parametrize("form", ["data", "progression", "slot", "capsule"])
@pytest.mark.parametrize("mode", ["vecread", "vecwrite"])
def test_lists_travel_in_every_form(mode: str, form: str, metadata_bytes: int) -> None:
    if (mode, form) == ("vecread", "data"):
        with FakeTarget().running() as target:
            result = bench(target, f"--mode {mode} --form {form}")
        assert (result.exit_code, "form 1 (data) cannot carry" in result.stderr) == (2, True)
        return
    geometry = tiny(metadata_bytes=metadata_bytes)
    found, target = run(f"--mode {mode} --form {form} --vector 8 -q 2 {QUICK} --verify", geometry=geometry)
    assert found["form"] == form
    opcode = Io.VECTOR_READ if mode == "vecread" else Io.VECTOR_WRITE
    assert {fields["cdw13"] & 0xF for fields in sent(target, opcode)} == {ListForm[form.upper()]}
    if form == "slot":
        assert {fields["cdw10"] for fields in sent(target, Io.STAGE_LBA_LIST)} == {0, 1}
        assert found["opcodes"]["stage lba list"]["commands"] >= 119


@pytest.mark.parametrize(
    ("mode", "offered", "form"),
    [("vecwrite", 0b01110, "data"), ("vecread", 0b01110, "slot"), ("mix", 0b00110, "progression")],
)
def test_the_cheapest_form_offered_is_taken(mode: str, offered: int, form: str) -> None:
    assert run(f"--mode {mode} --vector 8 {QUICK}", forms=offered)[0]["form"] == form


def test_every_connection_has_its_commands_in_flight() -> None:
    """How many each has had in the end is up to the scheduler."""
    _, target = run(f"-q 3 -c 3 {QUICK}")
    reads = [qid for qid, fields, _ in target.log if fields["opc"] == Io.READ and qid]
    assert all(reads.count(qid) >= 3 for qid in (1, 2, 3))


def test_reads_are_spread_over_the_chunks_and_writes_have_chunks_of_their_own() -> None:
    _, target = run(f"--mode mix --mix 50 -q 4 --chunks 4 {QUICK}")
    read = {fields["cdw10"] // 32 * 32 for fields in sent(target, Io.READ)}
    # One chunk of each PU in turn: first for the streams, then for the reads, which are filled by writes of 32 blocks.
    assert read == {32, 160, 288, 416}
    assert {fields["cdw10"] // 32 * 32 for fields in sent(target, Io.WRITE) if fields["cdw12"] == 3} == {
        0,
        128,
        256,
        384,
    }


def test_a_vector_write_spans_parallel_units() -> None:
    _, target = run(f"--mode vecwrite --vector 16 --form data {QUICK}")
    lists = [data for _, fields, data in target.log if fields["opc"] == Io.VECTOR_WRITE]
    first = [int.from_bytes(lists[0][at : at + 8], "little") for at in range(0, 128, 8)]
    assert first == [*range(4), *range(128, 132), *range(256, 260), *range(384, 388)]


def test_only_free_chunks_are_touched() -> None:
    target = FakeTarget(success=True)
    target.drive.wp = {0: 4, 3: 32}
    target.drive.offline = {6}
    with target.running():
        assert bench(target, f"--mode mix -q 2 --chunks 99 {QUICK}").exit_code == 0
    assert target.drive.wp == {0: 4, 3: 32}
    written = {fields["cdw10"] // 128 * 3 + fields["cdw10"] % 128 // 32 for fields in sent(target, Io.WRITE)}
    assert written == set(range(12)) - {0, 3, 6}


def test_data_is_kept_if_asked() -> None:
    _, target = run(f"--chunks 2 --keep {QUICK}")
    assert target.drive.wp == {0: 32, 3: 32}
    assert {lba: int.from_bytes(data[:8], "little") for lba, data in target.drive.blocks.items()} == {
        lba: lba for lba in [*range(32), *range(128, 160)]
    }


def test_a_drive_without_early_reset_gets_its_chunks_filled_first() -> None:
    geometry = tiny(early_reset=False, clba=320)
    _, target = run("--mode seqwrite --count 5 --warm-up 0 --verify", geometry=geometry)
    assert target.drive.wp == {}
    assert sum((fields["cdw12"] & 0xFFFF) + 1 for fields in sent(target, Io.WRITE)) == 320


def test_time_ends_a_run_too() -> None:
    found, _ = run("-t 0.05 --warm-up 0.01")
    assert found["seconds"] > 0
    assert found["opcodes"]["read"]["commands"] > 0
    latency = found["opcodes"]["read"]["latency_us"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]


# --- what can go wrong ------------------------------------------------------------------------


def failing(opcode: Io, status: Status, every: int) -> FakeTarget:
    """A target that refuses some commands of one opcode."""
    seen = 0

    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        nonlocal seen
        seen += qid > 0 and fields["opc"] == opcode
        return Answer(status) if qid and fields["opc"] == opcode and seen % every == 0 else None

    return FakeTarget(success=True, script=script)


@pytest.mark.parametrize(
    ("line", "opcode", "status", "every", "text"),
    [
        ("", Io.READ, Status.UNRECOVERED_READ_ERROR, 10, "12 x read failed: Unrecovered Read Error"),
        ("--mode vecwrite --vector 8", Io.VECTOR_WRITE, Status.WRITE_FAULT, 10, "1 x vector write failed: Write Fault"),
        ("--mode vecread --form slot", Io.STAGE_LBA_LIST, Status.INVALID_FIELD, 10, "x stage lba list failed: Invalid"),
    ],
)
def test_refused_commands_are_counted(line: str, opcode: Io, status: Status, every: int, text: str) -> None:
    target = failing(opcode, status, every)
    with target.running():
        result = bench(target, f"{line} {QUICK}")
    assert (result.exit_code, text in result.stdout, target.drive.wp) == (1, True, {})


def test_a_slot_whose_chunk_failed_ends_and_the_run_with_the_last() -> None:
    target = failing(Io.WRITE, Status.WRITE_FAULT, 1)
    with target.running():
        result = bench(target, "--mode seqwrite -q 3 -t 3600 --json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["errors"] == 3


def test_the_figures_are_shown_even_if_tidying_up_fails() -> None:
    target = failing(Io.VECTOR_RESET, Status.WRITE_FAULT, 1)
    with target.running():
        result = bench(target, f"{QUICK} --json")
    assert json.loads(result.stdout.partition('{"error"')[0])["opcodes"]["read"]["commands"] == 120
    assert (result.exit_code, "Vector Chunk Reset: Write Fault" in result.stderr) == (1, True)


def corrupting(opcode: Io, lba: int) -> FakeTarget:
    """A target that gives one block with a wrong bit."""

    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        n_blocks = fields["cdw12"] + 1
        at = lba - fields["cdw10"]
        if not qid or fields["opc"] != opcode or not 0 <= at < n_blocks:
            return None
        data = bytearray(target.drive.read(range(fields["cdw10"], fields["cdw10"] + n_blocks)).data)
        data[at * 512 + 511] ^= 1
        return Answer(data=bytes(data))

    target = FakeTarget(success=True, script=script)
    return target


@pytest.mark.parametrize("line", ["-s 4k --chunks 1", "--mode seqwrite --count 7"])
def test_wrong_data_is_found(line: str) -> None:
    target = corrupting(Io.READ, 5)
    with target.running():
        result = bench(target, f"{QUICK} {line} --verify")
    assert result.exit_code == 1
    assert re.search(r"DIFFERENT: \d+ blocks; the first is 0/0/0/5 \(0x5\)", result.stdout)
    assert target.drive.wp == {}


def test_without_verify_data_is_not_looked_at() -> None:
    target = corrupting(Io.READ, 5)
    with target.running():
        assert bench(target, f"{QUICK} -s 4k --chunks 1").exit_code == 0


def test_a_success_without_the_data_ends_the_run() -> None:
    target = FakeTarget(script=lambda qid, fields, _: Answer() if qid and fields["opc"] == Io.READ else None)
    with target.running():
        result = bench(target, f"-q 4 {QUICK}")
    assert (result.exit_code, "success reported after 0 of 512 bytes" in result.stderr) == (3, True)
    assert target.drive.wp == {}


def test_a_drive_that_vanishes_ends_the_run() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        if qid and fields["opc"] == Io.READ:
            raise EOFError  # the target's thread closes its connection
        return None

    target = FakeTarget(script=script)
    with target.running():
        result = bench(target, f"-q 4 {QUICK}")
    assert result.exit_code == 3
    assert re.search("the drive closed the connection|the connection was lost", result.stderr)


WIDE = tiny(num_pu=4, num_chk=40)


@pytest.mark.parametrize(
    ("line", "geometry", "text"),
    [
        ("--mode randread --mix 50", tiny(), "--mix goes with --mode mix, not randread"),
        ("--mode seqwrite --vector 4", tiny(), "--vector goes with the modes vecread, vecwrite and mix"),
        ("--mode vecread -s 4k", tiny(), "leave out --size"),
        ("-s 700", tiny(), "--size 700: blocks of this drive have 512 bytes"),
        ("--mode seqwrite -s 512", tiny(), "1 blocks: this drive takes writes of multiples of 4"),
        ("-s 32KiB", tiny(), "64 blocks: a command moves 131072 bytes, a chunk has 32 blocks"),
        ("-c 5", tiny(), "-c 5: the drive grants 4 I/O queues"),
        ("-q 128", tiny(), "-q 128: a queue of this drive has 128 entries, one of which stays free"),
        ("--mode seqwrite -q 13", tiny(), "13 Free chunks are needed and 12 are there"),
        ("--mode mix -q 12", tiny(), "13 Free chunks are needed and 12 are there"),
        ("--mode seqwrite -q 4", tiny(maxoc=3), "4 Open chunks are needed, the drive allows 3 (maxoc)"),
        ("--mode seqwrite -q 5", tiny(maxocpu=1), "2 Open chunks are needed, the drive allows 1 (maxocpu)"),
        ("--mode vecread --form slot -q 65", WIDE, "65 lists in flight: the drive has 64 slots"),
        ("--mode vecread --form inline", tiny(), "form 0 (inline) cannot carry this list"),
        ("--form nonsense", tiny(), "Invalid value for '--form'"),
        ("-s 3parsecs", tiny(), "is not a size"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(line: str, geometry: Geometry, text: str) -> None:
    target = FakeTarget(geometry=geometry)
    with target.running():
        result = bench(target, line)
    assert (result.exit_code, text in result.stderr) == (2, True), result.stderr
    assert not sent(target, Io.WRITE)


def test_a_drive_without_the_binding_has_no_vector_loads() -> None:
    with FakeTarget(forms=0).running() as target:
        result = bench(target, "--mode vecread")
        assert (result.exit_code, "offers no form" in result.stderr) == (2, True)
        assert bench(target, f"--mode vecread --vector 1 {QUICK}").exit_code == 0


# --- for people -------------------------------------------------------------------------------


def test_the_table_fits_a_terminal_and_tells_what_it_is() -> None:
    with FakeTarget(success=True).running() as target:
        out = bench(target, f"--mode mix -q 2 --chunks 2 {QUICK} --verify").stdout
    assert "mix: 2 KiB per command, 2 in flight on each of 1 connection" in out
    heading, *rows = [
        line for line in out.splitlines() if re.match(r"\s*(commands|read|write|both|vector reset) ", line)
    ]
    assert heading.split() == ["commands", "IOPS", "MB/s", "mean", "p50", "p90", "p99", "p99.9", "max"]
    assert [row.rsplit(maxsplit=9)[0].strip() for row in rows] == ["read", "write", "both", "vector reset"]
    assert max(len(row.rstrip()) for row in (heading, *rows)) <= 80
    assert "All data that was read is right." in out
    assert re.search(r"The load tool took \d+% of a core", out)


def test_interrupting_shows_progress_before_and_leaves_nothing_behind() -> None:
    """On a terminal: the bar is seen, then Ctrl-C."""
    target = FakeTarget(success=True)
    master, slave = pty.openpty()
    with target.running():
        arguments = ["bench", "--mode", "mix", "-q", "4", "-t", "3600", "-a", f"127.0.0.1:{target.port}"]
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        code += "from ocssd_tcp.cli.host import main; main()"
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=slave)
        shown = b""
        while b"measuring" not in shown:
            shown += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
        os.close(slave)
        os.close(master)
    assert (process.returncode, out) == (1, b"")
    assert len(sent(target, Io.WRITE)) > 8
    assert target.drive.wp == {}
