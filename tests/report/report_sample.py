"""Synthetic data of a run in the format of `report.json`, seeded."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

OPS = ("conv3x3", "conv5x5", "bottleneck", "sepconv3x3", "skip")
WIDTHS = (0.5, 1.0, 1.5)
BITS = ((1, 2), (2, 2), (2, 4), (3, 3), (4, 2), (4, 4), (8, 8))
BLOCKS = {"layer1.0": 147_456, "layer1.1": 147_456, "layer2.0": 110_592, "layer2.1": 147_456}
OP_COST = {"conv3x3": 1.0, "conv5x5": 2.6, "bottleneck": 0.35, "sepconv3x3": 0.2, "skip": 0.0}
OP_GAIN = {"conv3x3": 1.0, "conv5x5": 1.06, "bottleneck": 0.8, "sepconv3x3": 0.7, "skip": 0.25}
LIMIT = 2_500_000
Genes = np.ndarray


def run(*, population: int = 30, generations: int = 12) -> dict[str, Any]:
    """A finished run: `population * generations` evaluations, a winner, uniform baselines, the float model."""
    rng = np.random.default_rng(0)
    evaluations = [*_baseline_evaluations(rng), *_search(rng, population, generations)]
    front = _front(evaluations)
    best = max((e for e in evaluations if e["searches"]), key=lambda e: e["score"])
    return {
        "format": "spos-quant/report/1",
        "space": {
            "name": "digits-mixed",
            "backbone": "digits-resnet",
            "size": 55_885_375,
            "input": [1, 8, 8],
            "classes": 10,
        },
        "metric": "bitops",
        "budgets": [{"key": "bitops-2.5M", "metric": "bitops", "limit": LIMIT, "text": "2.5M"}],
        "evaluated": len(evaluations),
        "evaluations": evaluations,
        "front": front,
        "baselines": [
            {
                "name": "w{}a{}".format(*BITS[int(e["architecture"].split(",")[2])]),
                "cost": e["cost"],
                "score": e["score"],
            }
            for e in evaluations
            if not e["searches"]
        ],
        "results": [
            result("bitops-2.5M", "searched", best["architecture"], 0.961, supernet=best["score"]),
            result("bits-w3a3", "uniform", "0,1,3,0,1,3,0,1,3,0,1,3", 0.955),
            result("bits-w4a4", "uniform", "0,1,5,0,1,5,0,1,5,0,1,5", 0.972),
            result("bits-float", "float", None, 0.986),
        ],
        "history": curve(50, 0.84, rng),
        "config": _config(population, generations),
        "environment": {"python": "3.11.7", "cpus": 2, "packages": {"torch": "2.11.0", "brevitas": "0.13.0"}},
        "commands": [
            {"what": "Retrain a uniform baseline", "command": "spos-quant retrain runs/digits-mixed --bits w4a4"},
            {"what": "Make this page again", "command": "spos-quant report runs/digits-mixed"},
        ],
    }


def compared(*, seeds: int = 2) -> dict[str, Any]:
    """A run with a ranking and a bench."""
    data, rng = run(population=6, generations=2), np.random.default_rng(2)
    picked = [e for e in data["evaluations"] if e["searches"]][:8]
    rows = []
    for i, e in enumerate(picked):
        scores = [float(np.clip(e["score"] + 0.1 + 0.02 * rng.standard_normal(), 0, 1)) for _ in range(seeds)]
        rows.append(
            {
                "architecture": e["architecture"],
                "stratum": i % 5,
                "cost": e["cost"],
                "supernet_top1": e["score"],
                "supernet_loss": e["loss"],
                "alone_top1": float(np.mean(scores)),
                "alone": [{"seed": s, "top1": score, "loss": 0.3, "n": 287} for s, score in enumerate(scores)],
            }
        )
    figures = {"kendall": 0.71, "interval": [0.4, 0.9], "spearman": 0.83, "within_strata": None, "residual": 0.5}
    ranked_by = figures | {"residual_interval": [0.1, 0.8], "regret": {"1": 0.02, "3": 0.0}, "kendall_of_one": 0.66}
    ranking = {
        "metric": "bitops",
        "band": [16_384, 6_600_000],
        "seeds": list(range(seeds)),
        "judges": {"top1": ranked_by, "loss": ranked_by},
        "by_cost": {"kendall": 0.6, "interval": [0.2, 0.9], "spearman": 0.7, "within_strata": None, "regret": {}},
        "ceiling": {"kendall": 0.9, "spearman": 0.95, "within_strata": None, "residual": 0.8} if seeds > 1 else None,
        "rows": rows,
    }
    return {**data, "ranking": ranking, "bench": _bench(seeds)}


def _bench(seeds: int) -> dict[str, Any]:
    found = []
    for bits, key, bitops, top1 in (
        ("w2a2", "bits-w2a2", 2_400_000, 0.95),
        ("best", "bitops-2.5M", 2_390_000, 0.96),
        ("float", "bits-float", None, 0.98),
    ):
        searched = bits == "best"
        found.append(
            {
                "bits": bits,
                "key": key,
                "budget": {"bitops": LIMIT} if searched else None,
                "bitops": bitops,
                "macs": 600_000,
                "params": 25_000,
                "weight_bytes": 6_250,
                "file_bytes": None if bits == "best" else 60_000,
                "format": "onnx-qcdq",
                "top1_mean": top1,
                "top1_std": 0.004 if seeds > 1 else None,
                "search_val_top1_mean": top1,
                "search_val_top1_std": 0.003 if seeds > 1 else None,
                "supernet_top1": 0.9 if searched else None,
                "seeds": seeds,
                "runs": [],
                "latency_ms": None if bits == "best" else 0.3125,
            }
        )
    latency = {"runtime": "onnxruntime, CPU", "images": 1, "threads": 1, "rounds": 50}
    return {"seeds": list(range(seeds)), "latency": latency, "rows": found}


def trained_only() -> dict[str, Any]:
    """A run with a trained supernet and nothing else; optional values are null, lists are empty."""
    data = run(population=1, generations=1)
    empty = ("budgets", "evaluations", "front", "baselines", "results")
    return {**data, **{key: [] for key in empty}, "evaluated": 0, "config": {}, "environment": {}}


def full_precision() -> dict[str, Any]:
    """A run in a full-precision space: no BitOps anywhere, the metric is MACs."""
    data = run()
    data["metric"] = "macs"
    data["budgets"] = [{"key": "macs-400K", "metric": "macs", "limit": 400_000, "text": "400K"}]
    for item in data["evaluations"]:
        item["describe"] = {k: v for k, v in item["describe"].items() if not k.endswith(".bits")}
        item["cost"] = item["cost"] // 9
    data["baselines"] = []
    data["results"] = [r for r in data["results"] if r["kind"] != "uniform"]
    for item in data["results"]:
        item["cost"] |= {"bitops": None}
        item["layers"] = [{**x, "weight_bits": None, "act_bits": None, "bitops": 0} for x in item["layers"]]
    data["results"][0] |= {"key": "macs-400K", "budget": {"macs": 400_000}}
    data["results"][0]["cost"]["macs"] = 380_000
    return data


def with_results(*results: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A small run with the given results."""
    return {**copy.deepcopy(run(population=4, generations=2)), "results": list(results), **changes}


