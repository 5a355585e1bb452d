"""Peak memory of a preparation, parent and workers, for a small corpus and a large one.

    python benchmarks/preparation_memory.py [--megabytes 50 1000] [--fast]

The text is made: words of a fixed list in random order, a document of log-normal length a line, one in ten a
duplicate. Resident memory is read from /proc twenty times a second, without pages that a file stands behind.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lumbre import stdlib
from lumbre.distributed import random
from lumbre.tokenizer import BpeConfig

PREPARE = """
import sys
from lumbre.pretrain.data.preparation.filters import CharactersConfig, LengthConfig, RepetitionConfig
from lumbre.pretrain.data.preparation.prepare import prepare
from lumbre.pretrain.data.preparation.raw import CorpusConfig
from lumbre.pretrain.data.sources import JsonlConfig
from lumbre.tokenizer import FileTokenizerConfig
text, tokenizer, out, fast, workers = sys.argv[1:]
filters = [LengthConfig(min_words=5), RepetitionConfig(), CharactersConfig()]
data = CorpusConfig(sources=[JsonlConfig(paths=[text])], folder=out, filters=filters,
                    fast_tokenizer=fast == "True", workers=int(workers))
prepare(data, FileTokenizerConfig(path=tokenizer))
"""
EVERY_SECONDS = 0.05


def make_text(file: Path, num_bytes: int) -> None:
    """Write made documents as JSON lines."""
    words = sorted({word for text in stdlib_texts() for word in text.split() if word.isalpha()})
    written = block = 0
    with file.open("w", encoding="utf-8") as out:
        while written < num_bytes:
            chance = random(0, 0, block)
            documents: list[str] = []
            for length in np.exp(chance.normal(4.5, 1.0, 400)).astype(int) + 8:
                picked = chance.integers(0, len(words), length)
                documents.append(" ".join(words[index] for index in picked.tolist()))
            documents += documents[:40]
            for text in documents:
                out.write(json.dumps({"text": text}) + "\n")
                written += len(text)
            block += 1


def stdlib_texts() -> list[str]:
    """Return some of the standard library's own text."""
    files = stdlib.module_files()
    return [
        one.text
        for name in ("argparse", "typing", "ast")
        for one in stdlib.documents_of(name, files[name], "file")
    ]


def anonymous_megabytes(pid: int) -> float:
    """Return the resident memory of a process that no file stands behind."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1e3
    except (OSError, IndexError):
        return 0.0


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def peaks(command: list[str]) -> tuple[float, float, float]:
    """Run a program; return the peaks in MB of its own memory and of a child's, and the seconds it took."""
    own = child = 0.0
    process = subprocess.Popen(
        command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    start = time.monotonic()
    while process.poll() is None:
        own = max(own, anonymous_megabytes(process.pid))
        child = max([child, *map(anonymous_megabytes, children(process.pid))])
        time.sleep(EVERY_SECONDS)
    if process.returncode:
        raise SystemExit(f"preparation ended with {process.returncode}")
    return own, child, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, nargs="*", default=[50, 1000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--fast", action="store_true", help="tokenize with gigatoken")
    chosen = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        BpeConfig(vocab_size=8192).build(stdlib_texts()).save(work / "tokenizer")
        for size in chosen.megabytes:
            make_text(work / "text.jsonl", size * 1_000_000)
            arguments = [work / "text.jsonl", work / "tokenizer", work / "out", chosen.fast, chosen.workers]
            own, child, took = peaks([sys.executable, "-c", PREPARE, *map(str, arguments)])
            print(
                f"{size:>6} MB: parent {own:.0f} MB, largest worker {child:.0f} MB, {took:.0f} s", flush=True
            )
            shutil.rmtree(work / "out")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
