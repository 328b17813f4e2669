"""Debian packages without installing any: resolved, downloaded and unpacked below a cache folder.

apt runs on a private set of folders (sources, lists, archives, an empty dpkg status), so no root rights are needed and
nothing of the machine changes. The sources are the machine's own plus the backports suite of the same release, derived
from them when the folder is made. An empty status makes apt fetch the whole closure of what is asked for.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


class UnavailableError(Exception):
    """Something the guest needs cannot be had on this machine; the text is the reason to skip with."""


def backports(sources: str, release: str) -> str:
    """The stanzas of an apt sources file (deb822) that name suite `release`, made to name its backports instead."""
    kept = []
    for stanza in re.split(r"\n\s*\n", sources):
        suites = re.search(r"^Suites:(.*)$", stanza, re.MULTILINE)
        if suites and release in suites[1].split() and re.search(r"^Types:.*\bdeb\b", stanza, re.MULTILINE):
            kept.append(re.sub(r"^Suites:.*$", f"Suites: {release}-backports", stanza, flags=re.MULTILINE))
    return "\n\n".join(kept)


def backports_one_line(sources: str, release: str) -> str:
    """Like `backports`, of a file in the one-line format."""
    entry = re.compile(rf"^(deb\s+(?:\[.*?\]\s+)?\S+\s+){re.escape(release)}(\s.*)$", re.MULTILINE)
    return "\n".join(f"{before}{release}-backports{after}" for before, after in entry.findall(sources))


def _output(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"{' '.join(argv[:2])}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


class Apt:
    """apt on folders of its own below `folder`. UnavailableError where the machine has no apt or is not amd64."""

    def __init__(self, folder: Path) -> None:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            raise UnavailableError("the guest is made of Debian packages, and there is no apt-get and dpkg-deb here")
        architecture = _output(["dpkg", "--print-architecture"]).strip()
        if architecture != "amd64":
            raise UnavailableError(f"the guest is an amd64 machine and apt here fetches {architecture}")
        self._folder = folder
        self._archives = folder / "archives"
        for made in (folder / "lists/partial", self._archives / "partial", folder / "sources.list.d"):
            made.mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        self._copy_sources()
        settings = {
            "Dir::State": folder,
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder,
            "Dir::Cache::archives": self._archives,
            "Dir::Etc::SourceList": folder / "sources.list",
            "Dir::Etc::SourceParts": folder / "sources.list.d",
            "APT::Sandbox::User": "root",
        }
        self._options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        # A suite that cannot be reached leaves the others usable; what is missing shows when a package is asked for.
        subprocess.run(["apt-get", *self._options, "update"], capture_output=True, check=False)

    def _copy_sources(self) -> None:
        found = _output(["apt-config", "shell", "LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"])
        paths = dict(re.findall(r"^(\w+)='(.*)'$", found, re.MULTILINE))
        release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        parts = self._folder / "sources.list.d"
        sources = [Path(paths["LIST"]), *sorted(Path(paths["PARTS"]).glob("*"))]
        for number, source in enumerate(path for path in sources if path.suffix in (".list", ".sources")):
            if source.is_file():
                text = source.read_text()
                derive = backports if source.suffix == ".sources" else backports_one_line
                for name, content in (("own", text), ("backports", derive(text, release))):
                    (parts / f"{number}-{name}{source.suffix}").write_text(content + "\n")

    def names(self, prefix: str) -> list[str]:
        """The names of all packages that begin with `prefix`."""
        return _output(["apt-cache", *self._options, "pkgnames", prefix]).split()

    def fetch(self, *packages: str) -> list[Path]:
        """Download `packages` and all they depend on; the archives of exactly that closure."""
        # Left-overs of an earlier run would be other versions of the same packages.
        shutil.rmtree(self._archives)
        (self._archives / "partial").mkdir(parents=True)
        install = ["apt-get", *self._options, "install", "--yes", "--no-install-recommends"]
        _output([*install, "--download-only", *packages])
        return sorted(self._archives.glob("*.deb"))

    def fetch_alone(self, package: str) -> Path:
        """Download `package` without what it depends on."""
        folder = self._folder / "alone"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        done = subprocess.run(
            ["apt-get", *self._options, "download", package], cwd=folder, capture_output=True, text=True, check=False
        )
        found = sorted(folder.glob(f"{package}_*.deb"))
        if done.returncode or not found:
            raise UnavailableError(f"{package} cannot be downloaded: {done.stderr.strip()[-400:]}")
        return found[0]


def unpack(archives: Sequence[Path], root: Path) -> None:
    """Unpack packages over each other below `root`; no maintainer script runs."""
    root.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        _output(["dpkg-deb", "--extract", str(archive), str(root)])


class Userland:
    """Programs of unpacked packages, run by their own dynamic loader against their own libraries."""

    def __init__(self, root: Path) -> None:
        self.root = root
        folders = ("lib", "usr/lib")
        found = [path for folder in folders for path in (root / folder).glob("x86_64-linux-gnu/ld-linux-x86-64.so.2")]
        if not found:
            raise UnavailableError(f"no dynamic loader among the packages unpacked in {root}")
        self.loader = found[0]
        # librados keeps a private library in a folder of its own, reached by an absolute run path.
        self._libraries = [root / folder / "x86_64-linux-gnu" for folder in folders]
        self._libraries += [root / "usr/lib/x86_64-linux-gnu/ceph"]

    def command(self, program: str) -> list[str]:
        """The argv that runs `program` (a path relative to the root) on this machine."""
        return [str(self.loader), "--library-path", ":".join(map(str, self._libraries)), str(self.root / program)]

    def libraries(self, program: str) -> list[Path]:
        """The shared libraries that `program`, a path relative to the root, loads."""
        loader, *arguments = self.command(program)
        listing = _output([loader, "--list", *arguments])
        missing = re.findall(r"(\S+) => not found", listing)
        if missing:
            raise UnavailableError(f"{program} needs {', '.join(missing)}, which no package brought")
        return [Path(path) for path in re.findall(r"=> (/\S+) \(", listing)]
