"""Config and Choice: typed groups of keys, and the one registry of the house."""

import builtins
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import PydanticCustomError

from lumbre.errors import Problem

SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
"""Names of what does not belong in a file."""


class Config(BaseModel):
    """A frozen, typed group of keys; an unknown key is an error. The string under a field is its doc."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
        protected_namespaces=(),
        validate_default=True,
        allow_inf_nan=False,
    )

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong between fields that are each right; keys are relative to this group."""
        yield from ()

    def all_problems(self, prefix: str = "") -> Iterator[Problem]:
        """Yield the problems of this group and of every group below it, with full keys."""
        for problem in self.problems():
            yield replace(problem, key=f"{prefix}{problem.key}" if problem.key else prefix.rstrip("."))
        for name in type(self).model_fields:
            value = getattr(self, name)
            for key, item in _groups(name, value):
                yield from item.all_problems(f"{prefix}{key}.")


class Choice(Config):
    """A config whose key `type` picks the class.

    A direct subclass is a root with a registry `members` of its own; a subclass of the root joins it by
    declaring `type: Literal["name"] = "name"`. Annotate a field with the root to accept any member.
    """

    members: ClassVar[dict[str, builtins.type["Choice"]]] = {}

    type: str
    """Which member of the choice."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if Choice in cls.__bases__:
            cls.members = {}
        elif isinstance(name := cls.model_fields["type"].default, str):
            cls.members[name] = cls

    @model_validator(mode="wrap")
    @classmethod
    def _pick(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if Choice not in cls.__bases__ or isinstance(value, cls):
            return handler(value)
        known = sorted(cls.members)
        if not isinstance(value, Mapping):
            raise PydanticCustomError(
                "choice_mapping",
                "expected a mapping with the key 'type', got {value}",
                {"value": repr(value), "remedy": f"type is one of {', '.join(known)}"},
            )
        name = value.get("type")
        if name not in cls.members:
            fault = "'type' is missing" if name is None else f"unknown type {name!r}"
            raise PydanticCustomError(
                "choice_type", "{fault}", {"fault": fault, "remedy": suggest(str(name), known), "at": "type"}
            )
        return cls.members[name].model_validate(value)  # type: ignore[return-value]


def _groups(name: str, value: Any) -> Iterator[tuple[str, Config]]:
    if isinstance(value, Config):
        yield name, value
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _groups(f"{name}.{index}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _groups(f"{name}.{key}", item)


def suggest(word: str, known: Sequence[str], lead: str = "use ") -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"{lead}one of {', '.join(known)}" if known else ""
