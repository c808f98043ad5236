"""Names and paths: nothing is written outside the run, and invalid ones are explained."""

from __future__ import annotations

import json

import pytest
from cli_cases import SPACE, contents, refused


@pytest.mark.parametrize(
    "name",
    [
        "'../../evil'",
        "a/b",
        "''",
        ".",
        "..",
        ".hidden",
        "-x",
        "'a b'",
        '"a\\nb"',
        '"\\e[31mred"',
        '"a\\u202eb"',
        "é",
        "x" * 65,
        "x" * 5000,
    ],
)
def test_names_of_spaces(call, tmp_path, name):
    (tmp_path / "x.yaml").write_text(SPACE.replace("name: x", f"name: {name}"), "utf-8")
    for command in (["cost", "x.yaml"], ["train", "x.yaml"]):
        refused(call(*command), "x.yaml.name: expected a word of at most 64 letters, digits, dots", ", got str")
    assert contents(tmp_path) == ["x.yaml"]
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ('"a\\0b"', "a character that is not text (NUL"),
        ("3", "name: input should be a valid string, got int 3"),
        ("2026-01-01", "name: input should be a valid string, got date"),
        ("[x]", "name: input should be a valid string, got list ['x']"),
    ],
)
def test_names_that_are_not_strings(call, tmp_path, name, message):
    (tmp_path / "x.yaml").write_text(SPACE.replace("name: x", f"name: {name}"))
    refused(call("train", "x.yaml"), message)
    assert contents(tmp_path) == ["x.yaml"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("x.yaml", "x.yaml holds something else than a run (no config.yaml); choose another --out"),
        ("", ". holds something else than a run"),
        (".", ". holds something else than a run"),
        ("/", "/ holds something else than a run"),
        ("x.yaml/below", "cannot be written (Not a directory); make room or mend the permissions"),
        ("/proc/below", "cannot be written (No such file or directory); make room or mend the permissions"),
    ],
)
def test_invalid_run_directories(call, tmp_path, out, message):
    (tmp_path / "x.yaml").write_text(SPACE)
    refused(call("train", "x.yaml", "--out", out), message)
    assert contents(tmp_path) == ["x.yaml"]


@pytest.fixture
def run(call, tmp_path):
    """A run directory `r` with settings and two results that hold a bit configuration each."""
    from spos_quant.stages.open_run import Options, plan_run

    (tmp_path / "x.yaml").write_text(SPACE)
    plan = plan_run("x.yaml", Options(out=tmp_path / "r"))
    with plan.open():
        pass
    for key, bits in (("bits-w2a2", 2), ("bits-w4a4", 4)):
        result = plan.run.result(key)
        result.path.mkdir(parents=True)
        result.bits_path.write_text(json.dumps(plan.run.space.uniform_config(bits, bits).to_json()))
    return plan.run


@pytest.mark.parametrize("command", ["retrain", "evaluate", "export", "verify"])
@pytest.mark.parametrize("key", ["", "..", "../../x", "a/b", "\0", "a\nb", "bits-w2a3"])
def test_names_of_results(call, tmp_path, run, command, key):
    (run.path / "supernet.safetensors").write_bytes(b"")
    before = contents(tmp_path)
    message = refused(call(command, "r", "--result", key), "has no result", "known: bits-w2a2, bits-w4a4")
    assert ("did you mean 'bits-w2a2'" in message) == (key == "bits-w2a3")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["..json", "...bits.json", "a b;c.json", "größe.json", "-x.json"])
def test_names_of_bit_configuration_files_stay_inside_the_run(tmp_path, run, name):
    from spos_quant.stages.retrain import user_result

    path = tmp_path / name
    path.write_text(json.dumps(run.space.uniform_config(3, 3).to_json()))
    before = set(contents(tmp_path))
    result = user_result(run, str(path))
    assert result.path.resolve().parent == (run.path / "results").resolve()
    new = [tmp_path / text for text in set(contents(tmp_path)) - before]
    assert sorted(p.name for p in new) == sorted([result.key, "checksums.sha256", "x.bits.json"])
    assert all(p.resolve().is_relative_to(run.path.resolve()) for p in new)


@pytest.mark.parametrize("bits", ["..", ".", "", "/", "nofile.json", "w4", "/dev/null", "a\nb"])
def test_bits_that_are_no_file(call, tmp_path, run, bits):
    (run.path / "supernet.safetensors").write_bytes(b"")
    before = contents(tmp_path)
    refused(call("retrain", "r", "--bits", bits), "is neither a bit configuration file nor uniform bits such as w4a4")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(quantizer="gausian+pact"), "unknown weight quantizer 'gausian'; did you mean 'gaussian'"),
        (lambda c: c.update(quantizer="pact"), "expected WEIGHTS+ACTIVATIONS, such as gaussian+pact"),
        (lambda c: c["layers"]["layer1.0.conv1"].update(weight_bits=16), "1 to 8, or float, got int 16"),
    ],
)
def test_configurations_that_cannot_be_built_are_not_written(call, tmp_path, run, change, message):
    (run.path / "supernet.safetensors").write_bytes(b"")
    raw = run.space.uniform_config(4, 4).to_json()
    change(raw)
    (tmp_path / "mine.json").write_text(json.dumps(raw))
    before = contents(tmp_path)
    refused(call("retrain", "r", "--bits", "mine.json"), message)
    assert contents(tmp_path) == before


def test_another_configuration_of_the_same_name(call, tmp_path, run):
    from spos_quant.stages.retrain import user_result

    (run.path / "supernet.safetensors").write_bytes(b"")
    for name, op in (("a b.json", "conv3x3"), ("a-b.json", "conv5x5")):
        raw = run.space.uniform_config(4, 4).to_json()
        raw["blocks"]["layer1.0"]["op"] = op
        (tmp_path / name).write_text(json.dumps(raw))
    user_result(run, "a b.json")
    # Also if only the quantizer differs.
    raw = run.space.uniform_config(4, 4).to_json()
    (tmp_path / "a-b.json").write_text(json.dumps({**raw, "quantizer": "absmax+pact"}))
    refused(call("retrain", "r", "--bits", "a-b.json"), "bits-a-b holds another configuration of that name; rename")


def test_a_run_config_with_wrong_types_is_damaged(call, run):
    path = run.path / "config.yaml"
    text = path.read_text()
    (run.path / "checksums.sha256").unlink()
    for old, new in (
        ("seed: 0", "seed: x"),
        ("seed: 0", "seed: 1.5"),
        ("seed: 0", "seed: 99999999999"),
        ("set: {}", "set: 3"),
    ):
        path.write_text(text.replace(old, new))
        refused(call("report", "r"), "config.yaml is damaged (data, seed or set); restore it")
    path.write_text(text.replace("format: 2", "format: true"))
    refused(call("report", "r"), "is of format True; this version reads format 2")
