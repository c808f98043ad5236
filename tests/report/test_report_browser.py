"""The page in a real browser: plots, sorting, choosing, widths. Needs chromium; not in the default suite."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import report_sample as sample

from spos_quant.report import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--virtual-time-budget=6000",
)

# Opens the page in a frame of a given width, works with it as a reader does, and leaves what it saw in the document.
PROBE = """<!doctype html><iframe id="f" src="page.html" style="width:WIDTHpx;height:2000px"></iframe>
<pre id="out"></pre>
<script>
const seen = {};
f.onload = () => setTimeout(() => {
  const d = f.contentDocument, click = (e) => e.click();
  seen.plots = d.querySelectorAll(".js-plotly-plot svg.main-svg").length > 0
    ? [...d.querySelectorAll(".js-plotly-plot")].map((p) => p.id) : [];
  seen.points = d.querySelectorAll("#plane-plot .scatterlayer .point").length;
  seen.page = d.documentElement.scrollWidth;
  seen.background = f.contentWindow.getComputedStyle(d.body).backgroundColor;
  const panels = () => [...d.querySelectorAll(".panel")].filter((p) => !p.hidden).map((p) => p.dataset.result);
  seen.panels = panels();
  const select = d.querySelectorAll("select.chooser")[1];
  if (select) {
    select.value = "bits-w4a4";
    select.dispatchEvent(new Event("change"));
    seen.chosen = [...panels(), d.querySelector("select.chooser").value];
  }
  const table = d.querySelector("#layers .panel:not([hidden]) table");
  if (table) {
    const head = [...table.tHead.rows[0].cells].find((c) => c.textContent === "MACs");
    const column = () => [...table.tBodies[0].rows].map((r) => Number(r.cells[head.cellIndex].dataset.value));
    click(head.querySelector("button"));
    seen.down = [head.getAttribute("aria-sort"), ...column()];
    click(head.querySelector("button"));
    seen.up = [head.getAttribute("aria-sort"), ...column()];
  }
  const plane = d.getElementById("plane-plot");
  if (plane) {
    plane.emit("plotly_click", { points: [{ customdata: 9 }] });
    seen.picked = d.getElementById("picked").textContent;
    seen.axis = plane.layout.xaxis.type;
    click(d.getElementById("plane-log"));
    seen.other = plane.layout.xaxis.type;
  }
  seen.alerted = f.contentWindow.alerted ?? false;
  out.textContent = JSON.stringify(seen);
}, 1500);
</script>"""


def look(folder: Path, data: dict[str, Any], width: int = 1280, *flags: str) -> dict[str, Any]:
    (folder / "page.html").write_text(render(data), "utf-8")
    (folder / "probe.html").write_text(PROBE.replace("WIDTH", str(width)), "utf-8")
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, f"file://{folder / 'probe.html'}"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, "the probe left nothing"
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


def test_the_page_works(tmp_path: Path) -> None:
    data = sample.run()
    seen = look(tmp_path, data)
    assert seen["plots"] == ["plane-plot", "loss-plot", "top1-plot"]
    assert seen["points"] >= len(data["evaluations"])
    assert set(seen["panels"]) == {"bitops-2.5M"}
    assert set(seen["chosen"]) == {"bits-w4a4"}
    order, *values = seen["down"]
    assert (order, values) == ("descending", sorted(values, reverse=True))
    order, *values = seen["up"]
    assert (order, values) == ("ascending", sorted(values))
    assert data["evaluations"][9]["architecture"] in seen["picked"]
    assert (seen["axis"], seen["other"]) == ("log", "linear")


def test_a_phone_has_no_page_to_scroll_sideways(tmp_path: Path) -> None:
    assert look(tmp_path, sample.run(), 390)["page"] <= 390


def test_dark_readers_get_a_dark_page(tmp_path: Path) -> None:
    seen = look(tmp_path, sample.run(), 1280, "--blink-settings=preferredColorScheme=0")
    assert max(map(int, re.findall(r"\d+", seen["background"])[:3])) < 60


def test_a_run_that_has_only_trained_has_no_errors(tmp_path: Path) -> None:
    assert look(tmp_path, sample.trained_only())["plots"] == ["loss-plot", "top1-plot"]


def test_an_empty_run_has_no_errors(tmp_path: Path) -> None:
    assert look(tmp_path, {**sample.trained_only(), "history": []})["plots"] == []


def test_names_do_not_run(tmp_path: Path) -> None:
    evil = "<script>window.alerted=true</script><img src=x onerror='window.alerted=true'>"
    data = sample.run(population=4, generations=2)
    data["space"]["name"] = evil
    data["baselines"][0]["name"] = evil
    for item in data["evaluations"]:
        item["describe"] = {f"{evil}.op": evil}
    data["results"][0]["key"] = evil
    seen = look(tmp_path, data)
    assert seen["alerted"] is False
    assert evil in seen["picked"]
