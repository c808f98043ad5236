"""Interactions with the page in a real browser: plots, hovering, sorting, choosing, copying."""

from __future__ import annotations

import json
from typing import Any

import browser
import numpy as np
import pytest
import report_sample as sample

pytestmark = pytest.mark.browser

POINTS = """[...document.querySelectorAll("#plane-plot .scatterlayer .trace")].flatMap((trace) =>
  [...trace.querySelectorAll(".point")].map((point) => getComputedStyle(point).fill))"""
PLACE = """(([x, y]) => {
  const plot = document.getElementById("plane-plot"), box = plot.getBoundingClientRect(), layout = plot._fullLayout;
  return [box.x + layout.xaxis._offset + layout.xaxis.d2p(x), box.y + layout.yaxis._offset + layout.yaxis.d2p(y)];
})(%s)"""
LABEL = "[...document.querySelectorAll('#plane-plot .hoverlayer .hovertext')].map((l) => l.textContent).join()"
COLUMN = """((name) => {
  const table = document.querySelector("#layers .panel:not([hidden]) table");
  const head = [...table.tHead.rows[0].cells].find((cell) => cell.textContent === name);
  const rows = [...table.tBodies[0].rows];
  return {
    order: head.getAttribute("aria-sort"),
    sorted: table.querySelectorAll("[aria-sort]").length,
    values: rows.map((row) => row.cells[head.cellIndex].dataset.value ?? null).map((v) => v === null ? v : Number(v)),
    uncounted: rows.map((row) => row.className === "uncounted"),
    names: rows.map((row) => row.cells[0].dataset.value),
  };
})(%s)"""


def lonely(data: dict[str, Any]) -> int:
    """The index of the searched evaluation farthest from all others, for unambiguous hovering."""
    items = data["evaluations"]
    at = np.array([(np.log10(max(e["cost"], 1)), 8 * e["score"]) for e in items])
    apart = np.linalg.norm(at[:, None] - at[None], axis=2) + 99 * np.eye(len(at))
    room = apart.min(axis=1) * [e["generation"] is not None and e["cost"] > 0 for e in items]
    return int(room.argmax())


def point_at(page: browser.Page, x: float, y: float) -> str:
    """The hover text of Plotly next to a point of the plane."""
    page.middle("#plane-plot")
    left, top = page.run(PLACE % json.dumps([x, y]))
    page.move(left + 5, top)  # outside small markers: inside both of two concentric markers Plotly picks the small one
    return str(page.wait(LABEL))


def bits_lines(describe: dict[str, Any]) -> list[str]:
    blocks = dict.fromkeys(name.rpartition(".")[0] for name in describe)
    return [
        f"{b}: {describe[f'{b}.op']}, width {describe[f'{b}.width']}, w{w}a{a}"
        for b in blocks
        for w, a in [describe[f"{b}.bits"]]
    ]


def test_every_evaluation_is_drawn_with_its_generation_as_colour(look):
    data = sample.run()
    page = look(data)
    # The logarithmic axis omits architectures without cost; the linear one shows them.
    generations = [e["generation"] for e in data["evaluations"] if e["generation"] is not None and e["cost"] > 0]
    fills = page.run(POINTS)[: len(generations)]
    assert len(set(generations)) == 12 == len(set(fills))
    assert len(set(zip(generations, fills, strict=True))) == 12


def test_plane_has_front_baselines_budgets_and_winner(look):
    data = sample.run()
    page = look(data)
    page.click(*page.middle("#plane-log"))
    page.wait("document.getElementById('plane-plot')._fullLayout.xaxis.type === 'linear'")
    # Each evaluation once, and the winner on top.
    assert len(page.run(POINTS)) == len(data["evaluations"]) + 1
    shown = page.run("[...document.querySelectorAll('#plane-plot text')].map((text) => text.textContent)")
    assert {b["name"] for b in data["baselines"]} <= set(shown)
    assert {"2.5M", "front", "uniform", "found", "budget", "generation", "BitOps"} <= set(shown)
    line = page.run(
        "document.querySelector('#plane-plot .shapelayer path, #plane-plot .layer-between path').getAttribute('d')"
    )
    limit, _ = page.run(PLACE % json.dumps([2_500_000, 0.8]))
    left = page.run("document.getElementById('plane-plot').getBoundingClientRect().x")
    assert float(line[1:].split(",")[0]) == pytest.approx(limit - left, abs=1)
    assert page.run("document.querySelectorAll('#plane-plot .scatterlayer .lines path').length") >= 1


