"""What the checks of a step cost of 50 ms: losses and norms observed, documents watched, marked losses.

    .venv/bin/python -m benchmarks.checks_overhead [--steps 300]

In one process, as a step of pretraining does them: one micro batch of 32 rows of 512 tokens, four documents a
row, a target at each token (a causal model) or at 15% of them (a masked one). CPU seconds, the median step.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from lumbre.trainer import TrainConfig
from lumbre.trainer.health import Health
from lumbre.trainer.non_finite import marked
from lumbre.trainer.outliers import Pieces, UsualLosses, pieces_of

STEP_SECONDS = 0.05
ROWS, TOKENS, DOCUMENTS = 32, 512, 4


def median(action: Callable[[], object], times: int) -> float:
    """Return the median CPU seconds of an action."""
    took = []
    for _ in range(times):
        began = time.process_time_ns()
        action()
        took.append((time.process_time_ns() - began) / 1e9)
    return statistics.median(took)


def main() -> None:
    """Print each check's share of a step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    health = Health(TrainConfig(steps=1, global_batch_size=1, micro_batch_size=1))
    chance = np.random.default_rng(0)

    def always() -> None:
        loss = torch.ones((), requires_grad=True)
        marked(loss).backward()
        health.observe(2.0 + chance.normal(0, 0.1), 1.0)

    shares = {"always (non_finite, spikes: tell)": median(always, steps)}
    documents_BT = (
        torch.arange(TOKENS).div(TOKENS // DOCUMENTS, rounding_mode="floor").int().repeat(ROWS, 1) + 1
    )
    for name, share in ("a causal model", 1.0), ("a masked model", 0.15):
        targets_BT = torch.from_numpy(chance.random((ROWS, TOKENS)) < share)
        losses_M = torch.rand(int(targets_BT.sum()))
        usual, samples, sources = UsualLosses([""]), torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.long)

        def watch(
            targets_BT: torch.Tensor = targets_BT,
            losses_M: torch.Tensor = losses_M,
            usual: UsualLosses = usual,
            samples: torch.Tensor = samples,
            sources: torch.Tensor = sources,
        ) -> None:
            names_P3, sums_P3 = pieces_of(targets_BT, documents_BT, losses_M, samples, sources)
            usual.standing_out(Pieces(*names_P3.T, sums_P3.double().numpy()))  # type: ignore[call-arg]
            usual.take_up()

        shares[f"spikes: quarantine, {name}"] = median(watch, steps)
    for name, seconds in shares.items():
        print(f"{name}: {1e3 * seconds:.3f} ms, {seconds / STEP_SECONDS:.2%} of a step of 50 ms")


if __name__ == "__main__":
    main()
