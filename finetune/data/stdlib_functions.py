"""Functions of the installed standard library, labelled with the package that they come from."""

from typing import Literal

from lumbre import stdlib

from .base import Examples, ExamplesConfig


class StdlibFunctionsConfig(ExamplesConfig):
    """Functions of the installed standard library, labelled with their package and split by module."""

    type: Literal["stdlib_functions"] = "stdlib_functions"
    """The data's name."""

    def read(self) -> Examples:
        """Return records with `text`, `label` and `module`."""
        return {
            split: [{"text": one.text, "label": one.label, "module": one.module} for one in functions]
            for split, functions in stdlib.labelled_functions().items()
        }
