"""What a pretraining run is made of."""

from collections.abc import Iterator

from pydantic import PositiveInt

from lumbre.errors import ModelError, Problem, TokenizerError
from lumbre.hub import HuggingFaceConfig
from lumbre.models import ModelConfig, TransformerConfig
from lumbre.run_config import RunConfig
from lumbre.tokenizer import FileTokenizerConfig, TokenizerConfig

from .data.config import DataConfig
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
        kind, wanted = _kind(model), self.objective.model_kinds
        if kind not in wanted:
            fault = f"objective {self.objective.type} on {DESCRIPTIONS[kind]}"
            yield Problem("model", fault, f"choose {', or '.join(EXAMPLES[one] for one in wanted)}")
        tokens = self._tokens()
        if model.vocab_size is not None and tokens is not None and model.vocab_size < tokens:
            fault = (
                f"{model.vocab_size} embeddings are too few for the {tokens} tokens of {self.tokenizer.type}"
            )
            started = isinstance(self.model, HuggingFaceConfig)
            remedy = "use the folder's own tokenizer" if started else "leave the key out"
            yield Problem("model.path" if started else "model.vocab_size", f"{fault} tokenizer", remedy)
        longest = self.objective.longest(self.data.seq_length, kind)
        if model.max_length is not None and longest > model.max_length:
            tokens_of = f", of which {self.objective.type} makes up to {longest:,}"
            made = tokens_of if longest > self.data.seq_length else ""
            fault = f"{self.data.seq_length} tokens{made}, and the model has {model.max_length} positions"
            most = self.data.seq_length * model.max_length // longest
            yield Problem("data.seq_length", fault, f"at most {most}, or a larger position.max_length")

    def _tokens(self) -> int | None:
        """Return how many tokens a tokenizer that exists already has."""
        if not isinstance(self.tokenizer, FileTokenizerConfig):
            return None
        try:
            return self.tokenizer.build([]).vocab_size
        except TokenizerError:
            return None


def _kind(model: TransformerConfig) -> ModelKind:
    if model.num_decoder_layers:
        return "encoder-decoder"
    return "decoder" if model.causal else "encoder"
