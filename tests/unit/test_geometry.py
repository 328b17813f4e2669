"""Geometry: what may be, what may not, and the page that hosts read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocssd_tcp.ocssd.geometry import Geometry, GeometryError, Mccap
from ocssd_tcp.ocssd.layouts import (
    CHUNK_DESCRIPTOR,
    CHUNK_NOTIFICATION,
    GEOMETRY,
    geometry_page,
    parse_chunk_descriptors,
    parse_geometry_page,
)

DEFAULT = Geometry()


def test_worked_example_of_widths_and_sizes() -> None:
    assert (DEFAULT.grp_len, DEFAULT.pu_len, DEFAULT.chk_len, DEFAULT.lbk_len) == (1, 2, 6, 12)
    assert (DEFAULT.grp_shift, DEFAULT.pu_shift, DEFAULT.chk_shift) == (20, 18, 12)
    assert (DEFAULT.nsze, DEFAULT.ncap) == (2_097_152, 1_966_080)
    assert (DEFAULT.n_pu, DEFAULT.n_chunks, DEFAULT.block_stride) == (8, 480, 4096)


def test_a_count_of_one_has_no_bits() -> None:
    single = Geometry(num_grp=1, num_pu=1, num_chk=1, clba=1, ws_min=1, ws_opt=1, mw_cunits=0)
    assert (single.grp_len, single.pu_len, single.chk_len, single.lbk_len, single.nsze) == (0, 0, 0, 0, 1)


@pytest.mark.parametrize(
    ("flags", "mccap"),
    [
        ({}, Mccap.VECTOR_COPY | Mccap.EARLY_RESET),
        ({"vector_copy": False, "early_reset": False}, Mccap(0)),
        ({"multi_reset": True, "vector_copy": False, "early_reset": False}, Mccap.MULTI_RESET),
        ({"multi_reset": True}, Mccap(7)),
    ],
)
def test_capabilities_follow_the_flags(flags: dict[str, bool], mccap: Mccap) -> None:
    assert replace(DEFAULT, **flags).mccap == mccap


@pytest.mark.parametrize(
    ("key", "changes", "words"),
    [
        ("num_grp", {"num_grp": 0}, ["0", "1 to 65535"]),
        ("num_grp", {"num_grp": 65536}, ["65536", "1 to 65535"]),
        ("num_pu", {"num_pu": -1}, ["-1"]),
        ("num_chk", {"num_chk": 1 << 32}, ["4294967296", "4294967295"]),
        ("clba", {"clba": 0}, ["0", "1 to"]),
        ("clba", {"clba": 4098}, ["4098", "ws_min (4)"]),
        ("ws_min", {"ws_min": 0}, ["0", "1 to"]),
        ("ws_opt", {"ws_opt": 6}, ["6", "ws_min (4)"]),
        ("mw_cunits", {"mw_cunits": 4097}, ["4097", "clba (4096)"]),
        ("maxocpu", {"maxoc": 2, "maxocpu": 3}, ["3", "maxoc (2)"]),
        ("wit", {"wit": 256}, ["256", "0 to 255"]),
        ("block_bytes", {"block_bytes": 1024}, ["1024", "512, 4096"]),
        ("metadata_bytes", {"metadata_bytes": 4}, ["4", "0, 8, 16, 32, 64"]),
        ("dlfeat", {"dlfeat": 3}, ["3", "0, 1, 2"]),
        ("pe_cycles", {"pe_cycles": -1}, ["-1"]),
        ("trdt", {"trdt": 1 << 32}, ["4294967296"]),
        ("num_pu", {"num_pu": "4"}, ["'4'", "whole number"]),
        ("num_pu", {"num_pu": True}, ["True", "whole number"]),
        ("early_reset", {"early_reset": 1}, ["1", "true or false"]),
        (
            "num_chk",
            {"num_grp": 65535, "num_pu": 65535, "num_chk": 1 << 31, "clba": 4096},
            ["75 bits", "at most 63"],
        ),
    ],
)
def test_an_impossible_geometry_names_key_value_and_what_is_allowed(
    key: str, changes: dict[str, int], words: list[str]
) -> None:
    with pytest.raises(GeometryError) as caught:
        replace(DEFAULT, **changes)
    assert caught.value.key == key
    assert str(caught.value).startswith(key)
    for word in words:
        assert word in caught.value.why


@pytest.mark.parametrize(
    ("changes"), [{"maxoc": 2, "maxocpu": 2}, {"maxocpu": 9}, {"mw_cunits": 4096}, {"pe_cycles": 0}, {"wit": 255}]
)
def test_geometries_at_the_limits_are_accepted(changes: dict[str, int]) -> None:
    assert replace(DEFAULT, **changes) != DEFAULT


def test_the_page_has_the_fields_where_the_specification_has_them() -> None:
    page = geometry_page(replace(DEFAULT, maxoc=7, maxocpu=5), forms=0b00101, n_slots=9)
    assert len(page) == 4096
    assert page[0:2] == b"\x02\x00"
    assert page[8:12] == bytes([1, 2, 6, 12])
    assert page[16:20] == (5).to_bytes(4, "little")
    assert page[32] == 10
    assert page[64:76] == b"\x02\x00\x04\x00\x3c\x00\x00\x00\x00\x10\x00\x00"
    assert [int.from_bytes(page[at : at + 4], "little") for at in range(128, 148, 4)] == [4, 8, 24, 7, 5]
    assert [int.from_bytes(page[at : at + 4], "little") for at in range(192, 216, 4)] == [
        70_000, 100_000, 1_900_000, 3_500_000, 3_000_000, 3_000_000,
    ]  # fmt: skip
    assert page[3072:3082] == b"OCFB\x01\x05\x09\x00\x40\x00"
    assert not any(page[216:3072])
    assert not any(page[3082:])


def test_a_host_decodes_what_the_drive_encodes() -> None:
    page = parse_geometry_page(geometry_page(DEFAULT))
    for name in ("num_grp", "num_pu", "num_chk", "clba", "ws_min", "mw_cunits", "wit", "grp_len", "lbk_len", "trdm"):
        assert getattr(page, name) == getattr(DEFAULT, name)
    assert page.mccap == DEFAULT.mccap
    assert (page.binding_version, page.forms, page.n_slots, page.max_n) == (1, 0b11111, 64, 64)


def test_a_drive_without_the_binding_record_offers_no_forms() -> None:
    page = bytearray(geometry_page(DEFAULT))
    page[3072] ^= 1
    assert parse_geometry_page(page).binding_version == 0
    assert parse_geometry_page(page).forms == 0


@pytest.mark.parametrize("page", [b"", bytes(4096), b"\x01" + bytes(4095), geometry_page(DEFAULT)[:-1]])
def test_a_page_of_another_revision_or_length_is_refused(page: bytes) -> None:
    with pytest.raises(ValueError, match="Geometry page"):
        parse_geometry_page(page)


def test_descriptor_and_notification_fields_are_where_the_specification_has_them() -> None:
    offsets = {name: field.offset for name, field in CHUNK_DESCRIPTOR.fields.items()}
    assert offsets == {"cs": 0, "ct": 1, "wli": 2, "slba": 8, "cnlb": 16, "wp": 24}
    offsets = {name: field.offset for name, field in CHUNK_NOTIFICATION.fields.items()}
    assert offsets == {"nc": 0, "lba": 8, "nsid": 16, "state": 20, "mask": 22, "nlb": 32}
    assert (CHUNK_DESCRIPTOR.size, CHUNK_NOTIFICATION.size, GEOMETRY.size) == (32, 64, 4096)


def test_half_a_descriptor_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        parse_chunk_descriptors(bytes(48))
