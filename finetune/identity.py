"""What makes two fine-tuning runs the same: by it a checkpoint is continued and a result recalled."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lumbre.files import sha256

from .config import FinetuneConfig
from .examples import Split

MODEL_FILES = ("config.json", "*.safetensors", "tokenizer.json")


def fingerprints(model_path: str, splits: Mapping[str, Split]) -> dict[str, str]:
    """Return hashes of what a run reads: the model folder's files and the encoded examples.

    A model of the hub has no files to look at before it is fetched; its name stands for it.
    """
    files = sorted(file for pattern in MODEL_FILES for file in Path(model_path).glob(pattern))
    model = hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode())
    data = hashlib.sha256()
    for split in sorted(splits):
        for row in splits[split].rows:
            for name in sorted(row):
                data.update(f"{split} {name} {row[name].shape}\n".encode())
                data.update(np.ascontiguousarray(row[name]).tobytes())
    return {"model files": model.hexdigest()[:16], "data examples": data.hexdigest()[:16]}


def identity(config: FinetuneConfig, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return what a checkpoint must share with this run to be continued by it."""
    return {
        "model": config.model.model_dump(mode="json"),
        "method": config.method.model_dump(mode="json", serialize_as_any=True),
        "task": config.task.model_dump(mode="json", serialize_as_any=True),
        "data": config.data.model_dump(mode="json", serialize_as_any=True),
        "selection": config.selection.model_dump(mode="json"),
        **inputs,
        "optimizer.type": config.optimizer.type,
        "train.global_batch_size": config.batch_sizes[0],
        "seed": config.seed,
    }


def recipe(config: FinetuneConfig, inputs: Mapping[str, str], steps: int) -> dict[str, Any]:
    """Return what a finished run of so many steps must share with this one for its result to be its own."""
    evaluations = (
        {}
        if config.selection.patience is None and config.selection.keep == "last"
        else {"train.eval_every": config.train.eval_every}
    )
    return {
        **identity(config, inputs),
        "optimizer": config.optimizer.model_dump(mode="json", serialize_as_any=True),
        "schedule": config.schedule.model_dump(mode="json", serialize_as_any=True),
        "engine.precision": config.engine.precision,
        **evaluations,
        "train.steps": steps,
    }
