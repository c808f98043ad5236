"""Trains a supernet with a Lightning Trainer: a callback activates one path per step. Needs `lightning`."""

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import spos_quant as sq

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)


class Classifier(lightning.LightningModule):
    """An ordinary LightningModule, independent of paths."""

    def __init__(self, network, parameters):
        super().__init__()
        self.network, self.groups = network, parameters

    def training_step(self, batch, _):
        """The loss of a batch."""
        x, y = batch
        return F.cross_entropy(self.network(x), y)

    def configure_optimizers(self):
        """SGD."""
        return torch.optim.SGD(self.groups, lr=0.05, momentum=0.9)


class SinglePath(lightning.Callback):
    """Activates a random path before every batch. The path depends on (seed, step) only, so resuming is exact."""

    def __init__(self, supernet, seed=0):
        self.supernet, self.seed = supernet, seed

    def on_train_batch_start(self, trainer, *_):
        """Activates the path of this step."""
        rng = np.random.default_rng([self.seed, trainer.global_step])
        self.supernet.activate(self.supernet.space.sample(rng))


torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, 2, 1),
    nn.ReLU(),
    nn.Conv2d(32, 32, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(32 * 16, 10),
)
supernet = sq.quantize(model, images[:64], bits=[(2, 2), (4, 4), (8, 8)])
trainer = lightning.Trainer(
    max_epochs=5,
    accelerator="cpu",
    callbacks=[SinglePath(supernet)],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
loader = DataLoader(TensorDataset(images[:1200], labels[:1200]), batch_size=64, shuffle=True)
trainer.fit(Classifier(supernet, supernet.param_groups(weight_decay=1e-4)), loader)

result = sq.search(
    supernet,
    evaluate=lambda path: (path(images[1200:]).argmax(1) == labels[1200:]).float().mean(),
    config=sq.SearchConfig(population=4, generations=2, parents=2, crossover=2, mutation=2),
    bitops_budget="50%",
)
score = next(score for found, _, score in result.evaluations if found == result.best)
print(f"{supernet.space.describe(result.best)}: {score:.1%}, {supernet.cost(result.best)['bitops']:,} BitOps")
