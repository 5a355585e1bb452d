"""Predictions as JSON lines, one an example, in the examples' order."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lumbre.files import explained

from .data import Example
from .tasks import Prediction, Task


def line(task: Task, example: Example, prediction: Prediction, *, labelled: bool = True) -> dict[str, Any]:
    """Return what is written of an example: input, target, prediction and, where there is one, its score."""
    record = {**({"id": example["id"]} if "id" in example else {}), **task.shown(example), **prediction}
    if labelled and (judged := task.judge(example, prediction)) is not None:
        record["score"] = judged
    return record


def write_predictions(
    task: Task, examples: Sequence[Example], predictions: Sequence[Prediction], file: Path
) -> None:
    """Write a split's predictions; the file is whole or absent."""
    working = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with explained(file):
        with working.open("w", encoding="utf-8") as out:
            for example, prediction in zip(examples, predictions, strict=True):
                out.write(json.dumps(line(task, example, prediction), ensure_ascii=False) + "\n")
        working.replace(file)
