"""The report in a real browser, driven over a pipe by the DevTools protocol: no port, no driver."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from analysis.page import Page
from analysis.report_sweep import write_sweep
from lth.store.run_folder import RunFolder

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-pipe",
]  # fmt: skip


class Browser:
    """One page in headless Chromium: what it logs, what it requests, what its scripts say."""

    def __init__(self, *, width: int, height: int = 800, dark: bool = False) -> None:
        assert CHROMIUM is not None
        self.console: list[str] = []
        """Errors and warnings of the page, exceptions included."""
        self.requests: list[str] = []
        """Every address that the page asked for."""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        shell = f'exec "$0" "$@" 3<&{there} 4>&{back}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, CHROMIUM, *FLAGS, f"--user-data-dir={self._profile.name}"],
            pass_fds=(there, back),
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)
        self._buffer, self._count, self._session = b"", 0, ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()

    def send(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol and wait for its answer."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("the browser ended")
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, parameters: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.console.append(json.dumps(parameters["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.console.append(json.dumps(parameters["args"]))
        elif event == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.console.append(parameters["entry"]["text"])

    def resize(self, width: int, height: int) -> None:
        """The size of the window, in CSS pixels; under 500 it is a phone."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def open(self, page: Path) -> None:
        """Load a file."""
        self.send("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression (or promise)."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} is still false after {seconds} s")
            time.sleep(0.05)

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))


def look(browser: Browser, page: Path) -> dict[str, Any]:
    """Open a page and scroll through it, so that every figure is drawn."""
    browser.open(page)
    browser.wait("document.body.dataset.ready")
    browser.run(
        "(async () => { for (let y = 0; y < document.documentElement.scrollHeight; y += 300) {"
        "scrollTo({top: y, behavior: 'instant'}); await new Promise(d => setTimeout(d, 40)) } })()"
    )
    total = int(browser.run("document.body.dataset.ready"))
    browser.wait(f"document.body.dataset.drawn === '{total}'")
    drawn = "path.js-line, path.point, .heatmaplayer image"
    count = (
        f"[...document.querySelectorAll('.plot')].filter(p => p.querySelector('{drawn}')).length"
    )
    return {
        "figures": total,
        "shown": browser.run(count),
        "width": browser.run("document.documentElement.scrollWidth"),
    }


def outside(browser: Browser) -> list[str]:
    """The addresses that are neither the file nor in it."""
    return [r for r in browser.requests if not r.startswith(("file:", "data:", "blob:"))]


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, False), (390, True)])
def test_a_run_is_drawn_whole(small_run: RunFolder, width: int, dark: bool) -> None:
    with Browser(width=width, dark=dark) as browser:
        found = look(browser, small_run.report / "report.html")
        assert found["figures"] >= 20
        assert found["shown"] == found["figures"]
        assert found["width"] <= width
        assert browser.console == []
        assert outside(browser) == []
        # Far figures wait until the reader comes near.
        browser.open(small_run.report / "report.html")
        browser.wait("document.body.dataset.ready")
        assert int(browser.run("document.body.dataset.drawn || 0")) < found["figures"] / 2


def test_a_key_hides_what_it_names(small_run: RunFolder) -> None:
    with Browser(width=1200) as browser:
        look(browser, small_run.report / "report.html")
        visible = (
            "document.getElementById('plot-accuracy-0').data"
            ".filter(t => t.name === 'ticket' && t.visible !== false).length"
        )
        assert browser.run(visible) > 1
        button = "document.querySelector('#accuracy + figure [data-name=ticket]')"
        browser.run(f"{button}.click()")
        assert browser.run(visible) == 0
        assert browser.run(f"{button}.getAttribute('aria-pressed')") == "false"
        browser.run(f"{button}.click()")
        assert browser.run(visible) > 1


