from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import OPS, VARIANTS, toy_space

from spos_quant.cost.metrics import formula_metrics, metrics, weight_bytes
from spos_quant.cost.rows import architecture_rows, config_rows, summary, total
from spos_quant.cost.table import CostTable
from spos_quant.errors import ConfigError, SpaceError
from spos_quant.space.bit_config import parse_bit_config
from spos_quant.space.resolve import resolve
from spos_quant.space.shapes import LayerShape

SPACES = {name: toy_space(**changes) for name, changes in VARIANTS.items()}
METRICS = list(formula_metrics())
MACS = {"stem": 100, "head": 40, "short": 48}


def toy_macs(name, op, width):
    """The MACs of the toy network by the formulas of toy.py, independent of its network shapes."""
    block, _, part = name.partition(".")
    if not part or part == "short":
        return MACS[part or name]
    scale = int(block[1:]) + 1
    base = {"conv": {"c1": 96, "c2": 120}, "wide": {"c1": 144, "c3": 36}}[op][part]
    return base * scale if part == "c3" else int(base * scale * width)


def by_hand(config, searchable):
    """Every metric, from a bit configuration and the formulas only."""
    found = dict.fromkeys(METRICS, 0)
    for name, bits in config["layers"].items():
        block = config["blocks"].get(name.partition(".")[0], {"op": None, "width": None})
        macs = toy_macs(name, block["op"], block["width"])
        weights = max(1, macs // 4)
        w, a = bits["weight_bits"] or 32, bits["act_bits"] or 32
        found["macs"] += macs
        found["params"] += weights
        found["weight_bytes"] += (weights * w + 7) // 8
        found["bitops_total"] += macs * w * a
        found["bitops" if searchable(name) else "float_macs"] += macs * w * a if searchable(name) else macs
    return found


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(SPACES)), st.data())
def test_table_rows_configuration_and_hand_count_agree(name, data):
    space = SPACES[name]
    a = space.canonical([data.draw(st.integers(0, len(axis.candidates) - 1)) for axis in space.axes])
    config = space.bit_config(a)
    kept = set() if name == "all quantized" else {"stem", "head"}
    expected = by_hand(config.to_json(), lambda layer: layer not in kept and name != "full precision")
    rows, table = architecture_rows(space, a), CostTable(space)
    assert config_rows(space, config) == rows
    assert {m: total(rows, m) for m in METRICS} == expected
    assert {m: table.total(a, m) for m in METRICS} == expected


def test_totals_equal_the_total_of_each():
    table = CostTable(SPACES["two axes"])
    many = SPACES["two axes"].sample_many(np.random.default_rng(0), 40)
    for metric in METRICS:
        one_by_one = [table.total(a, metric) for a in many]
        assert table.totals(many, metric).tolist() == one_by_one
        assert table.totals(np.array(many), metric).tolist() == one_by_one
    assert len(set(table.totals(many).tolist())) > 20
    assert table.totals([]).tolist() == []


def test_a_space_without_axes_costs_what_its_network_costs():
    space = toy_space(axes={"op": ["conv"], "width": [1.0], "bits": [[8, 4]]})
    assert CostTable(space).total(()) == (96 + 120 + 48 + 192 + 240) * 32
    assert CostTable(space).totals([(), ()], "macs").tolist() == [836, 836]


def test_a_searchable_layer_with_float_bits_counts_32():
    space = toy_space(blocks=1, axes={"op": ["conv"], "bits": [["float", 4], [2, "float"], ["float", "float"], [2, 4]]})
    assert [CostTable(space).total((i,)) for i in range(4)] == [216 * 32 * 4, 216 * 2 * 32, 216 * 1024, 216 * 8]
    float_all = config_rows(space, space.uniform_config(None, None))
    assert total(float_all, "bitops") == 216 * 1024
    assert total(float_all, "float_macs") == 140


def test_a_locked_layer_counts_and_one_kept_float_does_not():
    space = toy_space(
        blocks=1, axes={"op": ["conv"], "bits": [[2, 2], [4, 4]]}, overrides={"b0.c2": {"bits": [[8, 8]]}}
    )
    assert CostTable(space).total((0,)) == 96 * 4 + 120 * 64
    rows = {row.name: row.counted for row in architecture_rows(space, (0,))}
    assert rows == {"stem": False, "b0.c1": True, "b0.c2": True, "head": False}
    assert total(config_rows(space, space.uniform_config(3, 3)), "bitops") == 96 * 9 + 120 * 64


