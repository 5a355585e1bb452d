"""Pydantic's complaints as problems that teach."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lumbre.config.base import SECRET, Config, suggest
from lumbre.config.merge import config_in, member
from lumbre.errors import Problem

FORMS = ("literal[", "constrained-")
"""How pydantic names a form of a value in an error's place."""
BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
ALIASES = {"bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}
"""What other tools call a value of ours."""


def explain(kind: type[Config], tree: Mapping[str, Any], error: ValidationError) -> Iterator[Problem]:
    """Yield a problem with key, fault and remedy for each of the validation's errors.

    A value of several forms has an error for each form, which are told as one.
    """
    problems: dict[str, Problem] = {}
    for number, detail in enumerate(error.errors()):
        forms = str(detail["loc"][-1]).startswith(FORMS) if detail["loc"] else False
        problem = _problem(kind, tree, {**detail, "loc": detail["loc"][:-1]} if forms else detail)
        place = problem.key if forms else f"{problem.key} {number}"
        before = problems.get(place)
        if before is not None:
            fault = f"{before.fault.rsplit(', got ', 1)[0]}, or {problem.fault}"
            problem = replace(before, fault=fault)
        problems[place] = problem
    yield from problems.values()


def _problem(kind: type[Config], tree: Mapping[str, Any], detail: ErrorDetails) -> Problem:
    path = [str(part) for part in detail["loc"] if not str(part).startswith(("function-", "lax-or"))]
    context = detail.get("ctx", {})
    key = ".".join(path)
    holder = _holder(kind, tree, path[:-1])
    match detail["type"]:
        case "extra_forbidden" if SECRET.search(path[-1]):
            remedy = "export it in your shell, as WANDB_API_KEY or HF_TOKEN; the job inherits it"
            return Problem(key, "unknown key, and a secret does not belong in a file", remedy)
        case "extra_forbidden":
            return Problem(key, "unknown key", suggest(path[-1], list(holder.model_fields) if holder else []))
        case "missing":
            field = holder.model_fields.get(path[-1]) if holder else None
            return Problem(
                key, "this key is required", (field.description or "").split("\n")[0] if field else ""
            )
        case "choice_type":
            return Problem(f"{key}.type".lstrip("."), context["fault"], context["remedy"])
        case "choice_mapping":
            return Problem(key, detail["msg"], context["remedy"])
        case "model_type":
            return Problem(
                key, f"expected a mapping, got {detail['input']!r}", "write `key: value` lines below it"
            )
    fault = detail["msg"].replace("Input should be", "should be").replace("Value error, ", "")
    return Problem(key, f"{fault}, got {detail['input']!r}", _remedy(detail, holder))


def _remedy(detail: ErrorDetails, holder: type[Config] | None) -> str:
    """Return what a bound counts, the value that was meant, or nothing that the fault does not say."""
    given = detail["input"]
    match detail["type"]:
        case kind if kind in BOUNDS:
            return _doc(detail, holder)
        case "int_parsing" if isinstance(given, str):
            with suppress(ValueError):
                if float(given).is_integer():
                    return f"YAML reads {given} as a text: write {float(given):.0f}"
        case "literal_error" if isinstance(given, bool):
            return "YAML reads no, off, yes and on as false and true: quote the word that is meant"
        case "literal_error" if isinstance(given, str):
            known = re.findall(r"'([^']+)'", str(detail.get("ctx", {}).get("expected", "")))
            if ALIASES.get(given) in known:
                return f"did you mean {ALIASES[given]!r}?"
            near = suggest(given, known)
            return near if near.startswith("did you mean") else _doc(detail, holder)
    return ""


def _doc(detail: ErrorDetails, holder: type[Config] | None) -> str:
    """Return the first line of the field's documentation, as the end of a sentence."""
    field = holder.model_fields.get(str(detail["loc"][-1])) if holder else None
    doc = (field.description or "").split("\n")[0].rstrip(".") if field else ""
    return f"{doc[:1].lower()}{doc[1:]}"


def _holder(kind: type[Config] | None, tree: Any, path: Sequence[str]) -> type[Config] | None:
    """Return the config class that holds the key below `path`, following each `type` in the tree."""
    for part in path:
        if kind is not None and part in kind.model_fields:
            annotation = kind.model_fields[part].annotation
            kind = config_in(annotation) or next(filter(None, map(config_in, get_args(annotation))), None)
        elif not part.isdigit():
            return None
        tree = _item(tree, part)
        kind = member(kind, tree) if isinstance(tree, Mapping) else kind
    return kind


def _item(tree: Any, part: str) -> Any:
    if isinstance(tree, Mapping):
        return tree.get(part)
    if isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
        return tree[int(part)]
    return None
