"""Where values come from: files over files, variables of the environment over files, options over both."""

from __future__ import annotations

from pathlib import Path

import pytest

from ocssd_tcp.config import Address, ConfigError, load
from ocssd_tcp.config.schema import LimitsConfig


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(files: list[Path], variables: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(files, environment=variables)
    return str(caught.value).splitlines()


# --- files ------------------------------------------------------------------------------------------------


def test_keys_of_a_later_file_win_and_the_others_stay(tmp_path: Path) -> None:
    first = file(tmp_path, "a.toml", '[target]\nmax_queues = 8\nmdts = 9\n[drive]\nserial = "A"\n')
    second = file(tmp_path, "b.toml", "[target]\nmax_queues = 16\n[latency]\nseed = 3\n")
    config = load([first, second])
    assert (config.target.max_queues, config.target.mdts, config.drive.serial, config.latency.seed) == (16, 9, "A", 3)


def test_namespaces_of_a_later_file_take_the_place_of_all_before(tmp_path: Path) -> None:
    first = file(tmp_path, "a.toml", "[[namespace]]\nnum_grp = 4\n[[namespace]]\n")
    second = file(tmp_path, "b.toml", "[[namespace]]\nnum_chk = 8\n")
    assert [(n.num_grp, n.num_chk) for n in load([first, second]).namespaces] == [(2, 8)]


def test_each_problem_names_the_file_that_it_is_in(tmp_path: Path) -> None:
    first = file(tmp_path, "a.toml", "[target]\nmax_queues = 0\nmdts = 99\n[[namespace]]\nclba = 0\n")
    second = file(tmp_path, "b.toml", "[target]\nmax_queues = 0\n[[namespace]]\nwit = 999\n")
    found = problems([first, second], {})
    assert [line.partition(" = ")[0] for line in found] == [
        f"{second}: target.max_queues",
        f"{first}: target.mdts",
        f"{second}: namespace.0.wit",
    ]


def test_a_path_starts_from_the_folder_of_the_file_that_it_stands_in(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    first = file(tmp_path / "x", "a.toml", '[drive]\npath = "drive"\n')
    second = file(tmp_path / "y", "b.toml", '[drive]\nserial = "B"\n[trace]\npath = "trace"\n')
    config = load([first, second])
    assert (config.drive.path, config.trace.path) == (tmp_path / "x/drive", tmp_path / "y/trace")
    assert load([second]).drive.path == tmp_path / "y/ocssd-drive"


# --- environment ------------------------------------------------------------------------------------------


def test_variables_change_keys_of_the_file_and_options_those_of_variables(tmp_path: Path) -> None:
    path = file(tmp_path, "drive.toml", "[target]\nmax_queues = 8\nmdts = 8\nmax_controllers = 8\n")
    variables = {"OCSSD_SET_TARGET__MDTS": "9", "OCSSD_SET_TARGET__MAX_CONTROLLERS": "9", "HOME": "/", "OCSSD_SET": "1"}
    target = load(path, ["target.max_controllers=10"], environment=variables).target
    assert (target.max_queues, target.mdts, target.max_controllers) == (8, 9, 10)


@pytest.mark.parametrize(
    ("name", "value", "attribute", "expected"),
    [
        ("LISTEN", '["0.0.0.0:4420", "[::]:4420"]', "listen", (Address("0.0.0.0", 4420), Address("::", 4420))),
        ("NQN", "nqn.2014-08.org.example:ocssd-0", "nqn", "nqn.2014-08.org.example:ocssd-0"),
        ("CONGESTION", "", "congestion", ""),
        ("IN_CAPSULE_BYTES", '"16KiB"', "in_capsule_bytes", 16384),
        ("in_capsule_bytes", "16 KiB", "in_capsule_bytes", 16384),
    ],
)
def test_the_value_of_a_variable_is_toml_or_else_text(name: str, value: str, attribute: str, expected: object) -> None:
    assert getattr(load(environment={f"OCSSD_SET_TARGET__{name}": value}).target, attribute) == expected


def test_a_path_in_a_variable_starts_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc").mkdir()
    path = file(tmp_path / "etc", "drive.toml", '[drive]\npath = "drive"\n')
    assert load(path, environment={"OCSSD_SET_DRIVE__PATH": "data"}).drive.path == tmp_path / "data"


def test_variables_number_namespaces_from_zero_in_whatever_order_they_come() -> None:
    variables = {f"OCSSD_SET_NAMESPACE__{index}__NUM_CHK": str(100 + index) for index in reversed(range(12))}
    variables["OCSSD_SET_NAMESPACE__NUM_CHK"] = "7"  # every one's that says nothing of its own
    variables["OCSSD_SET_NAMESPACE__NUM_PU"] = "1"
    found = [(namespace.num_pu, namespace.num_chk) for namespace in load(environment=variables).namespaces]
    assert found == [(1, 100 + index) for index in range(12)]


def test_a_row_of_a_table_that_has_none_is_made_by_a_variable() -> None:
    assert load(environment={"OCSSD_SET_LIMITS__0__IOPS": "5"}).limits == (LimitsConfig(0, 5, 0),)


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("TARGET__MDTS", "17", "OCSSD_SET_TARGET__MDTS=17: target.mdts = 17: allowed: a whole number from 0 to 16"),
        ("TARGET__MDT", "7", "OCSSD_SET_TARGET__MDT=7: target.mdt = 7: no such key; did you mean mdts?"),
        ("NAMESPACE__1__CLBA", "0", "OCSSD_SET_NAMESPACE__1__CLBA=0: namespace.1.clba = 0: allowed: "),
        ("NAMESPACE__5__CLBA", "64", "OCSSD_SET_NAMESPACE__5__CLBA=64: namespace.5: there are 1, numbered from 0"),
        ("NAMESPACE__" + "9" * 5000 + "__CLBA", "64", "OCSSD_SET_NAMESPACE__999"),
        ("TARGET", "7", "OCSSD_SET_TARGET=7: name a table and a key, such as OCSSD_SET_TARGET__MAX_QUEUES"),
        ("TARGET__", "7", "OCSSD_SET_TARGET__=7: name a table and a key, such as OCSSD_SET_TARGET__MAX_QUEUES"),
        ("DRIVE__SERIAL", "a\nb", 'OCSSD_SET_DRIVE__SERIAL=a\\nb: drive.serial = "a\\U0000000Ab": not printable ASCII'),
    ],
)
def test_a_problem_in_a_variable_is_said_as_of_any_source_and_names_the_variable(
    variable: str, value: str, line: str
) -> None:
    assert problems([], {f"OCSSD_SET_{variable}": value})[0].startswith(line)


