"""The same text for everyone: prepared once by `lumbre prepare`'s own code, and written as peers read it."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import tokenizers.models
import tokenizers.pre_tokenizers
import yaml

from benchmarks.speed.contenders import CONTENDERS, Setting
from benchmarks.speed.shapes import CHARACTERS, PIECES
from lumbre import config as configs
from lumbre.hub.auto import adapter_for
from lumbre.models import TransformerConfig
from lumbre.models.flops import parameter_count
from pretrain.config import PretrainConfig
from pretrain.data.mixture import prepare_sets
from pretrain.samples import GlobalStream

TOKENS = 2_000_000
"""The most that peers are given."""
NOISED_ROWS = 512
PIECE = 10_000
UNKNOWN, END = "<unk>", "<|endoftext|>"


def write_characters(folder: Path, vocab_size: int) -> None:
    """Write a tokenizer of so many tokens: characters, the end of a document, and all other characters."""
    usual = [*"\n ", *string.ascii_letters, *string.punctuation, *string.digits]
    names = [UNKNOWN, END, *usual][:vocab_size]
    vocabulary = {name: number for number, name in enumerate(names)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    backend.add_special_tokens([UNKNOWN, END])
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))


def write_pieces(folder: Path, texts: Sequence[str]) -> None:
    """Write the texts as files of PIECE characters."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(texts):
        text = Path(name).read_text(encoding="utf-8")
        for start in range(0, len(text), PIECE):
            piece = text[start : start + PIECE]
            (folder / f"{number}-{start}.txt").write_text(piece, encoding="utf-8")


def prepare(setting: Setting, folder: Path) -> dict[str, Any]:
    """Prepare the data in the folder; return what peers are to know, and the FLOPs of a step."""
    if setting.shape.by_character:
        write_characters(folder / CHARACTERS, setting.shape.sizes["vocab_size"])
    write_pieces(folder / PIECES, setting.texts)
    file = folder / "prepare.yaml"
    file.write_text(yaml.safe_dump(setting.config(CONTENDERS["lumbre"], folder), sort_keys=False))
    config = configs.load(PretrainConfig, str(file), room="pretrain")
    assert isinstance(config.model, TransformerConfig)
    sets = prepare_sets(config.data, config.tokenizer)
    tokenizer = sets[""].tokenizer()
    objective = config.objective.build(tokenizer, config.seed)
    adapter = adapter_for(config.model)
    assert adapter is not None
    documents = sets[""].split("train")
    count = min(TOKENS, documents.num_tokens)
    tokens = documents.tokens(0, count)
    tokens.astype(np.uint16).tofile(folder / "tokens.bin")
    arrays = {"tokens": tokens, "starts": documents.document_starts(0, count)}
    if setting.shape.family == "t5":
        stream = GlobalStream(sets, config.data, config.plan, objective, config.seed)
        rows = [stream(index) for index in range(NOISED_ROWS)]
        arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    np.savez(folder / "rows.npz", **arrays)
    return {
        "rows": str(folder / "rows.npz"),
        "tokens": str(folder / "tokens.bin"),
        "tokenizer": str(sets[""].folder / "tokenizer"),
        "model": config.model.model_dump(mode="json", serialize_as_any=True),
        "hf_config": {**adapter.to_hf_config(config.model, tokenizer), "model_type": adapter.model_type},
        "flops": setting.batch * objective.flops(config.model, setting.length),
        "parameters": parameter_count(config.model),
    }
