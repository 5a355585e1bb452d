"""What makes two fine-tuning runs the same: by it a checkpoint is continued and a result recalled."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lumbre.files import sha256

from .config import FinetuneConfig

Rows = Mapping[str, Sequence[Mapping[str, np.ndarray]]]
"""Encoded examples by split."""

MODEL_FILES = ("config.json", "*.safetensors", "tokenizer.json")


def fingerprints(model_path: str, rows: Rows) -> dict[str, str]:
    """Return hashes of what a run reads: the model folder's files and the encoded examples.

    A model of the hub has no files to look at before it is fetched; its name stands for it.
    """
    files = sorted(file for pattern in MODEL_FILES for file in Path(model_path).glob(pattern))
    model = hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode())
    data = hashlib.sha256()
    for split in sorted(rows):
        for row in rows[split]:
            for name in sorted(row):
                data.update(f"{split} {name} {row[name].shape}\n".encode())
                data.update(np.ascontiguousarray(row[name]).tobytes())
    return {"model files": model.hexdigest()[:16], "data examples": data.hexdigest()[:16]}


def identity(config: FinetuneConfig, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return what a checkpoint must share with this run to be continued by it."""
    return {
        "model": config.model.model_dump(mode="json"),
        "task": config.task.model_dump(mode="json", serialize_as_any=True),
        "data": config.data.model_dump(mode="json", serialize_as_any=True),
        **inputs,
        "optimizer.type": config.optimizer.type,
        "train.global_batch_size": config.train.batch_sizes[0],
        "seed": config.seed,
    }


def recipe(config: FinetuneConfig, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return what a finished run must share with this one for its result to be this one's."""
    return {
        **identity(config, inputs),
        "optimizer": config.optimizer.model_dump(mode="json", serialize_as_any=True),
        "schedule": config.schedule.model_dump(mode="json", serialize_as_any=True),
        "engine.precision": config.engine.precision,
        "train.steps": config.train.steps,
    }
