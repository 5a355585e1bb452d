"""What a rank sends and holds, counted in real ZeRO runs of 1, 2, 4 and 8 ranks, against the formulas.

    python -m benchmarks.communication [--ranks 1 2 4 8] [--stages 0 1 2 3] [--to benchmarks/results]

A small GPT is trained for a few steps by engine.type=deepspeed on gloo and one CPU, whatever the machine has;
no clock is read. Sent are the bytes of every collective of the third step, as a ring would send them. Held
are the storages of parameters, gradient and optimizer, on the rank that has most of them, at the micro batch
after which they are most. The formulas are those of launch/zero.py.
"""

import argparse
import gc
import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}

import deepspeed  # noqa: F401  # here, so that the ranks that are forked have it
import torch

from benchmarks.communication_tables import tables
from benchmarks.zero_counts import Traffic, held, tensors_there
from lumbre import distributed
from lumbre.engine import DeepSpeedConfig
from lumbre.models import LanguageModel, TransformerConfig
from lumbre.optim import AdamWConfig

RANKS = (1, 2, 4, 8)
STEPS = 3
"""The first makes the optimizer's state, and stage 3 learns the order of the layers from it."""
VOCABULARY, LENGTH = 4096, 16
SHAPE = {
    "causal": True,
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_layers": 4,
    "num_heads": 2,
    "position": {"type": "learned", "max_length": LENGTH},
}
LIKE_A_LARGE_MODEL = {
    "stage3_param_persistence_threshold": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_max_live_parameters": 0,
    "stage3_prefetch_bucket_size": 0,
}
"""Stage 3's thresholds, which are made for models of billions, as they are to a model of one million."""

Case = dict[str, Any]


def cases() -> Iterator[Case]:
    """Yield what is run on each number of ranks; stage 3 last, for it leaves torch another linear map."""
    for stage in (0, 1, 2, 3):
        for precision in ("float32", "bfloat16") if stage else ("float32",):
            for micro_batches in (1, 2):
                zero = LIKE_A_LARGE_MODEL if stage == 3 else {}
                yield {
                    "stage": stage,
                    "precision": precision,
                    "micro_batches": micro_batches,
                    "tied": True,
                    "zero": zero,
                }
    odd = {"precision": "float32", "micro_batches": 1, "tied": True}
    for stage in (1, 2):
        yield {**odd, "stage": stage, "zero": {"use_multi_rank_bucket_allreduce": False}}
    yield {**odd, "stage": 3, "tied": False, "zero": LIKE_A_LARGE_MODEL}
    yield {**odd, "stage": 3, "zero": {}}


def count(case: Case) -> dict[str, Any]:
    """Train a case; return what this rank sent in the last step and held at most."""
    torch.manual_seed(1)
    gc.collect()
    before = tensors_there()
    shape = TransformerConfig.model_validate({**SHAPE, "tied_embeddings": case["tied"]})
    model = LanguageModel(shape.build())
    parameters = sum(one.numel() for one in model.parameters())
    config = DeepSpeedConfig.model_validate(
        {
            "zero_stage": case["stage"],
            "precision": case["precision"],
            "deepspeed": {"zero_optimization": case["zero"]} if case["zero"] else {},
        }
    )
    engine = config.build(model, AdamWConfig(learning_rate=1e-4), 1)
    del model
    ids = torch.randint(0, VOCABULARY, (1, LENGTH))
    traffic, memory = Traffic(), []
    for step in range(STEPS):
        traffic, memory = Traffic(), []
        with traffic:
            for number in range(case["micro_batches"]):
                last = number == case["micro_batches"] - 1
                with engine.accumulate(last), engine.autocast():
                    engine.backward(engine.forward()(ids, labels=ids).loss / LENGTH)
                if step == STEPS - 1:
                    gc.collect()
                    memory.append(held(engine.module, engine._optimizer, before))
            engine.step(1e-4)
    most = max(memory, key=lambda one: one.total)
    return {
        **case,
        "parameters": parameters,
        "shared": VOCABULARY * SHAPE["hidden_size"] if case["tied"] else 0,
        "calls": traffic.calls,
        "whole": traffic.whole,
        "small": traffic.small,
        "sent": traffic.sent(distributed.world().size),
        "held": asdict(most),
    }


def work(rank: int, ranks: int, port: int, file: str, chosen: Sequence[Case]) -> None:
    """Be one rank of a group, which goes through all cases; the main rank writes what all have counted."""
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
        **{"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }
    torch.set_num_threads(1)
    with distributed.session(1):
        everyone = distributed.gather_objects([count(case) for case in chosen])
        if rank == 0:
            Path(file).write_text(json.dumps([merged(one) for one in zip(*everyone, strict=True)]))
        distributed.barrier()
    distributed.leave(0)


def merged(of_ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a case's counts: all ranks send the same, and the one that holds most is told."""
    sent = [one["sent"] for one in of_ranks]
    assert all(one == sent[0] for one in sent), sent
    return max(
        of_ranks, key=lambda one: sum(one["held"][part] for part in ("parameters", "gradients", "optimizer"))
    )


def counted(ranks: int, chosen: Sequence[Case]) -> list[dict[str, Any]]:
    """Return the counts of every case on a group of so many ranks, forked from this process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "counts.json"
        arguments = (ranks, port, str(file), chosen)
        torch.multiprocessing.start_processes(work, arguments, nprocs=ranks, start_method="fork")
        return [{"ranks": ranks, **one} for one in json.loads(file.read_text())]


def main() -> None:
    """Count, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS))
    parser.add_argument("--to", type=Path, help="folder for communication.json and communication.md")
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    asked = parser.parse_args()
    chosen = [case for case in cases() if case["stage"] in asked.stages]
    found: list[dict[str, Any]] = []
    for ranks in asked.ranks:
        found += counted(ranks, chosen)
        print(f"{ranks} ranks: {len(found)} cases counted", file=sys.stderr, flush=True)
        if asked.to is not None:
            asked.to.mkdir(parents=True, exist_ok=True)
            (asked.to / "communication.json").write_text(json.dumps(found, indent=1) + "\n")
            (asked.to / "communication.md").write_text("\n".join(tables(found)) + "\n")
    print("\n".join(tables(found)))


if __name__ == "__main__":
    main()
