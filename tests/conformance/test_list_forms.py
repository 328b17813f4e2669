"""The LBA-list binding, to the bit: what each form reserves, what it refuses, and slots."""

from __future__ import annotations

import pytest

from tests.conformance import lists
from tests.conformance.lab import Lab, Way
from tests.conformance.lists import CAPSULE, COPY, DATA, INLINE, PROGRESSION, READ, RESET, SLOT, STAGE, WRITE
from tests.conformance.rules import CLOSED, FREE, INVALID_FIELD, OK, OPEN, SGL_LENGTH, Outcome

OPCODES = {RESET: "reset", WRITE: "write", READ: "read", COPY: "copy"}
EACH_OPCODE = pytest.mark.parametrize("opcode", OPCODES, ids=OPCODES.values())
REFUSED = Outcome(INVALID_FIELD)

#: Which forms an opcode may use: the binding's table.
ALLOWED = {
    RESET: {INLINE, PROGRESSION, SLOT, CAPSULE},
    READ: {INLINE, PROGRESSION, SLOT, CAPSULE},
    WRITE: {INLINE, DATA, PROGRESSION, SLOT, CAPSULE},
    COPY: {INLINE, DATA, PROGRESSION, SLOT, CAPSULE},
}

#: Bits that a form leaves reserved, as (dword, bits): CDW2-3, CDW10-11, CDW13, CDW14-15.
_SECOND = [("cdw2", 1), ("cdw2", 1 << 31), ("cdw3", 1), ("cdw3", 1 << 31)]
_DLBAL = [("cdw14", 1), ("cdw14", 1 << 31), ("cdw15", 1), ("cdw15", 1 << 31)]
_LBAL = [("cdw10", 1), ("cdw11", 1 << 31)]
_HIGH = [("cdw13", 1 << bit) for bit in (4, 9, 10, 15, 16, 31)]
RESERVED = {
    (opcode, form): {
        INLINE: [*_HIGH, *_SECOND, *([] if opcode == COPY else _DLBAL)],
        DATA: [*_HIGH, *_SECOND, *_LBAL, *_DLBAL],
        PROGRESSION: [("cdw13", 1 << 16), ("cdw13", 1 << 31)],
        SLOT: [*_HIGH, *_SECOND, ("cdw11", 1), ("cdw11", 1 << 31), *(_DLBAL[2:] if opcode == COPY else _DLBAL)],
        CAPSULE: [*_HIGH, *_SECOND, *([] if opcode == COPY else _DLBAL)],
    }[form]
    for opcode, forms in ALLOWED.items()
    for form in forms
}


class Prepared:
    """A command that would succeed: one unit, from a Closed chunk or to a Free one, in a form."""

    def __init__(self, lab: Lab, opcode: int, form: int, n_blocks: int) -> None:
        closed, free = lab.take(CLOSED), lab.take(FREE)
        self.lab, self.opcode = lab, opcode
        self.chunks = [closed, free]
        step = 1 << lab.shape.lbk_len if opcode == RESET else 1
        first = free if opcode == WRITE else closed
        self.lbas = [first.slba + i * step for i in range(n_blocks)]
        self.destinations = [free.slba + i for i in range(n_blocks)] if opcode == COPY else []
        carried = lists.carry(form, opcode, self.lbas, self.destinations)
        self.carried = carried or lists.Carried(lists.dwords(n=n_blocks, form=form))
        self.data = lab.data(n_blocks) if opcode == WRITE else b""
        self.room = {READ: lab.shape.stride, RESET: 32}.get(opcode, 0) * n_blocks

    def send(self, way: Way, cdws: dict[str, int] | None = None) -> Outcome:
        lab, carried = self.lab, self.carried
        for slot, entries in carried.staged:
            assert lab.stage(slot, entries, way) == Outcome(OK)
        return way.wire.io(
            self.opcode,
            lab.nsid,
            carried.cdws | (cdws or {}),
            data=carried.head + self.data,
            room=self.room,
            beside=carried.beside,
            r2t=way.r2t,
        )

    def apply(self) -> None:
        """The same to the model."""
        model = self.lab.model
        if self.opcode == WRITE:
            model.write(self.lbas, self.data)
        elif self.opcode == RESET:
            model.vector_reset(self.lbas, descriptors=True)
        elif self.opcode == COPY:
            model.copy(self.lbas, self.destinations, dulbe=False)


