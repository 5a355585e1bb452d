"""The standard library's own text as a source."""

from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field

from lumbre import stdlib
from lumbre.errors import Problem

from .base import BadDocument, Document, Part, SourceConfig


class StdlibConfig(SourceConfig):
    """Documentation and source text of the installed standard library: a corpus on every machine."""

    type: Literal["stdlib"] = "stdlib"
    unit: stdlib.Unit = "definition"
    """A document a file (module), or a document a function, class or docstring (definition)."""
    hold_out: bool = True
    """Whether the modules of the shipped fine-tuning task's validation and test splits are left out."""
    packages: list[str] = Field(default_factory=list)
    """The packages, and modules outside any, that are read (`email`, `argparse`); none: all."""

    def missing(self) -> Iterator[Problem]:
        there = sorted({module.partition(".")[0] for module in _modules(self.hold_out).values()})
        for index, package in enumerate(self.packages):
            if package not in there:
                close = ", ".join(get_close_matches(package, there)) or ", ".join(there[:20]) + ", ..."
                yield Problem(f"packages.{index}", f"{package} has no text here", f"there are {close}")

    def files(self) -> list[Path]:
        modules = _modules(self.hold_out)
        return [
            path
            for path, module in modules.items()
            if not self.packages or module.partition(".")[0] in self.packages
        ]

    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        definitions = stdlib.documents_of(_modules(self.hold_out)[path], path, self.unit)
        for record, definition in enumerate(definitions):
            yield Document(definition.text, part.file, record)


@cache
def _modules(hold_out: bool) -> dict[Path, str]:
    leave_out = stdlib.held_out_modules() if hold_out else frozenset()
    return {path: module for module, path in stdlib.corpus_files(leave_out).items()}
