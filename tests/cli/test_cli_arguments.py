"""Invalid values of every option, and options that contradict each other or the run."""

from __future__ import annotations

import pytest
from cli_cases import SPACE, contents, refused

# The device is checked last: with a device that does not exist no command below starts to train.
TRAIN = ["train", "x.yaml", "--device", "nowhere"]
SEARCH = ["search", "x.yaml", "--device", "nowhere"]
BUDGET = ["--bitops-budget", "50%"]


@pytest.fixture
def tried(call, tmp_path):
    """Runs a command in a folder with a search space `x.yaml`; asserts that it wrote no other file."""
    (tmp_path / "x.yaml").write_text(SPACE)

    def run(*arguments):
        result = call(*arguments)
        assert contents(tmp_path) == ["x.yaml"]
        return result

    return run


@pytest.mark.parametrize(
    ("assignment", "messages"),
    [
        ("", ["--set ''", "expected SECTION.KEY=VALUE, such as --set train.epochs=5"]),
        ("seed=3", ["--set 'seed=3'", "expected SECTION.KEY=VALUE"]),
        ("train=epochs", ["expected train.KEY=VALUE"]),
        (
            "trian.epochs=5",
            ["unknown section 'trian'; did you mean 'train'? (known: log, rank, ray, retrain, search, train)"],
        ),
        ("space.name=y", ["unknown section 'space'"]),
        ("train.epoch=5", ["--set train.epoch: unknown key; did you mean 'epochs'?"]),
        ("train.Epochs=5", ["did you mean 'epochs'?"]),
        ("train.__class__=1", ["unknown key"]),
        ("train.epochs=1.5", ["--set.train.epochs: input should be a valid integer, got float 1.5"]),
        ("train.epochs='5'", ["valid integer, got str '5'"]),
        ("train.epochs=true", ["valid integer, got bool True"]),
        ("train.epochs=", ["valid integer, got NoneType None"]),
        ("train.epochs=5=6", ["valid integer, got str '5=6'"]),
        ("train.epochs=[5]", ["valid integer, got list [5]"]),
        ("train.epochs={a: 1}", ["valid integer, got dict {'a': 1}"]),
        ("train.epochs=0", ["greater than or equal to 1, got int 0"]),
        ("train.epochs=99999999999", ["less than or equal to 10000000, got int 99999999999"]),
        ("train.epochs=" + "9" * 5000, ["is no YAML value"]),
        ("train.epochs=[", ["str '[' is no YAML value"]),
        ("train.epochs=*a", ["is no YAML value"]),
        ("train.epochs=!!bool maybe", ["is no YAML value"]),
        ("train.epochs=!!python/object/apply:os.system [touch ran]", ["is no YAML value"]),
        ("train.epochs=\0", ["'\\x00' is no YAML value"]),
        ("train.lr=.nan", ["finite number, got float nan"]),
        ("train.lr=-1", ["greater than 0, got float -1.0"]),
        ("train.lr=1e999", ["finite number, got float inf"]),
        ("train.precision=fp16", ["expected 32-true or bf16-mixed, got str 'fp16'"]),
        ("retrain.init=frsh", ["expected inherit or fresh, got str 'frsh'"]),
        ("search.population=1", ["greater than or equal to 2, got int 1"]),
        ("search.population=1000000000", ["less than or equal to 100000"]),
        ("search.max_images=0", ["greater than or equal to 1"]),
        ("é" * 3000 + ".x=1", ["unknown section", "(known: log, rank, ray, retrain, search, train)"]),
        ("train.a\nb\x1b[31m=1", ["--set train.a\\nb\\x1b[31m: unknown key"]),
    ],
)
def test_assignments(tried, assignment, messages):
    refused(tried(*TRAIN, "--set", assignment), *messages)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("", "'' is no number above 0; expected such as 2.5M, 6.3Gi, w3a4 or 35%"),
        ("nan", "'nan' is no number above 0"),
        ("inf", "is no number above 0"),
        ("-5", "is no number above 0"),
        ("0", "expected a number above 0"),
        ("1e999", "is no number above 0"),
        ("6,3G", "is no number above 0"),
        ("1" * 5000, "is no number above 0"),
        ("\uff11M", "is no number above 0"),
        ("1\n2", r"'1\n2' is no number above 0"),
        ("12Q", "unknown suffix 'Q'; expected K M G T"),
        ("0%", "more than 0 % and at most 100 %"),
        ("101%", "at most 100 %"),
        ("w9a1", "expected 1 to 8 bits each, such as w4a4"),
        ("1", "below the cheapest architecture of 'x' (4,456,448); feasible: 4.456M to 17.83M"),
    ],
)
def test_budgets(tried, budget, message):
    refused(tried(*SEARCH, "--bitops-budget", budget), "bitops budget", message)


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--searcher", ""], ["unknown searcher ''", "known: evolution, knapsack, random"]),
        (["--searcher", "evolutoin"], ["unknown searcher 'evolutoin'; did you mean 'evolution'?"]),
        (["--timeout", "soon"], ["--timeout 'soon': expected a time such as 90s, 30m or 2h"]),
        (["--timeout", "-1s"], ["expected a time such as"]),
        (["--timeout", "nan"], ["expected a time such as"]),
        (["--timeout", "1e999h"], ["expected a time such as"]),
        (["--timeout", ""], ["expected a time such as"]),
        (["--seed", "-1"], ["'--seed'"]),
        (["--seed", "1.5"], ["'--seed'"]),
        (["--seed", "99999999999999999999"], ["'--seed'"]),
        (["--seed", "x"], ["'--seed'"]),
        (["--data", "cifar"], ["unknown data set 'cifar'; did you mean 'cifar10'?"]),
        (["--data", "a:b:c"], ["unknown data set 'a:b:c'", "as package.module:function"]),
        (["--data", "digits:there"], ["'digits' is in no folder; write digits, not digits:there"]),
        (["--data", "imagefolder"], ["needs its folder: imagefolder:ROOT"]),
        (["--data", "imagefolder:x.yaml"], ["imagefolder", "no folder", "x.yaml"]),
        (["--data", "no.such:function"], ["cannot import no.such: ModuleNotFoundError"]),
        (["--data", "os:path"], ["'path' must be a function without arguments, got module"]),
        (["--data", "sys:exit"], ["it raised SystemExit; mend the function"]),
        (["--data", "fake\x1b[31m"], [r"unknown data set 'fake\x1b[31m'; did you mean 'fake'?"]),
        (["--device", "gpu"], ["unknown device 'gpu'; expected auto, cpu or cuda"]),
        (["--max-accuracy-drop", "0.1"], ["give either a budget or --max-accuracy-drop, not both"]),
        (["--macs-budget", "1"], ["macs budget 1 (1) is below the cheapest architecture"]),
        (["--macs-budget", "w2a2"], ["bit-widths do not determine macs"]),
        (["--bitops-budget", "60%", "--macs-budget", "100%", "--macs-budget", "2M"], ["only one", "may be repeated"]),
    ],
)
def test_options_of_a_search(tried, options, messages):
    refused(tried(*SEARCH, *BUDGET, *options), *messages)


