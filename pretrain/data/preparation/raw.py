"""A corpus as a config: raw text, and how it is prepared."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from lumbre.config import Config
from lumbre.errors import Problem

from ..shards import MANIFEST
from ..sources import SourceConfig
from .filters import FilterConfig
from .near_duplicates import NearDuplicatesConfig

Fraction = Annotated[float, Field(ge=0, lt=1)]


class CorpusConfig(Config):
    """Raw text: where it comes from, what of it is used, how it is split, and where its shards lie."""

    sources: list[SourceConfig] = Field(default_factory=list)
    """Where the raw documents come from; none where the folder holds prepared data, used as it is."""
    validation_sources: list[SourceConfig] = Field(default_factory=list)
    """Where the documents of the validation split come from, in place of a share of the others; a text that
    stands in both is left out of training."""
    folder: str | None = None
    """Where the prepared data lies; by default under data/, by fingerprint."""
    validation_fraction: Fraction = 0.01
    """Share of the documents that is kept for evaluation, chosen by the hash of their text; of no effect
    where validation_sources are named."""
    test_fraction: Fraction = 0.0
    """Share of the documents that is kept aside altogether."""
    on_bad_document: Literal["error", "skip"] = "error"
    """What happens on text that cannot be used: the work ends, or it is left out, counted and reported."""
    filters: list[FilterConfig] = Field(default_factory=list)
    """Rules of quality; the documents that break one are left out, counted and reported."""
    near_duplicates: NearDuplicatesConfig | None = None
    """Whether of documents that are alike one is kept; by default only exact copies are left out."""
    fast_tokenizer: bool = True
    """Whether gigatoken tokenizes where its ids are proven the same, on a sample and along the way."""
    shard_tokens: PositiveInt = 1 << 26
    """Most tokens of a shard that holds more than one document."""
    unit_bytes: Annotated[int, Field(ge=1024)] = 1 << 22
    """Bytes of input per unit of work: what a kill can cost each worker (twice that in packed files)."""
    workers: PositiveInt | None = None
    """How many cores prepare, a process each; by default all there are, 1 is this process alone."""

    @property
    def all_sources(self) -> list[SourceConfig]:
        """Every source, those of the validation split first: of a text that stands in both, theirs stays."""
        return [*self.validation_sources, *self.sources]

    @property
    def is_prepared(self) -> bool:
        """Whether the folder is named and holds prepared data."""
        return self.folder is not None and (Path(self.folder) / MANIFEST).is_file()

    def problems(self) -> Iterator[Problem]:
        """Yield what can be known before any text is read; prepared data does without its raw text."""
        if not self.sources and not self.is_prepared:
            remedy = "add one, say `- type: stdlib`, or name a folder of prepared data"
            yield Problem("sources", "there is no source", remedy)
        if self.validation_sources and not self.sources:
            yield Problem("validation_sources", "there is no text to train on", "name sources too")
        share = CorpusConfig.model_fields["validation_fraction"].default
        if self.validation_sources and self.validation_fraction not in (0.0, share):
            fault = "validation_sources are all there is of the validation split"
            yield Problem("validation_fraction", fault, "leave one of the two out")
        elif self.validation_fraction + self.test_fraction >= 1:
            total = f"{self.validation_fraction} + {self.test_fraction}"
            yield Problem(
                "validation_fraction", f"with test_fraction {total} leaves nothing to train on", "lower one"
            )
        if self.is_prepared:
            return
        folder = Path(self.folder) if self.folder else None
        if folder and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            fault = f"{folder} exists and is not prepared data"
            yield Problem("folder", fault, "name another folder, or empty it")
        for key, sources in (("sources", self.sources), ("validation_sources", self.validation_sources)):
            for index, source in enumerate(sources):
                for problem in source.missing():
                    yield Problem(f"{key}.{index}.{problem.key}", problem.fault, problem.remedy)
