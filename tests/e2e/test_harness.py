"""The harness against itself: when these fail, the fault is not the drive's."""

from __future__ import annotations

import socket

import pytest

from tests.e2e.guest import GATEWAY, CommandError, Guest
from tests.e2e.packages import backports, backports_one_line

TARGET = "nqn.2014-08.org.example:kernel-target"
NVMET = "/sys/kernel/config/nvmet"


DEB822 = """Types: deb
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/some.gpg

Types: deb
URIs: http://mirror.example/security
Suites: trixie-security
Components: main
"""


def test_backports_are_derived_from_the_stanza_of_the_release() -> None:
    derived = backports(DEB822, "trixie")
    assert derived == DEB822.split("\n\n")[0].replace("trixie trixie-updates", "trixie-backports")


@pytest.mark.parametrize(
    ("line", "derived"),
    [
        ("deb http://m.example/debian trixie main", "deb http://m.example/debian trixie-backports main"),
        ("deb [a=b c=d] http://m.example trixie main x", "deb [a=b c=d] http://m.example trixie-backports main x"),
        ("deb http://m.example/debian trixie-updates main", ""),
        ("deb-src http://m.example/debian trixie main", ""),
        ("# deb http://m.example/debian trixie main", ""),
    ],
)
def test_backports_are_derived_from_a_line_of_the_release(line: str, derived: str) -> None:
    assert backports_one_line(line, "trixie") == derived


def test_a_command_gives_back_its_exit_status_and_both_outputs(guest: Guest) -> None:
    done = guest.run("cat; echo wrong >&2; exit 3", stdin=b"given", check=False)
    assert (done.rc, done.out, done.err) == (3, "given", "wrong\n")


def test_a_failing_command_raises_with_what_it_said(guest: Guest) -> None:
    with pytest.raises(CommandError, match="no such thing"):
        guest.run("echo no such thing >&2; false")


def test_a_command_that_takes_too_long_is_killed(guest: Guest) -> None:
    assert guest.run("sleep 60", timeout=0.5, check=False).rc is None


def test_a_slow_command_does_not_stop_the_next_one(guest: Guest) -> None:
    slow = guest.start("until [ -e /tmp/go ]; do sleep 0.1; done; rm /tmp/go; echo done")
    guest.run("touch /tmp/go")
    assert slow().out == "done\n"


def test_files_come_back_as_they_were_put(guest: Guest) -> None:
    content = bytes(range(256)) * 1000
    guest.put("/tmp/some/file", content)
    assert guest.get("/tmp/some/file") == content


def test_the_kernel_log_is_read_from_a_position_on(guest: Guest) -> None:
    position = guest.log_position()
    guest.run("echo '<4>marker' >/dev/kmsg")
    assert [(record.level, record.text) for record in guest.kernel_log(position)] == [(4, "marker")]


def test_the_machine_is_reached_at_the_gateway(guest: Guest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        waiting = guest.start(f"nc {GATEWAY} {server.getsockname()[1]}")
        server.settimeout(30)
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"hello")
        assert waiting().out == "hello"


def test_the_kernels_own_target_serves_the_guests_host(guest: Guest) -> None:
    guest.run(f"""set -e
        cd {NVMET}
        mkdir subsystems/{TARGET} subsystems/{TARGET}/namespaces/1 ports/1
        echo 1 >subsystems/{TARGET}/attr_allow_any_host
        echo /dev/ram0 >subsystems/{TARGET}/namespaces/1/device_path
        echo 1 >subsystems/{TARGET}/namespaces/1/enable
        cd ports/1
        echo tcp >addr_trtype; echo ipv4 >addr_adrfam; echo 127.0.0.1 >addr_traddr; echo 4420 >addr_trsvcid
        ln -s {NVMET}/subsystems/{TARGET} subsystems/""")
    guest.run(f"nvme connect -t tcp -a 127.0.0.1 -s 4420 -n {TARGET}")
    assert TARGET in guest.run("nvme list-subsys").out
    guest.run(f"nvme disconnect -n {TARGET}")
    guest.run(f"""cd {NVMET}
        rm ports/1/subsystems/{TARGET}
        rmdir ports/1 subsystems/{TARGET}/namespaces/1 subsystems/{TARGET}""")
