"""transformers' Trainer on the same model, text and batch as ours, behind a gate.

    python -m benchmarks.peers.hf_pretraining JOB

As run_clm and run_mlm do it: rows of one stream of tokens (job["rows"]), or a document a row, padded to the
longest of its batch (job["padded"]); masks are drawn by DataCollatorForLanguageModeling. A T5 is given rows
that were noised before.
"""

import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from benchmarks.speed.gate import Gate
from benchmarks.speed.shapes import ENDLESS

CLASSES = {"gpt": AutoModelForCausalLM, "bert": AutoModelForMaskedLM, "t5": AutoModelForSeq2SeqLM}


class Rows(torch.utils.data.Dataset):
    """Rows of tokens, the same again and again."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._rows[index]


class AtGate(TrainerCallback):
    """Has the loop wait at the gate between steps."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the first round."""
        self._gate.between()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Wait for the next step."""
        self._gate.between()


def rows_of(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the training rows."""
    arrays = np.load(job["rows"])
    if job["family"] == "t5":
        names = {"input_ids": "input_ids", "decoder_input_ids": "decoder_input_ids", "labels": "labels"}
        return [
            {name: arrays[ours][index].tolist() for name, ours in names.items()}
            | {"attention_mask": (arrays["document_ids"][index] != 0).astype(int).tolist()}
            | {"decoder_attention_mask": (arrays["decoder_document_ids"][index] != 0).astype(int).tolist()}
            for index in range(len(arrays["input_ids"]))
        ]
    tokens, length = arrays["tokens"], job["length"]
    if not job["padded"]:
        count = len(tokens) // length
        rows = [row.tolist() for row in tokens[: count * length].reshape(count, length)]
        return [{"input_ids": row} | ({"labels": row} if job["family"] == "gpt" else {}) for row in rows]
    starts = arrays["starts"]
    return [
        {"input_ids": tokens[start : min(stop, start + length)].tolist()}
        for start, stop in pairwise(starts.tolist())
    ]


def main(job: dict[str, Any]) -> None:
    """Train until the gate ends the process."""
    transformers.logging.set_verbosity_error()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gate = Gate(device, getattr(torch, job["precision"]))
    torch.manual_seed(1)
    hf_config = dict(job["hf_config"])
    config = transformers.AutoConfig.for_model(hf_config.pop("model_type"), **hf_config)
    model = CLASSES[job["family"]].from_config(config)
    collate: Any = default_data_collator
    if job["family"] == "bert":
        collate = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(job["tokenizer"]))

    def collated(rows: list[dict[str, Any]]) -> Any:
        batch = collate(rows)
        mask = batch.get("attention_mask")
        tokens = int(mask.sum()) if mask is not None else batch["input_ids"].numel()
        if "decoder_attention_mask" in batch:
            tokens += int(batch["decoder_attention_mask"].sum())
        gate.count(tokens)
        return batch

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=job["batch"],
            max_steps=ENDLESS,
            learning_rate=1e-4,
            weight_decay=0.1,
            lr_scheduler_type="linear",
            use_cpu=device.type == "cpu",
            bf16=job["precision"] == "bfloat16",
            torch_compile=job["compile"],
            save_strategy="no",
            eval_strategy="no",
            logging_steps=10,
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(
            model=model,
            args=arguments,
            train_dataset=Rows(rows_of(job)),
            data_collator=collated,
            callbacks=[AtGate(gate)],
        ).train()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
