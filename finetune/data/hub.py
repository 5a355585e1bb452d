"""A data set of the Hugging Face hub (Lhoest et al., 2021, arXiv:2109.02846), or a folder in its form."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lumbre.errors import DataError, Problem
from lumbre.hub_cache import dataset_problems

from .base import Example, Examples, ExamplesConfig

PROBE_SECONDS = 10.0
"""How long the hub may take to say that it is there."""


class HubConfig(ExamplesConfig):
    """A data set of the Hugging Face hub, downloaded once and kept in its cache."""

    type: Literal["hub"] = "hub"
    """The data's name."""
    name: str
    """The data set: OWNER/NAME, or a folder that holds one."""
    subset: str | None = None
    """Which of the data set's configurations, such as sst2 of nyu-mll/glue."""
    revision: str | None = None
    """A commit, tag or branch; state a commit to get the same records on another day."""
    train: str = "train"
    """Its split to train on; `train[:1000]` is a part of one."""
    validation: str | None = None
    """Its split to validate on; left out, validation_share is drawn from the training split."""
    test: str | None = None
    """Its split to test on; left out, there is none."""
    label_names: bool = False
    """Whether classes are given by their names, None for no class, instead of their numbers."""

    def problems(self) -> Iterator[Problem]:
        """Report a data set that an offline cluster lacks."""
        yield from super().problems()
        yield from dataset_problems(self.name, "name")

    @property
    def has_validation(self) -> bool:
        return self.validation is not None

    def read(self) -> Examples:
        """Return the rows of each split; raises DataError within seconds where there is no network."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        absence = "" if Path(self.name).exists() else _absence(self.name)
        with _offline(bool(absence)):
            return {split: self._rows(name, absence) for split, name in splits.items() if name is not None}

    def _rows(self, split: str, absence: str) -> list[Example]:
        from datasets import load_dataset

        try:
            table = load_dataset(self.name, self.subset, split=split, revision=self.revision)
        except Exception as error:  # each file format and network library raises its own
            what = str(error).strip().split("\n")[0] or type(error).__name__
            if absence:
                what = f"the hub is out of reach ({absence}), and its cache has no such data"
            remedy = "check data (name, subset, revision, train, validation, test) and the network"
            raise DataError(
                f"hub:{self.name}: {what}; {remedy}, or download it and name its files (type: jsonl, table)"
            ) from error
        names = _namers(table.features) if self.label_names else {}
        return [{key: names.get(key, _same)(value) for key, value in row.items()} for row in table]


def _absence(name: str) -> str:
    """Return why the hub does not answer, "" where it does.

    It is asked once: its libraries ask again for half a minute.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(name, timeout=PROBE_SECONDS)
    except HfHubHTTPError:
        return ""  # an answer, which loading explains
    except Exception as error:  # the network library in use raises its own
        return str(error).strip().split("\n")[0] or type(error).__name__
    return ""


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Have the hub's libraries use their cache alone."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if offline:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _same(value: Any) -> Any:
    return value


def _namers(features: Any) -> dict[str, Callable[[Any], Any]]:
    """Return for each field of classes, or of lists of them, what turns its value into names."""
    from datasets import ClassLabel

    def name_of(kind: Any) -> Callable[[Any], Any]:
        return lambda number: None if number is None or number < 0 else kind.int2str(number)

    def names_of(kind: Any) -> Callable[[Any], Any]:
        one = name_of(kind)
        return lambda numbers: None if numbers is None else [one(number) for number in numbers]

    namers = {}
    for key, kind in features.items():
        if isinstance(kind, ClassLabel):
            namers[key] = name_of(kind)
        elif isinstance(getattr(kind, "feature", None), ClassLabel):
            namers[key] = names_of(kind.feature)
    return namers
