"""`ocssd-tcpd`: what it prints, what it refuses, and that an operator's error is one message and exit status 2."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

import ocssd_tcp
from ocssd_tcp.accel import EngineError, engine_name
from ocssd_tcp.cli.daemon import announcer, explain, main
from ocssd_tcp.config import Address, Config, ConfigError, load
from ocssd_tcp.config.sample import sample
from ocssd_tcp.media.store import StoreError

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OCSSD_TCP_ACCEL", raising=False)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Put a function in the place of the composition root's `run`."""

    def install(run: Run) -> None:
        module = ModuleType("ocssd_tcp.daemon")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ocssd_tcp.daemon", module)
        monkeypatch.setattr(ocssd_tcp, "daemon", module, raising=False)

    return install


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def assert_refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize("arguments", [[], ["--version"]])
@pytest.mark.parametrize(
    ("choice", "parts"),
    [
        ("require", ["OCSSD_TCP_ACCEL=require", "not built", "OCSSD_TCP_ACCEL=auto"]),
        ("yes", ["OCSSD_TCP_ACCEL='yes'", "auto, off, require"]),
    ],
)
def test_an_engine_that_cannot_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], choice: str, parts: list[str]
) -> None:
    monkeypatch.setenv("OCSSD_TCP_ACCEL", choice)
    monkeypatch.setattr("ocssd_tcp.accel._twin_is_built", lambda: False)
    assert_refused(call(*arguments), *parts)


@pytest.mark.parametrize(
    ("choice", "built", "name"),
    [
        (None, False, "python"),
        (None, True, "compiled"),
        ("", True, "compiled"),
        ("auto", False, "python"),
        ("auto", True, "compiled"),
        ("off", True, "python"),
        ("off", False, "python"),
        ("require", True, "compiled"),
    ],
)
def test_the_engine_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, choice: str | None, built: bool, name: str
) -> None:
    monkeypatch.setattr("ocssd_tcp.accel._twin_is_built", lambda: built)
    assert engine_name({} if choice is None else {"OCSSD_TCP_ACCEL": choice}) == name


def test_a_required_engine_that_is_not_built_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocssd_tcp.accel._twin_is_built", lambda: False)
    with pytest.raises(EngineError, match="not built"):
        engine_name({"OCSSD_TCP_ACCEL": "require"})


def test_version_says_which_engine_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCSSD_TCP_ACCEL", "off")
    result = call("--version")
    assert (result.exit_code, result.output) == (0, f"ocssd-tcpd {ocssd_tcp.__version__}\nengine: python\n")


def test_sample_config_prints_the_sample() -> None:
    result = call("--sample-config")
    assert (result.exit_code, result.output) == (0, sample())


def test_check_config_of_a_valid_file_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "drive.toml").write_text(sample())
    result = call("--config", "drive.toml", "--check-config")
    assert (result.exit_code, result.output) == (0, "drive.toml: valid\n")
    assert [path.name for path in tmp_path.iterdir()] == ["drive.toml"]


def test_show_config_prints_what_would_be_used(tmp_path: Path) -> None:
    result = call("--set", "namespace.num_chk=8", "--show-config")
    (tmp_path / "shown.toml").write_text(result.output)
    assert load(Path("shown.toml")).namespaces == load(None, ["namespace.num_chk=8"]).namespaces
    assert f'path = "{tmp_path}/ocssd-drive"' in result.output


@pytest.mark.parametrize("action", [[], ["--check-config"], ["--show-config"]])
def test_every_fault_of_a_configuration_is_printed(tmp_path: Path, action: list[str]) -> None:
    (tmp_path / "drive.toml").write_text("[target]\nmdts = 99\n")
    result = call("--config", "drive.toml", "--set", "target.queues=1", *action)
    assert_refused(result, "ocssd-tcpd: drive.toml: target.mdts = 99: ", "\nocssd-tcpd: --set target.queues=1: ")
    assert [path.name for path in tmp_path.iterdir()] == ["drive.toml"]


@pytest.mark.parametrize("arguments", [["--nonsense"], ["extra"], ["--config"], ["--config", "missing.toml"]])
def test_wrong_usage_is_refused(arguments: list[str]) -> None:
    assert_refused(call(*arguments), arguments[-1])


def test_the_composition_root_gets_the_configuration_and_gives_the_exit_status(
    daemon: Callable[[Run], None],
) -> None:
    seen: list[Config] = []

    def run(config: Config, *, announce: Callable[..., None]) -> int:
        seen.append(config)
        announce("nqn.2014-08.org.example:d", [Address("127.0.0.1", 4421)])
        return 0

    daemon(run)
    result = call("--set", "namespace.0.num_chk=8")
    assert result.exit_code == 0
    assert seen == [load(None, ["namespace.0.num_chk=8"])]
    assert "nvme connect -t tcp -a 127.0.0.1 -s 4421 -n nqn.2014-08.org.example:d\n" in result.stdout


