"""The gradient estimate against per-image gradients of plain torch, and when it applies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spos_quant as sq
from spos_quant.errors import ConfigError, ModelError
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.fisher import _without_affine, fisher_sensitivity


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 36, 3),
    ).eval()  # fmt: skip


def summed(output, labels):
    return F.cross_entropy(output, labels, reduction="sum")


def batches(n=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 6, 6, generator=generator)
    y = torch.randint(3, (n,), generator=generator)
    return [(x[: n // 2], y[: n // 2]), (x[n // 2 :], y[n // 2 :])]


@pytest.mark.parametrize("bits", [[(None, None), (2, None), (4, None)], [(None, None), (None, 2), (3, 3)]])
def test_equals_per_image_gradients_of_the_float_network(bits):
    """From a float reference: per image, the gradient times the error of a layer's output."""
    model = small()
    supernet = sq.quantize(model, torch.randn(4, 1, 6, 6), bits=bits, keep_float=["last"], calibrate=batches())
    found = fisher_sensitivity(supernet, batches(), loss=summed)
    names = {axis.name.rpartition(".")[0]: index for index, axis in enumerate(supernet.space.axes)}
    slots = [slot for slot in supernet.space.layers if slot.quantized]
    layers = {slot.name: layer for slot, (layer, _, _) in zip(slots, supernet.quantized_layers(), strict=True)}
    for row in found.rows:
        (name,) = [name for name, axis in names.items() if axis == row.perturbation.axis]
        pair = supernet.space.axes[row.perturbation.axis].candidates[row.perturbation.candidate]
        expected = []
        for x, y in batches():
            for image, label in zip(x, y, strict=True):
                expected.append(_by_hand(model, name, layers[name], pair, image[None], label[None]))
        assert row.loss == pytest.approx(float(np.mean(expected)), rel=1e-4)
        assert row.loss >= 0


def _by_hand(model, name, layer, pair, x, y):
    """Half the squared product for one image, with the network split at the layer."""
    index = int(name)
    inputs = model[:index](x)
    output = model[index](inputs).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model[index + 1 :](output), y), output)
    layer.activate_bits(*pair)
    with torch.no_grad():
        error = layer(inputs) - output
    layer.activate_bits(None, None)
    return 0.5 * float((gradient * error).sum()) ** 2


def test_without_labels_its_mean_is_the_gauss_newton_matrix_times_the_error():
    """The mean over random signs is d' J' (diag(p) - p p') J d / 2 per image, computed with the Jacobian."""
    model = small()
    supernet = sq.quantize(model, torch.randn(4, 1, 6, 6), bits=[(None, None), (2, None)], keep_float=["0", "last"])
    (x, _), _ = batches(n=4)
    found = [fisher_sensitivity(supernet, [x], seed=seed).rows[0].loss for seed in range(400)]
    layer = supernet.quantized_layers()[0][0]
    inputs = model[:2](x)
    output = model[2](inputs).detach()
    layer.activate_bits(2, None)
    error = (layer(inputs) - output).detach()
    layer.activate_bits(None, None)
    expected = []
    for one, d in zip(output, error, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda o: model[3:](o[None])[0], one).reshape(3, -1)
        jacobian_times_error = jacobian @ d.flatten()
        p = model[3:](one[None])[0].softmax(0)
        expected.append(0.5 * (jacobian_times_error @ (torch.diag(p) - p[:, None] * p) @ jacobian_times_error).item())
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.1)


def test_signs_follow_from_the_seed_and_no_labels_are_needed():
    supernet = sq.quantize(small(), torch.randn(4, 1, 6, 6), bits=[(2, 8), (4, 8), (8, 8)], keep_float=[])
    images = [x for x, _ in batches()]
    one, again, other = (fisher_sensitivity(supernet, images, seed=s) for s in (0, 0, 1))
    assert one == again
    assert [r.loss for r in one.rows] != [r.loss for r in other.rows]
    losses = {(r.perturbation.axis, r.perturbation.candidate): r.loss for r in one.rows}
    for axis in range(len(supernet.space.axes)):
        assert losses[axis, 0] > losses[axis, 1] > 0


