"""WikiText-2 with 10M parameters: beside transformers' Trainer on the same tokens."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.to_loss import evaluator
from benchmarks.to_loss.process import LUMBRE, PYTHON, ROOT, run
from pretrain.data.shards import PreparedData

SEEN_ROWS = 1024
"""Rows of the validation part that both are measured on."""
SIZE = {"hidden": 384, "layers": 4, "heads": 6, "inner": 1536}
ENCODER = {
    "hidden_size": SIZE["hidden"],
    "num_hidden_layers": SIZE["layers"],
    "num_attention_heads": SIZE["heads"],
    "max_position_embeddings": 128,
}


@dataclass(frozen=True)
class Setting:
    """A model family: our config, and the peer's model and how it is trained."""

    kind: str
    config: Path
    length: int
    """Tokens of a row, of the peer and of the evaluation."""
    hf_config: dict[str, Any]
    batch: int
    learning_rate: float


WITHOUT_DROPOUT = {
    "bert": dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
    "modernbert": dict.fromkeys(("embedding_dropout", "attention_dropout", "mlp_dropout"), 0.0),
    "gpt2": dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
}
SETTINGS = {
    "encoder-modern": Setting(
        "bert",
        ROOT / "configs/pretrain/fast-bert.yaml",
        128,
        {
            "model_type": "modernbert",
            **ENCODER,
            "intermediate_size": 1024,
            "global_attn_every_n_layers": 1,
        },
        batch=16,
        learning_rate=1e-3,
    ),
    "encoder": Setting(
        "bert",
        ROOT / "configs/pretrain/fast-bert.yaml",
        128,
        {
            "model_type": "bert",
            **ENCODER,
            "intermediate_size": SIZE["inner"],
        },
        batch=16,
        learning_rate=1e-3,
    ),
    "decoder": Setting(
        "gpt",
        ROOT / "configs/pretrain/fast-gpt.yaml",
        128,
        {
            "model_type": "gpt2",
            "n_embd": SIZE["hidden"],
            "n_layer": SIZE["layers"],
            "n_head": SIZE["heads"],
            "n_inner": SIZE["inner"],
            "n_positions": 128,
        },
        batch=16,
        learning_rate=1e-3,
    ),
}
"""The peers have no dropout, and rates that small models stand. Of transformers' two encoders the newer one
learns far faster than BERT itself."""


class Corpus:
    """The tokens of both sides, prepared by `lumbre prepare` before any clock runs."""

    def __init__(self, setting: Setting, texts: Path, folder: Path, threads: int) -> None:
        self.setting, self.folder = setting, folder
        folder.mkdir(parents=True)
        (folder / "wikitext2").symlink_to(texts.resolve())
        run([*LUMBRE, "prepare", str(setting.config), "data.folder=prepared"], folder, threads)
        prepared = PreparedData.open(folder / "prepared")
        self.tokenizer = prepared.tokenizer()
        train, validation = prepared.split("train"), prepared.split("validation")
        self.train = train.tokens(0, train.num_tokens)
        np.save(folder / "train.npy", self.train)
        length = setting.length
        seen = validation.tokens(0, min(validation.num_tokens, SEEN_ROWS * length + 1))
        if setting.kind == "bert":
            assert self.tokenizer.mask_id is not None
            special = self.tokenizer.special_ids
            ordinary = np.array([one for one in range(self.tokenizer.vocab_size) if one not in special])
            self.rows = evaluator.masked(seen, length, self.tokenizer.mask_id, ordinary)
        else:
            self.rows = evaluator.windows(seen, length)

    @property
    def unigram_loss(self) -> float:
        """What the frequencies of tokens alone come to."""
        return evaluator.unigram_loss(self.train, self.rows[1], self.tokenizer.vocab_size)

    @property
    def hf_tokens(self) -> dict[str, int | None]:
        """What the peer's config is to know of the vocabulary."""
        its = self.tokenizer
        begin, end = (next(iter(one), None) for one in (its.document_begin, its.document_end))
        ids = {"pad": its.pad_id, "bos": begin, "eos": end, "cls": begin, "sep": end}
        return {"vocab_size": its.vocab_size, **{f"{role}_token_id": one for role, one in ids.items()}}

    def measured(self, seconds: float, model: Path) -> dict[str, Any]:
        """Return what a run came to."""
        kind = self.setting.kind
        loss = evaluator.mean_loss(evaluator.saved_model(model, kind), *self.rows)
        return {"seconds": seconds, "loss": loss, "parameters": evaluator.parameters(model, kind)}


def ours(corpus: Corpus, seed: int, threads: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Run the shipped config to its end: seconds from the start of the process to its exit."""
    keys = [f"name=run-{seed}", f"seed={seed}", "data.folder=prepared", *overrides]
    ran = run([*LUMBRE, "pretrain", str(corpus.setting.config), *keys], corpus.folder, threads)
    return corpus.measured(ran.seconds, corpus.folder / f"runs/run-{seed}/model")


def theirs(corpus: Corpus, seed: int, threads: int, minutes: float) -> dict[str, Any]:
    """Have Trainer train for so many minutes; its start does not count."""
    setting, out = corpus.setting, corpus.folder / f"hf-{seed}"
    out.mkdir()
    job = {
        "kind": setting.kind,
        "tokens": str(corpus.folder / "train.npy"),
        "tokenizer": str(corpus.folder / "prepared/tokenizer"),
        "length": setting.length,
        "hf_config": {
            **setting.hf_config,
            **WITHOUT_DROPOUT[setting.hf_config["model_type"]],
            **corpus.hf_tokens,
        },
        "batch": setting.batch,
        "learning_rate": setting.learning_rate,
        "minutes": minutes,
        "seed": seed,
        "to": str(out / "model"),
    }
    (out / "job.json").write_text(json.dumps(job))
    run([PYTHON, "-m", "benchmarks.peers.hf_minutes", str(out / "job.json")], corpus.folder, threads)
    return corpus.measured(60 * minutes, out / "model")
