"""Summarization: a short text for a long one, measured by ROUGE."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..data import Example
from ..metrics.rouge import KINDS, rouge
from .base import Prediction
from .text_to_text import TextToText, TextToTextConfig


class SummarizationConfig(TextToTextConfig):
    """What a summary says of a document."""

    type: Literal["summarization"] = "summarization"
    """The task's name."""
    text_field: str = "document"
    """The field of a record that holds the text; `a.b` is the field b of a."""
    summary_field: str = "summary"
    """The field that holds its summary."""
    prompt: str = "{text}\n\nTL;DR:"
    """What a decoder goes on from (Radford et al., 2019, section 3.6); {text} stands for the source."""
    metric: Literal["rouge1", "rouge2", "rougeL", "rougeLsum"] = "rougeL"
    """The metric that runs are compared by. rougeL is no 0 where a weak model hits no pair of words, as
    rouge2 often is, and unlike rouge1 it looks at order."""

    @property
    def fields(self) -> tuple[str, str]:
        return self.text_field, self.summary_field

    @property
    def measures(self) -> tuple[str, ...]:
        """Every metric that an evaluation may have."""
        return (*KINDS, "generated_tokens", "empty_share")

    def build(self, path: str, state: Mapping[str, Any]) -> "Summarization":
        """Return the task; raises ModelError where the folder cannot write."""
        return Summarization(self, path, state)


class Summarization(TextToText):
    """ROUGE by the package rouge-score."""

    purpose = "for summarization"
    pipeline = "summarization"
    config: SummarizationConfig

    def __init__(self, config: SummarizationConfig, path: str, state: Mapping[str, Any]) -> None:
        super().__init__(config, path, state)
        self.config = config
        others = (kind for kind in KINDS if kind != config.metric)
        self.metrics = (config.metric, *others, "generated_tokens", "empty_share")

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return ROUGE F1 from 0 to 1, the mean length in tokens and the share of empty summaries."""
        found = rouge(*self.texts(examples, predictions))
        found["generated_tokens"] = sum(one["tokens"] for one in predictions) / len(predictions)
        found["empty_share"] = sum(not one["prediction"] for one in predictions) / len(predictions)
        return {name: found[name] for name in self.metrics}

    def judge(self, example: Example, prediction: Prediction) -> float | None:
        """Return the summary's rougeL."""
        return rouge(*self.texts([example], [prediction]))["rougeL"]
