"""buildah and podman on a machine without a container engine of its own and without an image registry.

Storage and configuration are in a folder of the test's; the machine's stay as they are. The base image is a stand-in,
made of Debian's packages under the name that the Dockerfile uses: it proves the steps of the Dockerfile, not what the
official image contains. It carries the machine's package configuration, so it stays here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache/deploy"
PROGRAMS = ("buildah", "podman", "runc", "mmdebstrap")
IMAGE = "ocssd-tcp"
BASE = "debian:bookworm-slim"

_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""
_ENGINE = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class UnavailableError(Exception):
    """Containers cannot be had on this machine; the text is the reason to skip with."""


class Containers:
    """An image store and the containers made from it, all below `folder`."""

    def __init__(self, folder: Path) -> None:
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            raise UnavailableError(f"needed and not here: {', '.join(missing)} (Debian packages of these names)")
        if os.geteuid():
            raise UnavailableError("building and running an image here needs root")
        self._folder = folder
        (folder / "storage.conf").write_text(_STORAGE.format(folder=folder))
        (folder / "containers.conf").write_text(_ENGINE)
        self._environment = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "BUILDAH_ISOLATION": "chroot",
        }

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of buildah or podman, to its end."""
        done = subprocess.run(arguments, env=self._environment, cwd=ROOT, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(arguments)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
            )
        return done

    def podman(self, *arguments: str) -> str:
        """What a command of podman prints."""
        return self.run("podman", *arguments).stdout.strip()

    def inspect(self, kind: str, name: str) -> Any:
        """What is known of an image or a container."""
        return json.loads(self.podman("inspect", "--type", kind, name))[0]

    # --- the image ----------------------------------------------------------------------------------------

    def build(self) -> None:
        """The base, then the Dockerfile on it."""
        self.podman("import", str(_base_archive()), f"docker.io/library/{BASE}")
        mounts = [word for mount in self._mounts() for word in ("-v", mount)]
        build = ["buildah", "build", "--pull=never", "--isolation", "chroot", "--format", "docker", "--layers=false"]
        self.run(*build, *mounts, "-t", IMAGE, ".")

    def _mounts(self) -> Iterator[str]:
        """How packages are fetched on this machine, for the build."""
        settings = _pip_settings()
        bundle = next(
            (path for path in (settings.get("cert"), os.environ.get("SSL_CERT_FILE")) if path and Path(path).exists()),
            None,
        )
        if bundle is not None:
            yield f"{bundle}:/machine-certificates.crt:ro"
            settings["cert"] = "/machine-certificates.crt"
        local = {
            Path(word.removeprefix("file://").removesuffix("/simple"))
            for value in settings.values()
            for word in value.split()
            if word.startswith(("/", "file:///"))
        }
        yield from (f"{path}:{path}:ro" for path in sorted(local) if path.exists())
        configuration = self._folder / "pip.conf"
        lines = [f"{name} = {' '.join(value.split())}" for name, value in settings.items()]
        configuration.write_text("\n".join(["[global]", *lines, ""]))
        yield f"{configuration}:/etc/pip.conf:ro"
        yield "/etc/apt:/etc/apt:ro"
        yield "/usr/share/keyrings:/usr/share/keyrings:ro"

    def close(self) -> None:
        """Remove containers, images and volumes."""
        for arguments in (
            ["rm", "--all", "--force", "--time", "0"],
            ["rmi", "--all", "--force"],
            ["volume", "prune", "-f"],
        ):
            self.run("podman", *arguments, check=False)


def _pip_settings() -> dict[str, str]:
    """pip's settings of this machine, from its files and from the environment, which wins."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = dict(re.findall(r"^(?:global|install|user)\.([a-z-]+)='(.*)'$", done, re.MULTILINE))
    found |= dict(re.findall(r"^:env:\.([a-z-]+)='(.*)'$", done, re.MULTILINE))
    return {name: value.replace("\\n", " ") for name, value in found.items()}


def _base_archive() -> Path:
    """A Debian of essential packages, made once."""
    archive = CACHE / "base.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = CACHE / f"base-{os.getpid()}.tar"
        suite = BASE.partition(":")[2].removesuffix("-slim")
        command = ["mmdebstrap", "--quiet", "--variant=minbase", suite, str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            made.unlink(missing_ok=True)
            raise AssertionError(f"no base image: {' '.join(command)}: {done.stderr[-2000:]}")
        made.rename(archive)
    return archive


def environment_options(environment: dict[str, str]) -> Sequence[str]:
    """`--env` for each variable."""
    return [word for name, value in environment.items() for word in ("--env", f"{name}={value}")]
