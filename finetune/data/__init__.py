"""Labelled examples: where they come from, by split; one file a source."""

from .base import Example, Examples, ExamplesConfig
from .jsonl import JsonlConfig
from .stdlib_functions import StdlibFunctionsConfig

__all__ = ["Example", "Examples", "ExamplesConfig", "JsonlConfig", "StdlibFunctionsConfig"]
