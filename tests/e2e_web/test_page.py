"""The live page in a real browser, in front of a real daemon that a host writes to.

Pictures are saved where OCSSD_WEB_PICTURES says, for people to look at.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import ocssd_tcp.host
from tests.e2e_web.browser import DOWN, END, HOME, RIGHT, Browser, missing

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing() or "-"), pytest.mark.timeout(300)]

START_SECONDS = 30.0
CONFIG = """
[target]
listen = ["127.0.0.1:{port}"]
[observe]
listen = "127.0.0.1:{web_port}"
[drive]
path = "drive"
[[namespace]]
clba = 64
mw_cunits = 0
maxoc = 8
pe_cycles = 4
[[namespace]]
num_grp = 1
num_pu = 1
num_chk = 3
clba = 64
"""
BLOCK = 4096


class Daemon:
    """The daemon as a process. `port`, `url`: where it listens, the same after a restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = self._web_port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._web_port}/"

    def start(self) -> None:
        """Start it, and wait until it has said where it listens."""
        (self._folder / "drive.toml").write_text(CONFIG.format(port=self.port, web_port=self._web_port))
        log_path = self._folder / "log"
        with log_path.open("wb") as log:
            argv = [sys.executable, "-m", "ocssd_tcp", "--config", str(self._folder / "drive.toml")]
            self._process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            text = log_path.read_text(errors="replace")
            web = re.search(r"http://127\.0\.0\.1:(\d+)/", text)
            if web:
                self._web_port = int(web[1])
                self.port = int(re.findall(r"listening\D+127\.0\.0\.1:(\d+)", text)[0])
                return
            assert self._process.poll() is None, text
            time.sleep(0.05)
        raise AssertionError(log_path.read_text(errors="replace"))

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    found = Daemon(tmp_path_factory.mktemp("daemon"))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def host(daemon: Daemon) -> Iterator[ocssd_tcp.host.SyncDrive]:
    """A host that has left the drive in a state that every test may expect: chunk 0/0/0 closed, 0/0/1 open to block
    16, 1/2/3 worn out (offline)."""
    with ocssd_tcp.host.connect("127.0.0.1", daemon.port) as drive:
        chunk = drive.addresses.join
        drive.write(chunk(grp=0, pu=0, chk=0), bytes(64 * BLOCK))
        drive.write(chunk(grp=0, pu=0, chk=1), bytes(16 * BLOCK))
        for _ in range(4):
            drive.write(chunk(grp=1, pu=2, chk=3), bytes(4 * BLOCK))
            _reset(drive, chunk(grp=1, pu=2, chk=3))
        yield drive


def _reset(drive: ocssd_tcp.host.SyncDrive, slba: int) -> None:
    try:
        drive.reset([slba])
    except ocssd_tcp.host.StatusError:
        pass  # the last one finds the chunk worn out


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


@pytest.fixture
def page(window: Browser, daemon: Daemon, host: ocssd_tcp.host.SyncDrive) -> Browser:
    """The page, with some seconds of data."""
    window.console()
    window.show(1280, 900)
    window.go(daemon.url)
    window.wait("Number(document.body.dataset.updates || 0) > 1")
    return window


def _text(page: Browser, selector: str) -> str:
    return str(page.run("return document.querySelector(arguments[0]).innerText", selector))


def _save(page: Browser, name: str) -> None:
    folder = os.environ.get("OCSSD_WEB_PICTURES")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.picture(Path(folder) / f"{name}.png")


def test_the_page_says_what_the_drive_is(page: Browser) -> None:
    assert "nqn.2014-08.org.nvmexpress:uuid:" in _text(page, "#nqn")
    assert (_text(page, "#phase"), _text(page, "#link")) == ("open", "live")
    assert _text(page, "#shape").startswith("2 groups × 4 PUs × 60 chunks of 256 KiB.")
    assert "1 of 8" in _text(page, "#tiles")


def test_chunks_are_shown_by_state(page: Browser) -> None:
    label = page.run("return document.querySelector('#map').getAttribute('aria-label')")
    assert label == "Chunks of namespace 1: 477 free, 1 open, 1 closed, 1 offline"
    assert _text(page, "#legend").split("\n") == [
        "free 477", "open 1 (dot, filled to wp)", "closed 1", "offline 1 (cross)",
    ]  # fmt: skip
    assert re.search(r"0\.0\s+1\s+16\s+64\s+25 %", _text(page, "#open"))