# --- peers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("drive7", Address("drive7", 4420)),
        ("ocssd.storage.svc.cluster.local.:4421", Address("ocssd.storage.svc.cluster.local.", 4421)),
        ("10.0.2.2", Address("10.0.2.2", 4420)),
        ("[fd00::1]:65535", Address("fd00::1", 65535)),
        ("[fd00::1]", Address("fd00::1", 4420)),
    ],
)
def test_a_peer_is_a_name_or_an_address_with_or_without_a_port(text: str, expected: Address) -> None:
    assert load(None, [f'discovery.peers=["{text}"]']).discovery.peers == (expected,)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("fd00::1", "an IPv6 address stands in brackets"),
        ("drive 7", "not a host name"),
        ("-drive", "not a host name"),
        ("a..b", "not a host name"),
        ("a" * 64, "not a host name"),
        (".".join(["a" * 60] * 5), "not a host name"),
        ("drive7:0", "no port from 1 to 65535"),
        ("drive7:99999", "no port from 1 to 65535"),
        ("10.0.2", "names are not looked up"),
        ("0.0.0.0", "no host can connect"),
        ("[drive7]", "brackets"),
        ("", "brackets"),
    ],
)
def test_what_cannot_be_a_peer_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load(None, [f'discovery.peers=["{text}"]'])