def units(lab: Lab, opcode: int, form: int) -> int:
    """Entries of a command: a write unit, or one where a form carries no more."""
    return 1 if form == INLINE or opcode == RESET else lab.shape.ws_min


@pytest.mark.parametrize(("opcode", "form"), RESERVED, ids=lambda value: f"{value:#x}")
def test_a_bit_that_a_form_reserves_is_refused(main: Lab, opcode: int, form: int, way: Way) -> None:
    prepared = Prepared(main, opcode, form, units(main, opcode, form))
    for name, bits in RESERVED[opcode, form]:
        changed = prepared.carried.cdws[name] | bits
        assert prepared.send(way, {name: changed}) == REFUSED, (name, bits)
    main.compare(prepared.chunks)
    if form != INLINE or opcode in (READ, RESET):  # without any such bit it is done
        assert prepared.send(way).status == OK
        prepared.apply()
        main.compare(prepared.chunks)


@EACH_OPCODE
@pytest.mark.parametrize("form", range(16))
def test_a_form_that_the_command_does_not_know_is_refused(main: Lab, opcode: int, form: int, way: Way) -> None:
    if form in ALLOWED[opcode]:
        return
    prepared = Prepared(main, opcode, INLINE, 1)
    assert prepared.send(way, {"cdw13": form}) == REFUSED
    main.compare(prepared.chunks)


@EACH_OPCODE
@pytest.mark.parametrize("n", [2, 64])
def test_an_inline_list_of_several_is_refused(main: Lab, opcode: int, n: int, way: Way) -> None:
    """A host's memory address, as PCIe hosts send it, is never taken for an LBA."""
    prepared = Prepared(main, opcode, PROGRESSION, n if opcode != RESET else 1)
    prepared.room = {READ: main.shape.stride, RESET: 32}.get(opcode, 0) * n
    assert prepared.send(way, {"cdw12": n - 1, "cdw13": INLINE, "cdw10": 0x1000, "cdw11": 0x7F}) == REFUSED
    main.compare(prepared.chunks)


@EACH_OPCODE
@pytest.mark.parametrize("n", [65, 0x8000, 0x10000])
@pytest.mark.parametrize("form", lists.FORMS, ids=lists.NAMES)
def test_more_than_64_entries_are_refused(main: Lab, opcode: int, n: int, form: int, quiet: Way) -> None:
    """NLB is CDW12 15:0: a count of 65 or 65,536 is no count of 1."""
    prepared = Prepared(main, opcode, form, 1)
    prepared.room = {READ: main.shape.stride, RESET: 32}.get(opcode, 0)
    assert prepared.send(quiet, {"cdw12": n - 1}) == REFUSED
    main.compare(prepared.chunks)


@EACH_OPCODE
def test_bits_that_ocssd_reserves_elsewhere_are_ignored(main: Lab, opcode: int, way: Way) -> None:
    prepared = Prepared(main, opcode, PROGRESSION, units(main, opcode, PROGRESSION))
    cdw12 = prepared.carried.cdws["cdw12"] | 0xFFFF << 16
    assert prepared.send(way, {"cdw12": cdw12}).status == OK
    prepared.apply()
    main.compare(prepared.chunks)


