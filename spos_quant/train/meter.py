"""Mean loss and accuracy of a training epoch over its images."""

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
        """Adds a batch of `n` images with its mean loss and number of correct predictions."""
        self.last = float(loss)
        self.loss += self.last * n
        self.right += float(right)
        self.n += n

    def skip(self) -> None:
        """Counts a skipped step."""
        self.skipped += 1

    def record(self, epoch: float, lr: float) -> EpochRecord:
        """The record of the epoch, or of the part since the last record; resets the means."""
        n = max(self.n, 1)
        made = {"epoch": epoch, "loss": self.loss / n, "top1": self.right / n, "lr": lr, "skipped": self.skipped}
        self.loss = self.right = 0.0
        self.n = self.skipped = 0
        return made
