"""What keys of the config do for the time of a training step: with and without, in turn, behind the gate."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.speed.contenders import CONTENDERS, Contender, Session, Setting
from benchmarks.speed.data import prepare
from benchmarks.speed.report import Spread, rate, ratio
from benchmarks.speed.shapes import SHAPES

PLAIN = CONTENDERS["lumbre"]


@dataclass(frozen=True)
class StepGain:
    """One key, and the two values that are compared."""

    key: str
    with_: str
    without: str
    shapes: Sequence[str]
    both: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Keys that both sides have, by section."""
    cuda: bool = False
    """Whether it is measured on a CUDA device, and left out where there is none."""

    def contender(self, value: str) -> Contender:
        """Return our side with such a value."""
        section, key = self.key.split(".")
        own = {**self.both.get(section, {}), key: yaml.safe_load(value)}
        return replace(PLAIN, sections={**self.both, section: own})


HALF = {"engine": {"precision": "bfloat16"}}
COMPILED = {"engine": {"precision": "bfloat16", "compile": True}}
LLAMA = {"norm": "rmsnorm", "activation": "silu", "gated_mlp": True, "bias": False}
"""What makes a GPT-2 a Llama, but for its positions."""
GAINS = (
    StepGain("engine.keep_freed_memory", "true", "false", ("gpt-0.8m", "gpt-14m", "bert-4x256")),
    StepGain("engine.float32_products", "auto", "mkl", ("gpt-14m", "bert-4x256")),
    StepGain("engine.compile", "true", "false", ("gpt-0.8m", "gpt-14m", "bert-4x256")),
    StepGain("engine.compile", "trunk", "false", ("gpt-0.8m", "gpt-14m", "bert-4x256")),
    StepGain("engine.attention_kernel", "auto", "dense", ("bert-4x256",)),
    StepGain("data.packing", "{type: concatenate}", "{type: pad}", ("bert-4x256",)),
    StepGain("engine.precision", "bfloat16", "float32", ("gpt-14m",)),
    StepGain("engine.activation_checkpointing", "selective", "none", ("gpt-14m",)),
    StepGain("optimizer.type", "muon", "adamw", ("gpt-14m",)),
    *(
        StepGain("engine.float8", value, "none", ("gpt2-medium", "gpt-1.3b"), COMPILED, cuda=True)
        for value in ("tensorwise", "rowwise")
    ),
    StepGain("engine.cuda_graphs", "true", "false", ("gpt-14m", "gpt2"), COMPILED, cuda=True),
    StepGain("engine.liger", "true", "false", ("bert-base",), HALF, cuda=True),
    StepGain("engine.liger", "true", "false", ("gpt2-medium",), {**HALF, "model": LLAMA}, cuda=True),
)


def measure(setting: Setting, gain: StepGain, rounds: int, steps: int, warmup: int) -> dict[str, Any]:
    """Return tokens/s of both values, their ratio within rounds, and the memory of each."""
    sides = {"with": gain.contender(gain.with_), "without": gain.contender(gain.without)}
    found: dict[str, list[Any]] = {side: [] for side in sides}
    sessions: dict[str, Session] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        given = prepare(setting, folder)
        try:
            for side, contender in sides.items():
                sessions[side] = Session(side, setting, given, folder, contender=contender)
                sessions[side].run(warmup)
            for number in range(rounds):
                for side in list(sides)[:: 1 if number % 2 == 0 else -1]:
                    found[side].append(sessions[side].run(steps))
        finally:
            for session in sessions.values():
                session.close()
    return {
        "ratio": ratio(found["with"], found["without"]),
        **{side: Spread.of(list(map(rate, one))) for side, one in found.items()},
        "memory": {side: max(one["peak_memory"] for one in found[side]) / 2**20 for side in sides},
    }


def table(threads: int, rounds: int, steps: int, only: Sequence[str]) -> None:
    """Print a line a key and shape."""
    print("| key | value | beside | shape | tokens/s | beside | ratio | peak MiB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for gain in GAINS:
        if (only and gain.key not in only) or (gain.cuda and not torch.cuda.is_available()):
            continue
        for name in gain.shapes:
            shape = SHAPES[name]
            setting = Setting(shape, shape.batch, shape.length, "float32", threads, not gain.cuda, (), "", 1)
            # Small models' steps are short.
            times = steps * (5 if name == "gpt-0.8m" else 1)
            found = measure(setting, gain, rounds, times, warmup=max(3, times))
            memory = found["memory"]
            cells = [
                *(gain.key, gain.with_, gain.without, name),
                *(f"{found[side].middle:,.0f}" for side in ("with", "without")),
                found["ratio"].shown(".2f"),
                f"{memory['with']:,.0f}, {memory['without']:,.0f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
