"""How fresh weights are drawn, as the papers did.

Stacked maps (experts [E, out, in]) are drawn like one linear map each.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from lumbre.models.position import Relative

Init = Literal["normal", "truncated_normal", "xavier", "t5"]


def init_weights(module: nn.Module, scheme: Init, std: float) -> None:
    """Draw every linear map and embedding below `module`, and zero the biases.

    - normal: N(0, std) (GPT-2, Llama).
    - truncated_normal: N(0, std) cut at 2 std (BERT, Devlin et al.'s code).
    - xavier: Glorot's uniform for each stored matrix, queries, keys and values as one like torch's
      Transformer; embeddings N(0, hidden^-0.5) (Vaswani et al., 2017).
    - t5: N(0, in^-0.5), embeddings and an untied head N(0, 1), queries smaller by the root of the head size,
      which scores are not divided by (Raffel et al., 2020).
    """
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif isinstance(part, nn.Embedding):
                _draw_embedding(weight, scheme, std)
            elif isinstance(part, nn.Linear) or weight.dim() >= 3:
                _draw_map(weight, scheme, std)
    for part in module.modules():
        if isinstance(part, Relative) and scheme in ("xavier", "t5"):
            nn.init.normal_(part.embedding.weight, std=part.hidden_size**-0.5)
        if scheme == "t5":
            _to_t5(part)


@torch.no_grad()
def scale_residual_init(blocks: nn.Module, num_layers: int) -> None:
    """Make the maps into the residual stream smaller by sqrt(2 x num_layers), as GPT-2's (2.3)."""
    for name, weight in blocks.named_parameters():
        if name.endswith(("attention.output.weight", ".down.weight", ".down")):
            weight.mul_((2 * num_layers) ** -0.5)


def _draw_map(weight: Tensor, scheme: Init, std: float) -> None:
    rows, columns = weight.shape[-2:]
    match scheme:
        case "normal":
            nn.init.normal_(weight, std=std)
        case "truncated_normal":
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
        case "xavier":
            bound = (6 / (rows + columns)) ** 0.5
            nn.init.uniform_(weight, -bound, bound)
        case "t5":
            nn.init.normal_(weight, std=columns**-0.5)


def _draw_embedding(weight: Tensor, scheme: Init, std: float) -> None:
    match scheme:
        case "xavier":
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        case "t5":
            nn.init.normal_(weight)
        case _:
            _draw_map(weight, scheme, std)


@torch.no_grad()
def _to_t5(part: Any) -> None:
    """Rescale what T5 draws otherwise than by the number of inputs: queries, and the head's decoder."""
    queries = getattr(part, "qkv", None) or getattr(part, "query", None)
    if isinstance(queries, nn.Linear):
        queries.weight[: part.num_heads * part.head_size] *= part.head_size**-0.5
    decoder = getattr(part, "decoder", None)
    if isinstance(decoder, nn.Linear):
        nn.init.normal_(decoder.weight)
