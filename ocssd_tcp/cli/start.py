"""`ocssd-tcpd` in its first moment: what has to be settled before the process has done anything else.

The GNU C library takes its tunables from the environment, once, when a process starts. The one that matters here says
from which size on a copy goes past the caches: the data of a large write is copied to the media and not looked at
again, and with the library's own limit (megabytes) each such copy throws everything else out of the caches. So the
daemon sets it and starts itself again, in the same process. Whoever has set GLIBC_TUNABLES, to anything, is left alone.
"""

from __future__ import annotations

import contextlib
import os
import sys

VARIABLE = "GLIBC_TUNABLES"
#: Copies from 64 KiB on (docs/performance.md).
TUNABLES = "glibc.cpu.x86_non_temporal_threshold=0x10000"


def wants_tunables() -> bool:
    """Whether this process would gain from TUNABLES and does not have them: x86 with the GNU C library."""
    if VARIABLE in os.environ or os.uname().machine != "x86_64" or not sys.executable:
        return False
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (OSError, ValueError):  # another C library does not know the name
        return False


def main() -> None:
    """Run `ocssd-tcpd`."""
    if wants_tunables():
        os.environ[VARIABLE] = TUNABLES
        with contextlib.suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    from ocssd_tcp.cli import daemon  # only now: it takes far longer than to start anew

    daemon.main()
