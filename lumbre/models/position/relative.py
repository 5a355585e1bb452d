"""T5's bias: a trained scalar per head and range of distances (Raffel et al., 2019, arXiv:1910.10683, 2.1).

Shapes: B batch, Q queries, T keys, N heads, L distances.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from lumbre.errors import Problem
from lumbre.models.position.base import ALL, Position, PositionConfig


class RelativeConfig(PositionConfig):
    """A trained bias on the attention scores for each range of distances, in each head: T5."""

    type: Literal["relative"] = "relative"
    num_buckets: int = Field(32, ge=4)
    """Ranges of distances; half of a side's are single distances, the others grow as their logarithm."""
    max_distance: PositiveInt = 128
    """From this distance in tokens on, all share the last bucket."""

    def problems(self) -> Iterator[Problem]:
        """Yield a distance that leaves the logarithm no room."""
        if self.max_distance <= self.num_buckets // 2:
            fault = f"{self.num_buckets // 2} buckets already have one distance each up to there"
            yield Problem(
                "max_distance", fault, f"use more than {self.num_buckets // 2}, or fewer num_buckets"
            )

    def build(self, hidden_size: int, num_heads: int, head_size: int, causal: bool) -> "Relative":
        """Return the bias, its buckets all on the side of the past where causal."""
        return Relative(self, hidden_size, num_heads, causal)


class Relative(Position):
    """A table of biases by bucket and head, the same in every layer."""

    def __init__(self, config: RelativeConfig, hidden_size: int, num_heads: int, causal: bool) -> None:
        super().__init__()
        self.num_buckets = config.num_buckets
        self.max_distance = config.max_distance
        self.causal = causal
        self.hidden_size = hidden_size
        """Width of the model, by which the fresh table is drawn."""
        self.embedding = nn.Embedding(config.num_buckets, num_heads)

    @property
    def per_head(self) -> Iterator[nn.Parameter]:
        """The table."""
        yield from self.embedding.parameters()

    def bias(self, query_positions_BQ: Tensor, key_positions_BT: Tensor, heads: slice = ALL) -> Tensor:
        """Return bias_BNQT, a function of key's position - query's position."""
        far = self.max_distance
        distance_L = torch.arange(-far, far + 1, device=query_positions_BQ.device)
        bias_LN = self.embedding(buckets(distance_L, self.num_buckets, far, self.causal))[:, heads]
        bias_LN = bias_LN.to(torch.promote_types(bias_LN.dtype, torch.float32))
        distance_BQT = key_positions_BT[:, None, :] - query_positions_BQ[:, :, None]
        bias_BQTN = F.embedding(distance_BQT.clamp(-far, far) + far, bias_LN)
        return bias_BQTN.permute(0, 3, 1, 2).contiguous()


def buckets(distance_L: Tensor, num_buckets: int, max_distance: int, causal: bool) -> Tensor:
    """Return the bucket of each key's position - query's position; not causal, each side has half of them."""
    side_L = torch.zeros_like(distance_L)
    if causal:
        distance_L = (-distance_L).clamp(min=0)
    else:
        num_buckets //= 2
        side_L = (distance_L > 0) * num_buckets
        distance_L = distance_L.abs()
    single = num_buckets // 2
    # Float32 and in the authors' order: a rounding would move a distance into the next bucket.
    growth_L = torch.log(distance_L.clamp(min=single).float() / single) / math.log(max_distance / single)
    ranged_L = single + (growth_L * (num_buckets - single)).long()
    return side_L + torch.where(distance_L < single, distance_L, ranged_L.clamp(max=num_buckets - 1))
