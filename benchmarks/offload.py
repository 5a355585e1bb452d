"""Resident memory and step time at ZeRO stage 3, all in memory or some on a disk, in turn, on one CPU.

    python -m benchmarks.offload FOLDER [--hidden 1024] [--layers 8] [--steps 3]

FOLDER is on the disk. Memory is what the process holds after the last step without pages that a file stands
behind, less what it held before the model was made.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from lumbre import distributed
from lumbre.engine import DeepSpeedConfig
from lumbre.models import LanguageModel, TransformerConfig
from lumbre.models.deferred import deferring
from lumbre.optim import AdamWConfig

PLACES = {
    "memory": {},
    "optimizer on disk": {"optimizer": "disk"},
    "parameters on disk": {"parameters": "disk"},
    "both on disk": {"optimizer": "disk", "parameters": "disk"},
}
GROUP = 5_000_000
"""Elements that are updated together: a tenth of the default, for a model a thousandth of what it is for."""


def resident() -> float:
    """Return this process's own memory in MB."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1e3


def measure(place: str, folder: str, hidden: int, layers: int, steps: int) -> None:
    """Train some steps and print what they took."""
    torch.manual_seed(0)
    shape = {
        **{"vocab_size": 8192, "hidden_size": hidden, "num_layers": layers, "num_heads": 8, "causal": True},
        "position": {"type": "learned", "max_length": 32},
    }
    offload = {**PLACES[place], **({"folder": folder} if PLACES[place] else {})}
    groups = {"zero_optimization": {"sub_group_size": GROUP}}
    config = DeepSpeedConfig.model_validate({"zero_stage": 3, "offload": offload, "deepspeed": groups})
    with distributed.session(0):
        before = resident()
        with deferring() as weights:
            model = LanguageModel(TransformerConfig.model_validate(shape).build())
        parameters = sum(one.numel() for one in model.parameters())
        engine = config.build(model, AdamWConfig(learning_rate=1e-4), 1, weights)
        ids = torch.randint(0, 8192, (1, 32))
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            with engine.accumulate(last=True):
                engine.backward(engine.forward()(ids, labels=ids).loss)
            engine.step(1e-4)
            seconds.append(time.perf_counter() - began)
        grown, median = resident() - before, sorted(seconds)[len(seconds) // 2]
    print(
        f"{place:<34} {parameters / 1e6:.0f}M parameters: {grown:6.0f} MB, {median:.2f} s a step", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--place", choices=PLACES, help="this one alone, in this process")
    chosen = parser.parse_args()
    if chosen.place is not None:
        measure(chosen.place, chosen.folder, chosen.hidden, chosen.layers, chosen.steps)
        return
    for place in PLACES:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.offload", *sys.argv[1:], "--place", place], check=True
        )


if __name__ == "__main__":
    main()
