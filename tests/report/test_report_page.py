from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
import report_sample as sample

from spos_quant.report import render

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
VOID = {"meta", "br", "img", "link", "input", "hr", "base"}


class Page(HTMLParser):
    """A parsed page; asserts that elements are properly nested."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif self._open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def visible(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))

    @property
    def data(self) -> Any:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "data"))

    def of(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.elements if name == tag)


@pytest.fixture(scope="module")
def html() -> str:
    return render(sample.run())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_parts_are_there_and_navigation_leads_to_them(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.of("a")]
    assert len(links) == 8
    assert {str(link).removeprefix("#") for link in links} <= set(ids)
    assert len(list(page.of("h1"))) == 1


def test_numbers_are_formatted(page: Page) -> None:
    for shown in (
        "96.1 %",
        "1.725M",
        "5.59 \u00d7 10⁷ architectures",
        "360 images",
        "✓ yes",
        "69 % used",
        "not counted",
    ):
        assert shown in page.visible, shown
    assert "spos-quant retrain runs/digits-mixed --bits w4a4" in page.visible


def test_nothing_is_loaded_from_outside(page: Page, html: str) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "audio", "video", "source", "form"}
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "background", "action", "poster"} & set(attributes), (tag, attributes)
        assert str(attributes.get("href", "#")).startswith("#")
    ours = html
    for _, text in page.scripts:
        if "Plotly, Inc." in text:
            ours = ours.replace(text, "")
    addresses = set(re.findall(r"(?:https?:)?//[a-z][\w.-]*\.[a-z]{2,}[^\s\"')]*", ours))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "@import" not in ours
    assert "url(" not in ours


def test_plotly_is_inside_once(page: Page, html: str) -> None:
    assert html.count("Copyright 2012") == 1
    assert len(page.scripts) == 3


def test_policy_lets_only_the_scripts_of_the_page_run(page: Page) -> None:
    import base64
    import hashlib

    policy = next(str(a["content"]) for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    run = [text for attributes, text in page.scripts if attributes.get("type") != "application/json"]
    assert allowed == [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert "unsafe-eval" not in policy
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]


def test_plots_hold_what_was_evaluated(page: Page) -> None:
    data = sample.run()
    plane = page.data["plane"]
    assert plane["points"]["x"] == [e["cost"] for e in data["evaluations"]]
    assert plane["points"]["y"] == [e["score"] for e in data["evaluations"]]
    assert plane["front"] == data["front"]
    assert [b["name"] for b in plane["baselines"]] == ["w1a2", "w2a2", "w2a4", "w3a3", "w4a2", "w4a4", "w8a8"]
    assert plane["budgets"] == [{"x": 2_500_000, "name": "2.5M"}]
    assert [w["name"] for w in plane["winners"]] == ["bitops-2.5M"]
    assert plane["points"]["text"][0].split("<br>")[0] == "layer1.0: conv3x3, width 1.0, w1a2"
    assert [c["name"] for c in page.data["curves"]] == [
        "supernet", "bitops-2.5M", "bits-w3a3", "bits-w4a4", "bits-float",
    ]  # fmt: skip


def test_every_layer_has_a_row_in_both_tables(html: str) -> None:
    data = sample.run()
    for result in data["results"]:
        for layer in result["layers"]:
            name = layer["name"]
            assert f'<td class="layer" data-value="{name}">' in html
            assert f'<td class="layer" title="{name}">' in html
    uncounted = len(data["results"]) * 2 * 2  # first and last layer, in two tables
    assert html.count('<tr class="uncounted">') == uncounted


def test_an_early_end_is_marked_in_row_verdict_and_plane() -> None:
    data = sample.run()
    assert "ended early" not in Page(render(data)).visible
    for known in (True, None):
        data["results"][0]["complete"] = known
        assert "ended early" not in Page(render(data)).visible
    data["results"][0]["complete"] = False
    del data["evaluations"][100:]
    data["front"] = [i for i in data["front"] if i < 100]
    asked = data["results"][0]["asked"] = sum(item["generation"] is not None for item in data["evaluations"])
    page = Page(render(data))
    sentence = f"ended early by the time limit: {asked} of about 360 architectures"
    assert f"This search was {sentence}; repeat its command to resume." in page.visible
    assert (
        f"Search bitops-2.5M was {sentence}. spos-quant search runs/digits-mixed --bitops-budget 2.5M" in page.visible
    )
    assert f"bitops-2.5M searched search {sentence} 93.0 %" in page.visible
    assert f"Accuracy against cost: a search ended early Search bitops-2.5M was {sentence}." in page.visible
    assert [winner["early"] for winner in page.data["plane"]["winners"]] == [True]


def test_skipped_steps_are_reported() -> None:
    data = sample.run()
    assert "Steps skipped" not in Page(render(data)).visible
    data["history"] = [record | {"skipped": 0} for record in data["history"]]
    assert "Steps skipped" not in Page(render(data)).visible
    data["history"][2]["skipped"], data["history"][7]["skipped"] = 1, 3
    data["results"][1]["history"][0]["skipped"] = 1_200
    page = Page(render(data))
    assert "Steps skipped because their loss was not finite: supernet 4, bits-w3a3 1,200." in page.visible
    assert page.data["curves"][0]["skipped"] == [0, 0, 1, 0, 0, 0, 0, 3, *[0] * 42]


def test_the_bits_tile_of_the_winner() -> None:
    result = sample.result("bitops-2.5M", "searched", "0,1,0,0,1,3,0,1,3,0,1,4", 0.9, supernet=0.9)
    assert (
        "Bits of weights / inputs 1\u20134 / 2\u20133 in 8 layers; 2 kept float"
        in Page(render(sample.with_results(result))).visible
    )
    assert "Bits of weights" not in Page(render(sample.full_precision())).visible


def test_a_winner_refers_to_its_evaluation() -> None:
    data = sample.run()
    (winner,) = Page(render(data)).data["plane"]["winners"]
    item = data["evaluations"][winner["point"]]
    assert (item["cost"], item["score"]) == (winner["x"], winner["y"])
    lines = winner["text"].split("<br>")
    bits = [item["describe"][f"{line.partition(':')[0]}.bits"] for line in lines]
    assert len(bits) == 4
    assert [line.rpartition(" ")[2] for line in lines] == [f"w{w}a{a}" for w, a in bits]
    # If two evaluations match, none is referred to.
    data["evaluations"].append(item | {"architecture": "another"})
    assert Page(render(data)).data["plane"]["winners"][0]["point"] is None


def test_a_block_without_layers_is_shown() -> None:
    result = sample.result("bitops-2.5M", "searched", "4,1,0,0,1,1,4,1,0,0,1,1", 0.9, supernet=0.9)
    page = Page(render(sample.with_results(result)))
    assert page.visible.count("no layer of its own") == 2
    shown = page.visible[page.visible.index("Share of BitOps") :]
    assert shown.index("layer1.0") < shown.index("no layer of its own") < shown.index("layer1.1")


def test_a_run_that_has_only_trained_says_what_is_missing() -> None:
    page = Page(render(sample.trained_only()))
    for shown in (
        "No search has finished yet.",
        "spos-quant search runs/digits-mixed --bitops-budget 35%",
        "There is no result yet",
        "No architecture is evaluated yet",
    ):
        assert shown in page.visible, shown
    assert page.data["plane"]["points"]["x"] == []
    assert len(page.data["curves"]) == 1


def test_an_empty_run_renders_without_plotly() -> None:
    data = {**sample.trained_only(), "history": [], "commands": []}
    html = render(data)
    assert "Plotly, Inc." not in html
    page = Page(html)
    assert "spos-quant train digits-mixed --out RUN" in page.visible
    assert "#commands" not in [a["href"] for a in page.of("a")]


@pytest.mark.parametrize("seeds", [1, 3])
def test_ranking_and_bench_have_their_parts(seeds: int) -> None:
    data = sample.compared(seeds=seeds)
    page = Page(render(data))
    assert {"#ranking", "#bench"} <= {a["href"] for a in page.of("a")}
    assert {"ranking", "bench", "ranking-plot", "bench-plot"} <= {a.get("id") for _, a in page.elements}
    assert page.data["ranking"]["y"] == [row["alone_top1"] for row in data["ranking"]["rows"]]
    assert page.data["bench"]["x"] == [2_400_000, 2_390_000]  # a float network has no BitOps
    for shown in ("0.71 (0.40 to 0.90)", "its first is 2.0 points lower", "0.312 ms", "of 16.38K to 6.6M BitOps"):
        assert shown in page.visible, shown
    assert ("the ceiling" in page.visible) == ("± 0.4" in page.visible) == (seeds > 1)


def test_the_hypervolume_is_shown_with_its_reference_point() -> None:
    front = {"front": [0], "hypervolume": 0.625, "reference": {"cost": 6_600_000, "score": 0.1}}
    page = Page(render({**sample.run(population=4, generations=2), "fronts": {"bitops": front}}))
    assert "Hypervolume of the front: 62.5 % of the area" in page.visible
    assert "the score of chance, 10.0 %, at the cost of the most expensive architecture, 6.6M BitOps" in page.visible


def test_missing_keys_and_nulls_render() -> None:
    result = sample.result("bitops-2.5M", "searched", None, None)
    result["cost"] = dict.fromkeys(result["cost"])
    result["layers"] = []
    data = sample.with_results(result, history=None, config=None, environment=None, commands=None, baselines=None)
    assert "not scored yet" in Page(render(data)).visible


def test_nan_and_infinity_become_null() -> None:
    data = sample.run(population=4, generations=2)
    data["evaluations"][0]["loss"] = float("nan")
    data["evaluations"][1]["score"] = float("inf")
    data["history"][0]["loss"] = float("nan")
    page = Page(render(data))
    assert page.data["curves"][0]["loss"][0] is None
    assert page.data["plane"]["points"]["y"][1] is None


def test_full_precision_shows_macs_and_no_bits() -> None:
    page = Page(render(sample.full_precision()))
    assert page.data["unit"] == "MACs"
    for absent in ("BitOps", "Weight bits", "not counted"):
        assert absent not in page.visible, absent
    assert "Operator and width of each block" in page.visible


def test_no_string_of_a_run_becomes_markup() -> None:
    data = sample.run(population=4, generations=2)
    data["space"] |= {"name": EVIL, "backbone": EVIL}
    data["environment"] = {EVIL: EVIL}
    data["config"] = {EVIL: {EVIL: [EVIL, None, True]}}
    data["commands"] = [{"what": EVIL, "command": f"spos-quant report '{EVIL}'"}]
    data["baselines"][0]["name"] = EVIL
    data["budgets"][0] |= {"text": f"w{EVIL}", "key": EVIL}
    for item in data["evaluations"]:
        item["architecture"] = EVIL
        item["describe"] = {f"{EVIL}.op": EVIL, f"{EVIL}.bits": [1, 2], EVIL: {"a": EVIL}}
    for item in data["results"]:
        item["key"] = item["key"] + EVIL
        item["blocks"] = {EVIL: {"op": EVIL, "width": 1.0}}
        item["layers"] = [{**layer, "name": f"{EVIL}.x", "kind": EVIL} for layer in item["layers"]]
        item["export"] = [{**file, "path": EVIL, "format": EVIL} for file in item["export"]]
    html = render(data)
    page = Page(html)
    assert "<script>alert" not in html
    assert "<img" not in html
    assert len(page.scripts) == 3
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in Page(render(sample.run())).elements}
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    # Plotly interprets HTML tags in texts, so these are escaped within the JSON too.
    assert "&lt;script&gt;" in page.data["plane"]["points"]["text"][0]
    plane = page.data["plane"]
    plotted = [plane["points"]["text"], plane["baselines"], plane["winners"], plane["budgets"], page.data["curves"]]
    assert "<script" not in json.dumps(plotted)


def test_undecodable_bytes_can_be_written() -> None:
    data = sample.trained_only()
    data["commands"] = [{"what": "x", "command": "spos-quant report run-\udcff"}]
    assert render(data).encode("utf-8")


def test_the_same_data_make_the_same_page(html: str) -> None:
    assert render(sample.run()) == html


def test_neither_torch_nor_brevitas_is_loaded() -> None:
    import subprocess
    import sys

    code = "import sys, spos_quant.report; assert not {'torch', 'brevitas', 'plotly'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