def result(
    key: str,
    kind: str,
    architecture: str | None,
    top1: float | None,
    *,
    bitops: int | None = None,
    supernet: float | None = None,
    n: int = 360,
) -> dict[str, Any]:
    """A result; without `top1` it is not retrained yet."""
    genes = _decode(architecture or "0,1,6,0,1,6,0,1,6,0,1,6")
    layers = _layers(genes, is_float=architecture is None)
    total = sum(layer["bitops"] for layer in layers)
    macs = sum(layer["macs"] for layer in layers)
    weights = sum(layer["macs"] // 24 * (layer["weight_bits"] or 32) // 8 for layer in layers)
    done = top1 is not None
    scored = {"top1": top1, "loss": 0.2, "n": n}
    cost = {
        "bitops": total if bitops is None else bitops,
        "bitops_total": total + 9536 * 1024,
        "macs": macs,
        "float_macs": 9536,
        "params": macs // 24,
        "weight_bytes": weights,
    }
    form = "onnx" if kind == "float" else "onnx-qcdq"
    file = {"path": f"{key}/model.onnx", "format": form, "bytes": 3 * weights + 40_000, "max_abs_diff": 2e-6}
    return {
        "key": key,
        "kind": kind,
        "budget": {"bitops": LIMIT} if kind == "searched" else None,
        "cost": cost,
        "layers": layers,
        "blocks": {name: {"op": OPS[o], "width": WIDTHS[w]} for name, (o, w, _) in zip(BLOCKS, genes, strict=True)},
        "supernet_top1": supernet,
        "planned": 360 if kind == "searched" else None,
        "asked": 360 if kind == "searched" else None,
        "search_val": {**scored, "n": 287} if done else None,
        "test": scored if done else None,
        "history": curve(30, top1 + 0.01, np.random.default_rng(1)) if done else [],
        "export": [{**file, "agreement": 1.0}] if done else [],
    }


def curve(epochs: int, top: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A learning curve that ends near `top`."""
    progress = 1 - np.exp(-np.arange(1, epochs + 1) / epochs * 4)
    top1 = np.clip(0.1 + (top - 0.1) * progress + rng.normal(0, 0.008, epochs), 0, 1)
    return [
        {"epoch": i + 1, "loss": float(2.4 - 2.2 * t), "top1": float(t), "lr": 0.1 * (1 - i / epochs)}
        for i, t in enumerate(top1)
    ]


def _config(population: int, generations: int) -> dict[str, Any]:
    return {
        "name": "digits-mixed",
        "backbone": "digits-resnet",
        "weights": None,
        "axes": {"op": list(OPS), "width": list(WIDTHS), "bits": [list(pair) for pair in BITS]},
        "keep_float": ["first", "last"],
        "overrides": {},
        "train": {"epochs": 50, "batch_size": 64, "lr": 0.1, "optimizer": {"momentum": 0.9, "nesterov": True}},
        "search": {"population": population, "generations": generations},
        "data": "digits",
        "seed": 0,
    }


def _search(rng: np.random.Generator, population: int, generations: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    while len(found) < population * generations:
        parents = sorted(found, key=lambda e: -e["score"])[:10]
        genes = [(int(rng.integers(5)), int(rng.integers(3)), int(rng.integers(7))) for _ in BLOCKS]
        if parents:
            parent = _decode(parents[int(rng.integers(len(parents)))]["architecture"])
            keep = rng.random(len(BLOCKS)) < min(0.75, 0.15 * (len(found) // population))
            genes = [old if k else new for old, new, k in zip(parent, genes, keep, strict=True)]
        item = _evaluation(genes, rng, len(found) // population)
        if item["cost"] <= LIMIT and item["architecture"] not in seen:
            seen.add(item["architecture"])
            found.append(item)
    return found


def _baseline_evaluations(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [_evaluation([(0, 1, bits)] * len(BLOCKS), rng, None) for bits in range(len(BITS))]


def _evaluation(genes: list[tuple[int, int, int]], rng: np.random.Generator, generation: int | None) -> dict[str, Any]:
    cost = sum(layer["bitops"] for layer in _layers(genes))
    gains = [OP_GAIN[OPS[o]] * WIDTHS[w] ** 0.25 * (1 - 0.5 / sum(BITS[b])) for o, w, b in genes]
    score = float(np.clip(0.35 + 0.62 * np.mean(gains) ** 0.7 + rng.normal(0, 0.02), 0.1, 0.97))
    describe: dict[str, Any] = {}
    for name, (o, w, b) in zip(BLOCKS, genes, strict=True):
        describe |= {f"{name}.op": OPS[o], f"{name}.width": WIDTHS[w], f"{name}.bits": list(BITS[b])}
    return {
        "architecture": ",".join(str(i) for triple in genes for i in triple),
        "describe": describe,
        "generation": generation,
        "cost": cost,
        "score": score,
        "loss": 1.6 * (1 - score) + 0.05,
        "searches": [] if generation is None else ["bitops-2.5M"],
    }


def _layers(genes: list[tuple[int, int, int]], *, is_float: bool = False) -> list[dict[str, Any]]:
    def layer(name: str, kind: str, macs: int, bits: tuple[int | None, int | None], counted: bool) -> dict[str, Any]:
        weight, act = bits
        bitops = macs * (weight or 32) * (act or 32) if counted else 0
        return {
            "name": name,
            "kind": kind,
            "macs": macs,
            "weight_bits": weight,
            "act_bits": act,
            "bitops": bitops,
            "counted": counted,
        }

    layers = [layer("conv1", "Conv2d", 9_216, (None, None), False)]
    for (name, macs), (o, w, b) in zip(BLOCKS.items(), genes, strict=True):
        each = int(macs * OP_COST[OPS[o]] * WIDTHS[w] / 2)
        bits = (None, None) if is_float else BITS[b]
        layers += [layer(f"{name}.conv{i}", "Conv2d", each, bits, True) for i in (1, 2) if each]
    return [*layers, layer("fc", "Linear", 320, (None, None), False)]


def _decode(architecture: str) -> list[tuple[int, int, int]]:
    flat = [int(i) for i in architecture.split(",")]
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]


def _front(evaluations: list[dict[str, Any]]) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(evaluations)), key=lambda i: (evaluations[i]["cost"], -evaluations[i]["score"])):
        if not kept or evaluations[i]["score"] > evaluations[kept[-1]]["score"]:
            kept.append(i)
    return kept
