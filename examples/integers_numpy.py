"""Executes a network from its `integers` file in plain NumPy; a C program or an FPGA has to do only what `run` does."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

import spos_quant as sq
from spos_quant.export.integer.file import IntegerModel


def sums(x, weight, window, groups):
    """Convolution or matrix product without bias."""
    if window is None:
        return x @ weight.T
    padded = np.pad(x, ((0, 0), (0, 0), window["padding"][::2], window["padding"][1::2]))
    patches = np.lib.stride_tricks.sliding_window_view(padded, window["kernel"], (2, 3))
    patches = patches[:, :, :: window["stride"][0], :: window["stride"][1]]
    parts = zip(np.split(patches, groups, 1), np.split(weight, groups), strict=True)
    return np.concatenate([np.einsum("nchwij,ocij->nohw", part, kernel) for part, kernel in parts], 1)


def column(values, x):
    """Reshapes one value per channel for broadcasting with `[n, C, ...]`."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


def codes(op, x):
    """Rounds half to even, then saturates at the output range of the operation, which includes its ReLU."""
    return np.clip(np.rint(x) + op["qparams"]["zero_point"], op["output_min"], op["output_max"]).astype(np.int64)


def run(graph, tensors, images):
    """Logits of images `[n, C, H, W]`. Covers a ResNet; `spos_quant.export.integer.reference` covers all operations."""
    values, tensor_qparams = {graph["input"]: images}, {graph["input"]: None}

    def real(name):
        if (qparams := tensor_qparams[name]) is None:
            return values[name]
        return np.float32(values[name] - qparams["zero_point"]) * np.float32(qparams["scale"])

    for op in graph["ops"]:
        names, qparams = op["inputs"], op["qparams"]
        own = {key: tensors[item["tensor"]] for key, item in op.items() if isinstance(item, dict) and "tensor" in item}
        scale = None if qparams is None else np.float32(qparams["scale"])
        if op["op"] == "Quantize":
            made = codes(op, real(names[0]) / scale)
        elif op["op"] == "Layer":
            x = values[names[0]] - tensor_qparams[names[0]]["zero_point"]
            total = sums(x, own["weight"].astype(np.int64) * op["factor"], op["window"], op["groups"])
            total = np.float32(total + column(own["bias"], total))
            unit = column(np.float32(tensor_qparams[names[0]]["scale"]) * own["scale"], total)
            wide = op["weight_bits"] is None  # a first layer that was kept float needs a division, as in ONNX
            made = total * unit if scale is None else total / (scale / unit) if wide else total * (unit / scale)
            made = made if scale is None else codes(op, made)
        elif op["op"] == "FloatLayer":
            made = sums(real(names[0]), own["weight"], op["window"], op["groups"]) + own["bias"]
        elif op["op"] == "Add":
            made = codes(op, (real(names[0]) + real(names[1])) / scale)
        elif op["op"] == "Mean":
            made = real(names[0]).mean((2, 3), keepdims=op["keeps"])  # stays real: the last layer is float here
        else:
            raise NotImplementedError(op["op"])
        values[op["output"]], tensor_qparams[op["output"]] = made, qparams
    return real(graph["output"])


if __name__ == "__main__":
    space = sq.load_space("digits-mixed")
    model, images = sq.build(space).subnet(space.uniform(8, 8)), torch.rand(64, 1, 8, 8, generator=torch.Generator())
    sq.export_onnx(model, images, "model.safetensors", format="integers", check=[(images[:8], None)])
    with safe_open("model.safetensors", framework="np") as file:
        graph = json.loads(file.metadata()["spos_quant"])["graph"]
    logits = run(graph, load_file("model.safetensors"), images.numpy())
    assert np.allclose(logits, IntegerModel(Path("model.safetensors"))(images.numpy()), atol=1e-5)
    print(len(graph["ops"]), "operations, labels of the first images:", logits.argmax(1)[:8])
