"""Exit statuses and messages of commands; a user error leaves no files behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_cases import SPACE, refused

import search_spaces
from spos_quant.backbones.build import builtin_spaces


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("backbone: digits-resnet", "backbone: digits-resnt"), "did you mean 'digits-resnet'"),
        (("axes: {bits", "axes: {op: [conv3x4], bits"), "unknown operator 'conv3x4'; did you mean 'conv3x3'"),
        (("[2, 2]", "[0, 2]"), "expected a bit-width of 1 to 8, or float, got int 0"),
        (("[2, 2]", "[9, 2]"), "got int 9"),
        (("[2, 2]", "['2', 2]"), "got str '2'"),
        (("bits: [[2, 2], [4, 4]]", "bits: []"), "at least one candidate"),
        (("data: digits", "data: digts"), "unknown data set 'digts'; did you mean 'digits'"),
        (("data: digits", "data: mod.ule:function"), "may not name code"),
        (("data: digits", "quantizer: gausian+pact\ndata: digits"), "unknown weight quantizer 'gausian'"),
        (("data: digits", "weights: none.safetensors\ndata: digits"), "none.safetensors does not exist"),
        (("input: [1, 8, 8]", "input: [3, 8, 8]"), "digits"),
        (("classes: 10", "classes: 12"), "12"),
        (("axes:", "overrides: {'layer9.*': {bits: [[2, 2]]}}\naxes:"), "'layer9.*' matches no choice block"),
        (("axes:", "keep_float: [frst]\naxes:"), "did you mean"),
        (("axes:", "axess:"), "unknown key; did you mean 'axes'"),
        ((SPACE, ""), "is empty"),
        ((SPACE, "[1, 2]"), "expected a mapping"),
        ((SPACE, "a: !!python/object/apply:os.system ['touch pwned']"), "nothing was run"),
    ],
)
def test_wrong_spaces_leave_nothing_behind(call, tmp_path, change, message):
    (tmp_path / "x.yaml").write_text(SPACE.replace(*change))
    refused(call("run", "x.yaml", "--bitops-budget", "100%"), message)
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_binary_file(call, tmp_path):
    (tmp_path / "x.yaml").write_bytes(bytes(range(256)))
    refused(call("run", "x.yaml", "--bitops-budget", "1M"), "is no UTF-8 text")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "digits-mixd", "--bitops-budget", "4M"], "did you mean 'digits-mixed'"),
        (["run", "digits-mixed", "--bitops-budget", "1"], "below the cheapest architecture of 'digits-mixed' (16,384)"),
        (["run", "digits-mixed", "--bitops-budget", "-5"], "is no number above 0"),
        (["run", "digits-mixed", "--bitops-budget", "12Q"], "unknown suffix 'Q'"),
        (["run", "digits-mixed"], "--bitops-budget 35%"),
        (["run", "digits-blocks", "--bitops-budget", "4M"], "--macs-budget"),
        (["run", "digits-mixed", "--bitops-budget", "4M", "--bitops-budget", "3M"], "takes one budget"),
        (["run", "digits-mixed", "--bitops-budget", "4M", "--max-accuracy-drop", "0.1"], "not both"),
        (["run", "digits-mixed", "--max-accuracy-drop", "2"], "a share of 0 to 1"),
        (["run", "digits-mixed", "--bitops-budget", "4M", "--data", "imagefolder:nowhere"], "nowhere"),
        (["run", "digits-mixed", "--bitops-budget", "4M", "--data", "cifar"], "did you mean 'cifar10'"),
        (["run", "digits-mixed", "--bitops-budget", "4M", "--device", "gpu"], "expected auto, cpu or cuda"),
        (["run", "digits-mixed", "--bitops-budget", "4M", "--set", "train.epoch=3"], "did you mean 'epochs'"),
        (["run", "digits-mixed", "--bitops-budget", "4M", "--set", "train.epochs=many"], "valid integer"),
        (["run", "digits-mixed", "--bitops-budget", "4M", "--timeout", "soon"], "such as 90s, 30m or 2h"),
        (["run", "digits-mixed", "--bogus"], "No such option: --bogus"),
        (["run"], "Missing argument"),
        (["nonsense"], "No such command"),
        (["run", "resnet18-mixed", "--bitops-budget", "w2a2"], "names no data set; give --data"),
        (["search", "digits-mixed", "--bitops-budget", "4M", "--searcher", "evolutoin"], "did you mean 'evolution'"),
        (["search", "digits-mixed", "--bitops-budget", "w9a1"], "1 to 8 bits"),
        (["evaluate", "no-such-run"], "does not exist; make one with"),
        (["evaluate", "."], "is no run directory"),
        (["retrain", "no-such-run", "--bits", "w4a4"], "does not exist"),
        (["cost", "digits-mixed", "--uniform", "w9a1"], "1 to 8 bits"),
        (["cost", "digits-mixed", "--uniform", "4"], "expected bits such as w4a4"),
        (["cost", "digits-mixed", "--arch", "1,2"], "has 12 indices"),
        (["cost", "digits-mixed", "--bits", "nofile.json"], "cannot be read"),
        (["cost", "digits-mixed", "--bits", "w4a4", "--arch", "1"], "give one of"),
        (["cost", "nix.yaml"], "neither a built-in search space nor a YAML file"),
        (["predict", "nofile.onnx", "--data", "digits"], "does not exist"),
        (["rank", "no-such-run"], "does not exist; make one with"),
        (["bench", "digits-mixed", "--bits", "bst"], "did you mean 'best'"),
        (["bench", "digits-mixed", "--bits", ","], "--bits names nothing"),
        (["bench", "digits-mixed", "--bits", "random:2"], "random:2 needs a budget; give one or several"),
        (["bench", "digits-mixed", "--bits", "random:-2", "--bitops-budget", "4M"], "such as random:3"),
        (["bench", "digits-blocks", "--bits", "best"], "such as --macs-budget 35%"),
        (["bench", "digits-mixed", "--bits", "best", "--bitops-budget", "1"], "below the cheapest"),
        (["bench", "digits-mixed", "--bits", "w2a2", "--seeds", "1001"], "--seeds 1001: expected 1 to 1,000"),
        (["bench", "digits-mixed", "--bits", "w2a2", "--set", "rank.epoch=2"], "did you mean 'epochs'"),
        (["bench", "digits-mixed", "--bits", "w2a2", "--set", "rank.epochs=0"], "rank.epochs: input should be"),
        (["predict", "nofile.onnx"], "give either --data D or images"),
    ],
)
def test_wrong_arguments_are_explained(call, tmp_path, arguments, message):
    refused(call(*arguments), message)
    assert not list(tmp_path.iterdir())


def test_cuda_without_a_device(call, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(call("train", "digits-mixed", "--device", "cuda"), "no CUDA device")
    refused(call("evaluate", "run", "--device", "cuda"), "no CUDA device")


def test_data_folders_of_other_classes(call, tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(5):
                Image.new("L", (8, 8), i).save(folder / f"{i}.png")
    refused(call("run", "digits-mixed", "--bitops-budget", "4M", "--data", "imagefolder:pets"), "cat")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    refused(call("run", "digits-mixed", "--bitops-budget", "4M", "--data", "imagefolder:empty"), "empty")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_no_run_is_not_written_into(call, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    refused(call("train", "digits-mixed", "--out", "mine"), "something else than a run")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_internal_errors_exit_1_and_v_shows_the_traceback(call, monkeypatch):
    import spos_quant.stages.spaces as stage

    monkeypatch.setattr(stage, "all_spaces", lambda: 1 / 0)
    status, _, err = call("spaces")
    assert status == 1
    assert "ZeroDivisionError" in err
    assert "Traceback" not in err
    status, _, err = call("spaces", "-v")
    assert status == 1
    assert "Traceback" in err


@pytest.mark.parametrize("text", ["", "{}", '{"digest": "of another version", "spaces": []}', "[1]"])
def test_a_stale_list_of_spaces_is_rebuilt(text, tmp_path, monkeypatch):
    from spos_quant.stages import spaces

    wanted = spaces.all_spaces()
    assert [space["name"] for space in wanted] == list(builtin_spaces())
    folder = Path(shutil.copytree(Path(search_spaces.__file__).parent, tmp_path / "search_spaces"))
    (folder / "tables" / spaces.LIST).write_text(text)
    monkeypatch.setattr(spaces, "files", lambda _: folder)
    monkeypatch.setattr(spaces, "priced_spaces", lambda: ["made anew"])
    assert spaces.all_spaces() == ["made anew"]


def test_ctrl_c_prints_how_to_resume(call, monkeypatch):
    import spos_quant.stages.spaces as stage

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "all_spaces", interrupted)
    status, _, err = call("spaces", "--json")
    assert status == 130
    assert "go on with: spos-quant spaces --json" in err


def test_cost_prints_the_papers_figures(call):
    for space, uniform, expected in [
        ("resnet18-mixed", "w2a2", "6.316 Gi"),
        ("resnet18-mixed", "w3a3", "14.21 Gi"),
        ("resnet18-mixed", "w4a4", "25.27 Gi"),
        ("resnet34-mixed", "w2a2", "13.21 Gi"),
        ("resnet34-mixed", "w3a3", "29.72 Gi"),
        ("resnet34-mixed", "w4a4", "52.83 Gi"),
    ]:
        status, out, _ = call("cost", space, "--uniform", uniform)
        assert status == 0
        assert expected in out


def test_cost_json_has_the_promised_keys(call):
    status, out, _ = call("cost", "resnet18-mixed", "--uniform", "w3a3", "--json")
    cost = json.loads(out)
    assert status == 0
    assert cost["architecture"] is None  # w3a3 is no candidate of the paper's space
    assert cost["formula"] == "bitops/1"
    assert sum(layer["bitops"] for layer in cost["layers"]) == cost["bitops"]
    assert [layer["name"] for layer in cost["layers"] if not layer["counted"]] == ["conv1", "fc"]
    space = json.loads(call("cost", "resnet18-mixed", "--json")[1])
    assert space["size"] == 18**8
    assert space["dearest"]["bitops"] > cost["bitops"] > space["cheapest"]["bitops"]
    names = [item["name"] for item in json.loads(call("spaces", "--json")[1])]
    assert {"digits-mixed", "digits-blocks", "resnet20-mixed", "resnet18-mixed", "resnet34-mixed"} <= set(names)


def test_light_commands_load_neither_torch_nor_brevitas():
    code = (
        "import sys, spos_quant\nfrom spos_quant.cli import run\n"
        "for arguments in (['--help'], ['search', '--help'], ['spaces'], ['cost', 'digits-mixed'],"
        " ['cost', 'resnet18-mixed', '--uniform', 'w4a4'], ['evaluate', 'no-such-run'], ['train', 'no-such-space']):\n"
        "    run(arguments)\n"
        "    assert 'torch' not in sys.modules, arguments\n"
        "assert 'brevitas' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_closed_pipe_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m spos_quant cost resnet34-mixed --uniform w4a4 | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_dry_run_estimates_and_writes_nothing(call, tmp_path):
    status, out, err = call("run", "digits-mixed", "--bitops-budget", "4M", "--dry-run", "--json")
    assert status == 0, err
    estimate = json.loads(out)
    assert [stage["stage"] for stage in estimate["stages"]] == ["train", "search", "retrain (each model)"]
    assert all(stage["seconds"] > 0 for stage in estimate["stages"])
    assert 0 < estimate["budgets"][0]["share"] < 1
    assert not list(Path(tmp_path).iterdir())


def test_dry_run_counts_finalists(call):
    dry = ["--dry-run", "--json", "--set", "search.max_images=64", "--set", "search.finalists=7"]
    status, out, err = call("search", "digits-mixed", "--bitops-budget", "30%", "--bitops-budget", "4M", *dry)
    assert status == 0, err
    stages = {stage["stage"]: stage for stage in json.loads(out)["stages"]}
    per_unit = {name: stages[name]["seconds"] / stages[name]["units"] for name in ("search", "finalists")}
    assert stages["finalists"]["units"] == 2 * 7
    assert per_unit["finalists"] / per_unit["search"] == pytest.approx((256 + 287) / (256 + 64))


def test_dry_run_counts_iterations_and_the_paths_of_a_step(call):
    given = ["--set", "train.iterations=123", "--set", "retrain.iterations=45", "--set", "train.path_sampler=sandwich"]
    status, out, err = call("run", "digits-mixed", "--bitops-budget", "4M", "--dry-run", "--json", *given)
    assert status == 0, err
    train, _, retrain = json.loads(out)["stages"]
    assert (train["units"], retrain["units"]) == (123, 45)
    # A retraining step trains one path; a sandwich step trains three.
    assert train["seconds"] / 123 == pytest.approx(3 * retrain["seconds"] / 45)
