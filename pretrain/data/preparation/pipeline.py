"""The stages of a preparation, each of which goes on where it stopped: tokenizer, units, order, shards."""

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lumbre.errors import DataError
from lumbre.tokenizer import Tokenizer, TokenizerConfig

from ..shards import FORMAT_VERSION, MANIFEST, TOKENIZER, Manifest, PreparedData, Shard, SplitName
from ..skips import Skip, Skips
from .assemble import Plan, WriteShard, plan_shards, shard_record
from .corpus import Corpus
from .disk import clear_unfinished, write_whole
from .journal import INDEX, Journal
from .near_duplicates import NearDuplicates
from .ordering import Buckets
from .progress import ByteProgress
from .raw import CorpusConfig
from .splits import Splits
from .tokenization import TokenizeUnit
from .vocabulary import train
from .workers import Task, Workers, available_cores

NEAR_DUPLICATE = "near-duplicate or copy"
PROVED_BYTES = 1 << 19
"""How much of the corpus the fast tokenizer is compared on before it is used."""
TOKENIZED_BYTES = 1 << 20
"""How much text is worth another worker, where the config does not say how many there are."""
WRITTEN_BYTES = 1 << 28
"""How much of shards is worth another worker: a worker takes as long to start as that takes to write."""


class Pipeline:
    """Works in a folder of its own, which belongs to one plan of work, told by its key."""

    def __init__(
        self, partial: Path, data: CorpusConfig, tokenizer: TokenizerConfig, corpus: Corpus, key: str
    ) -> None:
        self._partial = partial
        self._data = data
        self._tokenizer_config = tokenizer
        self._corpus = corpus
        # A tokenizer learns from no text that it is measured on.
        self._learned = Corpus(data.sources, data.filters) if data.validation_sources else corpus
        self._key = key
        self._journal = Journal(partial / "units")
        self._units = corpus.units(data.unit_bytes)
        self._workers = Workers()

    def run(self, asked: dict[str, Any]) -> Path:
        """Return the folder of the prepared data, made from what was asked for."""
        with self._workers:
            return self._made(asked)

    def _made(self, asked: dict[str, Any]) -> Path:
        if not self._journal.has_key(self._key):
            shutil.rmtree(self._partial, ignore_errors=True)
        self._journal.claim(self._key)
        sizes = [self._units[number].size for number in self._todo()]
        self._workers.start(len(sizes), self._cores(sizes, TOKENIZED_BYTES))
        tokenizer = self._tokenizer()
        dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        skips = self._tokenize(tokenizer, dtype)
        plan = self._plan(skips)
        skips.merge({reason: Skip(**skip) for reason, skip in plan.left_out.items()})
        out = self._partial / "out"
        shards = self._write(plan, dtype, out)
        tokenizer.save(out / TOKENIZER)
        fingerprint = tokenizer.fingerprint
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            fingerprint=Manifest.fingerprint_of(fingerprint, dtype.name, shards),
            tokenizer_fingerprint=fingerprint,
            vocab_size=tokenizer.vocab_size,
            dtype="uint16" if dtype.itemsize == 2 else "uint32",
            shards=shards,
            duplicates=plan.duplicates,
            skipped=skips.by_reason,
            prepared_from=asked,
        )
        write_whole(out / MANIFEST, (json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n").encode())
        PreparedData(out, manifest).mark_verified()
        return out

    def _tokenizer(self) -> Tokenizer:
        """Return the tokenizer that lies in the journal, trained now if there is none."""
        place = self._journal.folder / TOKENIZER
        config, corpus = self._tokenizer_config, self._learned
        if not place.is_dir():
            skips = Skips(self._data.on_bad_document)
            texts = corpus.sample(config.sample_bytes, skips) if config.sample_bytes else ()
            train(config, texts, min(config.sample_bytes, corpus.total_bytes), place)
        return Tokenizer.load(place)

    def _is_fast(self, tokenizer: Tokenizer) -> bool:
        """Whether the fast encoder gives the same ids on a sample of the corpus; asked once."""
        if not self._data.fast_tokenizer:
            return False
        file = self._journal.folder / "fast.json"
        if not file.is_file():
            encoder = tokenizer.encoder()
            proven = encoder.is_fast and encoder.prove(
                self._learned.sample(PROVED_BYTES, Skips(self._data.on_bad_document))
            )
            write_whole(file, json.dumps(proven).encode())
        return bool(json.loads(file.read_text()))

    def _todo(self) -> list[int]:
        return [number for number in range(len(self._units)) if not self._journal.has(number)]

    def _tokenize(self, tokenizer: Tokenizer, dtype: np.dtype) -> Skips:
        todo = self._todo()
        sizes = [self._units[number].size for number in todo]

        def tasks() -> Iterator[Task[None]]:
            is_fast = self._is_fast(tokenizer)
            for number in todo:
                yield TokenizeUnit(
                    number,
                    self._units[number],
                    self._corpus.reader,
                    self._journal.folder,
                    self._journal.folder / TOKENIZER,
                    is_fast,
                    dtype,
                    self._data.unit_bytes,
                    self._data.on_bad_document,
                )

        self._run("tokenizing", tasks(), sizes, self._corpus.total_bytes, TOKENIZED_BYTES)
        total = Skips(self._data.on_bad_document)
        for number in range(len(self._units)):
            total.merge(self._journal.record(number).skips)
        return total

    def _plan(self, skips: Skips) -> Plan:
        """Return the plan of the shards, made now if there is none: duplicates dropped, splits chosen."""
        folder = self._partial / "plan"
        if (plan := Plan.load(folder)) is not None:
            return plan
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        documents = (
            sum(file.stat().st_size for file in self._journal.folder.glob("*.index")) // INDEX.itemsize
        )
        buckets = Buckets(self._partial / "buckets", documents)
        left_out = Skips("skip")
        for rows in self._rows(left_out):
            buckets.deal(rows)
        given = len(self._data.validation_sources)
        fractions: dict[SplitName, float] = {
            "validation": 0.0 if given else self._data.validation_fraction,
            "test": self._data.test_fraction,
        }
        splits = Splits(fractions, buckets.sort(), given)
        if not splits.documents:
            raise self._empty(skips)
        shards = plan_shards(folder, buckets, splits, self._data.shard_tokens)
        plan = Plan(
            shards, buckets.duplicates, {key: skip.model_dump() for key, skip in left_out.by_reason.items()}
        )
        plan.save(folder)
        buckets.clear()
        return plan

    def _rows(self, skips: Skips) -> Iterator[np.ndarray]:
        """Yield the rows of all documents, without those that are near-duplicates of others."""
        units = range(len(self._units))
        if self._data.near_duplicates is None:
            for unit in units:
                yield from self._journal.index(unit)
            return
        near = NearDuplicates(
            self._data.near_duplicates,
            self._partial / "near",
            self._journal,
            self._corpus.reader,
            self._units,
            lambda title, tasks, sizes: self._run(title, tasks, sizes, sum(sizes), TOKENIZED_BYTES),
        )
        removed = near.removed()
        for unit, ids in near.ids():
            rows = np.concatenate([np.empty(0, INDEX), *self._journal.index(unit)])
            near_by = removed[np.searchsorted(removed, ids[0]) :] if len(ids) else removed
            is_removed = np.isin(ids, near_by[: len(ids)], assume_unique=True)
            for row in rows[is_removed]:
                place = row["source"].item(), row["file"].item(), row["record"].item()
                skips.drop(NEAR_DUPLICATE, partial(self._corpus.place, *place))
            yield rows[~is_removed]

    def _write(self, plan: Plan, dtype: np.dtype, out: Path) -> dict[SplitName, list[Shard]]:
        folder = self._partial / "plan"
        out.mkdir(exist_ok=True)
        clear_unfinished(out)
        tokens = {name: count for shards in plan.shards.values() for name, count in shards.items()}
        todo = [name for name in tokens if shard_record(folder, name) is None]
        tasks = [WriteShard(folder, name, self._journal.folder, out, dtype) for name in todo]
        sizes = [tokens[name] * dtype.itemsize for name in todo]
        self._run("writing shards", tasks, sizes, sum(tokens.values()) * dtype.itemsize, WRITTEN_BYTES)
        written = {name: shard for name in tokens if (shard := shard_record(folder, name)) is not None}
        return {split: [written[name] for name in names] for split, names in plan.shards.items()}

    def _run(
        self, title: str, tasks: Iterable[Task[None]], sizes: Sequence[int], total: int, worker_bytes: int
    ) -> None:
        """Run tasks on all cores; `sizes` are their bytes, and what is missing to `total` is done.

        So many bytes are worth a worker more.
        """
        ready = total - sum(sizes)
        inside = [0] * len(sizes)
        with ByteProgress(title, total, done=ready) as progress:

            def report(number: int, done: int) -> None:
                nonlocal ready
                done = min(done, sizes[number])
                ready += done - inside[number]
                inside[number] = done
                progress.reach(ready)

            cores = self._cores(sizes, worker_bytes)
            for number, _ in self._workers.run(tasks, len(sizes), cores, report):
                report(number, sizes[number])

    def _cores(self, sizes: Sequence[int], worker_bytes: int) -> int:
        """Return how many work on tasks of so many bytes: those there are, or more where it is worth it."""
        worth = max(1 + sum(sizes) // worker_bytes, len(self._workers))
        return self._data.workers or min(available_cores(), worth)

    def _empty(self, skips: Skips) -> DataError:
        corpus = self._corpus
        reasons = ", ".join(f"{skip.count:,} {reason}" for reason, skip in sorted(skips.by_reason.items()))
        fault = f"data.sources: no document in {corpus.num_files:,} files of {corpus.total_bytes:,} bytes"
        return DataError(f"{fault}{f' ({reasons})' if reasons else ''}; name files that hold text")
