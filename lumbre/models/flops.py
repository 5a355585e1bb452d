"""How much a model computes and holds: training FLOPs per token, and parameters.

Counted are matrix products (2 FLOPs per multiply-add; backward is twice forward), with attention over the
full square and nothing recomputed: Chowdhery et al., 2022, arXiv:2204.02311, appendix B.
"""

import torch

from lumbre.models.heads import LanguageModel
from lumbre.models.transformer import TransformerConfig

FORWARD_AND_BACKWARD = 3


def flops_per_token(config: TransformerConfig, seq_length: int, targets_per_token: float = 1.0) -> float:
    """Return the training FLOPs per token of sequences of `seq_length` tokens.

    `targets_per_token` is the share of positions at which the head runs: 1 for causal language models, the
    mask probability for masked ones.
    """
    D, H, V = config.hidden_size, config.head_width, _vocab_size(config)
    N, K = config.num_heads, config.kv_heads
    attention = D * (N + 2 * K) * H + N * H * D + 2 * seq_length * N * H
    mlp = (3 if config.gated_mlp else 2) * D * config.mlp_width
    head = D * V + (D * D if config.head_transform else 0)
    return FORWARD_AND_BACKWARD * 2.0 * (config.num_layers * (attention + mlp) + targets_per_token * head)


def parameter_count(config: TransformerConfig) -> int:
    """Return how many numbers are trained, trunk and head, shared ones once."""
    _vocab_size(config)
    with torch.device("meta"):
        model = LanguageModel(config.build())
    return sum(parameter.numel() for parameter in model.parameters())


def _vocab_size(config: TransformerConfig) -> int:
    assert config.vocab_size is not None, "take the config of a built trunk"
    return config.vocab_size
