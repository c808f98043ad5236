from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from spos_quant.config import RetrainConfig, SearchConfig, Strict, SupernetTrainConfig, TrainConfig, assign, validate
from spos_quant.errors import ConfigError, SposQuantError
from spos_quant.reading import MAX_BYTES, describe, parse_yaml, read_yaml

SECTIONS = {"train": SupernetTrainConfig, "retrain": RetrainConfig, "search": SearchConfig, "log": None}


class Inner(Strict):
    """Something inside."""

    depth: int = Field(default=1, ge=1)
    """A number."""


class Outer(Strict):
    """Something with everything."""

    name: str = "x"
    """A word."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Pairs."""
    inner: Inner = Inner()
    """A model."""
    named: dict[str, Inner] = Field(default_factory=dict)
    """Models by name."""
    rate: float = 0.5
    """A number."""
    anything: Any = None
    """Anything."""


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (None, "where: expected a mapping of keys to values, got NoneType None"),
        ([1], r"expected a mapping of keys to values, got list \[1\]"),
        ({"nam": "x"}, "where.nam: unknown key; did you mean 'name'"),
        ({"zzz": "x"}, r"where.zzz: unknown key; \(known: anything, inner, name"),
        ({"inner": {"depht": 1}}, r"where.inner.depht: unknown key; did you mean 'depth'\? \(known: depth\)"),
        ({"named": {"a.*": {"depht": 1}}}, r"where.named.a.\*.depht: unknown key; did you mean 'depth'"),
        ({"inner": {"depth": 0}}, "where.inner.depth: input should be greater than or equal to 1, got int 0"),
        ({"inner": {"depth": True}}, "got bool True"),
        ({"inner": {"depth": 1.0}}, "got float 1.0"),
        ({"inner": {"depth": "1"}}, "got str '1'"),
        ({"name": 3}, "where.name: input should be a valid string, got int 3"),
        ({"pairs": "first"}, "where.pairs: input should be a list, got str 'first'"),
        ({"pairs": [[1, 2, 3]]}, "where.pairs.0"),
        ({"pairs": [[1]]}, "where.pairs.0"),
        ({"named": [1]}, "where.named: input should be a valid mapping"),
        ({"rate": float("inf")}, "where.rate: input should be a finite number"),
        ({"rate": float("nan")}, "finite"),
        ({"rate": "1e-3x"}, "where.rate.*got str"),
        ({1: 2}, "where"),
        ({"name": "x" * 500, "rate": "y" * 500}, r"got str 'y+\.\.\."),
        ({"k" * 500: 1}, r"^where.'k{56}\.\.\.: unknown key"),
        ({"named": {"a\nb\x1b[31m": 3}}, r"^where.named.'a\\nb\\x1b\[31m': input should be"),
        ({"must": 1}, "where.must: unknown key"),
    ],
)
def test_errors_name_the_key_of_a_wrong_value(raw, message):
    with pytest.raises(ConfigError, match=message):
        validate(Outer, raw, "where")


def test_valid_values_are_read_and_frozen():
    made = validate(Outer, {"pairs": [[1, 2], [3, 4]], "named": {"a": {"depth": 3}}, "rate": 1}, "where")
    assert made == Outer(pairs=((1, 2), (3, 4)), named={"a": Inner(depth=3)}, rate=1.0)
    with pytest.raises(ValueError, match="frozen"):
        made.name = "y"


def test_values_that_contain_themselves_are_explained():
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ConfigError, match="nested too deeply; expected at most 40 levels"):
        validate(Outer, {"anything": endless}, "where")


def test_messages_show_short_values_whole():
    assert describe([1]) == "list [1]"
    assert describe("a" * 100) == "str '" + "a" * 56 + "..."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml: is empty"),
        ("# only a comment\n", "is empty"),
        ("---\n", "is empty"),
        ("null", "is empty"),
        ("3", "expected a mapping of keys to values, got int 3"),
        ("- a", "got list"),
        ("a: 1\n---\nb: 2", "is no valid YAML"),
        ("a: [1", "is no valid YAML"),
        ("a: *b", "is no valid YAML.*undefined alias"),
        ("a: 1\n a: 2", "is no valid YAML"),
        ("\ta: 1", "is no valid YAML"),
        ("a: 1\nb: 2\na: 3", "key 'a' appears twice"),
        ("a: {b: 1, 'b': 2}", "key 'b' appears twice"),
        ("- {b: 1, b: 2}", "key 'b' appears twice"),
        ("{1: a, 0x1: b}", "key 1 appears twice"),
        ("{[a, b]: 1}", "a key must be a word or a number"),
        ("{{a: b}: 1}", "a key must be a word or a number"),
        ("? &a [x]\n: 1", "a key must be a word or a number"),
        ("a: &x [*x]", "an alias inside the value that it refers to"),
        ("a: &x {b: *x}", "an alias inside the value that it refers to"),
        ("a: 2026-99-99", "is no valid YAML"),
        ("a: " + "9" * 5000, "a number of 5,000 characters"),
        ("a: 0x" + "f" * 5000, "a number of 5,002 characters"),
        ("a: 1" + ":59" * 5000 + ".5", "a number of 15,003 characters"),
        ("a: " + "[" * 5000 + "]" * 5000, "values nested more than 40 deep"),
        ("a: " + "{b: " * 5000 + "1" + "}" * 5000, "values nested more than 40 deep"),
        ("? " * 5000, "values nested more than 40 deep"),
        ("[" * 900_000, "values nested more than 40 deep"),
        ("a: [" + "1," * 400_000 + "1]", "more than 20,000 values"),
        ('a: !!int ""', "is no valid YAML: IndexError"),
        ('a: "b\\0"', r"a character that is not text \(NUL"),
        ('a: "\\ud800"', "a character that is not text"),
        ("a: !!bool maybe", "is no valid YAML: KeyError"),
        ("a: !!timestamp soon", "is no valid YAML: AttributeError"),
        ("a: !!python/name:os.system ''", "only plain YAML is read, nothing was run"),
        ("a: !!python/object/new:os.system [touch x]", "nothing was run"),
        ("!!python/object/apply:os.system [touch x]: 1", "nothing was run|must be a word"),
        ("? !!python/object/apply:os.system ['touch x']\n: 1", "nothing was run|must be a word"),
        ("? !!python/name:os.system ''\n: 1", "nothing was run"),
        ("a: !include /etc/passwd", "asks for an object"),
    ],
)
def test_texts_that_are_not_a_mapping_are_explained(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, "x.yaml")
    assert not list(tmp_path.iterdir())