@pytest.mark.parametrize("off_by", [-8, -1, 1, 8, 512])
@pytest.mark.parametrize("form", [DATA, PROGRESSION, SLOT, CAPSULE], ids=lists.NAMES[1:])
@pytest.mark.parametrize("opcode", [WRITE, COPY], ids=["write", "copy"])
def test_data_of_a_wrong_length_are_refused(main: Lab, opcode: int, form: int, off_by: int, way: Way) -> None:
    """A write's list and blocks, a copy's two lists, or nothing: exactly."""
    if opcode == COPY and form == CAPSULE and off_by > 0:
        return  # what lies in the capsule beside the lists is nobody's
    prepared = Prepared(main, opcode, form, main.shape.ws_min)
    length = len(prepared.carried.head) + len(prepared.data) + off_by
    if length < 0:
        return
    data = (prepared.carried.head + prepared.data + bytes(512))[:length]
    prepared.carried = lists.Carried(prepared.carried.cdws, data, prepared.carried.beside, prepared.carried.staged)
    prepared.data = b""
    assert prepared.send(way) == Outcome(SGL_LENGTH)
    main.compare(prepared.chunks)


@pytest.mark.parametrize("opcode", [WRITE, COPY], ids=["write", "copy"])
def test_a_command_without_the_data_that_it_needs_is_refused(main: Lab, opcode: int, way: Way) -> None:
    for form in (DATA,) if opcode == COPY else (INLINE, DATA, PROGRESSION):
        cdws = lists.dwords(n=1, form=form)
        assert way.wire.io(opcode, main.nsid, cdws) == Outcome(SGL_LENGTH)


# --- progressions -----------------------------------------------------------------------------------------


