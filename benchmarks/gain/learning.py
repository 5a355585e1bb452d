"""What keys do for the loss that so many tokens come to: fast-gpt-char with one of them changed."""

import json
import tempfile
from pathlib import Path

from benchmarks.speed.report import Spread
from benchmarks.to_loss.process import LUMBRE, run
from benchmarks.to_loss.shakespeare import CONFIG, parts

ROWS = 190 * 16
"""What the shipped config takes."""
ADAMW = "optimizer={{type: adamw, learning_rate: {}, weight_decay: 0.05}}"
VARIANTS: dict[str, list[str]] = {
    "as shipped: Muon, linear": [],
    **{f"adamw, rate {rate}": [ADAMW.format(rate)] for rate in ("3.0e-3", "1.0e-2", "2.0e-2")},
    **{
        f"lamb, rate {rate}": [f"optimizer={{type: lamb, learning_rate: {rate}, weight_decay: 0.05}}"]
        for rate in ("1.0e-2", "3.0e-2")
    },
    "schedule constant": ["schedule={type: constant, warmup: 0.02}"],
    "schedule cosine": ["schedule={type: cosine, warmup: 0.02}"],
    "schedule inverse_sqrt": ["schedule={type: inverse_sqrt, warmup: 0.1}"],
    "schedule wsd, decay over half": ["schedule={type: wsd, warmup: 0.02, decay: 0.5}"],
    "batch 8 for 80 steps, then 16": [
        *("train.steps=230", "train.global_batch_size=8", "train.micro_batch_size=8"),
        "data.stages=[{after_step: 80, global_batch_size: 16, micro_batch_size: 16}]",
    ],
    "rows of 33 for 100 steps, then 65": [
        *("train.steps=240", "data.seq_length=33"),
        "data.stages=[{after_step: 100, seq_length: 65}]",
    ],
}
"""By what is changed; all read as many tokens as the shipped config, within 2%."""


def table(data: Path, threads: int, seeds: int) -> None:
    """Print a line a variant: the loss of all of validation at the end, and the seconds of the command."""
    text = (data / "tinyshakespeare/input.txt").read_text(encoding="utf-8")
    print("| fast-gpt-char | loss | seconds |")
    print("|---|---|---|", flush=True)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "tinyshakespeare").mkdir()
        for name, part in zip(("train", "valid"), parts(text), strict=True):
            (folder / f"tinyshakespeare/{name}.txt").write_text(part, encoding="utf-8")
        for seed in range(1, seeds + 1):
            for number, (name, keys) in enumerate(VARIANTS.items()):
                run_name = f"{number}-{seed}"
                words = [*LUMBRE, "pretrain", str(CONFIG), f"name={run_name}", f"seed={seed}", *keys]
                ran = run(words, folder, threads)
                metrics = (folder / f"runs/{run_name}/metrics.jsonl").read_text().splitlines()
                losses = [row["eval/loss"] for row in map(json.loads, metrics) if "eval/loss" in row]
                found[name].append((losses[-1], ran.seconds))
    for name, ends in found.items():
        loss, seconds = (Spread.of([end[at] for end in ends]) for at in (0, 1))
        print(f"| {name} | {loss.shown('.3f')} | {seconds.middle:.1f} |", flush=True)
