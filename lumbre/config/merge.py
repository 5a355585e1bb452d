"""Named parts, bases and `key=value` overrides, merged into one tree."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from lumbre.config.base import Choice, Config, suggest
from lumbre.config.source import read
from lumbre.errors import ConfigError, Problem


def expand(
    kind: type[Config] | None,
    tree: dict[str, Any],
    places: dict[str, str],
    prefix: str,
    room: str,
    search: Sequence[Path],
    seen: tuple[Path, ...],
) -> tuple[dict[str, Any], dict[str, str]]:
    """Replace `base: NAME` and strings that stand where a mapping is expected by the files they name."""
    out: dict[str, Any] = {}
    marks: dict[str, str] = {}
    own = dict(tree)
    kind = member(kind, own)
    if isinstance(own.get("base"), str) and (kind is None or "base" not in kind.model_fields):
        name = own.pop("base")
        out, marks = _named(kind, name, prefix, room, search, seen, places.get(f"{prefix}base", ""))
        kind = member(kind, {**out, **own})
    for key, value in own.items():
        path = f"{prefix}{key}"
        child = _child(kind, key)
        if isinstance(value, str) and child is not None:
            value, found = _named(child, value, f"{path}.", key, search, seen, places.get(path, ""))
            marks |= found
        elif isinstance(value, dict):
            inner = {spot: place for spot, place in places.items() if spot.startswith(f"{path}.")}
            value, found = expand(child, value, inner, f"{path}.", key, search, seen)
            marks |= found
        elif isinstance(value, list):
            marks |= {spot: place for spot, place in places.items() if spot.startswith(f"{path}.")}
        if path in places:
            marks[path] = places[path]
        out[key] = _merge(out.get(key), value)
    return out, marks


def _named(
    kind: type[Config] | None,
    name: str,
    prefix: str,
    room: str,
    search: Sequence[Path],
    seen: tuple[Path, ...],
    place: str,
) -> tuple[dict[str, Any], dict[str, str]]:
    for folder in search:
        file = folder / room / f"{name}.yaml"
        if file.is_file():
            break
    else:
        known = sorted({file.stem for folder in search for file in (folder / room).glob("*.yaml")})
        problem = Problem(
            prefix.rstrip("."), f"there is no configs/{room}/{name}.yaml", suggest(name, known), place
        )
        raise ConfigError([problem])
    if file in seen:
        raise ConfigError([Problem(prefix.rstrip("."), f"{name} is its own base", "break the circle", place)])
    source = read(file)
    places = {f"{prefix}{key}": spot for key, spot in source.places.items()}
    return expand(kind, source.tree, places, prefix, room, search, (*seen, file))


def _merge(under: Any, over: Any) -> Any:
    """Lay a mapping over another; another `type` replaces the whole mapping, for its keys are others."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    if "type" in over and over["type"] != under.get("type", over["type"]):
        return over
    return {**under, **{key: _merge(under.get(key), value) for key, value in over.items()}}


def override(
    kind: type[Config], tree: dict[str, Any], places: dict[str, str], text: str, search: Sequence[Path]
) -> tuple[dict[str, Any], dict[str, str]]:
    key, equals, raw = text.partition("=")
    if not equals or not key or not all(key.split(".")):
        problem = Problem("", f"{text!r} is not an override", "write key.path=value", "command line")
        raise ConfigError([problem])
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(
            [Problem(key, f"{raw!r} is not a YAML value", "quote it", "command line")]
        ) from error
    steps = key.split(".")
    for step in reversed(steps):
        value = {step: value}
    mark = {key: "command line"}
    _check_lists(tree, steps, key)
    layer, marks = expand(kind, _listless(tree, value), mark, "", "", search, ())
    replaced = {spot: place for spot, place in places.items() if not spot.startswith(f"{key}.")}
    return _merge(tree, layer), replaced | marks


def _check_lists(tree: Any, steps: Sequence[str], key: str) -> None:
    for step in steps:
        if isinstance(tree, list):
            if not step.isdigit() or int(step) >= len(tree):
                fault = f"{step!r} is no index of a list of {len(tree)}"
                raise ConfigError([Problem(key, fault, "indices start at 0", "command line")])
            tree = tree[int(step)]
        elif isinstance(tree, dict):
            tree = tree.get(step)
        else:
            return


def _listless(under: Any, over: Any) -> Any:
    """Turn {"0": x} laid over a list into that list with item 0 merged."""
    if isinstance(under, list) and isinstance(over, dict):
        return [
            _merge(item, _listless(item, over[str(i)])) if str(i) in over else item
            for i, item in enumerate(under)
        ]
    if isinstance(under, dict) and isinstance(over, dict):
        return {key: _listless(under.get(key), value) for key, value in over.items()}
    return over


def _child(kind: type[Config] | None, key: str) -> type[Config] | None:
    if kind is None or key not in kind.model_fields:
        return None
    return config_in(kind.model_fields[key].annotation)


def config_in(annotation: Any) -> type[Config] | None:
    """Return the Config that an annotation asks for, unless the annotation also takes a plain string."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    if get_origin(annotation) in (list, tuple, dict) or str in get_args(annotation):
        return None
    found = [inner for inner in map(config_in, get_args(annotation)) if inner is not None]
    return found[0] if found else None


def member(kind: type[Config] | None, tree: Mapping[str, Any]) -> type[Config] | None:
    if kind is not None and issubclass(kind, Choice) and Choice in kind.__bases__:
        return kind.members.get(str(tree.get("type")), kind)
    return kind
