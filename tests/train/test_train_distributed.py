"""Training with several ranks equals one process that accumulates the gradients of their shares of every batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_cases import drawing, supernet, training

from spos_quant.errors import ConfigError
from spos_quant.supernet.weights import named_tensors, read_weights, read_weights_metadata, save_weights
from spos_quant.train.batches import TrainingBatches
from spos_quant.train.devices import make_fabric
from spos_quant.train.evaluation import batch_norms
from spos_quant.train.loop import fit, learning_rate, loss_of, make_optimizer, set_lr, step_seed

RANKS = 2
HOW = {"epochs": 3, "batch_size": 8, "lr": 0.05, "clip_grad": 1.0, "weight_decay": 1e-3}
STRATEGY = {"devices": RANKS, "strategy": "auto"}
TOLERANCE = 1e-6
"""Largest difference of a weight, relative to the largest weight of its tensor."""


def rank(out: str) -> None:
    """One rank: saves its weights and the paths that it trained."""
    given = training(n=44, **HOW, **STRATEGY)
    fabric = make_fabric(given.config, "cpu")
    model = supernet()
    taken, draw = [], drawing(0)

    def paths(step: int):
        taken.append(draw(step))
        return taken[-1]

    records = fit(fabric, model, given, paths=paths)
    metadata = {"paths": [step.architectures for step in taken], "records": records}
    save_weights(model, Path(f"{out}-{fabric.global_rank}.safetensors"), metadata)


def accumulated(**config) -> tuple[torch.nn.Module, list[float]]:
    """The reference: one process, the ranks' shares in turn, everything else in plain torch."""
    given, model, draw = training(n=44, **config), supernet(), drawing(0)
    shares = [TrainingBatches(given.data, 8, 0, rank=r, world_size=RANKS) for r in range(RANKS)]
    total = given.config.steps(shares[0].per_epoch)
    optimizer = make_optimizer(model, given.config)
    model.train()
    losses = []
    for step in range(total):
        set_lr(optimizer, learning_rate(step, total, shares[0].per_epoch, given.config))
        optimizer.zero_grad(set_to_none=True)
        (path,) = draw(step).architectures
        model.activate(path)
        for r, share in enumerate(shares):
            torch.manual_seed(step_seed(0, step, r))
            kept = [(norm, norm.running_mean.clone(), norm.running_var.clone()) for norm in batch_norms(model)]
            x, y = share[step]
            loss = loss_of(model(x), y, given.config, None)
            (loss / RANKS).backward()
            losses.append(loss.item())
            for norm, mean, var in kept if r else ():  # running statistics are those of rank 0
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(var)
        torch.nn.utils.clip_grad_norm_(model.parameters(), given.config.clip_grad)
        optimizer.step()
    return model, losses


@pytest.mark.slow
def test_two_ranks_train_like_one_process_that_accumulates(tmp_path):
    out = tmp_path / "rank"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    done = subprocess.run([*command, __file__, str(out)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [Path(f"{out}-{r}.safetensors") for r in range(RANKS)]
    metadata = [read_weights_metadata(path) for path in found]
    assert metadata[0]["paths"] == metadata[1]["paths"]  # the same path on every rank
    assert metadata[0]["records"] == metadata[1]["records"]
    model, losses = accumulated(**HOW)
    steps = len(losses) // RANKS // HOW["epochs"]
    means = [sum(losses[e * steps * RANKS :][: steps * RANKS]) / steps / RANKS for e in range(HOW["epochs"])]
    assert [record["loss"] for record in metadata[0]["records"]] == pytest.approx(means, rel=1e-5)
    weights = read_weights(found[0])
    other = read_weights(found[1])
    parameters = {name for name, _ in model.named_parameters()}
    assert parameters < weights.keys()
    for name, expected in named_tensors(model):
        scale = expected.abs().max().clamp_min(1e-3)
        assert ((weights[name] - expected).abs() <= TOLERANCE * scale).all(), name
        assert name not in parameters or torch.equal(weights[name], other[name]), name


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_image_of_an_epoch_is_taken_by_one_rank(ranks):
    given = training(n=44)
    whole = TrainingBatches(given.data, 8, 0)
    shares = [TrainingBatches(given.data, 8, 0, rank=r, world_size=ranks) for r in range(ranks)]
    for step in range(whole.per_epoch):
        x, y = whole[step]
        parts = [share[step] for share in shares]
        assert {len(part[1]) for part in parts} == {8 // ranks}
        assert sorted(map(str, x.flatten(1))) == sorted(str(row) for part in parts for row in part[0].flatten(1))
        assert sorted(y.tolist()) == sorted(label for part in parts for label in part[1].tolist())


def test_a_batch_that_cannot_be_shared_evenly():
    with pytest.raises(ConfigError, match="a batch of 10 images cannot be shared evenly by 3 ranks; set batch_size to"):
        TrainingBatches(training(n=44).data, 10, 0, world_size=3)


if __name__ == "__main__":
    rank(sys.argv[1])