def laughs(link):
    lines = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {link(i)}" for i in range(1, 30)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "link",
    [
        lambda i: "[" + ", ".join([f"*a{i - 1}"] * 9) + "]",
        lambda i: f"{{p: *a{i - 1}, q: *a{i - 1}}}",
    ],
)
def test_aliases_that_multiply_are_refused_at_once(link):
    with pytest.raises(ConfigError, match="more than 20,000 values"):
        parse_yaml(laughs(link), "x.yaml")
    with pytest.raises(ConfigError, match="is no YAML value"):
        assign({}, "train.epochs={" + laughs(link).replace("\n", ", ") + "}", SECTIONS)


def test_aliases_are_read_and_merge_keys_refused():
    text = "base: &b {p: 1, q: 2}\nsame: *b\nlist: [&n 5, *n]"
    assert parse_yaml(text, "x") == {"base": {"p": 1, "q": 2}, "same": {"p": 1, "q": 2}, "list": [5, 5]}
    with pytest.raises(ConfigError, match=r"merge keys .* are not read"):
        parse_yaml("base: &b {p: 1}\nmore: {<<: *b, q: 2}", "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-2E+4", -2e4),
        ("4.0e-5", 4e-5),
        ("1e", "1e"),
        ("1e3x", "1e3x"),
        ("12", 12),
        ("0.5", 0.5),
        ("on", True),
    ],
)
def test_numbers_without_a_dot_are_read(text, value):
    read = parse_yaml(f"a: {text}", "x")["a"]
    assert (read, type(read)) == (value, type(value))


def test_files(tmp_path):
    path = tmp_path / "x.yaml"
    with pytest.raises(ConfigError, match=r"x.yaml: cannot be read \(No such file"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
    path.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match=r"is no UTF-8 text \(byte 3\)"):
        read_yaml(path)
    path.write_bytes(b"a: \x00")
    with pytest.raises(ConfigError, match="is no valid YAML"):
        read_yaml(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="x.yaml: more than 1,000,000 bytes; expected a YAML file, which is smaller"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="more than 1,000,000 bytes"):
        read_yaml(Path("/dev/zero"))
    with pytest.raises(ConfigError, match=r"'a\\x00b': cannot be read"):
        read_yaml(Path("a\0b"))
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text("größe: 1", encoding)
        assert read_yaml(path) == {"größe": 1}


def test_assignments():
    tree: dict[str, Any] = {"train": {"epochs": 3, "momentum": 0.5}}
    for text in (
        "train.epochs=5",
        "train.lr=1e-3",
        "train.clip_grad=2",
        "retrain.init=fresh",
        "search.max_images=",
        "train.precision = bf16-mixed",
    ):
        assign(tree, text.replace(" = ", "="), SECTIONS)
    assert tree == {
        "train": {"epochs": 5, "momentum": 0.5, "lr": 1e-3, "clip_grad": 2.0, "precision": "bf16-mixed"},
        "retrain": {"init": "fresh"},
        "search": {"max_images": None},
    }
    for section in ("train", "retrain", "search"):
        validate(SECTIONS[section], tree[section], section)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected SECTION.KEY=VALUE, such as --set train.epochs=5"),
        ("train.epochs", "expected SECTION.KEY=VALUE"),
        ("=5", "expected SECTION.KEY=VALUE"),
        ("log.csv=1", "expected log=VALUE"),
        ("lgo=csv", "expected SECTION.KEY=VALUE, .*; did you mean 'log'"),
        ("train=5", "expected train.KEY=VALUE"),
        (".=5", "unknown section ''"),
        ("trian.epochs=5", r"--set trian.epochs: unknown section 'trian'; did you mean 'train'"),
        ("train.epoch=5", r"--set train.epoch: unknown key; did you mean 'epochs'"),
        ("train.init=fresh", "unknown key"),  # a key of retrain
        ("train.model_fields=1", "unknown key"),
        ("train.epochs.x=5", "unknown key"),
        ("train.epochs=[", r"'\[' is no YAML value"),
        ("train.epochs=!!python/object/apply:os.system [ls]", "is no YAML value"),
        ("train.epochs=" + "{a: " * 3000, "is no YAML value"),
        ("train.lr=1" + "0" * 400, "is no YAML value"),
    ],
)
def test_wrong_assignments(text, message):
    tree: dict[str, Any] = {}
    with pytest.raises(ConfigError, match=message):
        assign(tree, text, SECTIONS)
    assert tree == {}


