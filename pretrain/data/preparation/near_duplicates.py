"""Near-duplicates: documents that share most of their n-grams of words, found by MinHash (Broder, 1997).

Signatures and their matching are datatrove's, as tasks over fixed ranges of units. The clusters are ours:
datatrove keeps a document that depends on the layout of its tasks, we the lowest (source, file, record).
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import PositiveInt

from lumbre.config import Config
from lumbre.errors import Problem

from .disk import explained, write_whole
from .journal import Journal
from .reader import Reader, Unit
from .slurm import SlurmConfig
from .workers import Report, Task

MOST_TASKS = 256
"""The signatures of so many tasks are merged at once, a file each."""
DOCUMENT_BITS = 32
EXTRA = "lumbre[near-duplicates]"


class NearDuplicatesConfig(Config):
    """How alike documents must be for one of them to be left out.

    Two documents that share a fraction s of their n-grams are found with probability
    1 - (1 - s^hashes_per_bucket)^num_buckets: by default 0.92 for s = 0.8, 0.09 for s = 0.5.
    """

    ngram: PositiveInt = 5
    """Words of an n-gram, in lower case, without punctuation, every number the same."""
    num_buckets: PositiveInt = 14
    """In how many ways documents are compared; one match is enough."""
    hashes_per_bucket: PositiveInt = 8
    """How many least hashes must be the same for a match."""
    slurm: SlurmConfig | None = None
    """Where this is set, the work goes to Slurm as array jobs; by default this machine's cores do it."""

    def problems(self) -> Iterator[Problem]:
        """Report that datatrove is not there."""
        if importlib.util.find_spec("datatrove") is None:
            yield Problem("", "needs datatrove, which is not installed", f"run pip install '{EXTRA}'")

    @property
    def minhash(self) -> dict[str, int]:
        """The keys as datatrove calls them; what decides the result."""
        return {
            "n_grams": self.ngram,
            "num_buckets": self.num_buckets,
            "hashes_per_bucket": self.hashes_per_bucket,
        }


@dataclass(frozen=True)
class MinhashTask:
    """One task of a stage, done by a worker of ours; what is done leaves a mark."""

    steps: Callable[[], list[Any]]
    rank: int
    world_size: int
    mark: Path

    def __call__(self, report: Report) -> None:
        """Run datatrove's steps."""
        from .minhash import quiet, run_steps

        quiet()
        with explained(self.mark):
            run_steps(self.steps(), self.rank, self.world_size)
            write_whole(self.mark, b"")


@dataclass(frozen=True)
class SignatureSteps:
    """Makes the pipeline of the first stage; what it holds is light to send."""

    journal: Path
    reader: Reader
    units: Mapping[int, Sequence[tuple[int, Unit]]]
    folder: Path
    minhash: Mapping[str, int]

    def __call__(self) -> list[Any]:
        from .minhash import signature_steps

        return signature_steps(self.journal, self.reader, self.units, self.folder, dict(self.minhash))


@dataclass(frozen=True)
class PairSteps:
    """Makes the pipeline of the second stage."""

    folder: Path
    minhash: Mapping[str, int]

    def __call__(self) -> list[Any]:
        from .minhash import bucket_steps

        return bucket_steps(self.folder, dict(self.minhash))


class NearDuplicates:
    """Finds the near-duplicates among the documents of a journal, in a folder that keeps what is done."""

    def __init__(
        self,
        config: NearDuplicatesConfig,
        folder: Path,
        journal: Journal,
        reader: Reader,
        units: Sequence[Unit],
        run: Callable[[str, Sequence[Task[None]], Sequence[int]], None],
    ) -> None:
        """Take the means to run tasks, which are told title, tasks and their bytes."""
        self._config = config
        self._folder = folder
        self._journal = journal
        self._reader = reader
        self._run = run
        numbered = list(enumerate(units))
        self._ranks = [
            part.tolist() for part in np.array_split(np.arange(len(units)), min(len(units), MOST_TASKS))
        ]
        self._units = {rank: [numbered[one] for one in mine] for rank, mine in enumerate(self._ranks)}

    def removed(self) -> np.ndarray:
        """Return the sorted ids of the documents that are left out; see `ids`."""
        file = self._folder / "removed"
        if not file.is_file():
            self._folder.mkdir(exist_ok=True)
            minhash = self._config.minhash
            sizes = [sum(unit.size for _, unit in units) for units in self._units.values()]
            signatures = [
                SignatureSteps(self._journal.folder, self._reader, {rank: units}, self._folder, minhash)
                for rank, units in self._units.items()
            ]
            self._stage("signatures", signatures, sizes)
            pairs = [PairSteps(self._folder, minhash)] * self._config.num_buckets
            self._stage("pairs", pairs, [1] * len(pairs))
            write_whole(file, _clustered(self._folder / "pairs"))
        return np.fromfile(file, dtype=np.uint64)

    def ids(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (unit, ids of its documents): the task above `DOCUMENT_BITS`, the place among its below."""
        for rank, units in enumerate(self._ranks):
            before = 0
            for unit in units:
                count = sum(len(rows) for rows in self._journal.index(unit))
                yield (
                    unit,
                    np.arange(before, before + count, dtype=np.uint64) + np.uint64(rank << DOCUMENT_BITS),
                )
                before += count

    def _stage(self, name: str, steps: Sequence[Callable[[], list[Any]]], sizes: Sequence[int]) -> None:
        count = len(steps)
        if self._config.slurm is not None:
            whole = self._whole(name)
            self._config.slurm.run(f"lumbre-{name}", whole(), count, self._folder / f"slurm-{name}")
            return
        tasks = [
            MinhashTask(make, rank, count, self._folder / f"{name}-{rank}.done")
            for rank, make in enumerate(steps)
        ]
        todo = [rank for rank, task in enumerate(tasks) if not task.mark.is_file()]
        self._run(f"near-duplicates: {name}", [tasks[rank] for rank in todo], [sizes[rank] for rank in todo])

    def _whole(self, name: str) -> Callable[[], list[Any]]:
        """Return what makes the pipeline of a stage for all its tasks."""
        minhash = self._config.minhash
        if name == "pairs":
            return PairSteps(self._folder, minhash)
        return SignatureSteps(self._journal.folder, self._reader, self._units, self._folder, minhash)


def _clustered(folder: Path) -> np.ndarray:
    """Return the ids of all documents but the lowest of each cluster of pairs, sorted."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    found = [np.fromfile(file, dtype="<u4").reshape(-1, 4) for file in sorted(folder.glob("*.dups"))]
    pairs = np.concatenate([np.empty((0, 4), dtype="<u4"), *found]).astype(np.uint64)
    shift = np.uint64(DOCUMENT_BITS)
    ends = np.stack([(pairs[:, 0] << shift) | pairs[:, 1], (pairs[:, 2] << shift) | pairs[:, 3]])
    ids, places = np.unique(ends, return_inverse=True)
    first, second = places.reshape(2, -1)
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(len(ids), len(ids)))
    _, labels = connected_components(graph, directed=False)
    # ids are sorted, so the first of each label is its lowest
    _, lowest = np.unique(labels, return_index=True)
    return np.delete(ids, lowest)
