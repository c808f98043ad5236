"""The page in both themes, with colour blindness, on a phone, in print, and with reduced motion."""

from __future__ import annotations

import itertools
from typing import Any

import colours
import numpy as np
import pytest
import report_sample as sample
from pdf_text import pdf_pages

pytestmark = pytest.mark.browser

# Per element with own text: text, colour, size, boldness, and the backgrounds from the element outwards.
TEXTS = """[...document.querySelectorAll("body *")].filter((e) => e.checkVisibility({ opacityProperty: true })
    && !e.closest("svg, script, .skip, .status")
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
  .map((e) => {
    const backgrounds = [], style = getComputedStyle(e);
    for (let at = e; at; at = at.parentElement) backgrounds.push(getComputedStyle(at).backgroundColor);
    const size = parseFloat(style.fontSize);
    return [e.textContent.trim().slice(0, 40), style.color, size, style.fontWeight >= 600, backgrounds];
  })"""
CARD = "getComputedStyle(document.getElementById('plane')).backgroundColor"
DRAWN = """({
  points: [...document.querySelectorAll("#plane-plot .point")].map((p) => getComputedStyle(p))
    .map((style) => (style.fill === "none" ? style.stroke : style.fill)),
  front: [...document.querySelectorAll("#plane-plot .scatterlayer .js-line")].map((l) => getComputedStyle(l).stroke),
  curves: [...document.querySelectorAll("#loss-plot .js-line")].map((l) => getComputedStyle(l).stroke),
  bars: [...document.querySelectorAll(".fill")].map((f) => getComputedStyle(f).backgroundColor),
  words: [...document.querySelectorAll(".main-svg text")].map((t) => getComputedStyle(t).fill),
})"""
THEMES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])


def eventful() -> dict[str, Any]:
    """A run with an early end, skipped steps, a broken budget and six trainings."""
    data = sample.run()
    data["results"][0]["complete"] = False
    data["history"][3]["skipped"] = 2
    broken = sample.result("bitops-1M", "searched", "0,1,1,0,1,1,0,1,1,0,1,1", 0.9, bitops=2_000_000, supernet=0.9)
    data["results"].append(broken | {"budget": {"bitops": 1_000_000}})
    data["results"].append(sample.result("bits-w2a2", "uniform", "0,1,1,0,1,1,0,1,1,0,1,1", None))
    return data


@THEMES
def test_all_text_has_the_contrast_of_wcag_aa(look, dark):
    page = look(eventful(), dark=dark)
    texts = page.run(TEXTS)
    assert len(texts) > 150
    weak = []
    for text, colour, size, bold, backgrounds in texts:
        below = np.ones(3)
        for background in reversed(backgrounds):
            below = colours.over(background, below)
        least = 3.0 if size >= 24 or (bold and size >= 18.66) else 4.5
        found = colours.contrast(colours.over(colour, below), below)
        if found < least:
            weak.append((text, round(found, 2)))
    assert weak == []


@THEMES
def test_plotted_colours_have_contrast(look, dark):
    page = look(eventful(), dark=dark)
    card, _ = colours.parse(page.run(CARD))
    assert (colours.luminance(card) < 0.05) == dark
    drawn = page.run(DRAWN)
    assert all(len(drawn[kind]) > 0 for kind in drawn)
    for kind, found in drawn.items():
        for colour in set(found):
            least = 4.5 if kind == "words" else 3.0
            assert colours.contrast(colours.parse(colour)[0], card) >= least, (kind, colour)


@THEMES
@pytest.mark.parametrize("eyes", ["none", "protanopia", "deuteranopia"])
def test_colours_are_told_apart_by_colour_blind_eyes(look, dark, eyes):
    data = eventful()
    page = look(data, dark=dark)
    drawn = page.run(DRAWN)
    curves = [colours.parse(colour)[0] for colour in drawn["curves"]]
    assert len(curves) == 6
    for a, b in itertools.combinations(curves, 2):
        assert colours.distance(a, b, eyes) > 15
    # Luminance is monotonic in the generation: darker on white, lighter on black.
    items = [e for e in data["evaluations"] if e["generation"] is not None and e["cost"] > 0]
    fills = dict(zip((e["generation"] for e in items), drawn["points"], strict=False))
    lights = [colours.luminance(colours.parse(fills[g])[0], eyes) for g in sorted(fills)]
    assert len(lights) == 12
    assert lights == sorted(lights, reverse=not dark)
    assert len(set(lights)) == 12


def test_plots_follow_a_change_of_theme(look):
    page = look(sample.run())
    light = page.run(DRAWN)
    page.media(dark=True)
    page.settle()
    dark = page.run(DRAWN)
    assert [len(found) for found in light.values()] == [len(found) for found in dark.values()]
    for kind in ("points", "front", "curves", "words"):
        assert light[kind] != dark[kind], kind