def test_the_map_is_drawn_with_more_than_colour(page: Browser) -> None:
    """Where colours are taken away the four states still look different."""
    differing = page.run(
        """
        const g = document.querySelector("#map").getContext("2d"), ratio = devicePixelRatio, s = layout.step - 1;
        const shape = (row, cell) => {
          const line = layout.lines[row], x = line.x + cell % line.columns * layout.step;
          const y = line.y + Math.floor(cell / line.columns) * layout.step;
          const data = g.getImageData(x * ratio, y * ratio, s * ratio, s * ratio).data, light = [];
          for (let i = 0; i < data.length; i += 4) light.push(data[i] + data[i + 1] + data[i + 2]);
          const half = (Math.min(...light) + Math.max(...light)) / 2;
          return light.map((v) => v > half ? "1" : "0").join("");
        };
        return new Set([shape(0, 2), shape(0, 0), shape(0, 1), shape(6, 3)]).size;
        """
    )
    assert differing == 4


def test_the_map_can_be_read_with_the_keyboard(page: Browser) -> None:
    page.keys("#map", HOME)
    assert _text(page, "#detail") == "Group 0, PU 0, chunk 0: closed, 100 % written, wear about 0 of 255"
    page.keys("#map", RIGHT)
    assert _text(page, "#detail").startswith("Group 0, PU 0, chunk 1: open, 27 % written")
    page.keys("#map", DOWN)
    assert _text(page, "#detail").startswith("Group 0, PU 1, chunk 1: free")
    page.keys("#map", END)
    assert _text(page, "#detail").startswith("Group 0, PU 1, chunk 59: free")
    page.keys("#map", HOME + DOWN * 5 + RIGHT * 3)
    assert _text(page, "#detail") == "Group 1, PU 2, chunk 3: offline, 0 % written, wear about 255 of 255"


def test_everything_that_can_be_used_can_be_reached_with_tab(page: Browser) -> None:
    reached = page.run(
        """
        return [...document.querySelectorAll("select, input, [tabindex]")].map((n) => n.id || n.name);
        """
    )
    assert reached == ["ns", "view", "view", "map", "open", "commands", "controllers", "recent"]


def test_what_a_host_does_is_seen_without_reloading(page: Browser, host: ocssd_tcp.host.SyncDrive) -> None:
    before = page.run("return state.namespace.commands.find((c) => c[0] === 'read')?.[2] || 0")
    for _ in range(40):
        host.read(0, 16)
    page.wait(f"(state.namespace.commands.find((c) => c[0] === 'read')?.[2] || 0) >= {before + 40}")
    page.wait("samples.some((s) => s[1] > 0)")
    page.wait("document.querySelector('#rate').getAttribute('aria-label').startsWith('Throughput. read ')")
    slba = host.addresses.join(grp=0, pu=3, chk=7)
    host.write(slba, bytes(8 * BLOCK))
    page.wait("cellOf(3, 7).state === 'open'")
    host.reset([slba])
    page.wait("cellOf(3, 7).state === 'free'")


def test_errors_controllers_and_events_are_listed(page: Browser, host: ocssd_tcp.host.SyncDrive) -> None:
    with pytest.raises(ocssd_tcp.host.StatusError):
        host.write(host.addresses.join(grp=0, pu=2, chk=9) + 8, bytes(4 * BLOCK))
    page.wait("document.querySelector('#commands').innerText.includes('out of order write')")
    assert "nqn.2014-08.org.nvmexpress:uuid:" in _text(page, "#controllers")
    recent = _text(page, "#recent")
    assert "controller connected" in recent
    assert "drive is open" in recent
    assert "notice" in recent  # of the chunk that is worn out


