"""Where the live page and metrics are served: the key, and what is said when the address cannot be had."""

from __future__ import annotations

import errno

import pytest

from ocssd_tcp.cli.daemon import explain
from ocssd_tcp.config import ConfigError, load
from ocssd_tcp.config.sample import effective
from ocssd_tcp.config.values import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:9420", Address("127.0.0.1", 9420)),
        ("[::]:0", Address("::", 0)),
        ("0.0.0.0:9420", Address("0.0.0.0", 9420)),
    ],
)
def test_an_address_or_none_is_taken(text: str, address: Address | None) -> None:
    config = load(None, [f"observe.listen={text}"])
    assert config.observe.listen == address
    assert (f'listen = "{address}"' in effective(config)) == (address is not None)


def test_nothing_is_served_by_default() -> None:
    assert load(None, []).observe.listen is None


@pytest.mark.parametrize("text", ["9420", "localhost:9420", "127.0.0.1", "::1:9420", "127.0.0.1:70000"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"observe\.listen"):
        load(None, [f"observe.listen={text}"])


def test_an_address_in_use_is_named_to_the_operator() -> None:
    config = load(None, ["observe.listen=127.0.0.1:9420"])
    message = explain(OSError(errno.EADDRINUSE, "in use", "127.0.0.1:9420"), config)
    assert message is not None
    assert message.startswith("127.0.0.1:9420 ")
