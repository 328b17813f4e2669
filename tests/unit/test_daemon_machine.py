"""What of the machine a daemon is told to use: CPUs, a TCP congestion control."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocssd_tcp import daemon
from ocssd_tcp.config import ConfigError, load


@pytest.fixture(autouse=True)
def _unpinned() -> Iterator[None]:
    cpus = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cpus)


def test_the_daemon_runs_on_its_cpus(tmp_path: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    config = load(None, [f"target.cpus=[{cpu}, 4095]", "target.listen=['192.0.2.1:1']", f"drive.path='{tmp_path}'"])
    with pytest.raises(OSError, match="Cannot assign"):  # as far as it gets
        daemon.run(config, announce=lambda *_: None)
    assert os.sched_getaffinity(0) == {cpu}


def test_cpus_that_are_not_there_are_the_operators_error() -> None:
    config = load(None, ["target.cpus=[4094, 4095]"])
    with pytest.raises(ConfigError, match=r"target.cpus = \[4094, 4095\]: none is there; this process may use \d"):
        daemon.run(config, announce=lambda *_: None)


def test_a_congestion_control_that_is_not_there_is_an_error_that_says_which_are(tmp_path: Path) -> None:
    config = load(None, ["target.congestion=none-such", f"drive.path='{tmp_path / 'drive'}'"])
    with pytest.raises(ConfigError, match=r'target.congestion = "none-such": this process may use .*reno') as error:
        daemon.run(config, announce=lambda *_: None)
    assert "none-such" not in str(error.value).partition("use")[2]
    assert not (tmp_path / "drive").exists()
