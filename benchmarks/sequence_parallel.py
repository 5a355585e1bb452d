"""What ranks that share rows keep, hold and take (engine.sequence_parallel): one row, on 1, 2, ... ranks.

    .venv/bin/python -m benchmarks.sequence_parallel [--lengths 4096 8192 16384] [--ranks 1 2]

For each row length and number of ranks, a group of processes of one thread each trains a small GPT on a row
of one document, which all ranks share. `kept` is what autograd keeps for the backward pass on one rank,
tensor by tensor, parameters left out: the claim is that it falls as 1/ranks. `held` is how far the resident
memory of a rank rises in a step over what it is between steps. `seconds` is the median step, to be read on
an idle machine. The largest of any rank is told, and in brackets its share of the first number of ranks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from lumbre import distributed
from lumbre.engine import AccelerateConfig
from lumbre.models import LanguageModel, TransformerConfig
from lumbre.optim import AdamWConfig

VOCABULARY = 8192
SHAPE = {
    "causal": True,
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_layers": 4,
    "num_heads": 8,
    "position": {"type": "rotary"},
    "norm": "rmsnorm",
    "gated_mlp": True,
    "activation": "silu",
    "intermediate_size": 704,
    "bias": False,
}
STEPS = 3
MIB = 2**20


class Kept:
    """Counts the bytes of the tensors that autograd keeps, each storage once."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self._sizes: dict[int, int] = {}
        self._parameters = {one.untyped_storage().data_ptr() for one in parameters}

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is kept."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._parameters:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        """What is kept, in bytes."""
        return sum(self._sizes.values())


def run(length: int) -> dict[str, float]:
    """Train on one row of so many tokens, shared by all ranks; return what the worst rank came to."""
    torch.set_num_threads(1)
    with distributed.session(1) as world:
        model = LanguageModel(TransformerConfig.model_validate(SHAPE).build())
        config = AccelerateConfig(sequence_parallel=world.size)
        engine = config.build(model, AdamWConfig(learning_rate=1e-4), micro_batch_size=1)
        kept, seconds = Kept([]), []
        for step in range(1 + STEPS):
            # The first step, which makes gradients and the optimizer's state, is on a short row.
            tokens = length if step else 64 * world.size
            ids = torch.randint(0, VOCABULARY, (1, tokens + 1), generator=torch.Generator().manual_seed(step))
            part = slice(world.rank * tokens // world.size, (world.rank + 1) * tokens // world.size)
            inputs, labels = ids[:, :-1][:, part], ids[:, 1:][:, part]
            kept = Kept(list(model.parameters()))
            began = time.perf_counter()
            with engine.accumulate(last=True):
                with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
                    loss = engine.forward()(inputs, labels=labels).loss
                engine.backward(loss / tokens)
            engine.step(1e-4)
            seconds.append(time.perf_counter() - began)
            if not step:
                before = resident("VmRSS")
                # Linux starts the peak anew.
                Path("/proc/self/clear_refs").write_text("5")
        held = resident("VmHWM") - before
        found = {"kept": kept.bytes / MIB, "held": held / MIB, "seconds": statistics.median(seconds[1:])}
        everyone = distributed.gather_objects(found)
        distributed.barrier()
    return {name: max(one[name] for one in everyone) for name in found}


def resident(kind: str) -> int:
    """Return this process's resident memory, VmRSS, or its peak, VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(kind))


def group(script: str, ranks: int, *arguments: str) -> dict[str, float]:
    """Return what a script prints, as JSON, in a fresh group of so many ranks."""
    agent = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *agent, script, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure every length on every number of ranks, or be a rank of one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192, 16384])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rank-of", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.rank_of is not None:
        found = run(asked.rank_of)
        if distributed.world().is_main:
            print(json.dumps(found), flush=True)
        distributed.leave(0)
    for length in asked.lengths:
        first: dict[str, float] = {}
        for ranks in asked.ranks:
            found = group(__file__, ranks, "--rank-of", str(length))
            first = first or found
            shares = " ".join(
                f"{name} {value:8.1f} {unit} ({value / first[name]:.2f})"
                for (name, value), unit in zip(found.items(), ("MiB", "MiB", "s"), strict=True)
            )
            print(
                f"{length:6} tokens on {ranks} ranks: {shares}".replace("on 1 ranks", "on 1 rank "),
                flush=True,
            )


if __name__ == "__main__":
    main()
