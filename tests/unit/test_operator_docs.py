"""What operators are told: each line of the log is explained, each option of the predecessors has its place here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ocssd_tcp.config import Config, load

ROOT = Path(__file__).resolve().parents[2]
TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text()
MOVING = (ROOT / "docs/moving.md").read_text()
_CALL = re.compile(
    r'\b_?log\.(?:info|warning|error|exception)\(\s*"([^"]+)"|\.log\("([^"]+)"|_Answers\("([^"]+)", "([^"]+)"\)'
)

#: What users of the predecessors have on their command lines, beside what belongs to every QEMU drive.
OPTIONS = re.findall(
    r"\w+",
    """
serial namespaces queues num_queues entries max_cqes max_sqes stride aerl acl elpe mdts cqr vwc intc intc_thresh
intc_time mpsmin mpsmax nlbaf lba_index extended dpc dps mc meta ms ms_max dlfeat cmb_size_mb cmbsz cmbloc oacs oncs
dialect vid did
lnum_ch lnum_grp num_grp lnum_pu lnum_lun num_pu num_chk lsecs_per_chk lnum_sec num_sec clba lsec_size sec_size lbads
md_size num_ns lmccap mccap lws_min ws_min lws_opt ws_opt lmw_cunits mw_cunits lmax_sec_per_rq learly_reset lsgl_lbal
lstrict lchunktable lchunktable_txt lchunkstate chunkinfo lmetadata lb_err_write ln_err_write lresetfail resetfail
lwritefail writefail wit pe_cycles nsid ldebug
femu_mode lver devsz_mb multipoller_enabled lnum_pln lpgs_per_blk lsecs_per_pg lmetasize flash_type
""",
)


def events() -> set[str]:
    """The events that the sources log, but for debugging."""
    sources = "".join(path.read_text() for path in (ROOT / "ocssd_tcp").rglob("*.py"))
    return {event for match in _CALL.findall(sources) for event in match if event}


def test_every_event_of_the_log_is_explained_and_no_other() -> None:
    explained = set(re.findall(r"^\| \*\*(.+?)\*\* \|", TROUBLESHOOTING, re.MULTILINE))
    assert explained == events()


def test_every_reason_for_the_end_of_a_controller_is_explained() -> None:
    sources = "".join((ROOT / f"ocssd_tcp/controller/{name}.py").read_text() for name in ("association", "directory"))
    reasons = set(re.findall(r'\bend\("([^"]+)"\)', sources))
    assert len(reasons) > 3
    assert all(f"| `{reason}` |" in TROUBLESHOOTING for reason in reasons)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_the_predecessors_has_its_place(option: str) -> None:
    tables = [line.split("|")[1] for line in MOVING.splitlines() if line.startswith("| ")]
    assert any(f"`{option}`" in cell or f"`{option}` " in cell for cell in tables)


@pytest.fixture
def examples(tmp_path: Path) -> list[Config]:
    """The configurations of the page."""
    (tmp_path / "chunk.txt").write_text("grp=0 pu=1 chk=7 state=OPEN wp=96 type=W_SEQ wi=3\n")
    (tmp_path / "reset.txt").write_text("grp=0 pu=2 chk=11 resetfail_prob=100\n")
    (tmp_path / "info.txt").write_text("group=* punit=* chunk=0 type=RANDOM\n")
    (tmp_path / "write.txt").write_text("group=0 punit=3 chunk=1 sectr=40 prob=100\n")
    path = tmp_path / "drive.toml"
    found = []
    for text in re.findall(r"^```toml\n(.*?)^```", MOVING, re.MULTILINE | re.DOTALL):
        path.write_text(text)
        found.append(load(path))
    return found


def test_the_examples_are_what_the_command_lines_asked_for(examples: list[Config]) -> None:
    g3, g4, g1, femu = (config.namespaces[0] for config in examples)
    assert g4.geometry == load().namespaces[0].geometry
    asked = re.search(r"qemu-img create -f ocssd -o (\S+)", MOVING)
    assert asked is not None
    names = {"num_sec": "clba", "md_size": "metadata_bytes"}
    for name, value in (pair.split("=") for pair in asked[1].split(",")):
        assert getattr(g3, names.get(name, name)) == int(value)
    assert [path.name for path in (g3.chunk_states, g3.reset_fail) if path] == ["chunk.txt", "reset.txt"]
    assert [path.name for path in (g4.chunk_states, g4.write_fail) if path] == ["info.txt", "write.txt"]
    assert (g1.strict, g1.geometry.num_grp, g1.geometry.metadata_bytes) == (False, 1, 16)
    has = {name: int(value) for name, value in re.findall(r"\b(\w+)=(\d+)", MOVING[MOVING.index("FEMU: `") :])}
    geometry = femu.geometry
    assert (geometry.num_grp, geometry.num_pu) == (has["lnum_ch"], has["lnum_lun"])
    assert geometry.clba == has["lsecs_per_pg"] * has["lpgs_per_blk"] * has["lnum_pln"]
    assert geometry.ncap * geometry.block_bytes == has["devsz_mb"] << 20
    assert examples[3].latency.flash == ("slc", "mlc", "tlc", "qlc")[has["flash_type"] - 1]
