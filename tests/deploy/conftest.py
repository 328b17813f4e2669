"""Fixtures: the image, built once; programs that check files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.deploy.containers import Containers, UnavailableError

Check = Callable[..., None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of the image pays for building it."""
    for item in items:
        item.add_marker(pytest.mark.timeout(900))


def unavailable(reason: str) -> NoReturn:
    """Leave the test out."""
    pytest.skip(reason)


@pytest.fixture(scope="session")
def containers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """A store with the image in it."""
    try:
        made = Containers(tmp_path_factory.mktemp("containers"))
        made.build()
    except UnavailableError as reason:
        unavailable(str(reason))
    yield made
    made.close()


@pytest.fixture(scope="session")
def checker() -> Check:
    """Runs a program that came with the `deploy` extra; what it finds wrong is a failure."""

    def check(program: str, *arguments: str | Path) -> None:
        path = Path(sys.executable).with_name(program)
        if not path.exists():
            unavailable(f"no {program}: pip install -e '.[deploy]'")
        done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return check
