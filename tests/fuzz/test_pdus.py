"""A short run of the fuzz target, so that it works when it is wanted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz.pdus import fuzz


@pytest.mark.parametrize("seed", [0, 1_000_000])
def test_rounds_of_fuzzing_find_nothing(seed: int) -> None:
    """Conformance 125."""
    assert fuzz(seed, 60.0, 88) == 88


def test_fuzz_target_runs_for_its_time_and_says_what_it_did() -> None:
    command = [sys.executable, "-m", "tests.fuzz.pdus", "--seconds", "0.2", "--seed", "5"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.endswith("rounds from seed 5 on, no failure\n")