def test_multiply_adds_outside_layers_are_float():
    plain = SPACES["block"]
    space = resolve(plain.spec, replace(plain.network_shapes, other_macs=1000))
    a = space.uniform(2, 2)
    extra = {"macs": 1000, "float_macs": 1000, "bitops_total": 1000 * 1024}
    for metric in METRICS:
        assert CostTable(space).total(a, metric) == CostTable(plain).total(a, metric) + extra.get(metric, 0)
        assert 1000 * metrics[metric].mac_outside == extra.get(metric, 0)
        assert total(config_rows(space, space.bit_config(a)), metric, 1000) == CostTable(space).total(a, metric)


@pytest.mark.parametrize(
    ("weights", "bits", "expected"), [(8, 1, 1), (9, 1, 2), (3, 3, 2), (5, 8, 5), (7, None, 28), (0, 4, 0), (1, 1, 1)]
)
def test_weight_bytes_round_up(weights, bits, expected):
    assert weight_bytes(LayerShape(0, weights, 99, 1), bits, 8, True) == expected


def test_biases_count_as_parameters_but_not_as_weight_bytes():
    rows = architecture_rows(SPACES["block"], (0,) * 6)
    more = [replace(row, shape=replace(row.shape, biases=10)) for row in rows]
    assert total(more, "params") == total(rows, "params") + 10 * len(rows)
    assert total(more, "weight_bytes") == total(rows, "weight_bytes")


def test_uniform_bits_in_a_full_precision_space_are_counted():
    space = toy_space(axes={"op": list(OPS)})
    rows = config_rows(space, space.uniform_config(4, 2))
    assert total(rows, "bitops") == (96 + 120 + 48 + 192 + 240) * 8
    assert total(rows, "float_macs") == 140
    bare = toy_space(axes={"op": list(OPS)}, keep_float=[])
    assert config_rows(bare, bare.bit_config((0, 0))) == architecture_rows(bare, (0, 0))
    floats = config_rows(space, space.uniform_config(None, None))
    assert (total(floats, "bitops"), total(floats, "float_macs")) == (0, 836)
    with pytest.raises(SpaceError, match="kept float"):
        space.uniform(4, 2)


def test_the_backbones_own_operator_need_not_be_offered():
    space = toy_space(axes={"op": ["wide", "skip"], "width": [0.5], "bits": [[2, 2], [4, 4]]})
    config = space.uniform_config(3, 3)
    assert config.blocks["b0"].op == "conv"
    assert total(config_rows(space, config), "bitops") == (96 + 120 + 48 + 192 + 240) * 9
    with pytest.raises(SpaceError, match="'conv' is no candidate"):
        space.architecture(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["layers"].pop("b0.c2"), "layer 'b0.c2' is missing"),
        (lambda c: c["layers"].update({"b0.c3": c["layers"]["b0.c2"]}), "layer 'b0.c3' .* not in the network"),
        (lambda c: c["layers"].update({"b0.c9": c["layers"]["b0.c2"]}), "'b0.c9' .*did you mean"),
        (lambda c: c["blocks"].update(b7=c["blocks"]["b0"]), "block 'b7'"),
        (lambda c: c["blocks"]["b0"].update(op="bottleneck"), "operator 'bottleneck' at width 1.0 are not known"),
        (
            lambda c: c["layers"]["b0.c1"].update(out_channels=77),
            "layer 'b0.c1': the bit configuration says 77 output channels, its operator and width give 8",
        ),
        (lambda c: c["blocks"]["b0"].update(width=0.75), "operator 'conv' at width 0.75 are not known"),
    ],
)
def test_configurations_that_cannot_be_costed_are_explained(change, message):
    space = SPACES["block"]
    raw = space.uniform_config(3, 5).to_json()
    assert len(config_rows(space, parse_bit_config(raw, "file"))) == 7
    change(raw)
    with pytest.raises(SpaceError, match=message):
        config_rows(space, parse_bit_config(raw, "file"))


def test_the_summary_lists_every_layer_and_metric():
    space = SPACES["block"]
    a = space.uniform(2, 4)
    made = summary(architecture_rows(space, a), space="toy", architecture=space.encode(a))
    assert made.keys() == {"space", "architecture", "formula", "layers", *METRICS}
    assert made["bitops"] == sum(x["bitops"] for x in made["layers"]) == (836 - 140) * 8
    assert [x["name"] for x in made["layers"]] == ["stem", "b0.c1", "b0.c2", "b1.short", "b1.c1", "b1.c2", "head"]
    assert made["layers"][0] == {
        "name": "stem",
        "kind": "Conv2d",
        "macs": 100,
        "weight_bits": None,
        "act_bits": None,
        "bitops": 0,
        "counted": False,
    }
    assert made["layers"][-1]["kind"] == "Linear"


def test_unknown_metrics_are_explained():
    with pytest.raises(ConfigError, match="unknown cost metric 'mac'; did you mean 'macs'"):
        total([], "mac")
