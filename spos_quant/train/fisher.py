"""Sensitivity from gradients alone: the Fisher information of a network times the squared quantization error.

Near an optimum, an error d in the output of a layer increases the loss by 1/2 d' H d, where H is the Hessian. The
Fisher information E[g g'], with g the gradient of one image, approximates H: the increase is 1/2 E[(g' d)^2]. One
backward pass and one forward pass per layer and candidate give it for weights and activations together, without
evaluating any architecture.

If BatchNorm reads a layer, recomputing its statistics removes any shift and scale of a channel from the error. The
estimate excludes that part, as evaluations do by recalibration.

References:
    [Dong2020] HAWQ-V2, arXiv 1911.03852: trace of the Hessian times the squared error of the weights.
    [Kunstner2019] Limitations of the empirical Fisher, arXiv 1905.12558: the model's own predictions, not the given
        labels, give the Fisher information, which is the Gauss-Newton matrix of the cross-entropy.
    [Hutchinson1990] A stochastic estimator of the trace: random signs have the least variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from spos_quant.cost.sensitivity import BITS_AXES, Loss, Perturbation, Perturbations, Sensitivity
from spos_quant.errors import ConfigError, ModelError
from spos_quant.quant.switch import Bits, SwitchLayer
from spos_quant.streams import Stream, torch_seed
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.evaluation import batch_norms, ensure_eval

Pair = tuple[Bits, Bits]
"""Weight bits and activation bits."""
LossFunction = Callable[[Any, Any], Tensor]
"""`(output, labels) -> the sum of the losses of a batch`."""


def fisher_sensitivity(
    supernet: Supernet,
    batches: Iterable[Any],
    *,
    loss: LossFunction | None = None,
    prepare: Callable[[], None] = lambda: None,
    seed: int = 0,
) -> Sensitivity:
    """The estimated loss increase of every candidate of every bits axis, in nats.

    Operators and widths are not errors of a layer's output and have no such estimate: their axes have no rows.

    Args:
        supernet: Trained, or a float model just quantized. Its active path changes.
        batches: Inputs `x` or pairs `(x, y)` with the batch as first dimension; a few hundred images suffice.
        loss: `(output, y) -> sum over the batch`, for example `cross_entropy(..., reduction="sum")`. None takes the
            output as logits `[n, classes]` and uses the Fisher information of their own probabilities.
        prepare: Called after a path is activated, for example to recompute BatchNorm statistics.
        seed: Seed of the random signs.

    Raises:
        ConfigError: there are no batches, or `loss` is given and a batch has no labels.
        ModelError: `loss` is None and the output is not logits.
    """
    perturbations = Perturbations(supernet.table)
    kinds = [axis.kind for axis in supernet.space.axes]
    wanted = [p for p in perturbations.all if kinds[p.axis] in BITS_AXES]
    rows: dict[Perturbation, Loss] = {}
    for start, group in groupby(sorted(wanted, key=lambda p: p.start), key=lambda p: p.start):
        supernet.activate(start)
        prepare()
        ensure_eval(supernet)
        some = list(group)
        changes = {p: _changes(supernet, p) for p in some}
        supernet.activate(start)
        probe = _Probe(supernet, {change for each in changes.values() for change in each})
        errors = probe.run(batches, loss, torch.Generator().manual_seed(torch_seed(Stream.FISHER_SIGNS, seed)))
        for p in some:
            rows[p] = Loss(p, sum(errors[change] for change in changes[p]), None)
    return Sensitivity("gradient", perturbations.reference, tuple(rows[p] for p in wanted))


def _changes(supernet: Supernet, perturbation: Perturbation) -> list[tuple[SwitchLayer, Pair]]:
    """The layers whose bits a perturbation changes, with their new bits."""
    found = []
    for layer, weight, act in supernet.quantized_layers():
        before, after = ((weight.value(a), act.value(a)) for a in (perturbation.start, perturbation.architecture))
        if before != after:
            found.append((layer, after))
    return found


class _Probe:
    """Measures the mean squared product of gradient and error for pairs of a layer and its bits."""

    def __init__(self, supernet: Supernet, changes: set[tuple[SwitchLayer, Pair]]) -> None:
        self.supernet = supernet
        self.pairs: dict[SwitchLayer, list[Pair]] = {}
        for layer, pair in sorted(changes, key=lambda change: repr(change[1])):
            self.pairs.setdefault(layer, []).append(pair)
        self.products: dict[tuple[SwitchLayer, Pair], Tensor] = {}
        self.leaves: list[Tensor] = []
        # Holds the tensors, so that their `id` is not reused in the same pass.
        self.outputs: dict[int, tuple[Tensor, SwitchLayer]] = {}
        self.normed: set[SwitchLayer] = set()
        self.n = 0

    def run(
        self, batches: Iterable[Any], loss: LossFunction | None, generator: torch.Generator
    ) -> dict[tuple[SwitchLayer, Pair], float]:
        """Half the mean over the images; 0 for layers that are not on the active path."""
        totals = {(layer, pair): 0.0 for layer, pairs in self.pairs.items() for pair in pairs}
        images = 0
        device = next(self.supernet.parameters()).device
        with self._hooks():
            for item in batches:
                x, y = (item[0], item[1:]) if isinstance(item, (tuple, list)) else (item, ())
                self.n = len(x)
                images += self.n
                with torch.enable_grad():
                    output = self.supernet(x.to(device))
                    value = _random_sign_loss(output, generator) if loss is None else loss(output, *_labels(y, device))
                    torch.autograd.grad(value, self.leaves, allow_unused=True)
                for key, product in self.products.items():
                    totals[key] += float(product.double().square().sum())
                self.products, self.leaves, self.outputs = {}, [], {}
        if not images:
            raise ConfigError("the gradient estimate got no batches; give a list or a loader of training images")
        return {key: total / images / 2 for key, total in totals.items()}

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        handles = [layer.register_forward_hook(self._watch_output) for layer in self.pairs]
        handles += [norm.register_forward_pre_hook(self._note_norm) for norm in batch_norms(self.supernet)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _watch_output(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Hooks the gradient of a layer's output, which works without any trainable parameter."""
        assert isinstance(layer, SwitchLayer)
        x, before = inputs[0].detach(), output.detach()
        leaf = torch.zeros((), device=output.device, requires_grad=True)
        self.leaves.append(leaf)
        watched = output + leaf
        self.outputs[id(watched)] = watched, layer
        watched.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: self._multiply(layer, x, before, gradient)
        )
        return watched

    def _note_norm(self, _norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Records the layer that a BatchNorm reads directly, if any."""
        if id(inputs[0]) in self.outputs:
            self.normed.add(self.outputs[id(inputs[0])][1])

    @torch.no_grad()
    def _multiply(self, layer: SwitchLayer, x: Tensor, before: Tensor, gradient: Tensor) -> None:
        own = (layer.weight_bits, layer.act_bits)
        inputs: dict[Bits, Tensor] = {None: x}
        for pair in self.pairs[layer]:
            weight_bits, act_bits = pair
            if act_bits not in inputs:  # quantized once for all weight candidates
                assert layer.input_quant is not None
                assert act_bits is not None
                inputs[act_bits] = layer.input_quant(x, act_bits)
            layer.activate_bits(weight_bits, None)
            error = layer.forward(inputs[act_bits]) - before
            if layer in self.normed:
                error = _without_affine(error, before)
            # The images of a batch are independent, so the product splits by image. A layer that runs several times
            # accumulates its products.
            product = (error * gradient).reshape(self.n, -1).sum(1)
            known = self.products.get((layer, pair))
            self.products[layer, pair] = product if known is None else known + product
        layer.activate_bits(*own)


def _without_affine(error: Tensor, output: Tensor) -> Tensor:
    """The part of an error `[n, C, ...]` that no shift and scale per channel of `output` can correct."""
    dims = [0, *range(2, output.dim())]
    varying = output - output.mean(dims, keepdim=True)
    rest = error - error.mean(dims, keepdim=True)
    spread = varying.square().sum(dims, keepdim=True)
    slope = (rest * varying).sum(dims, keepdim=True) / spread.clamp_min(torch.finfo(spread.dtype).tiny)
    return rest - slope * varying


def _random_sign_loss(output: Any, generator: torch.Generator) -> Tensor:
    """A sum over the batch whose squared gradient has the Fisher information as its mean over random signs.

    With probabilities p, diag(p) - p p' = S S' for S = diag(sqrt p) - p sqrt(p)'. The gradient along S u therefore has
    this second moment for random signs u of mean 0. If labels were sampled from confident predictions instead, nearly
    all gradients would vanish and a few would dominate; here every image contributes.
    """
    if not (isinstance(output, Tensor) and output.dim() == 2):
        raise ModelError("the output is not logits [n, classes]; give loss=<a function of output and labels>")
    p = output.detach().float().softmax(1)
    # Drawn on the CPU, so that a seed gives the same signs on every machine.
    signs = (2 * torch.randint(2, p.shape, generator=generator) - 1).to(p)
    rooted = p.sqrt() * signs
    return ((rooted - p * rooted.sum(1, keepdim=True)) * output.float()).sum()


def _labels(rest: Any, device: torch.device) -> list[Any]:
    if not rest:
        raise ConfigError("the batches hold no labels, which loss= needs; give pairs (x, y), or leave loss= away")
    return [y.to(device) if isinstance(y, Tensor) else y for y in rest[:1]]
