"""`sq.quantize`: converts any module to a supernet, whose subnets are plain Brevitas models."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterator
from itertools import product

import brevitas.nn as qnn
import numpy as np
import pytest
import torch
from convert_cases import Tied, everything, mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import spos_quant as sq
from spos_quant.convert.swap import tree_units
from spos_quant.errors import ConfigError, ModelError, SpaceError
from spos_quant.quant.static import read_bits
from spos_quant.quant.switch import SwitchLayer
from spos_quant.train.evaluation import recalibrate

BITS = [(1, 3), (2, 2), (4, 4), (8, 8)]


def test_float_path_equals_the_model_and_the_model_is_unchanged() -> None:
    model, inputs = everything()
    before = copy.deepcopy(model.state_dict())
    classes = [type(m) for m in model.modules()]
    supernet = sq.quantize(model, inputs, BITS)
    supernet.activate_float()
    assert torch.equal(supernet(*inputs), model(*inputs))
    assert [type(m) for m in model.modules()] == classes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not supernet.training
    assert not {id(p) for p in supernet.parameters()} & {id(p) for p in model.parameters()}


@pytest.mark.parametrize("seed", range(4))
def test_subnets_are_plain_brevitas_and_equal_to_the_path(seed: int) -> None:
    model, inputs = everything()
    supernet = sq.quantize(model, inputs, BITS, keep_float=())
    a = supernet.space.sample(np.random.default_rng(seed))
    supernet.activate(a)
    subnet = supernet.subnet(a)
    assert torch.equal(subnet(*inputs), supernet(*inputs))
    config = supernet.space.bit_config(a).layers
    kinds = set()
    for name, layer in subnet.named_modules():
        if name in config:
            assert read_bits(layer) == (config[name].weight_bits, config[name].act_bits)
            kinds.add(type(layer))
    assert kinds == {qnn.QuantConv1d, qnn.QuantConv2d, qnn.QuantConvTranspose2d, qnn.QuantLinear}
    assert {name for name, m in subnet.named_modules() if isinstance(m, qnn.QuantLinear)} == {"twice", "head"}
    measured = {row["name"]: row["bitops"] for row in sq.measure(subnet, inputs)["layers"]}
    assert measured == {row["name"]: row["bitops"] for row in supernet.cost(a)["layers"]}


def test_costs_are_torchs_count() -> None:
    model, inputs = everything()
    supernet = sq.quantize(model, inputs, BITS)
    counter = FlopCounterMode(display=False)
    with counter:
        model(*(x[:1] for x in inputs))
    a = supernet.space.uniform(4, 4)
    cost = supernet.cost(a)
    assert cost["macs"] == counter.get_total_flops() // 2
    rows = {row["name"]: row for row in cost["layers"]}
    assert rows["twice"]["macs"] == 2 * 4 * 4, "it runs twice"
    assert rows["up"]["macs"] == 8 * 64 * 6 * 4
    # Parameters of all layers, counted by hand.
    assert cost["params"] == sum(
        p.numel()
        for m in model.modules()
        if hasattr(m, "weight") and not isinstance(m, nn.BatchNorm2d)
        for p in m.parameters()
    )


def test_w8a8_is_close_and_2_bits_are_not() -> None:
    model, x = mlp()
    supernet = sq.quantize(model, x, BITS, keep_float=())
    errors = []
    for bits in ((8, 8), (4, 4), (2, 2)):
        supernet.activate(supernet.space.uniform(*bits))
        errors.append(float((supernet(x) - model(x)).norm() / model(x).norm()))
    assert errors[0] < 0.02 < errors[1] < errors[2]


def test_signs_are_those_observed() -> None:
    model, x = mlp()
    layers = dict(sq.quantize(model, x).body.named_modules())
    assert [layers[name].signed for name in ("0", "2", "4")] == [True, False, True]
    batches = [x.abs(), (x.abs() + 1, torch.zeros(5))]
    layers = dict(sq.quantize(model, x.abs(), calibrate=iter(batches)).body.named_modules())
    assert [layers[name].signed for name in ("0", "2", "4")] == [False, False, True]


def test_calibration_reads_the_loader_and_no_more_than_256_images() -> None:
    model, x = mlp()
    drawn = []

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(100):
            drawn.append(i)
            yield torch.full((64, 7), float(i + 1)), torch.zeros(64)

    supernet = sq.quantize(model, x, [(8, 8)], keep_float=(), calibrate=loader())
    assert drawn == [0, 1, 2, 3]
    (first, *_) = supernet.input_quantizers()
    assert 2.5 < float(first.clip(8)) <= 4.05


def test_bits_per_block_follow_the_module_tree() -> None:
    model, inputs = everything()
    supernet = sq.quantize(model, inputs, BITS, bits_per="block")
    assert tree_units(supernet.body) == {f"blocks.{i}.conv{j}": f"blocks.{i}" for i, j in product((0, 1), (1, 2))}
    names = [axis.name for axis in supernet.space.axes]
    assert "blocks.0.bits" in names
    assert "blocks.1.bits" in names
    per_layer = sq.quantize(model, inputs, BITS)
    assert len(per_layer.space.axes) == len(names) + 2


def test_overrides_groups_and_keep_float() -> None:
    model, inputs = everything()
    supernet = sq.quantize(
        model,
        inputs,
        BITS,
        keep_float=("first", "audio"),
        overrides={"blocks.1": {"bits": [(4, 4)]}, "up": {"bits": [(8, 8), (4, 8)]}},
        groups=[["same", "twice"]],
    )
    bits = supernet.space.bit_config(supernet.space.sample(np.random.default_rng(0))).layers
    assert bits["stem"].weight_bits is bits["audio"].weight_bits is None
    assert (bits["blocks.1.conv1"].weight_bits, bits["blocks.1.conv2"].act_bits) == (4, 4)
    assert bits["same"] == bits["twice"]
    assert {axis.name: axis.candidates for axis in supernet.space.axes}["up.bits"] == ((8, 8), (4, 8))


def test_tied_weights_stay_tied_and_share_their_bits() -> None:
    torch.manual_seed(0)
    model, words = Tied(), torch.randint(11, (3, 4))
    supernet = sq.quantize(model, words, BITS, keep_float=())
    assert [axis.name for axis in supernet.space.axes] == ["a.bits", "out.bits"]
    subnet = supernet.subnet(supernet.space.uniform(4, 4))
    assert subnet.a.weight is subnet.b.weight
    assert subnet.out.weight is subnet.embed.weight
    supernet.activate(supernet.space.uniform(4, 4))
    assert torch.equal(subnet(words), supernet(words))
    assert len(list(subnet.parameters())) == len({id(p) for p in subnet.parameters()})


def test_layers_that_never_run_are_reported_with_their_cost() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x)[0].mean(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model, x = Attention().eval(), torch.randn(2, 5, 8)
    with pytest.warns(
        UserWarning, match=r"1 layers stay float: attention.out_proj .*never runs. 1,6\d\d multiply-adds"
    ):
        supernet = sq.quantize(model, x, BITS, keep_float=())
    # Four projections of 5 tokens (three in, one out) and two 5 x 5 attention products in 8 channels.
    assert supernet.space.network_shapes.other_macs == 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8
    assert supernet.cost(supernet.space.uniform(4, 4))["float_macs"] == supernet.space.network_shapes.other_macs


def test_fused_kernels_do_not_bypass_the_replaced_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 3)).eval()
    x = torch.randn(2, 5, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        supernet = sq.quantize(model, x, BITS, keep_float=())
    assert {"0.linear1", "0.linear2"} <= {layer.name for layer in supernet.space.layers}
    with torch.no_grad():
        supernet.activate(supernet.space.uniform(2, 2))
        assert not torch.allclose(supernet(x), model(x), atol=1e-3)


def test_custom_training_loop() -> None:
    """Parameter groups, one path per step, autocast, accumulation, checkpointing, a weight copy, state dicts."""
    model, x = mlp()
    supernet = sq.quantize(model, x, BITS, keep_float=())
    groups = supernet.param_groups(weight_decay=0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(supernet.parameters()))
    assert {p.dim() for p in groups[0]["params"]} == {2}
    assert groups[1]["weight_decay"] == 0
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    average = copy.deepcopy(supernet)
    rng = np.random.default_rng(0)
    for step in range(4):
        supernet.activate(supernet.space.sample(rng))
        with torch.autocast("cpu", torch.bfloat16, enabled=step == 1):
            y = checkpoint(supernet, x, use_reentrant=False) if step == 2 else supernet(x)
        y.float().square().mean().backward()
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    a = supernet.space.uniform(4, 4)
    supernet.activate(a)
    average.activate(a)
    assert not torch.equal(average(x), supernet(x))
    average.load_state_dict(supernet.state_dict())
    assert torch.equal(average(x), supernet(x))


def test_threads_evaluate_one_path_concurrently() -> None:
    model, inputs = everything()
    supernet = sq.quantize(model, inputs, BITS)
    supernet.activate(supernet.space.uniform(4, 4))
    expected, found = supernet(*inputs), []
    threads = [threading.Thread(target=lambda: found.append(supernet(*inputs))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(y, expected) for y in found)


def test_search_and_export(tmp_path) -> None:
    model, x = mlp()
    supernet = sq.quantize(model, x, [(2, 2), (4, 4), (8, 8)], keep_float=())
    target = model(x).detach()
    config = sq.SearchConfig(population=6, generations=2, parents=2, crossover=2, mutation=2)
    result = sq.search(supernet, evaluate=lambda m: -float((m(x) - target).norm()), bitops_budget="w4a4", config=config)
    subnet = supernet.subnet(result.best)
    assert sq.measure(subnet, x)["bitops"] <= supernet.cost(supernet.space.uniform(4, 4))["bitops"]
    assert sq.export_onnx(subnet, x, tmp_path / "m.onnx")["agreement"] == 1.0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m, x: sq.quantize(nn.Sequential(nn.ReLU()), x), ModelError, "no layer that can be quantized"),
        (lambda m, x: sq.quantize(nn.Linear(7, 3), x), ModelError, "wrap it in nn.Sequential"),
        (lambda m, x: sq.quantize("resnet18", x), ModelError, "expected a torch.nn.Module, got str"),
        (lambda m, x: sq.quantize(m, x[:, :5]), ModelError, r"shape \(5, 5\).*fails in module '0' with RuntimeError"),
        (lambda m, x: sq.quantize(m, x.to("meta")), ModelError, "its parameters are torch.float32 on cpu"),
        (lambda m, x: sq.quantize(m, []), ModelError, "expected an example batch"),
        (lambda m, x: sq.quantize(m, x[:0]), ModelError, "expected an example batch"),
        (lambda m, x: sq.quantize(m, x, [(9, 8)]), SpaceError, "expected a bit-width of 1 to 8, or float, got int 9"),
        (lambda m, x: sq.quantize(m, x, [(4, 4), (4, 4)]), SpaceError, "a candidate appears twice"),
        (lambda m, x: sq.quantize(m, x, overrides={"3.*": {}}), SpaceError, r"overrides: '3\.\*' matches no"),
        (
            lambda m, x: sq.quantize(m, x, groups=[["0", "7"]]),
            SpaceError,
            "groups: '7' matches no choice block or layer",
        ),
        (lambda m, x: sq.quantize(m, x, keep_float=("frist",)), SpaceError, "did you mean 'first'"),
        (lambda m, x: sq.quantize(m, x, calibrate=[]), ModelError, "calibrate yields no images"),
        (lambda m, x: sq.quantize(m, x, calibrate=["a"]), ModelError, "calibrate yields str without a tensor"),
        (lambda m, x: sq.quantize(m, x, bits_per="stage"), SpaceError, "expected block or layer"),
    ],
)
def test_bad_input(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make(*mlp())


def test_an_architecture_of_another_space() -> None:
    model, x = mlp()
    supernet = sq.quantize(model, x, BITS)
    with pytest.raises(SpaceError, match="has 1 indices, one per axis, got 3"):
        supernet.subnet((0, 1, 2))


def test_subclasses_and_layers_with_hooks_stay_float() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    class Renamed(nn.Linear):
        pass

    class Inside(nn.Conv2d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(x, weight / 2, bias)

    torch.manual_seed(0)
    model = nn.Sequential(Own(7, 7), Renamed(7, 7), nn.Linear(7, 7), nn.Linear(7, 3))
    model[3].register_forward_hook(lambda m, i, o: o + 1)
    x = torch.randn(2, 7)
    with pytest.warns(UserWarning, match=r"2 layers stay float: 0 \(Own\): a subclass.*; 3 \(Linear\): it has hooks"):
        supernet = sq.quantize(model, x, BITS, keep_float=())
    assert [type(m) for m in supernet.body] == [Own, SwitchLayer, SwitchLayer, nn.Linear]
    supernet.activate_float()
    assert torch.equal(supernet(x), model(x))
    image = torch.randn(1, 2, 4, 4)
    with pytest.warns(UserWarning, match=r"1 layers stay float: 0 .Inside.: a subclass"):
        sq.quantize(nn.Sequential(Inside(2, 2, 1), nn.Conv2d(2, 2, 1)), image, BITS, keep_float=())


def test_transposed_convolutions_of_several_groups_stay_float() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 4, 2, 2, groups=2), nn.Conv2d(4, 2, 1))
    with pytest.warns(UserWarning, match="0 .ConvTranspose2d.: a transposed convolution of several groups"):
        sq.quantize(model, torch.randn(1, 4, 3, 3), BITS, keep_float=())


def test_frozen_parameters_stay_frozen() -> None:
    model, x = mlp()
    model[0].requires_grad_(False)
    supernet = sq.quantize(model, x, BITS, keep_float=())
    subnet = supernet.subnet(supernet.space.uniform(4, 4))
    assert not subnet[0].weight.requires_grad
    assert subnet[2].weight.requires_grad


class ScaledLinear(nn.Linear):
    """A subclass with another forward."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("ends", "kept"), [((False, False), {"0", "4"}), ((False, True), {"0"}), ((True, True), set())]
)
def test_a_skipped_first_or_last_layer_keeps_no_other_layer_float(ends: tuple[bool, bool], kept: set[str]) -> None:
    first, last = (ScaledLinear if own else nn.Linear for own in ends)
    model = nn.Sequential(first(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), last(6, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        supernet = sq.quantize(model, torch.randn(4, 6), BITS)
    assert {layer.name for layer in supernet.space.layers if not layer.quantized} == kept
    assert torch.equal(supernet.subnet(supernet.space.uniform(4, 4))[0].weight, model[0].weight)


def test_double_precision_stays_double() -> None:
    model, inputs = everything()
    model, inputs = model.double(), tuple(x.double() for x in inputs)
    supernet = sq.quantize(model, inputs, BITS)
    for seed in range(3):
        a = supernet.space.sample(np.random.default_rng(seed))
        supernet.activate(a)
        assert supernet(*inputs).dtype == torch.float64
        assert torch.equal(supernet.subnet(a)(*inputs), supernet(*inputs))


def test_a_scripted_model_is_refused() -> None:
    with pytest.raises(ModelError, match="one of TorchScript; give the model that it was made from"):
        sq.quantize(torch.jit.script(nn.Sequential(nn.Linear(3, 3))), torch.randn(2, 3))


def test_instance_norm_with_statistics_is_recalibrated() -> None:
    norm = nn.InstanceNorm2d(4, track_running_stats=True)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), nn.Linear(144, 2)).eval()
    x = torch.randn(8, 3, 8, 8)
    supernet = sq.quantize(model, x, [(4, 4), (8, 8)], keep_float=())
    with pytest.raises(ConfigError, match="give recalibrate="):
        sq.search(supernet, evaluate=lambda m: 0.0)
    path = supernet.space.uniform(8, 8)
    seen: list[Tensor] = []
    supernet.body[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    supernet.activate(path)
    recalibrate(supernet, [x])
    torch.testing.assert_close(supernet.body[1].running_mean, seen[0].mean((0, 2, 3)))
