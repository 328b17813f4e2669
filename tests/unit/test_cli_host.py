"""The `ocssd` command, as typed."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ocssd_tcp.cli.host import main
from ocssd_tcp.cli.host_common import hexdump, parse_endpoint, size_text
from ocssd_tcp.ocssd.layouts import ChunkState
from ocssd_tcp.ocssd.states import parse_states
from ocssd_tcp.wire.opcodes import Io, ListForm
from ocssd_tcp.wire.status import Status
from tests.support_fake_target import NQN, Answer, FakeTarget, tiny

COMMANDS = ("discover", "info", "chunks", "read", "write", "reset", "copy", "demo", "verify", "bench")


@pytest.fixture
def target() -> Iterator[FakeTarget]:
    with FakeTarget(success=True).running() as running:
        yield running


def ocssd(target: FakeTarget, line: str, **options: Any) -> Result:
    """Run a command line against a target."""
    result = CliRunner().invoke(main, [*line.split(), "-a", f"127.0.0.1:{target.port}"], **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def done(target: FakeTarget, line: str, **options: Any) -> str:
    result = ocssd(target, line, **options)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(target: FakeTarget, line: str, **options: Any) -> Any:
    return json.loads(done(target, f"{line} --json", **options))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.stdout
    assert "-a, --address HOST[:PORT]" in result.stdout


def test_version_and_commands() -> None:
    assert CliRunner().invoke(main, ["--version"]).stdout.startswith("ocssd, version ")
    assert all(command in CliRunner().invoke(main, ["-h"]).stdout for command in COMMANDS)


# --- looking ----------------------------------------------------------------------------------


def test_discover_shows_what_there_is(target: FakeTarget) -> None:
    out = done(target, "discover")
    assert NQN in out
    assert f"127.0.0.1:{target.port}" in out
    assert as_json(target, "discover")[0]["subnqn"] == NQN


def test_discover_says_when_there_is_nothing() -> None:
    with FakeTarget(subsystems=()).running() as target:
        assert "no subsystem" in done(target, "discover")


@pytest.mark.parametrize(
    "line",
    [
        "192 KiB in 12 chunks of 16 KiB",
        "2 groups x 2 PUs x 3 chunks x 32 blocks of 512 bytes",
        "group 1 at 8, PU 1 at 7, chunk 2 at 5, block 5 at 0",
        "multiples of 4 blocks (2 KiB), in order; best 8",
        "once 8 more blocks are written",
        "chunks that are Closed or Open",
        "read 70 us (at most 100), write 1900 us (at most 3500)",
        "0 inline, 1 data, 2 progression, 3 slot, 4 capsule; 64 slots",
    ],
)
def test_info_is_for_people(target: FakeTarget, line: str) -> None:
    assert line in done(target, "info")


def test_info_of_another_drive_differs() -> None:
    geometry = tiny(metadata_bytes=16, mw_cunits=0, maxoc=9, maxocpu=3, early_reset=False, vector_copy=False, wit=0)
    with FakeTarget(geometry=geometry, forms=0).running() as target:
        out = done(target, "info")
        for text in ("16 bytes follow each block", "Open chunk at once", "9 on the drive, 3 on a PU", "not offered",
                     "chunks that are Closed\n", "not reported", "none but single LBAs"):  # fmt: skip
            assert text in "\n".join(line.rstrip() for line in out.splitlines()) + "\n"


def test_info_as_json_has_every_number(target: FakeTarget) -> None:
    found = as_json(target, "info")
    assert found["geometry"]["num_chk"] == 3
    assert found["capacity_bytes"] == 12 * 32 * 512
    assert found["forms"] == ["capsule", "data", "inline", "progression", "slot"]
    assert found["controller"]["serial"] == "FAKE1"


def prepare(target: FakeTarget) -> None:
    """0/1/1 Open, 1/0/2 Closed, 1/1/0 Offline."""
    done(target, "write 0/1/1 --pattern lba")
    done(target, "write 1/0/2 --pattern lba -c 32")
    target.drive.offline.add(9)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("--open", ["0/1/1"]),
        ("--closed --offline", ["1/0/2", "1/1/0"]),
        ("--state open --state offline", ["0/1/1", "1/1/0"]),
        ("--grp 1 --chk 0-1", ["1/0/0", "1/0/1", "1/1/0", "1/1/1"]),
        ("--grp 0 --pu 1 --chk 2", ["0/1/2"]),
        ("--free --limit 2", ["0/0/0", "0/0/1"]),
        ("--grp 7", []),
    ],
)
def test_chunks_are_filtered(target: FakeTarget, filters: str, expected: list[str]) -> None:
    prepare(target)
    found = as_json(target, f"chunks {filters}")
    assert [f"{chunk['grp']}/{chunk['pu']}/{chunk['chk']}" for chunk in found] == expected
    out = done(target, f"chunks {filters}")
    assert all(name in out for name in expected)
    assert ("No chunk is like that" in out) == (not expected)


@pytest.mark.parametrize(("options", "first"), [("", "group=*"), ("--export-format g3", "grp=0")])
def test_chunk_states_are_exported(target: FakeTarget, tmp_path: Path, options: str, first: str) -> None:
    prepare(target)
    path = tmp_path / "states.txt"
    assert done(target, f"chunks --export {path} {options}") == ""
    assert path.read_text().startswith(first)
    states = parse_states(path.read_text(), str(path), tiny())
    table = as_json(target, "chunks")
    assert [ChunkState(int(cs)).name.lower() for cs in states.cs] == [chunk["state"] for chunk in table]
    assert path.read_text() == done(target, f"chunks --export - {options}")


def test_an_export_that_cannot_be_written_says_so(target: FakeTarget, tmp_path: Path) -> None:
    result = ocssd(target, f"chunks --export {tmp_path}/none/states.txt")
    assert result.exit_code == 2
    assert "states.txt: cannot be written: No such file" in result.stderr


def test_chunks_say_where_writing_stands(target: FakeTarget) -> None:
    prepare(target)
    out = done(target, "chunks")
    assert "0/1/1  0xa0       Open     sequential  4 of 32" in out
    assert "... and 10 more" in done(target, "chunks --limit 2")


def test_the_map_is_readable_without_colour(target: FakeTarget) -> None:
    prepare(target)
    lines = done(target, "chunks --map").splitlines()
    assert lines[0].split("   ") == [". Free 9", "o Open 1", "# Closed 1", "X Offline 1", ""]
    assert [line.split() for line in lines[1:]] == [["0/0", "..."], ["0/1", ".o."], ["1/0", "..#"], ["1/1", "X.."]]
    assert [line.split() for line in done(target, "chunks --map --open").splitlines()[1:]] == [["0/1", "o"]]


def test_a_wide_map_is_wrapped() -> None:
    with FakeTarget(geometry=tiny(num_grp=1, num_pu=1, num_chk=250)).running() as target:
        rows = done(target, "chunks --map").splitlines()[1:]
        assert [len(row.split()[-1]) for row in rows] == [108, 108, 34]


# --- reading and writing ----------------------------------------------------------------------


def test_written_from_a_file_and_read_to_a_file(target: FakeTarget, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(bytes(range(256)) * 64)
    assert "Wrote 32 blocks (16 KiB) at 0/1/2/0 (0xc0); chunk Closed" in done(target, f"write 0/1/2 -i {source}")
    done(target, f"read 0xc0 -c 32 -o {copy}")
    assert copy.read_bytes() == source.read_bytes()


def test_standard_input_and_output_carry_data(target: FakeTarget) -> None:
    done(target, "write 0/0/0 -i - --pad", input=b"hello" * 1000)  # 5,000 bytes
    assert target.drive.wp[0] == 12
    result = ocssd(target, "read 0 -c 2 -o -")
    assert result.stdout_bytes == (b"hello" * 1000)[:1024]


def test_a_read_is_a_hex_dump(target: FakeTarget) -> None:
    done(target, "write 0/0/1 --pattern lba -c 32")
    lines = done(target, "read 0/0/1/7").splitlines()
    assert lines[0] == "0/0/1/7 (0x27)"
    assert lines[1] == "00000000  27 00 00 00 00 00 00 00 27 00 00 00 00 00 00 00  |'.......'.......|"
    assert lines[2] == "*"
    assert lines[3].startswith("000001f0  27")


def test_several_addresses_are_one_vector_command(target: FakeTarget) -> None:
    done(target, "write 0/0/0 1/1/1 --pattern lba -c 32")
    found = as_json(target, "read 0/0/0/9 1/1/1/3 5 --form slot")
    assert found["lbas"] == [9, 0x1A3, 5]
    data = base64.b64decode(found["data_base64"])
    assert [data[at] for at in (0, 512, 1024)] == [9, 0xA3, 5]
    assert [f["cdw13"] & 15 for _, f, _ in target.log if f["opc"] == Io.VECTOR_READ] == [ListForm.SLOT]


@pytest.mark.parametrize(
    ("pattern", "first"), [("zeros", b"\0" * 8), ("ones", b"\xff" * 8), ("lba", b"\x40" + bytes(7)), ("random", None)]
)
def test_patterns(target: FakeTarget, pattern: str, first: bytes | None) -> None:
    assert as_json(target, f"write 0/0/2 --pattern {pattern} --fua") == {
        "lbas": [64, 65, 66, 67], "bytes": 2048, "state": "open", "wp": 4,
    }  # fmt: skip
    assert target.drive.blocks[64][:8] == first or pattern == "random"


def test_append_writes_at_the_write_pointer(target: FakeTarget) -> None:
    done(target, "write 0/0/0 --pattern lba")
    assert as_json(target, "write 0/0/0 --pattern lba --append")["lbas"] == [4, 5, 6, 7]


def test_reset_by_either_command(target: FakeTarget) -> None:
    for flag in ("", " --dsm"):
        done(target, "write 0/0/0 0/0/1 --pattern lba")
        assert "0/0/1/0 (0x20) is Free, wear 0 of 255" in done(target, f"reset 0/0/0 0/0/1{flag}")
    assert {Io.VECTOR_RESET, Io.DATASET_MANAGEMENT} <= {f["opc"] for _, f, _ in target.log}
    done(target, "write 0/0/0 --pattern lba")
    assert as_json(target, "reset 0") == [{"slba": 0, "state": "free", "wli": 0}]


def test_resets_go_one_by_one_without_the_binding() -> None:
    with FakeTarget(forms=0).running() as target:
        for chunk in ("0/0/0", "0/0/1"):
            done(target, f"write {chunk} --pattern lba")
        done(target, "reset 0/0/0 0/0/1")
        assert [f["cdw12"] for _, f, _ in target.log if f["opc"] == Io.VECTOR_RESET] == [0, 0]


def test_copy_moves_blocks_inside_the_drive() -> None:
    with FakeTarget(geometry=tiny(clba=128)).running() as target:
        done(target, "write 0/0/0 --pattern lba -c 128")
        assert "Copied 128 blocks from 0/0/0/0 (0x0) to 0/0/1/0 (0x80); chunk Closed" in done(
            target, "copy 0/0/0 0/0/1 -c 128"
        )
        assert [f["cdw12"] for _, f, _ in target.log if f["opc"] == Io.VECTOR_COPY] == [63, 63]
        assert target.drive.blocks[200] == target.drive.blocks[72]
        assert as_json(target, "copy 0/0/0 0/1/0")["blocks"] == 4


# --- demo and verify --------------------------------------------------------------------------


def test_demo_explains_the_life_of_a_chunk(target: FakeTarget) -> None:
    out = done(target, "demo")
    assert "refused: Write: Out of Order Write (2/F2h, do not retry)" in out
    assert "ws_min = 4 blocks" in out
    assert "mw_cunits = 8 more blocks" in " ".join(out.split())
    assert target.drive.wp == {}


def test_demo_tells_what_the_drive_did(target: FakeTarget) -> None:
    steps = as_json(target, "demo")
    assert [(step["state"], step["wp"]) for step in steps] == [
        ("free", 0), ("open", 4), ("open", 4), ("open", 4), ("open", 4), ("open", 12), ("open", 12), ("closed", 32),
        ("closed", 32), ("closed", 32), ("closed", 32), ("free", 0), ("free", 0), ("free", 0),
    ]  # fmt: skip
    refusals = [step["outcome"].partition("(")[2][:5] for step in steps if "refused" in step["outcome"]]
    assert refusals == ["0/02h", "2/F2h", "2/80h", "2/C1h"]
    shown = [step["outcome"] for step in steps if step["outcome"].startswith("block 0")]
    assert [line.endswith("00 " * 15 + "00") for line in shown] == [True, False, True]


def test_the_commands_of_the_demo_do_what_it_says(target: FakeTarget) -> None:
    for step in as_json(target, "demo"):
        result = ocssd(target, step["command"].removeprefix("ocssd "))
        assert result.exit_code == (1 if step["outcome"].startswith("refused") else 0), step
        assert target.drive.wp.get(11, 0) == step["wp"], step


@pytest.mark.parametrize(
    "changes",
    [{"ws_min": 1, "ws_opt": 1, "mw_cunits": 0}, {"clba": 4, "ws_opt": 4, "mw_cunits": 4}, {"multi_reset": True}],
    ids=["no rules", "one write", "multi reset"],
)
def test_demo_suits_other_drives(changes: dict[str, Any]) -> None:
    with FakeTarget(geometry=tiny(**changes)).running() as target:
        done(target, "demo")
        assert target.drive.wp == {}


def test_an_interrupted_demo_leaves_no_open_chunk() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        failed = fields["opc"] == Io.READ and qid > 0 and len(target.drive.wp) > 0
        return Answer(Status.INTERNAL_ERROR) if failed else None

    target = FakeTarget(script=script, geometry=tiny(early_reset=False))
    with target.running():
        steps = as_json(target, "demo")
        assert any("Internal Error" in step["outcome"] for step in steps)
        assert target.drive.wp == {}


def test_demo_needs_a_free_chunk(target: FakeTarget) -> None:
    target.drive.offline = set(range(12))
    result = ocssd(target, "demo")
    assert (result.exit_code, "needs a Free chunk" in result.stderr) == (2, True)


def test_verify_fills_compares_and_resets(target: FakeTarget) -> None:
    found = as_json(target, "verify --chunks 5 --qd 3 --seed 7")
    assert (found["ok"], found["chunks"], found["bytes"], found["wrong"]) == (True, 5, 5 * 16384, 0)
    assert target.drive.wp == {}
    slbas = {f["cdw10"] & ~31 for qid, f, _ in target.log if f["opc"] == Io.WRITE and qid > 0}
    assert slbas == {0, 128, 256, 384, 32}  # one of each PU first


def test_verify_keeps_the_data_if_asked(target: FakeTarget) -> None:
    assert "the data was kept" in done(target, "verify 0/0/1 1/1/0 --keep -g -G")
    assert target.drive.wp == {1: 32, 9: 32}
    assert len(set(target.drive.blocks.values())) == 64
    result = ocssd(target, "verify 0/0/1")
    assert (result.exit_code, "is Closed, not Free: `ocssd reset 0x20` first" in result.stderr) == (2, True)


def test_verify_takes_chunks_by_their_first_block_and_each_once(target: FakeTarget) -> None:
    result = ocssd(target, "verify 0x20 0x21")
    assert result.exit_code == 2
    assert "0x21 is a block inside chunk 0/0/1/0 (0x20): name its first block" in result.stderr
    assert not any(f["opc"] == Io.WRITE for qid, f, _ in target.log if qid > 0)
    assert as_json(target, "verify 0x20 0/0/1")["chunks"] == 1


def test_verify_finds_what_is_wrong() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        is_read = qid > 0 and fields["opc"] == Io.READ and fields["cdw10"] == 40
        if not is_read:
            return None
        data = bytearray(target.drive.read(range(40, 48)).data)
        data[512 * 3 + 5] ^= 1
        return Answer(data=bytes(data))

    target = FakeTarget(script=script)
    with target.running():
        result = ocssd(target, "verify 0/0/1")
        assert result.exit_code == 1
        assert "DIFFERENT: 1 blocks of 16 KiB in 1 chunks" in result.stdout
        assert "the first is 0/0/1/11 (0x2b)" in result.stdout
        assert target.drive.wp == {}


def test_verify_cleans_up_after_a_failure() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        nonlocal failures
        if qid > 0 and fields["opc"] == Io.WRITE and fields["cdw10"] == 16 and failures:
            failures -= 1
            return Answer(Status.WRITE_FAULT)
        return None

    failures = 1
    target = FakeTarget(script=script, geometry=tiny(early_reset=False))
    with target.running():
        result = ocssd(target, "verify --chunks 2")
        assert (result.exit_code, "Write Fault" in result.stderr) == (1, True)
        assert target.drive.wp == {}


def test_verify_needs_a_free_chunk(target: FakeTarget) -> None:
    target.drive.offline = set(range(12))
    assert ocssd(target, "verify").exit_code == 2


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("reset 0/0/0", 1, "ocssd: Vector Chunk Reset: Invalid Reset (2/C1h, do not retry)"),
        ("reset 0/0/0 0/0/1", 1, "Invalid Reset (2/C1h, do not retry); entries 0, 1 of the list"),
        ("write 0/0/0/8 --pattern lba", 1, "Out of Order Write (2/F2h"),
        ("info -n nqn.2014-08.org.example:none", 1, "SUBNQN not accepted"),
        ("info --nsid 9", 2, "the drive has no namespace 9"),
        ("read 0/0/3", 2, "0/0/3: chunk 3 does not exist, the drive has 0 to 2"),
        ("read 0/0/0/32", 2, "block 32 does not exist"),
        ("write 0/0/0", 2, "say what to write"),
        ("write 0/0/0 -i - --pattern lba", 2, "say what to write"),
        ("write 0/0/0 -i -", 2, "0 bytes are not whole blocks"),
        ("read 1/2", 2, "'1/2' is not an address"),
        ("read 1/-2/3", 2, "'1/-2/3' is not an address"),
        ("read 0x10000000000000000", 2, "is not an address"),
        ("chunks --pu 2-", 2, "'2-' is not a number or a range"),
        ("read 1 2 3 --form progression --form data", 2, "form 1 (data) cannot carry"),
        ("info --nsid 0", 2, "Invalid value for '--nsid'"),
    ],
)
def test_errors_say_what_to_do(target: FakeTarget, line: str, code: int, text: str) -> None:
    result = ocssd(target, line)
    assert (result.exit_code, text in result.stderr) == (code, True), result.stderr
    assert result.stdout == ""


def test_a_count_that_does_not_match_the_data_is_refused(target: FakeTarget) -> None:
    result = ocssd(target, "write 0/0/0 -c 2 -i -", input=bytes(512 * 4))
    assert (result.exit_code, "data for 4 blocks" in result.stderr) == (2, True)


def test_errors_as_json(target: FakeTarget) -> None:
    result = ocssd(target, "reset 0/0/0 0/0/1 --json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {
        "error": "Vector Chunk Reset: Invalid Reset (2/C1h, do not retry)",
        "status": 0x42C1,
        "name": "Invalid Reset (2/C1h, do not retry)",
        "failed": [0, 1],
    }


def test_no_drive_is_a_hint_to_start_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    result = CliRunner().invoke(main, ["info", "-a", f"127.0.0.1:{port}"])
    assert result.exit_code == 3
    assert result.stderr == (
        f"ocssd: cannot connect to 127.0.0.1:{port}: Connection refused"
        " - is the drive running? `make run` starts one; -a names another address\n"
    )
    result = CliRunner().invoke(main, ["discover", "--json"], env={"OCSSD_ADDRESS": f"127.0.0.1:{port}"})
    assert (result.exit_code, list(json.loads(result.stdout))) == (3, ["error"])


def test_a_drive_that_goes_away_is_exit_status_3() -> None:
    def script(qid: int, fields: dict[str, Any], _: bytes) -> Answer | None:
        if qid > 0 and fields["opc"] == Io.READ:
            raise EOFError
        return None

    with FakeTarget(script=script).running() as target:
        result = ocssd(target, "read 0")
        assert (result.exit_code, "drive closed the connection" in result.stderr) == (3, True)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("10.0.0.1", ("10.0.0.1", 4420)),
        ("10.0.0.1:4421", ("10.0.0.1", 4421)),
        ("drive.example:1", ("drive.example", 1)),
        ("::1", ("::1", 4420)),
        ("[::1]", ("::1", 4420)),
        ("[::1]:4421", ("::1", 4421)),
    ],
)
def test_endpoints(text: str, endpoint: tuple[str, int]) -> None:
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize("text", ["", ":1", "host:", "host:0", "host:65536", "host:x"])
def test_endpoints_that_cannot_be(text: str) -> None:
    result = CliRunner().invoke(main, ["info", "-a", text])
    assert (result.exit_code, "is not HOST or HOST:PORT" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(512, "512 bytes"), (16 << 10, "16 KiB"), (7680 << 20, "7.5 GiB"), (3 << 40, "3 TiB"), (5000 << 40, "5000 TiB")],
)
def test_sizes(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text


def test_hexdump_of_odd_lengths() -> None:
    assert hexdump(b"") == ""
    assert hexdump(b"abc") == "00000000  61 62 63                                         |abc|"


MANUAL = (Path(__file__).resolve().parents[2] / "docs/host-library.md").read_text()


def test_the_manual_names_every_command_and_option_as_it_is() -> None:
    listed = re.findall(r"^\| `ocssd (\w+)", MANUAL, re.MULTILINE)
    assert listed == list(COMMANDS)
    offered = "".join(CliRunner().invoke(main, [command, "--help"]).stdout for command in COMMANDS)
    assert all(option in offered for option in re.findall(r"--[a-z]+", MANUAL))


@pytest.mark.parametrize(
    "example", re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL), ids=["blocking", "asynchronous"]
)
def test_the_examples_of_the_manual_run(target: FakeTarget, example: str) -> None:
    exec(example.replace("4420", str(target.port)).replace("chk=5", "chk=2").replace("4096, 16", "256, 16"), {})
    assert {f["opc"] for qid, f, _ in target.log if qid > 0} & {Io.READ, Io.WRITE}
