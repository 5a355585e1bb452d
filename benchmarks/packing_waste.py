"""What each packing wastes and takes: documents of log-normal length, mean about 300 tokens, sigma 1.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/packing_waste.py [TOKENS | FOLDER]

FOLDER is a prepared data folder, whose training split is then packed instead, such as WikiText's:
`lumbre prepare quickstart-bert data.folder=wt 'data.sources=[{type: text, paths: [FILE], documents: line}]'`.

Rows are those of a shuffled epoch's beginning, from the page cache. A needless cut is one that the length of
a document does not ask for.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from lumbre.pretrain.data.order import GlobalOrder
from lumbre.pretrain.data.packing import BestFitConfig, PackingConfig, Rows
from lumbre.pretrain.data.shards import Documents, PreparedData, Shard

MEAN = 300
SIGMA = 1.0
SHARD_TOKENS = 1 << 26
SAMPLES = 20_000


def main(what: str) -> None:
    """Print a line for each length of row and packing, and one for the windows of best_fit."""
    with tempfile.TemporaryDirectory() as folder:
        if what.isdecimal():
            documents = written(Path(folder), int(what))
        else:
            documents = PreparedData.open(what).split("train")
        print(f"{documents.num_documents:,} documents, {documents.num_tokens:,} tokens", flush=True)
        for seq_length in (512, 1024):
            for name in sorted(PackingConfig.members, key="concatenate".__ne__):
                rows = PackingConfig.members[name]().build(documents, seq_length, pad_id=0)
                speed = f"{rows_per_second(rows):9,.0f} rows/s"
                print(f"rows of {seq_length:>4}, {name:>11}: {rows.waste:7.3%} padding, {speed}", flush=True)
            print(f"rows of {seq_length:>4}, {windows(documents, seq_length)}", flush=True)


def rows_per_second(rows: Rows) -> float:
    """Return how many samples of a shuffled epoch are made in a second, the windows' packing included."""
    order = GlobalOrder(rows.num_rows, 0, rows.num_windows)
    samples = range(min(SAMPLES, rows.num_rows))
    start = time.perf_counter()
    for sample in samples:
        rows.row(order(sample)[1])
    return len(samples) / (time.perf_counter() - start)


def windows(documents: Documents, seq_length: int) -> str:
    """Return what packing a window takes, and how many cuts no document's length asks for."""
    rows = BestFitConfig().build(documents, seq_length, pad_id=0)
    needed = int((-(-documents.lengths // seq_length)).sum())
    start = time.perf_counter()
    parts = sum(len(rows.window(number).starts) for number in range(rows.num_windows))
    milliseconds = (time.perf_counter() - start) / rows.num_windows * 1e3
    return f"{rows.num_windows} windows: {milliseconds:.1f} ms each, {parts - needed} needless cuts"


def written(folder: Path, tokens: int) -> Documents:
    """Write documents of about so many tokens in all, in shards, and open them."""
    rng = np.random.default_rng(0)
    shards = []
    for number, _ in enumerate(range(0, tokens, SHARD_TOKENS)):
        count = min(tokens, SHARD_TOKENS) // MEAN
        drawn = rng.lognormal(np.log(MEAN) - SIGMA**2 / 2, SIGMA, count)
        offsets = np.cumsum([0, *np.maximum(1, drawn.astype(np.int64))])
        offsets.astype("<i8").tofile(folder / f"{number}.offsets")
        rng.integers(1, 50_000, offsets[-1], dtype=np.uint16).tofile(folder / f"{number}.tokens")
        shards.append(
            Shard(
                name=str(number),
                documents=count,
                tokens=int(offsets[-1]),
                tokens_sha256="",
                offsets_sha256="",
            )
        )
    return Documents(folder, "train", shards, np.dtype("<u2"))


if __name__ == "__main__":
    main(*sys.argv[1:] or ["50000000"])
