"""`ocssd`: looks at, uses and tries out any Open-Channel SSD that speaks NVMe/TCP. It never imports the target.

Exit status: 0 done, 1 the drive refused a command, 2 the command line cannot be, 3 there is no connection.
"""

from __future__ import annotations

import click

from ocssd_tcp import __version__
from ocssd_tcp.cli.host_bench import bench
from ocssd_tcp.cli.host_demo import demo
from ocssd_tcp.cli.host_io import copy, read, reset, write
from ocssd_tcp.cli.host_show import chunks, discover, info
from ocssd_tcp.cli.host_trace import trace
from ocssd_tcp.cli.host_verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", prog_name="ocssd")
def main() -> None:
    """Look at and use an Open-Channel SSD over NVMe/TCP.

    Addresses are LBAs (0x185007) or group/PU/chunk/block (1/2/5/7; 1/2/5 is the first block of a chunk).
    `ocssd demo` explains what such a drive is.
    """


for command in (discover, info, chunks, read, write, reset, copy, demo, verify, bench, trace):
    main.add_command(command)
