"""What the checks of a step cost of 50 ms: losses and norms observed, documents watched, marked losses.

    .venv/bin/python -m benchmarks.checks_overhead [--steps 200]

In one process, as a step of pretraining does them: one micro batch of 32 rows of 512 tokens, four documents a
row, a target at each token (a causal model) or at 15% of them (a masked one). The thread's CPU seconds, the
median step, each after a forward and backward pass, which leaves little of them in the processor's caches.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch

from lumbre.models import NO_TARGET
from lumbre.trainer import TrainConfig
from lumbre.trainer.health import Health
from lumbre.trainer.non_finite import marked
from pretrain.suspects import Suspects

STEP_SECONDS = 0.05
ROWS, TOKENS, DOCUMENTS = 32, 512, 4


def median(action: Callable[[], object], times: int) -> float:
    """Return the median CPU seconds of an action between passes of a small model."""
    layer = torch.nn.TransformerEncoderLayer(64, 4, 256, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    took = []
    for _ in range(times):
        model(torch.rand(4, 64, 64)).sum().backward()
        began = time.thread_time_ns()
        action()
        took.append((time.thread_time_ns() - began) / 1e9)
    return statistics.median(took)


def main() -> None:
    """Print each check's share of a step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    health = Health(TrainConfig(steps=1, global_batch_size=1, micro_batch_size=1))
    chance = np.random.default_rng(0)

    loss = torch.ones((), requires_grad=True)

    def always() -> None:
        marked(loss)
        health.observe(2.0 + chance.normal(0, 0.1), 1.0)

    shares = {"always (non_finite, spikes: tell)": median(always, steps)}
    documents_BT = (
        torch.arange(TOKENS).div(TOKENS // DOCUMENTS, rounding_mode="floor").int().repeat(ROWS, 1) + 1
    )
    for name, share in ("a causal model", 1.0), ("a masked model", 0.15):
        targets_BT = torch.from_numpy(chance.random((ROWS, TOKENS)) < share)
        losses_M = torch.rand(int(targets_BT.sum()))
        batch = {
            "labels": torch.where(targets_BT, 1, NO_TARGET),
            "document_ids": documents_BT,
            "sample": torch.arange(ROWS),
            "source": torch.zeros(ROWS, dtype=torch.long),
        }
        # No document stands out, so that neither the stream nor the list is asked.
        suspects = Suspects(cast(Any, None), cast(Any, None), [""], active=True)

        def watch(
            batch: dict[str, torch.Tensor] = batch,
            losses_M: torch.Tensor = losses_M,
            suspects: Suspects = suspects,
        ) -> None:
            suspects.take(batch, losses_M)
            assert not suspects.judge(1)

        shares[f"spikes: quarantine, {name}"] = median(watch, steps)
    for name, seconds in shares.items():
        print(f"{name}: {1e3 * seconds:.3f} ms, {seconds / STEP_SECONDS:.2%} of a step of 50 ms")


if __name__ == "__main__":
    main()
