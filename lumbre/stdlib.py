"""The built-in corpus: documentation and source text of the installed standard library.

It is also a task: which package does a function come from? The task is split by module, so that no test
module's style is seen in training, and `held_out_modules` names what pretraining has to leave out.
"""

import ast
import hashlib
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Unit = Literal["module", "definition"]
Split = Literal["train", "validation", "test"]
Function = ast.FunctionDef | ast.AsyncFunctionDef

PACKAGES = (
    "asyncio",
    "email",
    "http",
    "importlib",
    "logging",
    "multiprocessing",
    "unittest",
    "urllib",
    "wsgiref",
    "xml",
)
"""The labels of the task: packages that every Python 3.11 has, each with enough modules to split."""

LEFT_OUT = frozenset(
    {
        "__phello__",
        "__pycache__",
        "dist-packages",
        "encodings",
        "ensurepip",
        "idlelib",
        "lib-dynload",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
"""Folders that some systems lack, that are not the library's, or that hold tables alone (`encodings`)."""

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MIN_LINES = 4
MIN_CHARACTERS = 80
WHOLE_CLASS_LINES = 40
"""A class up to this size is one document; a larger one is its head and a document a method."""

HELD_OUT_SHARES: tuple[tuple[Split, float], ...] = (("test", 0.2), ("validation", 0.12))


@dataclass(frozen=True)
class Definition:
    """A piece of a module: its docstring, a function, a method, or a class (large: without its methods)."""

    module: str
    name: str
    """Qualified name within the module, "" for the module's docstring or its whole text."""
    text: str


@dataclass(frozen=True)
class LabelledFunction:
    """A function's text and the package that it comes from."""

    text: str
    label: str
    module: str


def root() -> Path:
    """Return the folder of the installed standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def module_files(packages: Collection[str] = ()) -> dict[str, Path]:
    """Return the file of each module, by dotted name, sorted; of `packages` alone if any is named."""
    top = root()
    files = {}
    for path in sorted(top.rglob("*.py")):
        parts = path.relative_to(top).with_suffix("").parts
        if LEFT_OUT.intersection(parts) or parts[0].startswith(("config-", "_sysconfigdata")):
            continue
        if not packages or parts[0] in packages:
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def topics_file() -> Path | None:
    """Return the file of the language's help topics, where the system has it."""
    path = root() / "pydoc_data" / "topics.py"
    return path if path.is_file() else None


def corpus_files(leave_out: Collection[str] = ()) -> dict[str, Path]:
    """Return the files of the corpus by module name, without the modules in `leave_out`; topics come last."""
    files = {module: path for module, path in module_files().items() if module not in leave_out}
    topics = topics_file()
    return files | ({"pydoc_data.topics": topics} if topics else {})


def documents(unit: Unit, leave_out: Collection[str] = ()) -> Iterator[Definition]:
    """Yield the corpus in a fixed order: a document a file, or a document a definition."""
    for module, path in corpus_files(leave_out).items():
        yield from documents_of(module, path, unit)


def documents_of(module: str, path: Path, unit: Unit) -> Iterator[Definition]:
    """Yield the documents of one file of the corpus; help topics are a document each whatever the unit.

    Raises OSError and UnicodeDecodeError where the file cannot be read, SyntaxError where it is not Python.
    """
    source = _read(path)
    if path.parent.name == "pydoc_data":
        for name, text in _topics(source).items():
            yield Definition(module, name, text)
    elif unit == "module":
        yield Definition(module, "", source)
    else:
        tree = _parse(source)
        docstring = ast.get_docstring(tree)
        if docstring and len(docstring) >= MIN_CHARACTERS:
            yield Definition(module, "", docstring)
        yield from _definitions(module, tree, source.splitlines(keepends=True))


@cache
def labelled_functions(packages: tuple[str, ...] = PACKAGES) -> dict[Split, tuple[LabelledFunction, ...]]:
    """Return the functions of each split, labelled with their package, in a fixed order.

    Of functions with the same text one stays. A validation or test function whose text also stands in a
    module that pretraining may read is left out, so that no text of these splits is ever pretrained on.
    """
    split_of = _split_of_module(packages)
    functions = {
        module: [definition.text for definition in _functions(module, path)]
        for module, path in module_files().items()
    }
    elsewhere = {text for module, texts in functions.items() if module not in split_of for text in texts}
    out: dict[Split, tuple[LabelledFunction, ...]] = {}
    taken: set[str] = set()
    for split in SPLITS:
        kept = {
            text: LabelledFunction(text, module.split(".", maxsplit=1)[0], module)
            for module in sorted(module for module, its in split_of.items() if its == split)
            for text in functions[module]
            if text not in taken
        }
        out[split] = tuple(kept.values())
        taken |= kept.keys() | elsewhere
    return out


def held_out_modules(packages: tuple[str, ...] = PACKAGES) -> frozenset[str]:
    """Return the modules of the task's validation and test splits."""
    return frozenset(module for module, split in _split_of_module(packages).items() if split != "train")


@cache
def _split_of_module(packages: tuple[str, ...]) -> dict[str, Split]:
    """Return the split of each module with functions: by hash, each package in every split."""
    sizes: dict[str, dict[str, int]] = {package: {} for package in packages}
    for module, path in module_files(packages).items():
        if count := sum(1 for _ in _functions(module, path)):
            sizes[module.split(".", maxsplit=1)[0]][module] = count
    out: dict[str, Split] = {}
    for size in sizes.values():
        free = sorted(size, key=lambda module: hashlib.sha256(module.encode()).digest())
        for split, share in HELD_OUT_SHARES:
            for module in _held_out(free, size, share * sum(size.values())):
                free.remove(module)
                out[module] = split
        out |= dict.fromkeys(free, "train")
    return out


def _held_out(free: Sequence[str], size: dict[str, int], wanted: float) -> list[str]:
    """Return modules in the given order that hold about `wanted` functions together, at least one module."""
    chosen: list[str] = []
    for module in free:
        if sum(size[one] for one in [*chosen, module]) <= 1.25 * wanted:
            chosen.append(module)
    return chosen or [min(free, key=lambda module: size[module])]


def _read(path: Path) -> str:
    with tokenize.open(path) as file:
        return file.read()


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the library's own strings
        return ast.parse(source)


def _topics(source: str) -> dict[str, str]:
    for node in _parse(source).body:
        if isinstance(node, ast.Assign):
            topics = ast.literal_eval(node.value)
            assert isinstance(topics, dict)
            return {name: textwrap.dedent(text).strip() for name, text in sorted(topics.items())}
    return {}


def _functions(module: str, path: Path) -> Iterator[Definition]:
    source = _read(path)
    lines = source.splitlines(keepends=True)
    for name, node in _children(_parse(source), ""):
        if isinstance(node, Function):
            text = _text(lines, node, node.end_lineno)
            if text.count("\n") + 1 >= MIN_LINES:
                yield Definition(module, name, text)


def _definitions(module: str, tree: ast.Module, lines: list[str]) -> Iterator[Definition]:
    inside_until = 0
    for name, node in _children(tree, ""):
        assert node.end_lineno is not None
        if node.end_lineno <= inside_until:
            continue
        end = node.end_lineno
        if isinstance(node, ast.ClassDef):
            methods = [one for _, one in _children(node, "")]
            if end - node.lineno + 1 > WHOLE_CLASS_LINES and methods:
                end = _start(methods[0]) - 1
            else:
                inside_until = end
        text = _text(lines, node, end)
        if text.count("\n") + 1 >= MIN_LINES and len(text) >= MIN_CHARACTERS:
            yield Definition(module, name, text)


def _children(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Yield functions and classes in the order of the source, methods too, but nothing inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            yield f"{prefix}{child.name}", child
        if isinstance(child, ast.ClassDef):
            yield from _children(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _children(child, prefix)


def _start(node: Function | ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _text(lines: list[str], node: Function | ast.ClassDef, end: int | None) -> str:
    return textwrap.dedent("".join(lines[_start(node) - 1 : end])).rstrip()
