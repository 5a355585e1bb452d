"""How long a step waits for its batch when a process trains 50,000 tokens a second.

The step is made up: it lasts as long as its tokens do at that rate, asleep as a process that waits for its
GPU, or busy with products of matrices on one thread. The batches are real: the standard library's text, MLM
noise, best-fit rows. Printed is the median share of a step that goes by waiting, for each length of rows and
number of loader processes, and how many tokens a second one thread makes when nobody waits.

    python benchmarks/loader.py
"""

import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from lumbre.pretrain.data.config import DataConfig
from lumbre.pretrain.data.loader import Loader
from lumbre.pretrain.data.mixture import prepare_sets
from lumbre.pretrain.data.packing import BestFitConfig
from lumbre.pretrain.data.plan import Plan, Stage
from lumbre.pretrain.data.sources import StdlibConfig
from lumbre.pretrain.objectives import MlmConfig
from lumbre.pretrain.samples import GlobalStream

from lumbre.tokenizer import WordPieceConfig

TOKENS_PER_SECOND = 50_000
STEP_TOKENS = 8192
STEPS = 60
WARM_UP = 10


def asleep(seconds: float) -> None:
    """Wait as for a GPU."""
    time.sleep(seconds)


def busy(seconds: float) -> None:
    """Work as a CPU does."""
    a = torch.ones(256, 256)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        a = a @ a * 1e-3


def main() -> None:
    """Print a line for each case."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = DataConfig(
            sources=[StdlibConfig()], folder=f"{folder}/data", packing=BestFitConfig(), seq_length=512
        )
        sets = prepare_sets(data, WordPieceConfig(vocab_size=4096, train_bytes=2_000_000))
        objective = MlmConfig().build(sets[""].tokenizer(), 1)
        for length in (128, 512, 2048):
            rows = STEP_TOKENS // length
            plan = Plan.of(Stage(0, 0, length, rows, rows, (1.0,)))
            stream = GlobalStream(sets, data, plan, objective, 1)
            stream(0)
            began = time.perf_counter()
            for k in range(20 * rows):
                stream(k)
            rate = 20 * STEP_TOKENS / (time.perf_counter() - began)
            print(f"rows of {length}: one thread makes {rate:,.0f} tokens a second")
            for step in (asleep, busy):
                for workers in (0, 2):
                    share, most = waiting(stream, plan, step, workers)
                    who = f"{step.__name__}, {workers} processes"
                    print(f"  {who}: waits {share:.2%} of a step, at most {most:.1%}")


def waiting(
    stream: GlobalStream, plan: Plan, step: Callable[[float], None], workers: int
) -> tuple[float, float]:
    """Return the median and the largest share of a step that goes by waiting."""
    shares = []
    with Loader(
        stream, plan, rank=0, world_size=1, start_step=0, stop_step=STEPS, workers=workers
    ) as batches:
        while True:
            began = time.perf_counter()
            if next(batches, None) is None:
                break
            waited = time.perf_counter() - began
            step(STEP_TOKENS / TOKENS_PER_SECOND)
            shares.append(waited / (time.perf_counter() - began))
    return statistics.median(shares[WARM_UP:]), max(shares[WARM_UP:])


if __name__ == "__main__":
    main()
