"""A corpus with a few poisoned documents in it, their numbers once it is prepared, and runs that read it."""

import json
import random
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.data.shards import PreparedData

TOKENS = 64
"""Of a row."""
CONFIG = f"""\
name: run
seed: 1
tokenizer: {{type: bpe, vocab_size: 1024}}
data:
  folder: prepared
  sources: [{{type: jsonl, paths: [corpus.jsonl]}}]
  seq_length: {TOKENS}
  validation_fraction: 0.02
  packing: {{type: best_fit}}
model:
  type: transformer
  causal: true
  hidden_size: 32
  num_layers: 1
  num_heads: 2
  init_std: 0.05
  position: {{type: rotary}}
objective: {{type: clm}}
optimizer: {{type: adamw, learning_rate: 5.0e-3}}
schedule: {{type: cosine, warmup: 0.05}}
train: {{steps: 100, global_batch_size: 32, micro_batch_size: 32, log_every: 50, spikes: quarantine}}
eval_samples: 512
"""
CHARACTERS = 100
"""Of a document."""
KINDS = 4
"""Of poison."""
LIST = "quarantine.json"


def lay_out(folder: Path, documents: int, poisoned: int, seed: int = 0) -> list[str]:
    """Write corpus.jsonl and run.yaml; return the poisoned texts, which are among the documents."""
    chance = random.Random(seed)
    bad = [poison(kind % KINDS, chance) for kind in range(poisoned)]
    good = sound()
    texts = [next(good) for _ in range(documents - poisoned)] + bad
    chance.shuffle(texts)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "run.yaml").write_text(CONFIG)
    return bad


def sound() -> Iterator[str]:
    """Yield the installed standard library's source, some lines a document, each once.

    Lines of other signs than ASCII's are left out: they are the library's tests of encodings, mojibake among
    them, which stand as far out as what is planted.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    for file in sorted(library.rglob("*.py")):
        if {"site-packages", "dist-packages"}.isdisjoint(file.parts):
            text = ""
            for line in file.read_text(encoding="utf-8", errors="ignore").splitlines(keepends=True):
                text += line if line.isascii() else ""
                if len(text) >= CHARACTERS:
                    if (one := text[: 2 * CHARACTERS]) not in seen:
                        seen.add(one)
                        yield one
                    text = ""


def poison(kind: int, chance: random.Random) -> str:
    """Return garbage, one rare sign again and again, words of a script that the library lacks, or bytes read
    in the wrong encoding.

    Text that is scrambled or drawn from ASCII's signs is no poison: the library holds base64, and the model
    finds both alike.
    """
    if kind == 0:
        return "".join(chance.choices([chr(code) for code in range(0x4E00, 0x9FA5)], k=CHARACTERS // 3))
    if kind == 1:
        return chr(chance.randint(0x2200, 0x22FF)) * (CHARACTERS // 3)
    if kind == 2:
        letters = [chr(code) for code in range(0x10D0, 0x10F1)]
        words = ("".join(chance.choices(letters, k=chance.randint(3, 8))) for _ in range(CHARACTERS // 10))
        return " ".join(words)
    return bytes(chance.choices(range(0xA1, 0x100), k=CHARACTERS // 2)).decode("latin-1")


def numbers(prepared: Path, texts: list[str]) -> set[int]:
    """Return the numbers of these texts in the training split; those of another split have none."""
    data = PreparedData.open(prepared)
    tokenizer, split = data.tokenizer(), data.split("train")
    wanted = set(texts)
    found = set()
    for number in range(split.num_documents):
        tokens = split.tokens(*split.document(number)).tolist()
        if tokenizer.decode(tokens) in wanted:
            found.add(number)
    return found


def lumbre(folder: Path, command: str, *keys: str) -> None:
    """Run the command on run.yaml to its end."""
    line = [sys.executable, "-m", "lumbre.cli", command, "run.yaml", *keys]
    done = subprocess.run(line, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def trained(folder: Path, name: str, *keys: str) -> list[dict[str, Any]]:
    """Train a run to its end; return its rows."""
    lumbre(folder, "pretrain", f"name={name}", *keys)
    return [json.loads(line) for line in (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def never_had(folder: Path, name: str, poisoned: set[int]) -> None:
    """Put documents in quarantine before a run begins."""
    found = {str(number): {"step": 0, "loss": 0.0, "usual": 0.0} for number in poisoned}
    one = {"fingerprint": PreparedData.open(folder / "prepared").fingerprint, "documents": found}
    (folder / "runs" / name).mkdir(parents=True)
    (folder / "runs" / name / LIST).write_text(json.dumps({"sets": {"": one}}))


def found(rows: list[dict[str, Any]]) -> set[int]:
    """Return the documents that a run has put in quarantine."""
    return {row["document"] for row in rows if row.get("event") == "quarantined"}


def end(rows: list[dict[str, Any]]) -> float:
    """Return the last evaluation's loss."""
    return float([row["eval/loss"] for row in rows if "eval/loss" in row][-1])
