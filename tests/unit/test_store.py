"""A drive on disk: making it, opening it, and every reason not to."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from crc32c import crc32c

from ocssd_tcp.media.ops import MediaStatus, OpKind
from ocssd_tcp.media.store import StoreError, open_store
from ocssd_tcp.media.superblock import DRIVE_SUPERBLOCK, NAMESPACE_SUPERBLOCK
from ocssd_tcp.ocssd.geometry import Geometry
from ocssd_tcp.structdef import Layout
from tests.support_media import ODD, TINY, WIDE, Probe, make_store


def test_a_drive_keeps_its_data_tables_and_names(tmp_path: Path) -> None:
    store = make_store(tmp_path, ODD)
    probe = Probe(store.engines[0])
    names = (store.uuid, store.engines[0].uuid)
    probe.write(13, 0, 12, fill=1)
    probe.write(44, 0, 6, fill=50)
    probe.write(3, 0, 12)
    probe.reset(3)
    tables = [probe.engine.descriptor(chunk) for chunk in range(ODD.n_chunks)]
    store.close()
    store = make_store(tmp_path, ODD, create=False)
    probe = Probe(store.engines[0])
    assert (store.uuid, store.engines[0].uuid) == names
    assert [probe.engine.descriptor(chunk) for chunk in range(ODD.n_chunks)] == tables
    assert probe.read(13, 0, 12) == probe.data(12, 1)
    assert probe.fills(44, 0, 4) == [50, 51, 0, 0]
    assert probe.write(44, 6, 6).status == MediaStatus.OK
    store.close()


def test_namespaces_are_apart_and_more_can_be_added(tmp_path: Path) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    store = open_store(tmp_path / "drive", [TINY], [first])
    Probe(store.engines[0]).write(0, 0, 16, fill=1)
    store.close()
    store = open_store(tmp_path / "drive", [TINY, replace(ODD, dlfeat=2)], [None, second])
    probes = [Probe(engine) for engine in store.engines]
    assert [engine.uuid for engine in store.engines] == [first, second]
    assert probes[0].fills(0, 0, 2) == [1, 2]
    assert probes[1].fills(0, 0, 2) == [0xFF, 0xFF]
    store.close()


def test_a_second_opener_is_refused_whoever_it_is(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with pytest.raises(StoreError, match="in use by another process"):
        make_store(tmp_path)
    program = (
        "import sys\n"
        "from ocssd_tcp.media.store import open_store\n"
        "from tests.support_media import TINY\n"
        "open_store(sys.argv[1], [TINY])\n"
    )
    root = Path(__file__).parents[2]
    other = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "drive")], cwd=root, capture_output=True, text=True, check=False
    )
    assert other.returncode == 1
    assert "in use by another process" in other.stderr
    store.close()
    make_store(tmp_path).close()


def test_another_geometry_is_refused_and_both_are_named(tmp_path: Path) -> None:
    make_store(tmp_path).close()
    with pytest.raises(StoreError) as caught:
        make_store(tmp_path, replace(TINY, num_chk=8, early_reset=False))
    assert "num_chk is 4, 8 was asked for" in caught.value.why
    assert "early_reset is True, False was asked for" in caught.value.why
    assert caught.value.path.endswith("ns-1/superblock")
    make_store(tmp_path).close()


def test_another_uuid_is_refused_and_both_are_named(tmp_path: Path) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    open_store(tmp_path / "drive", [TINY], [first]).close()
    with pytest.raises(StoreError) as caught:
        open_store(tmp_path / "drive", [TINY], [second])
    assert str(first) in caught.value.why
    assert str(second) in caught.value.why


def test_fewer_namespaces_than_the_drive_has_are_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "drive", [TINY, TINY]).close()
    with pytest.raises(StoreError, match="ns-2: is a namespace beyond the 1"):
        make_store(tmp_path)


@pytest.mark.parametrize("name", ["superblock", "ns-1/superblock"])
@pytest.mark.parametrize("at", [0, 9, 24, 41, 63, 300, 509, 4095])
def test_a_flipped_byte_in_a_superblock_is_refused(tmp_path: Path, name: str, at: int) -> None:
    make_store(tmp_path).close()
    path = tmp_path / "drive" / name
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"superblock: is (damaged|not a superblock)"):
        make_store(tmp_path)


def reseal(path: Path, layout: Layout, **changes: int) -> None:
    data = bytearray(path.read_bytes())
    for name, value in changes.items():
        field = layout.fields[name]
        data[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little")
    at = layout.offset("crc")
    data[at : at + 4] = bytes(4)
    data[at : at + 4] = crc32c(bytes(data)).to_bytes(4, "little")
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"incompat": 4}, "incompat 0x4"),
        ({"ro_compat": 1}, "ro_compat 0x1"),
        ({"version": 2}, "version 2"),
        ({"num_grp": 0}, "impossible geometry: num_grp"),
    ],
)
def test_a_superblock_that_this_program_does_not_know_is_refused(
    tmp_path: Path, changes: dict[str, int], words: str
) -> None:
    make_store(tmp_path).close()
    reseal(tmp_path / "drive" / "ns-1" / "superblock", NAMESPACE_SUPERBLOCK, **changes)
    with pytest.raises(StoreError, match=words):
        make_store(tmp_path)


def test_an_unknown_compatible_feature_is_no_matter(tmp_path: Path) -> None:
    make_store(tmp_path).close()
    reseal(tmp_path / "drive" / "superblock", DRIVE_SUPERBLOCK, compat=0x80)
    make_store(tmp_path).close()


def test_no_drive_is_made_where_none_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no drive is there"):
        make_store(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []
    make_store(tmp_path).close()
    with pytest.raises(StoreError, match="no such namespace"):
        open_store(tmp_path / "drive", [TINY, TINY], create=False)


@pytest.mark.parametrize("name", ["notes.txt", "ns-1/notes.txt", "ns-1"])
def test_a_folder_that_holds_other_things_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    other = tmp_path / "drive" / name
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    with pytest.raises(StoreError, match="other things"):
        make_store(tmp_path)
    assert [path for path in (tmp_path / "drive").rglob("*") if path.is_file()] == [other]
    assert other.read_text() == "mine"


def test_a_foreign_file_in_an_unfinished_namespace_is_left_alone(tmp_path: Path) -> None:
    make_store(tmp_path).close()
    folder = tmp_path / "drive" / "ns-1"
    (folder / "superblock").unlink()
    (folder / "notes.txt").write_text("mine")
    before = sorted(folder.iterdir())
    with pytest.raises(StoreError, match=r"holds other things: notes\.txt"):
        make_store(tmp_path)
    assert sorted(folder.iterdir()) == before


class PowerCutError(Exception):
    """Nothing runs after it."""


def stopping(call: Callable[..., object], after: list[int]) -> Callable[..., object]:
    """`call`, until it has been called `after[0]` times."""

    def stopped(*args: object) -> object:
        after[0] -= 1
        if after[0] < 0:
            raise PowerCutError
        return call(*args)

    return stopped


@pytest.mark.parametrize("name", ["fsync", "pwrite", "ftruncate", "rename", "posix_fallocate"])
def test_making_a_drive_may_be_interrupted_anywhere_and_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    geometry = replace(TINY, num_pu=1)
    n_interrupted = 0
    while True:
        path = tmp_path / str(n_interrupted)
        with monkeypatch.context() as patch:
            patch.setattr(os, name, stopping(getattr(os, name), [n_interrupted]))
            try:
                make_store(path, geometry).close()
                break
            except PowerCutError:
                n_interrupted += 1
        store = make_store(path, geometry)
        assert Probe(store.engines[0]).write(0, 0, 4).status == MediaStatus.OK
        store.close()
    assert n_interrupted > 0


@pytest.mark.parametrize("kind", ["data", "chunks"])
def test_missing_and_short_files_are_named(tmp_path: Path, kind: str) -> None:
    make_store(tmp_path).close()
    path = tmp_path / "drive" / "ns-1" / f"pu-0-1.{kind}"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(StoreError, match=rf"pu-0-1\.{kind}: is too short: {size - 1} bytes, not"):
        make_store(tmp_path)
    path.unlink()
    with pytest.raises(StoreError, match=rf"pu-0-1\.{kind}: cannot be opened: No such file"):
        make_store(tmp_path)


def test_a_chunk_file_of_another_parallel_unit_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path).close()
    folder = tmp_path / "drive" / "ns-1"
    (folder / "pu-0-1.chunks").write_bytes((folder / "pu-0-0.chunks").read_bytes())
    with pytest.raises(StoreError, match=r"pu-0-1\.chunks: is damaged, or of another drive"):
        make_store(tmp_path)


def test_a_path_that_is_a_file_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "drive").write_text("mine")
    with pytest.raises(StoreError, match="drive"):
        make_store(tmp_path)


@pytest.mark.parametrize(
    "geometry", [Geometry(num_grp=1, num_pu=1, num_chk=(1 << 22) + 1), Geometry(num_grp=255, num_pu=255, num_chk=1)]
)
def test_a_drive_too_large_for_a_process_is_refused_before_anything_is_made(tmp_path: Path, geometry: Geometry) -> None:
    with pytest.raises(StoreError, match="too many"):
        make_store(tmp_path, geometry)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_drive_leaves_no_descriptor_open(tmp_path: Path) -> None:
    make_store(tmp_path).close()
    (tmp_path / "drive" / "ns-1" / "pu-0-1.chunks").unlink()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StoreError):
        make_store(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_descriptor_limit_is_raised(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(128, hard), hard))
    try:
        make_store(tmp_path).close()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_parallel_units_open_with_their_tables_in_the_log(tmp_path: Path) -> None:
    store = make_store(tmp_path, WIDE)
    probe = Probe(store.engines[0])
    for chunk in range(0, WIDE.n_chunks, 65):
        assert probe.write(chunk, 0, 8, fill=chunk).status == MediaStatus.OK
    store.close()
    store = make_store(tmp_path, WIDE)
    probe = Probe(store.engines[0])
    for chunk in range(0, WIDE.n_chunks, 65):
        assert probe.fills(chunk, 0, 2) == [chunk & 0xFF, (chunk + 1) & 0xFF]
    assert probe.done(OpKind.FLUSH, []).status == MediaStatus.OK
    store.close()
