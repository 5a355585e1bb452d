"""Labelled examples: where they come from, by split; one file a source."""

from .base import Example, Examples, ExamplesConfig, Policy
from .conll import ConllConfig
from .hub import HubConfig
from .jsonl import JsonlConfig
from .parallel import ParallelConfig
from .squad import SquadConfig
from .stdlib_functions import StdlibFunctionsConfig
from .table import TableConfig

__all__ = [
    "ConllConfig",
    "Example",
    "Examples",
    "ExamplesConfig",
    "HubConfig",
    "JsonlConfig",
    "ParallelConfig",
    "Policy",
    "SquadConfig",
    "StdlibFunctionsConfig",
    "TableConfig",
]
