"""The first moment of `ocssd-tcpd`: it starts itself anew with what the C library shall know, if that helps."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ocssd_tcp.cli import daemon, start

X86 = os.uname_result(("Linux", "here", "6", "1", "x86_64"))
ARM = os.uname_result(("Linux", "here", "6", "1", "aarch64"))


class ExecutedError(Exception):
    """In the place of a process that is no more."""


@pytest.fixture(autouse=True)
def _glibc_on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(start.VARIABLE, raising=False)
    monkeypatch.setattr(os, "uname", lambda: X86)
    monkeypatch.setattr(os, "confstr", lambda _name: "glibc 2.36")


def unknown(_name: str) -> str:
    raise ValueError("unrecognized configuration name")


def test_glibc_on_x86_wants_its_tunables() -> None:
    assert start.wants_tunables()


def test_nothing_is_wanted_where_it_would_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as m:
        m.setattr(os, "uname", lambda: ARM)
        assert not start.wants_tunables()
    with monkeypatch.context() as m:
        m.setattr(os, "confstr", unknown)
        assert not start.wants_tunables()
    with monkeypatch.context() as m:
        m.setattr(os, "confstr", lambda _name: None)
        assert not start.wants_tunables()
    with monkeypatch.context() as m:
        m.setattr(sys, "executable", "")
        assert not start.wants_tunables()
    assert start.wants_tunables()


@pytest.mark.parametrize("value", ["", "glibc.malloc.check=1"])
def test_an_operator_who_has_set_tunables_is_left_alone(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(start.VARIABLE, value)
    monkeypatch.setattr(daemon, "main", lambda: None)
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("started anew"))
    start.main()
    assert os.environ[start.VARIABLE] == value


def test_it_starts_anew_with_the_arguments_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    executed: list[tuple[str, list[str]]] = []

    def execv(path: str, arguments: list[str]) -> None:
        executed.append((path, arguments))
        raise ExecutedError

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "executable", "/bin/python")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-X", "dev", "-m", "ocssd_tcp", "--version"])
    with pytest.raises(ExecutedError):
        start.main()
    assert executed == [("/bin/python", ["/bin/python", "-X", "dev", "-m", "ocssd_tcp", "--version"])]
    assert os.environ[start.VARIABLE] == start.TUNABLES


def test_it_goes_on_where_it_cannot_start_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    def execv(*_: object) -> None:
        raise PermissionError

    begun: list[bool] = []
    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(daemon, "main", lambda: begun.append(True))
    start.main()
    assert begun == [True]


@pytest.mark.parametrize("environment", [{}, {start.VARIABLE: ""}], ids=["anew", "as it is"])
def test_the_command_does_what_it_is_asked_either_way(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "ocssd_tcp", "--set", "target.max_queues=7", "--show-config"]
    clean = {name: value for name, value in os.environ.items() if name != start.VARIABLE}
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "max_queues = 7" in done.stdout
    assert done.stderr == ""