@pytest.mark.parametrize("drop", ["nan", "inf", "-0.1", "1", "2"])
def test_accuracy_drops(tried, drop):
    refused(tried(*SEARCH, "--max-accuracy-drop", drop), "--max-accuracy-drop", "expected a share of 0 to 1, such as")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--uniform", ""], ["--uniform '': expected bits such as w4a4, or `float`"]),
        (["--uniform", "w4"], ["--uniform 'w4': expected bits such as w4a4"]),
        (["--uniform", "w0a4"], ["expected bits such as w4a4"]),
        (["--uniform", "w9a4"], ["expected 1 to 8 bits each"]),
        (["--uniform", "w4a4", "--bits", "w2a2"], ["give one of --uniform, --bits and --arch"]),
        (["--uniform", "w4a4", "--arch", "0"], ["give one of"]),
        (["--arch", ""], ["has 4 indices, one per axis, got 0"]),
        (["--arch", "0,0,0"], ["has 4 indices, one per axis, got 3"]),
        (["--arch", "0,0,0,2"], ["axis 'layer2.1.bits': expected an index of 0 to 1, got 2"]),
        (["--arch", "0,0,0,-1"], ["expected an index of 0 to 1, got -1"]),
        (["--arch", "0,0,0,x"], ["expected candidate indices such as 0,3,1"]),
        (["--arch", "9" * 5000], ["expected candidate indices such as 0,3,1"]),
        (["--bits", ""], ["cannot be read", "expected a bit configuration"]),
        (["--bits", "w9a9"], ["expected 1 to 8 bits each"]),
        (["--bits", ".."], ["..: cannot be read (Is a directory); expected a bit configuration"]),
        (["--bits", "/dev/zero"], ["/dev/zero: more than 1,000,000 bytes; expected a bit configuration"]),
        (["--bits", "x" * 5000], ["xxx: cannot be read (File name too long); expected a bit configuration"]),
        (["--bits", "a\nb"], [r"a\nb: cannot be read (No such file or directory)"]),
        (["--bits", "x.yaml"], ["x.yaml: is no JSON text", "expected a bit configuration"]),
    ],
)
def test_options_of_cost(tried, options, messages):
    refused(tried("cost", "x.yaml", *options), *messages)


@pytest.fixture
def run_of_another(call, tmp_path):
    """A run directory `there` with settings and no weights."""
    from spos_quant.stages.open_run import Options, plan_run

    (tmp_path / "x.yaml").write_text(SPACE)
    with plan_run("x.yaml", Options(out=tmp_path / "there", seed=3, assignments=("train.epochs=2",))).open():
        pass
    return contents(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["train", "there", "--seed", "4"], ["seed is 3 there, 4 was asked for. Leave those options away, or choose"]),
        (["train", "there", "--data", "fake"], ["data is 'digits' there, 'fake' was asked for"]),
        (["train", "there", "--set", "train.epochs=5"], ["train.epochs is 2 there, 5 was asked for"]),
        (
            ["train", "there", "--set", "train.lr=0.5", "--set", "retrain.epochs=7"],
            ["train.lr is 0.1 there, 0.5 was asked for", "retrain.epochs is 240 there, 7 was asked for"],
        ),
        (["train", "digits-blocks", "--out", "there"], ["axes.bits is [[2, 2], [4, 4]] there, null was asked for"]),
        (["train", "there", "--out", "elsewhere"], ["there is a run directory itself; leave --out away"]),
        (["retrain", "there", "--bits", "w4a4", "--result", "x"], ["give either --bits or --result, not both"]),
        (["retrain", "there", "--bits", "w4a4"], ["has no trained supernet to inherit from; train it with"]),
        (["evaluate", "there"], ["has no result yet; make one with: spos-quant search there"]),
    ],
)
def test_a_run_of_other_settings_shows_the_difference(call, tmp_path, run_of_another, arguments, messages):
    refused(call(*arguments), *messages)
    assert contents(tmp_path) == run_of_another
