from __future__ import annotations

import pytest
from toy import toy_space

from spos_quant.backbones.build import load_spec
from spos_quant.config import assign
from spos_quant.errors import ConfigError, SpaceError
from spos_quant.reading import parse_yaml
from spos_quant.stages.open_run import SECTIONS

HEAD = "name: x\nbackbone: digits-resnet\ninput: [1, 8, 8]\nclasses: 10\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axess: {}", "unknown key; did you mean 'axes'"),
        ("axes: {bit: [[2, 2]]}", "unknown key; did you mean 'bits'"),
        ("axes: {bits: [[0, 2]]}", r"bits.0.0: expected a bit-width of 1 to 8.*got int 0"),
        ("axes: {bits: [[2, 9]]}", "got int 9"),
        ("axes: {bits: [['4', 2]]}", "got str '4'"),
        ("axes: {bits: [[true, 2]]}", "got bool True"),
        ("axes: {bits: []}", "at least one candidate"),
        ("axes: {bits: [[2, 2], [2, 2]]}", "appears twice"),
        ("axes: {width: [0]}", "expected a width factor"),
        ("axes: {bits: [[2, 2]], weight_bits: [2], act_bits: [2]}", "not both"),
        ("axes: {weight_bits: [2]}", "go together"),
        ("bits_per: net", "bits_per: expected block or layer, got str 'net'"),
        ("train: {epochs: 0}", "greater than or equal to 1"),
        ("train: {epochs: many}", "valid integer, got str 'many'"),
        ("data: os.path:join", "may not name code"),
        ("name: ../up", "name: expected a word of at most 64 letters.*got str '../up'"),
        ("residual_bits: 8", "residual_bits"),
        ("input: [1, 8]", "input"),
        ("classes: 1", "greater than or equal to 2"),
        ("classes: 9223372036854775808", "classes: input should be less than or equal to 1000000"),
        ("axes: {width: [" + ", ".join(str(i / 200) for i in range(1, 200)) + "]}", "at most 100 candidates, got 199"),
    ],
)
def test_wrong_spaces_are_explained(text, message, tmp_path):
    key = text.partition(":")[0]
    head = "".join(line + "\n" for line in HEAD.splitlines() if not line.startswith(key))
    path = tmp_path / "x.yaml"
    path.write_text(head + text)
    with pytest.raises((SpaceError, ConfigError), match=message):
        load_spec(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x00\xff\xfe\x80", "is no UTF-8 text"),
        (b"- a\n- b", "expected a mapping.*got list"),
        (b"just words", "expected a mapping.*got str"),
        (b"a: [1, 2", "is no valid YAML"),
        (b"a: 1\na: 2", "appears twice"),
        (b"? [a, b]\n: 1", "is no valid YAML"),
        (b"a: " + b"[" * 5000, "is no valid YAML"),
    ],
)
def test_files_that_are_no_mapping(content, message, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_spec(path)


def test_objects_are_never_constructed(tmp_path):
    mark = tmp_path / "ran"
    text = f'a: !!python/object/apply:os.system ["touch {mark}"]'
    with pytest.raises(ConfigError, match="nothing was run"):
        parse_yaml(text, "x.yaml")
    assert not mark.exists()


def test_aliases_do_not_explode():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(ConfigError, match="more than 20,000 values"):
        parse_yaml("\n".join(lines), "x.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"overrides": {"b9.*": {"bits": [[2, 2]]}}}, "overrides: 'b9.\\*' matches no choice block or layer"),
        ({"overrides": {"b0.c1": {"op": ["conv"]}}}, "operators and widths belong to choice blocks"),
        ({"keep_float": ["stm"]}, "keep_float: 'stm' matches no.*did you mean 'stem'"),
        ({"groups": [["b0.c1", "nix"]]}, "groups: 'nix' matches no"),
        ({"overrides": {"b1.short": {"bits": [[8, 8]]}}}, "read the same tensor.*override both alike"),
        (
            {"bits_per": "layer", "groups": [["b0.c1", "b0.c2"]], "overrides": {"b0.c2": {"bits": [[8, 8]]}}},
            "are in one group",
        ),
        ({"axes": {}, "overrides": {"b0": {"bits": [[2, 2]]}}}, "is given no bits"),
    ],
)
def test_wrong_patterns_are_explained(changes, message):
    with pytest.raises(SpaceError, match=message):
        toy_space(**changes)


def test_the_last_matching_override_wins():
    space = toy_space(overrides={"b*": {"bits": [[8, 8], [4, 4]]}, "b0": {"bits": [[3, 3], [1, 1]]}})
    bits = {axis.name: axis.candidates for axis in space.axes if axis.kind == "bits"}
    assert bits == {"b0.bits": ((3, 3), (1, 1)), "b1.bits": ((8, 8), (4, 4))}


def test_keep_float_takes_words_blocks_and_globs():
    kept = {x.name for x in toy_space(keep_float=["last", "b1"]).layers if not x.quantized}
    assert kept == {"head", "b1.short", "b1.c1", "b1.c2", "b1.c3"}


def test_assignments_go_to_their_section():
    tree: dict = {}
    for text in ("train.epochs=5", "train.lr=1e-3", "search.max_images=null", "train.lr=1"):
        assign(tree, text, SECTIONS)
    assert tree == {"train": {"epochs": 5, "lr": 1.0}, "search": {"max_images": None}}
    assert isinstance(tree["train"]["lr"], float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.epochs", "expected SECTION.KEY=VALUE"),
        ("epochs=3", "expected SECTION.KEY=VALUE"),
        ("trian.epochs=3", "unknown section 'trian'; did you mean 'train'"),
        ("train.epoch=3", "unknown key; did you mean 'epochs'"),
        ("train.epochs=[", "is no YAML value"),
    ],
)
def test_wrong_assignments_are_explained(text, message):
    with pytest.raises(ConfigError, match=message):
        assign({}, text, SECTIONS)