@pytest.mark.parametrize(
    ("overrides", "addresses", "parts"),
    [
        ([], ["127.0.0.1:4420"], ["7.5 GiB", "listening on 127.0.0.1:4420", "-a 127.0.0.1 -s 4420 -n 'nqn x'"]),
        ([], ["0.0.0.0:1", "[::1]:2"], ["listening on 0.0.0.0:1, [::1]:2", "-a 127.0.0.1 -s 1", "info -a 127.0.0.1:1"]),
        ([], ["[::]:1"], ["listening on [::]:1", "-a ::1 -s 1", "info -a [::1]:1"]),
        (['target.advertise=["10.0.2.2:9"]'], ["0.0.0.0:1"], ["-a 10.0.2.2 -s 9", "info -a 10.0.2.2:9"]),
        (["namespace.1.num_chk=60"], ["127.0.0.1:1"], ["15.0 GiB", "2 namespace(s)"]),
    ],
)
def test_the_operator_is_told_how_to_connect(
    capsys: pytest.CaptureFixture[str], overrides: list[str], addresses: list[str], parts: list[str]
) -> None:
    listening = load(None, [f"target.listen={addresses}".replace("'", '"')]).target.listen
    announcer(load(None, overrides))("nqn x", listening)
    printed = capsys.readouterr().out
    for part in parts:
        assert part in printed


@pytest.mark.parametrize(
    ("listening", "overrides", "warning"),
    [
        (["127.0.0.1", "::1"], [], ""),
        (["0.0.0.0"], [], "on all addresses: anybody who reaches this machine can use the drive"),
        (["127.0.0.1", "::"], [], "on all addresses: anybody who reaches this machine can use the drive"),
        (["::"], ['target.allowed_hosts=["nqn.2014-08.org.example:h"]'], "any host that gives itself an allowed name"),
    ],
)
def test_a_drive_on_all_addresses_says_so(
    listening: list[str], overrides: list[str], warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    announcer(load(None, overrides))("nqn", [Address(host, 4420) for host in listening])
    said = capsys.readouterr().out
    assert warning in said
    assert ("all addresses" in said) == bool(warning)


def test_a_discovery_service_alone_is_asked_not_connected_to(capsys: pytest.CaptureFixture[str]) -> None:
    announcer(load(None, ["discovery.only=true"]))("nqn x", [Address("0.0.0.0", 4420)])
    first, linux, bare = capsys.readouterr().out.splitlines()
    assert first.endswith("ocssd-drive: a discovery service alone, listening on 0.0.0.0:4420")
    assert linux.endswith(" nvme connect-all -t tcp -a 127.0.0.1 -s 4420")
    assert bare.endswith("ocssd discover -a 127.0.0.1:4420")


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(errno.EADDRINUSE, "in use", "127.0.0.1:4420"), ["127.0.0.1:4420 is in use: stop the other process"]),
        (OSError(errno.EADDRINUSE, "in use"), ["127.0.0.1:4420 is in use", "set target.listen"]),
        (OSError(errno.EADDRNOTAVAIL, "", "127.0.0.1:4420"), ["127.0.0.1:4420 is no address of this machine"]),
        (OSError(errno.EACCES, "", "127.0.0.1:4420"), ["127.0.0.1:4420 needs privileges", "set target.listen"]),
        (OSError(errno.EINVAL, "Invalid", "127.0.0.1:4420"), ["127.0.0.1:4420 cannot be listened on: Invalid"]),
        (OSError(errno.EACCES, "", "d/superblock"), ["d/superblock: permission denied", "set drive.path"]),
        (OSError(errno.ENOSPC, ""), ["ocssd-drive: the disk is full", "free some space"]),
        (OSError(errno.EMFILE, ""), ["too many open files", "ulimit -n"]),
        (OSError(errno.EIO, "Input/output error", "d/pu-0-0.data"), ["d/pu-0-0.data: Input/output error"]),
        (StoreError(Path("d"), "in use by process 7"), ["d", "in use by process 7"]),
        (ConfigError("target.congestion", "= bbr: not in this kernel"), ["target.congestion = bbr: not in this"]),
    ],
)
def test_what_the_operator_can_mend_is_one_message(
    daemon: Callable[[Run], None], error: Exception, parts: list[str]
) -> None:
    def run(config: Config, *, announce: object) -> int:
        raise error

    daemon(run)
    result = call()
    assert_refused(result, *parts)
    assert len(result.stderr.splitlines()) == 1


def test_a_store_that_the_system_keeps_from_its_files_says_what_to_do(daemon: Callable[[Run], None]) -> None:
    def run(config: Config, *, announce: object) -> int:
        try:
            raise PermissionError(errno.EACCES, "Permission denied", "d/superblock")
        except OSError as error:
            raise StoreError(Path("d/superblock"), "Permission denied") from error

    daemon(run)
    assert_refused(call(), "d/superblock: permission denied: run as the owner of the drive, or set drive.path")


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.ECONNRESET, "reset"), OSError("odd")])
def test_a_bug_is_not_dressed_up_as_the_operators_error(daemon: Callable[[Run], None], error: Exception) -> None:
    def run(config: Config, *, announce: object) -> int:
        raise error

    daemon(run)
    result = call()
    assert result.exit_code == 1
    assert result.exception is error


def test_errors_of_listening_are_told_from_those_of_files() -> None:
    config = load(None, ['target.listen=["[::1]:80"]'])
    assert "needs privileges" in str(explain(OSError(errno.EACCES, "", "[::1]:80"), config))
    assert "permission denied" in str(explain(PermissionError(errno.EACCES, "", os.fspath(config.drive.path)), config))
