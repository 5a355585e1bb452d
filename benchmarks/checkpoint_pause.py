"""How long a save holds training: in the background, the copy alone, against copy, hash, write and fsync.

A model of 100 million parameters with AdamW's state, 1.2 GB, saved by both ways in turn in one process:

    python -m benchmarks.checkpoint_pause [--parameters 100e6] [--rounds 7] [--folder DIR]
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from torch import nn

from lumbre.checkpoint import CheckpointConfig, Checkpoints, Saved, verify
from lumbre.engine import AccelerateConfig
from lumbre.optim import AdamWConfig

WIDTH, VOCABULARY = 768, 30_000
"""BERT-base's: the model is its embeddings and as many of its blocks' matrices as make up the count."""


def module(parameters: int) -> nn.Module:
    """Return an embedding and square and oblong maps, about so many parameters together."""
    parts: list[nn.Module] = [nn.Embedding(VOCABULARY, WIDTH)]
    block = 12 * WIDTH * WIDTH
    for _ in range(max(1, round((parameters - VOCABULARY * WIDTH) / block))):
        parts += [nn.Linear(WIDTH, WIDTH) for _ in range(4)]
        parts += [nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)]
    return nn.ModuleList(parts)


def measured(store: Checkpoints) -> Saved:
    """Wait for a save and return its times."""
    store.wait()
    saved = store.finished()
    assert saved is not None
    assert verify(saved.folder) == []
    return saved


def told(name: str, seconds: list[float]) -> str:
    """Return the median and the spread."""
    low, high = min(seconds), max(seconds)
    return f"{name:<34}{statistics.median(seconds):8.3f} s   ({low:.3f} to {high:.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=float, default=100e6)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write; left out, the folder of temporary files")
    options = parser.parse_args()
    engine = AccelerateConfig().build(module(int(options.parameters)), AdamWConfig(learning_rate=0.1), 1)
    for parameter in engine.module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    engine.step(0.1)
    pauses: list[float] = []
    whole: list[float] = []
    synchronous: list[float] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = Checkpoints(Path(folder), CheckpointConfig(keep=1))
        store.prepare(engine)
        for number in range(options.rounds):
            store.save(engine, 2 * number + 1, {}, background=True)
            saved = measured(store)
            pauses.append(saved.pause)
            whole.append(saved.seconds)
            store.save(engine, 2 * number + 2, {})
            synchronous.append(measured(store).pause)
    count = sum(parameter.numel() for parameter in engine.module.parameters())
    print(
        f"{count / 1e6:.0f} million parameters, {saved.nbytes / 1e9:.2f} GB, {options.rounds} rounds in turn"
    )
    print(told("synchronous save", synchronous))
    print(told("background save, until whole", whole))
    print(told("background save, training stands", pauses))
    ratios = [pause / long for pause, long in zip(pauses, synchronous, strict=True)]
    print(
        f"the pause is {statistics.median(ratios):.1%} of the synchronous save's "
        f"({min(ratios):.1%} to {max(ratios):.1%})"
    )


if __name__ == "__main__":
    main()
