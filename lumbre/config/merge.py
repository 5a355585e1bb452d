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
            out[key], found = _named(child, value, f"{path}.", key, search, seen, places.get(path, ""))
            marks |= found
            continue
        if isinstance(value, dict):
            inner = {spot: place for spot, place in places.items() if spot.startswith(f"{path}.")}
            value, found = expand(child, value, inner, f"{path}.", key, search, seen)
            marks |= found
        elif isinstance(value, list):
            marks |= {spot: place for spot, place in places.items() if spot.startswith(f"{path}.")}
        if path in places:
            marks[path] = places[path]
        out[key] = _merge(out.get(key), value, child)
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


def _merge(under: Any, over: Any, kind: type[Config] | None) -> Any:
    """Lay a mapping over another, key by key; anything else replaces what was there."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    if "type" in over:
        under = _retyped(under, over["type"], kind)
    kind = member(kind, {**under, **over})
    return {**under, **{key: _merge(under.get(key), over[key], _child(kind, key)) for key in over}}


def _retyped(tree: dict[str, Any], name: Any, kind: type[Config] | None) -> dict[str, Any]:
    """Keep, where another `type` is chosen, only the keys that every member of the choice has."""
    if name == tree.get("type", name):
        return tree
    shared = kind.model_fields if kind is not None and _is_root(kind) else {}
    return {key: value for key, value in tree.items() if key in shared}


def override(
    kind: type[Config], tree: dict[str, Any], places: dict[str, str], text: str, search: Sequence[Path]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tree with `key.path=value` set, and the places with the key's; indices go into lists."""
    key, equals, raw = text.partition("=")
    steps = key.split(".")
    if not equals or not all(steps):
        problem = Problem("", f"{text!r} is not an override", "write key.path=value", "command line")
        raise ConfigError([problem])
    try:
        value = yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise ConfigError(
            [Problem(key, f"{raw!r} is not a YAML value", "quote it", "command line")]
        ) from error
    found = {spot: place for spot, place in places.items() if not spot.startswith(f"{key}.")}
    found[key] = "command line"
    return _set(kind, tree, steps, value, key, search, found), found


def with_default_types(kind: type[Config] | None, tree: Any) -> Any:
    """Return the tree with the `type` of the field's default where a choice's mapping does not say one."""
    if not isinstance(tree, dict):
        return tree
    kind = member(kind, tree)
    out = dict(tree)
    for key, value in tree.items():
        child = _child(kind, key)
        if kind is None or child is None or not isinstance(value, dict):
            continue
        default = kind.model_fields[key].get_default()
        if "type" not in value and isinstance(default, Choice):
            value = {"type": default.type, **value}
        out[key] = with_default_types(child, value)
    return out


def _set(
    kind: type[Config] | None,
    tree: Any,
    steps: Sequence[str],
    value: Any,
    key: str,
    search: Sequence[Path],
    places: dict[str, str],
) -> Any:
    """Return a copy of `tree` with the value at the end of `steps`; what a named file sets goes to places."""
    step, *rest = steps
    if isinstance(tree, list):
        if not step.isdigit() or int(step) >= len(tree):
            fault = f"{step!r} is no index of a list of {len(tree)}"
            raise ConfigError([Problem(key, fault, "indices start at 0", "command line")])
        at = int(step)
        inner = _set(kind, tree[at], rest, value, key, search, places) if rest else value
        return [*tree[:at], inner, *tree[at + 1 :]]
    tree = dict(tree) if isinstance(tree, dict) else {}
    if step == "type" and not rest:
        tree = _retyped(tree, value, kind)
    child = _child(member(kind, tree), step) or _item_kind(member(kind, tree), step)
    if rest:
        value = _set(child, tree.get(step), rest, value, key, search, places)
    elif isinstance(value, str) and child is not None and _child(member(kind, tree), step) is not None:
        value, found = _named(child, value, f"{key}.", step, search, (), "command line")
        places |= found
    elif isinstance(value, dict) and child is not None:
        spots = {f"{key}.base": "command line"}
        value, found = expand(child, value, spots, f"{key}.", step, search, ())
        places |= found
    return {**tree, step: value}


def _item_kind(kind: type[Config] | None, key: str) -> type[Config] | None:
    """Return the Config that a list's items are, for a key whose value is a list."""
    if kind is None or key not in kind.model_fields:
        return None
    return next(filter(None, map(config_in, get_args(kind.model_fields[key].annotation))), None)


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
    """Return the class that the tree's `type` picks, where the kind is a choice."""
    if kind is not None and _is_root(kind):
        assert issubclass(kind, Choice)
        return kind.members.get(str(tree.get("type")), kind)
    return kind


def _is_root(kind: type[Config]) -> bool:
    return issubclass(kind, Choice) and Choice in kind.__bases__
