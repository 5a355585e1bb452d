"""transformers' Trainer on rows of a stream of tokens for so many minutes, as run_clm and run_mlm do it.

    python -m benchmarks.peers.hf_minutes JOB

The rate rises and falls with the clock, so that it is at 0 when time is up, whatever the machine.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)

from benchmarks.speed.shapes import ENDLESS

WARMUP = 0.1
"""Share of the time over which the rate rises."""


class Clock(TrainerCallback):
    """Says how much of the time is gone, and ends the training then."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began: float | None = None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start with the first step."""
        self._began = self._began or time.perf_counter()

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        """Tell Trainer to stop when time is up."""
        control.should_training_stop = self.gone >= 1.0

    @property
    def gone(self) -> float:
        """The share of the time that is gone."""
        return 0.0 if self._began is None else (time.perf_counter() - self._began) / self._seconds

    def factor(self, _: int) -> float:
        """Return the factor on the rate: up in a straight line, and down to 0."""
        gone = self.gone
        return gone / WARMUP if gone < WARMUP else max(0.0, (1 - gone) / (1 - WARMUP))


class Rows(torch.utils.data.Dataset):
    """A stream cut into rows."""

    def __init__(self, tokens: np.ndarray, length: int, *, labelled: bool) -> None:
        self._rows = tokens[: len(tokens) // length * length].reshape(-1, length).astype(np.int64)
        self._labelled = labelled

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._rows[index]
        return {"input_ids": row, **({"labels": row} if self._labelled else {})}


def main(job: dict[str, Any]) -> None:
    """Train, and save the model."""
    transformers.set_seed(job["seed"])
    hf_config = dict(job["hf_config"])
    config = transformers.AutoConfig.for_model(hf_config.pop("model_type"), **hf_config)
    is_masked = job["kind"] == "bert"
    model = (AutoModelForMaskedLM if is_masked else AutoModelForCausalLM).from_config(config)
    collate: Any = default_data_collator
    if is_masked:
        collate = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(job["tokenizer"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=job["learning_rate"], weight_decay=0.01, fused=True)
    clock = Clock(60 * job["minutes"])
    arguments = TrainingArguments(
        output_dir=job["to"],
        per_device_train_batch_size=job["batch"],
        max_steps=ENDLESS,
        use_cpu=True,
        save_strategy="no",
        eval_strategy="no",
        logging_steps=50,
        report_to=[],
        disable_tqdm=True,
        seed=job["seed"],
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Rows(np.load(job["tokens"]), job["length"], labelled=not is_masked),
        data_collator=collate,
        callbacks=[clock],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, clock.factor)),
    )
    trainer.train()
    print(f"steps: {trainer.state.global_step}")
    model.save_pretrained(job["to"])


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