@pytest.mark.parametrize("width", [320, 390, 768])
def test_the_page_does_not_scroll_sideways_on_a_phone(look, width):
    page = look(eventful(), width=width, height=800)
    assert page.run("document.documentElement.scrollWidth") <= width
    wide = page.run("""[...document.querySelectorAll("body *")]
      .filter((e) => e.checkVisibility() && !e.closest(".scroll, nav") && !e.matches(".skip, .status"))
      .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))""")
    assert wide == []


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_bits_and_shares_are_visible_without_scrolling_sideways(look, width):
    page = look(sample.run(), width=width, height=800)
    cells = "#network .panel:not([hidden]) :is(td.bits, td.bar)"
    sight = page.run(
        f"[...document.querySelectorAll('{cells}')]"
        + """.map((cell) => {
      const box = cell.getBoundingClientRect(), around = cell.closest(".scroll").getBoundingClientRect();
      return box.left >= around.left - 1 && box.right <= around.right + 1;
    })"""
    )
    assert len(sight) == 3 * 10
    assert all(sight)
    blocks = page.run("""[...document.querySelectorAll("#network .panel:not([hidden]) th[scope=rowgroup]")]
      .filter((head) => head.checkVisibility()).map((head) => head.firstChild.textContent.trim())""")
    assert blocks == ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]


def test_the_sums_of_a_table_stay_under_their_columns_when_scrolled(look):
    data = sample.run()
    page = look(data, width=390, height=800)
    shown = page.run("""(() => {
      const table = document.querySelector("#layers .panel:not([hidden]) table");
      table.closest(".scroll").scrollLeft = 9999;
      table.tFoot.scrollIntoView({ block: "center", behavior: "instant" });
      return [...table.tFoot.rows[0].cells].slice(-2).map((cell) => {
        const box = cell.getBoundingClientRect(), at = [box.x + box.width / 2, box.y + box.height / 2];
        return document.elementFromPoint(...at).textContent;
      });
    })()""")
    assert shown == [f"{data['results'][0]['cost']['bitops']:,}", "100 %"]


def test_labels_of_baselines_cover_neither_each_other_nor_the_frame(look):
    page = look(sample.run())
    boxes = page.run("""[...document.querySelectorAll("#plane-plot .textpoint text")].map((label) => {
      const { left, right, top, bottom } = label.getBoundingClientRect();
      return [left, right, top, bottom];
    })""")
    assert len(boxes) == 7
    for a, b in itertools.combinations(boxes, 2):
        assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] + 3 or b[3] <= a[2] + 3, (a, b)
    assert all(0 < left < right < 1280 for left, right, *_ in boxes)


def test_print_has_everything_but_controls(look):
    data = eventful()
    page = look(data, dark=True)
    sheets = pdf_pages(page.pdf())
    assert 1 < len(sheets) < 9
    text = "".join(sheets)
    for layer in data["results"][0]["layers"]:
        bitops = f"{layer['bitops']:,}" if layer["counted"] else "\u2013"
        bits = "".join("float" if layer[k] is None else str(layer[k]) for k in ("weight_bits", "act_bits"))
        mark = "" if layer["counted"] else "notcounted"
        assert f"{layer['name']}{mark}{layer['kind']}{bits}{layer['macs']:,}{bitops}" in text
    for shown in (
        "endedearlybythetimelimit",
        "Accuracyagainstcost",
        "generation",
        "w8a8",
        "epoch",
        "batch_size64",
        "packages.torch",
    ):
        assert shown in text, shown
    assert data["commands"][0]["command"].replace(" ", "") in text
    assert text.count("All10layers") == 1
    for control in ("Copy", "LogarithmicBitOps", "Skiptotheresults", "Zoomtothefront", "Network bitops-2.5M"):
        assert control not in text, control
    # After printing the screen is unchanged.
    assert page.run("document.querySelectorAll('.printing').length") == 0
    assert page.run("[...document.querySelectorAll('details[open] summary')].map((s) => s.textContent)") == [
        "Environment"
    ]


def test_print_is_white_in_every_theme(look):
    page = look(sample.run(), dark=True)
    page.run("dispatchEvent(new Event('beforeprint'))")
    page.media(dark=True, kind="print")
    page.settle()
    assert colours.luminance(colours.parse(page.run(CARD))[0]) == 1
    drawn = page.run(DRAWN)
    for kind in ("points", "front", "curves", "words"):
        assert min(colours.contrast(colours.parse(c)[0], np.ones(3)) for c in drawn[kind]) >= 3, kind
    widths = page.run(
        "[...document.querySelectorAll('.js-plotly-plot .main-svg')].map((s) => s.getBoundingClientRect().width)"
    )
    assert 0 < max(widths) <= 718  # A4 within margins of 1 cm at 96 dots an inch


def test_reduced_motion_is_respected(look):
    page = look(sample.run())
    how = "getComputedStyle(document.documentElement).scrollBehavior"
    assert page.run(how) == "smooth"
    page.media(still=True)
    assert page.run(how) == "auto"
    moving = page.run("""[...document.querySelectorAll("body *")].filter((e) => !e.closest(".plot"))
      .map((e) => getComputedStyle(e))
      .filter((style) => parseFloat(style.transitionDuration) || style.animationName !== "none").length""")
    assert moving == 0
