"""The page of the report in a real browser: plots are there, texts do not overlap, nothing is said in the console."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from elmas.bench.report.page import page
from elmas.bench.report.results import collect
from tests.bench.report_trials import make_trial, make_trials, without_result

BROWSER = os.environ.get("ELMAS_BROWSER") or shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser here: apt-get install chromium")

# Chromium has a least width for windows, so narrow pages are shown in a frame.
_MEASURE = """
<script>
addEventListener("load", () => setTimeout(() => {
  const texts = ".name, .value, .tick, .xtick, .ytick, .endlabel, .part em, figcaption, .xheading, .key span";
  const box = (each) => { const r = each.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const overlaps = [];
  const plots = [...document.querySelectorAll("[data-plot]")].map((plot) => {
    const boxes = [...plot.querySelectorAll(texts)].filter((each) => each.textContent.trim()).map((each) => {
      const range = document.createRange();
      range.selectNodeContents(each);
      return [each.textContent.trim(), each, range.getBoundingClientRect()];
    }).filter(([, , r]) => r.width && r.height);
    boxes.forEach(([text, one, a], place) => boxes.slice(place + 1).forEach(([other, two, b]) => {
      if (one.contains(two) || two.contains(one)) return;
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 1) overlaps.push([plot.dataset.plot, text, other]);
    }));
    const all = [...plot.querySelectorAll(".bar, .part, .quartiles, path")].map(box);
    const shapes = all.filter(([l, t, r, b]) => r > l && b >= t);
    return { kind: plot.dataset.plot, box: box(plot), n_shapes: shapes.length,
             outside: shapes.filter(([l, , r]) => l < box(plot)[0] - 1 || r > box(plot)[2] + 1).length };
  });
  const result = { plots, overlaps, width: innerWidth, content: document.documentElement.scrollWidth,
    background: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color };
  parent.postMessage(result, "*");
}, 50));
</script>
"""
_FRAME = """<!DOCTYPE html><title>frame</title><body style="margin:0">
<script>
addEventListener("message", (event) => {
  const found = document.createElement("pre");
  found.id = "measured";
  found.textContent = JSON.stringify(event.data);
  document.body.append(found);
  console.log("measured");
});
</script>
<iframe style="border:0;width:WIDTHpx;height:4000px" src="report.html"></iframe>
"""


@dataclass(frozen=True)
class _Seen:
    """What the browser found, and what it said in its console."""

    page: dict[str, Any]
    console: list[str]


def _look(directory: Path, text: str, width: int) -> _Seen:
    (directory / "report.html").write_text(text + _MEASURE, encoding="utf-8")
    (directory / "frame.html").write_text(_FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--no-first-run", "--disable-extensions", "--disable-background-networking", "--hide-scrollbars"]
    command += ["--allow-file-access-from-files", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]
    command += [f"--user-data-dir={directory / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=5000"]
    command += ["--dump-dom", (directory / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, f"the page was not shown:\n{done.stderr[-2000:]}"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return _Seen(json.loads(unescape(found.group(1))), console)


@pytest.fixture(scope="module")
def report() -> str:
    """A page with everything on it: rounds and none, three trials, a skipped server."""
    trials = make_trials(["guessing_game"]) + make_trials(["sharegpt"], ["apc", "mt-apc"], n_trials=2, n_rounds=1)
    trials.append(without_result(make_trial("sharegpt", "lmcache", 0), "skipped", "needs CUDA"))
    return page(collect(trials))


@pytest.mark.parametrize("width", [1280, 700, 360])
def test_plots_are_there_and_texts_do_not_overlap(report: str, tmp_path: Path, width: int) -> None:
    seen = _look(tmp_path, report, width)
    # The one line that the frame writes shows that others would have been seen.
    assert [line for line in seen.console if '"measured"' not in line] == []
    assert len(seen.console) == 1
    assert seen.page["width"] == width
    assert seen.page["content"] <= width, "the page scrolls sideways"
    kinds = [plot["kind"] for plot in seen.page["plots"]]
    # Two workloads with four figures each and an ablation of three; distributions, two timelines and one.
    assert {kind: kinds.count(kind) for kind in ("bars", "stack", "boxes", "curves", "summary", "findings")} == {
        "bars": 11,
        "stack": 2,
        "boxes": 2,
        "curves": 5,
        "summary": 1,
        "findings": 1,
    }
    for plot in seen.page["plots"]:
        left, top, right, bottom = plot["box"]
        assert right - left > 200
        assert bottom - top > 30
        assert plot["outside"] == 0, f"shapes outside of {plot['kind']}"
        if plot["kind"] in ("bars", "stack", "boxes", "curves"):
            assert plot["n_shapes"] >= 2
    assert seen.page["overlaps"] == []


def test_dark_pages_are_dark(report: str, tmp_path: Path) -> None:
    seen = _look(tmp_path, report.replace('<html lang="en">', '<html lang="en" data-theme="dark">'), 1280)
    background, ink = (sum(map(int, re.findall(r"\d+", seen.page[name])[:3])) for name in ("background", "ink"))
    assert background < 150 < 500 < ink


def test_an_error_in_the_page_would_be_seen(report: str, tmp_path: Path) -> None:
    seen = _look(tmp_path, report.replace('"use strict";', '"use strict"; notThere();'), 1280)
    assert any("notThere" in line for line in seen.console)
