"""What it takes to go on at step 1,000,000 of a stream over a trillion tokens.

The data is made up: sparse files that hold no text and take no room, under a manifest like any other. Printed
are the time and the memory from nothing but the prepared folder's open handle to the batch of the step, in a
fresh process each time, for each packing, and beside it what opening the folder takes.

    python benchmarks/seek.py
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from lumbre.pretrain.data.config import DataConfig
from lumbre.pretrain.data.packing import BestFitConfig, ConcatenateConfig
from lumbre.pretrain.data.plan import Plan, Stage
from lumbre.pretrain.data.shards import FORMAT_VERSION, MANIFEST, TOKENIZER, Manifest, PreparedData, Shard
from lumbre.pretrain.objectives import ClmConfig
from lumbre.pretrain.samples import GlobalStream

from lumbre.tokenizer import BpeConfig

SHARDS = 16_384
TOKENS = 1 << 26
DOCUMENTS = 1 << 16
STEP = 1_000_000
ROUNDS = 5


def make(folder: Path) -> None:
    """Write a prepared folder of 1.1 trillion tokens, all of them 0."""
    folder.mkdir(parents=True)
    BpeConfig(vocab_size=512).build(["nothing"] * 3).save(folder / TOKENIZER)
    tokens, offsets = folder / "tokens", folder / "offsets"
    with tokens.open("wb") as file:
        file.truncate(TOKENS * 2)
    np.linspace(0, TOKENS, DOCUMENTS + 1).astype("<i8").tofile(offsets)
    shards = []
    for number in range(SHARDS):
        name = f"train-{number:05d}"
        (folder / f"{name}.tokens").hardlink_to(tokens)
        (folder / f"{name}.offsets").hardlink_to(offsets)
        shards.append(
            Shard(name=name, documents=DOCUMENTS, tokens=TOKENS, tokens_sha256="-", offsets_sha256="-")
        )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        fingerprint="-",
        tokenizer_fingerprint="-",
        vocab_size=512,
        dtype="uint16",
        shards={"train": shards},
        duplicates=0,
        skipped={},
        prepared_from={},
    )
    (folder / MANIFEST).write_text(json.dumps(manifest.model_dump(mode="json")))


def seek(folder: Path, packing: str) -> None:
    """Print as JSON what opening and seeking take in this process."""
    memory = psutil.Process()
    before, began = memory.memory_info().rss, time.perf_counter()
    prepared = PreparedData.open(folder)
    opened, middle = memory.memory_info().rss, time.perf_counter()
    kind = BestFitConfig() if packing == "best_fit" else ConcatenateConfig()
    data = DataConfig(sources=[], folder=str(folder), seq_length=2048, packing=kind)
    tokenizer = BpeConfig(vocab_size=512).build(["nothing"] * 3)
    object.__setattr__(prepared, "tokenizer", lambda: tokenizer)  # its fingerprint is made up
    plan = Plan.of(Stage(0, 0, 2048, 256, 8, (1.0,)))
    objective = ClmConfig().build(tokenizer, 1)
    middle = time.perf_counter()
    stream = GlobalStream({"": prepared}, data, plan, objective, 1)
    first = plan.step(STEP).first
    for k in range(first, first + 8):
        stream(k)
    print(
        json.dumps(
            {
                "open": (middle - began) * 1e3,
                "open_memory": (opened - before) / 1e6,
                "seek": (time.perf_counter() - middle) * 1e3,
                "seek_memory": (memory.memory_info().rss - opened) / 1e6,
            }
        )
    )


def main() -> None:
    """Print a line for each packing."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "trillion"
        make(folder)
        for packing in ("concatenate", "best_fit"):
            runs = []
            for _ in range(ROUNDS):
                command = [sys.executable, __file__, str(folder), packing]
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                runs.append(json.loads(out.splitlines()[-1]))
            told = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            print(
                f"{packing}: step {STEP:,} of {SHARDS * TOKENS / 1e12:.1f} trillion tokens: first 8 rows of "
                f"2,048 after {told['seek']:.1f} ms and {told['seek_memory']:.1f} MB (opening the folder: "
                f"{told['open']:.0f} ms, {told['open_memory']:.1f} MB; medians of {ROUNDS})"
            )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        seek(Path(sys.argv[1]), sys.argv[2])
    else:
        main()
