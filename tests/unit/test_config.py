"""Configuration files that are right: what they become, and what --set changes."""

from __future__ import annotations

import tomllib
from pathlib import Path
from uuid import UUID

import pytest

from ocssd_tcp.config import Address, NamespaceConfig, load
from ocssd_tcp.config.sample import effective, sample
from ocssd_tcp.config.schema import GEOMETRY_KEYS, TABLES, FaultConfig, LatencyConfig, LimitsConfig, keys_of
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.lines import ANY

EVERY_KEY = """
[target]
listen = ["0.0.0.0:4420", "[::1]:0", "127.0.0.1:0"]
advertise = ["10.0.2.2:4420", "[fd00::1]:4421"]
nqn = "nqn.2014-08.org.example:drive0"
allowed_hosts = ["nqn.2014-08.org.nvmexpress:uuid:0", "any name"]
max_queues = 8
queue_entries = 128
max_controllers = 2
in_capsule_bytes = "8 KiB"
mdts = 0
cpus = [3, 1]
poll_us = 50
congestion = "bbr"
[observe]
log_level = "debug"
[drive]
path = "drive0"
serial = "OC1"
model = "a model"
keep_allocated = 0
[[namespace]]
num_grp = 1
num_pu = 3
num_chk = 5
clba = 24
block_bytes = "4KiB"
metadata_bytes = 16
ws_min = 2
ws_opt = 6
mw_cunits = 0
maxoc = 4
maxocpu = 2
early_reset = false
multi_reset = true
vector_copy = false
wit = 0
pe_cycles = 0
uuid = "B5B0B1EE-4d0e-4c33-9d3c-0a7c2f1d6e01"
dlfeat = 2
strict = false
allow_set_log_page = true
chunk_states = "states.txt"
reset_fail = "/etc/resetfail.txt"
write_fail = ""
[[namespace]]
block_bytes = 512
[[fault]]
kind = "early-close"
nsid = 2
grp = "*"
pu = 3
chk = "0-7"
blk = "*"
probability = 0.25
seed = 42
[[fault]]
kind = "reset-fail"
nth = 5
[latency]
flash = "qlc"
read_ns = 1
program_ns = 2
erase_ns = 3
transfer_ns = 0
jitter = 0.25
seed = 7
[[limits]]
nsid = 2
iops = 1000
bytes_per_second = "1MiB"
[[limits]]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "drive.toml"
    path.write_text(text)
    return path


def test_no_configuration_is_the_documented_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load()
    target, drive, [namespace] = config.target, config.drive, config.namespaces
    assert target.listen == (Address("127.0.0.1", 4420),)
    assert (target.advertise, target.nqn, target.allowed_hosts) == ((), None, None)
    assert (target.max_queues, target.queue_entries, target.max_controllers) == (64, 1024, 256)
    assert (target.in_capsule_bytes, target.mdts, target.cpus) == (8192, 7, ())
    assert (target.poll_us, target.congestion) == (0, "")
    assert config.observe.log_level == "info"
    assert (drive.path, drive.serial, drive.keep_allocated) == (tmp_path / "ocssd-drive", "OC000001", 64)
    assert (namespace.num_grp, namespace.num_pu, namespace.num_chk, namespace.clba) == (2, 4, 60, 4096)
    assert (namespace.block_bytes, namespace.metadata_bytes) == (4096, 0)
    assert (namespace.ws_min, namespace.ws_opt, namespace.mw_cunits) == (4, 8, 24)
    assert (namespace.maxoc, namespace.maxocpu, namespace.wit, namespace.pe_cycles) == (0, 0, 10, 1000)
    assert (namespace.early_reset, namespace.multi_reset, namespace.vector_copy) == (True, False, True)
    assert (namespace.uuid, namespace.dlfeat) == (None, 1)
    assert not config.latency.is_on
    assert config.limits == ()
    assert not list(tmp_path.iterdir())


def test_every_key_of_a_file_arrives(tmp_path: Path) -> None:
    config = load(written(tmp_path, EVERY_KEY))
    target = config.target
    assert target.listen == (Address("0.0.0.0", 4420), Address("::1", 0), Address("127.0.0.1", 0))
    assert target.advertise == (Address("10.0.2.2", 4420), Address("fd00::1", 4421))
    assert (target.nqn, target.in_capsule_bytes, target.mdts) == ("nqn.2014-08.org.example:drive0", 8192, 0)
    assert target.allowed_hosts == ("nqn.2014-08.org.nvmexpress:uuid:0", "any name")
    assert (target.max_queues, target.queue_entries, target.max_controllers) == (8, 128, 2)
    assert (target.poll_us, target.congestion, config.observe.log_level) == (50, "bbr", "debug")
    assert target.cpus == (3, 1)
    drive = config.drive
    assert (drive.path, drive.serial, drive.model, drive.keep_allocated) == (tmp_path / "drive0", "OC1", "a model", 0)
    first, second = config.namespaces
    assert first == NamespaceConfig(
        1, 3, 5, 24, 4096, 16, 2, 6, 0, 4, 2, False, True, False, 0, 0, UUID("b5b0b1ee-4d0e-4c33-9d3c-0a7c2f1d6e01"), 2,
        False, True, tmp_path / "states.txt", Path("/etc/resetfail.txt"), None,
    )  # fmt: skip
    assert config.faults == (
        FaultConfig("early-close", 2, ANY, range(3, 4), range(8), ANY, 0.25, 0, 42),
        FaultConfig("reset-fail", nth=5),
    )
    assert second == NamespaceConfig(block_bytes=512)
    assert config.latency == LatencyConfig("qlc", 1, 2, 3, 0, 0.25, 7)
    assert config.limits == (LimitsConfig(2, 1000, 1 << 20), LimitsConfig(0, 0, 0))


def test_a_namespace_describes_its_geometry(tmp_path: Path) -> None:
    first, second = load(written(tmp_path, EVERY_KEY)).namespaces
    assert first.geometry == Geometry(1, 3, 5, 24, 4096, 16, 2, 6, 0, 4, 2, False, True, False, 0, 0, 2)
    assert second.geometry == Geometry(block_bytes=512)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["namespace.0.num_chk=8"], [8, 60]),
        (["namespace.num_chk=8"], [8, 8]),
        (["namespace.num_chk=8", "namespace.1.num_chk=9"], [8, 9]),
        (["namespace.2.num_chk=7"], [60, 60, 7]),
        (["namespace=[{num_chk = 3}]"], [3]),
        (["namespace.0.num_chk=1", "namespace.0.num_chk=2"], [2, 60]),
    ],
)
def test_namespaces_are_numbered_from_zero(tmp_path: Path, overrides: list[str], expected: list[int]) -> None:
    path = written(tmp_path, "[[namespace]]\n[[namespace]]\n")
    assert [namespace.num_chk for namespace in load(path, overrides).namespaces] == expected


@pytest.mark.parametrize(
    ("override", "attribute", "value"),
    [
        ('target.listen=["127.0.0.1:0"]', "listen", (Address("127.0.0.1", 0),)),
        ("target.nqn=nqn.2014-08.org.example:d=1", "nqn", "nqn.2014-08.org.example:d=1"),
        ('target.nqn = "nqn.2014-08.org.example"', "nqn", "nqn.2014-08.org.example"),
        ("target.in_capsule_bytes=264KiB", "in_capsule_bytes", 264 << 10),
        ("target.in_capsule_bytes=0b", "in_capsule_bytes", 0),
        ("target.max_queues=0x10", "max_queues", 16),
        ("target.congestion=", "congestion", ""),
    ],
)
def test_a_set_value_is_toml_or_else_text(override: str, attribute: str, value: object) -> None:
    assert getattr(load(None, [override]).target, attribute) == value


def test_set_paths_start_from_the_current_folder_and_file_paths_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    path = written(tmp_path, '[drive]\npath = "../drive0"\n')
    assert load(Path("../drive.toml")).drive.path == tmp_path.parent / "drive0"
    assert load(path, ["drive.path=x"]).drive.path == here / "x"
    assert load(path, ['drive={path="x"}']).drive.path == here / "x"
    assert load(written(tmp_path, "")).drive.path == tmp_path / "ocssd-drive"


def test_the_sample_loads_to_the_defaults(tmp_path: Path) -> None:
    config = load(written(tmp_path, sample()))
    assert config == load(written(tmp_path, ""))


def test_every_line_of_the_sample_can_be_uncommented(tmp_path: Path) -> None:
    text = "\n".join(
        line.removeprefix("#") if line[:2] == "#[" or (" = " in line and line[:2] != "# ") else line
        for line in sample().split("\n")
    )
    load(written(tmp_path, text))
    read = tomllib.loads(text)
    for table in TABLES.values():
        content = read[table.name][0] if table.repeated else read[table.name]
        assert set(content) == {entry.name for entry in keys_of(table.content)}


@pytest.mark.parametrize("text", ["", EVERY_KEY, '[drive]\nserial = "\\"quoted\\\\"\n'])
def test_the_effective_configuration_loads_to_itself(tmp_path: Path, text: str) -> None:
    config = load(written(tmp_path, text))
    assert load(written(tmp_path, effective(config))) == config


def test_keys_of_a_namespace_are_its_geometry_and_how_it_is_run() -> None:
    assert {entry.name for entry in keys_of(NamespaceConfig)} == {
        *GEOMETRY_KEYS, "uuid", "strict", "allow_set_log_page", "chunk_states", "reset_fail", "write_fail",
    }  # fmt: skip


def test_every_key_says_what_it_means_and_allows_its_default() -> None:
    for table in TABLES.values():
        for entry in keys_of(table.content):
            assert entry.doc.endswith(".")
            if entry.default is not None:
                assert entry.kind.parse(entry.kind.plain(entry.default)) == entry.default
