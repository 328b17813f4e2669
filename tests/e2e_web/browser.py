"""A headless Chromium by the WebDriver protocol (W3C), as far as the tests of the live page need it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

START_SECONDS = 30.0
WAIT_SECONDS = 30.0
POLL_SECONDS = 0.1
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"

#: Keys as WebDriver names them.
TAB, ENTER, RIGHT, DOWN, HOME, END = "\ue004", "\ue007", "\ue014", "\ue015", "\ue011", "\ue010"


def missing() -> str:
    """Why there is no browser here; empty if there is one."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"needs {' and '.join(absent)} (Debian: chromium, chromium-driver)" if absent else ""


class Browser:
    """One window. Everything raises AssertionError or OSError with what the driver said."""

    def __init__(self, folder: Path) -> None:
        """`folder`: for the profile and the driver's log, not there before or empty."""
        log_path = folder / "chromedriver.log"
        with log_path.open("wb") as log:
            self._driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=log, stderr=subprocess.STDOUT)
        try:
            self._url = f"http://127.0.0.1:{self._port(log_path)}"
            self._session = self._open(folder / "profile")
        except BaseException:
            self._end()
            raise

    def _port(self, log_path: Path) -> int:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            started = re.search(r"started successfully on port (\d+)", log_path.read_text(errors="replace"))
            if started:
                return int(started[1])
            assert self._driver.poll() is None, log_path.read_text(errors="replace")
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"no port in {log_path}")

    def _open(self, profile: Path) -> str:
        flags = [
            "--headless=new",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
        ]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")  # Chromium's own sandbox refuses to be root's
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        return f"/session/{answer['sessionId']}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode(errors="replace")) from None

    def command(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """A WebDriver command of the session."""
        return self._call(method, self._session + path, body)

    def devtools(self, name: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.command("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def show(self, width: int, height: int, *, dark: bool = False, mobile: bool = False) -> None:
        """Give the page a size in CSS pixels and a colour scheme."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
        )
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def go(self, url: str) -> None:
        """Load a page."""
        self.command("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a JavaScript function returns."""
        return self.command("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str) -> Any:
        """Wait until an expression is true; its value."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            value = self.run(f"return {script}")
            if value:
                return value
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"never true: {script}; the console says {self.console()}")

    def keys(self, selector: str, text: str) -> None:
        """Press keys with an element focused."""
        found = self.command("POST", "/element", {"using": "css selector", "value": selector})
        self.command("POST", f"/element/{found[_ELEMENT]}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click an element."""
        found = self.command("POST", "/element", {"using": "css selector", "value": selector})
        self.command("POST", f"/element/{found[_ELEMENT]}/click", {})

    def console(self) -> list[str]:
        """What the page and the browser have written to the console since the last call."""
        return [entry["message"] for entry in self.command("POST", "/se/log", {"type": "browser"})]

    def picture(self, path: Path) -> None:
        """Save the whole page as PNG."""
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _end(self) -> None:
        self._driver.terminate()
        self._driver.wait(10)

    def close(self) -> None:
        """End the browser and its driver."""
        try:
            self.command("DELETE", "")
        finally:
            self._end()
