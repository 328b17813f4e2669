"""Vector commands of a stock host: one buffer per command, in each list form it can express."""

from __future__ import annotations

import pytest

from tests.e2e import ocssd_math as ocssd
from tests.e2e.connection import Connection, Namespace, raw_of
from tests.e2e.drive import BLOCK, content
from tests.e2e.guest import Completion, Guest

pytestmark = pytest.mark.usefixtures("clean_log")

UNIT = 4
"""ws_min of namespace 1."""
COUNT = 16
"""One write unit on each of the four PUs."""
SLOT = 7
SET_FEATURES = 0x09

WIDTHS = pytest.mark.parametrize("width", [64, 32], ids=["ioctl64", "ioctl32"])


def striped(stripe: list[int]) -> ocssd.Progression:
    """A unit on each chunk of a stripe."""
    return ocssd.Progression(stripe[0], UNIT, len(stripe), stripe[1] - stripe[0])


def listed(namespace: Namespace, form: int, layout: ocssd.Progression, count: int) -> tuple[dict[str, int], bytes]:
    """The dwords that give the first `count` blocks of `layout` in list form 1, 2 or 3, and what leads the data."""
    lbas = layout.lbas(count)
    if form == 1:
        return ocssd.with_data(count), ocssd.pack_list(lbas)
    if form == 2:
        return ocssd.progression(count, layout), b""
    namespace.stage(SLOT, lbas)
    return ocssd.slots(count, SLOT), b""


def written_stripe(namespace: Namespace, seed: object) -> tuple[list[int], bytes]:
    """A stripe of closed chunks and the data of their first units, in the order of `striped`."""
    stripe = namespace.free_stripe()
    for number, slba in enumerate(stripe):
        namespace.write(slba, content((seed, number), 64))
    return stripe, b"".join(content((seed, number), 64)[: UNIT * BLOCK] for number in range(len(stripe)))


def fill(namespace: Namespace, stripe: list[int], data: bytes) -> None:
    """Write the rest of chunks that have one unit, so that the window no longer hides it."""
    for number, slba in enumerate(stripe):
        namespace.write(slba + UNIT, content(number, 64 - UNIT))
    for number, slba in enumerate(stripe):
        assert namespace.read(slba, UNIT) == data[number * UNIT * BLOCK : (number + 1) * UNIT * BLOCK]


@WIDTHS
@pytest.mark.parametrize("form", [1, 2, 3])
def test_vector_write_puts_each_unit_on_its_chunk(namespace: Namespace, form: int, width: int) -> None:
    stripe, data = namespace.free_stripe(), content(("write", form, width), COUNT)
    cdw, lead = listed(namespace, form, striped(stripe), COUNT)
    assert namespace.command(ocssd.VECTOR_WRITE, send=lead + data, width=width, cdw=cdw).status == 0
    assert [namespace.chunk(slba).wp for slba in stripe] == [UNIT] * len(stripe)
    fill(namespace, stripe, data)


def test_vector_write_of_one_inline_block(single: Namespace) -> None:
    slba = single.free_run(1)
    for number in range(3):
        done = single.command(ocssd.VECTOR_WRITE, send=content(number, 1), cdw=ocssd.inline(slba + number))
        assert done == Completion(0, 0, content(number, 1))
    assert single.read(slba, 4) == b"".join(content(number, 1) for number in range(3)) + bytes(BLOCK)


@pytest.mark.parametrize("blocks", [4, 64], ids=["one unit", "a whole chunk"])
def test_vector_writes_of_any_size_arrive(namespace: Namespace, blocks: int) -> None:
    slba, data = namespace.free_run(1), content(("size", blocks), blocks)
    cdw = ocssd.with_data(blocks)
    lead = ocssd.pack_list(range(slba, slba + blocks))
    assert namespace.command(ocssd.VECTOR_WRITE, send=lead + data, cdw=cdw).status == 0
    assert namespace.chunk(slba).wp == blocks


