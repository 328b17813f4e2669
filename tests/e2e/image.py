"""What the guest boots: a kernel and an initramfs made of Debian packages, and the QEMU that boots them.

Everything is kept below a cache folder: the packages and their unpacked files, shared by all kernels, and one folder
per kernel with `vmlinux` and `initramfs.cpio`. The first build downloads some 150 MB; later ones read a few stamps.
Remove the folder to fetch newer packages.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cpio import Archive
from tests.e2e.packages import Apt, UnavailableError, Userland, unpack

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
SOURCES = [HERE / name for name in ("agent.py", "cpio.py", "image.py", "init.sh", "packages.py")]

PACKAGES = (
    "busybox-static",
    "fio",
    "libpython3-stdlib",
    "lz4",
    "nvme-cli",
    "python3-minimal",
    "qemu-system-x86",
    "zstd",
)
"""lz4 and zstd unpack kernels; all others run in the guest, but for QEMU."""

PROGRAMS = ("usr/sbin/nvme", "usr/bin/fio")

MODULES = ("virtio_pci", "virtio_console", "virtio_net", "nvme_tcp", "crc32c_generic", "nvmet_tcp", "brd")
"""What the guest needs beside what these depend on. crc32c is for digests, nvmet and brd for the control target."""


@dataclass(frozen=True)
class Image:
    """A bootable guest: paths of the kernel (an ELF) and the initramfs, and the argv that QEMU's options follow."""

    release: str
    vmlinux: Path
    initramfs: Path
    qemu: list[str]


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/ocssd-tcp-e2e` if that is set, else `.cache/e2e` in the project."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "ocssd-tcp-e2e" if base else PROJECT / ".cache" / "e2e"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One builder at a time per cache folder, also among processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fresh(folder: Path) -> Path:
    """A new empty folder beside `folder`, to be renamed to it when it is complete."""
    making = folder.with_name(folder.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    return making


def build(series: str) -> Image:
    """The guest of the newest kernel of `series`, such as "6.12". UnavailableError says why it can't be had."""
    cache = cache_folder()
    key = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES)).hexdigest()[:12]
    with _locked(cache):
        root, kernel, image = (
            cache / f"userland-{key}",
            cache / f"kernel-{series}-{key}",
            cache / f"image-{series}-{key}",
        )
        if not image.exists():
            apt = Apt(cache / "apt")
            if not root.exists():
                making = _fresh(root)
                unpack(apt.fetch(*PACKAGES), making)
                making.rename(root)
            if not kernel.exists():
                making = _fresh(kernel)
                unpack([apt.fetch_alone(newest_kernel(apt, series))], making)
                making.rename(kernel)
            making = _fresh(image)
            userland = Userland(root)
            (making / "vmlinux").write_bytes(
                unpacked_kernel(next(kernel.glob("boot/vmlinuz-*")).read_bytes(), userland)
            )
            (making / "initramfs.cpio").write_bytes(initramfs(userland, kernel))
            making.rename(image)
            _forget_others(cache, key)
    plugins = root / "usr/lib/x86_64-linux-gnu/qemu"
    qemu = ["env", f"QEMU_MODULE_DIR={plugins}", *Userland(root).command("usr/bin/qemu-system-x86_64")]
    for firmware in ("usr/share/qemu", "usr/share/seabios"):
        qemu += ["-L", str(root / firmware)]
    release = next(kernel.glob("boot/vmlinuz-*")).name.removeprefix("vmlinuz-")
    return Image(release, image / "vmlinux", image / "initramfs.cpio", qemu)


def _forget_others(cache: Path, key: str) -> None:
    """Remove what earlier versions of this harness built."""
    for folder in cache.glob("*-*"):
        if folder.is_dir() and not folder.name.endswith(key):
            shutil.rmtree(folder)


def newest_kernel(apt: Apt, series: str) -> str:
    """The name of the newest cloud kernel package of a series."""
    wanted = re.compile(rf"linux-image-{re.escape(series)}\.[0-9].*-cloud-amd64")
    names = [name for name in apt.names(f"linux-image-{series}.") if wanted.fullmatch(name)]
    if not names:
        raise UnavailableError(f"the package sources of this machine have no cloud kernel {series}")
    return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def unpacked_kernel(bzimage: bytes, userland: Userland) -> bytes:
    """The ELF in a bzImage: the boot protocol's payload_offset (248h) and payload_length (24Ch) say where it is."""
    start = (bzimage[0x1F1] + 1) * 512 + struct.unpack_from("<I", bzimage, 0x248)[0]
    payload = bzimage[start : start + struct.unpack_from("<I", bzimage, 0x24C)[0]]
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    for magic, program in ((b"\x02\x21\x4c\x18", "usr/bin/lz4"), (b"\x28\xb5\x2f\xfd", "usr/bin/zstd")):
        if payload.startswith(magic):
            # Behind the compressed stream stand four bytes of size, which the tools complain about when they are done.
            done = subprocess.run([*userland.command(program), "-dc"], input=payload, capture_output=True, check=False)
            if done.stdout.startswith(b"\x7fELF"):
                return done.stdout
    raise UnavailableError(f"a kernel packed in an unknown way (it begins with {payload[:6].hex()})")


class Modules:
    """The modules of an unpacked kernel package, with their dependencies as the files themselves declare them."""

    def __init__(self, kernel: Path) -> None:
        folder = next(kernel.glob("lib/modules/*"))
        self._files = {self._name(path): path for path in folder.rglob("*.ko*")}
        self._builtin = {self._name(Path(line)) for line in (folder / "modules.builtin").read_text().split()}

    @staticmethod
    def _name(path: Path) -> str:
        return path.name.partition(".")[0].replace("-", "_")

    def _content(self, name: str) -> bytes:
        packed = self._files[name].read_bytes()
        return lzma.decompress(packed) if self._files[name].suffix == ".xz" else packed

    def in_order(self, wanted: tuple[str, ...]) -> dict[str, bytes]:
        """Name to content of all that `wanted` needs, each after what it depends on; built-in ones are left out."""
        found: dict[str, bytes] = {}

        def add(name: str) -> None:
            if name in found or name in self._builtin:
                return
            if name not in self._files:
                raise UnavailableError(f"the kernel package has no module {name}")
            content = self._content(name)
            declared = re.search(rb"\0depends=([^\0]*)\0", content)
            for dependency in filter(None, declared[1].decode().split(",") if declared else []):
                add(dependency.replace("-", "_"))
            found[name] = content

        for name in wanted:
            add(name)
        return found


def _guest_path(path: Path, root: Path) -> str:
    """Where a file of the unpacked packages stands in the guest, whose /bin, /lib and /sbin are links below /usr."""
    relative = str(path.relative_to(root))
    return relative if relative.startswith("usr/") else f"usr/{relative}"


def _python_files(userland: Userland) -> list[Path]:
    """What the agent's Python loads, and all text encodings, which it may load later."""
    library = next(userland.root.glob("usr/lib/python3.*/os.py")).parent
    script = "import agent, sys; print(*(getattr(module, '__file__', '') for module in sys.modules.values()))"
    environment = {"PYTHONHOME": str(userland.root / "usr"), "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
    program = userland.command(f"usr/bin/{library.name}")
    done = subprocess.run([*program, "-S", "-c", script], env=environment, capture_output=True, text=True, check=True)
    loaded = [Path(line) for line in done.stdout.split() if Path(line).is_relative_to(userland.root)]
    return sorted({*loaded, *(library / "encodings").glob("*.py")})


def initramfs(userland: Userland, kernel: Path) -> bytes:
    """The archive: busybox, nvme-cli, fio and a small Python with their libraries, the modules, init and the agent."""
    root, archive = userland.root, Archive()
    for name in ("bin", "lib", "lib64", "sbin"):
        archive.folder(f"usr/{name}")
        archive.link(name, f"usr/{name}")
    for name in ("dev", "proc", "sys", "tmp", "run", "etc/nvme"):
        archive.folder(name)
    archive.file("usr/bin/busybox", (root / "bin/busybox").read_bytes())

    python = _python_files(userland)
    interpreter = f"usr/bin/{next(root.glob('usr/lib/python3.*/os.py')).parent.name}"
    programs = [*PROGRAMS, interpreter, *(str(path.relative_to(root)) for path in python if path.suffix == ".so")]
    files = {root / program for program in programs} | set(python)
    for program in programs:
        files.update(userland.libraries(program))
    for path in sorted(files):
        archive.file(_guest_path(path, root), path.read_bytes())
    archive.file("usr/lib64/ld-linux-x86-64.so.2", userland.loader.read_bytes())
    archive.link("usr/bin/python3", f"/{interpreter}")

    modules = Modules(kernel).in_order(MODULES)
    for name, content in modules.items():
        archive.file(f"modules/{name}.ko", content)
    archive.file("modules/order", "\n".join(modules).encode() + b"\n")
    archive.file("init", (HERE / "init.sh").read_bytes())
    archive.file("agent.py", (HERE / "agent.py").read_bytes())
    return archive.pack()
