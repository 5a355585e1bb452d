"""Question answering: which span of a context answers (SQuAD: Rajpurkar et al., 2016, arXiv:1606.05250).

Version 2.0 adds questions without an answer there (Rajpurkar et al., 2018, arXiv:1806.03822).
Shapes: B batch, T time, C tokens of the context.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveInt
from torch import nn

from lumbre.errors import DataError, Problem
from lumbre.trainer import Batch, LossOutput, Term

from ..data import Example
from ..metrics import squad as metrics
from ..pretrained import Kind, check_fast
from .base import (
    ExampleError,
    Predicted,
    Prediction,
    Purpose,
    Row,
    Task,
    TaskConfig,
    at_least_float32,
    inputs,
    missing,
    padded,
)
from .question_rows import CHARACTERS, UNKNOWN, QuestionReader, QuestionRows, located
from .spans import SpanLogits, Spans, best_spans

POSITIONS = ("start_positions", "end_positions")
METRICS = ("f1", "exact_match")
PARTS = ("has_answer_f1", "has_answer_exact_match", "no_answer_f1", "no_answer_exact_match")
"""What is measured too where some questions have no answer."""


class QuestionAnsweringConfig(TaskConfig):
    """Which part of a text answers a question, or that none does."""

    # A decoder has not read the context where its first position would tell that there is no answer.
    kinds: ClassVar[tuple[Kind, ...]] = ("encoder", "encoder-decoder")

    type: Literal["question_answering"] = "question_answering"
    """The task's name."""
    max_length: PositiveInt = 384
    """Longest row in tokens, of a question and as much of its context as there is room for."""
    stride: NonNegativeInt = 128
    """Tokens of a longer context that two of its rows share."""
    question_field: str = "question"
    """The field of a record that holds the question."""
    context_field: str = "context"
    """The field that holds the text with the answer."""
    answers_field: str = "answers"
    """The field of the answers: lists `text` and `answer_start` (characters); training takes the first."""
    impossible_field: str = "is_impossible"
    """The field that is true where there is no answer; a record without it has none where its lists are
    empty."""
    no_answers: bool | None = None
    """Whether a question may have no answer (SQuAD 2.0); left out, whether one of the records has none."""
    n_best_size: PositiveInt = 20
    """Likeliest starts and ends of a row that are paired, and spans that are compared."""
    max_answer_length: PositiveInt = 30
    """Longest answer in tokens that is given."""

    def problems(self) -> Iterator[Problem]:
        """Report a stride that no row can have."""
        if self.stride >= self.max_length:
            fault = f"{self.stride} tokens, and a row has {self.max_length}"
            yield Problem("stride", fault, "set it to about a third of max_length")

    @property
    def measures(self) -> tuple[str, ...]:
        """Every metric that an evaluation may have."""
        return (*METRICS, *PARTS)

    def fault(self, example: Example, purpose: Purpose = "train") -> str:
        """Return which field a record lacks, or what is wrong with its answers."""
        texts = [self.question_field, self.context_field]
        if fault := missing(example, texts):
            return fault
        for name in texts:
            if not str(example[name]).strip():
                return f"the field {name!r} is an empty text"
        if purpose == "predict" or example.get(self.impossible_field):
            answers: list[tuple[str, int]] = []
        elif fault := missing(example, [self.answers_field]) or _misshapen(example[self.answers_field]):
            return fault
        else:
            answers = self.answers(example)
        if purpose != "predict" and not answers and self.no_answers is False:
            return "has no answer, and task.no_answers is false"
        return ""

    def answers(self, example: Example) -> list[tuple[str, int]]:
        """Return a record's answers, each with the character that it is said to begin at."""
        if example.get(self.impossible_field):
            return []
        given = example[self.answers_field]
        return list(zip(given["text"], given["answer_start"], strict=True))

    def learn(self, examples: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
        """Return whether there are questions without an answer, and the threshold to begin with."""
        if not any(self.answers(one) for one in examples["train"]):
            raise DataError(f"train: no question has an answer; is {self.answers_field!r} right?")
        no_answers = self.no_answers
        if no_answers is None:
            no_answers = not all(self.answers(one) for records in examples.values() for one in records)
        return {"no_answers": no_answers, "threshold": 0.5}

    def build(self, path: str, state: Mapping[str, Any]) -> "QuestionAnswering":
        """Return the task; raises ModelError where the folder's tokenizer does not tell characters."""
        return QuestionAnswering(self, path, state)


class QuestionAnswering(Task):
    """Hugging Face's question answering head: a start and an end logit of every token."""

    purpose = "to answer questions by spans of a text"
    pipeline = "question-answering"
    usage = """\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
model = AutoModelForQuestionAnswering.from_pretrained("THIS FOLDER")
encoded = tokenizer("THE QUESTION", "THE CONTEXT", return_tensors="pt")
with torch.no_grad():
    output = model(**encoded)
start, end = output.start_logits.argmax(), output.end_logits.argmax()
print(tokenizer.decode(encoded["input_ids"][0, start : end + 1]))"""
    config: QuestionAnsweringConfig

    def __init__(self, config: QuestionAnsweringConfig, path: str, state: Mapping[str, Any]) -> None:
        super().__init__(config, path, state)
        check_fast(self.tokenizer, path, self.purpose)
        self.config = config
        self._has_types = "token_type_ids" in self.tokenizer.model_input_names
        self._reader = QuestionReader(self.tokenizer.backend_tokenizer)
        self.metrics = (*METRICS, *PARTS) if state["no_answers"] else METRICS

    def auto_class(self) -> Any:
        """Return the Auto class of models that answer by spans."""
        from transformers import AutoModelForQuestionAnswering

        return AutoModelForQuestionAnswering

    def configured(self, config: Any) -> Any:
        """Give the head its two outputs, whatever labels the folder's model had."""
        config.num_labels = 2
        return config

    def encode(self, example: Example, purpose: Purpose = "train") -> Sequence[Row]:
        """Return a row for each part of the context, the question before it.

        input_ids [T], token types where the model has them, the positions of the answer's ends [1], for
        training and evaluation, and for predictions the context's characters that tokens stand for [T].
        A row without the answer points at its first token, which is [CLS] where there is one, as in run_qa.
        As there, too, a question is never cut: one that leaves no room is an ExampleError.
        """
        config = self.config
        question, context = (str(example[name]) for name in (config.question_field, config.context_field))
        made = self._reader.rows(question.lstrip(), context, config.max_length, config.stride)
        names = ["input_ids", *(["token_type_ids"] if self._has_types else [])]
        if purpose != "train":
            names += CHARACTERS
        rows = [{name: row[name] for name in names} for row in made.rows]
        if purpose == "predict":
            return rows
        answer = self._target(example, made, purpose)
        for row, positions in zip(rows, made.positions(answer), strict=True):
            row |= {name: np.asarray([at]) for name, at in zip(POSITIONS, positions, strict=True)}
        if purpose == "train" and answer is not None and not any(row[POSITIONS[1]][0] for row in rows):
            raise ExampleError(
                f"the answer is whole in no row: it has {len(answer)} tokens, and rows share "
                f"{config.stride}; raise stride, or max_length"
            )
        return rows

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return the inputs and the tokens' characters [B, T], padded to the longest, and positions [B]."""
        batch = inputs(rows, self.tokenizer.pad_token_id)
        for name in POSITIONS:
            if name in rows[0]:
                batch[name] = torch.from_numpy(np.concatenate([row[name] for row in rows]))
        for name in CHARACTERS:
            if name in rows[0]:
                batch[name] = padded(rows, name, -1)
        return batch

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows that have a target."""
        return {"loss": float((batch[POSITIONS[0]] != UNKNOWN).sum())}

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Return the mean of the cross-entropies of start and end, summed over rows."""
        loss = _cross_entropy(self._logits(model, batch), batch)
        return LossOutput({"loss": Term(loss, self.counts(batch)["loss"])})

    def predict(self, model: nn.Module, batch: Batch) -> Predicted:
        """Return each row's SpanLogits without its padding, and the loss."""
        logits_2BT = self._logits(model, batch)
        lengths = batch["attention_mask"].sum(1).tolist()
        arrays = [*logits_2BT.float().cpu().numpy(), *(batch[name].cpu().numpy() for name in CHARACTERS)]
        outputs = [
            SpanLogits(*(array[at, :length].copy() for array in arrays)) for at, length in enumerate(lengths)
        ]
        if POSITIONS[0] not in batch:
            return Predicted(outputs)
        return Predicted(outputs, float(_cross_entropy(logits_2BT, batch)), self.counts(batch)["loss"])

    def calibrate(self, examples: Sequence[Example], outputs: Sequence[Sequence[Any]]) -> None:
        """Choose the probability of no answer above which none is given, for the best F1."""
        if not self.state["no_answers"]:
            return
        found = {str(at): self._spans(rows) for at, rows in enumerate(outputs)}
        texts = {at: self._text(examples[int(at)], spans) for at, spans in found.items()}
        no_answer = {at: spans.no_answer for at, spans in found.items()}
        self.state["threshold"] = metrics.best_threshold(texts, self._references(examples), no_answer)

    def decide(self, examples: Sequence[Example], outputs: Sequence[Sequence[Any]]) -> list[Prediction]:
        """Return the best span, as text and as characters of the context, and its probability.

        Where there may be none, `no_answer` is the probability of that against the best span alone, and the
        prediction is "" where it is above the threshold.
        """
        return [self._decision(one, self._spans(rows)) for one, rows in zip(examples, outputs, strict=True)]

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return F1 and exact match as SQuAD's own scripts have them; in 2.0 those of either kind too."""
        texts = {str(at): one["prediction"] for at, one in enumerate(predictions)}
        scorer = metrics.squad_v2 if self.state["no_answers"] else metrics.squad_v1
        found = scorer(texts, self._references(examples))
        return {name: found[name] for name in self.metrics if name in found}

    def shown(self, example: Example) -> dict[str, Any]:
        """Return the question with its context, and the answers' texts."""
        question, context = self.config.question_field, self.config.context_field
        shown: dict[str, Any] = {"input": {"question": example[question], "context": example[context]}}
        if not self.config.fault(example):
            shown["target"] = [text for text, _ in self.config.answers(example)]
        return shown

    def judge(self, example: Example, prediction: Prediction) -> float | None:
        """Return F1."""
        return self.score([example], [prediction])["f1"]

    def _target(self, example: Example, rows: QuestionRows, purpose: Purpose) -> range | None:
        """Return the answer's tokens in the context, None for no answer; empty where they are not known."""
        answers = self.config.answers(example)
        if not answers:
            return None
        text, start = answers[0][0].strip(), answers[0][1]
        at = located(text, str(example[self.config.context_field]), start)
        tokens = range(0) if at is None else rows.tokens(at, at + len(text))
        if not tokens and purpose == "train":
            what = "is not in its context" if at is None else "has no token"
            raise ExampleError(f"the answer {what}: {text!r}")
        return tokens

    def _spans(self, rows: Sequence[SpanLogits]) -> Spans:
        config = self.config
        with_null = bool(self.state["no_answers"])
        return best_spans(rows, config.n_best_size, config.max_answer_length, with_null=with_null)

    def _text(self, example: Example, spans: Spans) -> str:
        return str(example[self.config.context_field])[spans.char_start_S[0] : spans.char_end_S[0]]

    def _decision(self, example: Example, spans: Spans) -> Prediction:
        if not self.state["no_answers"]:
            none, chosen = {}, 0
        else:
            none = {"no_answer": round(spans.no_answer, 6)}
            chosen = -1 if spans.no_answer > self.state["threshold"] else 0
        chances = spans.probabilities(with_null=bool(none))
        return {
            "prediction": "" if chosen else self._text(example, spans),
            "start": None if chosen else int(spans.char_start_S[0]),
            "end": None if chosen else int(spans.char_end_S[0]),
            "probability": round(float(chances[chosen]), 6),
            **none,
        }

    def _references(self, examples: Sequence[Example]) -> dict[str, list[str]]:
        return {str(at): [text for text, _ in self.config.answers(one)] for at, one in enumerate(examples)}

    def _logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the logits of start and end [2, B, T]; those of padding are as low as can be."""
        asked = {name: tensor for name, tensor in batch.items() if name not in (*POSITIONS, *CHARACTERS)}
        output = model(**asked)
        logits_2BT = at_least_float32(torch.stack([output.start_logits, output.end_logits]))
        # transformers lets padding take its share of the probability: the loss would depend on it.
        lowest = torch.finfo(logits_2BT.dtype).min
        return logits_2BT.masked_fill(batch["attention_mask"] == 0, lowest)


def _cross_entropy(logits_2BT: torch.Tensor, batch: Batch) -> torch.Tensor:
    losses = [
        F.cross_entropy(logits_BT, batch[name], reduction="sum", ignore_index=UNKNOWN)
        for name, logits_BT in zip(POSITIONS, logits_2BT, strict=True)
    ]
    return (losses[0] + losses[1]) / 2


def _misshapen(answers: Any) -> str:
    """Return what is wrong with a record's answers; empty where nothing is."""
    if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= set(answers):
        return f"the answers have no lists 'text' and 'answer_start': {answers!r}"
    texts, starts = answers["text"], answers["answer_start"]
    if not (isinstance(texts, Sequence) and isinstance(starts, Sequence)) or len(texts) != len(starts):
        return f"the answers' lists 'text' and 'answer_start' differ in length: {answers!r}"
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(at, int) for at in starts):
        return f"an answer is no text with a character that it begins at: {answers!r}"
    return ""
