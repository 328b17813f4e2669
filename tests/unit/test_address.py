"""Addresses: fields, holes, and the two ways in which commands name blocks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocssd_tcp.ocssd.address import Address, AddressMap, Extent
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.ocssd.layouts import geometry_page, parse_geometry_page
from tests.support_media import ODD, TINY, WIDE

DEFAULT = AddressMap(Geometry())
MAPS = {name: AddressMap(geometry) for name, geometry in {"odd": ODD, "tiny": TINY, "wide": WIDE}.items()}


def test_worked_example_of_the_specification() -> None:
    lba = DEFAULT.join(1, 2, 5, 7)
    assert lba == 0x185007
    assert DEFAULT.split(lba) == Address(1, 2, 5, 7)
    assert DEFAULT.extent(lba) == Extent(365, 7, 1)
    assert DEFAULT.lba(365, 7) == lba


@pytest.mark.parametrize("geometry", [ODD, TINY, WIDE], ids=["odd", "tiny", "wide"])
def test_every_chunk_round_trips_and_everything_else_is_a_hole(geometry: Geometry) -> None:
    addresses = AddressMap(geometry)
    named = [addresses.address_chunk(chunk) for chunk in range(geometry.n_chunks)]
    assert [addresses.flat_chunk(address_chunk) for address_chunk in named] == list(range(geometry.n_chunks))
    holes = set(range(addresses.n_address_chunks)) - set(named)
    assert all(addresses.flat_chunk(hole) == -1 for hole in holes)


@given(st.sampled_from(sorted(MAPS)), st.integers(0, (1 << 64) - 1))
def test_split_agrees_with_extent_and_exists_for_any_lba(name: str, lba: int) -> None:
    geometry = {"odd": ODD, "tiny": TINY, "wide": WIDE}[name]
    addresses = MAPS[name]
    grp, pu, chk, lblk = addresses.split(lba)
    is_chunk = grp < geometry.num_grp and pu < geometry.num_pu and chk < geometry.num_chk
    flat = (grp * geometry.num_pu + pu) * geometry.num_chk + chk
    assert addresses.extent(lba) == Extent(flat if is_chunk else -1, lblk, 1)
    assert addresses.exists(lba) == (is_chunk and lblk < geometry.clba)
    assert addresses.join(grp, pu, chk, lblk) == lba


def test_stray_high_bits_name_nothing() -> None:
    assert DEFAULT.extent(1 << 63).chunk == -1
    assert not DEFAULT.exists(1 << 21)


def test_a_host_addresses_by_the_page_it_read() -> None:
    host = AddressMap(parse_geometry_page(geometry_page(ODD)))
    assert [host.lba(chunk, 1) for chunk in range(45)] == [MAPS["odd"].lba(chunk, 1) for chunk in range(45)]


@pytest.mark.parametrize(
    ("lbas", "runs"),
    [
        ([], []),
        ([0], [Extent(0, 0, 1)]),
        ([0, 1, 2, 3], [Extent(0, 0, 4)]),
        ([1, 0], [Extent(0, 1, 1), Extent(0, 0, 1)]),
        ([5, 5], [Extent(0, 5, 1), Extent(0, 5, 1)]),
        ([4094, 4095, 4096], [Extent(0, 4094, 2), Extent(1, 0, 1)]),
        ([0, 1, 0x5000, 0x5001, 2, 3], [Extent(0, 0, 2), Extent(5, 0, 2), Extent(0, 2, 2)]),
        ([60 << 12, (60 << 12) + 1], [Extent(-1, 0, 2)]),
        ([(1 << 64) - 1, 0], [Extent(-1, 4095, 1), Extent(0, 0, 1)]),
    ],
)
def test_a_list_is_cut_into_runs_of_one_chunk(lbas: list[int], runs: list[Extent]) -> None:
    assert DEFAULT.runs(lbas) == runs


def test_blocks_past_cnlb_stay_in_their_chunks_run() -> None:
    assert MAPS["odd"].runs([10, 11, 12, 13, 14, 15, 16]) == [Extent(0, 10, 6), Extent(1, 0, 1)]


@pytest.mark.parametrize(
    ("slba", "n_blocks", "runs"),
    [
        (7, 1, [Extent(0, 7, 1)]),
        (4095, 2, [Extent(0, 4095, 1), Extent(1, 0, 1)]),
        (4090, 4096 + 12, [Extent(0, 4090, 6), Extent(1, 0, 4096), Extent(2, 0, 6)]),
        ((59 << 12) + 4095, 2, [Extent(59, 4095, 1), Extent(-1, 0, 1)]),
        ((1 << 21) - 1, 3, [Extent(-1, 4095, 1), Extent(-1, 0, 2)]),
        ((1 << 64) - 1, 65536, [Extent(-1, 4095, 65536)]),
    ],
)
def test_a_scalar_range_is_cut_where_the_chunk_field_changes_and_never_wraps(
    slba: int, n_blocks: int, runs: list[Extent]
) -> None:
    assert DEFAULT.scalar_runs(slba, n_blocks) == runs


@given(st.sampled_from(sorted(MAPS)), st.integers(0, 1 << 12), st.integers(1, 200))
def test_both_ways_to_name_a_range_agree(name: str, slba: int, n_blocks: int) -> None:
    def blocks(extents: list[Extent]) -> list[tuple[int, int]]:
        return [(chunk, lblk + at if chunk >= 0 else 0) for chunk, lblk, n in extents for at in range(n)]

    addresses = MAPS[name]
    assert blocks(addresses.scalar_runs(slba, n_blocks)) == blocks(addresses.runs(range(slba, slba + n_blocks)))
