"""Predictions of a fine-tuned model for new examples, JSON lines in and JSON lines out."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

from lumbre import distributed
from lumbre.errors import DataError
from lumbre.files import explained

from .data import Example
from .evaluation import spans
from .predictions import line
from .run import MODEL_FOLDER, RESULT_FILE, say
from .tasks import ExampleError, Row, Task, restored
from .tasks.base import TASK_FILE, begin
from .unpadding import unpad

CHUNK = 16
"""Batches that are read at a time, so that like lengths can go together."""


def predict(place: Path, source: Path, target: Path | None, batch_size: int, *, skip: bool) -> int:
    """Write a prediction for each line of `source` ("-" is standard input), in order; return how many.

    `place` is a run, of which the model that was best on validation is used, or a fine-tuned model's folder.
    Raises DataError for a record that the task cannot use, unless such are skipped (a line with `error` then
    stands in their place); a `target` is whole or as it was before.
    """
    import torch

    from lumbre import products

    folder = model_folder(place)
    task = restored(folder)
    device = distributed.device()
    # As in the evaluations of its training.
    products.choose("auto")
    model = task.build_model(str(folder), from_scratch=False).model.eval().to(device)
    if device.type == "cpu":
        unpad(model)

    def outputs_of(rows: list[Row]) -> list[Any]:
        out: list[Any] = [None] * len(rows)
        for span in spans([task.length(row) for row in rows], batch_size):
            batch = task.collate([rows[at] for at in span])
            found = task.predict(model, {name: tensor.to(device) for name, tensor in batch.items()})
            for at, output in zip(span, found.outputs, strict=True):
                out[at] = output
        return out

    written = 0
    with torch.no_grad(), _opened(source) as lines, _written(target) as out:
        records = _records(lines)
        while chunk := list(islice(records, CHUNK * batch_size)):
            for text in _chunk(task, source, chunk, outputs_of, skip=skip):
                out.write(json.dumps(text, ensure_ascii=False) + "\n")
                written += 1
            out.flush()
    return written


def model_folder(place: Path) -> Path:
    """Return the folder of a fine-tuned model: of several runs, the one that was best on validation."""
    for folder in (place, place / MODEL_FOLDER):
        if (folder / TASK_FILE).is_file():
            return folder
    try:
        results = json.loads((place / RESULT_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: is neither a fine-tuned run nor its model folder") from error
    metric = results["metrics"][0]
    best = max(results["rows"], key=lambda row: float(row["validation"][metric]))
    folder = place / str(best["run"]) / MODEL_FOLDER
    if not (folder / TASK_FILE).is_file():
        raise DataError(f"{folder}: has no {TASK_FILE}; run the fine-tuning again")
    say(f"{best['run']}: the best of {len(results['rows'])} runs on validation")
    return folder


def _chunk(
    task: Task,
    source: Path,
    chunk: list[tuple[int, Example | str]],
    outputs_of: Callable[[list[Row]], list[Any]],
    *,
    skip: bool,
) -> Iterator[dict[str, Any]]:
    """Yield a line for each record, in order."""
    rows: list[Row] = []
    examples: list[Example] = []
    rows_of: list[range] = []
    faults: dict[int, str] = {}
    for number, example in chunk:
        its = example if isinstance(example, str) else _encoded(task, example)
        if isinstance(example, str) or isinstance(its, str):
            if not skip:
                raise DataError(f"{source}:{number}: {its}")
            faults[number] = str(its)
        else:
            examples.append(example)
            rows_of.append(range(len(rows), len(rows) + len(its)))
            rows += its
    outputs = outputs_of(rows)
    decided = iter(task.decide(examples, [[outputs[at] for at in its] for its in rows_of]))
    for number, example in chunk:
        if number in faults or isinstance(example, str):
            yield {"error": faults[number]}
        else:
            yield line(task, example, next(decided), labelled=False)


def _encoded(task: Task, example: Example) -> Sequence[Row] | str:
    """Return a record's rows, or why it has none."""
    if fault := task.config.fault(example, "predict"):
        return fault
    try:
        return task.encode(example, "predict")
    except ExampleError as error:
        return f"{error}: {begin(example)}"


def _records(lines: IO[bytes]) -> Iterator[tuple[int, Example | str]]:
    """Yield each line's number and record, or what is wrong with the line."""
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except ValueError as error:
            yield number, f"is not JSON: {error}"
            continue
        fault = f"a JSON object is expected, got a {type(record).__name__}"
        yield number, record if isinstance(record, dict) else fault


@contextmanager
def _opened(source: Path) -> Iterator[IO[bytes]]:
    if str(source) == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = source.open("rb")
    except OSError as error:
        raise DataError(f"{source}: {error.strerror}; --input names a file of JSON lines, or -") from error
    with stream:
        yield stream


@contextmanager
def _written(target: Path | None) -> Iterator[IO[str]]:
    if target is None:
        yield sys.stdout
        return
    working = target.with_name(f".{target.name}.tmp")
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with working.open("w", encoding="utf-8") as out:
                yield out
            working.replace(target)
        finally:
            working.unlink(missing_ok=True)
