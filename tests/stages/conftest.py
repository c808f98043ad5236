from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from stages_settings import BUDGET, TINY

from spos_quant.cli import run as run_command
from spos_quant.stages import trainings
from spos_quant.train import loop


@pytest.fixture
def command(capsys):
    """Runs a command line in this process: `(status, stdout, stderr)`; with `json=True` the parsed object."""

    def call(*arguments: str, json: bool = False):
        capsys.readouterr()
        status = run_command([*map(str, arguments), *(["--json"] if json else [])])
        out, err = capsys.readouterr()
        if json:
            assert status == 0, err
            return _parse(out)
        return status, out, err

    return call


@pytest.fixture
def interrupted_after(monkeypatch) -> Callable[[int], AbstractContextManager[None]]:
    """Context manager that interrupts a bench or a ranking after `models` trained models."""

    @contextmanager
    def after(models: int) -> Iterator[None]:
        real, left = trainings.train_and_score, models

        def train(result, **how):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            real(result, **how)

        with monkeypatch.context() as patch:
            patch.setattr(trainings, "train_and_score", train)
            yield

    return after


@pytest.fixture
def interrupted_at(monkeypatch) -> Callable[[int], AbstractContextManager[None]]:
    """Context manager that interrupts a training before step `last`."""

    @contextmanager
    def at(last: int) -> Iterator[None]:
        real = loop._Loop._step

        def step(self, number, *rest):
            if number == last:
                raise KeyboardInterrupt
            real(self, number, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(loop._Loop, "_step", step)
            with pytest.raises(KeyboardInterrupt):
                yield

    return at


def _parse(text: str):
    return json.loads(text)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A finished run of the main job in a tiny setting, made once; tests must not change it."""
    path = tmp_path_factory.mktemp("main-job") / "run"
    assert run_command(["run", "digits-mixed", "--bitops-budget", BUDGET, "--out", str(path), *TINY, "--json"]) == 0
    return path
