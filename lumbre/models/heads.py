"""Heads on the trunk: the language-model head, plain (GPT-2, Llama) or with a transform (BERT).

Shapes: B batch, T time, D hidden, V vocabulary, M predicted positions.
"""

from typing import NamedTuple

from torch import Tensor, nn

from lumbre.models.layers import ACTIVATIONS, build_norm
from lumbre.models.transformer import Transformer, TransformerConfig, init_weights


class ModelOutput(NamedTuple):
    """What a language model returns."""

    logits: Tensor
    """logits_BTV, or logits_MV of the predicted positions, in row order."""
    last_hidden_state: Tensor
    """The trunk's output x_BTD."""


class LanguageModelHead(nn.Module):
    """Hidden states to logits."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None
        D = config.hidden_size
        self.activation = ACTIVATIONS[config.activation]
        self.dense = nn.Linear(D, D, bias=config.bias) if config.head_transform else None
        self.norm = (
            build_norm(config.norm, D, config.norm_epsilon, config.bias) if config.head_transform else None
        )
        self.decoder = nn.Linear(D, config.vocab_size, bias=config.head_bias)
        init_weights(self, config.init_std)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to logits [..., V]."""
        if self.dense is not None and self.norm is not None:
            x = self.norm(self.activation(self.dense(x)))
        logits: Tensor = self.decoder(x)
        return logits


class LanguageModel(nn.Module):
    """A trunk with the language-model head; tied, the decoder's weight is the embedding's own parameter."""

    def __init__(self, trunk: Transformer) -> None:
        super().__init__()
        self.config = trunk.config
        self.trunk = trunk
        self.head = LanguageModelHead(trunk.config)
        if trunk.config.tied_embeddings:
            self.head.decoder.weight = trunk.embedding.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        predict: Tensor | None = None,
    ) -> ModelOutput:
        """Return logits and hidden states of input_ids [B, T]; the other inputs are the Transformer's.

        `predict` (bool [B, T]) runs the head where it is true alone, and the logits are [M, V].
        """
        x_BTD = self.trunk(input_ids, attention_mask, position_ids, document_ids, token_type_ids)
        return ModelOutput(self.head(x_BTD if predict is None else x_BTD[predict]), x_BTD)
