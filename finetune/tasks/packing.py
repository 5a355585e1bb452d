"""Packing: several sequences in one row, told apart by positions that begin again.

Attention keeps them apart where a model reads its rows so: transformers' masks look for such positions where
there is no attention mask and no cache, and our own trunks too. Shapes: B batch, T time, V vocabulary.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lumbre.errors import ModelError

from .base import Row


def packed(rows: Sequence[Row], capacity: int) -> list[Row]:
    """Return the rows put together in their order, each where it leaves the least room (best fit).

    `position_ids` begin again with each; no row is longer than `capacity`, unless one was before.
    """
    bins: list[list[Row]] = []
    rooms: list[tuple[int, int]] = []
    for row in rows:
        length = len(row["input_ids"])
        at = bisect_left(rooms, (length, -1))
        room, number = rooms.pop(at) if at < len(rooms) else (capacity, len(bins))
        if number == len(bins):
            bins.append([])
        bins[number].append(row)
        if room > length:
            insort(rooms, (room - length, number))
    return [_joined(one) for one in bins]


def check_packing(model: Any) -> None:
    """Raise ModelError where a model's tokens see other sequences of their row."""
    lengths = (3, 4)
    first_BT = torch.tensor([[1, 2, 3, 4, 5, 6, 7], [3, 1, 2, 7, 6, 5, 4]], device=model.device)
    other_BT = first_BT.clone()
    other_BT[:, : lengths[0]] = 8
    position_ids = torch.cat([torch.arange(length) for length in lengths]).expand(2, -1).to(model.device)
    training = model.training
    model.eval()
    with torch.no_grad():
        last, other = (
            run_packed(model, ids_BT, position_ids)[:, lengths[0] :] for ids_BT in (first_BT, other_BT)
        )
    model.train(training)
    if not torch.allclose(last, other, rtol=1e-4, atol=1e-5):
        kind = model.config.model_type
        raise ModelError(f"task.packing: models of type {kind} see beyond a conversation; set it to false")


def run_packed(model: nn.Module, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
    """Return the logits [B, T, V] of packed rows."""
    # A mask or a cache would hide the positions from what tells sequences apart.
    output = model(input_ids=input_ids, position_ids=position_ids, attention_mask=None, use_cache=False)
    logits_BTV: torch.Tensor = output.logits
    return logits_BTV


def _joined(rows: Sequence[Row]) -> Row:
    positions = np.concatenate([np.arange(len(row["input_ids"])) for row in rows])
    return {
        **{name: np.concatenate([row[name] for row in rows]) for name in rows[0]},
        "position_ids": positions,
    }