def test_pointing_at_an_architecture_shows_its_bits(look):
    data = sample.run()
    item = data["evaluations"][lonely(data)]
    label = point_at(look(data), item["cost"], item["score"])
    for line in bits_lines(item["describe"]):
        assert line in label
    assert f"{item['score']:.1%}" in label
    assert f"generation {item['generation']}" in label


def test_pointing_at_the_winner_shows_its_bits(look):
    data = sample.run()
    winner = data["results"][0]
    label = point_at(look(data), winner["cost"]["bitops"], winner["supernet_top1"])
    assert "found: bitops-2.5M" in label
    layers = {layer["name"].rpartition(".")[0]: layer for layer in winner["layers"] if layer["counted"]}
    assert len(layers) >= 3
    for block, layer in layers.items():
        choice = winner["blocks"][block]
        bits = f"w{layer['weight_bits']}a{layer['act_bits']}"
        assert f"{block}: {choice['op']}, width {choice['width']}, {bits}" in label


@pytest.mark.parametrize("width", [1280, 390])
def test_hover_text_of_a_deep_network_stays_on_the_screen(look, width):
    data = sample.run()
    chosen = lonely(data)
    item = data["evaluations"][chosen]
    block = {k.rpartition(".")[2]: v for k, v in item["describe"].items()}
    item["describe"] = {f"layer{i}.{k}": v for i in range(54) for k, v in block.items()}
    page = look(data, width=width)
    assert "more: select the point" in point_at(page, item["cost"], item["score"])
    box = page.run(
        "(({ left, right, top, bottom }) => [left, right, top, bottom])"
        "(document.querySelector('#plane-plot .hoverlayer .hovertext').getBoundingClientRect())"
    )
    assert 0 <= box[0] < box[1] <= width
    assert 0 <= box[2] < box[3] <= 900
    page.click(*page.run(PLACE % json.dumps([item["cost"], item["score"]])))
    page.wait("!document.getElementById('picked').hidden")
    picked = page.run("[...document.querySelectorAll('#picked .places div')].map((place) => place.textContent)")
    assert picked == bits_lines(item["describe"])
    assert page.run("document.querySelector('#picked code').textContent") == item["architecture"]


def test_scale_and_zoom_change_the_axis(look):
    page = look(sample.run())
    axis = "(({ type, range }) => [type, ...range])(document.getElementById('plane-plot')._fullLayout.xaxis)"
    log = page.run(axis)
    page.click(*page.middle("#plane-log"))
    linear = page.wait(f"{axis}[0] === 'linear' && {axis}")
    page.click(*page.middle("#plane-front"))
    page.wait("document.getElementById('plane-front').getAttribute('aria-pressed') === 'true'")
    assert log[0] == "log"
    assert page.run(axis)[1:] != linear[1:]


@pytest.mark.parametrize("column", ["MACs", "BitOps", "Weight bits", "Share"])
def test_sorting_by_the_keyboard(look, column):
    page = look(sample.run())
    before = page.run(COLUMN % json.dumps(column))
    assert (before["order"], before["sorted"]) == (None, 0)
    page.click(*page.middle("#layers .panel:not([hidden]) th button"))  # by another column first
    heads = "[...document.querySelectorAll('#layers .panel:not([hidden]) th button')]"
    page.run(f"{heads}.find((button) => button.textContent === '{column}').focus()")
    for key, order, sign in (("Enter", "descending", -1), (" ", "ascending", 1), ("Enter", "descending", -1)):
        page.press(key)
        seen = page.run(COLUMN % json.dumps(column))
        known = [value for value in seen["values"] if value is not None]
        assert (seen["order"], seen["sorted"]) == (order, 1)
        assert known == sorted(known, key=lambda value: sign * value)
        assert len(set(known)) > 1
        assert seen["values"][len(known) :] == [None] * (len(seen["values"]) - len(known))
        assert sorted(seen["names"]) == sorted(before["names"])
    if column in ("BitOps", "Share"):
        assert seen["uncounted"] == [False] * 8 + [True] * 2


def test_sorting_by_names_reads_numbers_as_numbers(look):
    result = sample.result("bitops-2.5M", "searched", "0,1,1,0,1,1,0,1,1,0,1,1", 0.96, supernet=0.93)
    for i, layer in enumerate(result["layers"]):
        layer["name"] = f"layer{(7 * i) % 11}"
    page = look(sample.with_results(result))
    page.click(*page.middle("#layers th button"))
    names = page.run(COLUMN % '"Layer"')["names"]
    assert names == sorted(names, key=lambda name: int(name.removeprefix("layer")))
    assert "layer10" in names


