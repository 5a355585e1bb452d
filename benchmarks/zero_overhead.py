"""What DeepSpeed adds to a step of ZeRO-1 and ZeRO-2: a whole step beside what it is made of, in turn.

    python -m benchmarks.zero_overhead [--shapes gpt-14m bert-4x256] [--stages 1 2] [--ranks 2] [--rounds 15]

Ranks are processes on this CPU that share its threads, over gloo. Each round takes the seconds, one after the
other, each begun by all ranks together, of

- whole: a step of the DeepSpeed engine, as `lumbre pretrain` takes it: forward, backward, update;
- model: forward and backward pass of the same model by itself;
- optimizer: the norm of a rank's share of the gradient, clipping where the engine's was clipped, and
  torch's fused AdamW over the share;
- communication: an all-reduce of as many numbers as the model has, and an all-gather of the shares.

Overhead is the whole less the other three, as a share of the whole. What the collectives take by themselves
varies more than what they take within the step, which is therefore taken too, inside: their calls and the
waits for them, for a rank that is behind among them. The last column is overhead with it in place of
communication. In brackets are the quartiles over rounds. Figures that are to be recorded need an idle
machine.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import yaml

from benchmarks.speed.gate import Parts
from benchmarks.speed.ours import time_collectives
from benchmarks.speed.report import Spread
from benchmarks.speed.shapes import SHAPES, Shape, run_config
from benchmarks.train import described
from lumbre import config as configs
from lumbre import distributed
from lumbre.engine import DeepSpeedConfig
from lumbre.models import LanguageModel
from lumbre.optim import AdamWConfig
from pretrain.config import PretrainConfig

WARMUP = 3
"""Rounds that are not measured."""
MASKED = 0.15
RATE = 1e-4
PARTS = ("model", "optimizer", "communication")
INSIDE = "inside"


def main() -> None:
    """Measure every shape at every stage, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["gpt-14m", "bert-4x256"], choices=SHAPES)
    parser.add_argument("--stages", nargs="+", type=int, default=[1, 2], choices=[1, 2])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of all ranks together")
    parser.add_argument("--to", type=Path, help="a file for one rank's seconds (used within)")
    asked = parser.parse_args()
    if asked.to is not None:
        measured = seconds(SHAPES[asked.shapes[0]], asked.stages[0], asked.rounds)
        if distributed.world().is_main:
            asked.to.write_text(json.dumps(measured))
        distributed.leave(0)
    machine = {"ranks": asked.ranks, **described(on_cpu=True, threads=asked.threads, precision="float32")}
    print(", ".join(f"{key} {value}" for key, value in machine.items()), "\n")
    print("| | ZeRO | whole ms | model | optimizer | communication | inside | overhead | with inside |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in asked.shapes:
        for stage in asked.stages:
            print(row(name, stage, over_ranks(name, stage, asked)), flush=True)


def over_ranks(name: str, stage: int, asked: argparse.Namespace) -> dict[str, list[float]]:
    """Run a shape on all ranks; return the main one's seconds."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(max(1, asked.threads // asked.ranks)),
        "GOMP_SPINCOUNT": "10000",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={asked.ranks}"]
        keys = ["--shapes", name, "--stages", str(stage), "--rounds", str(asked.rounds), "--to", str(file)]
        command = [sys.executable, *launcher, "-m", "benchmarks.zero_overhead", *keys]
        done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-4000:])
        return dict(json.loads(file.read_text()))


def row(name: str, stage: int, measured: dict[str, list[float]]) -> str:
    """Return a line of the table."""
    times = [Spread.of([1e3 * one for one in measured[part]]) for part in ("whole", *PARTS, INSIDE)]
    overheads = [overhead(measured, (*PARTS[:2], sent)).shown(".1%") for sent in (PARTS[2], INSIDE)]
    cells = [name, str(stage), *(one.shown(".1f") for one in times), *overheads]
    return f"| {' | '.join(cells)} |"


def overhead(measured: dict[str, list[float]], parts: Sequence[str]) -> Spread:
    """Return the share of each round's whole that is in none of the parts."""
    rounds = zip(measured["whole"], *(measured[part] for part in parts), strict=True)
    return Spread.of([1 - sum(taken) / whole for whole, *taken in rounds])


def seconds(shape: Shape, stage: int, rounds: int) -> dict[str, list[float]]:
    """Time the whole and its parts on this rank, round by round."""
    with distributed.session(0):
        ranks = distributed.world().size
        clocks = Parts(distributed.device())
        time_collectives(clocks)
        torch.manual_seed(0)
        model = build(shape)
        alone = copy.deepcopy(model)
        batch = tokens(shape, shape.batch // ranks, model.config.vocab_size)
        optimizer = AdamWConfig(learning_rate=RATE)
        limit = optimizer.gradient_clipping or float("inf")
        engine = DeepSpeedConfig.model_validate({"zero_stage": stage}).build(
            model, optimizer, len(batch["ids"])
        )
        elements = sum(one.numel() for one in alone.parameters())
        share = torch.nn.Parameter(torch.randn(-(-elements // ranks)))
        update = torch.optim.AdamW([share], lr=RATE, fused=True)
        gradient, weights = torch.randn(elements), torch.empty(ranks * len(share))
        norm = 0.0
        found: dict[str, list[float]] = {}

        def whole() -> None:
            nonlocal norm
            clocks.is_on = True
            with engine.accumulate(last=True):
                loss = engine.forward()(batch["ids"], labels=batch["labels"]).loss
                engine.backward(loss / (ranks * batch["targets"]))
            norm = engine.step(RATE)
            clocks.is_on = False
            found.setdefault(INSIDE, []).append(clocks.seconds.pop("communication", 0.0))

        def by_itself() -> None:
            loss = alone(batch["ids"], labels=batch["labels"]).loss
            (loss / (ranks * batch["targets"])).backward()
            for one in alone.parameters():
                one.grad = None

        def its_share() -> None:
            assert share.grad is not None
            torch.linalg.vector_norm(share.grad)
            if norm > limit:
                share.grad.mul_(limit / norm)
            update.step()

        def sent() -> None:
            torch.distributed.all_reduce(gradient)
            torch.distributed.all_gather_into_tensor(weights, share.detach())

        for _ in range(WARMUP + rounds):
            share.grad = torch.randn_like(share)
            for name, part in zip(("whole", *PARTS), (whole, by_itself, its_share, sent), strict=True):
                found.setdefault(name, []).append(timed(part))
        torch.distributed.barrier()
        return {name: values[WARMUP:] for name, values in found.items()}


def timed(part: Callable[[], None]) -> float:
    """Return the seconds from when all ranks are there to when this one is done."""
    torch.distributed.barrier()
    began = time.perf_counter()
    part()
    return time.perf_counter() - began


def build(shape: Shape) -> LanguageModel:
    """Return the shape's model with fresh weights."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        keys = run_config(
            shape,
            batch=shape.batch,
            length=shape.length,
            engine={"type": "accelerate"},
            texts=[],
            folder=folder,
        )
        file.write_text(yaml.safe_dump(keys, sort_keys=False))
        config = configs.load(PretrainConfig, str(file), room="pretrain")
    assert isinstance(config, PretrainConfig)
    return LanguageModel(config.model.build())


def tokens(shape: Shape, rows: int, vocab_size: int) -> dict[str, Any]:
    """Return random rows: each token a target, and of a BERT one in seven."""
    generator = torch.Generator().manual_seed(distributed.world().rank)
    ids = torch.randint(vocab_size, (rows, shape.length), generator=generator)
    labels = ids.clone()
    if shape.family == "bert":
        labels[torch.rand(ids.shape, generator=generator) >= MASKED] = -100
    return {"ids": ids, "labels": labels, "targets": int((labels != -100).sum())}


if __name__ == "__main__":
    main()
