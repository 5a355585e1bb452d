"""Instruction and chat tuning of decoders: the loss on what the assistant says, alone.

Shapes: B batch, T time, V vocabulary, N targets.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import nn

from lumbre.errors import ModelError
from lumbre.trainer import Batch, LossOutput, Term

from ..data import Example
from ..pretrained import Kind, Start
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
from .conversation import Conversation, Message
from .generation import GenerationConfig
from .packing import check_packing, packed, run_packed

USAGE = """\
from transformers import pipeline

chat = pipeline("text-generation", "THIS FOLDER")
reply = chat([{{"role": "user", "content": "..."}}], max_new_tokens={tokens}, do_sample=False)
reply[0]["generated_text"][-1]["content"]"""
ROLES = ("system", "user", "assistant")
NO_TARGET = -100
METRICS = ("token_accuracy", "perplexity")


class ChatConfig(TaskConfig):
    """Conversations, or instructions and their answers."""

    kinds: ClassVar[tuple[Kind, ...]] = ("decoder",)

    type: Literal["chat"] = "chat"
    """The task's name."""
    max_length: PositiveInt = 1024
    """Longest conversation in tokens, the rest cut off at the right; with packing, the length of a row."""
    messages_field: str = "messages"
    """The field of a record that holds the conversation, a list of messages."""
    role_field: str = "role"
    """The field of a message that says who speaks."""
    content_field: str = "content"
    """The field of a message that holds what is said."""
    roles: dict[str, Literal["system", "user", "assistant"]] = Field(default_factory=dict)
    """Other names of the roles system, user and assistant, such as human: user, gpt: assistant."""
    instruction_field: str | None = None
    """Where set, a record is one instruction in this field, in place of a conversation."""
    input_field: str | None = "input"
    """The field that holds what an instruction is about; it may be absent or empty."""
    output_field: str = "output"
    """The field that holds the answer to an instruction."""
    chat_template: str | None = None
    """chatml, or a Jinja text; left out, the tokenizer's own, or a plain one where it has none.

    It is saved with the tokenizer. The plain one sets `### User:` and `### Assistant:` on lines of their own
    and closes a reply with the token that ends a text.
    """
    packing: bool = False
    """Whether several conversations share a training row, up to max_length, none seeing another; the batch
    sizes then count rows."""
    generate: bool = True
    """Whether evaluations write the reply to the last user turn of each record, beside the metrics."""
    max_new_tokens: PositiveInt = 256
    """Longest reply that is written, in tokens; a prompt may have max_length beside it."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Every metric that an evaluation may have."""
        return METRICS

    def fault(self, example: Example, purpose: Purpose = "train") -> str:
        """Return what is wrong with a record's fields: a missing one, an unknown role, an empty text."""
        if self.instruction_field is not None:
            names = [self.instruction_field, *([] if purpose == "predict" else [self.output_field])]
            if fault := missing(example, names):
                return fault
            empty = [name for name in names if not str(example[name]).strip()]
            return f"the field {empty[0]!r} is an empty text" if empty else ""
        if fault := missing(example, [self.messages_field]):
            return fault
        messages = example[self.messages_field]
        if not isinstance(messages, list | tuple) or not messages:
            return f"the field {self.messages_field!r} is no list of messages"
        for number, message in enumerate(messages, start=1):
            if fault := self._message_fault(message):
                return f"message {number} {fault}"
        if purpose == "predict":
            return ""
        speakers = [one["role"] for one in self.messages(example)]
        if "assistant" not in speakers:
            return "no message is the assistant's"
        if purpose == "evaluate" and speakers[-1] != "assistant":
            return "the last message is not the assistant's, and there is no reply to compare with"
        return ""

    def messages(self, example: Example) -> list[Message]:
        """Return a record's conversation."""
        if self.instruction_field is not None:
            asked = str(example[self.instruction_field])
            about = example.get(self.input_field) if self.input_field else None
            turns = [("user", f"{asked}\n\n{about}" if about else asked)]
            if example.get(self.output_field):
                turns.append(("assistant", str(example[self.output_field])))
            return [{"role": role, "content": content} for role, content in turns]
        return [
            {"role": self._role(one[self.role_field]), "content": one[self.content_field]}
            for one in example[self.messages_field]
        ]

    def build(self, path: str, state: Mapping[str, Any]) -> "Chat":
        """Return the task; raises ModelError where the folder has no tokenizer, or one that cannot chat."""
        return Chat(self, path, state)

    def _role(self, name: str) -> str:
        return self.roles.get(name, name)

    def _message_fault(self, message: Any) -> str:
        if not isinstance(message, Mapping):
            return "has no fields"
        if fault := missing(message, [self.role_field, self.content_field]):
            return fault
        role, content = message[self.role_field], message[self.content_field]
        if self._role(role) not in ROLES:
            return f"has the unknown role {role!r}: set task.roles to say which of {', '.join(ROLES)} it is"
        if not isinstance(content, str):
            return f"has the content {content!r}, which is no text"
        if not content.strip() and self._role(role) != "system":
            return "has an empty text"
        return ""


