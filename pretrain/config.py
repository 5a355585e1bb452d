"""What a pretraining run is made of."""

from collections.abc import Iterator

from pydantic import PositiveInt

from lumbre.errors import ModelError, Problem
from lumbre.hub import HuggingFaceConfig
from lumbre.models import ModelConfig, TransformerConfig
from lumbre.run_config import RunConfig
from lumbre.tokenizer import TokenizerConfig

from .data.prepare import DataConfig
from .objectives import ModelKind, ObjectiveConfig

DESCRIPTIONS: dict[ModelKind, str] = {
    "encoder": "an encoder (causal: false)",
    "decoder": "a decoder (causal: true)",
    "encoder-decoder": "an encoder-decoder (num_decoder_layers above 0)",
}
EXAMPLES: dict[ModelKind, str] = {
    "encoder": "an encoder, such as bert-mini",
    "decoder": "a decoder, such as gpt-mini",
    "encoder-decoder": "an encoder-decoder, such as t5-mini",
}


class PretrainConfig(RunConfig):
    """A corpus, a tokenizer, a model and an objective."""

    tokenizer: TokenizerConfig
    """How text becomes tokens: trained on the corpus, or loaded."""
    data: DataConfig
    """The corpus, and how samples are cut from it."""
    model: ModelConfig
    """The Transformer to train, with fresh weights or from a Hugging Face folder."""
    objective: ObjectiveConfig
    """What it learns to predict."""
    eval_samples: PositiveInt = 256
    """Samples of the validation split that an evaluation reads, or all where there are fewer."""

    def problems(self) -> Iterator[Problem]:
        """Report a model that the objective or the sequence length does not fit."""
        yield from super().problems()
        if isinstance(self.model, HuggingFaceConfig) and self.tokenizer.type != "file":
            fault = f"is trained anew, and the weights of {self.model.path} know another"
            yield Problem("tokenizer.type", fault, f"use tokenizer: {{type: file, path: {self.model.path}}}")
        yield from self.objective.misfits(self.tokenizer, self.data.seq_length)
        try:
            model = self.model.architecture()
        except ModelError:
            return
        kind, wanted = _kind(model), self.objective.model_kind
        if kind != wanted:
            fault = f"objective {self.objective.type} on {DESCRIPTIONS[kind]}"
            yield Problem("model", fault, f"choose {EXAMPLES[wanted]}")
        if model.max_length is not None and self.data.seq_length > model.max_length:
            fault = f"{self.data.seq_length} tokens, and the model has {model.max_length} positions"
            yield Problem(
                "data.seq_length", fault, f"at most {model.max_length}, or a larger position.max_length"
            )


def _kind(model: TransformerConfig) -> ModelKind:
    if model.num_decoder_layers:
        return "encoder-decoder"
    return "decoder" if model.causal else "encoder"
