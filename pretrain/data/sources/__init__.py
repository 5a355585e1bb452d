"""Raw documents: where they come from, in a fixed order, by ranges of the input; one file a format."""

from .arrow import ArrowConfig
from .base import BadDocument, Document, Part, SourceConfig
from .builtin import StdlibConfig
from .csv import CsvConfig
from .hub import HubConfig
from .jsonl import JsonlConfig
from .parquet import ParquetConfig
from .text import TextConfig

__all__ = [
    "ArrowConfig",
    "BadDocument",
    "CsvConfig",
    "Document",
    "HubConfig",
    "JsonlConfig",
    "ParquetConfig",
    "Part",
    "SourceConfig",
    "StdlibConfig",
    "TextConfig",
]
