"""One Transformer for encoders and decoders (Vaswani et al., 2017, arXiv:1706.03762).

Shapes: B batch, T time, D hidden, N heads.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from lumbre.config import Choice
from lumbre.errors import ConfigError, ModelError, Problem
from lumbre.models.attention import Attention, build_mask
from lumbre.models.layers import Activation, Mlp, NormKind, build_norm
from lumbre.models.position import PositionConfig, Rotation


class ModelConfig(Choice):
    """Which model is trained."""

    @abstractmethod
    def build(self, vocab_size: int | None = None) -> nn.Module:
        """Return the trunk with fresh weights, a pure function of torch's seed."""


class TransformerConfig(ModelConfig):
    """A stack of equal blocks: an encoder, or a decoder where `causal` is true."""

    type: Literal["transformer"] = "transformer"
    causal: bool
    """Whether a token sees the past alone (a decoder), or both sides (an encoder)."""
    vocab_size: PositiveInt | None = None
    """Number of token embeddings; left out, the tokenizer's size."""
    hidden_size: PositiveInt
    """Width of the residual stream."""
    num_layers: PositiveInt
    """Number of blocks."""
    num_heads: PositiveInt
    """Attention heads (queries)."""
    num_kv_heads: PositiveInt | None = None
    """Heads of keys and values, each shared by num_heads / num_kv_heads queries; left out, num_heads."""
    head_size: PositiveInt | None = None
    """Width of a head; left out, hidden_size / num_heads."""
    intermediate_size: PositiveInt | None = None
    """Width inside the MLP; left out, 4 x hidden_size."""
    position: PositionConfig
    """How the model knows the order of its tokens."""
    norm: NormKind = "layernorm"
    """LayerNorm or RMSNorm."""
    norm_position: Literal["pre", "post"] = "pre"
    """Normalise what a sublayer reads (pre), or the sum after it (post, as the first Transformers)."""
    norm_epsilon: PositiveFloat = 1e-5
    """Added to the variance before its root is taken."""
    activation: Activation = "gelu"
    """The MLP's nonlinearity; gelu is exact, gelu_tanh the approximation of GPT-2."""
    gated_mlp: bool = False
    """Whether the activation gates a second product (SwiGLU with silu, GeGLU with gelu)."""
    bias: bool = True
    """Whether linear maps and LayerNorms have biases."""
    attention_bias: bool | None = None
    """Whether attention's linear maps have biases; left out, as `bias`."""
    token_types: NonNegativeInt = 0
    """Number of segment embeddings added to the input; BERT has 2."""
    embedding_norm: bool = False
    """Whether the sum of the embeddings is normalised before the first block."""
    first_attention_norm: bool = True
    """Whether the first block's attention has a norm of its own; ModernBERT's reads the embedding norm's."""
    final_norm: bool | None = None
    """Whether the last block's output is normalised; left out, with pre-norm yes and with post-norm no."""
    tied_embeddings: bool = True
    """Whether the head's decoder is the token embedding itself."""
    head_transform: bool = False
    """Whether the head has a linear map, activation and norm before the decoder, as BERT's."""
    head_bias: bool = False
    """Whether the head's decoder has a bias."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of fresh weights."""
    scaled_residual_init: bool = False
    """Whether maps into the residual stream start smaller by sqrt(2 x num_layers), as GPT-2's."""

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.head_size or self.hidden_size // self.num_heads

    @property
    def mlp_width(self) -> int:
        """Width inside the MLP."""
        return self.intermediate_size or 4 * self.hidden_size

    @property
    def has_attention_bias(self) -> bool:
        """Whether attention's linear maps have biases."""
        return self.bias if self.attention_bias is None else self.attention_bias

    @property
    def has_final_norm(self) -> bool:
        """Whether the last block's output is normalised."""
        return self.norm_position == "pre" if self.final_norm is None else self.final_norm

    @property
    def max_length(self) -> int | None:
        """Longest sequence in tokens that the model takes; None where there is no limit."""
        return self.position.limit

    def problems(self) -> Iterator[Problem]:
        """Yield sizes that do not divide, with the arithmetic."""
        N, K, D = self.num_heads, self.kv_heads, self.hidden_size
        if self.head_size is None and D % N:
            fault = f"{N} heads do not divide hidden_size {D} ({D} = {N} x {D // N} + {D % N})"
            fits = _nearest_divisor(D, N)
            yield Problem("num_heads", fault, f"use num_heads {fits}, or set head_size")
            return
        if N % K:
            fault = f"{K} key/value heads do not divide {N} heads"
            yield Problem("num_kv_heads", fault, f"use {_nearest_divisor(N, K)}")
        if not self.first_attention_norm and not (self.norm_position == "pre" and self.embedding_norm):
            fault = "without it the first attention reads what the embedding norm gives, and there is none"
            if self.norm_position == "post":
                fault = "with post-norm, attention's norm comes after it, in the first block too"
            remedy = "use true, or norm_position: pre with embedding_norm: true"
            yield Problem("first_attention_norm", fault, remedy)
        yield from self.position.misfits(D, N, self.head_width)

    def build(self, vocab_size: int | None = None) -> "Transformer":
        """Return the trunk; `vocab_size` is the tokenizer's, and the config's own may be larger.

        Raises ConfigError when neither is known, or the config's is too small.
        """
        problems = list(self.all_problems("model."))
        own = self.vocab_size
        if own is None and vocab_size is None:
            problems.append(Problem("model.vocab_size", "the size of the vocabulary is not known", "set it"))
        if own is not None and vocab_size is not None and own < vocab_size:
            fault = f"{own} embeddings are too few for the tokenizer's {vocab_size} tokens"
            problems.append(Problem("model.vocab_size", fault, "leave the key out, or train a smaller one"))
        if problems:
            raise ConfigError(problems)
        return Transformer(self.model_copy(update={"vocab_size": own or vocab_size}))


