"""Preparation: from raw documents to a folder of shards, the same bytes for any number of workers."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from lumbre.errors import DataError
from lumbre.tokenizer import FileTokenizerConfig, TokenizerConfig

from ..shards import FORMAT_VERSION, MANIFEST, PreparedData
from .corpus import Corpus
from .disk import explained, sole_process
from .pipeline import Pipeline
from .raw import CorpusConfig


def prepare(data: CorpusConfig, tokenizer: TokenizerConfig) -> PreparedData:
    """Return the prepared data, made now if it is not there; every process of a run may call.

    One process works under a lock and the others wait for it. Work that was killed goes on where it
    stopped. Raises DataError (a damaged folder, one that was prepared from something else, an empty
    corpus, a bad document, a full disk, a worker that was killed) and TokenizerError.
    """
    asked = _asked(data, tokenizer)
    if data.folder and not data.sources:
        prepared = _opened(Path(data.folder), asked)
        prepared.verify()
        return prepared
    corpus = None
    if not (data.is_prepared and _is_gone(data)):
        corpus = Corpus(data.all_sources, data.filters)
        asked["corpus"] = corpus.fingerprint()
    key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    folder = Path(data.folder) if data.folder else Path("data") / key[:16]
    if (folder / MANIFEST).is_file():
        prepared = _opened(folder, asked)
        if prepared.is_verified or not os.access(folder.parent, os.W_OK):
            prepared.verify()
            return prepared
    with explained(folder), sole_process(folder):
        if not (folder / MANIFEST).is_file():
            assert corpus is not None
            partial = folder.with_name(f"{folder.name}.partial")
            made = Pipeline(partial, data, tokenizer, corpus, f"{key} {data.unit_bytes}").run(asked)
            made.rename(folder)
            shutil.rmtree(partial)
            print(PreparedData.open(folder).summary(), file=sys.stderr, flush=True)
        prepared = _opened(folder, asked)
        prepared.verify()
    return prepared


def _asked(data: CorpusConfig, tokenizer: TokenizerConfig) -> dict[str, Any]:
    """Return everything of the config that the prepared bytes depend on."""
    asked: dict[str, Any] = {"tokenizer": tokenizer.model_dump(mode="json")}
    if isinstance(tokenizer, FileTokenizerConfig):
        asked["tokenizer"] = {"type": "file", "fingerprint": tokenizer.build([]).fingerprint}
    if data.sources:
        keys = {
            "sources",
            "filters",
            "validation_fraction",
            "test_fraction",
            "on_bad_document",
            "shard_tokens",
        }
        asked["format_version"] = FORMAT_VERSION
        asked |= data.model_dump(mode="json", include=keys, serialize_as_any=True)
        if data.validation_sources:
            named = data.model_dump(mode="json", include={"validation_sources"}, serialize_as_any=True)
            asked = {**{key: value for key, value in asked.items() if key != "validation_fraction"}, **named}
        asked["near_duplicates"] = data.near_duplicates and data.near_duplicates.minhash
    return asked


def _is_gone(data: CorpusConfig) -> bool:
    return any(True for source in data.all_sources for _ in source.missing())


def _opened(folder: Path, asked: dict[str, Any]) -> PreparedData:
    prepared = PreparedData.open(folder)
    made_from = dict(prepared.manifest.prepared_from)
    if "fingerprint" in asked["tokenizer"]:
        made_from["tokenizer"] = {"type": "file", "fingerprint": prepared.manifest.tokenizer_fingerprint}
    differing = [key for key in asked if made_from.get(key) != asked[key]]
    if differing:
        changes = ", ".join(
            "the files of the corpus have changed"
            if key == "corpus"
            else f"{key} was {json.dumps(made_from.get(key))} and is {json.dumps(asked[key])}"
            for key in differing
        )
        remedy = "set data.folder to another folder, or delete this one to prepare it anew"
        raise DataError(f"{folder}: prepared from something else: {changes}; {remedy}")
    return prepared
