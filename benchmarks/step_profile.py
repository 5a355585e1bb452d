"""Where a step's time goes by operator, and the MFU that would be left if only its matrix products took time.

    python -m benchmarks.step_profile [--shapes gpt-0.8m gpt-14m] [--steps 10] [--warmup 10]

The steps are `lumbre pretrain`'s own, in a process behind the gate of benchmarks/speed/: after those that
warm up, so many are timed by themselves, then as many under torch's profiler. The table is of the latter, a
mean of the half of them around the median, by the operators' own time, without what they call; on a CUDA
device it is the time of their kernels. Calls count those from within others too, as of copy_ from clone.
Views, memory and autograd's nodes are "everything else"; "between operators" is Python, and a device that
waits. The profiler makes small operators look larger than they are: the step's time without it stands below.

The bound is the FLOPs of a step by the formula that MFU uses (lumbre/models/flops.py) over the time of its
products and the rate of square ones, which is timed before each step. How fast a step's products are is left
out where the profiler does not count the FLOPs that the formula does, as for fused attention.

Figures that are to be recorded need an idle machine.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.classes import bound, product_rates, product_seconds, table
from benchmarks.speed.contenders import Session, Setting
from benchmarks.speed.data import prepare
from benchmarks.speed.operators import Operator, mean_step
from benchmarks.speed.report import Answer, utilization
from benchmarks.speed.shapes import SHAPES
from benchmarks.train import described


def main() -> None:
    """Profile every shape, and print its table and its bound."""
    asked = arguments()
    on_cpu = not torch.cuda.is_available()
    precision = asked.precision or ("float32" if on_cpu else "bfloat16")
    machine = described(on_cpu, asked.threads, precision)
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    for name in asked.shapes:
        shape = SHAPES[name]
        setting = Setting(shape, shape.batch, shape.length, precision, asked.threads, on_cpu, (), "", 1)
        with tempfile.TemporaryDirectory() as folder:
            given = prepare(setting, Path(folder))
            plain, profiled = measured(setting, given, Path(folder), asked)
        title = f"{name}: {given['parameters'] / 1e6:.1f}M parameters, {shape.batch} x {shape.length} tokens"
        print(f"\n## {title}, {asked.steps} steps\n")
        print("\n".join(report(plain, profiled, given["flops"])), flush=True)


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["gpt-0.8m", "gpt-14m"], choices=SHAPES)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=10, help="steps that are not measured")
    parser.add_argument("--precision", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def measured(
    setting: Setting, given: dict[str, Any], folder: Path, asked: argparse.Namespace
) -> tuple[Answer, Answer]:
    """Return what the gate measured without the profiler, then with it."""
    session = Session("lumbre", setting, given, folder)
    try:
        session.run(asked.warmup)
        return session.run(asked.steps), session.run(asked.steps, profile=True)
    finally:
        session.close()


def report(plain: Answer, profiled: Answer, flops: float) -> Iterator[str]:
    """Yield the table of a shape, and in words what follows from it."""
    of_steps = [{name: Operator(**one) for name, one in step.items()} for step in profiled["operators"]]
    seconds, operators = mean_step(profiled["seconds"], of_steps)
    yield from table(operators, seconds)
    alone, square = (statistics.median(one["products"]) for one in (plain, profiled))
    yield ""
    yield f"- A step takes {1e3 * statistics.median(plain['seconds']):.2f} ms without the profiler (median)."
    yield f"- Square products: {alone / 1e9:,.0f} GFLOP/s, and {square / 1e9:,.0f} between profiled steps."
    yield f"- MFU without the profiler: {utilization(plain, flops):.2f}, of {flops / 1e9:,.2f} GFLOP a step."
    yield (
        f"- MFU if nothing but products took time: {bound(operators, flops, square):.2f}, "
        f"of {1e3 * product_seconds(operators):.2f} ms."
    )
    for kind, rate in product_rates(operators, flops).items():
        yield f"- {kind}: {rate / 1e9:,.0f} GFLOP/s, {rate / square:.2f} of square ones."


if __name__ == "__main__":
    main()
