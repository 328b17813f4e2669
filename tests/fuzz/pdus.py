"""The fuzz target: hostile and half-hostile hosts until the time is over.

    python -m tests.fuzz.pdus --seconds 30 [--seed 17]

Each round has a seed of its own. Most rounds send a mutated session to a target that a bystander uses as well; some
send one random load to both engines and compare. When one fails, its seed is printed, by which it can be had again; the
exit status is then 1.
"""

from __future__ import annotations

import argparse
import logging
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from ocssd_tcp.transport.connection import Phase
from tests.fuzz.load import Load
from tests.support_target import (
    C2H_TERM,
    CAPSULE_CMD,
    FLUSH,
    H2C_DATA,
    READ,
    SMALL,
    WRITE,
    Host,
    Target,
    Wire,
    capsule,
    complete_engine_only,
    decode,
    h2c,
    icreq,
    pattern,
    pdu,
)

N_STEPS = 25
UNIT = 4 * 512
MAX_TX_BYTES = 4 << 20  # what one connection may hold to send, whatever it was asked


def session(chance: random.Random, dgst: int) -> list[bytes]:
    """The PDUs of a host that means well: IC, Connect, and I/O that guesses its TTAGs."""
    fields = {"nsid": 1, "cdw12": 3, "sgl_length": UNIT}
    units: list[bytes] = []
    for cid in range(chance.randrange(1, 12)):
        slba = chance.randrange(8) * 64 + chance.choice([0, 0, 4])
        units += chance.choice(
            [
                [capsule(READ, cid, dgst=dgst, slba=slba, **fields)],
                [capsule(WRITE, cid, pattern(UNIT, cid), dgst=dgst, nsid=1, slba=slba, cdw12=3)],
                [capsule(WRITE, cid, dgst=dgst, slba=slba, **fields), h2c(cid, cid + 1, 0, pattern(UNIT), dgst=dgst)],
                [capsule(FLUSH, cid, dgst=dgst, nsid=1)],
                [capsule(chance.randrange(256), cid, chance.randbytes(chance.randrange(200)), dgst=dgst, nsid=1)],
            ]
        )
    return units


def mutate(chance: random.Random, units: list[bytes], dgst: int) -> bytes:
    """A session with some of it lost, doubled, swapped, overwritten, or invented."""
    for _ in range(chance.choice([0, 1, 1, 2, 5])):
        at = chance.randrange(len(units))
        unit = bytearray(units[at])
        how = chance.choice(["flip", "length", "drop", "double", "swap", "cut", "invent"])
        if how == "flip" and unit:
            unit[chance.randrange(min(len(unit), 96))] ^= 1 << chance.randrange(8)
        elif how == "length" and len(unit) >= 8:
            unit[4:8] = chance.choice([0, 8, 71, 8264, 1 << 31, 0xFFFFFFFF, len(unit) + 4]).to_bytes(4, "little")
        elif how == "cut":
            del unit[chance.randrange(len(unit) + 1) :]
        elif how == "invent":
            kind = chance.choice([0, 2, CAPSULE_CMD, H2C_DATA, chance.randrange(256)])
            unit[:0] = pdu(kind, chance.randbytes(chance.choice([16, 64, 120])), chance.randbytes(9), dgst=dgst)
        elif how == "double":
            unit *= 2
        elif how == "swap":
            other = chance.randrange(len(units))
            units[other], units[at] = units[at], units[other]
            continue
        elif how == "drop":
            unit.clear()
        units[at] = bytes(unit)
    return b"".join(units)


def attack(seed: int, target: Target, bystander: Host) -> None:
    """One mutated session, in random segments; AssertionError if the target does not take it as it must."""
    chance = random.Random(seed)
    dgst = chance.choice([0, 0, 1, 2, 3])
    host = Host(target, dgst=dgst, sqsize=chance.choice([1, 7, 127]))
    stage = chance.choice(["start", "admin", "io"])
    if stage == "start":
        wire = target.wire()
        units = [icreq(dgst), host.connect_pdu(0), *session(chance, dgst)]
    else:
        host.connect()
        wire = host.connect_io() if stage == "io" else host.admin
        wire.output.clear()
        units = session(chance, dgst)
    stream = mutate(chance, units, dgst)
    wire.feed(stream, [chance.randrange(1, 600) for _ in range(chance.choice([0, 3, 50]))])
    check(wire, dgst)
    wire.cut()
    if stage == "io":
        host.admin.cut()
    assert bystander.read(0, 4, nsid=2) == pattern(UNIT)


def check(wire: Wire, dgst: int) -> None:
    """The rules for what came back, and for what is kept."""
    stream, ic = bytes(wire.output), b""
    if stream[:1] == b"\x01":
        ic, stream = stream[:128], stream[128:]
        dgst = ic[11]
    kinds = [answer.kind for answer in decode(stream, dgst)]
    assert C2H_TERM not in kinds[:-1]
    assert (C2H_TERM in kinds) == (wire.phase is Phase.TERMINATING)
    connection = wire.connection
    assert len(connection.tx.words) + len(connection.tx.arena) <= MAX_TX_BYTES
    if wire.phase is not Phase.LIVE:
        assert not connection.transfers


def compare(seed: int, folder: Path) -> None:
    """One random load on both engines; AssertionError if they differ in anything."""
    faults = random.Random(seed).choice([0.0, 0.01, 0.1, 0.5])
    outcomes = []
    for name in ("fast", "complete"):
        if name == "fast":
            load = Load(seed, folder / name, faults=faults)
            outcomes.append(load.run(N_STEPS))
        else:
            with complete_engine_only():
                load = Load(seed, folder / name, faults=faults)
                outcomes.append(load.run(N_STEPS))
        load.target.close()
    fast, complete = outcomes
    assert [key for key in fast if fast[key] != complete[key]] == []


def rounds(seed: int) -> Iterator[int]:
    """Play rounds for ever, with seeds from `seed` on; the seed of each, before it is played."""
    while True:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            target = Target(folder / "drive", [SMALL, SMALL])
            bystander = target.host(hostnqn="nqn.2014-08.org.example:bystander")
            assert bystander.write(0, pattern(UNIT), nsid=2) == 0
            for _ in range(44):
                yield seed
                if seed % 11:
                    attack(seed, target, bystander)
                else:
                    with tempfile.TemporaryDirectory(dir=folder) as inner:
                        compare(seed, Path(inner))
                seed += 1
            target.close()


def fuzz(seed: int, seconds: float, n_rounds: int) -> int:
    """Play until the time or the rounds are over; how many were played. The failing round's seed is printed."""
    end, played = time.monotonic() + seconds, 0
    try:
        for _ in rounds(seed):
            if played >= n_rounds or time.monotonic() >= end:
                break
            played += 1
    except Exception:
        print(f"the round of seed {seed + played - 1} failed", file=sys.stderr)
        raise
    return played


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="of the first round; default: random")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    played = fuzz(arguments.seed, arguments.seconds, 1 << 62)
    print(f"{played} rounds from seed {arguments.seed} on, no failure")
    return 0


if __name__ == "__main__":
    sys.exit(main())
