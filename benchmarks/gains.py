"""What each key gains: in the time of a step, in the parts that have no key, and in what is learned.

    python -m benchmarks.gains steps [--only KEY...] [--rounds 5] [--steps 5]
    python -m benchmarks.gains pieces [--rounds 15]
    python -m benchmarks.gains learning DATA [--seeds 3]

steps: `lumbre pretrain` with and without a key, two processes that take turns (benchmarks/speed/), tokens/s
of documents; above 1 the key's first value is the faster. engine.float8, cuda_graphs and liger are measured
on a CUDA device, where there is one, all others on the CPU. pieces: the parts that every run has, beside the
plain way, in one process. learning: the loss of all of validation after as many tokens as
configs/pretrain/fast-gpt-char.yaml takes, one key changed at a time; DATA holds tinyshakespeare.

In brackets are the quartiles over rounds or seeds. Figures that are to be recorded need an idle machine.
"""

import argparse
import os
from pathlib import Path

import torch

from benchmarks.gain import learning, pieces, steps
from benchmarks.train import processor


def main() -> None:
    """Print the table that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["steps", "pieces", "learning"])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--only", nargs="+", default=[], choices=[gain.key for gain in steps.GAINS])
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{processor()}, {asked.threads} threads, torch {torch.__version__}, load average {load:.1f}\n")
    if asked.what == "steps":
        steps.table(asked.threads, asked.rounds or 5, asked.steps, asked.only)
    elif asked.what == "pieces":
        pieces.table(asked.threads, asked.rounds or 15)
    else:
        if asked.data is None:
            parser.error("learning needs DATA, the folder that holds tinyshakespeare")
        learning.table(asked.data, asked.threads, asked.seeds)


if __name__ == "__main__":
    main()
