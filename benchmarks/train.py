"""Pretraining beside its peers: tokens/s, MFU, memory and the parts of a step, all in turn in one run.

    python -m benchmarks.train [--shapes gpt-14m bert-4x256 t5-mini] [--nanogpt CHECKOUT] [--to FILE]

Ours is what `lumbre pretrain` runs, its own loop on either engine, eager and compiled. Peers are
transformers' Trainer with the same model config (hf; hf-padded has a document a row, as a collator pads it)
and nanoGPT from a checkout. Each contender is a process of its own that stands still while others have their
turn: A B C, C B A, and so on, a few steps each. Text, shapes, batch, precision and threads are the same.

Tokens are those of documents: padding does not count. MFU is the counted FLOPs of a step
(lumbre/models/flops.py) over the rate of square matrix products, of which one is timed before each step;
peers' by the same FLOPs. In brackets are the quartiles over rounds. The parts of a step are timed in a round
of their own.

With --restart each turn has a fresh process, for models of which a device cannot hold several at once.
Figures that are to be recorded need an idle machine; what else runs shows in the load average.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import report
from benchmarks.speed.contenders import CONTENDERS, Session, Setting
from benchmarks.speed.data import prepare
from benchmarks.speed.shapes import SHAPES


def main() -> None:
    """Measure every shape, and print its tables."""
    asked = arguments()
    on_cpu = asked.device == "cpu" or (asked.device == "auto" and not torch.cuda.is_available())
    precision = asked.precision or ("float32" if on_cpu else "bfloat16")
    machine = described(on_cpu, asked.threads, precision)
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    shapes = {}
    for name in asked.shapes:
        shape = SHAPES[name]
        setting = Setting(
            shape=shape,
            batch=asked.batch or shape.batch,
            length=asked.length or shape.length,
            precision=precision,
            threads=asked.threads,
            on_cpu=on_cpu,
            texts=tuple(str(Path(text).resolve()) for text in asked.text),
            nanogpt=str(asked.nanogpt.resolve()) if asked.nanogpt else "",
            ranks=asked.ranks,
            products=asked.products,
        )
        chosen = [one for one in asked.contenders if CONTENDERS[one].takes(shape.family, bool(asked.nanogpt))]
        with tempfile.TemporaryDirectory() as folder:
            shapes[name] = measured(name, setting, chosen, Path(folder), asked)
        if asked.to is not None:
            machine["load average at the end"] = round(os.getloadavg()[0], 1)
            found = {"command": sys.argv, "machine": machine, "shapes": shapes}
            asked.to.write_text(json.dumps(found, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=["gpt-14m", "bert-4x256", "t5-mini"], choices=SHAPES)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="of each contender in a round")
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not measured")
    parser.add_argument("--batch", type=int, help="rows, in place of the shape's")
    parser.add_argument("--length", type=int, help="tokens of a row, in place of the shape's")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--precision", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ranks", type=int, default=1, help="processes of our side, which share the threads")
    parser.add_argument(
        "--products",
        choices=["auto", "mkl", "onednn"],
        default="auto",
        help="engine.float32_products of our side",
    )
    parser.add_argument("--text", nargs="+", default=[], help="files; left out, the standard library")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--restart", action="store_true", help="a fresh process for each turn")
    parser.add_argument("--to", type=Path, help="a JSON file for all that was measured")
    return parser.parse_args()


def described(on_cpu: bool, threads: int, precision: str) -> dict[str, Any]:
    """Return what the figures depend on beside the shape."""
    return {
        "device": processor() if on_cpu else torch.cuda.get_device_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "precision": precision,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "load average": round(os.getloadavg()[0], 1),
    }


def processor() -> str:
    """Return the CPU's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measured(
    name: str, setting: Setting, chosen: Sequence[str], folder: Path, asked: argparse.Namespace
) -> dict[str, Any]:
    """Run a shape's rounds and print what they come to; return all of it."""
    given = prepare(setting, folder)
    title = f"{name}: {given['parameters'] / 1e6:.1f}M parameters, {setting.batch} x {setting.length} tokens"
    print(f"\n## {title}, {asked.rounds} rounds of {asked.steps} steps\n", flush=True)
    found, parts = rounds(setting, chosen, given, folder, asked)
    ratios = report.ratios(found)
    print("\n".join(report.table(found, given["flops"], asked.ranks)), "\n")
    for pair, spread in ratios.items():
        print(f"{pair}: {spread.shown('.2f')}")
    if parts:
        print()
        print("\n".join(report.parts_table(parts)), flush=True)
    return {
        "parameters": given["parameters"],
        "batch": setting.batch,
        "length": setting.length,
        "flops": given["flops"],
        "rounds": found,
        "parts": parts,
        "ratios": {pair: asdict(spread) for pair, spread in ratios.items()},
    }


def rounds(
    setting: Setting,
    chosen: Sequence[str],
    given: Mapping[str, Any],
    folder: Path,
    asked: argparse.Namespace,
) -> tuple[dict[str, list[Any]], dict[str, dict[str, float]]]:
    """Return what the gates measured in each round, and the parts of a step of our side."""
    found: dict[str, list[Any]] = {one: [] for one in chosen}
    parts: dict[str, dict[str, float]] = {}
    sessions: dict[str, Session] = {}

    def turn(one: str, *, last: bool = False) -> Any:
        if one not in sessions:
            sessions[one] = Session(one, setting, given, folder)
            sessions[one].run(asked.warmup)
        answer = sessions[one].run(asked.steps, parts=last)
        if asked.restart:
            sessions.pop(one).close()
        return answer

    try:
        if not asked.restart:
            for one in chosen:
                turn(one)
        for number in range(asked.rounds):
            for one in chosen if number % 2 == 0 else chosen[::-1]:
                found[one].append(turn(one))
        for one in chosen:
            if CONTENDERS[one].side == "lumbre":
                parts[one] = report.breakdown(turn(one, last=True))
    finally:
        for session in sessions.values():
            session.close()
    return found, parts


if __name__ == "__main__":
    main()
