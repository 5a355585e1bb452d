"""`lumbre pretrain` behind a gate: the program's own loop, run a round of steps at a time.

python -m benchmarks.speed.ours JOB
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed

import pretrain.run
from benchmarks.speed.gate import Gate, Parts
from lumbre import config as configs
from lumbre import distributed, hardware, watchdog
from lumbre.trainer import Batch, Trainer
from pretrain.config import PretrainConfig

COLLECTIVES = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "reduce",
    "broadcast",
)


class Gated(Trainer):
    """The loop, with a gate before each step, and the parts of a step timed where that is asked for."""

    gate: Gate

    def __post_init__(self) -> None:
        """Put the gate where the loop takes a step's batches, and clocks on what a step is made of."""
        super().__post_init__()
        parts, engine, learner = self.gate.parts, self.engine, self.learner
        learner.loss = parts.wrapped("forward", learner.loss)  # type: ignore[method-assign]
        engine.backward = parts.wrapped("backward", engine.backward)  # type: ignore[method-assign]
        engine.step = parts.wrapped("optimizer", engine.step)  # type: ignore[method-assign]
        checks = [(self._health, "observe"), (watchdog, "enter")]
        checks += [(self.watch, "take"), (self.watch, "judge")] if self.watch is not None else []
        for place, name in checks:
            setattr(place, name, parts.wrapped("checks", getattr(place, name)))
        make = self.batches
        self.batches = lambda start: GatedBatches(make(start), self.gate, learner.tokens)


class GatedBatches:
    """Batches, each step's handed out when the gate lets it begin."""

    def __init__(self, batches: Any, gate: Gate, tokens: Callable[[Batch], int]) -> None:
        self._batches, self._gate, self._tokens = batches, gate, tokens

    def __iter__(self) -> Iterator[Sequence[Batch]]:
        steps = iter(self._batches)
        while True:
            self._gate.between()
            with self._gate.parts.timed("data"):
                micro_batches = next(steps)
            self._gate.count(sum(map(self._tokens, micro_batches)))
            yield micro_batches

    def close(self) -> None:
        """Leave nothing running."""
        self._batches.close()


class TimedWork:
    """A collective under way, its wait timed."""

    def __init__(self, work: Any, parts: Parts) -> None:
        self._work, self.wait = work, parts.wrapped("communication", work.wait)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def time_collectives(parts: Parts) -> None:
    """Put clocks on torch's collectives and on the waits for them; before the engine is built."""

    def timed(collective: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **keys: Any) -> Any:
            with parts.timed("communication"):
                work = collective(*arguments, **keys)
            return work if work is None else TimedWork(work, parts)

        return run

    for name in COLLECTIVES:
        setattr(torch.distributed, name, timed(getattr(torch.distributed, name)))


def main(job: dict[str, Any]) -> None:
    """Train until the gate ends the process."""
    device = distributed.device()
    Gated.gate = Gate(device, getattr(torch, job["precision"]))
    time_collectives(Gated.gate.parts)
    pretrain.run.Trainer = Gated  # type: ignore[misc]
    if job["counted"]:
        # An instrument would take a minute over what MFU is measured by.
        hardware.measure_product = lambda *_, **__: 1.0e11
    config = configs.load(PretrainConfig, job["config"], room="pretrain")
    assert isinstance(config, PretrainConfig)
    pretrain.run.main(config)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
