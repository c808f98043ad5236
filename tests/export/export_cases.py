"""Supernets with calibrated clips and BatchNorm statistics, and a reader of ONNX files independent of spos_quant."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from spos_quant.backbones.build import build, load_space, space_of
from spos_quant.space.search_space import SearchSpace
from spos_quant.space.spec import parse_spec
from spos_quant.supernet.calibrate import calibrate_clips
from spos_quant.supernet.supernet import Supernet
from spos_quant.train.evaluation import batch_norms

_SPECS: dict[str, dict[str, Any]] = {
    # All layers quantized, also the first layer, whose input is signed, and the classifier.
    "whole": {
        "axes": {"op": ["conv3x3", "bottleneck"], "weight_bits": [1, 4, 8], "act_bits": [2, 3, 8]},
        "bits_per": "layer",
        "keep_float": [],
    },
    # Float candidates, and 1-bit activations, also of tensors that a block shares with its shortcut.
    "mixed": {
        "axes": {"op": ["conv3x3", "sepconv3x3", "skip"], "width": [0.5, 1.0], "bits": [[4, "float"], ["float", 2],
                 ["float", "float"], [1, 1], [2, 1], [8, 8], [3, 1]]},
        "bits_per": "layer",
    },
    "float": {"axes": {"op": ["conv3x3", "bottleneck", "sepconv3x3", "skip"], "width": [0.5, 1.0]}},
}  # fmt: skip


@cache
def space(name: str) -> SearchSpace:
    if name not in _SPECS:
        return load_space(name)
    fixed = {"name": name, "backbone": "digits-resnet", "input": [1, 8, 8], "classes": 10}
    return space_of(parse_spec({**fixed, **_SPECS[name]}, name))


def images(n: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@cache
def supernet(name: str) -> Supernet:
    """Shared by tests, which take subnets and do not change it."""
    made = build(space(name), seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for norm in batch_norms(made):
            norm.weight.copy_(torch.rand(norm.weight.shape, generator=generator) + 0.5)
            norm.bias.copy_(torch.rand(norm.bias.shape, generator=generator) - 0.3)
            norm.running_mean.copy_(torch.randn(norm.bias.shape, generator=generator) * 0.1)
            norm.running_var.copy_(torch.rand(norm.bias.shape, generator=generator) + 0.5)
        made.body.fc.bias.copy_(torch.randn(10, generator=generator))
    if made.input_quantizers():
        calibrate_clips(made, images(6, seed=9))
    return made


def logits(path: Path, x: Tensor, *, optimized: bool = False) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x.numpy()})[0]


class Graph:
    """Initializers and constants by name, and the producer of each tensor."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        graph = self.model.graph
        self.constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.maker = {out: node for node in graph.node for out in node.output}

    def layers(self) -> list[Any]:
        return [node for node in self.model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]

    def chain(self, tensor: str) -> list[Any]:
        """The quantizer nodes that produce a tensor, last first, back to a constant, a layer or an activation."""
        found = []
        if tensor in self.maker and self.maker[tensor].op_type == "Max" and len(self.maker[tensor].input) == 1:
            tensor = self.maker[tensor].input[0]
        while tensor in self.maker and self.maker[tensor].op_type in (
            "DequantizeLinear", "Clip", "QuantizeLinear", "Transpose"
        ):  # fmt: skip
            found.append(self.maker[tensor])
            tensor = found[-1].input[0]
        return found

    def weight(self, layer: Any) -> tuple[list[str], np.ndarray]:
        """Operator types between a layer and its stored weight, and that weight."""
        nodes = self.chain(layer.input[1])
        stored = nodes[-1].input[0] if nodes else layer.input[1]
        return [node.op_type for node in nodes], self.constants[stored]

    def clip(self, nodes: list[Any]) -> tuple[int, int]:
        (node,) = (node for node in nodes if node.op_type == "Clip")
        return int(self.constants[node.input[1]]), int(self.constants[node.input[2]])
