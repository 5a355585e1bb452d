"""What ranks that share matrices hold (engine.tensor_parallel): one model, on 1, 2, ... ranks that share it.

    python -m benchmarks.tensor_parallel [--hidden 512] [--layers 8] [--length 256] [--ranks 1 2]

For each number of ranks, a group of processes of one thread each trains a small GPT on the same rows.
`weights` is what a rank has of the parameters, and so of gradients and of the optimizer's state: blocks fall
as 1/ranks, embeddings do not. `kept` is what autograd keeps for the backward pass, tensor by tensor,
parameters left out: what is inside attention and MLP falls as 1/ranks, what they read and give does not.
`seconds` is the median step, to be read on an idle machine. The largest of any rank is told, and in brackets
its share of the first number of ranks.
"""

import argparse
import json
import statistics
import time

import torch

from benchmarks.sequence_parallel import MIB, SHAPE, STEPS, VOCABULARY, Kept, group
from lumbre import distributed
from lumbre.engine import DeepSpeedConfig
from lumbre.models import LanguageModel, TransformerConfig
from lumbre.optim import AdamWConfig

ROWS = 4


def run(hidden: int, layers: int, length: int) -> dict[str, float]:
    """Train on the same rows with every rank sharing the matrices; return what the worst rank came to."""
    torch.set_num_threads(1)
    with distributed.session(1) as world:
        shape = {**SHAPE, "hidden_size": hidden, "num_layers": layers, "intermediate_size": 4 * hidden}
        model = LanguageModel(TransformerConfig.model_validate(shape).build())
        config = DeepSpeedConfig.model_validate({"tensor_parallel": world.size, "zero_stage": 0})
        engine = config.build(model, AdamWConfig(learning_rate=1e-4), micro_batch_size=ROWS)
        kept, seconds = Kept([]), []
        for step in range(1 + STEPS):
            chance = torch.Generator().manual_seed(step)
            ids = torch.randint(0, VOCABULARY, (ROWS, length + 1), generator=chance)
            kept = Kept(list(model.parameters()))
            began = time.perf_counter()
            with engine.accumulate(last=True):
                with torch.autograd.graph.saved_tensors_hooks(kept.keep, lambda tensor: tensor):
                    loss = engine.forward()(ids[:, :-1], labels=ids[:, 1:]).loss
                engine.backward(loss / ids[:, 1:].numel())
            engine.step(1e-4)
            seconds.append(time.perf_counter() - began)
        weights = sum(one.nbytes for one in model.parameters())
        found = {
            "weights": weights / MIB,
            "kept": kept.bytes / MIB,
            "seconds": statistics.median(seconds[1:]),
        }
        everyone = distributed.gather_objects(found)
        distributed.barrier()
    return {name: max(one[name] for one in everyone) for name in found}


def main() -> None:
    """Measure on every number of ranks, or be a rank of one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    sizes = {"hidden": 512, "layers": 8, "length": 256}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--is-rank", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    given = {name: getattr(asked, name) for name in sizes}
    if asked.is_rank:
        found = run(**given)
        if distributed.world().is_main:
            print(json.dumps(found), flush=True)
        distributed.leave(0)
    first: dict[str, float] = {}
    for ranks in asked.ranks:
        words = [word for name, size in given.items() for word in (f"--{name}", str(size))]
        found = group(__file__, ranks, "--is-rank", *words)
        first = first or found
        shares = " ".join(
            f"{name} {value:8.1f} {'s' if name == 'seconds' else 'MiB'} ({value / first[name]:.2f})"
            for name, value in found.items()
        )
        print(f"{ranks} {'ranks' if ranks > 1 else 'rank'}: {shares}", flush=True)


if __name__ == "__main__":
    main()
