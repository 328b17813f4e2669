"""The system calls that Python's own modules do not offer: mappings at a chosen address, hole punching.

Every function raises OSError as `os` does, except `populate`, which is advice.
"""

from __future__ import annotations

import ctypes
import os

PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 0x01, 0x02, 0x10, 0x20, 0x4000
_MAP_FAILED = ctypes.c_void_p(-1).value
_MADV_DONTNEED, _MADV_POPULATE_WRITE = 4, 23
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _failure() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


def _mmap(address: int | None, n_bytes: int, protection: int, flags: int, fd: int = -1) -> int:
    found = _libc.mmap(address, n_bytes, protection, flags, fd, 0)
    if found == _MAP_FAILED:
        raise _failure()
    return int(found)


def reserve(n_bytes: int) -> int:
    """Set aside `n_bytes` of address space that nothing may touch yet; its address."""
    return _mmap(None, n_bytes, PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE)


def map_file(address: int, n_bytes: int, fd: int) -> None:
    """Map the head of a file, shared and writable, over reserved addresses."""
    _mmap(address, n_bytes, PROT_READ | PROT_WRITE, _MAP_SHARED | _MAP_FIXED, fd)


def map_anonymous(address: int, n_bytes: int, protection: int) -> None:
    """Map zeros over reserved addresses; pages that are only read cost nothing."""
    _mmap(address, n_bytes, protection, _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_FIXED | _MAP_NORESERVE)


def unmap(address: int, n_bytes: int) -> None:
    """Give a mapping back."""
    if _libc.munmap(address, n_bytes):
        raise _failure()


def populate(address: int, n_bytes: int) -> None:
    """Ask for the page table entries of a writable range, so that writes to it do not fault one page at a time.

    Advice: kernels before 5.14 refuse it, and then the faults come one by one.
    """
    first = address & -4096
    _libc.madvise(first, address + n_bytes - first, _MADV_POPULATE_WRITE)


def discard(address: int, n_bytes: int) -> None:
    """Give back the pages of an anonymous range, which then reads as zeros. Advice."""
    _libc.madvise(address, n_bytes, _MADV_DONTNEED)


def punch_hole(fd: int, offset: int, n_bytes: int) -> None:
    """Give back the space of a file's range, which then reads as zeros. OSError where the file system cannot."""
    if _libc.fallocate(fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, offset, n_bytes):
        raise _failure()
