"""Seconds to a validation loss: the shipped configs fast-*.yaml beside nanoGPT and transformers' Trainer.

    python -m benchmarks.time_to_loss DATA [--settings shakespeare encoder encoder-modern decoder]
        [--nanogpt CHECKOUT] [--rounds 3] [--minutes 15] [--to FILE]

DATA holds the unpacked sets tinyshakespeare and wikitext2. Every run is a process of its own, ours by the
real command, the sides in turn (A B, B A, ...), each round with another seed; caches of compiled code and
prepared data are empty at the start, the files of the libraries may be in memory for both.

shakespeare: nanoGPT's README's command for a CPU, plain and compiled, to the loss of 1.88 that it promises.
Both sides have the same text for training and for validation and count a loss over windows of 64 characters
that begin without a context: nanoGPT the mean of 240 random windows of validation every 250 steps (and as
many of training), we that of all of validation, once at the end, in rows of 65 tokens: 64 characters, each
with its next one. Seconds are from the start of the process, our preparation of the data included and
nanoGPT's not, to the first such loss of at most 1.88, by each side's own measure. Where nanoGPT does not get
there, and its estimate is noisy, its seconds are those of its whole run. Beside that is the loss that one
function measures on the models that both leave, over all whole windows of 64 of validation.

encoder (the peer is BERT), encoder-modern (ModernBERT), decoder (GPT-2): WikiText-2 as one stream of tokens,
a vocabulary of 8,192 and 10M parameters. Both sides read the same tokens, prepared before. Trainer trains for
so many minutes at a rate that falls to 0 by then, its start-up not counted. Ours is the whole command, from
the start of the process to its exit, with evaluations, checkpoint and export. What counts is the loss of the
saved model on the first rows of validation by one function, for both the same rows, and for the encoder the
same masks (15%, 80/10/10). Ours has reached the peer's where its loss is not above that.

Ratios are ours over the peer's in one round. Figures that are to be recorded need an idle machine.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.speed.report import Spread
from benchmarks.to_loss import shakespeare, wikitext
from benchmarks.train import processor

SETTINGS = ("shakespeare", *wikitext.SETTINGS)
Rounds = dict[str, list[dict[str, Any]]]
"""What each side came to, round by round."""


def main() -> None:
    """Run every setting, and print its table."""
    asked = arguments()
    transformers.utils.logging.disable_progress_bar()
    machine = {
        "device": processor(),
        "threads": asked.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "load average": round(os.getloadavg()[0], 1),
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    found = {}
    for name in asked.settings:
        with tempfile.TemporaryDirectory() as folder:
            measure = on_shakespeare if name == "shakespeare" else on_wikitext
            found[name] = measure(name, Path(folder), asked)
        if asked.to is not None:
            machine["load average at the end"] = round(os.getloadavg()[0], 1)
            whole = {"command": sys.argv, "machine": machine, "settings": found}
            asked.to.write_text(json.dumps(whole, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--plain", action="store_true", help="leave nanoGPT's compiled run out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=15, help="of Trainer's training")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of our configs")
    parser.add_argument("--to", type=Path, help="a JSON file for all that was measured")
    asked = parser.parse_args()
    if "shakespeare" in asked.settings and asked.nanogpt is None:
        parser.error("shakespeare needs --nanogpt CHECKOUT")
    return asked


def turns(names: Sequence[str], number: int) -> Sequence[str]:
    """Return who comes when in a round."""
    return names if number % 2 == 0 else names[::-1]


def on_shakespeare(name: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Run both sides to nanoGPT's loss."""
    text = (asked.data / "tinyshakespeare/input.txt").read_text(encoding="utf-8")
    peers = ["nanogpt"] if asked.plain else ["nanogpt", "nanogpt-compiled"]
    rounds: Rounds = {side: [] for side in ["lumbre", *peers]}
    print(f"\n## {name}, to {shakespeare.TARGET}\n", flush=True)
    for number in range(asked.rounds):
        for side in turns(list(rounds), number):
            place = folder / f"{side}-{number}"
            if side == "lumbre":
                one = shakespeare.ours(text, number + 1, place, asked.threads, asked.set)
            else:
                compiled = side == "nanogpt-compiled"
                checkout = asked.nanogpt.resolve()
                one = shakespeare.theirs(text, place, asked.threads, checkout, compiled=compiled)
            rounds[side].append(one)
            reached = "" if one["reached"] else " (its end)"
            print(
                f"{side}, round {number + 1}: {one['seconds']:.1f} s{reached}, whole {one['whole']:.1f} s, "
                f"{one['parameters']:,} parameters, loss {one['loss']:.4f}",
                flush=True,
            )
    return summary(rounds)


def on_wikitext(name: str, folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """Run both sides, the peer for its minutes."""
    setting = wikitext.SETTINGS[name]
    corpus = wikitext.Corpus(setting, asked.data / "wikitext2", folder / name, asked.threads)
    unigram = corpus.unigram_loss
    print(f"\n## {name}, {asked.minutes:g} minutes of Trainer; tokens' frequencies alone {unigram:.4f}\n")
    rounds: Rounds = {"lumbre": [], "hf": []}
    for number in range(asked.rounds):
        for side in turns(list(rounds), number):
            if side == "lumbre":
                one = wikitext.ours(corpus, number + 1, asked.threads, asked.set)
            else:
                one = wikitext.theirs(corpus, number + 1, asked.threads, asked.minutes)
            rounds[side].append(one)
            print(
                f"{side}, round {number + 1}: {one['seconds']:.1f} s, {one['parameters']:,} parameters, "
                f"loss {one['loss']:.4f}",
                flush=True,
            )
    for ours, theirs in zip(rounds["lumbre"], rounds["hf"], strict=True):
        ours["reached"] = ours["loss"] <= theirs["loss"]
    return {"unigram loss": unigram, **summary(rounds)}


def summary(rounds: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Print the table and the ratios of a setting; return all of it."""
    print("\n| | seconds | loss | reached |\n|---|---|---|---|")
    for side, runs in rounds.items():
        seconds, loss = (Spread.of([one[key] for one in runs]) for key in ("seconds", "loss"))
        reached = sum(one.get("reached", True) for one in runs)
        print(f"| {side} | {seconds.shown('.1f')} | {loss.shown('.4f')} | {reached} of {len(runs)} |")
    print()
    ratios = {}
    for side, runs in rounds.items():
        if side != "lumbre":
            spread = Spread.of(
                [a["seconds"] / b["seconds"] for a, b in zip(rounds["lumbre"], runs, strict=True)]
            )
            ratios[f"lumbre / {side}"] = spread.middle
            print(f"lumbre / {side}: {spread.shown('.3f')}", flush=True)
    return {"rounds": rounds, "ratios": ratios}


if __name__ == "__main__":
    main()
