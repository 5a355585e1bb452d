"""The tokenizer of one corpus or of several: trained on a sample of their text, once, by one process."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from lumbre.errors import DataError
from lumbre.tokenizer import FileTokenizerConfig, TokenizerConfig

from ..skips import Skips
from .corpus import Corpus
from .disk import explained, sole_process, write_whole
from .raw import CorpusConfig

MADE_FROM = "made_from.json"


def train_tokenizer(
    corpora: Sequence[CorpusConfig],
    weights: Sequence[float],
    tokenizer: TokenizerConfig,
    folder: Path | None = None,
) -> FileTokenizerConfig:
    """Return a tokenizer that several corpora share, trained now on all of them if that has not been done.

    Each corpus gives the share of the sample that its weight has of their sum. The tokenizer lies in
    `folder`, by default under data/, by fingerprint. One process works under a lock and the others wait.
    Raises DataError where a corpus has no text to learn from, or the folder holds another tokenizer.
    """
    if isinstance(tokenizer, FileTokenizerConfig):
        return tokenizer
    for number, corpus in enumerate(corpora):
        if not corpus.sources:
            fault = f"{corpus.folder or f'corpus {number}'}: no sources, so a tokenizer cannot learn from it"
            raise DataError(f"{fault}; name its sources, or set tokenizer to type file and the path of one")
    listed = [Corpus(corpus.sources, corpus.filters) for corpus in corpora]
    made_from = json.dumps(
        {
            "tokenizer": tokenizer.model_dump(mode="json"),
            "corpora": [
                corpus.model_dump(
                    mode="json", include={"sources", "filters", "on_bad_document"}, serialize_as_any=True
                )
                for corpus in corpora
            ],
            "files": [corpus.fingerprint() for corpus in listed],
            "weights": list(weights),
        },
        sort_keys=True,
    )
    key = hashlib.sha256(made_from.encode()).hexdigest()
    folder = folder or Path("data") / f"tokenizer-{key[:16]}"
    with explained(folder), sole_process(folder):
        if not folder.exists():
            shares = [int(tokenizer.sample_bytes * weight / sum(weights)) for weight in weights]
            texts = (
                text
                for config, corpus, share in zip(corpora, listed, shares, strict=True)
                if share
                for text in corpus.sample(share, Skips(config.on_bad_document))
            )
            size = min(sum(corpus.total_bytes for corpus in listed), sum(shares))
            train(tokenizer, texts, size, folder, made_from)
    mark = folder / MADE_FROM
    if not mark.is_file() or mark.read_text() != made_from:
        fault = f"{folder}: holds something else than the tokenizer of this config and these files"
        raise DataError(f"{fault}; name another folder, or delete this one")
    return FileTokenizerConfig(path=str(folder))


def train(
    config: TokenizerConfig, texts: Iterable[str], num_bytes: int, folder: Path, made_from: str = ""
) -> None:
    """Build a tokenizer from about so much text, and save it to a folder that is there in full or absent."""
    fresh = folder.with_name(f"{folder.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    if config.sample_bytes:
        print(f"training the tokenizer on {num_bytes / 1e6:,.1f} MB", file=sys.stderr, flush=True)
    config.build(texts).save(fresh)
    if made_from:
        write_whole(fresh / MADE_FROM, made_from.encode())
    fresh.rename(folder)
