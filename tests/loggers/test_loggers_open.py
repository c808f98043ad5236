from __future__ import annotations

import builtins
import subprocess
import sys

import pytest

from spos_quant.errors import ConfigError, RunError
from spos_quant.loggers import Loggers, loggers, open_loggers
from spos_quant.loggers.base import file_name, flat


def test_the_four_loggers_are_found_by_name():
    assert {"csv", "tensorboard", "wandb", "mlflow"} <= set(loggers)


def test_without_names_nothing_is_imported_or_written(target):
    with open_loggers((), target()) as log:
        log.log({"loss": 1.0}, step=0)
    assert not target().folder.exists()
    code = (
        "import sys; from pathlib import Path; from spos_quant.loggers import LogTarget, loggers, open_loggers\n"
        "log = open_loggers((), LogTarget(Path('nowhere'), 'r', 'n')); log.log({'loss': 1.0}, 0); log.close()\n"
        "assert not [m for m in sys.modules if m.startswith('spos_quant.loggers.') "
        "and m.rsplit('.')[-1] not in ('base', 'open')], 'a logger was imported'\n"
        "list(loggers)\n"
        "sys.exit(bool({'torch', 'tensorboard', 'wandb', 'mlflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "missing"), [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_missing_package_says_what_to_install(name, missing, target, monkeypatch):
    real = builtins.__import__

    def without(module, *rest):
        if module.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {module!r}", name=missing)
        return real(module, *rest)

    for module in [m for m in sys.modules if m.split(".")[0] == missing or m.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)  # what torch.utils.tensorboard does
    monkeypatch.setitem(sys.modules, missing, None)  # what import_module does
    with pytest.raises(ConfigError) as refused:
        open_loggers((name,), target())
    expected = f"log={name} needs the package {missing}; install it with: pip install 'spos-quant[{name}]'"
    assert str(refused.value).startswith(expected)


def test_an_unknown_name_opens_no_logger(target):
    with pytest.raises(ConfigError, match="unknown logger 'csw'; did you mean 'csv'"):
        open_loggers(("csv", "csw"), target())
    assert not target().folder.exists()


class Recorder:
    """A logger that records its calls."""

    def __init__(self, broken_at: str = "") -> None:
        self.calls: list = []
        self.broken_at = broken_at

    def log(self, values, step):
        self.calls.append((step, dict(values)))

    def close(self):
        self.calls.append("closed")
        if self.broken_at == "close":
            raise RunError("cannot close")


@pytest.fixture
def registered(monkeypatch):
    """Registers loggers as a plug-in package would, and removes them after the test."""

    def register(name, make):
        list(loggers)  # imports the built-in loggers first
        monkeypatch.setitem(loggers._plugins, name, make)

    return register


def test_a_plug_in_package_can_provide_a_logger(target, registered):
    recorder = Recorder()
    targets = []
    registered("theirs", lambda target: targets.append(target) or recorder)
    with open_loggers(("theirs", "csv", "theirs"), target(from_step=3)) as log:
        assert isinstance(log, Loggers)
        log.log({"loss": 2, "top1": True}, step=5)
        log.log({}, step=6)
    log.close()
    assert targets == [target(from_step=3)]  # opened once, though named twice
    assert recorder.calls == [(5, {"loss": 2.0, "top1": 1.0}), "closed"]
    assert all(type(value) is float for value in recorder.calls[0][1].values())


def test_if_one_logger_cannot_open_the_others_are_closed(target, registered):
    recorder = Recorder()
    registered("theirs", lambda target: recorder)

    def fails(target):
        raise RunError("no server")

    registered("failing", fails)
    with pytest.raises(RunError, match="no server"):
        open_loggers(("theirs", "failing"), target())
    assert recorder.calls == ["closed"]


def test_if_one_logger_cannot_close_the_others_are_closed(target, registered):
    first, second = Recorder(), Recorder(broken_at="close")
    registered("first", lambda target: first)
    registered("second", lambda target: second)
    log = open_loggers(("first", "second"), target())
    with pytest.raises(RunError, match="cannot close"):
        log.close()
    assert first.calls == second.calls == ["closed"]


def test_steps_must_increase_from_from_step(target):
    with open_loggers((), target(from_step=3)) as log:
        with pytest.raises(AssertionError, match="step 2 is logged, but step 3 or later was expected"):
            log.log({"loss": 1.0}, step=2)
        log.log({"loss": 1.0}, step=3)
        with pytest.raises(AssertionError, match="step 3 is logged, but step 4"):
            log.log({"loss": 1.0}, step=3)
        with pytest.raises(AssertionError, match="'step' is reserved"):
            log.log({"step": 1.0}, step=4)


def test_names_become_parts_of_paths():
    plain = ["supernet", "search-bitops-2.2M", "retrain_3"]
    assert [file_name(name) for name in plain] == plain
    odd = ["", ".", "..", "../x", "a/b", "a-b", "a\\b", "a b", ".hidden", "-x", "ä", "ö", "x" * 300, "x" * 299, "a\0b"]
    made = [file_name(name) for name in odd]
    assert len(set(made)) == len(odd)
    for name in made:
        assert 0 < len(name) < 100
        assert name[0] not in ".-"
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-"), name


def test_nested_settings_get_dotted_names():
    assert flat({"seed": 1, "train": {"lr": 0.1, "data": {"x": [1]}}, "empty": {}}) == {
        "seed": 1,
        "train.lr": 0.1,
        "train.data.x": [1],
    }
