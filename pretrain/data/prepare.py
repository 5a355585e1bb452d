"""Preparation: from raw documents to a folder of shards, the same bytes for any number of threads."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lumbre.errors import DataError
from lumbre.tokenizer import FileTokenizerConfig, Tokenizer, TokenizerConfig

from .assemble import order_documents, split_documents, write_shards
from .corpus import Corpus, Skips, Unit
from .disk import explained, sole_process, write_whole
from .journal import Journal
from .progress import ByteProgress
from .raw import CorpusConfig as CorpusConfig
from .shards import FORMAT_VERSION, MANIFEST, TOKENIZER, Manifest, PreparedData, SplitName
from .vocabulary import train


def prepare(data: CorpusConfig, tokenizer: TokenizerConfig) -> PreparedData:
    """Return the prepared data, made now if it is not there; every process of a run may call.

    One process works under a lock and the others wait for it. Work that was killed goes on where it
    stopped. Raises DataError (a damaged folder, one that was prepared from something else, an empty
    corpus, a bad document, a full disk) and TokenizerError.
    """
    asked = _asked(data, tokenizer)
    if data.folder and not data.sources:
        prepared = _opened(Path(data.folder), asked)
        prepared.verify()
        return prepared
    corpus = None
    if not (data.is_prepared and _is_gone(data)):
        corpus = Corpus(data.sources)
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
            _work(folder, data, tokenizer, corpus, asked, key)
        prepared = _opened(folder, asked)
        prepared.verify()
    return prepared


def _asked(data: CorpusConfig, tokenizer: TokenizerConfig) -> dict[str, Any]:
    """Return everything of the config that the prepared bytes depend on."""
    asked: dict[str, Any] = {"tokenizer": tokenizer.model_dump(mode="json")}
    if isinstance(tokenizer, FileTokenizerConfig):
        asked["tokenizer"] = {"type": "file", "fingerprint": tokenizer.build([]).fingerprint}
    if data.sources:
        asked["format_version"] = FORMAT_VERSION
        asked["sources"] = [source.model_dump(mode="json") for source in data.sources]
        keys = ("validation_fraction", "test_fraction", "on_bad_document", "shard_tokens")
        asked |= {key: getattr(data, key) for key in keys}
    return asked


def _is_gone(data: CorpusConfig) -> bool:
    return any(True for source in data.sources for _ in source.missing())


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


def _work(
    folder: Path,
    data: CorpusConfig,
    tokenizer_config: TokenizerConfig,
    corpus: Corpus,
    asked: dict[str, Any],
    key: str,
) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    journal = Journal(partial / "units", f"{key} {data.unit_bytes}")
    tokenizer = _tokenizer(partial, journal, tokenizer_config, corpus, data)
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
    units = corpus.units(data.unit_bytes)
    skips = _tokenize(journal, units, corpus, tokenizer, dtype, data)
    rows, duplicates = order_documents(journal, len(units))
    if not len(rows):
        raise _empty(corpus, skips)
    fractions: dict[SplitName, float] = {"validation": data.validation_fraction, "test": data.test_fraction}
    out = partial / "out"
    shutil.rmtree(out, ignore_errors=True)
    tokenizer.save(out / TOKENIZER)
    shards = {
        name: write_shards(out, name, mine, journal, dtype, data.shard_tokens)
        for name, mine in split_documents(rows, fractions).items()
    }
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        fingerprint=Manifest.fingerprint_of(tokenizer.fingerprint, dtype.name, shards),
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        dtype="uint16" if dtype.itemsize == 2 else "uint32",
        shards=shards,
        duplicates=duplicates,
        skipped=skips.by_reason,
        prepared_from=asked,
    )
    write_whole(out / MANIFEST, (json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n").encode())
    PreparedData(out, manifest).mark_verified()
    out.rename(folder)
    shutil.rmtree(partial)
    print(PreparedData(folder, manifest).summary(), file=sys.stderr, flush=True)


def _tokenizer(
    partial: Path, journal: Journal, config: TokenizerConfig, corpus: Corpus, data: CorpusConfig
) -> Tokenizer:
    """Return the tokenizer that lies in the journal, trained now if there is none."""
    place = journal.folder / TOKENIZER
    if not place.is_dir():
        texts = corpus.sample(config.sample_bytes, Skips(data.on_bad_document)) if config.sample_bytes else ()
        train(config, texts, min(config.sample_bytes, corpus.total_bytes), place)
    return Tokenizer.load(place)


def _tokenize(
    journal: Journal,
    units: list[Unit],
    corpus: Corpus,
    tokenizer: Tokenizer,
    dtype: np.dtype,
    data: CorpusConfig,
) -> Skips:
    total = Skips(data.on_bad_document)
    ready = sum(unit.size for number, unit in enumerate(units) if journal.has(number))
    with ByteProgress("tokenizing", corpus.total_bytes, done=ready) as progress:
        for number, unit in enumerate(units):
            if not journal.has(number):
                before = ready

                def report(done: int, before: int = before, size: int = unit.size) -> None:
                    progress.reach(before + min(done, size))

                journal.write(number, unit, corpus, tokenizer, dtype, Skips(data.on_bad_document), report)
                ready += unit.size
                progress.reach(ready)
            total.merge(journal.skips(number))
    return total


def _empty(corpus: Corpus, skips: Skips) -> DataError:
    reasons = ", ".join(f"{skip.count:,} {reason}" for reason, skip in sorted(skips.by_reason.items()))
    fault = f"data.sources: no document in {corpus.num_files:,} files of {corpus.total_bytes:,} bytes"
    return DataError(f"{fault}{f' ({reasons})' if reasons else ''}; name files that hold text")