@pytest.mark.parametrize(
    "text", ["train.lr=true", "train.epochs=1e1", "train.epochs=", "train.lr=.inf", "train.lr=fast", "train.lr=0"]
)
def test_assigned_values_are_validated_with_the_rest(text):
    tree: dict[str, Any] = {}
    assign(tree, text, SECTIONS)
    with pytest.raises(ConfigError, match=r"train.(lr|epochs)"):
        validate(TrainConfig, tree["train"], "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.iterations=-1", "train.iterations: input should be greater than or equal to 0, got int -1"),
        ("train.iterations=10000001", "less than or equal to 10000000"),
        ("train.iterations=1e3", "train.iterations: .* integer, got float 1000.0"),
        ("train.iterations=true", "got bool True"),
        ("train.schedule=lineer", "train.schedule: expected cosine or linear, got str 'lineer'"),
        ("train.nesterov=1", "train.nesterov: .* boolean, got int 1"),
        ("train.distill=1.5", "train.distill: .*less than or equal to 1, got float 1.5"),
        ("train.ema=1.0", "train.ema: .*less than 1, got float 1.0"),
        ("train.path_bins=0", "train.path_bins: .*greater than or equal to 1"),
        ("train.path_bins=1001", "train.path_bins: .*less than or equal to 1000"),
        ("train.path_sampler=3", "train.path_sampler: .*string, got int 3"),
        ("train.path_sampler=", "train.path_sampler: .*string, got NoneType None"),
        ("train.path_low=true", r"train.path_low: expected a cost such as 290M, w3a4 or 35%, got bool True$"),
        ("train.path_high=[1M]", r"train.path_high: expected a cost such as 290M, w3a4 or 35%, got list \['1M'\]$"),
    ],
)
def test_wrong_recipes_and_path_settings(text, message):
    tree: dict[str, Any] = {}
    assign(tree, text, SECTIONS)
    with pytest.raises(ConfigError, match=message):
        validate(SupernetTrainConfig, tree["train"], "train")


def test_costs_of_paths_keep_their_text():
    def read(text: str) -> str | None:
        tree: dict[str, Any] = {}
        assign(tree, f"train.path_high={text}", SECTIONS)
        made = validate(SupernetTrainConfig, tree["train"], "train")
        assert validate(SupernetTrainConfig, made.model_dump(mode="json"), "again") == made
        return made.path_high

    texts = ["290M", "w3a4", "35%", "1,000", "5000000", str(2**60), "2.5", "null"]
    assert [read(text) for text in texts] == [*texts[:-1], None]


def test_only_the_supernet_has_paths():
    paths = {name for name in SupernetTrainConfig.model_fields if name.startswith("path_")}
    assert SupernetTrainConfig.model_fields.keys() - paths == TrainConfig.model_fields.keys()
    assert len(paths) == 6
    for name in paths:
        with pytest.raises(ConfigError, match=f"--set retrain.{name}: unknown key"):
            assign({}, f"retrain.{name}=1", SECTIONS)


def test_the_papers_recipe_can_be_configured():
    """150,000 steps of 1024 images, lr 0.5 linearly to 0, plain momentum, bins of 10M MACs from 290M to 360M."""
    text = "{iterations: 150000, batch_size: 1024, lr: 0.5, schedule: linear, warmup_epochs: 0, nesterov: false"
    text += ", weight_decay: 4.0e-5, path_sampler: cost-uniform, path_low: 290M, path_high: 360M, path_bins: 7}"
    made = validate(SupernetTrainConfig, parse_yaml(text, "x"), "train")
    assert made.steps(1251) == 150_000
    assert (made.schedule, made.nesterov, made.momentum) == ("linear", False, 0.9)
    assert (made.path_low, made.path_high, made.path_bins) == ("290M", "360M", 7)


def test_steps_of_a_training():
    assert TrainConfig(epochs=3).steps(7) == 21
    assert TrainConfig(epochs=3, iterations=10).steps(7) == 10
    assert RetrainConfig(iterations=300_000).steps(1251) == 300_000


def test_every_field_is_documented():
    for model in filter(None, SECTIONS.values()):
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_config_errors_are_user_errors():
    assert issubclass(ConfigError, SposQuantError)
    assert issubclass(ConfigError, ValueError)
