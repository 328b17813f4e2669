"""`ocssd-tcpd`: reads the configuration, starts the drive, and turns every operator's error into one clear message.

Exit status: 0 after an orderly end, 2 where the operator has to change something (nothing is left half done then),
1 for a bug, which comes with its traceback.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import click

from ocssd_tcp import __version__
from ocssd_tcp.accel import EngineError, engine_name
from ocssd_tcp.cli.ctl import ctl
from ocssd_tcp.config.errors import ConfigError
from ocssd_tcp.config.inputs import read_inputs
from ocssd_tcp.config.load import load
from ocssd_tcp.config.sample import effective, sample
from ocssd_tcp.config.schema import Config
from ocssd_tcp.config.values import Address
from ocssd_tcp.observe.logging import configure

OPERATOR_ERROR = 2

#: What an operating system error means to an operator who knows the configuration: what is so, and what to do.
_FILE_REMEDIES = {
    errno.EACCES: "permission denied: run as the owner of the drive, or set drive.path",
    errno.EPERM: "permission denied: run as the owner of the drive, or set drive.path",
    errno.ENOSPC: "the disk is full: free some space, or set drive.path",
    errno.EDQUOT: "the disk quota is used up: free some space, or set drive.path",
    errno.EROFS: "the file system is read-only: set drive.path",
    errno.ENOTDIR: "not a folder: set drive.path",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n), or configure fewer parallel units",
    errno.ENFILE: "too many open files in the system",
    errno.ENOMEM: "not enough memory or address space for the drive's maps",
}
_LISTEN_REMEDIES = {
    errno.EADDRINUSE: "is in use: stop the other process or set target.listen",
    errno.EADDRNOTAVAIL: "is no address of this machine: set target.listen",
    errno.EACCES: "needs privileges (a port below 1024): set target.listen",
    errno.EAFNOSUPPORT: "is of a kind that this machine does not have: set target.listen",
}


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "paths",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file; without it, the defaults. Of several, the keys of a later one win.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one key, such as target.max_queues=8."
)
@click.option("--check-config", "action", flag_value="check", help="Say whether the configuration is valid, and end.")
@click.option("--show-config", "action", flag_value="show", help="Print the configuration that would be used, and end.")
@click.option("--sample-config", "action", flag_value="sample", help="Print a commented configuration, and end.")
@click.option("--version", "action", flag_value="version", help="Print the version and the engine that runs, and end.")
@click.pass_context
def main(context: click.Context, paths: Sequence[Path], overrides: Sequence[str], action: str | None) -> None:
    """An Open-Channel SSD 2.0 drive as an NVMe/TCP target.

    Without a configuration: a drive in ./ocssd-drive, for hosts on this machine, at port 4420. A variable
    OCSSD_SET_TARGET__MAX_QUEUES=8 in the environment is the same as --set target.max_queues=8.
    """
    context.obj = paths
    if context.invoked_subcommand is not None:
        return
    try:
        sys.exit(_act(paths, overrides, action))
    except (ConfigError, EngineError) as error:
        _refuse(str(error))


main.add_command(ctl)


def _act(paths: Sequence[Path], overrides: Sequence[str], action: str | None) -> int:
    """Do what was asked for; the exit status."""
    if action == "sample":
        click.echo(sample(), nl=False)
        return 0
    if action == "version":
        click.echo(f"ocssd-tcpd {__version__}\nengine: {engine_name()}")
        return 0
    config = load(paths, overrides, environment=os.environ)
    if action == "check":
        read_inputs(config, seed=0)
        click.echo(f"{', '.join(map(str, paths)) or 'defaults'}: valid")
        return 0
    if action == "show":
        click.echo(effective(config), nl=False)
        return 0
    return _serve(config)


def _serve(config: Config) -> int:
    engine_name()  # before the drive is touched: OCSSD_TCP_ACCEL may ask for an engine that is not there
    configure(config.observe.log_level)
    from ocssd_tcp import daemon  # the whole target, which --help and --check-config do without
    from ocssd_tcp.media.store import StoreError

    try:
        return daemon.run(config, announce=announcer(config))
    except StoreError as error:
        cause = error.__cause__
        _refuse((isinstance(cause, OSError) and explain(cause, config)) or str(error))
    except OSError as error:
        message = explain(error, config)
        if message is None:
            raise
        _refuse(message)


def announcer(config: Config) -> Callable[[str, Sequence[Address]], None]:
    """A function that tells the operator, on standard output, how to use the drive, or the discovery service.

    The composition root calls it once it accepts hosts, with the subsystem's NQN and the addresses that it listens on
    (the real ports).
    """

    def announce(nqn: str, addresses: Sequence[Address]) -> None:
        near = (*config.target.advertise, *addresses)[0].nearby
        if config.discovery.only:
            what, connect, look = "a discovery service alone", "connect-all", "discover"
            name = warning = ""
        else:
            geometries = [namespace.geometry for namespace in config.namespaces]
            capacity = sum(geometry.ncap * geometry.block_bytes for geometry in geometries)
            what, connect, look = f"{capacity / (1 << 30):.1f} GiB, {len(geometries)} namespace(s)", "connect", "info"
            name, warning = f" -n {shlex.quote(nqn)}", _warning(config, addresses)
        click.echo(
            f"{config.drive.path}: {what}, listening on {', '.join(map(str, addresses))}{warning}\n"
            f"  from a Linux host:       nvme {connect} -t tcp -a {near.host} -s {near.port}{name}\n"
            f"  without kernel or root:  {_tool()} {look} -a {near}"
        )

    return announce


def _warning(config: Config, addresses: Sequence[Address]) -> str:
    """What somebody who listens on all addresses should know."""
    if all(address.nearby == address for address in addresses):
        return ""
    who = "anybody" if config.target.allowed_hosts is None else "any host that gives itself an allowed name"
    return f"\n  that is on all addresses: {who} who reaches this machine can use the drive"


def _tool() -> str:
    """How the operator calls `ocssd` from here: by name, or by the path beside this program."""
    beside = Path(sys.argv[0]).with_name("ocssd")
    if shutil.which("ocssd") or not beside.exists():
        return "ocssd"
    return shlex.quote(os.path.relpath(beside))


def explain(error: OSError, config: Config) -> str | None:
    """An operating system error as the operator needs it: what is at fault, and what to do about it.

    `error.filename` says what is at fault: a path, or an address in the configuration's notation. None where nothing
    does and the error is no known one of start-up: then it is a bug.
    """
    number = error.errno or 0
    fault = "" if error.filename is None else str(error.filename)
    listeners = [str(address) for address in (*config.target.listen, config.observe.listen) if address is not None]
    if fault in listeners or (not fault and number in (errno.EADDRINUSE, errno.EADDRNOTAVAIL)):
        remedy = _LISTEN_REMEDIES.get(number, f"cannot be listened on: {error.strerror}")
        return f"{fault or ', '.join(listeners)} {remedy}"
    if not fault and number not in _FILE_REMEDIES:
        return None
    return f"{fault or config.drive.path}: {_FILE_REMEDIES.get(number, error.strerror)}"


def _refuse(message: str) -> NoReturn:
    for line in message.splitlines():
        click.echo(f"ocssd-tcpd: {line}", err=True)
    sys.exit(OPERATOR_ERROR)