def test_vector_write_behind_the_write_pointer_is_out_of_order(namespace: Namespace) -> None:
    slba = namespace.free_run(1)
    namespace.write(slba, content("before", 8))
    lead = ocssd.pack_list(range(slba, slba + UNIT))
    done = namespace.command(ocssd.VECTOR_WRITE, send=lead + content("late", UNIT), cdw=ocssd.with_data(UNIT))
    assert done.status == ocssd.OUT_OF_ORDER_WRITE
    assert done.result == 0b1111
    assert namespace.chunk(slba).wp == 8


@WIDTHS
@pytest.mark.parametrize("form", [2, 3])
def test_vector_read_gathers_units_of_all_chunks(namespace: Namespace, form: int, width: int) -> None:
    stripe, data = written_stripe(namespace, ("read", form, width))
    cdw, _ = listed(namespace, form, striped(stripe), COUNT)
    done = namespace.command(ocssd.VECTOR_READ, receive=COUNT * BLOCK, width=width, cdw=cdw)
    assert done == Completion(0, 0, data)


def test_vector_read_of_one_inline_block(namespace: Namespace) -> None:
    slba, data = namespace.free_run(1), content("inline", 64)
    namespace.write(slba, data)
    done = namespace.command(ocssd.VECTOR_READ, receive=BLOCK, cdw=ocssd.inline(slba + 9))
    assert done == Completion(0, 0, data[9 * BLOCK : 10 * BLOCK])


def test_vector_read_in_any_order_and_twice(namespace: Namespace) -> None:
    slba, data = namespace.free_run(1), content("order", 64)
    namespace.write(slba, data)
    order = [63, 0, 31, 0, 7]
    namespace.stage(SLOT, [slba + lbk for lbk in order])
    done = namespace.command(ocssd.VECTOR_READ, receive=len(order) * BLOCK, cdw=ocssd.slots(len(order), SLOT))
    assert done == Completion(0, 0, b"".join(data[lbk * BLOCK : (lbk + 1) * BLOCK] for lbk in order))


def test_vector_read_by_nvme_cli(guest: Guest, namespace: Namespace) -> None:
    stripe, data = written_stripe(namespace, "nvme-cli")
    layout = striped(stripe)
    read = raw_of(
        guest,
        f"io-passthru {namespace.char} --opcode=0x92 --namespace-id=1 --read --raw-binary --data-len={COUNT * BLOCK} "
        f"--cdw10={layout.base:#x} --cdw12={COUNT - 1} --cdw13={layout.cdw13:#x} --cdw14={layout.stride:#x}",
    )
    assert read == data


def copy_dwords(
    namespace: Namespace, form: int, source: ocssd.Progression, destination: ocssd.Progression
) -> tuple[dict[str, int], bytes]:
    """The dwords of a copy of COUNT blocks in list form 1, 2 or 3, and its data."""
    lists = source.lbas(COUNT), destination.lbas(COUNT)
    if form == 1:
        return ocssd.with_data(COUNT), ocssd.pack_list(lists[0]) + ocssd.pack_list(lists[1])
    if form == 2:
        return ocssd.progression(COUNT, source, destination.base), b""
    for slot, lbas in enumerate(lists):
        namespace.stage(slot, lbas)
    return ocssd.slots(COUNT, 0, 1), b""


@WIDTHS
@pytest.mark.parametrize("form", [1, 2, 3])
def test_vector_copy_moves_units_inside_the_drive(namespace: Namespace, form: int, width: int) -> None:
    stripe, data = written_stripe(namespace, ("copy", form, width))
    target = namespace.free_stripe()
    cdw, send = copy_dwords(namespace, form, striped(stripe), striped(target))
    assert namespace.command(ocssd.VECTOR_COPY, send=send, width=width, cdw=cdw).status == 0
    fill(namespace, target, data)


def test_vector_copy_of_one_inline_block(single: Namespace) -> None:
    source = single.free_run(2)
    target = source + single.geometry().clba
    single.command(ocssd.VECTOR_WRITE, send=content("copied", 1), cdw=ocssd.inline(source))
    assert single.command(ocssd.VECTOR_COPY, cdw=ocssd.inline(source, target)).status == 0
    assert single.read(target, 1) == content("copied", 1)


def _reset_dwords(namespace: Namespace, form: int, stripe: list[int]) -> list[dict[str, int]]:
    """The commands that reset all chunks of a stripe: one by one in form 0, else at once."""
    if form == 0:
        return [ocssd.inline(slba) for slba in stripe]
    layout = ocssd.Progression(stripe[0], 1, len(stripe), stripe[1] - stripe[0])
    return [listed(namespace, form, layout, len(stripe))[0]]


