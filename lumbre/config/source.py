"""A YAML file as read, with the line that set each key."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lumbre.config.base import suggest
from lumbre.errors import ConfigError, Problem


@dataclass(frozen=True)
class Source:
    """A YAML file as read: the tree, and for each dotted key the place that set it."""

    tree: dict[str, Any]
    places: dict[str, str]


def read(file: Path) -> Source:
    """Parse one YAML file; raises ConfigError when it is missing, no YAML, or not a mapping."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError([Problem("", f"cannot be read: {error.strerror}", place=str(file))]) from error
    except UnicodeDecodeError as error:
        fault = f"is not UTF-8 text (byte {error.start})"
        raise ConfigError([Problem("", fault, "save the file as UTF-8", str(file))]) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        fault = f"is not valid YAML: {error.problem or error.context}"
        has_tab = "\\t" in fault
        remedy = "indent with spaces, YAML takes no tab" if has_tab else "check indentation and quotes there"
        raise ConfigError([Problem("", fault, remedy, f"{file}:{line}")]) from error
    except yaml.YAMLError as error:
        raise ConfigError([Problem("", f"is not valid YAML: {error}", place=str(file))]) from error
    if not isinstance(tree, dict) or not isinstance(node, yaml.MappingNode):
        got = "nothing" if tree is None else f"a {type(tree).__name__}"
        remedy = "write `key: value` lines, such as `name: my-run`"
        raise ConfigError([Problem("", f"a mapping is expected at the top, got {got}", remedy, str(file))])
    places: dict[str, str] = {}
    problems = list(_mark(node, "", str(file), places))
    if problems:
        raise ConfigError(problems)
    return Source(tree, places)


def find(name: str, room: str) -> Path:
    """Return the file for a path or for a shipped config's name; raises ConfigError when there is none."""
    path = Path(name)
    if path.is_file():
        return path
    looked = search_path(None)
    if not path.suffix:
        for folder in looked:
            if (folder / room / f"{name}.yaml").is_file():
                return folder / room / f"{name}.yaml"
    known = sorted({file.stem for folder in looked for file in (folder / room).glob("*.yaml")})
    near = sorted(path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    remedy = suggest(path.stem, known or [file.stem for file in near], "give a path, or a name: ")
    raise ConfigError([Problem("", "no such config file", remedy, name)])


def search_path(file: Path | None) -> list[Path]:
    folders = [file.resolve().parent.parent] if file is not None else []
    folders += [Path("configs"), Path(__file__).resolve().parent.parent.parent / "configs"]
    folders += [Path(__file__).resolve().parent.parent / "configs"]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _mark(node: yaml.MappingNode, prefix: str, file: str, places: dict[str, str]) -> Iterator[Problem]:
    seen: set[str] = set()
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        places[key] = f"{file}:{key_node.start_mark.line + 1}"
        if key_node.value in seen:
            yield Problem(key, "the key stands twice", "keep one of the two", places[key])
        seen.add(key_node.value)
        if isinstance(value_node, yaml.MappingNode):
            yield from _mark(value_node, f"{key}.", file, places)
        elif isinstance(value_node, yaml.SequenceNode):
            for index, item in enumerate(value_node.value):
                places[f"{key}.{index}"] = f"{file}:{item.start_mark.line + 1}"
                if isinstance(item, yaml.MappingNode):
                    yield from _mark(item, f"{key}.{index}.", file, places)