class Chat(Task):
    """Cross-entropy of the assistant's tokens; evaluations write each record's last reply, greedily."""

    metrics = METRICS
    purpose = "to chat"
    pipeline = "text-generation"
    config: ChatConfig

    def __init__(self, config: ChatConfig, path: str, state: Mapping[str, Any]) -> None:
        super().__init__(config, path, state)
        self.config = config
        self.generates = config.generate
        self.conversation = Conversation(self.tokenizer, config.chat_template, path)
        self.usage = USAGE.format(tokens=config.max_new_tokens)
        self._positions = getattr(self.model_config, "max_position_embeddings", None) or math.inf
        longest = config.max_length + (config.max_new_tokens if config.generate else 0)
        if longest > self._positions:
            raise ModelError(
                f"{path}: has {self._positions} positions; task.max_length and task.max_new_tokens come to "
                f"{longest}; set them lower"
            )

    def auto_class(self) -> Any:
        """Return the Auto class of decoders."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def build_model(self, path: str, **keys: Any) -> Start:
        """Return the model, told which tokens end a reply.

        Raises ModelError as any task does, and where packed conversations would see each other.
        """
        start = super().build_model(path, **keys)
        # A language model's head is pretrained as the rest is, and trains where the rest does.
        start = replace(start, head=tuple(name for name in start.head if name in start.new))
        model: Any = start.model
        model.generation_config.eos_token_id = self.conversation.stops
        model.generation_config.pad_token_id = self.tokenizer.pad_token_id
        if self.config.packing:
            check_packing(model)
        return start

    def encode(self, example: Example, purpose: Purpose = "train") -> Sequence[Row]:
        """Return input_ids [T] and labels [T], each the next token where the assistant wrote that one.

        `prompt_ids` ask for the last reply where one is to be written. Raises ExampleError where nothing of
        the assistant's is within max_length, or the prompt is longer.
        """
        messages = self.config.messages(example)
        row: dict[str, np.ndarray] = {}
        if purpose == "predict" or (purpose == "evaluate" and self.config.generate):
            prompt = self.conversation.prompt(_asked(messages))
            if len(prompt) > self.config.max_length:
                raise ExampleError(
                    f"the prompt of the last reply is longer than max_length: it has {len(prompt)} tokens"
                )
            row["prompt_ids"] = np.asarray(prompt, dtype=np.int64)
            row["input_ids"] = row["prompt_ids"]
        if purpose != "predict":
            ids, marks = self.conversation.marked(messages)
            input_ids = np.asarray(ids[: self.config.max_length], dtype=np.int64)
            labels = np.full(len(input_ids), NO_TARGET, dtype=np.int64)
            targets = np.flatnonzero(marks[: self.config.max_length])
            targets = targets[targets > 0]
            if not len(targets):
                raise ExampleError("nothing of the assistant's is within max_length")
            labels[targets - 1] = input_ids[targets]
            row |= {"input_ids": input_ids, "labels": labels}
        return [row]

    def arrange(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return the rows packed where they are to be: a micro batch alone has too few to fill rows."""
        return packed(rows, self.config.max_length) if self.config.packing else rows

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return input_ids, attention_mask and labels [B, T], with position_ids where rows are packed.

        Prompts are padded on the left, for what is written goes on from their last token.
        """
        pad = self.tokenizer.pad_token_id
        batch = inputs(rows, pad)
        if "labels" in rows[0]:
            batch["labels"] = padded(rows, "labels", NO_TARGET)
        if "position_ids" in rows[0]:
            batch["position_ids"] = padded(rows, "position_ids", 0)
        if "prompt_ids" in rows[0]:
            prompts = inputs([{"input_ids": row["prompt_ids"]} for row in rows], pad, left=True)
            batch |= {"prompt_ids": prompts["input_ids"], "prompt_mask": prompts["attention_mask"]}
        return batch

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of the assistant's tokens."""
        return {"loss": float((batch["labels"] != NO_TARGET).sum())}

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Return the cross-entropy summed over the assistant's tokens."""
        logits_NV, labels_N = self._targets(model, batch)
        total = F.cross_entropy(logits_NV, labels_N, reduction="sum")
        return LossOutput({"loss": Term(total, float(len(labels_N)))})

    def predict(self, model: nn.Module, batch: Batch) -> Predicted:
        """Return of each row the number of targets, how many are guessed right, their loss, and the reply."""
        size = len(batch["input_ids"])
        replies = self._replies(model, batch) if "prompt_ids" in batch else [None] * size
        if "labels" not in batch:
            return Predicted([(0, 0, 0.0, reply) for reply in replies])
        logits_NV, labels_N = self._targets(model, batch)
        losses_N = F.cross_entropy(logits_NV, labels_N, reduction="none").cpu().double()
        right_N = (logits_NV.argmax(-1) == labels_N).cpu().double()
        rows_N = (batch["labels"] != NO_TARGET).nonzero()[:, 0].cpu()
        values_N3 = torch.stack([torch.ones_like(right_N), right_N, losses_N], dim=1)
        sums_B3 = values_N3.new_zeros(size, 3).index_add_(0, rows_N, values_N3).tolist()
        outputs = [
            (int(number), int(right), loss, reply)
            for (number, right, loss), reply in zip(sums_B3, replies, strict=True)
        ]
        return Predicted(outputs, float(losses_N.sum()), float(len(labels_N)))

    def decide(self, examples: Sequence[Example], outputs: Sequence[Sequence[Any]]) -> list[Prediction]:
        """Return the reply, None where none was written, and how the record's own was guessed."""
        found = []
        for ((number, right, loss, reply),) in outputs:
            guessed = {"tokens": number, "right_tokens": right, "loss": loss / number} if number else {}
            found.append({"prediction": reply, **guessed})
        return found

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return the share of the assistant's tokens that are the likeliest, and their perplexity."""
        number = sum(one["tokens"] for one in predictions)
        loss = sum(one["loss"] * one["tokens"] for one in predictions) / number
        right = sum(one["right_tokens"] for one in predictions)
        return {"token_accuracy": right / number, "perplexity": math.exp(min(loss, 700.0))}

    def shown(self, example: Example) -> dict[str, Any]:
        """Return the messages up to the last reply, and that reply."""
        messages = self.config.messages(example)
        asked = _asked(messages)
        answer = messages[len(asked)]["content"] if len(asked) < len(messages) else None
        return {"input": asked, **({} if answer is None else {"target": answer})}

    def judge(self, example: Example, prediction: Prediction) -> float | None:
        """Return the share of the assistant's tokens that are the likeliest."""
        number = prediction.get("tokens", 0)
        return prediction["right_tokens"] / number if number else None

    def _targets(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        input_ids, labels = batch["input_ids"], batch["labels"]
        if "position_ids" in batch:
            logits_BTV = run_packed(model, input_ids, batch["position_ids"])
        else:
            logits_BTV = model(
                input_ids=input_ids, attention_mask=batch["attention_mask"], use_cache=False
            ).logits
        wanted_BT = labels != NO_TARGET
        logits_NV = logits_BTV[wanted_BT]
        return at_least_float32(logits_NV), labels[wanted_BT]

    def _replies(self, model: Any, batch: Batch) -> list[str]:
        prompt_ids = batch["prompt_ids"]
        room = self._positions - prompt_ids.shape[1]
        written = model.generate(
            input_ids=prompt_ids,
            attention_mask=batch["prompt_mask"],
            **GenerationConfig().arguments(max(1, int(min(self.config.max_new_tokens, room)))),
            use_cache=True,
            eos_token_id=self.conversation.stops,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        replies = self.tokenizer.batch_decode(written[:, prompt_ids.shape[1] :], skip_special_tokens=True)
        return [reply.strip() for reply in replies]


def _asked(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages that a reply is to be written to: all but a reply that ends them."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages
