"""LBA lists as a host sends them, read back by the rules of the binding."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocssd_tcp.host.errors import BindingUnsupported, UsageError
from ocssd_tcp.host.forms import Steps, as_progression, choose, encode
from ocssd_tcp.wire.lba_list import progression, resolve
from ocssd_tcp.wire.opcodes import Io, ListForm

ALL = frozenset(ListForm)
INLINE, DATA, PROGRESSION, SLOT, CAPSULE = ListForm
NAMES = ("cdw2", "cdw3", "cdw10", "cdw11", "cdw12", "cdw13", "cdw14", "cdw15")
ODD = [1, 2, 4, 9]
LBA = st.integers(0, (1 << 64) - 1)


@pytest.mark.parametrize(
    ("lbas", "steps"),
    [
        ([7], Steps(1, 1, 0, 0)),
        ([7, 8, 9], Steps(3, 1, 0, 0)),
        ([7, 107, 207], Steps(1, 3, 100, 0)),
        ([0, 1, 100, 101, 1000, 1001, 1100, 1101], Steps(2, 2, 100, 1000)),
        ([0, 1, 100, 101, 1000], Steps(2, 2, 100, 1000)),
        ([5, 3, 1], Steps(1, 3, (1 << 64) - 2, 0)),
        ([4, 4, 4], Steps(1, 3, 0, 0)),
        ([(1 << 64) - 1, 0], Steps(2, 1, 0, 0)),
        (ODD, None),
        ([0, 1, 100, 102], None),
    ],
)
def test_a_progression_is_recognised(lbas: list[int], steps: Steps | None) -> None:
    assert as_progression(lbas) == steps


@pytest.mark.parametrize(
    ("sources", "destinations", "possible"),
    [
        ([0, 1, 9, 10], [100, 101, 109, 110], True),
        ([0, 1, 9, 10], [100, 101, 102, 103], False),
        ([0, 9, 100, 109], [0, 9, 100, 109], False),  # needs rows, which a copy has not
        ([0, 1, 0, 1, 9, 10], [0, 1, 0, 1, 9, 10], False),
    ],
)
def test_a_copy_shares_its_steps_between_both_lists(
    sources: list[int], destinations: list[int], possible: bool
) -> None:
    assert (as_progression(sources, destinations) is not None) == possible


@settings(max_examples=150, deadline=None)
@given(
    base=LBA,
    n=st.integers(1, 64),
    run=st.integers(1, 8),
    columns=st.integers(1, 8),
    s1=st.integers(16, 1 << 20),
    s2=st.integers(1 << 24, 1 << 40),
)
def test_every_striped_list_is_a_progression(base: int, n: int, run: int, columns: int, s1: int, s2: int) -> None:
    lbas = progression(base, n, run, columns, s1, s2)
    steps = as_progression(lbas)
    assert steps is not None
    assert progression(base, n, *steps) == lbas


@settings(max_examples=100, deadline=None)
@given(lbas=st.lists(st.integers(0, 6), min_size=1, max_size=64))
def test_what_is_taken_for_a_progression_is_one(lbas: list[int]) -> None:
    steps = as_progression(lbas)
    assert steps is None or progression(lbas[0], len(lbas), *steps) == lbas


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    n=st.integers(1, 64),
    form=st.sampled_from(ListForm),
    opcode=st.sampled_from([0x90, 0x91, 0x92, 0x93]),
)
def test_what_is_encoded_is_what_the_drive_resolves(data: st.DataObject, n: int, form: ListForm, opcode: int) -> None:
    if form is PROGRESSION:
        steps = [data.draw(LBA), n, data.draw(st.integers(1, 8)), 8, 1 << 20, 0]
        lbas, moved = progression(*steps), [data.draw(LBA), *steps[1:]]
        destinations = progression(*moved)
    else:
        lbas, destinations = (data.draw(st.lists(LBA, min_size=n, max_size=n)) for _ in range(2))
    if opcode != Io.VECTOR_COPY:
        destinations = []
    try:
        form = choose(opcode, lbas, destinations, ALL, form)
    except UsageError:
        return
    encoded = encode(form, opcode, lbas, destinations, (5, 6))
    cdws = [encoded.cdws[name] for name in NAMES]
    found = resolve(opcode, n, cdws, encoded.capsule, encoded.prefix, {5: lbas, 6: destinations})
    assert isinstance(found, tuple)
    assert [list(entries) for entries in found] == [lbas, destinations]


@pytest.mark.parametrize(
    ("opcode", "lbas", "offered", "form"),
    [
        (Io.VECTOR_READ, [3], ALL, INLINE),
        (Io.VECTOR_READ, [3], (), INLINE),
        (Io.VECTOR_READ, [3, 4], ALL, PROGRESSION),
        (Io.VECTOR_READ, ODD, ALL, CAPSULE),
        (Io.VECTOR_READ, ODD, (DATA, SLOT), SLOT),
        (Io.VECTOR_WRITE, ODD, (DATA, SLOT), DATA),
        (Io.VECTOR_RESET, [3, 4], (SLOT,), SLOT),
    ],
)
def test_the_cheapest_form_is_chosen(
    opcode: Io, lbas: list[int], offered: tuple[ListForm, ...], form: ListForm
) -> None:
    assert choose(opcode, lbas, (), offered, None) is form


@pytest.mark.parametrize(
    ("opcode", "lbas", "offered", "wanted", "error"),
    [
        (Io.VECTOR_READ, ODD, (), None, BindingUnsupported),
        (Io.VECTOR_READ, ODD, (DATA,), None, BindingUnsupported),
        (Io.VECTOR_READ, ODD, (DATA,), CAPSULE, BindingUnsupported),
        (Io.VECTOR_READ, ODD, ALL, DATA, UsageError),
        (Io.VECTOR_READ, ODD, ALL, PROGRESSION, UsageError),
        (Io.VECTOR_READ, [3, 4], ALL, INLINE, UsageError),
    ],
)
def test_a_form_that_cannot_be_is_refused(
    opcode: Io, lbas: list[int], offered: tuple[ListForm, ...], wanted: ListForm | None, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        choose(opcode, lbas, (), offered, wanted)
    assert caught.type is error


def test_the_documented_progression_has_the_documented_cdws() -> None:
    lbas = [0x5008 + i % 4 + (i // 4 << 18) for i in range(16)]
    cdws = encode(PROGRESSION, Io.VECTOR_READ, lbas).cdws
    assert {name: value for name, value in cdws.items() if value} == {
        "cdw10": 0x5008, "cdw12": 15, "cdw13": 0xC32, "cdw14": 0x40000,
    }  # fmt: skip
    with pytest.raises(UsageError):
        encode(PROGRESSION, Io.VECTOR_READ, ODD)
