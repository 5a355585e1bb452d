"""Encoding in MB/s: ours beside the raw library and raw gigatoken, in turn, in one process and on one thread.

    RAYON_NUM_THREADS=1 .venv/bin/python benchmarks/encoding.py [FILE]

FILE is plain text, twenty lines a document; without one, the documentation and source of Python. Each
encoder is made anew in each round, so that no cache of words is warm.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gigatoken
import tokenizers

from lumbre import stdlib
from lumbre.tokenizer import BpeConfig, Tokenizer, UnigramConfig, WordPieceConfig

ROUNDS = 8
BYTES = 3_000_000
Encode = Callable[[list[str]], object]


def main(file: Path | None) -> None:
    """Print the rates of every kind of tokenizer, trained on the text, and ours as times the raw ones."""
    texts = sample(file)
    size = sum(len(text.encode()) for text in texts) / 1e6
    threads = os.environ.get("RAYON_NUM_THREADS", "all")
    print(f"{len(texts):,} documents, {size:.1f} MB, {threads} threads, {ROUNDS} rounds", flush=True)
    for config in (
        WordPieceConfig(vocab_size=30_000),
        UnigramConfig(vocab_size=30_000),
        BpeConfig(vocab_size=30_000),
    ):
        tokenizer = config.build(texts)
        encoders = {"the library's encode_batch": library, "Tokenizer.encode_batch": plain}
        if tokenizer.encoder().is_fast:
            encoders |= {"gigatoken's encode_batch": raw_gigatoken, "Encoder.encode_batch": fast}
        rates: dict[str, list[float]] = {name: [] for name in encoders}
        for number in range(ROUNDS):
            # Who comes first changes, for memory that one has left warm serves the next.
            for name, make in list(encoders.items())[:: -1 if number % 2 else 1]:
                encode = make(tokenizer)
                start = time.perf_counter()
                encode(texts)
                rates[name].append(size / (time.perf_counter() - start))
        for name, found in rates.items():
            print(f"{config.type:>9}  {name:<27}{statistics.median(found):8.2f} MB/s", flush=True)
        names = list(rates)
        for raw, ours in zip(names[::2], names[1::2], strict=True):
            ratios = [one / other for one, other in zip(rates[ours], rates[raw], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(f"{config.type:>9}  {ours} / {raw}: {middle:.2f} ({low:.2f} to {high:.2f})", flush=True)


def sample(file: Path | None) -> list[str]:
    """Return the first megabytes of the text in documents."""
    if file is None:
        texts = (document.text for document in stdlib.documents("definition"))
    else:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        texts = ("".join(lines[start : start + 20]) for start in range(0, len(lines), 20))
    found, left = [], BYTES
    for text in texts:
        found.append(text)
        left -= len(text)
        if left < 0:
            break
    return found


def library(tokenizer: Tokenizer) -> Encode:
    """Return the library's own encoding, ids taken out as lists."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    backend.encode_special_tokens = True
    return lambda texts: [one.ids for one in backend.encode_batch(texts, add_special_tokens=False)]


def plain(tokenizer: Tokenizer) -> Encode:
    """Return ours by the library."""
    return Tokenizer(
        tokenizers.Tokenizer.from_str(tokenizer.backend.to_str()), tokenizer.specials
    ).encode_batch


def raw_gigatoken(tokenizer: Tokenizer) -> Encode:
    """Return gigatoken's own encoding of a batch on the calling thread."""
    backend = gigatoken.Tokenizer.from_json(tokenizer.backend.to_str())
    backend.encode_batch(["what it imports late"], parallel=False)
    return lambda texts: backend.encode_batch(texts, parallel=False)


def fast(tokenizer: Tokenizer) -> Encode:
    """Return ours by gigatoken, its comparisons with the library included."""
    return tokenizer.encoder().encode_batch


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
