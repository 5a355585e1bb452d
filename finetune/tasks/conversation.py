"""What a tokenizer makes of a conversation: its tokens by a chat template, and which the assistant wrote."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lumbre.errors import ModelError

from .base import ExampleError

Message = Mapping[str, str]
"""One turn: `role` (system, user or assistant) and `content`."""
CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, as Qwen and many others have it, for tokenizers that know its two tokens."""
PLAIN = (
    "{% for message in messages %}"
    "### {{ message.role | capitalize }}:\n{{ message.content | trim }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
"""Headlines in plain text, a reply closed by the token that ends a text: where there is no template."""
MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
SAMPLE = "reply"


class Conversation:
    """Renders messages by the tokenizer's own chat template, or the one that is chosen."""

    def __init__(self, tokenizer: Any, chosen: str | None, path: str) -> None:
        """`chosen`: "chatml", a Jinja text, or None; sets the tokenizer's template, which is saved with it.

        Raises ModelError where the template cannot be rendered, or closes a reply with no token of its own.
        """
        self._tokenizer = tokenizer
        if chosen is not None:
            tokenizer.chat_template = CHATML if chosen == "chatml" else chosen
        elif not tokenizer.chat_template:
            tokenizer.chat_template = PLAIN
        self._marked = bool(MARKS.search(str(tokenizer.chat_template)))
        try:
            end = self._end()
        except ExampleError as error:
            raise ModelError(f"{path}: its tokenizer cannot chat: {error}; set task.chat_template") from error
        if end is None:
            raise ModelError(
                f"{path}: the chat template closes a reply with no token that the tokenizer knows as one, so "
                "that replies would never end; set task.chat_template to one that does, or leave it out"
            )
        self.stops = sorted({end, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])})
        """Tokens that end a reply."""

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens that ask for the reply to these messages."""
        return self._ids(messages, add_generation_prompt=True)

    def marked(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """Return the tokens, and which of them the assistant wrote, the one that ends its turn included.

        Told by the template's {% generation %} marks; without them, by what each reply adds to the prompt
        for it. Raises ExampleError where the template renders a turn in another way once more turns follow.
        """
        if self._marked:
            rendered = self._render(messages, return_dict=True, return_assistant_tokens_mask=True)
            return list(rendered["input_ids"]), [bool(mark) for mark in rendered["assistant_masks"]]
        ids = self._ids(messages)
        marks = [False] * len(ids)
        for at, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            # Many templates render no conversation that is empty.
            before = self.prompt(messages[:at]) if at else []
            after = self._ids(messages[: at + 1])
            # Line breaks behind the token that ends the turn may merge with what follows.
            ends = [place for place in range(len(before), len(after)) if after[place] in self.stops]
            stop = ends[-1] + 1 if ends else len(after)
            if after[: len(before)] != before or ids[:stop] != after[:stop]:
                raise ExampleError(
                    f"the chat template renders turn {at + 1} in another way where more follows, so that the "
                    "assistant's tokens cannot be told; use one with {% generation %} marks, or chatml"
                )
            marks[len(before) : stop] = [True] * (stop - len(before))
        return ids, marks

    def _ids(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> list[int]:
        return list(self._render(messages, return_dict=False, add_generation_prompt=add_generation_prompt))

    def _render(self, messages: Sequence[Message], **keys: Any) -> Any:
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template([dict(one) for one in messages], **keys)
        except (TemplateError, TypeError, ValueError) as error:
            raise ExampleError(f"the chat template cannot render it: {error}") from error

    def _end(self) -> int | None:
        """Return the token that closes a reply; None where none that is whole does."""
        messages = [{"role": "user", "content": "ask"}, {"role": "assistant", "content": SAMPLE}]
        text = self._render(messages, tokenize=False)
        _, found, tail = text.rpartition(SAMPLE)
        if not found:
            raise ExampleError("the chat template leaves a reply out")
        whole = {*self._tokenizer.all_special_ids, *self._tokenizer.added_tokens_decoder}
        ids = self._tokenizer(tail, add_special_tokens=False)["input_ids"]
        return next((token for token in ids if token in whole), None)
