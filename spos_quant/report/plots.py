"""The figures of the report, as plain Plotly descriptions; the page's script draws and themes them."""

from __future__ import annotations

from collections.abc import Mapping
from math import log10
from typing import Any

from spos_quant.cost.budget import human
from spos_quant.report.text import UNITS, accuracy

# Okabe and Ito's colours, told apart with every common colour blindness.
BLUE, ORANGE, GREEN, RED, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7"
Figure = dict[str, Any]


def plane(data: Mapping[str, Any]) -> Figure:
    """Accuracy against cost of everything evaluated, with front, baselines, retrained models and budgets."""
    evaluations = data["evaluations"]
    unit = UNITS.get(data["metric"], data["metric"])
    traces: list[dict[str, Any]] = []
    asked = [e for e in evaluations if e["generation"] is not None]
    if asked:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "evaluated in the supernet",
                "x": [e["cost"] for e in asked],
                "y": [100 * e["score"] for e in asked],
                "text": [_described(e) for e in asked],
                "hovertemplate": "%{y:.2f} % at %{x:.4s}<br>%{text}<extra></extra>",
                "marker": {
                    "size": 7,
                    "opacity": 0.8,
                    "color": [e["generation"] for e in asked],
                    "colorscale": "Viridis",
                    "colorbar": {"title": {"text": "generation"}, "thickness": 12},
                },
            }
        )
    front = [evaluations[i] for i in data["front"]]
    if front:
        traces.append(_points("front", front, "lines", BLUE) | {"line": {"color": BLUE, "shape": "hv", "width": 2}})
    if data["baselines"]:
        named = {"mode": "markers+text", "text": [b["name"] for b in data["baselines"]], "textposition": "top center"}
        traces.append(_points("uniform, in the supernet", data["baselines"], "markers", ORANGE, "square") | named)
    traces += _retrained(data)
    budgets = [b for b in data["budgets"] if b["metric"] == data["metric"]]
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": unit}, "type": "log" if _wide(evaluations) else "linear"},
        "yaxis": {"title": {"text": "top-1, %"}},
        "height": 560,
        "shapes": [
            {
                "type": "line",
                "x0": b["limit"],
                "x1": b["limit"],
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"dash": "dash", "color": RED},
            }
            for b in budgets
        ],
        "annotations": [
            {
                "x": b["limit"],
                "y": 1.0,
                "yref": "paper",
                "text": f"budget {human(b['limit'])}",
                "textangle": -90,
                "xanchor": "right",
                "yanchor": "top",
                "showarrow": False,
            }
            for b in budgets
        ],
    }
    if layout["xaxis"]["type"] == "log":
        for note in layout["annotations"]:
            note["x"] = log10(note["x"])  # Plotly places annotations on a log axis by exponent
    return {"data": traces, "layout": layout}


def _wide(evaluations: list[Any]) -> bool:
    costs = [e["cost"] for e in evaluations if e["cost"] > 0]
    return bool(costs) and max(costs) > 20 * min(costs)


def _described(evaluation: Mapping[str, Any]) -> str:
    parts = []
    for name, value in evaluation["describe"].items():
        shown = "w{}a{}".format(*value) if isinstance(value, (list, tuple)) else value
        parts.append(f"{name}: {shown}")
    # Plotly shows markup in hover texts.
    return "<br>".join(part.replace("&", "&amp;").replace("<", "&lt;") for part in parts)


def _points(name: str, items: list[Any], mode: str, colour: str, symbol: str = "circle") -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [item["cost"] for item in items],
        "y": [100 * item["score"] for item in items],
        "hovertemplate": "%{y:.2f} % at %{x:.4s}<extra>" + name + "</extra>",
        "marker": {"color": colour, "symbol": symbol, "size": 9},
    }


def _retrained(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    symbols = {"searched": ("star", GREEN), "uniform": ("diamond", ORANGE), "given": ("diamond", PURPLE)}
    traces = []
    for result in data["results"]:
        found, cost = accuracy(result), result["cost"].get(data["metric"])
        if found is None or not cost or result["kind"] not in symbols:
            continue
        symbol, colour = symbols[result["kind"]]
        label = f"{result['key']} retrained, {found[0]}"
        point = {"cost": cost, "score": found[1]}
        traces.append(
            _points(label, [point], "markers", colour, symbol)
            | {"marker": {"color": colour, "symbol": symbol, "size": 15}}
        )
    return traces


def layers(result: Mapping[str, Any]) -> Figure:
    """Bits of every layer of a result beside its share of the BitOps, in order of execution from the top."""
    counted = [layer for layer in result["layers"] if layer["counted"]]
    names = [layer["name"] for layer in counted]
    total = sum(layer["bitops"] for layer in counted) or 1

    def bars(label: str, key: str, colour: str) -> dict[str, Any]:
        return {
            "type": "bar",
            "orientation": "h",
            "name": label,
            "y": names,
            "x": [layer[key] or 32 for layer in counted],
            "text": [str(layer[key] or "float") for layer in counted],
            "textangle": 0,
            "marker": {"color": colour},
            "hovertemplate": "%{y}: %{text}<extra>" + label + "</extra>",
        }

    share = {
        "type": "bar",
        "orientation": "h",
        "name": "share of BitOps, %",
        "y": names,
        "x": [100 * layer["bitops"] / total for layer in counted],
        "xaxis": "x2",
        "marker": {"color": GREEN},
        "hovertemplate": "%{y}: %{x:.1f} %<extra></extra>",
    }
    layout = {
        "height": 180 + 34 * len(names),
        "barmode": "group",
        "xaxis": {"domain": [0, 0.62], "title": {"text": "bits"}, "dtick": 1},
        "xaxis2": {"domain": [0.68, 1], "title": {"text": "share of BitOps, %"}},
        "yaxis": {"autorange": "reversed", "automargin": True},
    }
    return {
        "data": [bars("weight bits", "weight_bits", BLUE), bars("activation bits", "act_bits", ORANGE), share],
        "layout": layout,
    }


def curves(data: Mapping[str, Any]) -> Figure:
    """Loss and accuracy per epoch of the supernet and of every retrained model."""
    traces = []
    series = [("supernet", data["history"]), *((r["key"], r["history"]) for r in data["results"])]
    colours = (BLUE, ORANGE, GREEN, RED, PURPLE)
    for i, (name, records) in enumerate(series):
        if not records:
            continue
        common = {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "legendgroup": name,
            "x": [r["epoch"] for r in records],
            "line": {"color": colours[i % len(colours)]},
        }
        traces.append({**common, "y": [r["loss"] for r in records]})
        traces.append(
            {**common, "y": [100 * r["top1"] for r in records], "xaxis": "x2", "yaxis": "y2", "showlegend": False}
        )
    layout = {
        "xaxis": {"domain": [0, 0.45], "title": {"text": "epoch"}},
        "yaxis": {"title": {"text": "training loss"}},
        "xaxis2": {"domain": [0.55, 1], "title": {"text": "epoch"}, "anchor": "y2"},
        "yaxis2": {"title": {"text": "training top-1, %"}, "anchor": "x2"},
    }
    return {"data": traces, "layout": layout}
