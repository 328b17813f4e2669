"""Configurations that are wrong: each message names the source, the key path, the value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.config import ConfigError, load


def problems(path: Path | None, overrides: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides or [])
    return str(caught.value)


def refused(folder: Path, text: str) -> str:
    path = folder / "drive.toml"
    path.write_text(text)
    return problems(path)


def target(line: str) -> str:
    return f"[target]\n{line}\n"


def namespace(*lines: str) -> str:
    return "[[namespace]]\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        # names
        (target("queue_entry = 5"), ["target.queue_entry = 5", "no such key", "did you mean queue_entries?"]),
        (target("num_chk = 5"), ["target.num_chk = 5", "it belongs under [[namespace]]"]),
        ("[observe]\nzzz = 5\n", ["observe.zzz = 5", "allowed: log_level"]),
        ("[targt]\nmdts = 7\n", ["targt: no such table", "did you mean target?"]),
        ("mdts = 7\n", ["mdts: no such table", "it belongs under [target]"]),
        # shapes
        ("target = 5\n", ["target = 5", "a table, [target]"]),
        ("[namespace]\nnum_chk = 5\n", ["namespace", "write [[namespace]]"]),
        ("namespace = []\n", ["namespace: 0 of them", "1 to 1024"]),
        ("namespace = [{}, 3]\n", ["namespace.1 = 3", "a table, [[namespace]]"]),
        # numbers
        (target("max_queues = 0"), ["target.max_queues = 0", "1 to 65535"]),
        (target("max_queues = 65536"), ["target.max_queues = 65536", "1 to 65535"]),
        (target("max_queues = true"), ["target.max_queues = true", "a whole number"]),
        (target("max_queues = 1.0"), ["target.max_queues = 1.0", "a whole number"]),
        (target('max_queues = "8"'), ['target.max_queues = "8"', "a whole number"]),
        (target("queue_entries = 1"), ["target.queue_entries = 1", "2 to 32768"]),
        (target("max_controllers = 65520"), ["target.max_controllers = 65520", "1 to 65519"]),
        (target("cpus = [0, -1]"), ["target.cpus", "not -1", "from 0 to 4095"]),
        (target("poll_us = -1"), ["target.poll_us = -1", "0 to 1000000"]),
        (target("mdts = 17"), ["target.mdts = 17", "0 to 16"]),
        (target(f"mdts = 0x{'f' * 6000}"), ["target.mdts = 0xfff", "0 to 16"]),
        (namespace("wit = 256"), ["namespace.0.wit = 256", "0 to 255"]),
        # sizes
        (target("in_capsule_bytes = 8"), ["target.in_capsule_bytes = 8", "a multiple of 16"]),
        (target('in_capsule_bytes = "8 KB"'), ['target.in_capsule_bytes = "8 KB"', '"8KiB"']),
        (target('in_capsule_bytes = "265KiB"'), ['target.in_capsule_bytes = "265KiB"', "0 to 270336"]),
        (target('in_capsule_bytes = "-8KiB"'), ['target.in_capsule_bytes = "-8KiB"', "0 to 270336"]),
        (target("in_capsule_bytes = [8]"), ["target.in_capsule_bytes = [8]", "bytes"]),
        (namespace("block_bytes = 1024"), ["namespace.0.block_bytes = 1024", "512 or 4096"]),
        (namespace('metadata_bytes = "1KiB"'), ['namespace.0.metadata_bytes = "1KiB"', "0, 8, 16, 32 or 64"]),
        # choices and flags
        (namespace("dlfeat = true"), ["namespace.0.dlfeat = true", "0, 1 or 2"]),
        (namespace("early_reset = 1"), ["namespace.0.early_reset = 1", "true or false"]),
        ('[observe]\nlog_level = "loud"\n', ['observe.log_level = "loud"', '"debug", "info", "warning" or "error"']),
        # time
        ("[latency]\njitter = 0.1\n", ["latency.jitter = 0.1", "set latency.flash or the four times"]),
        ("[latency]\nread_ns = 0\n", ["latency.program_ns", "absent", "set latency.flash"]),
        ('[latency]\nflash = "plc"\n', ['latency.flash = "plc"', '"slc", "mlc", "tlc" or "qlc"']),
        ("[latency]\njitter = nan\n", ["latency.jitter = nan", "a number from 0 to 1"]),
        ("[latency]\njitter = true\n", ["latency.jitter = true", "a number from 0 to 1"]),
        ("[latency]\nerase_ns = -1\n", ["latency.erase_ns = -1", "0 to 4294967295"]),
        ("[[limits]]\nnsid = 2\n", ["limits.0.nsid = 2", "0 (the whole drive) to 1"]),
        ("[[limits]]\n[[limits]]\n", ["limits.1.nsid = 0", "limits.0 has it"]),
        # addresses
        (target('listen = "127.0.0.1:4420"'), ['target.listen = "127.0.0.1:4420"', "not a list"]),
        (target("listen = []"), ["target.listen = []", "an empty list", '"127.0.0.1:4420"']),
        (target("listen = [4420]"), ["target.listen = [4420]", "not 4420"]),
        (target('listen = ["127.0.0.1"]'), ['["127.0.0.1"]', "no port"]),
        (target('listen = ["127.0.0.1:65536"]'), ['["127.0.0.1:65536"]', "no port from 0 to 65535"]),
        (target('listen = ["localhost:4420"]'), ['["localhost:4420"]', "names are not looked up"]),
        (target('listen = ["::1:4420"]'), ['["::1:4420"]', "brackets"]),
        (target('listen = ["[127.0.0.1]:4420"]'), ['["[127.0.0.1]:4420"]', "brackets"]),
        (target('listen = ["[::1]:1", "[0::1]:1"]'), ["target.listen", '"[0::1]:1" twice']),
        (target('advertise = ["10.0.2.2:0"]'), ["target.advertise", "port 0"]),
        (target('advertise = ["0.0.0.0:4420"]'), ["target.advertise", "no host can connect"]),
        # names of subsystems, hosts and drives
        (target('nqn = "drive0"'), ['target.nqn = "drive0"', "nqn.yyyy-mm.reverse.domain:name"]),
        (target('nqn = "nqn.2014-13.org.example:d"'), ["nqn.2014-13", "nqn.yyyy-mm"]),
        (target('nqn = "nqn.2014-08.org.example:"'), ["target.nqn", "nqn.yyyy-mm"]),
        (target(f'nqn = "nqn.2014-08.org.example:{"x" * 200}"'), ["target.nqn", "224 bytes", "at most 223"]),
        (target('nqn = "nqn.2014-08.org.example:a\\u0000"'), ["target.nqn", "not printable"]),
        (target('nqn = "nqn.2014-08.org.nvmexpress.discovery"'), ["target.nqn", "the discovery subsystem's"]),
        (target('nqn = "nqn.2014-08.org.nvmexpress:uuid:1234"'), ["target.nqn", "no UUID after uuid:"]),
        (target("allowed_hosts = []"), ["target.allowed_hosts = []", "an empty list"]),
        (target('allowed_hosts = [""]'), ['target.allowed_hosts = [""]', "1 to 223 bytes"]),
        (target(f'allowed_hosts = ["{"é" * 112}"]'), ["target.allowed_hosts", "224 bytes"]),
        (target('congestion = "../cubic"'), ['target.congestion = "../cubic"', "congestion control"]),
        ('[drive]\nserial = ""\n', ['drive.serial = ""', "1 to 20"]),
        (f'[drive]\nserial = "{"1" * 21}"\n', ["drive.serial", "1 to 20"]),
        ('[drive]\nmodel = "Größe"\n', ['drive.model = "Größe"', "not printable ASCII"]),
        ('[drive]\npath = ""\n', ['drive.path = ""', "a path"]),
        ("[drive]\npath = 5\n", ["drive.path = 5", "a path"]),
        (namespace('uuid = "b5b0b1ee"'), ['namespace.0.uuid = "b5b0b1ee"', "a UUID"]),
        (namespace(f'uuid = "{"0" * 8}-0000-0000-0000-{"0" * 12}"'), ["namespace.0.uuid", "all zeros means none"]),
        # several keys together
        (namespace("ws_opt = 7"), ["namespace.0.ws_opt: 7", "multiple of ws_min (4)"]),
        (namespace("clba = 30"), ["namespace.0.clba: 30", "multiple of ws_min (4)"]),
        (namespace("maxoc = 2", "maxocpu = 3"), ["namespace.0.maxocpu: 3", "maxoc (2)"]),
        (namespace("clba = 16"), ["namespace.0.mw_cunits: 24", "clba (16)"]),
        (
            namespace() + namespace("num_grp = 65535", "num_pu = 65535", "num_chk = 4294967295"),
            ["namespace.1.", "bits"],
        ),
        (target("mdts = 6"), ["target.mdts = 6", "262656 bytes", "namespace.0", "0 (no limit) or 7 and more"]),
        (
            target("mdts = 6") + namespace("block_bytes = 512") + namespace(),
            ["mdts = 6", "namespace.1;"],
        ),
        (
            namespace('uuid = "b5b0b1ee-4d0e-4c33-9d3c-0a7c2f1d6e01"') * 2,
            ["namespace.1.uuid", "b5b0b1ee", "namespace.0 has it"],
        ),
        # no TOML
        ("[target", ["not a TOML file", "at end of document"]),
        (target("mdts = 7\nmdts = 8"), ["not a TOML file", "line 3"]),
        (target(f"mdts = {'9' * 5000}"), ["not a TOML file"]),
        (target("mdts = " + "[" * 100_000), ["not a TOML file"]),
    ],
)
def test_the_message_says_where_what_and_what_is_allowed(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = refused(tmp_path, text)
    assert message.startswith(f"{tmp_path / 'drive.toml'}: ")
    for part in parts:
        assert part in message
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize("n_bytes", [512, 4096])
@pytest.mark.parametrize("metadata_bytes", [0, 64])
def test_the_least_mdts_that_is_named_is_accepted(n_bytes: int, metadata_bytes: int) -> None:
    shape = [f"namespace.block_bytes={n_bytes}", f"namespace.metadata_bytes={metadata_bytes}"]
    least = int(problems(None, [*shape, "target.mdts=1"]).rpartition(" or ")[2].split()[0])
    assert (4096 << least) >= 64 * (n_bytes + metadata_bytes) + 512 > (4096 << (least - 1))
    assert load(None, [*shape, f"target.mdts={least}"]).target.mdts == least


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("target.mdts", ["write key=value"]),
        ("=7", ["write key=value"]),
        ("target..mdts=7", ["write key=value"]),
        ("mdts=7", ["mdts: no such table", "it belongs under [target]"]),
        ("target.mtds=7", ["target.mtds = 7", "did you mean mdts?"]),
        ("target.mdts=seven", ['target.mdts = "seven"', "0 to 16"]),
        ("target.mdts=7\nmax_queues=3", ["target.mdts", "0 to 16"]),
        ("target.mdts.x=7", ["target.mdts", "a whole number"]),
        ("target=7", ["target = 7", "a table"]),
        ("namespace.2.num_chk=8", ["namespace.2: there are 1, numbered from 0"]),
        (f"namespace.{'9' * 5000}.num_chk=8", ["numbered from 0"]),
        ("namespace.0=8", ["namespace.0 = 8", "a table"]),
        ("namespace=8", ["namespace: write [[namespace]]"]),
        ("namespace.ws_opt=7", ["namespace.0.ws_opt: 7"]),
        ("target.listen=[127.0.0.1:0]", ['target.listen = "[127.0.0.1:0]"', "not a list"]),
    ],
)
def test_a_wrong_set_option_is_quoted(override: str, parts: list[str]) -> None:
    message = problems(None, [override])
    assert message.startswith("--set ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_everything_wrong_is_said_at_once_with_its_source(tmp_path: Path) -> None:
    path = tmp_path / "drive.toml"
    path.write_text('[target]\nmdts = 99\nqueues = 3\n[drive]\nserial = ""\n[[namespace]]\n[[namespace]]\nclba = -1\n')
    lines = problems(path, ["target.max_queues=0", "nonsense"]).splitlines()
    assert [line.split(" = ")[0] for line in lines] == [
        "--set nonsense: write key=value, such as target.max_queues=8",
        f"{path}: target.mdts",
        f"{path}: target.queues",
        "--set target.max_queues=0: target.max_queues",
        f"{path}: drive.serial",
        f"{path}: namespace.1.clba",
    ]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.write_bytes(b"[drive]\nserial = '\xff'"), "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make: object, why: str) -> None:
    path = tmp_path / "drive.toml"
    make(path)  # type: ignore[operator]
    assert problems(path).startswith(f"{path}: ")
    assert why in problems(path)


def test_nothing_is_made_by_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    load(None, ["drive.path=deep/down"])
    assert not list(tmp_path.iterdir())


@settings(max_examples=150)
@given(
    st.lists(
        st.builds(
            "{}{}".format,
            st.sampled_from(
                ["target.listen=", "namespace.0.clba=", "namespace.uuid=", "target.nqn=", "drive=", "", "a.b="]
            ),
            st.text(max_size=12) | st.sampled_from(["[", "{x={}}", '["[::1%a]:1"]', "1e999", "1979-05-27", "'''"]),
        ),
        max_size=3,
    )
)
def test_no_override_raises_anything_else(overrides: list[str]) -> None:
    lines = []
    try:
        load(None, overrides)
    except ConfigError as error:
        lines = str(error).split("\n")
        found = len(error.problems)
    assert all(lines)
    assert not lines or len(lines) == found
