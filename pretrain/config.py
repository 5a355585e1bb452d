"""What a pretraining run is made of."""

from collections.abc import Iterator

from pydantic import PositiveInt

from lumbre.errors import Problem
from lumbre.models import ModelConfig, TransformerConfig
from lumbre.run_config import RunConfig
from lumbre.tokenizer import TokenizerConfig

from .data.prepare import DataConfig
from .objectives import ObjectiveConfig


class PretrainConfig(RunConfig):
    """A corpus, a tokenizer, a model and an objective."""

    tokenizer: TokenizerConfig
    """How text becomes tokens: trained on the corpus, or loaded."""
    data: DataConfig
    """The corpus, and how samples are cut from it."""
    model: ModelConfig
    """The Transformer to train."""
    objective: ObjectiveConfig
    """What it learns to predict."""
    eval_samples: PositiveInt = 256
    """Samples of the validation split that an evaluation reads, or all where there are fewer."""

    def problems(self) -> Iterator[Problem]:
        """Report a model that the objective or the sequence length does not fit."""
        yield from super().problems()
        model = self.model
        if not isinstance(model, TransformerConfig):
            return
        if model.causal != self.objective.needs_causal:
            kind = "a decoder (causal: true)" if model.causal else "an encoder (causal: false)"
            needed = (
                "a decoder, such as gpt-mini"
                if self.objective.needs_causal
                else "an encoder, such as bert-mini"
            )
            yield Problem("model.causal", f"objective {self.objective.type} on {kind}", f"choose {needed}")
        if model.max_length is not None and self.data.seq_length > model.max_length:
            fault = f"{self.data.seq_length} tokens, and the model has {model.max_length} positions"
            yield Problem(
                "data.seq_length", fault, f"at most {model.max_length}, or a larger position.max_length"
            )
