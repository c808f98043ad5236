from __future__ import annotations

import copy
import json
from importlib.resources import files

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import VARIANTS, toy_space

from spos_quant.errors import SpaceError
from spos_quant.space.bit_config import FORMAT, BitConfig, parse_bit_config, read_bit_config

SPACES = {name: toy_space(**changes) for name, changes in VARIANTS.items()}
SCHEMA = json.loads((files("spos_quant.space") / "bit-config.schema.json").read_text("utf-8"))


def test_the_published_schema_is_generated():
    assert {
        key: value for key, value in SCHEMA.items() if not key.startswith("$") or key == "$defs"
    } == BitConfig.model_json_schema()
    assert (SCHEMA["$id"], SCHEMA["title"]) == (FORMAT, "BitConfig")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(SPACES)), st.data())
def test_every_architecture_round_trips_through_json_and_fits_the_schema(name, data):
    space = SPACES[name]
    a = space.canonical([data.draw(st.integers(0, len(axis.candidates) - 1)) for axis in space.axes])
    config = space.bit_config(a, provenance={"seed": 0, "parts": [1, 2]}, cost={"bitops": 5})
    raw = json.loads(json.dumps(config.to_json()))
    jsonschema.validate(raw, SCHEMA)
    again = parse_bit_config(raw, "text")
    assert again == config
    assert space.architecture(again) == a
    assert space.decode(space.encode(a)) == a
    assert space.decode(f"({space.encode(a)})".replace(",", " ")) == a


RAW = SPACES["block"].bit_config((0, 0, 0, 0, 0, 0)).to_json()


def changed(path, value):
    raw = copy.deepcopy(RAW)
    inner = raw
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return raw


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "expected a bit configuration"),
        ([RAW], "expected a bit configuration.*got list"),
        ({}, "format: expected"),
        (changed(["format"], 1), "format: expected"),
        (changed(["layers"], []), "layers"),
        (changed(["layers", "stem"], None), "layers.stem"),
        (changed(["layers", "stem", "weight_bits"], 0), "weight_bits.*greater than or equal to 1"),
        (changed(["layers", "stem", "weight_bits"], 33), "weight_bits.*less than or equal to 32"),
        (changed(["layers", "stem", "weight_bits"], True), "weight_bits.*got bool"),
        (changed(["layers", "stem", "act_bits"], 4.0), "act_bits.*got float"),
        (changed(["layers", "stem", "act_bit"], 4), "unknown key; did you mean 'act_bits'"),
        (changed(["layers", "stem", "out_channels"], 0), "out_channels"),
        (changed(["blocks", "b0", "width"], "1"), "width"),
        (changed(["blocks", "b0", "width"], float("nan")), "width.*finite"),
        (changed(["activation_bits_at"], "layer output"), "activation_bits_at"),
        (changed(["input"], [3, 0, 8]), "input"),
        (changed(["lairs"], {}), "unknown key; did you mean 'layers'"),
    ],
)
def test_wrong_configurations_are_explained_and_break_the_schema(raw, message):
    with pytest.raises(SpaceError, match=message):
        parse_bit_config(raw, "x.bits.json")
    if not ((isinstance(raw, dict) and "width" in message) or message.startswith("act_bits.*")):
        # a JSON Schema cannot refuse NaN or tell 4.0 from 4
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(raw, SCHEMA)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON text"),
        (b"\xff\xfe\x00", r"is no UTF-8 text \(byte 0\); expected a bit configuration"),
        (json.dumps(RAW)[:-1].encode() + b', "model": "x"}', "key 'model' appears twice"),
        (json.dumps(RAW)[:-1].encode() + b', "cost": {"a": NaN}}', "NaN is not a JSON number"),
        (b" " * 1_000_001, "more than 1,000,000 bytes; expected a bit configuration"),
        (b'{"format": ', "is no JSON text"),
        (b"[" * 200_000, "is no JSON text"),
        (b'"w4a4"', "expected a bit configuration.*got str"),
        (
            json.dumps(RAW)[:-1].encode() + b', "cost": {"a": ' + b"[" * 900 + b"]" * 900 + b"}}",
            "nested too deeply|no JSON text",
        ),
    ],
)
def test_files_without_a_bit_configuration_are_explained(content, message, tmp_path):
    path = tmp_path / "x.bits.json"
    path.write_bytes(content)
    with pytest.raises(SpaceError, match=message):
        read_bit_config(path)


def test_files(tmp_path):
    path = tmp_path / "x.bits.json"
    with pytest.raises(SpaceError, match="cannot be read"):
        read_bit_config(path)
    path.write_text(json.dumps(RAW))
    assert read_bit_config(path).to_json() == RAW
    path.write_text(json.dumps(RAW), "utf-8-sig")
    assert read_bit_config(path).to_json() == RAW
    with pytest.raises(SpaceError, match="cannot be read"):
        read_bit_config(tmp_path)


def test_empty_keys_are_left_out():
    full = SPACES["full precision"]
    raw = full.bit_config((0,) * len(full.axes)).to_json()
    assert set(raw) == {"format", "model", "input", "activation_bits_at", "layers", "blocks", "quantizer"}
    assert raw["layers"]["stem"] == {"weight_bits": None, "act_bits": None, "out_channels": 8}
    assert full.bit_config((0,) * len(full.axes)).is_float
    assert not SPACES["block"].bit_config((0,) * 6).is_float