def test_tab_reaches_everything_once_and_shows_where_it_is(look):
    page = look(sample.run())
    here = """(() => {
      const e = document.activeElement, style = getComputedStyle(e);
      e.stop ??= ++window.stops;
      return [e.stop, e.tagName, e.textContent.slice(0, 40), style.outlineStyle, parseFloat(style.outlineWidth)];
    })()"""
    page.run("window.stops = 0")
    stops: list[list[Any]] = []
    while True:
        page.press("Tab")
        stop = page.run(here)
        if stop[1] == "BODY" or (stops and stop[0] == 1):
            break
        stops.append(stop)
    assert [stop[0] for stop in stops] == list(range(1, len(stops) + 1))
    assert stops[0][2] == "Skip to the results"
    for _, tag, text, style, width in stops:
        assert style != "none", (tag, text)
        assert width >= 1, (tag, text)
    able = page.run(
        "[...document.querySelectorAll('a[href], button, select, summary')].filter((e) => e.checkVisibility()).length"
    )
    assert sum(tag in ("A", "BUTTON", "SELECT", "SUMMARY") for _, tag, *_ in stops) == able
    texts = [text for _, _, text, *_ in stops]
    assert [t for t in texts if t in ("Logarithmic BitOps", "Weight bits", "Copy")][:3] == [
        "Logarithmic BitOps", "Weight bits", "Copy",
    ]  # fmt: skip


def test_copy_takes_the_command(look):
    data = sample.run()
    page = look(data)
    page.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    page.click(*page.middle("#commands li:last-child .copy"))
    assert page.wait("window.copied") == data["commands"][-1]["command"]
    assert page.wait("document.querySelector('#commands li:last-child .copy').textContent") == "Copied"
    assert page.run("document.getElementById('status').textContent") == "Copied"


def test_without_a_clipboard_the_command_is_selected(look):
    data = sample.run()
    page = look(data)
    page.run("navigator.clipboard.writeText = async () => { throw new Error('not here'); }")
    page.run("document.execCommand = () => false")
    page.run("document.querySelector('#commands .copy').focus()")
    page.press("Enter")
    page.wait("document.querySelector('#commands .copy').textContent === 'Selected'")
    assert page.run("getSelection().toString()") == data["commands"][0]["command"]


def test_another_network_is_chosen_in_both_places(look):
    page = look(sample.run())
    shown = "[...document.querySelectorAll('.panel')].filter((p) => p.checkVisibility()).map((p) => p.dataset.result)"
    assert page.run(shown) == ["bitops-2.5M"] * 2
    page.run("""(() => {
      const select = document.querySelectorAll("select.chooser")[1];
      select.value = "bits-w4a4";
      select.dispatchEvent(new Event("change"));
    })()""")
    assert page.run(shown) == ["bits-w4a4"] * 2
    assert page.run("document.querySelector('select.chooser').value") == "bits-w4a4"


def test_bits_stand_beside_the_share_of_the_cost(look):
    data = sample.run()
    page = look(data)
    rows = page.run("""[...document.querySelectorAll("#network .panel:not([hidden]) tr")]
      .filter((row) => row.querySelector(".fill")).map((row) => {
        const bits = [...row.querySelectorAll("td.bits")], bar = row.querySelector(".bar");
        return [
          row.querySelector(".layer").title, ...bits.map((cell) => Number(cell.textContent)), bar.textContent,
          row.querySelector(".fill").getBoundingClientRect().width,
          ...bits.map((cell) => getComputedStyle(cell).backgroundColor),
          bits[0].getBoundingClientRect().y - bar.getBoundingClientRect().y,
        ];
      })""")
    layers = [layer for layer in data["results"][0]["layers"] if layer["counted"]]
    total = sum(layer["bitops"] for layer in layers)
    longest = max(row[4] for row in rows)
    colours: dict[int, set[str]] = {}
    for row, layer in zip(rows, layers, strict=True):
        name, weight, act, share, length, *cells, apart = row
        assert (name, weight, act) == (layer["name"], layer["weight_bits"], layer["act_bits"])
        assert share == f"{100 * layer['bitops'] / total:.1f} %"
        assert length / longest == pytest.approx(layer["bitops"] / max(x["bitops"] for x in layers), abs=0.02)
        assert apart == 0
        for bits, colour in zip((weight, act), cells, strict=True):
            colours.setdefault(bits, set()).add(colour)
    assert len(colours) >= 3
    assert all(len(same) == 1 for same in colours.values())
    assert len(set().union(*colours.values())) == len(colours)


