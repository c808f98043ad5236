from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest

from spos_quant.report import evaluations_csv, render, verdict


def layer(name, bits, bitops, counted=True):
    w, a = bits
    return {
        "name": name,
        "kind": "Conv2d",
        "macs": 1000,
        "weight_bits": w,
        "act_bits": a,
        "bitops": bitops,
        "counted": counted,
    }


def result(key, kind, bitops, test, budget=None):
    return {
        "key": key,
        "kind": kind,
        "budget": budget,
        "cost": {"bitops": bitops, "bitops_total": 9, "macs": 5000, "float_macs": 1, "params": 3, "weight_bytes": 123},
        "layers": [layer("stem", (None, None), 0, False), layer("b0.c1", (2, 4), bitops or 0)],
        "blocks": {"b0": {"op": "conv3x3", "width": 0.5}},
        "supernet_top1": 0.9,
        "search_val": {"top1": test, "loss": 0.1, "n": 10} if test else None,
        "test": {"top1": test, "loss": 0.1, "n": 10} if test else None,
        "history": [{"epoch": 1, "loss": 1.0, "top1": 0.5, "lr": 0.1}],
        "export": [{"path": "x.onnx", "format": "onnx-qcdq", "bytes": 999, "max_abs_diff": 0.0, "agreement": 1.0}],
    }


def sample(**changes):
    data = {
        "format": "spos-quant/report/1",
        "space": {"name": "toy", "backbone": "net", "size": 10**40, "input": [3, 8, 8], "classes": 4},
        "metric": "bitops",
        "budgets": [{"key": "bitops-2M", "metric": "bitops", "limit": 2_000_000, "text": "2M"}],
        "evaluations": [
            {
                "architecture": f"0,{i}",
                "describe": {"b0.bits": [2, i], "b0.op": "conv3x3"},
                "generation": i % 3,
                "cost": 1_000_000 + i,
                "score": 0.5 + i / 100,
                "loss": 0.3,
                "searches": ["bitops-2M"],
            }
            for i in range(20)
        ],
        "front": [0, 5, 19],
        "baselines": [{"name": "w4a4", "cost": 2_500_000, "score": 0.6}],
        "results": [
            result("bitops-2M", "searched", 1_900_000, 0.961, {"bitops": 2_000_000}),
            result("bits-w2a2", "uniform", 2_100_000, 0.955),
        ],
        "history": [{"epoch": 1, "loss": 2.0, "top1": 0.2, "lr": 0.1}],
        "config": {"train": {"epochs": 3}},
        "environment": {"python": "3"},
        "commands": [{"what": "Evaluate", "command": "spos-quant evaluate runs/x"}],
    }
    return data | changes


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts, self.inside = [], [], False
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag):
        if tag == "script":
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data
        else:
            self.text += data


def test_page_refers_to_nothing_outside_itself():
    page = Page(render(sample()))
    for tag, attributes in page.found:
        assert not {"src", "href", "srcset", "action"} & attributes.keys(), tag
        assert tag not in ("link", "img", "iframe", "base")
    assert {a["id"] for t, a in page.found if a.get("class") == "plot"} == {"plot-plane", "plot-layers", "plot-curves"}


def test_strings_are_escaped_everywhere():
    evil = "</script><script>alert(1)</script>"
    data = sample()
    data["space"]["name"] = evil
    data["results"][0]["key"] = evil
    data["commands"][0]["command"] = f'"{evil}'
    data["config"] = {evil: evil}
    data["evaluations"][0]["describe"] = {evil: evil}
    page = Page(render(data))
    plain = Page(render(sample()))
    assert len(page.scripts) == len(plain.scripts)
    assert not any(script.startswith("alert") for script in page.scripts)
    assert evil in page.text


def test_figures_hold_the_data():
    page = Page(render(sample()))
    figures = json.loads(page.scripts[0])
    points = figures["plane"]["data"][0]
    assert points["x"] == [1_000_000 + i for i in range(20)]
    assert points["y"][3] == pytest.approx(53.0)
    assert "b0.bits: w2a3" in points["text"][3]
    assert figures["plane"]["layout"]["shapes"][0]["x0"] == 2_000_000
    bars = {trace["name"]: trace for trace in figures["layers"]["data"]}
    assert bars["weight bits"]["y"] == ["b0.c1"]
    assert bars["weight bits"]["x"] == [2]
    assert bars["activation bits"]["x"] == [4]


BUDGET = {"bitops": 2_000_000}
WINNER, RIVAL = sample()["results"]


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        (
            [WINNER, RIVAL],
            "Within 2M BitOps .* 96.1 % on the test split; .*w2a2, which costs 11 % more,",
        ),
        ([result("bitops-2M", "searched", 1_900_000, 0.9, BUDGET), RIVAL], "is better with 95.5 %"),
        ([WINNER], "no uniform configuration of equal or higher cost"),
        ([result("bitops-2M", "searched", 1_900_000, None, BUDGET)], "not retrained yet"),
        ([], "supernet is trained; spos-quant search"),
    ],
)
def test_verdict_is_honest(results, expected):
    assert re.search(expected, verdict(sample(results=results)))


def test_a_cheaper_rival_does_not_count():
    cheap = result("bits-w1a1", "uniform", 1_000_000, 0.99)
    assert "no uniform configuration" in verdict(sample(results=[sample()["results"][0], cheap]))


def test_empty_run_renders():
    data = sample(evaluations=[], front=[], baselines=[], results=[], history=[], budgets=[])
    text = render(data)
    assert "Nothing is trained yet" in text
    assert "Plotly" not in Page(text).scripts[0]


def test_full_precision_run_renders():
    data = sample(metric="macs", budgets=[{"key": "macs-1M", "metric": "macs", "limit": 10**6, "text": "1M"}])
    data["results"] = [result("macs-1M", "searched", None, 0.9, {"macs": 10**6})]
    page = Page(render(data))
    assert "plot-layers" not in {a.get("id") for _, a in page.found}
    assert "MACs" in verdict(data)


def test_csv_holds_every_evaluation():
    rows = list(csv.DictReader(io.StringIO(evaluations_csv(sample()))))
    assert len(rows) == 20
    assert rows[5] == {
        "architecture": "0,5",
        "generation": "2",
        "cost": "1000005",
        "score": "0.55",
        "loss": "0.3",
        "on_front": "1",
        "searches": "bitops-2M",
    }
