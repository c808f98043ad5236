"""What an epoch of a training is like: mean loss and accuracy over its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

EpochRecord = dict[str, Any]


@dataclass
class Meter:
    """Mean loss and accuracy since the last record."""

    loss: float = 0.0
    right: float = 0.0
    n: int = 0
    skipped: int = 0
    last: float = 0.0

    def add(self, loss: Tensor, right: Tensor, n: int) -> None:
        """Counts a batch of `n` images by its mean loss and the number of right answers."""
        self.last = float(loss)
        self.loss += self.last * n
        self.right += float(right)
        self.n += n

    def skip(self) -> None:
        """Counts a step that was left out."""
        self.skipped += 1

    def record(self, epoch: float, lr: float) -> EpochRecord:
        """What the epoch, or its part, was like; starts the next."""
        n = max(self.n, 1)
        made = {"epoch": epoch, "loss": self.loss / n, "top1": self.right / n, "lr": lr, "skipped": self.skipped}
        self.loss = self.right = 0.0
        self.n = self.skipped = 0
        return made
