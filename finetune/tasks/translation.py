"""Translation: the same in another language, measured by BLEU and chrF."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..data import Example
from ..metrics.translation import bleu, chrf
from .base import Prediction
from .text_to_text import TextToText, TextToTextConfig

METRICS = ("bleu", "chrf", "generated_tokens", "empty_share")


class TranslationConfig(TextToTextConfig):
    """What a text says in another language."""

    type: Literal["translation"] = "translation"
    """The task's name."""
    source_field: str = "en"
    """The field of a record that holds the text; `translation.en` is the field en of translation."""
    target_field: str = "de"
    """The field that holds its translation."""
    prompt: str = "{text}\n\nTranslation:"
    """What a decoder goes on from; {text} stands for the source."""
    bleu_tokenizer: Literal["13a", "intl", "zh", "char"] = "13a"
    """sacreBLEU's words: 13a is WMT's; zh and char are for languages that do not write spaces."""

    @property
    def fields(self) -> tuple[str, str]:
        return self.source_field, self.target_field

    @property
    def measures(self) -> tuple[str, ...]:
        """Every metric that an evaluation may have."""
        return METRICS

    def build(self, path: str, state: Mapping[str, Any]) -> "Translation":
        """Return the task; raises ModelError where the folder cannot write."""
        return Translation(self, path, state)


class Translation(TextToText):
    """BLEU and chrF by sacreBLEU; their signatures are in `state`, and so in lumbre_task.json."""

    purpose = "for translation"
    pipeline = "translation"
    metrics = METRICS
    config: TranslationConfig

    def __init__(self, config: TranslationConfig, path: str, state: Mapping[str, Any]) -> None:
        super().__init__(config, path, state)
        self.config = config

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return BLEU and chrF from 0 to 100, the mean length in tokens and the share of empty texts."""
        texts = self.texts(examples, predictions)
        scores = {"bleu": bleu(*texts, self.config.bleu_tokenizer), "chrf": chrf(*texts)}
        self.state["signatures"] = {name: one.signature for name, one in scores.items()}
        return {
            **{name: one.value for name, one in scores.items()},
            "generated_tokens": sum(one["tokens"] for one in predictions) / len(predictions),
            "empty_share": sum(not one["prediction"] for one in predictions) / len(predictions),
        }

    def judge(self, example: Example, prediction: Prediction) -> float | None:
        """Return the translation's own chrF, as a share: BLEU is 0 for most single sentences."""
        return chrf(*self.texts([example], [prediction])).value / 100
