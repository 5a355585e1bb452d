"""The standard library's own text as a source."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from lumbre import stdlib

from .base import BadDocument, Document, Part, SourceConfig


class StdlibConfig(SourceConfig):
    """Documentation and source text of the installed standard library: a corpus on every machine."""

    type: Literal["stdlib"] = "stdlib"
    unit: stdlib.Unit = "definition"
    """A document a file (module), or a document a function, class or docstring (definition)."""
    hold_out: bool = True
    """Whether the modules of the shipped fine-tuning task's validation and test splits are left out."""

    def files(self) -> list[Path]:
        return list(_modules(self.hold_out))

    def read(self, path: Path, part: Part) -> Iterator[Document | BadDocument]:
        definitions = stdlib.documents_of(_modules(self.hold_out)[path], path, self.unit)
        for record, definition in enumerate(definitions):
            yield Document(definition.text, part.file, record)


@cache
def _modules(hold_out: bool) -> dict[Path, str]:
    leave_out = stdlib.held_out_modules() if hold_out else frozenset()
    return {path: module for module, path in stdlib.corpus_files(leave_out).items()}
