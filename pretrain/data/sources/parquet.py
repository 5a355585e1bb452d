"""Apache Parquet, by row groups (https://parquet.apache.org/docs/file-format)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from .blocks import ROWS_AT_ONCE, Blocks, BlocksConfig, named_damage

BUFFER_BYTES = 1 << 20
"""Bytes of a column read at once; by default pyarrow holds a whole row group's."""


class ParquetConfig(BlocksConfig):
    """A Parquet file's rows, the text in one of its columns."""

    type: Literal["parquet"] = "parquet"

    @property
    def endings(self) -> tuple[str, ...]:
        return (".parquet", ".pq")

    @property
    def block(self) -> str:
        return "row group"

    @contextmanager
    def opened(self, path: Path) -> Iterator[Blocks]:
        from pyarrow import parquet

        with named_damage("unreadable file"):
            file = parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
            schema = file.schema_arrow
        with file:
            self.index_of_text(schema)
            yield _RowGroups(file, self.text_field)


class _RowGroups:
    def __init__(self, file: Any, name: str) -> None:
        self._file = file
        self._name = name

    @property
    def count(self) -> int:
        return int(self._file.num_row_groups)

    def columns(self, start: int, stop: int) -> Iterator[tuple[int, Iterator[Any]]]:
        for group in range(start, stop):
            yield group, self._column(group)

    def _column(self, group: int) -> Iterator[Any]:
        for batch in self._file.iter_batches(
            batch_size=ROWS_AT_ONCE, row_groups=[group], columns=[self._name], use_threads=False
        ):
            yield batch.column(0)
