"""How fast text becomes shards, beside what it is compared with: all on the same text and cores, in turns.

    python benchmarks/preparation.py [TEXT ...] [--megabytes 50] [--rounds 3]

Each TEXT is a file of paragraphs, or JSON lines with a key "text"; without one, the standard library's own
text. It is repeated with a number at the head of each paragraph until it is long enough, so that no document
is a duplicate. For each tokenizer it prints MB/s, medians over the rounds, and the ratios:

    raw       tokenizers' encode_batch on all documents in memory, with all threads
    lumbre    `prepare` from JSON lines on the disk to verified shards, filters on, that tokenizer given
    run_clm   datasets.map(tokenize, num_proc) and grouping by 1024, as HF's run_clm.py does, to Arrow files
    gigatoken its own rate on all documents in memory, and lumbre's with it, filters off (byte-level BPE)
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lumbre.pretrain.data.preparation.corpus import Corpus
from lumbre.pretrain.data.preparation.filters import (
    CharactersConfig,
    FilterConfig,
    LengthConfig,
    RepetitionConfig,
)
from lumbre.pretrain.data.preparation.prepare import prepare
from lumbre.pretrain.data.preparation.raw import CorpusConfig
from lumbre.pretrain.data.preparation.workers import available_cores
from lumbre.pretrain.data.skips import Skips
from lumbre.pretrain.data.sources import JsonlConfig, SourceConfig, StdlibConfig, TextConfig

from lumbre.tokenizer import BpeConfig, FileTokenizerConfig, WordPieceConfig

FILTERS: list[FilterConfig] = [
    LengthConfig(min_words=5),
    RepetitionConfig(),
    CharactersConfig(min_letters=0.3),
]
PARAGRAPH_CHARACTERS = 2000

RUN_CLM = """
import sys
from itertools import chain
import datasets
from transformers import PreTrainedTokenizerFast
texts, tokenizer, out, cores = sys.argv[1:]
datasets.disable_progress_bars()
tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer)
raw = datasets.load_dataset("json", data_files=texts, split="train", cache_dir=out)
def tokenize(examples):
    return tokenizer(examples["text"])
def group(examples):
    joined = {key: list(chain(*examples[key])) for key in examples}
    total = len(joined["input_ids"]) // 1024 * 1024
    result = {key: [ids[at : at + 1024] for at in range(0, total, 1024)] for key, ids in joined.items()}
    result["labels"] = result["input_ids"].copy()
    return result
tokens = raw.map(tokenize, batched=True, num_proc=int(cores), remove_columns=raw.column_names)
tokens.map(group, batched=True, num_proc=int(cores))
"""
RAW = """
import json, sys, time
import tokenizers
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[2] + "/tokenizer.json")
texts = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
start = time.perf_counter()
for at in range(0, len(texts), 1000):
    tokenizer.encode_batch(texts[at : at + 1000])
print(time.perf_counter() - start)
"""
GIGATOKEN = """
import json, sys, time
import gigatoken
tokenizer = gigatoken.Tokenizer.from_json(open(sys.argv[2] + "/tokenizer.json", encoding="utf-8").read())
texts = [json.loads(line)["text"] for line in open(sys.argv[1], encoding="utf-8")]
start = time.perf_counter()
tokenizer.encode_batch(texts)
print(time.perf_counter() - start)
"""


def write_text(names: list[str], file: Path, num_bytes: int) -> int:
    """Write about so many bytes of text as JSON lines; return the bytes of the texts."""
    written = turn = 0
    with file.open("w", encoding="utf-8") as out:
        while written < num_bytes:
            for text in paragraphs(names):
                text = f"{turn} {text}"
                out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                written += len(text.encode())
                if written >= num_bytes:
                    break
            turn += 1
    return written


def paragraphs(names: list[str]) -> Iterator[str]:
    """Yield the documents of the files, paragraphs put together to some size."""
    sources: list[SourceConfig] = [
        JsonlConfig(paths=[name])
        if name.endswith(".jsonl")
        else TextConfig(paths=[name], documents="paragraph")
        for name in names
    ]
    corpus, skips = Corpus(sources or [StdlibConfig(unit="file")]), Skips("skip")
    held: list[str] = []
    for unit in corpus.units(1 << 22):
        for document in corpus.read(unit, skips):
            held.append(document.text)
            if sum(map(len, held)) >= PARAGRAPH_CHARACTERS:
                yield "\n\n".join(held)
                held = []


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def program(code: str, *arguments: object, **environment: str) -> str:
    """Run a program in a process of its own and return what it prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="*", help="files of text; the standard library's by default")
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=16_384)
    parser.add_argument("--tokenizers", nargs="*", default=["wordpiece", "bpe"])
    parser.add_argument("--without", nargs="*", default=[], help="names of what is not measured")
    chosen = parser.parse_args()
    work = Path(tempfile.mkdtemp(dir=os.environ.get("TMPDIR")))
    try:
        size = write_text(chosen.texts, work / "text.jsonl", chosen.megabytes * 1_000_000)
        print(f"{size / 1e6:.0f} MB of text, {available_cores()} cores, medians of {chosen.rounds} rounds")
        for name in chosen.tokenizers:
            compare(name, work, size, chosen)
    finally:
        shutil.rmtree(work)


def compare(name: str, work: Path, size: int, chosen: argparse.Namespace) -> None:
    """Measure and print everything for one kind of tokenizer."""
    text = work / "text.jsonl"
    config = {"wordpiece": WordPieceConfig, "bpe": BpeConfig}[name](
        vocab_size=chosen.vocabulary, train_bytes=4_000_000
    )
    folder = work / f"{name}-tokenizer"
    config.build(Corpus([JsonlConfig(paths=[str(text)])]).sample(4_000_000, Skips("error"))).save(folder)
    tokenizer = FileTokenizerConfig(path=str(folder))

    def prepared(filters: list[FilterConfig], fast: bool) -> float:
        sources: list[SourceConfig] = [JsonlConfig(paths=[str(text)])]
        data = CorpusConfig(sources=sources, folder=str(work / "data"), filters=filters, fast_tokenizer=fast)
        took = seconds(lambda: prepare(data, tokenizer))
        shutil.rmtree(work / "data")
        return took

    def run_clm() -> float:
        took = seconds(lambda: program(RUN_CLM, text, folder, work / "arrow", available_cores()))
        shutil.rmtree(work / "arrow")
        return took

    ways: dict[str, Callable[[], float]] = {
        "raw": lambda: float(program(RAW, text, folder)),
        "lumbre": lambda: prepared(FILTERS, fast=False),
        "run_clm": run_clm,
    }
    if name == "bpe":
        ways["gigatoken"] = lambda: float(program(GIGATOKEN, text, folder))
        ways["lumbre, fast"] = lambda: prepared([], fast=True)
    ways = {way: measure for way, measure in ways.items() if way not in chosen.without}
    rounds = [{way: measure() for way, measure in ways.items()} for _ in range(chosen.rounds)]
    rate = {way: size / 1e6 / statistics.median(one[way] for one in rounds) for way in ways}
    print(name, *(f"{way} {value:.2f} MB/s" for way, value in rate.items()), sep="  ")
    for ours, theirs in (("lumbre", "raw"), ("lumbre", "run_clm"), ("lumbre, fast", "gigatoken")):
        if ours in rate and theirs in rate:
            print(f"  {ours} is {rate[ours] / rate[theirs]:.2f} of {theirs}")


if __name__ == "__main__":
    main()