def test_a_copy_progression_has_no_rows(main: Lab, way: Way) -> None:
    """n <= R * C."""
    n = 8
    for run, columns, is_legal in ((8, 1, True), (4, 2, True), (4, 1, False), (1, 7, False), (64, 64, True)):
        source, target = main.take(CLOSED), main.take(FREE)
        cdws = lists.dwords(
            n=n, form=PROGRESSION, lbal=source.slba, dlbal=target.slba, second=4, high=run - 1 | columns - 1 << 6
        )
        if is_legal:
            assert way.wire.io(COPY, main.nsid, cdws) == Outcome(OK)
            lbas = [source.slba + i % run + i // run % columns * 4 for i in range(n)]
            main.model.copy(lbas, [lba - source.slba + target.slba for lba in lbas], dulbe=way.wire.dulbe)
        else:
            assert way.wire.io(COPY, main.nsid, cdws) == REFUSED
        main.compare([source, target])


@pytest.mark.parametrize(("run", "columns"), [(1, 1), (1, 4), (4, 1), (2, 3), (64, 64), (3, 64)])
def test_a_progression_is_computed_as_the_binding_says(main: Lab, run: int, columns: int, way: Way) -> None:
    chunk = main.take(CLOSED)
    n, s1, s2 = 16, 3, (1 << 64) - 1
    base = chunk.slba + 2
    lbas = [(base + i % run + i // run % columns * s1 + i // (run * columns) * s2) % (1 << 64) for i in range(n)]
    cdws = lists.dwords(n=n, form=PROGRESSION, lbal=base, dlbal=s1, second=s2, high=run - 1 | columns - 1 << 6)
    outcome = way.wire.io(READ, main.nsid, cdws, room=n * main.shape.stride)
    assert outcome == main.model.read(lbas, dulbe=way.wire.dulbe)


def test_a_progression_may_leave_the_address_space_and_come_back(main: Lab, way: Way) -> None:
    """LBAs wrap modulo 2^64; each is then judged like any other."""
    base = (1 << 64) - 2
    cdws = lists.dwords(n=4, form=PROGRESSION, lbal=base, high=63)
    outcome = way.wire.io(READ, main.nsid, cdws, room=4 * main.shape.stride)
    assert outcome == main.model.read([base, base + 1, 0, 1], dulbe=way.wire.dulbe)


# --- slots ---------------------------------------------------------------------------------------------------


def use(lab: Lab, slot: int, n: int, way: Way, **more: int) -> Outcome:
    """A vector read of the first `n` of a slot."""
    cdws = lists.dwords(n=n, form=SLOT, lbal=slot)
    return way.wire.io(READ, lab.nsid, cdws | more, room=n * lab.shape.stride)


@pytest.mark.parametrize("slot", [0, 1, 63])
def test_a_slot_keeps_its_list_until_it_is_staged_again(main: Lab, slot: int, way: Way) -> None:
    a, b = main.take(CLOSED), main.take(CLOSED)
    for chunk in (a, b):
        lbas = [chunk.slba + i for i in range(4)]
        assert main.stage(slot, lbas, way) == Outcome(OK)
        for n in (4, 4, 1):  # again, and its first entries alone
            assert use(main, slot, n, way) == main.model.read(lbas[:n], dulbe=way.wire.dulbe)


def test_a_slot_holds_64_lbas_of_any_value(main: Lab, way: Way) -> None:
    """Staging checks the form only."""
    lbas = [(1 << 64) - 1 - i for i in range(64)]
    assert main.stage(7, lbas, way) == Outcome(OK)
    assert use(main, 7, 64, way) == main.model.read(lbas, dulbe=way.wire.dulbe)


def test_a_slot_is_the_controllers(main: Lab, hosts: dict[str, Way]) -> None:
    a, b = main.take(CLOSED), main.take(CLOSED)
    first, second = hosts["plain-sqflow"], hosts["plain-nosqflow"]
    assert main.stage(20, [a.slba], first) == Outcome(OK)
    assert main.stage(20, [b.slba], second) == Outcome(OK)
    for way, chunk in ((first, a), (second, b)):
        assert use(main, 20, 1, way) == main.model.read([chunk.slba], dulbe=False)


def test_a_slot_may_be_staged_through_any_namespace(main: Lab, odd: Lab, way: Way) -> None:
    chunk = main.take(CLOSED)
    assert odd.stage(21, [chunk.slba], way) == Outcome(OK)
    assert use(main, 21, 1, way) == main.model.read([chunk.slba], dulbe=way.wire.dulbe)


def test_a_slot_that_was_never_staged_is_refused(main: Lab, way: Way) -> None:
    assert use(main, 40, 1, way) == REFUSED


@pytest.mark.parametrize("slot", [64, 0xFFFF, 0x10000, 0xFFFF_FFFF])
def test_a_slot_out_of_range_is_refused(main: Lab, slot: int, way: Way) -> None:
    assert use(main, slot, 1, way) == REFUSED


def test_a_slot_with_fewer_entries_than_the_command_is_refused(main: Lab, way: Way) -> None:
    chunk = main.take(CLOSED)
    assert main.stage(22, [chunk.slba] * 3, way) == Outcome(OK)
    assert use(main, 22, 4, way) == REFUSED
    assert use(main, 22, 3, way).status == OK


def test_a_copy_needs_both_of_its_slots(main: Lab, way: Way) -> None:
    source, target = main.take(CLOSED), main.take(FREE)
    unit = main.shape.ws_min
    assert main.stage(23, [source.slba + i for i in range(unit)], way) == Outcome(OK)
    assert main.stage(24, [target.slba + i for i in range(unit - 1)], way) == Outcome(OK)
    for destination in (24, 41, 64):  # too short, never staged, out of range
        cdws = lists.dwords(n=unit, form=SLOT, lbal=23, dlbal=destination)
        assert way.wire.io(COPY, main.nsid, cdws) == REFUSED
    main.compare([source, target])


STAGE_FAULTS: dict[str, tuple[dict[str, int], int]] = {
    "slot 64": ({"cdw10": 64}, INVALID_FIELD),
    "slot 65535": ({"cdw10": 0xFFFF}, INVALID_FIELD),
    "CDW10 bit 16": ({"cdw10": 1 << 16}, INVALID_FIELD),
    "CDW10 bit 31": ({"cdw10": 1 << 31}, INVALID_FIELD),
    "CDW11": ({"cdw11": 1}, INVALID_FIELD),
    "CDW12 bit 16": ({"cdw12": 1 << 16}, INVALID_FIELD),
    "CDW12 bit 30": ({"cdw12": 1 << 30}, INVALID_FIELD),
    "CDW13": ({"cdw13": 1}, INVALID_FIELD),
    "CDW14": ({"cdw14": 1}, INVALID_FIELD),
    "CDW15": ({"cdw15": 1 << 31}, INVALID_FIELD),
    "CDW2": ({"cdw2": 1}, INVALID_FIELD),
    "CDW3": ({"cdw3": 1}, INVALID_FIELD),
    "65 entries": ({"cdw12": 64}, INVALID_FIELD),
    "65536 entries": ({"cdw12": 0xFFFF}, INVALID_FIELD),
    "2 entries": ({"cdw12": 1}, SGL_LENGTH),
    "64 entries": ({"cdw12": 63}, SGL_LENGTH),
}


@pytest.mark.parametrize("fault", STAGE_FAULTS)
def test_staging_checks_its_own_fields(main: Lab, fault: str, way: Way) -> None:
    changed, status = STAGE_FAULTS[fault]
    cdws = {"cdw10": 42, "cdw12": 0} | changed
    assert way.wire.io(STAGE, main.nsid, cdws, data=bytes(8), r2t=way.r2t) == Outcome(status)
    assert use(main, 42, 1, way) == REFUSED  # nothing was staged


@pytest.mark.parametrize("n_bytes", [0, 4, 7, 12, 16, 520])
def test_staging_takes_exactly_as_many_bytes_as_its_entries(main: Lab, n_bytes: int, way: Way) -> None:
    outcome = way.wire.io(STAGE, main.nsid, {"cdw10": 43}, data=bytes(n_bytes), r2t=way.r2t)
    assert outcome == Outcome(SGL_LENGTH)


# --- lists beside the data, in the capsule --------------------------------------------------------------------


@EACH_OPCODE
def test_a_list_in_the_capsule_must_not_pass_its_end(main: Lab, opcode: int, way: Way) -> None:
    n = units(main, opcode, CAPSULE)
    prepared = Prepared(main, opcode, CAPSULE, n)
    beside = len(prepared.carried.beside)
    for offset in (beside - 8 * n + 1, beside, beside + 1, 1 << 31, (1 << 64) - 8):
        cdws = {"cdw10": offset & 0xFFFF_FFFF, "cdw11": offset >> 32}
        assert prepared.send(way, cdws) == REFUSED
        if opcode == COPY:
            assert prepared.send(way, {"cdw14": offset & 0xFFFF_FFFF, "cdw15": offset >> 32}) == REFUSED
    main.compare(prepared.chunks)


@EACH_OPCODE
def test_a_capsule_form_without_a_list_in_the_capsule_is_refused(main: Lab, opcode: int, way: Way) -> None:
    prepared = Prepared(main, opcode, CAPSULE, units(main, opcode, CAPSULE))
    prepared.carried = lists.Carried(prepared.carried.cdws | {"cdw10": 0})
    assert prepared.send(way) == REFUSED
    main.compare(prepared.chunks)


def test_a_list_in_the_capsule_may_stand_at_any_byte(main: Lab, way: Way) -> None:
    chunk = main.take(CLOSED)
    lbas = [chunk.slba + 1, chunk.slba]
    for offset in (0, 1, 7, 100):
        beside = bytes(offset) + lists.pack(lbas) + bytes(3)
        cdws = lists.dwords(n=2, form=CAPSULE, lbal=offset)
        outcome = way.wire.io(READ, main.nsid, cdws, room=2 * main.shape.stride, beside=beside)
        assert outcome == main.model.read(lbas, dulbe=way.wire.dulbe)


@pytest.mark.parametrize("opcode", [RESET, READ, COPY], ids=["reset", "read", "copy"])
def test_stray_data_in_the_capsule_are_refused(main: Lab, opcode: int, way: Way) -> None:
    prepared = Prepared(main, opcode, SLOT, 1)
    prepared.carried = lists.Carried(prepared.carried.cdws, beside=bytes(8), staged=prepared.carried.staged)
    assert prepared.send(way) == REFUSED
    main.compare(prepared.chunks)


def test_a_write_by_capsule_list_fetches_its_blocks(main: Lab, way: Way) -> None:
    """Blocks by R2T, however short; the list beside them."""
    unit = main.shape.ws_min
    chunk = main.take(OPEN)
    assert main.vector_write(CAPSULE, [chunk.slba + chunk.wp + i for i in range(unit)], way).status == OK
    main.compare([chunk])
