"""Apache Arrow files and streams, by record batches (https://arrow.apache.org/docs/format/Columnar.html)."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from .blocks import Blocks, BlocksConfig, named_damage

FILE_MAGIC = b"ARROW1"


class ArrowConfig(BlocksConfig):
    """An Arrow file's rows, the text in one of its columns; `datasets` keeps its data so."""

    type: Literal["arrow"] = "arrow"

    @property
    def endings(self) -> tuple[str, ...]:
        return (".arrow", ".feather", ".arrows")

    @property
    def block(self) -> str:
        return "record batch"

    @contextmanager
    def opened(self, path: Path) -> Iterator[Blocks]:
        import pyarrow as pa

        with named_damage("unreadable file"):
            mapped = pa.memory_map(str(path))
        with mapped:
            is_file = mapped.read(len(FILE_MAGIC)) == FILE_MAGIC
            with named_damage("unreadable file"):
                blocks = _File(mapped) if is_file else _Stream(mapped)
            blocks.text_index = self.index_of_text(blocks.schema)
            yield blocks


class _File:
    """The file format, whose footer tells where each batch stands."""

    def __init__(self, mapped: Any) -> None:
        self._mapped = mapped
        reader = self._reader()
        self.schema = reader.schema
        self.count = int(reader.num_record_batches)
        self.text_index = 0

    def columns(self, start: int, stop: int) -> Iterator[tuple[int, Iterator[Any]]]:
        reader = self._reader(included_fields=[self.text_index])
        for number in range(start, stop):
            yield number, (reader.get_batch(one).column(0) for one in (number,))

    def _reader(self, **options: Any) -> Any:
        from pyarrow import ipc

        return ipc.open_file(self._mapped, options=ipc.IpcReadOptions(use_threads=False, **options))


class _Stream:
    """The stream format, which is read from its start; the map makes passing over a batch cheap."""

    def __init__(self, mapped: Any) -> None:
        self._mapped = mapped
        reader = self._reader()
        self.schema = reader.schema
        self.count = sum(1 for _ in reader)
        self.text_index = 0

    def columns(self, start: int, stop: int) -> Iterator[tuple[int, Iterator[Any]]]:
        batches = self._reader(included_fields=[self.text_index])
        for number, batch in enumerate(islice(batches, start, stop), start):
            yield number, iter((batch.column(0),))

    def _reader(self, **options: Any) -> Any:
        from pyarrow import ipc

        self._mapped.seek(0)
        return ipc.open_stream(self._mapped, options=ipc.IpcReadOptions(use_threads=False, **options))
