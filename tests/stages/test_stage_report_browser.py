"""The report page of a real run in a real browser."""

from __future__ import annotations

import json
import shutil

import browser
import pytest
from stages_settings import BUDGET

from spos_quant.run_dir import read_json, store_json

pytestmark = pytest.mark.browser
KEY = f"bitops-{BUDGET}"
PLACE = """(([x, y]) => {
  const plot = document.getElementById("plane-plot"), box = plot.getBoundingClientRect(), layout = plot._fullLayout;
  return [box.x + layout.xaxis._offset + layout.xaxis.d2p(x), box.y + layout.yaxis._offset + layout.yaxis.d2p(y)];
})(%s)"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    started = browser.start(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


def test_the_page_of_a_run_works(tiny_run, chromium):
    page = chromium.open().visit(tiny_run / "report.html")
    plots = page.run("[...document.querySelectorAll('.js-plotly-plot')].map((plot) => plot.id)")
    assert plots == ["plane-plot", "loss-plot", "top1-plot"]
    report = read_json(tiny_run / "report.json")
    drawn = page.run("document.querySelectorAll('#plane-plot .point').length")
    assert drawn == len(report["evaluations"]) + 1

    # Hovering over the winner shows the bits of its file.
    search = read_json(tiny_run / "results" / KEY / "search.json")
    layers = read_json(tiny_run / "results" / KEY / "digits-mixed.bits.json")["layers"]
    page.middle("#plane-plot")
    page.move(*page.run(PLACE % json.dumps([search["bitops"], search["score"]])))
    label = page.wait("document.querySelector('#plane-plot .hoverlayer .hovertext')?.textContent")
    assert f"found: {KEY}" in label
    for name, bits in layers.items():
        if bits["weight_bits"] is not None:
            assert f"w{bits['weight_bits']}a{bits['act_bits']}" in label, name

    # The table of costs holds every layer of the file, sorted on request.
    page.run("document.querySelector('#layers .panel:not([hidden]) th:nth-child(5) button').focus()")
    page.press("Enter")
    rows = page.run("""[...document.querySelectorAll("#layers .panel:not([hidden]) tbody tr")]
      .map((row) => [row.cells[0].dataset.value, Number(row.cells[4].dataset.value)])""")
    assert {name for name, _ in rows} == set(layers)
    assert [macs for _, macs in rows] == sorted((macs for _, macs in rows), reverse=True)
    assert page.run("document.querySelectorAll('#layers .panel:not([hidden]) .uncounted').length") == sum(
        bits["weight_bits"] is None for bits in layers.values()
    )
    assert page.complaints == []
    assert page.outside == []


def test_the_page_shows_that_a_search_ended_early(tiny_run, tmp_path, command, chromium):
    assert "ended early" not in chromium.open().visit(tiny_run / "report.html").run("document.body.innerText")
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    path = run / "results" / KEY / "search.json"
    store_json(path, read_json(path) | {"complete": False})
    command("report", run, json=True)
    page = chromium.open().visit(run / "report.html")
    note = page.run("document.querySelector('#models tr.leads .early').innerText")
    assert note == "search ended early by the time limit: 12 of about 12 architectures"
    assert {
        r["key"]: r["complete"] for r in read_json(run / "report.json")["results"] if r["complete"] is not None
    } == {KEY: False}
    assert page.complaints == []
