"""The runs that one config asks for: its seeds, its starts and the points of its grid."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from lumbre.config import Config
from lumbre.errors import ConfigError, Problem

from .config import FinetuneConfig, with_value


@dataclass(frozen=True)
class Variant:
    """One of the runs that a config asks for."""

    start: str
    """ "pretrained" or "scratch"."""
    config: FinetuneConfig
    asked: FinetuneConfig
    """The config that asks for this run, perhaps among others."""
    point: Mapping[str, Any]
    """The grid's values of this run, by key."""

    @property
    def title(self) -> str:
        """The run's name among the runs of every other config."""
        alone = self.config.folder == self.asked.folder
        return self.config.name if alone else f"{self.asked.name}/{self.config.name}"


def variants(config: FinetuneConfig) -> list[Variant]:
    """Return the runs that seeds, grid and comparison ask for; a single one is the run folder itself.

    Raises ConfigError for a value of the grid that its key does not take.
    """
    starts = ["pretrained", "scratch"] if config.compare_with_scratch else ["pretrained"]
    if config.model.from_scratch:
        starts = ["scratch"]
    seeds = config.seeds or [config.seed]
    points = [dict(zip(config.grid, values, strict=True)) for values in product(*config.grid.values())]
    if len(seeds) * len(starts) * len(points) == 1 and not config.grid:
        return [Variant(starts[0], config.model_copy(update={"seed": seeds[0]}), config, {})]
    return [
        Variant(start, _alone(config, start, seed, point), config, point)
        for point in points
        for seed in seeds
        for start in starts
    ]


def _alone(config: FinetuneConfig, start: str, seed: int, point: Mapping[str, Any]) -> FinetuneConfig:
    values = "".join(f"{key.rpartition('.')[2]}-{value}-" for key, value in point.items())
    one = config.model_copy(
        update={
            "name": f"{start}-{values}seed-{seed}",
            "runs_folder": str(config.folder),
            "seed": seed,
            "seeds": [],
            "grid": {},
            "compare_with_scratch": False,
            "model": config.model.model_copy(update={"from_scratch": start == "scratch"}),
        }
    )
    return _set(one, point)


def _set(config: FinetuneConfig, point: Mapping[str, Any]) -> FinetuneConfig:
    """Return the config with the point's values, checked as if they stood in the file."""
    updates: dict[str, Config] = {}
    problems: list[Problem] = []
    for key, value in point.items():
        group = key.partition(".")[0]
        try:
            updates[group] = with_value(updates.get(group, getattr(config, group)), key, value)
        except ConfigError as error:
            problems += error.problems
    changed = config.model_copy(update=updates)
    if point and not problems:
        problems += changed.all_problems()
    if problems:
        raise ConfigError(problems)
    return changed
