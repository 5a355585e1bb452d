"""Sequence-to-sequence learning: a model reads a text and writes another (Sutskever et al., 2014,
arXiv:1409.3215), as an encoder-decoder or, prompted, as a decoder.

Shapes: B batch, T time, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import nn

from lumbre import distributed
from lumbre.errors import ModelError, Problem
from lumbre.trainer import Batch, LossOutput, Term

from ..data import Example
from ..pretrained import Kind, Start, check_fast, kind_of
from .base import Predicted, Prediction, Purpose, Row, Task, TaskConfig, at_least_float32, begin
from .generation import GenerationConfig
from .text_rows import IGNORED, DecoderRows, EncoderDecoderRows, Frame, Rows

FAMILY_KEYS = (
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""What a folder's generation config says of its vocabulary, not of how to write."""
USAGE = """\
from transformers import {auto_class}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
model = {auto_class}.from_pretrained("THIS FOLDER")
inputs = tokenizer({text}, return_tensors="pt"{special})
written = model.generate(inputs.input_ids, attention_mask=inputs.attention_mask)
print(tokenizer.decode(written[0], skip_special_tokens=True))"""


class TextToTextConfig(TaskConfig):
    """A text for a text."""

    kinds: ClassVar[tuple[Kind, ...]] = ("decoder", "encoder-decoder")

    max_length: PositiveInt = 512
    """Longest source in tokens, prefix or prompt included; the rest of a text is cut off."""
    max_target_length: PositiveInt = Field(128, ge=2)
    """Longest target in tokens, its end included; the rest is cut off, and not learned."""
    prefix: str = ""
    """What an encoder-decoder reads before each source, such as "summarize: "."""
    prompt: str = "{text}\n"
    """What a decoder goes on from; {text} stands for the source, which is cut where the whole is too long."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the target that is spread over all tokens (Szegedy et al., 2016, arXiv:1512.00567)."""
    generation: GenerationConfig = GenerationConfig()
    """How the model writes, in evaluation and from the saved folder."""

    def problems(self) -> Iterator[Problem]:
        """Report a prompt without its text."""
        if self.prompt.count("{text}") != 1:
            fault = f"{self.prompt!r} has the source in it {self.prompt.count('{text}')} times"
            yield Problem("prompt", fault, "write {text} where it belongs, once")
        fewest = self.generation.min_new_tokens
        if self.generation.max_new_tokens is None and fewest > self.max_target_length:
            fault = f"{fewest}, and max_target_length is {self.max_target_length}"
            yield Problem("generation.min_new_tokens", fault, "ask for no more than that")

    @property
    def longest(self) -> int:
        """An encoder-decoder's longer stack; a decoder, which reads both, is looked at with its model."""
        return max(self.max_length, self.max_target_length)

    @property
    def fields(self) -> tuple[str, str]:
        """The fields of a record that hold source and target; `a.b` is the field b of a."""
        raise NotImplementedError

    def fault(self, example: Example, purpose: Purpose = "train") -> str:
        """Return which field a record lacks, or holds no text."""
        for name in self.fields[: 1 if purpose == "predict" else 2]:
            value = field_of(example, name)
            if value is None:
                return f"has no text in the field {name!r}: {begin(example)}"
            if not isinstance(value, str):
                return f"the field {name!r} is a {type(value).__name__}, not a text: {begin(example)}"
            if not value.strip():
                return f"the field {name!r} is an empty text"
        return ""


