"""SQuAD's own JSON, 1.1 and 2.0 (Rajpurkar et al., 2016, arXiv:1606.05250; 2018, arXiv:1806.03822)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from lumbre.errors import DataError
from lumbre.packed import open_unpacked

from .base import Example
from .files import FilesConfig, explained


class SquadConfig(FilesConfig):
    """SQuAD's own JSON files, version 1.1 or 2.0: articles of paragraphs with their questions."""

    type: Literal["squad"] = "squad"
    """The data's name."""

    def begins(self) -> Iterator[tuple[str, Path, Example]]:
        """Yield nothing: one JSON object has to be read whole, and its fields are the format's own."""
        yield from ()

    def records(self, file: Path) -> Iterator[Example]:
        """Yield the questions: id, title, context, question, answers (text, answer_start), is_impossible.

        Raises DataError naming the place in the file of what is not as in SQuAD.
        """
        with explained(file), open_unpacked(file) as stream:
            raw = stream.read()
        try:
            whole = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}: is not JSON: {error}") from error
        for at_article, article in _items(whole, "data", f"{file}: ", ""):
            for at_paragraph, paragraph in _items(article, "paragraphs", at_article, "."):
                context = _field(paragraph, "context", str, at_paragraph)
                for at, question in _items(paragraph, "qas", at_paragraph, "."):
                    answers = [answer for _, answer in _answers(question, at)]
                    yield {
                        "id": _field(question, "id", str, at),
                        "title": article.get("title", ""),
                        "context": context,
                        "question": _field(question, "question", str, at),
                        "answers": {
                            "text": [answer["text"] for answer in answers],
                            "answer_start": [answer["answer_start"] for answer in answers],
                        },
                        "is_impossible": bool(question.get("is_impossible", False)),
                    }


def _answers(question: Any, at: str) -> Iterator[tuple[str, Any]]:
    for place, answer in _items(question, "answers", at, "."):
        _field(answer, "text", str, place)
        _field(answer, "answer_start", int, place)
        yield place, answer


def _items(holder: Any, name: str, at: str, joint: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, item) of a list in an object."""
    for index, item in enumerate(_field(holder, name, list, at)):
        yield f"{at}{joint}{name}[{index}]", item


def _field(holder: Any, name: str, kind: type, at: str) -> Any:
    value = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(value, kind):
        fault = f"there is no {name!r}" if value is None else f"{name!r} is a {type(value).__name__}"
        raise DataError(f"{at.removesuffix(': ')}: {fault}; a {kind.__name__} stands there in SQuAD's files")
    return value