def test_hover_tells_n_and_values(small_run: RunFolder) -> None:
    with Browser(width=1200) as browser:
        look(browser, small_run.report / "report.html")
        texts = browser.run(
            "document.getElementById('plot-accuracy-0').data.flatMap(t => t.text || [])"
        )
        assert len(texts) == 7  # the ticket at three levels, two controls at two
        assert all("n = 3" in t and "95 % interval" in t for t in texts)


def test_a_sweep_is_filtered(two_runs: list[RunFolder]) -> None:
    folder = two_runs[0].store_root / "sweep" / ("a_long_name=" + "x" * 68)
    folder.mkdir(parents=True)
    cells = zip(("0.1", "0.2", "-1"), [r.run_id for r in two_runs] + [None], strict=True)
    for index, (rate, run_id) in enumerate(cells):
        record = {
            "overrides": [f"optimizer.lr={rate}", "levels=2"],
            "run_id": run_id,
            "status": "done" if run_id else "failed",
            "reason": None if run_id else "optimizer.lr: got -1 <here>",
        }
        (folder / f"{index}.json").write_text(json.dumps(record))
    page = write_sweep(folder)
    for width in (1200, 390):
        with Browser(width=width) as browser:
            assert look(browser, page)["figures"] == 2
            assert browser.run("document.documentElement.scrollWidth") <= width
            shown = "[...document.querySelectorAll('[data-cell]')].filter(e => e.offsetParent)"
            assert browser.run(f"{shown}.length") == 5
            browser.run(
                "(() => { const s = document.querySelector('select[name=\"optimizer.lr\"]');"
                "s.value = '0.2'; s.onchange() })()"
            )
            assert browser.run(f"{shown}.map(e => JSON.parse(e.dataset.cell)['optimizer.lr'])") == [
                "0.2",
                "0.2",
            ]
            assert browser.run("document.querySelector('output').textContent") == "1 of 3 cells"
            assert browser.console == []
            assert outside(browser) == []


def test_a_panel_of_several_cells_stays_under_a_filter_of_one(small_run: RunFolder) -> None:
    folder = small_run.store_root / "sweep" / "of_seeds"
    folder.mkdir(parents=True)
    for seed in (0, 1):
        record = {"overrides": [f"seeds=[{seed}]"], "run_id": small_run.run_id}
        record |= {"status": "done", "reason": None}
        (folder / f"{seed}.json").write_text(json.dumps(record))
    page = write_sweep(folder)
    with Browser(width=1200) as browser:
        assert look(browser, page)["figures"] == 1
        browser.run(
            "(() => { const s = document.querySelector('select[name=\"seeds\"]');"
            "s.value = '[1]'; s.onchange() })()"
        )
        shown = "[...document.querySelectorAll('[data-cell]')].filter(e => e.offsetParent)"
        assert browser.run(f"{shown}.map(e => JSON.parse(e.dataset.cell).seeds ?? 'both')") == [
            "[1]",
            "both",
        ]


def test_the_watcher_sees_what_goes_wrong(tmp_path: Path) -> None:
    # The tests above pass where nothing is seen, so that seeing is tested too.
    page = tmp_path / "page.html"
    page.write_text(
        "<script>console.error('ours'); fetch('http://127.0.0.1:9/').catch(() => {});"
        "throw new Error('theirs')</script>"
    )
    with Browser(width=390) as browser:
        browser.open(page)
        # What the page does reaches us by and by.
        for _ in range(100):
            browser.run("1")
            said = " ".join(browser.console)
            if "ours" in said and "theirs" in said and outside(browser):
                break
            time.sleep(0.1)
        assert any("ours" in line for line in browser.console)
        assert any("theirs" in line for line in browser.console)
        assert outside(browser) == ["http://127.0.0.1:9/"]


def test_the_page_may_not_reach_a_network(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = Page("none").html()
    page.write_text(text.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'))
    with Browser(width=390) as browser:
        browser.open(page)
        browser.wait("document.body.dataset.ready")
        for _ in range(100):
            browser.run("1")
            if browser.console:
                break
            time.sleep(0.1)
        assert any("Content Security Policy" in line for line in browser.console)
