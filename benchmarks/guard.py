"""Guards the speed of training: fails where the ratio to a peer has fallen since it was recorded.

    python -m benchmarks.guard                  # compare with results/guard.json; exit status 1 on a loss
    python -m benchmarks.guard --record REASON  # write results/guard.json

What is counted is the user-space instructions of training steps, of the whole process, by Valgrind's
Callgrind: ours is what `lumbre pretrain` runs, the peer is transformers' Trainer with the same model, batch
and text (benchmarks/speed/). A ratio is the peer's instructions a token over ours. On a busy machine a count
stays within 0.2%, where ratios of times vary by several percent, and Valgrind 3.19 shows a program a CPU with
AVX2, whatever the machine has beyond: the limit of 5% is far from the noise and from the 10% to be seen.

Two cases are so small that hardly anything is computed: what remains is the loop, the checks, the engine,
autograd and the calls into torch, the overhead of a framework, of the accelerate engine and of DeepSpeed's on
one rank. The other two are mostly arithmetic: a step that computes more than it did shows there.

What an instruction count does not see: time without instructions (waits, sleeps, communication, cache misses,
page faults), the kernel, child processes, vector units (kernels run as SSE4.2, so that a matrix product
weighs several times what it does in time), compiled models, several threads, GPUs. `python -m
benchmarks.train` on an idle machine sees those. Another torch, transformers, Python or libc counts otherwise
on both sides: after an upgrade, record.
"""

import argparse
import json
import os
import platform
import random
import string
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.speed import counting
from benchmarks.speed.contenders import Setting
from benchmarks.speed.data import prepare
from benchmarks.speed.shapes import Shape
from benchmarks.speed.verdict import Counts, verdict

RECORD = Path(__file__).parent / "results" / "guard.json"
PEER = "hf"
AT_ONCE = 4
"""The most processes; each takes about 1 GiB."""
SHAPES = {
    "empty": Shape(
        **{"family": "gpt", "base": "gpt-tiny", "batch": 1, "length": 16, "by_character": True},
        sizes={"hidden_size": 32, "num_layers": 4, "num_heads": 4, "vocab_size": 65},
    ),
    "gpt": Shape(
        **{"family": "gpt", "base": "gpt-mini", "batch": 2, "length": 64},
        sizes={"hidden_size": 256, "num_layers": 4, "num_heads": 4, "vocab_size": 8192},
    ),
    "bert": Shape(
        **{"family": "bert", "base": "bert-mini", "batch": 2, "length": 64},
        sizes={"hidden_size": 256, "num_layers": 4, "num_heads": 4, "vocab_size": 30522},
    ),
}


@dataclass(frozen=True)
class Case:
    """What is guarded: one of our contenders at a shape."""

    shape: str
    steps: int
    """The overhead of ten steps has that of a logged one on either side."""
    ours: str = "lumbre"


CASES = {
    "overhead": Case("empty", 10),
    "overhead-deepspeed": Case("empty", 10, "deepspeed"),
    "gpt-4x256": Case("gpt", 2),
    "bert-4x256": Case("bert", 2),
}


def main(given: Sequence[str] | None = None) -> int:
    """Count, and compare or record; return the exit status."""
    asked = arguments(given)
    if lacking := counting.lacking():
        print(f"{' and '.join(lacking)}: not installed; apt-get install valgrind", file=sys.stderr)
        return 2
    recorded = json.loads(asked.file.read_text()) if asked.file.exists() else {"cases": {}}
    unknown = [name for name in asked.cases if name not in recorded["cases"]]
    if unknown and asked.record is None:
        print(f"{asked.file}: {', '.join(unknown)}: not recorded; use --record REASON", file=sys.stderr)
        return 2
    now = measured(asked.cases)
    if asked.record is not None:
        cases = recorded["cases"] | {name: asdict(counts) for name, counts in now.items()}
        found = {"reason": asked.record, "machine": described(), "cases": cases}
        asked.file.write_text(json.dumps(found, indent=1) + "\n")
        for name, counts in now.items():
            print(f"{name}: {counts.ratio:.3f} to the peer")
        return 0
    verdicts = [verdict(name, Counts(**recorded["cases"][name]), counts) for name, counts in now.items()]
    print("\n".join(one.text for one in verdicts))
    if not any(one.is_lost for one in verdicts):
        return 0
    here = described()
    for key, then in recorded["machine"].items():
        if here[key] != then:
            print(f"{key}: recorded with {then}, now {here[key]}")
    print(
        "Make it fast again (`python -m benchmarks.train` shows the parts of a step), or record what it is"
        " now, and why: python -m benchmarks.guard --record REASON"
    )
    return 1


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--record", metavar="REASON", help="write the file, and why it is written")
    parser.add_argument("--file", type=Path, default=RECORD)
    return parser.parse_args(given)


def described() -> dict[str, str]:
    """Return what counts depend on beside the project."""
    valgrind = subprocess.run(["valgrind", "--version"], check=True, capture_output=True, text=True)
    return {
        "architecture": platform.machine(),
        "valgrind": valgrind.stdout.strip().removeprefix("valgrind-"),
        "python": platform.python_version(),
        "libc": "-".join(platform.libc_ver()),
        **{name: version(name) for name in ("torch", "transformers", "accelerate", "deepspeed")},
    }


def measured(names: Sequence[str]) -> dict[str, Counts]:
    """Count the cases and their peers, as many at once as there are cores."""
    cases = [CASES[name] for name in names]
    # The peer's count at a shape serves all cases there.
    wanted = dict.fromkeys((case.shape, one, case.steps) for case in cases for one in (case.ours, PEER))
    with (
        tempfile.TemporaryDirectory() as place,
        ThreadPoolExecutor(min(AT_ONCE, os.cpu_count() or 1)) as pool,
    ):
        text = Path(place) / "text.txt"
        text.write_text(written(), encoding="utf-8")
        ready = {shape: prepared(shape, text, Path(place) / shape) for shape in {one.shape for one in cases}}
        counts = {
            (shape, one): pool.submit(counting.count, one, *ready[shape], steps)
            for shape, one, steps in wanted
        }
        return {
            name: Counts(counts[case.shape, case.ours].result(), counts[case.shape, PEER].result())
            for name, case in zip(names, cases, strict=True)
        }


def prepared(name: str, text: Path, folder: Path) -> tuple[Setting, dict[str, Any], Path]:
    """Return what a session at a shape is given."""
    folder.mkdir()
    shape = SHAPES[name]
    setting = Setting(
        shape=shape,
        batch=shape.batch,
        length=shape.length,
        precision="float32",
        threads=1,
        on_cpu=True,
        texts=(str(text),),
        nanogpt="",
        ranks=1,
        # What auto takes depends on the processor.
        products="mkl",
    )
    return setting, prepare(setting, folder), folder


def written(documents: int = 400, words: int = 100) -> str:
    """Return a text that is the same everywhere: frequent words and rare ones, a document a paragraph."""
    draw = random.Random(1)
    known = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 9))) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, len(known) + 1)]
    return "\n\n".join(" ".join(draw.choices(known, weights, k=words)) for _ in range(documents))


if __name__ == "__main__":
    sys.exit(main())
