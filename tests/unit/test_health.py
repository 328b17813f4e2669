"""The health check of a container."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ocssd_tcp.cli.health import main

ICRESP = struct.pack("<BBBBI", 1, 0, 128, 0, 128) + bytes(120)


@contextmanager
def peer(address: str, answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Somebody who answers one connection like that; the port, and what was asked."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    asked: list[bytes] = []
    with socket.create_server((address, 0), family=family) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                asked.append(sock.recv(128, socket.MSG_WAITALL))
                sock.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], asked
        thread.join(10)


@pytest.fixture
def configured(tmp_path: Path) -> Callable[[str], str]:
    def write(listen: str) -> str:
        path = tmp_path / "drive.toml"
        path.write_text(f'[target]\nlisten = ["{listen}"]\n')
        return str(path)

    return write


@pytest.mark.parametrize(
    ("listen", "address"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("[::1]", "::1"), ("[::]", "::1")]
)
def test_a_drive_that_begins_a_connection_is_well(
    configured: Callable[[str], str], listen: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with peer(address, ICRESP) as (port, asked):
        assert main([configured(f"{listen}:{port}")]) == 0
    assert asked == [struct.pack("<BBBBI", 0, 0, 128, 0, 128) + bytes(120)]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("answer", "why"), [(b"", "no NVMe/TCP target"), (b"HTTP/1.1 400 Bad Request\r\n", "no NVMe/TCP target")]
)
def test_somebody_else_on_the_port_is_not_well(
    configured: Callable[[str], str], answer: bytes, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with peer("127.0.0.1", answer) as (port, _):
        assert main([configured(f"127.0.0.1:{port}")]) == 1
    assert why in capsys.readouterr().err


def test_nobody_on_the_port_is_not_well(configured: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main([configured(f"127.0.0.1:{port}")]) == 1
    assert f"127.0.0.1:{port}: " in capsys.readouterr().err


def test_the_environment_counts_as_it_does_for_the_daemon(
    configured: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with peer("127.0.0.1", ICRESP) as (port, _):
        monkeypatch.setenv("OCSSD_SET_TARGET__LISTEN", f'["127.0.0.1:{port}"]')
        assert main([configured("127.0.0.1:1")]) == 0


def test_a_configuration_that_cannot_be_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere/drive.toml"]) == 1
    assert "/nowhere/drive.toml: cannot be read" in capsys.readouterr().err