def test_another_namespace_can_be_chosen(page: Browser, daemon: Daemon) -> None:
    page.run("const ns = document.querySelector('#ns'); ns.value = '2'; ns.dispatchEvent(new Event('change'));")
    page.wait("state.namespace.nsid === 2 && rows.length === 1")
    assert _text(page, "#shape").startswith("1 group × 1 PU × 3 chunks")
    page.go(daemon.url + "?ns=2")
    page.wait("state.namespace && state.namespace.nsid === 2")


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize(
    ("n_groups", "n_pus", "n_cells"), [(64, 16, 8), (5, 100, 30), (2, 4, 60), (1, 1000, 8), (7, 1, 900)]
)
def test_every_cell_of_any_drive_has_a_place_and_can_be_pointed_at(
    page: Browser, width: int, n_groups: int, n_pus: int, n_cells: int
) -> None:
    page.show(width, 800, mobile=width < 500)
    page.wait(f"document.documentElement.clientWidth <= {width} && layout !== null")
    found = page.run(
        """
        const [nGroups, nPus, nCells] = arguments, kept = [rows, cursor];
        cursor = null;
        rows = [...Array(nGroups * nPus).keys()].map((i) =>
          [i, Math.floor(i / nPus), i % nPus, i % nPus, "000".repeat(nCells)]);
        showMap();
        const node = $("map"), taken = new Set(), missed = [];
        const box = node.getBoundingClientRect();
        layout.lines.forEach((line, row) => {
          for (let cell = 0; cell < line.n; cell++) {
            const x = line.x + (cell % line.columns + 0.5) * layout.step;
            const y = line.y + (Math.floor(cell / line.columns) + 0.5) * layout.step;
            const to = at({ clientX: box.left + x, clientY: box.top + y });
            if (!to || to.row !== row || to.cell !== cell) missed.push([row, cell]);
            if (x > box.width || y > layout.height) missed.push([row, cell, x, y]);
            taken.add(`${x},${y}`);
          }
        });
        const height = layout.height;
        [rows, cursor] = kept;
        showMap();
        return [taken.size, missed.slice(0, 5), height];
        """,
        n_groups, n_pus, n_cells,
    )  # fmt: skip
    assert found[:2] == [n_groups * n_pus * n_cells, []]
    if (width, n_groups) == (1280, 64):
        assert found[2] < 2000  # its groups stand side by side: one below the other it would be 8,700


@pytest.mark.parametrize("width", [1280, 768, 375, 320])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_its_window(page: Browser, width: int, dark: bool) -> None:
    page.show(width, 800, dark=dark, mobile=width < 500)
    page.wait(f"document.documentElement.clientWidth <= {width} && layout !== null")
    assert page.run("return document.documentElement.scrollWidth") <= width
    assert page.run("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(18, 22, 29)" if dark else "rgb(246, 247, 249)"
    )
    _save(page, f"page-{width}-{'dark' if dark else 'light'}")


def test_texts_have_enough_contrast(page: Browser) -> None:
    """WCAG 2.1, 1.4.3: at least 4.5 to 1 in both schemes."""
    script = """
        const light = (text) => {
          const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255)
            .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const back = light(getComputedStyle(document.querySelector("section")).backgroundColor);
        return [".none", "dt", "dd", "h2", "th", "td", ".warning", "#link", ".legend li"].flatMap((selector) => {
          const node = document.querySelector(selector);
          if (!node) return [];
          const front = light(getComputedStyle(node).color);
          return [(Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05)];
        });
    """
    for dark in (False, True):
        page.show(1280, 900, dark=dark)
        ratios = page.run(script)
        assert len(ratios) >= 6
        assert min(ratios) >= 4.5


def test_neither_the_browser_nor_the_policy_complains(page: Browser, daemon: Daemon) -> None:
    page.click("[name=view][value=wear]")
    page.keys("#map", HOME)
    assert page.console() == []
    fetched = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith((daemon.url, "data:")) for name in fetched)


def test_text_from_a_host_is_text(page: Browser, daemon: Daemon) -> None:
    hostnqn = "nqn.2014-08.org.example:<img src=x onerror=document.title=1><b>bold</b>"
    with ocssd_tcp.host.connect("127.0.0.1", daemon.port, hostnqn=hostnqn):
        page.wait("document.querySelector('#controllers').innerText.includes('<b>bold</b>')")
        assert page.run("return document.querySelectorAll('#controllers b, #controllers img').length") == 0


def test_the_state_is_there_for_programs(daemon: Daemon, host: ocssd_tcp.host.SyncDrive) -> None:
    with urllib.request.urlopen(daemon.url + "api/state.json?ns=1", timeout=10) as answer:
        state = json.load(answer)
    assert state["namespace"]["num_chk"] == 60
    assert state["controllers"]["number"] >= 1


def test_a_lost_drive_is_said_and_found_again(tmp_path: Path, window: Browser) -> None:
    own = Daemon(tmp_path)
    try:
        window.go(own.url)
        window.wait("document.querySelector('#link').innerText === 'live'")
        own.stop()
        window.wait("document.querySelector('#link').dataset.good === 'no'")
        own.start()
        window.wait("document.querySelector('#link').innerText === 'live'")
        assert window.run("return rows.length") == 8
    finally:
        own.stop()
