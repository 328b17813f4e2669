"""Faults in the configuration, and the text files that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ocssd_tcp.cli.daemon import main
from ocssd_tcp.config import ConfigError, load
from ocssd_tcp.config.inputs import read_inputs
from ocssd_tcp.ocssd.fault_rules import FaultKind, FaultRule
from ocssd_tcp.ocssd.layouts import ChunkState


def written(folder: Path, text: str, **files: str) -> Path:
    """A configuration, and files beside it."""
    for name, content in files.items():
        (folder / f"{name}.txt").write_text(content)
    path = folder / "drive.toml"
    path.write_text(text)
    return path


def test_rules_are_those_of_the_tables_then_those_of_the_files(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [[namespace]]
        chunk_states = "states.txt"
        reset_fail = "reset.txt"
        write_fail = "write.txt"
        [[namespace]]
        [[fault]]
        kind = "high-ecc"
        pu = "1-2"
        probability = 0.5
        [[fault]]
        kind = "read-error"
        nsid = 2
        nth = 5
        seed = 9
        """,
        states="grp=0 pu=1 chk=7 state=OPEN wp=96 type=W_SEQ wi=3\n",
        reset="grp=0 pu=2 chk=11 resetfail_prob=100\n",
        write="group=0 punit=* chunk=0x2 sectr=* prob=50\n",
    )
    first, second = read_inputs(load(path), seed=42)
    assert first.rules[0] == FaultRule(FaultKind.HIGH_ECC, pu=range(1, 3), probability=0.5, seed=42)
    assert [(rule.kind, rule.probability, rule.seed) for rule in first.rules[1:]] == [
        (FaultKind.RESET_FAIL, 1.0, 42),
        (FaultKind.EARLY_CLOSE, 0.5, 42),
    ]
    assert first.states is not None
    assert first.states.cs[60 + 7] == ChunkState.OPEN
    assert second.states is None
    assert second.rules == (FaultRule(FaultKind.READ_ERROR, nth=5, seed=9),)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("", "fault.0.kind: absent: allowed: early-close, write-next-unit, reset-fail, read-error, high-ecc"),
        ('kind = "late-close"', 'fault.0.kind = "late-close": allowed: "early-close"'),
        ('kind = "early-close"\nnsid = 2', "fault.0.nsid = 2: allowed: 1 to 1"),
        ('kind = "early-close"\ngrp = 2', "fault.0.grp = 2: the drive has 2, counted from 0"),
        ('kind = "early-close"\nchk = "58-60"', "fault.0.chk = 58-60: the drive has 60"),
        ('kind = "early-close"\nchk = "3-1"', "fault.0.chk = \"3-1\": '3-1' ends before it begins"),
        ('kind = "early-close"\npu = -1', "fault.0.pu = -1: allowed: a number, a range"),
        ('kind = "reset-fail"\nblk = 3', "fault.0.blk = 3: a reset concerns the whole chunk"),
        ('kind = "read-error"\nnth = 3\nprobability = 0.5', "fault.0.nth = 3: there is a probability too"),
        ('kind = "read-error"\nprobability = 2', "fault.0.probability = 2: allowed: a number from 0 to 1"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(tmp_path: Path, fault: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, f"[[fault]]\n{fault}\n"))
    assert f"drive.toml: {why}" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ('write_fail = "write.txt"', "namespace.0.write_fail = "),
        ('[[fault]]\nkind = "early-close"', 'fault.0.kind = "early-close": namespace.0 is not strict'),
        ('[[fault]]\nkind = "write-next-unit"', 'fault.0.kind = "write-next-unit": namespace.0 is not strict'),
    ],
)
def test_writes_of_a_lax_namespace_do_not_fail(tmp_path: Path, keys: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, f"[[namespace]]\nstrict = false\n{keys}\n"))
    assert why in str(caught.value)
    assert "only in strict namespaces do writes fail" in str(caught.value)


def test_everything_that_is_wrong_with_the_files_is_said_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        '[[namespace]]\nchunk_states = "states.txt"\nreset_fail = "none.txt"\nwrite_fail = "write.txt"\n',
        states="# a comment\ngroup=0 punit=0 chunk=0 state=OPEN\n",
        write="grp=0 pu=9 chk=0 sec=0 writefail_prob=1\n",
    )
    with pytest.raises(ConfigError) as caught:
        read_inputs(load(path), seed=0)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/none.txt: namespace.0.reset_fail: cannot be read: No such file or directory",
        f"{tmp_path}/write.txt: namespace.0.write_fail: line 1: pu=9 is not in 0 to 3",
        f"{tmp_path}/states.txt: namespace.0.chunk_states: line 2: chunk 0/0/0: an OPEN chunk needs wp=",
    ]


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, '[[namespace]]\nchunk_states = "states.txt"\n')
    (tmp_path / "states.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no text"):
        read_inputs(load(path), seed=0)


@pytest.mark.parametrize("action", [["--check-config"], []])
def test_the_daemon_refuses_wrong_files_and_touches_nothing(tmp_path: Path, action: list[str]) -> None:
    path = written(tmp_path, '[[namespace]]\nchunk_states = "states.txt"\n', states="nonsense\n")
    result = CliRunner().invoke(main, ["--config", str(path), *action])
    assert result.exit_code == 2
    assert f"{tmp_path}/states.txt: namespace.0.chunk_states: line 1: 'nonsense' is not key=value" in result.stderr
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["drive.toml", "states.txt"]