class Block(nn.Module):
    """Attention, then the MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        D = config.hidden_size
        self.pre_norm = config.norm_position == "pre"
        self.attention = Attention(
            D,
            config.num_heads,
            config.kv_heads,
            config.head_width,
            causal=config.causal,
            bias=config.has_attention_bias,
        )
        self.attention_norm = (
            build_norm(config.norm, D, config.norm_epsilon, config.bias)
            if layer or config.first_attention_norm
            else nn.Identity()
        )
        self.mlp = Mlp(D, config.mlp_width, config.activation, config.gated_mlp, config.bias)
        self.mlp_norm = build_norm(config.norm, D, config.norm_epsilon, config.bias)

    def forward(self, x_BTD: Tensor, rotation: Rotation | None, mask_BNTT: Tensor | None) -> Tensor:
        """Map x_BTD to the next block's input."""
        if self.pre_norm:
            x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotation, mask_BNTT)
            x_BTD = x_BTD + self.mlp(self.mlp_norm(x_BTD))
        else:
            x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, rotation, mask_BNTT))
            x_BTD = self.mlp_norm(x_BTD + self.mlp(x_BTD))
        return x_BTD


class Transformer(nn.Module):
    """The trunk: embeddings, blocks, and the final norm where there is one."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None
        self.config = config
        D = config.hidden_size
        self.embedding = nn.Embedding(config.vocab_size, D)
        self.position = config.position.build(D, config.num_heads, config.head_width)
        self.token_type_embedding = nn.Embedding(config.token_types, D) if config.token_types else None
        self.embedding_norm = (
            build_norm(config.norm, D, config.norm_epsilon, config.bias) if config.embedding_norm else None
        )
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.final_norm = (
            build_norm(config.norm, D, config.norm_epsilon, config.bias) if config.has_final_norm else None
        )
        init_weights(self, config.init_std)
        if config.scaled_residual_init:
            for name, parameter in self.blocks.named_parameters():
                if name.endswith(("attention.output.weight", "mlp.down.weight")):
                    nn.init.normal_(parameter, std=config.init_std / (2 * config.num_layers) ** 0.5)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states x_BTD of input_ids [B, T].

        `document_ids` (0 padding, 1.. within the row) keeps packed documents apart, and their positions
        restart unless `position_ids` says otherwise; `attention_mask` (1 keep, 0 padding) is the plain form.
        Raises ModelError when T is beyond the positions that the model has.
        """
        T, limit = input_ids.shape[1], self.config.max_length
        if limit is not None and limit < T:
            raise ModelError(
                f"a sequence of {T} tokens is longer than the {limit} positions of the model; "
                "shorten it, or train with a larger position.max_length"
            )
        if position_ids is None:
            position_ids = _positions(input_ids, document_ids)
        if attention_mask is not None:
            kept = attention_mask != 0
            document_ids = kept.int() if document_ids is None else document_ids.masked_fill(~kept, 0)
        x_BTD: Tensor = self.embedding(input_ids)
        if self.token_type_embedding is not None:
            types = input_ids.new_zeros(1, 1) if token_type_ids is None else token_type_ids
            x_BTD = x_BTD + self.token_type_embedding(types)
        x_BTD = self.position.embed(x_BTD, position_ids)
        if self.embedding_norm is not None:
            x_BTD = self.embedding_norm(x_BTD)
        rotation = self.position.rotation(position_ids)
        mask_BNTT = build_mask(x_BTD, document_ids, self.position.bias(position_ids), self.config.causal)
        for block in self.blocks:
            x_BTD = block(x_BTD, rotation, mask_BNTT)
        if self.final_norm is not None:
            x_BTD = self.final_norm(x_BTD)
        return x_BTD


def init_weights(module: nn.Module, std: float) -> None:
    """Draw every linear map and embedding below `module` from a normal, and zero the biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)


def _positions(input_ids: Tensor, document_ids: Tensor | None) -> Tensor:
    time_T = torch.arange(input_ids.shape[1], device=input_ids.device)
    if document_ids is None:
        return time_T[None]
    starts_BT = torch.ones_like(document_ids, dtype=torch.bool)
    starts_BT[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return time_T - torch.where(starts_BT, time_T, 0).cummax(dim=1).values


def _nearest_divisor(whole: int, wanted: int) -> int:
    return min(
        (part for part in range(1, whole + 1) if whole % part == 0), key=lambda part: abs(part - wanted)
    )
