"""What the files of a model folder tell before transformers is imported: whether it can be fine-tuned."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lumbre.errors import ModelError, Problem
from lumbre.hub.weights import tensor_names
from lumbre.optim.depth import BLOCK

from .pretrained import KINDS, Kind

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "*.model")
POINTER = b"version https://git-lfs"
CONFIG = "config.json"
HEADS = ("classifier", "score", "qa_outputs", "lm_head")
"""What transformers calls heads, which a folder need not have weights for."""


def read_config(folder: Path) -> dict[str, Any]:
    """Return a folder's config.json, {} where it cannot be read."""
    try:
        found = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def positions(folder: Path) -> int | None:
    """Return the longest input of a folder's model, None where it states no limit."""
    config = read_config(folder)
    limit = config.get("n_positions" if config.get("model_type") == "gpt2" else "max_position_embeddings")
    return limit if isinstance(limit, int) else None


def incomplete(folder: Path, *, weights: bool) -> Iterator[Problem]:
    """Report a folder without a tokenizer, or without weights where those are asked for."""
    if not any(True for name in TOKENIZERS for _ in folder.glob(name)):
        fault, remedy = f"{folder} has no tokenizer", "save it there: tokenizer.save_pretrained(FOLDER)"
        yield Problem("model.path", fault, remedy)
    if not weights:
        return
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = any(True for _ in folder.glob("*.bin"))
        fault = "weights as pickles alone, which can run code" if pickles else "no weights"
        remedy = "give a folder with model.safetensors"
        if pickles:
            remedy = (
                "where you trust it, from_pretrained and save_pretrained of transformers make safetensors"
            )
        yield Problem("model.path", f"{folder} has {fault}", remedy)
    for file in files:
        with file.open("rb") as stream:
            if stream.read(len(POINTER)) == POINTER:
                fault = f"{file} is a pointer of Git LFS, and not the weights"
                yield Problem("model.path", fault, "run `git lfs pull` in the folder, or `hf download`")
                return


def unfit(folder: Path, kinds: Sequence[Kind], task: str) -> Iterator[Problem]:
    """Report a model of a kind that cannot learn the task."""
    kind = _kind(read_config(folder))
    if kind is not None and kind not in kinds:
        able = ", or ".join(KINDS[one] for one in KINDS if one in kinds)
        yield Problem("model.path", f"{folder} is {KINDS[kind]}; task {task} needs another", f"use {able}")


def absent_targets(folder: Path, targets: Sequence[str]) -> Iterator[Problem]:
    """Report ends of names that no module of the blocks has."""
    try:
        names = tensor_names(folder)
    except ModelError as error:
        yield Problem("model.path", str(error))
        return
    modules = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
    inside = [end for end in targets if end.rpartition(".")[2] not in HEADS]
    absent = [end for end in inside if not any(f".{name}".endswith(f".{end}") for name in modules)]
    if names and absent:
        known = sorted({name.rpartition(".")[2] for name in modules if BLOCK.search(f"{name}.")})
        fault = f"no module of {folder} is called {absent[0]!r}"
        yield Problem("method.target_modules", fault, f"those of the blocks are {', '.join(known)}")


def _kind(config: dict[str, Any]) -> Kind | None:
    """Return what the model is, None where its config.json does not say."""
    if config.get("is_encoder_decoder"):
        return "encoder-decoder"
    written = " ".join(map(str, config.get("architectures") or ()))
    if "CausalLM" in written or "GPT2LMHead" in written:
        return "decoder"
    return "encoder" if "ForMaskedLM" in written or "ForPreTraining" in written else None