class TextToText(Task):
    """Transformers' language models; cross-entropy of the target's tokens, `generate` for what is written."""

    generates = True
    config: TextToTextConfig

    def __init__(self, config: TextToTextConfig, path: str, state: Mapping[str, Any]) -> None:
        super().__init__(config, path, state)
        self.config = config
        frame = Frame.of(self.tokenizer, path)
        sizes = (config.max_length, config.max_target_length)
        self._end = frame.end
        self._start: int | None = None
        self._rows: Rows
        if kind_of(self.model_config) == "encoder-decoder":
            stated = getattr(self.model_config, "decoder_start_token_id", None)
            self._start = self.tokenizer.pad_token_id if stated is None else int(stated)
            self._rows = EncoderDecoderRows(self.tokenizer, frame, *sizes, config.prefix, self._start)
        else:
            from transformers import AutoModelForCausalLM

            check_fast(self.tokenizer, path, self.purpose)
            model_class = AutoModelForCausalLM._model_mapping[type(self.model_config)]
            self._rows = DecoderRows(self.tokenizer, frame, *sizes, config.prompt, model_class)
        self._check_lengths()
        self.usage = self._usage(frame)

    def auto_class(self) -> Any:
        """Return the Auto class of the kind's language models."""
        import transformers

        return getattr(transformers, self._rows.auto_class)

    def configured(self, config: Any) -> Any:
        """State the token that the decoder starts from beside an encoder."""
        if self._start is not None:
            config.decoder_start_token_id = self._start
        return config

    def build_model(
        self,
        path: str,
        *,
        from_scratch: bool,
        dropout: float | None = None,
        loading: Mapping[str, Any] | None = None,
    ) -> Start:
        """Return the language model; how it writes is part of it, and saved with it.

        Its head counts to the trunk, unless the folder has none: it is pretrained as the rest is.
        """
        start = super().build_model(path, from_scratch=from_scratch, dropout=dropout, loading=loading)
        model: Any = start.model
        model.generation_config = self._generation(model.generation_config)
        return replace(start, head=tuple(name for name in start.head if name in start.new))

    def encode(self, example: Example, purpose: Purpose = "train") -> Sequence[Row]:
        """Return one row; a source or a target that is too long is cut."""
        source, target = self.config.fields
        wanted = None if purpose == "predict" else str(field_of(example, target))
        return [self._rows.row(str(field_of(example, source)), wanted, purpose)]

    def length(self, row: Row) -> int:
        """Return the tokens of source and target."""
        if self._start is None:
            return len(row["input_ids"])
        return len(row["input_ids"]) + len(row.get("labels", ()))

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return rows as one batch, padded to the longest; see the kind's rows."""
        return self._rows.collate(rows)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of the targets' tokens."""
        return {"loss": float((batch["labels"] != IGNORED).sum())}

    def tokens(self, batch: Batch) -> int:
        """Return the number of tokens that the stacks read."""
        decoder = 0 if self._start is None else int(self.counts(batch)["loss"])
        return super().tokens(batch) + decoder

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Return the cross-entropy summed over the targets' tokens."""
        return LossOutput({"loss": Term(self._sum(model, batch), self.counts(batch)["loss"])})

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Batch) -> Predicted:
        """Return the tokens that the model writes for each row, without the end, and the loss.

        The loss is that of the target itself, whatever was written.
        """
        outputs = self._written(model, batch)
        if "labels" not in batch:
            return Predicted(outputs)
        return Predicted(outputs, float(self._sum(model, batch)), self.counts(batch)["loss"])

    def decide(self, examples: Sequence[Example], outputs: Sequence[Sequence[Any]]) -> list[Prediction]:
        """Return the text of each example, and how many tokens it has."""
        return [
            {"prediction": self.tokenizer.decode(ids, skip_special_tokens=True).strip(), "tokens": len(ids)}
            for ids, *_ in outputs
        ]

    def shown(self, example: Example) -> dict[str, Any]:
        """Return source and target."""
        values = [field_of(example, name) for name in self.config.fields]
        return {key: value for key, value in zip(("input", "target"), values, strict=True) if value}

    def texts(
        self, examples: Sequence[Example], predictions: Sequence[Prediction]
    ) -> tuple[list[str], list[str]]:
        """Return what was written and what should have been."""
        target = self.config.fields[1]
        return [one["prediction"] for one in predictions], [str(field_of(one, target)) for one in examples]

    def _sum(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        logits_BTV, labels_BT = at_least_float32(self._rows.logits(model, batch)), batch["labels"]
        return F.cross_entropy(
            logits_BTV.flatten(0, 1),
            labels_BT.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.config.label_smoothing,
        )

    def _written(self, model: Any, batch: Batch) -> list[list[int]]:
        given = self._rows.prompt(batch)
        partitioned = any(hasattr(parameter, "ds_id") for parameter in model.parameters())
        with _seeded(given["input_ids"]):
            out_BT = model.generate(
                **given,
                # Under ZeRO 3 each forward pass gathers weights from all ranks: they stop together.
                synced_gpus=partitioned and distributed.world().size > 1,
            )
        rows: list[list[int]] = self._rows.new(batch, out_BT).tolist()
        return [ids[: ids.index(self._end)] if self._end in ids else ids for ids in rows]

    def _generation(self, family: Any) -> Any:
        """Return transformers' GenerationConfig, with what the folder's own says of its vocabulary."""
        from transformers import GenerationConfig as Theirs

        config = self.model_config
        # transformers lays a T5's cache out by the encoder's layers.
        deeper = (getattr(config, "num_decoder_layers", None) or 0) > (getattr(config, "num_layers", 0) or 0)
        uncached = config.model_type == "t5" and deeper
        return Theirs(
            **self.config.generation.arguments(self.config.max_target_length),
            **{name: getattr(family, name, None) for name in FAMILY_KEYS},
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=getattr(family, "bos_token_id", None),
            eos_token_id=self._end,
            decoder_start_token_id=self._start,
            use_cache=not uncached,
        )

    def _check_lengths(self) -> None:
        """Raise ModelError where no source has room, or the model too few positions."""
        limit = getattr(self.model_config, "max_position_embeddings", None)
        written = self.config.generation.max_new_tokens or self.config.max_target_length
        target = max(written, self.config.max_target_length)
        source = self.config.max_length
        longest = source + target if self._start is None else max(source, target)
        if self._rows.fixed >= source:
            key = "prompt" if self._start is None else "prefix"
            fault = f"has {self._rows.fixed} tokens, which leaves none of max_length {source} to a source"
            raise ModelError(f"{self.path}: task.{key} {fault}; raise task.max_length")
        if limit is not None and longest > limit:
            parts = f"{source} tokens of source and {target} of target"
            raise ModelError(
                f"{self.path}: {parts}, and the model has {limit} positions; "
                "lower task.max_length or task.max_target_length"
            )

    def _usage(self, frame: Frame) -> str:
        text = f"{self.config.prefix}TEXT" if self._start is not None else self.config.prompt
        text = text.replace("{text}", "TEXT")
        special = ""
        if self._start is None and frame.closing:
            text = self.tokenizer.decode(frame.opening) + text
            special = ", add_special_tokens=False"
        elif self._start is not None and not frame.closing:
            text += self.tokenizer.decode([frame.end])
        return USAGE.format(
            auto_class=self._rows.auto_class,
            text=repr(text),
            special=special,
        )


def field_of(example: Example, name: str) -> Any:
    """Return a field of a record, or of a record within it (`translation.en`); None where there is none."""
    if name in example:
        return example[name]
    first, dot, rest = name.partition(".")
    within = example.get(first)
    return field_of(within, rest) if dot and isinstance(within, Mapping) else None


@contextmanager
def _seeded(like: torch.Tensor) -> Iterator[None]:
    """Draw each batch's tokens from the same seed, and leave torch's own generator where it was."""
    with torch.random.fork_rng([like.device] if like.is_cuda else []):
        torch.manual_seed(0)
        yield
