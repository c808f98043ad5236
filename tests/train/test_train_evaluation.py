"""Recalibration is the plain average of batch statistics; scores equal accuracy and loss computed by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from train_cases import space, supernet

from spos_quant.errors import ConfigError
from spos_quant.quant.switch import SwitchBatchNorm2d
from spos_quant.train.evaluation import batch_norms, recalibrate, score

SIZES = (9, 4, 6)


def images(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 1, 8, 8, generator=generator) * (i + 1) + i for i, n in enumerate(SIZES)]


def two_layers() -> nn.Sequential:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 5, 3),
        nn.BatchNorm2d(5, momentum=0.3),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(5, 4, 3),
        nn.BatchNorm2d(4, momentum=None),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    for norm in batch_norms(net):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
        nn.init.uniform_(norm.bias)
    return net


def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = x.transpose(0, 1).flatten(1)
    return rows.mean(1), rows.var(1, unbiased=True)


def normalised(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    rows = x.transpose(0, 1).flatten(1)
    scale = norm.weight / (rows.var(1, unbiased=False) + norm.eps).sqrt()
    return (x - rows.mean(1).view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


@pytest.mark.parametrize("pairs", [False, True])
def test_recalibration_by_hand(pairs):
    net = two_layers()
    first, second = net[1], net[5]
    for batch in images(7):
        net(batch)  # earlier statistics, which must have no effect
    expected: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[], []]
    for x in images():
        a = net[0](x)
        expected[0].append(statistics(a))
        b = net[4](normalised(a, first).relu())
        expected[1].append(statistics(b))
    weights = {name: p.clone() for name, p in net.named_parameters()}
    recalibrate(net, [(x, torch.zeros(len(x))) for x in images()] if pairs else images())
    for norm, by_hand in zip((first, second), expected, strict=True):
        for ours, values in ((norm.running_mean, [m for m, _ in by_hand]), (norm.running_var, [v for _, v in by_hand])):
            torch.testing.assert_close(ours, torch.stack(values).mean(0), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(ours, values[-1], rtol=0.05)
    assert (first.momentum, second.momentum) == (0.3, None)
    assert not any(m.training for m in net.modules())
    assert all(torch.equal(p, weights[name]) and p.grad is None for name, p in net.named_parameters())


def test_recalibration_is_idempotent():
    net = two_layers()
    recalibrate(net, images())
    once = copy.deepcopy(net.state_dict())
    recalibrate(net, images())
    for name, value in net.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(value, once[name])


def touched(model: nn.Module, path: tuple[int, ...]) -> dict[SwitchBatchNorm2d, list[torch.Tensor]]:
    """The inputs of every BatchNorm layer on the path during recalibration."""
    probe = model
    probe.activate(path)
    seen: dict[SwitchBatchNorm2d, list[torch.Tensor]] = {}
    handles = [
        norm.register_forward_pre_hook(lambda m, x: seen.setdefault(m, []).append(x[0].clone()))
        for norm in batch_norms(probe)
    ]
    recalibrate(probe, images())
    for handle in handles:
        handle.remove()
    return seen


def test_only_layers_and_channels_of_the_path_are_touched():
    model = supernet()
    with torch.no_grad():
        for norm in batch_norms(model):
            norm.running_mean.fill_(-7.0)
            norm.running_var.fill_(77.0)
    of = space()
    op, width = (next(i for i, a in enumerate(of.axes) if a.kind == kind) for kind in ("op", "width"))
    path = list(of.sample(np.random.default_rng(3)))
    path[op], path[width] = 0, 0  # a block with an operator, at half its width
    seen = touched(model, of.canonical(path))
    norms = batch_norms(model)
    assert 0 < len(seen) < len(norms)
    narrow = 0
    for norm in norms:
        if norm not in seen:
            assert (norm.running_mean == -7).all()
            assert (norm.running_var == 77).all()
            continue
        by_hand = [statistics(x) for x in seen[norm]]
        c = norm.active
        narrow += c < len(norm.running_mean)
        torch.testing.assert_close(norm.running_mean[:c], torch.stack([m for m, _ in by_hand]).mean(0))
        torch.testing.assert_close(norm.running_var[:c], torch.stack([v for _, v in by_hand]).mean(0))
        assert (norm.running_mean[c:] == -7).all()
        assert (norm.running_var[c:] == 77).all()
        assert norm.momentum == 0.1
    assert narrow
    assert not any(m.training for m in model.modules())


def test_known_norms_are_taken_as_given():
    net = two_layers()
    before = net[1].running_mean.clone()
    recalibrate(net, images(), [net[5]])
    assert torch.equal(net[1].running_mean, before)
    assert not torch.equal(net[5].running_mean, torch.zeros(4))


def test_a_failure_restores_momentum_and_mode():
    net = two_layers()
    with pytest.raises(RuntimeError):
        recalibrate(net, [*images(), torch.randn(2, 3, 8, 8)])
    assert (net[1].momentum, net[5].momentum) == (0.3, None)
    assert not any(m.training for m in net.modules())


@pytest.mark.parametrize("nothing", [[], iter(())], ids=["list", "iterator"])
def test_no_batches_are_an_error(nothing):
    net = two_layers()
    with pytest.raises(ConfigError, match="recalibration got no batches"):
        recalibrate(net, nothing)
    assert (net[1].momentum, net[1].training) == (0.3, False)


def test_score_by_hand():
    net = two_layers()
    batches = [(x, torch.arange(len(x)) % 3) for x in images()]
    result = score(net.train(), batches)
    assert not net.training
    logits = net(torch.cat([x for x, _ in batches]))
    y = torch.cat([y for _, y in batches])
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    assert result.n == 19
    assert result.top1 == sum((logits.argmax(1) == y).tolist()) / 19
    assert 0 < result.top1 < 1
    assert result.loss == pytest.approx(float(-p[range(19), y].log().mean().detach()), rel=1e-5)
    whole = score(net, [(torch.cat([x for x, _ in batches]), y)])
    assert (whole.top1, whole.n) == (result.top1, 19)
    assert whole.loss == pytest.approx(result.loss, rel=1e-6)


def test_score_of_no_batches_and_of_a_perfect_model():
    assert score(two_layers(), []).n == 0
    perfect = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(6, 1, 8, 8)
    y = perfect(x).argmax(1)
    assert score(perfect, [(x, y)]).top1 == 1.0
    assert score(perfect, [(x, (y + 1) % 3)]).top1 == 0.0


def test_score_uses_running_statistics_and_changes_nothing():
    net = two_layers()
    recalibrate(net, images())
    before = copy.deepcopy(net.state_dict())
    x, y = images()[0], torch.arange(9) % 3
    one = score(net.train(), [(x[:1], y[:1])])
    expected = F.cross_entropy(net.eval()(x)[:1], y[:1])
    assert one.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
