"""What is learned, as the loop sees it: batches, loss terms, and the protocol of objectives and tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

Batch = Mapping[str, torch.Tensor]


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on the device, which the host does not wait for."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


@dataclass(frozen=True)
class Term:
    """One part of a loss: a sum over targets, how many they are, and its weight in the whole."""

    sum: torch.Tensor
    count: float
    weight: float = 1.0


@dataclass(frozen=True)
class LossOutput:
    """The loss terms of one micro batch, by name; the first is the one that is reported as `loss`."""

    terms: dict[str, Term]
    losses: torch.Tensor | None = None
    """Each target's own loss [M] of that first term, row after row, without a gradient, if they are known."""


class Learner(Protocol):
    """What is learned: an objective of pretraining or a task of fine-tuning."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of targets of each term, before the forward pass."""
        ...

    def tokens(self, batch: Batch) -> int:
        """Return the number of tokens in the batch, padding not counted."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Run the model; return each term as a sum."""
        ...


def combined(terms: Mapping[str, Term], totals: Mapping[str, float]) -> torch.Tensor:
    """Return a micro batch's part of the step's loss: each term over its own count in the whole step."""
    parts = [terms[name].sum * (terms[name].weight / max(total, 1.0)) for name, total in totals.items()]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()


def total(parts: Sequence[torch.Tensor]) -> float:
    """Return the sum of a term over micro batches, added up in float64."""
    return float(parts[0] if len(parts) == 1 else torch.stack(list(parts)).double().sum())
