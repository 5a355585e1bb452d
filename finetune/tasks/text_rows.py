"""A source and its target as rows: apart for an encoder-decoder, one behind the other for a decoder.

Shapes: B batch, S source time, T target time, P prompt time, K last positions of a row, V vocabulary.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from lumbre.errors import ModelError
from lumbre.trainer import Batch

from .base import ExampleError, Purpose, Row, inputs, padded

IGNORED = -100
"""The label of a position without a target."""
SAMPLE = "a"
"""A text to see what a tokenizer puts around one."""


@dataclass(frozen=True)
class Frame:
    """The special tokens around a text."""

    opening: tuple[int, ...]
    closing: tuple[int, ...]
    end: int
    """The token that ends what is written."""

    @classmethod
    def of(cls, tokenizer: Any, path: str) -> "Frame":
        """Return what the tokenizer puts around a text; raises ModelError where it marks no end."""
        bare = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
        whole = tokenizer(SAMPLE)["input_ids"]
        start = next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
        opening, closing = tuple(whole[:start]), tuple(whole[start + len(bare) :])
        end = closing[-1] if tokenizer.eos_token_id is None and closing else tokenizer.eos_token_id
        if end is None:
            raise ModelError(f"{path}: its tokenizer has no token that ends a text; give it an eos_token")
        return cls(opening, closing, end)


class Rows(ABC):
    """How one kind of model reads sources and learns targets."""

    auto_class: ClassVar[str]
    """The Auto class of transformers that has the language-model head."""
    fixed: int
    """How many tokens are read with each source."""

    def __init__(self, tokenizer: Any, frame: Frame, max_length: int, max_target_length: int) -> None:
        self._tokenizer, self._frame = tokenizer, frame
        self._max_length, self._max_target_length = max_length, max_target_length

    @abstractmethod
    def row(self, source: str, target: str | None, purpose: Purpose) -> Row:
        """Return an example's arrays, with labels where there is a target; raises ExampleError."""

    @abstractmethod
    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return rows as one batch."""

    @abstractmethod
    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the logits [B, T, V] at the positions of the batch's labels."""

    @abstractmethod
    def prompt(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return what `generate` reads."""

    @abstractmethod
    def new(self, batch: Batch, out_BT: torch.Tensor) -> torch.Tensor:
        """Return what `generate` has written, of all that it returns."""


class EncoderDecoderRows(Rows):
    """The encoder reads prefix and source, the decoder learns the target."""

    auto_class = "AutoModelForSeq2SeqLM"

    def __init__(
        self, tokenizer: Any, frame: Frame, max_length: int, max_target_length: int, prefix: str, start: int
    ) -> None:
        super().__init__(tokenizer, frame, max_length, max_target_length)
        self._prefix, self._start = prefix, start
        self.fixed = len(tokenizer(prefix)["input_ids"]) + (not frame.closing)

    def row(self, source: str, target: str | None, purpose: Purpose) -> Row:
        """Return input_ids [S] and labels [T], each with its end; what is too long is cut before the end."""
        row = {"input_ids": self._whole(self._max_length, text=self._prefix + source)}
        if target is not None:
            row["labels"] = self._whole(self._max_target_length, text_target=target)
        return row

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return input_ids and attention_mask [B, S], labels and decoder_input_ids [B, T].

        The decoder reads the labels behind its start token, without their last.
        """
        pad = self._tokenizer.pad_token_id
        batch = inputs(rows, pad)
        if "labels" in rows[0]:
            shifted = [
                {"ids": np.concatenate(([self._start], row["labels"][:-1])).astype(np.int64)} for row in rows
            ]
            batch["labels"] = padded(rows, "labels", IGNORED)
            batch["decoder_input_ids"] = padded(shifted, "ids", pad)
        return batch

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the decoder's logits."""
        names = ("input_ids", "attention_mask", "decoder_input_ids")
        logits_BTV: torch.Tensor = model(**{name: batch[name] for name in names}, use_cache=False).logits
        return logits_BTV

    def prompt(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the encoder's input."""
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    def new(self, batch: Batch, out_BT: torch.Tensor) -> torch.Tensor:
        """Return all behind the start token."""
        return out_BT[:, 1:]

    def _whole(self, limit: int, **text: str) -> np.ndarray:
        marked = bool(self._frame.closing)
        ids = self._tokenizer(**text, truncation=True, max_length=limit if marked else limit - 1)["input_ids"]
        if len(ids) <= len(self._frame.opening) + len(self._frame.closing):
            raise ExampleError(f"the {'source' if 'text' in text else 'target'} has no token")
        # What a stack reads is a whole text, also where the tokenizer marks no end by itself.
        return np.array(ids if marked else [*ids, self._frame.end], dtype=np.int64)


class DecoderRows(Rows):
    """Prompt and target in one row, of which the target alone is learned."""

    auto_class = "AutoModelForCausalLM"

    def __init__(
        self,
        tokenizer: Any,
        frame: Frame,
        max_length: int,
        max_target_length: int,
        prompt: str,
        model_class: type,
    ) -> None:
        super().__init__(tokenizer, frame, max_length, max_target_length)
        self._before, self._after = prompt.split("{text}")
        # The space between prompt and target belongs to the target, as to a word within a text.
        self._gap = "" if self._after[-1:].isspace() else " "
        self.fixed = len(frame.opening) + len(self._ids(self._before + self._after))
        forward: Any = model_class.forward  # type: ignore[attr-defined]
        self._keeps_logits = "logits_to_keep" in inspect.signature(forward).parameters

    def row(self, source: str, target: str | None, purpose: Purpose) -> Row:
        """Return input_ids [T], and labels [T] that stand where their token is predicted.

        To be evaluated, also the prompt [P], which is all where there is no target.
        """
        prompt = self._prompt(source)
        if target is None:
            return {"input_ids": prompt, "prompt": prompt}
        bare = self._ids(self._gap + target)[: self._max_target_length - 1]
        if not target.strip() or not bare:
            raise ExampleError("the target has no token")
        labels = np.array([*bare, self._frame.end], dtype=np.int64)
        row = {
            "input_ids": np.concatenate((prompt, labels[:-1])),
            "labels": np.concatenate((np.full(len(prompt) - 1, IGNORED), labels)),
        }
        return row if purpose == "train" else {**row, "prompt": prompt}

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return input_ids and attention_mask [B, T], padded on the right, and labels [B, K].

        They are those of the last K positions; before them no row has a target. To be evaluated, prompt_ids
        and prompt_mask [B, P] too, padded on the left: all rows go on from the same place.
        """
        pad = self._tokenizer.pad_token_id
        batch = {}
        if "labels" in rows[0]:
            batch = inputs(rows, pad)
            labels_BT = padded(rows, "labels", IGNORED)
            first = int((labels_BT != IGNORED).any(dim=0).int().argmax())
            batch["labels"] = labels_BT[:, first:].contiguous()
        if "prompt" in rows[0]:
            prompts = inputs([{"input_ids": row["prompt"]} for row in rows], pad, left=True)
            batch |= {"prompt_ids": prompts["input_ids"], "prompt_mask": prompts["attention_mask"]}
        return batch

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the logits of the last K positions; where the model can, the head computes no others."""
        last = batch["labels"].shape[1]
        kept = {"logits_to_keep": last} if self._keeps_logits else {}
        output = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **kept
        )
        logits_BKV: torch.Tensor = output.logits[:, -last:]
        return logits_BKV

    def prompt(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Return the prompts."""
        return {"input_ids": batch["prompt_ids"], "attention_mask": batch["prompt_mask"]}

    def new(self, batch: Batch, out_BT: torch.Tensor) -> torch.Tensor:
        """Return all behind the prompt."""
        return out_BT[:, batch["prompt_ids"].shape[1] :]

    def _prompt(self, text: str) -> np.ndarray:
        """Return the prompt's tokens; of a text that is too long, the beginning that fits."""
        room = self._max_length - len(self._frame.opening)
        while True:
            encoded = self._tokenizer(
                self._before + text + self._after,
                add_special_tokens=False,
                return_offsets_mapping=True,
                verbose=False,
            )
            ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
            starts = [start - len(self._before) for start, _ in offsets]
            inside = [start for start in starts if 0 <= start < len(text)]
            if not inside:
                raise ExampleError("the source has no token")
            over = len(ids) - room
            if over <= 0:
                return np.array([*self._frame.opening, *ids], dtype=np.int64)
            text = text[: inside[-over]] if over < len(inside) else ""

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids
