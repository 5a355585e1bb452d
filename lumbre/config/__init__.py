"""Typed configs: a YAML file, named parts and `key=value` overrides become one checked object.

A config class stands beside what it builds. `Choice` is the one registry of the house: the YAML key
`type` picks a member. `load` reports every problem at once, each with file, key, fault and remedy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError

from lumbre.config.base import SECRET, Choice, Config
from lumbre.config.explain import explain
from lumbre.config.merge import expand, override, with_default_types
from lumbre.config.source import find, read, search_path
from lumbre.errors import ConfigError, Problem

__all__ = ["SECRET", "Choice", "Config", "dump", "find", "load", "read"]

C = TypeVar("C", bound=Config)


def load(kind: type[C], path: str | Path, overrides: Sequence[str] = (), *, room: str = "") -> C:
    """Read a run's YAML, merge its named parts and the overrides, and return the checked config.

    `path` is a file, or the NAME of a shipped config in `configs/ROOM/NAME.yaml`. A string where a
    mapping is expected names a file of the room with the key's name (`model: bert-tiny` is
    `configs/model/bert-tiny.yaml`); a mapping may say `base: NAME`. Overrides are `key.path=value`.

    Raises ConfigError with every problem found.
    """
    file = find(str(path), room)
    source = read(file)
    search = search_path(file)
    tree, places = expand(kind, source.tree, source.places, "", room, search, (file,))
    problems: list[Problem] = []
    for text in overrides:
        try:
            tree, places = override(kind, tree, places, text, search)
        except ConfigError as error:
            problems += error.problems
    tree = with_default_types(kind, tree)
    try:
        config = kind.model_validate(tree)
    except ValidationError as error:
        problems += explain(kind, tree, error)
    else:
        problems += config.all_problems()
    if problems:
        raise ConfigError([_placed(problem, places, str(file)) for problem in problems])
    return config


def dump(config: Config) -> str:
    """Return the config as YAML, every default written out; `load` reads it back to an equal config."""
    tree = config.model_dump(mode="json", serialize_as_any=True)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)


def _placed(problem: Problem, places: Mapping[str, str], file: str) -> Problem:
    if problem.place:
        return problem
    parts = problem.key.split(".") if problem.key else []
    for size in range(len(parts), 0, -1):
        key = ".".join(parts[:size])
        place = places.get(key) or next((places[spot] for spot in places if spot.startswith(f"{key}.")), "")
        if place:
            return replace(problem, place=place)
    return replace(problem, place=file)
