"""ELECTRA: tell which tokens a small generator has replaced (Clark et al., 2020, arXiv:2003.10555).

Shapes: B batch, T time, D hidden, M masked tokens.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from lumbre.models.config import TransformerConfig
from lumbre.models.heads import NO_TARGET, LanguageModel, ModelOutput, targets
from lumbre.models.init import init_weights
from lumbre.models.layers import ACTIVATIONS
from lumbre.models.position import Learned
from lumbre.models.transformer import Transformer

HEAD_WIDTH = 64
"""Width of a generator's heads."""


class DetectorHead(nn.Module):
    """Hidden states to one logit each."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.activation = ACTIVATIONS[config.activation]
        self.dense = nn.Linear(D, D)
        self.output = nn.Linear(D, 1)
        init_weights(self, config.init, config.init_std)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to logits [...]; above 0 is replaced."""
        logits: Tensor = self.output(self.activation(self.dense(x)))
        return logits[..., 0]


class Detector(nn.Module):
    """A trunk that says of each token whether it was replaced: ELECTRA's discriminator."""

    def __init__(self, trunk: Transformer) -> None:
        super().__init__()
        self.config = trunk.config
        self.trunk = trunk
        self.head = DetectorHead(trunk.config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        **others: Tensor | None,
    ) -> ModelOutput:
        """Return logits_BT and hidden states of input_ids [B, T]; the inputs are the trunk's."""
        x_BTD, balance = self.trunk(input_ids, attention_mask, position_ids, document_ids, **others)
        return ModelOutput(self.head(x_BTD), x_BTD, balance=balance)


class ElectraOutput(NamedTuple):
    """What ELECTRA returns in training."""

    generator: ModelOutput
    """The generator's losses on the masked tokens, and what it drew for them."""
    loss: Tensor
    """The detector's binary cross-entropy in nats, summed over the tokens that it is asked about."""
    replaced_BT: Tensor
    """Which tokens the detector was to find; what the generator restores is no replacement."""


class Electra(nn.Module):
    """A detector and the generator that it learns from; they share the embeddings."""

    def __init__(self, trunk: Transformer, generator: TransformerConfig) -> None:
        super().__init__()
        self.config = trunk.config
        self.detector = Detector(trunk)
        self.generator = LanguageModel(_sharing(Transformer(generator), trunk))

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        *,
        labels: Tensor,
        uniform: Tensor,
        original_labels: Tensor,
    ) -> ElectraOutput:
        """Return both losses on masked input_ids [B, T].

        `labels` hold the tokens that the generator is to restore, and `uniform` in [0, 1) decides what it
        draws for each; `original_labels` hold every token that the detector is asked about (-100 is none in
        either). No gradient goes through what is drawn.
        """
        places = {"position_ids": position_ids, "document_ids": document_ids}
        generated = self.generator(input_ids, labels=labels, uniform=uniform, **places)
        rows_M = targets(labels)
        read_BT = input_ids.flatten().index_copy(0, rows_M, generated.samples).view_as(input_ids)
        asked_BT = original_labels != NO_TARGET
        replaced_BT = asked_BT & (read_BT != original_labels)
        logits_BT = self.detector(read_BT, **places).logits
        exact = logits_BT if logits_BT.dtype.itemsize >= 4 else logits_BT.float()
        losses_BT = F.binary_cross_entropy_with_logits(exact, replaced_BT.type_as(exact), reduction="none")
        return ElectraOutput(generated, losses_BT.masked_fill(~asked_BT, 0.0).sum(), replaced_BT)


def _sharing(trunk: Transformer, other: Transformer) -> Transformer:
    """Return the trunk with the other's embeddings of tokens, segments and positions, and their norm."""
    trunk.embedding = other.embedding
    trunk.token_type_embedding = other.token_type_embedding
    trunk.embedding_norm = other.embedding_norm
    if isinstance(trunk.position, Learned):
        trunk.position = other.position
    return trunk


def generator_config(config: TransformerConfig, width: float, depth: float) -> TransformerConfig:
    """Return a generator for a detector: its width and number of layers in shares of the detector's.

    Its embeddings are the detector's, its heads 64 wide and its MLP four times as wide as the stack, as
    published; the width is rounded to what heads of an even width divide.
    """
    wanted = config.hidden_size * width
    heads = max(1, round(wanted) // HEAD_WIDTH)
    hidden_size = max(1, round(wanted / (2 * heads))) * 2 * heads
    return config.model_copy(
        update={
            "hidden_size": hidden_size,
            "embedding_size": None if config.embedding_width == hidden_size else config.embedding_width,
            "num_layers": max(1, round(config.num_layers * depth)),
            "num_heads": heads,
            "num_kv_heads": None,
            "head_size": None,
            "intermediate_size": None,
            "head_transform": True,
        }
    )
