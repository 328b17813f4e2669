"""An initramfs archive in the `newc` format of cpio, written without root rights and without device nodes."""

from __future__ import annotations

import stat
from pathlib import Path


class Archive:
    """Collects files by their path in the guest; parents are made as they are needed."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes]] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def _parents(self, path: str) -> None:
        for parent in reversed(Path(path).parents[:-1]):
            self._entries.setdefault(str(parent), (stat.S_IFDIR | 0o755, b""))

    def folder(self, path: str) -> None:
        """An empty folder."""
        self._parents(f"{path}/.")
        self._entries.setdefault(path, (stat.S_IFDIR | 0o755, b""))

    def file(self, path: str, content: bytes, mode: int = 0o755) -> None:
        """A regular file."""
        self._parents(path)
        self._entries[path] = (stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._parents(path)
        self._entries[path] = (stat.S_IFLNK | 0o777, target.encode())

    def pack(self) -> bytes:
        """The archive. Folders were entered before what is in them."""
        out = bytearray()
        for inode, (path, (mode, content)) in enumerate([*self._entries.items(), ("TRAILER!!!", (0, b""))], start=1):
            name = path.encode() + b"\0"
            numbers = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
            out += b"070701" + b"".join(b"%08X" % number for number in numbers) + name
            out += bytes(-len(out) % 4)
            out += content
            out += bytes(-len(out) % 4)
        return bytes(out)
