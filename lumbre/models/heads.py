"""The language-model head on a trunk: plain (GPT-2, Llama), with a transform (BERT), or scaled (T5).

Shapes: B batch, T time, D hidden, E embedding, V vocabulary, M targets.
"""

from typing import Any, NamedTuple

from torch import Tensor, nn

from lumbre.models.config import TransformerConfig
from lumbre.models.encoder_decoder import EncoderDecoder
from lumbre.models.init import init_weights
from lumbre.models.layers import ACTIVATIONS, build_norm
from lumbre.models.loss import linear_cross_entropy
from lumbre.models.sampling import sample_linear
from lumbre.models.transformer import Transformer

NO_TARGET = -100
"""The label of a position that predicts nothing."""


class ModelOutput(NamedTuple):
    """What a model with its heads returns."""

    logits: Tensor
    """logits_BTV; with labels, none of them are kept and there are 0 rows. A detector's logits_BT."""
    last_hidden_state: Tensor
    """The trunk's output x_BTD, the decoder's where there are two stacks; with labels x_MD at targets."""
    loss: Tensor | None = None
    """With labels: the cross-entropy in nats, summed over targets."""
    balance: Tensor | None = None
    """The balance loss of the experts, summed over rows and layers, where there are experts."""
    losses: Tensor | None = None
    """With labels: the cross-entropy of each target [M], row after row; no gradient goes through it."""
    samples: Tensor | None = None
    """With labels and `uniform`: a token drawn for each target [M]."""
    pair_logits: Tensor | None = None
    """logits_B2 of a model with a pair head."""


class Decoder(nn.Linear):
    """Hidden states to logits, or straight to the loss, which never holds all logits."""

    def forward(self, x: Tensor, labels_M: Tensor | None = None, uniform_M: Tensor | None = None) -> Any:
        """Map [..., E] to logits [..., V]; with labels, x_ME to the cross-entropy, summed and of each.

        The third of these is None, or with `uniform_M` a token drawn for each target.
        """
        if labels_M is None:
            return super().forward(x)
        losses = linear_cross_entropy(x, self.weight, self.bias, labels_M)
        return *losses, None if uniform_M is None else sample_linear(x, self.weight, self.bias, uniform_M)


class LanguageModelHead(nn.Module):
    """Hidden states to logits or to the loss."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.vocab_size is not None
        D, E = config.hidden_size, config.embedding_width
        self.scale = D**-0.5 if config.scaled_head else 1.0
        self.activation = ACTIVATIONS[config.activation]
        self.dense = nn.Linear(D, E, bias=config.bias) if config.head_transform else None
        self.norm = (
            build_norm(config.norm, E, config.norm_epsilon, config.bias) if config.head_transform else None
        )
        self.decoder = Decoder(E, config.vocab_size, bias=config.head_bias)
        init_weights(self, config.init, config.init_std)

    def forward(self, x: Tensor, labels_M: Tensor | None = None, uniform_M: Tensor | None = None) -> Any:
        """Map [..., D] to logits [..., V]; with labels, x_MD to what the decoder makes of them."""
        if self.dense is not None and self.norm is not None:
            x = self.norm(self.activation(self.dense(x)))
        if self.scale != 1.0:
            x = x * self.scale
        return self.decoder(x, labels_M, uniform_M)


class LanguageModel(nn.Module):
    """A trunk with the language-model head; tied, the decoder's weight is the embedding's own parameter."""

    def __init__(self, trunk: Transformer | EncoderDecoder) -> None:
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
        labels: Tensor | None = None,
        uniform: Tensor | None = None,
        **others: Tensor | None,
    ) -> ModelOutput:
        """Return logits and hidden states of input_ids [B, T]; the inputs are the trunk's.

        `labels` (int64, -100 is no target) are aligned with what the head reads, nothing is shifted: the
        head, and of the trunk's last block what nothing else reads, run at targets alone, and the summed
        loss comes back in place of logits. With `uniform` ([B, T], in [0, 1)) each target also gets a token
        drawn by what the model thinks of it.
        """
        inputs = (input_ids, attention_mask, position_ids, document_ids)
        if labels is None:
            x_BTD, balance = self.trunk(*inputs, **others)
            return ModelOutput(self.head(x_BTD), x_BTD, balance=balance)
        rows_M = targets(labels)
        x_MD, balance = self.trunk(*inputs, **others, rows_M=rows_M)
        return self.predict(x_MD, rows_M, labels, uniform)._replace(balance=balance)

    def predict(self, x_MD: Tensor, rows_M: Tensor, labels: Tensor, uniform: Tensor | None) -> ModelOutput:
        """Return the losses of the targets `rows_M` of labels [B, T], of which the trunk's output is x_MD."""
        uniform_M = None if uniform is None else uniform.flatten()[rows_M]
        loss, losses_M, samples_M = self.head(x_MD, labels.flatten()[rows_M], uniform_M)
        none = x_MD.new_empty(0, self.head.decoder.out_features)
        return ModelOutput(none, x_MD, loss, losses=losses_M, samples=samples_M)


def targets(labels: Tensor) -> Tensor:
    """Return which of the B * T places of labels [B, T] are targets, as indices [M]."""
    return (labels.flatten() != NO_TARGET).nonzero()[:, 0]
