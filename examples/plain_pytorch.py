"""Converts a trained CNN to a supernet of bit-widths; searches, fine-tunes and exports it in plain PyTorch."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import spos_quant as sq

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
# The first part trains weights, the second compares architectures, the third is for the final accuracy only.
train, val, test = [(images[a:b], labels[a:b]) for a, b in ((0, 1200), (1200, 1500), (1500, 1797))]


def step(model, optimizer):
    """One optimizer step on a random batch."""
    batch = torch.randint(len(train[0]), (64,))
    loss = F.cross_entropy(model(train[0][batch]), train[1][batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def accuracy(model, split):
    """Top-1 accuracy in evaluation mode."""
    model.eval()
    return float((model(split[0]).argmax(1) == split[1]).float().mean())


def layer(inputs, outputs, stride=1):
    """A convolution with BatchNorm and ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


# A float network, trained as usual.
torch.manual_seed(0)
body = [layer(1, 16), layer(16, 32, 2), layer(32, 32), layer(32, 32)]
model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for _ in range(120):
    step(model, optimizer)
print(f"float: {accuracy(model, val):.1%} on val")

# Inner layers get 2, 4 or 8 bits; the first and the last layer stay float. `model` itself is not changed.
supernet = sq.quantize(model, train[0][:64], bits=[(2, 2), (4, 4), (8, 8)])
print(f"{supernet.space.size} architectures")

# One random path per step.
rng = np.random.default_rng(0)
optimizer = torch.optim.SGD(supernet.param_groups(weight_decay=1e-4), lr=0.02, momentum=0.9)
supernet.train()
for _ in range(90):
    supernet.activate(supernet.space.sample(rng))
    step(supernet, optimizer)

result = sq.search(
    supernet,
    evaluate=lambda path: accuracy(path, val),
    recalibrate=[train[0][:512]],  # BatchNorm statistics are recomputed for every path
    config=sq.SearchConfig(population=6, generations=3, parents=3, crossover=3, mutation=2),
    bitops_budget="30%",
)
print("found", supernet.space.describe(result.best), f"at {supernet.cost(result.best)['bitops']:,} BitOps")

# The winner as a plain Brevitas model, fine-tuned like any other.
subnet = supernet.subnet(result.best).train()
optimizer = torch.optim.SGD(subnet.parameters(), lr=0.01, momentum=0.9)
for _ in range(40):
    step(subnet, optimizer)
print(f"quantized: {accuracy(subnet, val):.1%} on val, {accuracy(subnet, test):.1%} on test")
written = sq.export_onnx(subnet, test[0], "model.onnx")
print(f"{written['path']}: {written['bytes']:,} bytes, labels agree on {written['agreement']:.1%}")
