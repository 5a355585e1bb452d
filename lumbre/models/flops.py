"""How much a model computes and holds: training FLOPs per token, and parameters.

Counted are matrix products (2 FLOPs per multiply-add; backward is twice forward), with attention over the
full square and nothing recomputed: Chowdhery et al., 2022, arXiv:2204.02311, appendix B.
"""

import torch

from lumbre.models.config import TransformerConfig
from lumbre.models.heads import LanguageModel
from lumbre.models.mixture import flops_per_token as mixture_products

FORWARD_AND_BACKWARD = 3


def flops_per_sample(
    config: TransformerConfig, seq_length: int, decoder_length: int = 0, targets_per_token: float = 1.0
) -> float:
    """Return the training FLOPs of one sample: `seq_length` tokens, and `decoder_length` of a decoder's.

    `targets_per_token` is the share of positions that predict, at which the head and the end of the last
    block run: 1 for causal language models, the mask probability for masked ones. An encoder-decoder's head
    runs on the decoder's tokens.
    """
    targets = targets_per_token * (decoder_length if config.num_decoder_layers else seq_length)
    products = _trunk(config, seq_length, decoder_length, targets) + targets * _head(config)
    return FORWARD_AND_BACKWARD * 2.0 * products


def pair_flops_per_sample(config: TransformerConfig, seq_length: int, targets_per_token: float) -> float:
    """Return the training FLOPs of one sample of a model with a pair head, which reads its first token."""
    D, targets = config.hidden_size, targets_per_token * seq_length
    products = _trunk(config, seq_length, 0, targets + 1) + targets * _head(config) + D * D + 2 * D
    return FORWARD_AND_BACKWARD * 2.0 * products


def electra_flops_per_sample(
    config: TransformerConfig, generator: TransformerConfig, seq_length: int, targets_per_token: float
) -> float:
    """Return the training FLOPs of one sample of ELECTRA: generator, what it draws, and the detector."""
    D, targets = config.hidden_size, targets_per_token * seq_length
    products = _trunk(generator, seq_length, 0, targets) + targets * _head(generator)
    products += _trunk(config, seq_length, 0, seq_length) + seq_length * (D * D + D)
    drawn = targets * generator.embedding_width * _vocab_size(generator)
    return FORWARD_AND_BACKWARD * 2.0 * products + 2.0 * drawn


def _trunk(config: TransformerConfig, seq_length: int, decoder_length: int, targets: float) -> float:
    """Return the products of a trunk's forward pass, so many of its tokens asked for."""
    T, S = seq_length, decoder_length
    D, E = config.hidden_size, config.embedding_width
    products = float(T * E * D if E != D else 0)
    products += config.num_layers * T * (_attention(config, T) + _mlp(config))
    if config.num_decoder_layers:
        block = S * (_attention(config, S) + _mlp(config)) + _cross_attention(config, S, T)
        products += config.num_decoder_layers * block
    elif config.mixture is None:
        # After attending, the last block goes on with the targets alone.
        after = config.num_heads * config.head_width * D + _mlp(config)
        products -= (T - targets) * after
    return products


def _head(config: TransformerConfig) -> float:
    """Return the products of a language-model head's forward pass at one target."""
    D, E, V = config.hidden_size, config.embedding_width, _vocab_size(config)
    return E * V + (D * E if config.head_transform else 0)


def flops_per_token(
    config: TransformerConfig, seq_length: int, decoder_length: int = 0, targets_per_token: float = 1.0
) -> float:
    """Return the training FLOPs per token, a sample's over its tokens."""
    sample = flops_per_sample(config, seq_length, decoder_length, targets_per_token)
    return sample / (seq_length + decoder_length)


def parameter_count(config: TransformerConfig) -> int:
    """Return how many numbers are trained, trunk and head, shared ones once."""
    _vocab_size(config)
    with torch.device("meta"):
        model = LanguageModel(config.build())
    return sum(parameter.numel() for parameter in model.parameters())


def _attention(config: TransformerConfig, length: int) -> float:
    D, N, K, H = config.hidden_size, config.num_heads, config.kv_heads, config.head_width
    return D * (N + 2 * K) * H + N * H * D + 2 * length * N * H


def _cross_attention(config: TransformerConfig, queries: int, keys: int) -> float:
    D, N, K, H = config.hidden_size, config.num_heads, config.kv_heads, config.head_width
    return queries * 2 * D * N * H + keys * 2 * D * K * H + 2 * queries * keys * N * H


def _mlp(config: TransformerConfig) -> float:
    D, width = config.hidden_size, config.mlp_width
    if config.mixture is not None:
        return mixture_products(config.mixture, D, width, config.gated_mlp)
    return (3 if config.gated_mlp else 2) * D * width


def _vocab_size(config: TransformerConfig) -> int:
    assert config.vocab_size is not None, "take the config of a built trunk"
    return config.vocab_size