@WIDTHS
@pytest.mark.parametrize("descriptors", [True, False], ids=["descriptors", "no buffer"])
@pytest.mark.parametrize("form", [0, 2, 3])
def test_vector_reset_frees_chunks(namespace: Namespace, form: int, descriptors: bool, width: int) -> None:
    stripe, _ = written_stripe(namespace, ("reset", form))
    returned = b""
    for cdw in _reset_dwords(namespace, form, stripe):
        size = (cdw["cdw12"] + 1) * ocssd.DESCRIPTOR.size if descriptors else 0
        done = namespace.command(ocssd.VECTOR_RESET, receive=size, width=width, cdw=cdw)
        assert (done.status, done.result) == (0, 0)
        returned += done.data
    now = [namespace.chunk(slba) for slba in stripe]
    assert [(chunk.cs, chunk.wp) for chunk in now] == [(ocssd.FREE, 0)] * len(stripe)
    assert ocssd.chunks(returned) == (now if descriptors else [])


def test_vector_reset_says_which_entries_failed(namespace: Namespace) -> None:
    slba = namespace.free_run(3)
    namespace.write(slba, content("first", 64))
    namespace.write(slba + 128, content("third", 64))
    namespace.stage(SLOT, [slba, slba + 64, slba + 128])
    done = namespace.command(ocssd.VECTOR_RESET, cdw=ocssd.slots(3, SLOT))
    assert (done.status, done.result) == (ocssd.INVALID_RESET, 0b010)
    assert [namespace.chunk(slba + number * 64).cs for number in range(3)] == [ocssd.FREE] * 3


@pytest.mark.parametrize(
    ("opcode", "cdw"),
    [
        (ocssd.VECTOR_READ, {"cdw12": 1, "cdw13": 0}),
        (ocssd.VECTOR_READ, {"cdw12": 0, "cdw13": 1}),
        (ocssd.VECTOR_READ, {"cdw12": 0, "cdw13": 5}),
        (ocssd.VECTOR_READ, {"cdw12": 64, "cdw13": 2}),
        (ocssd.VECTOR_READ, {"cdw10": 63, "cdw12": 0, "cdw13": 3}),
    ],
    ids=["a list address", "form 1 in a read", "an unknown form", "too many blocks", "a slot never staged"],
)
def test_a_list_that_the_binding_does_not_know_is_an_invalid_field(
    namespace: Namespace, opcode: int, cdw: dict[str, int]
) -> None:
    count = cdw["cdw12"] + 1
    assert namespace.command(opcode, receive=count * BLOCK, cdw=cdw).status == ocssd.INVALID_FIELD


def test_vector_read_of_unwritten_blocks_gives_zeros(namespace: Namespace) -> None:
    cdw, _ = listed(namespace, 2, striped(namespace.free_stripe()), COUNT)
    assert namespace.command(ocssd.VECTOR_READ, receive=COUNT * BLOCK, cdw=cdw) == Completion(
        0, 0, bytes(COUNT * BLOCK)
    )


@pytest.mark.parametrize(("width", "result"), [(64, 0xFFFFFFFF_00000000), (32, 0)], ids=["ioctl64", "ioctl32"])
def test_with_dulbe_unwritten_blocks_fail_and_are_marked(
    guest: Guest, connected: Connection, namespace: Namespace, width: int, result: int
) -> None:
    slba = namespace.free_run(2)
    namespace.write(slba, content("dulbe", 64))
    dulbe = {"cdw10": 5, "cdw11": 1 << 16}
    assert guest.passthrough(f"/dev/{connected.controller}", "admin", SET_FEATURES, 1, cdw=dulbe).status == 0
    # 32 blocks of a closed chunk and 32 of the free one behind it.
    cdw = ocssd.progression(64, ocssd.Progression(slba, 32, 2, 64))
    done = namespace.command(ocssd.VECTOR_READ, receive=64 * BLOCK, width=width, cdw=cdw)
    assert (done.status, done.result) == (ocssd.UNWRITTEN, result)