def test_learning_curves_differ_in_more_than_colour(look):
    data = sample.run()
    page = look(data)
    lines = page.run("""[...document.querySelectorAll("#loss-plot .scatterlayer .js-line")].map((line) =>
      [getComputedStyle(line).stroke, getComputedStyle(line).strokeDasharray])""")
    trainings = 1 + sum(bool(r["history"]) for r in data["results"])
    assert len(lines) == trainings == 5
    assert len({colour for colour, _ in lines}) == len({dash for _, dash in lines}) == 5
    legend = page.run("[...document.querySelectorAll('#curves-legend span')].map((span) => span.textContent)")
    assert legend == ["supernet", "bitops-2.5M", "bits-w3a3", "bits-w4a4", "bits-float"]


def test_an_early_end_is_visible_in_the_plot_and_the_text(look):
    data = sample.run()
    whole = look(data)
    data["results"][0]["complete"] = False
    early = look(data)
    filled = "getComputedStyle([...document.querySelectorAll('#plane-plot .point')].pop()).fill !== 'none'"
    assert (whole.run(filled), early.run(filled)) == (True, False)
    winner = data["results"][0]
    label = point_at(early, winner["cost"]["bitops"], winner["supernet_top1"])
    assert "search ended early" in label
    shown = """["header", "#todo", "#models", "#plane"].filter((part) => [...document.querySelectorAll(part + " *")]
      .some((e) => e.checkVisibility() && e.textContent.includes("ended early by the time limit")))"""
    assert whole.run(shown) == []
    assert early.run(shown) == ["header", "#todo", "#models", "#plane"]


@pytest.mark.parametrize(
    ("data", "plots"),
    [
        (sample.trained_only(), ["loss-plot", "top1-plot"]),
        ({**sample.trained_only(), "history": []}, []),
        (sample.full_precision(), ["plane-plot", "loss-plot", "top1-plot"]),
    ],
    ids=["trained", "empty", "full-precision"],
)
def test_unfinished_and_other_runs_have_no_errors(look, data, plots):
    page = look(data)
    assert page.run("[...document.querySelectorAll('.js-plotly-plot')].map((plot) => plot.id)") == plots


def test_names_cannot_inject_scripts(look):
    evil = "<script>window.alerted=true</script><img src=x onerror='window.alerted=true'>"
    data = sample.run(population=4, generations=2)
    data["space"] |= {"name": evil, "backbone": evil}
    data["baselines"][0]["name"] = evil
    data["budgets"][0] |= {"text": f"w{evil}"}
    data["config"] |= {evil: evil}
    data["environment"] |= {evil: evil}
    data["commands"].append({"what": evil, "command": f"spos-quant report '{evil}'"})
    for item in data["evaluations"]:
        item["describe"] = {f"{evil}.op": evil}
    data["results"][0] |= {"key": evil, "blocks": {evil: {"op": evil, "width": 1.0}}, "complete": False}
    for layer in data["results"][0]["layers"]:
        layer["name"] = f"{evil}.{layer['name']}"
    chosen = lonely(data)
    item = data["evaluations"][chosen]
    page = look(data)
    assert evil in point_at(page, item["cost"], item["score"])
    page.click(*page.run(PLACE % json.dumps([item["cost"], item["score"]])))
    page.wait("!document.getElementById('picked').hidden")
    assert page.run("document.querySelector('#picked .places').textContent") == f"{evil}: {evil}"
    assert page.run("document.title").startswith(evil)
    assert page.run("document.querySelector('h1').textContent") == evil
    assert page.run("document.querySelector('#curves-legend').textContent").count(evil) == 1
    assert page.run("document.querySelectorAll('img').length") == 0
    assert page.run("document.scripts.length") == 3
    assert page.run("window.alerted ?? false") is False


def test_ranking_and_bench_are_drawn(look):
    data = sample.compared()
    page = look(data)
    drawn = "document.querySelectorAll('#%s .point').length"
    assert page.run(drawn % "ranking-plot") == len(data["ranking"]["rows"])
    assert page.run(drawn % "bench-plot") == 2
    assert page.run("document.querySelectorAll('#ranking-plot .errorbar, #bench-plot .errorbar').length") > 0
    names = page.run("[...document.querySelectorAll('#bench-plot .textpoint')].map((t) => t.textContent)")
    assert names == ["w2a2", "best"]