def test_separate_axes_for_weights_and_activations_per_layer():
    supernet = sq.quantize(small(), torch.randn(4, 1, 6, 6), keep_float=[], overrides={
        "*": {"weight_bits": [2, 8], "act_bits": [2, 8]}
    })  # fmt: skip
    found = fisher_sensitivity(supernet, [x for x, _ in batches()])
    assert {row.perturbation.axis for row in found.rows} == set(range(len(supernet.space.axes)))
    kinds = {axis.kind for axis in supernet.space.axes}
    assert kinds == {"weight_bits", "act_bits"}
    a, b = found.optima(supernet.table, count=2, bitops_budget="50%")
    assert supernet.cost(a)["bitops"] <= supernet.cost(max_of(supernet))["bitops"] / 2
    assert a != b


def max_of(supernet):
    return tuple(len(axis.candidates) - 1 for axis in supernet.space.axes)


def test_parameters_without_gradients_and_modes_do_not_matter():
    model = small()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    supernet = sq.quantize(model, torch.randn(4, 1, 6, 6), bits=[(2, 8), (8, 8)], keep_float=[])
    assert all(row.loss > 0 for row in fisher_sensitivity(supernet, batches(), loss=summed).rows)
    assert all(parameter.grad is None for parameter in supernet.parameters())


def test_shift_and_scale_of_channels_are_excluded():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(5, 3, 4, 4, generator=generator)
    scale, shift = torch.rand(1, 3, 1, 1, generator=generator), torch.rand(1, 3, 1, 1, generator=generator)
    assert _without_affine(scale * y + shift, y).abs().max() < 1e-5
    error = torch.randn(5, 3, 4, 4, generator=generator)
    rest = _without_affine(error + scale * y + shift, y)
    torch.testing.assert_close(rest, _without_affine(error, y), atol=1e-5, rtol=1e-4)
    # the rest is the residual of least squares
    for c in range(3):
        rows = torch.stack((y[:, c].flatten(), torch.ones(80)), 1).double()
        target = error[:, c].flatten().double()
        least_squares = rows @ torch.linalg.lstsq(rows, target[:, None]).solution.flatten()
        ours = _without_affine(error, y)[:, c].flatten().double()
        torch.testing.assert_close(ours, target - least_squares, atol=1e-5, rtol=1e-4)


def test_a_scaled_weight_before_batch_norm_has_no_sensitivity(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 16, 3)).eval()
    supernet = sq.quantize(model, torch.randn(4, 1, 6, 6), bits=[(None, None), (2, None)], keep_float=["last"])
    (layer, _, _), *_ = supernet.quantized_layers()

    class Twice(nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer.weight_quant["2"] = Twice()
    (row,) = fisher_sensitivity(supernet, [x for x, _ in batches()]).rows
    assert row.loss < 1e-8


def test_error_messages():
    supernet = sq.quantize(small(), torch.randn(4, 1, 6, 6), bits=[(2, 8), (8, 8)], keep_float=[])
    with pytest.raises(ConfigError, match="got no batches"):
        fisher_sensitivity(supernet, [])
    with pytest.raises(ConfigError, match="hold no labels"):
        fisher_sensitivity(supernet, [torch.randn(2, 1, 6, 6)], loss=summed)
    odd = sq.quantize(nn.Sequential(nn.Conv2d(1, 2, 3)), torch.randn(2, 1, 6, 6), bits=[(2, 8), (8, 8)], keep_float=[])
    with pytest.raises(ModelError, match="is not logits"):
        fisher_sensitivity(odd, [torch.randn(2, 1, 6, 6)])
    with pytest.raises(ConfigError, match="needs batches="):
        sq.sensitivity(supernet, estimate="gradient")
    with pytest.raises(ConfigError, match="needs evaluate="):
        sq.sensitivity(supernet)
    with pytest.raises(ConfigError, match="did you mean 'gradient'"):
        sq.sensitivity(supernet, estimate="gradients")


def test_operators_and_widths_have_no_estimate():
    supernet = sq.build(sq.load_space("digits-mixed"))
    images = [torch.rand(4, 1, 8, 8)]
    found = sq.sensitivity(supernet, estimate="gradient", batches=images)
    assert isinstance(supernet, Supernet)
    assert {supernet.space.axes[row.perturbation.axis].kind for row in found.rows} == {"bits"}
    with pytest.raises(ConfigError, match="gradients know bits only"):
        found.optima(supernet.table, bitops_budget="50%")
