"""Every format of a file: how the tests write texts in it."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow as pa
from pyarrow import ipc, parquet

from pretrain.data.preparation.corpus import Corpus
from pretrain.data.skips import Skips
from pretrain.data.sources import ArrowConfig, CsvConfig, JsonlConfig, ParquetConfig, TextConfig

PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda raw: pa.compress(raw, codec="zstd", asbytes=True),
}


def json_lines(texts):
    return "".join(json.dumps({"id": 1, "text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def csv_rows(texts):
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["id", "text"], *([index, text] for index, text in enumerate(texts))])
    return out.getvalue().encode()


def table(texts, kind=None):
    return pa.table({"id": range(len(texts)), "text": pa.array(texts, kind or pa.string())})


def write_table(path, table, rows):
    """Write by the ending: Parquet, the Arrow file format, or its stream format; `rows` a block."""
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=rows)
        return
    opened = ipc.new_file if path.suffix == ".arrow" else ipc.new_stream
    with opened(str(path), table.schema) as sink:
        sink.write_table(table, max_chunksize=rows)


def write(folder, name, texts, rows=7):
    """Write the texts to the file NAME and return the source that reads it."""
    path = folder / name
    kind, _, packed = name.partition(".")[2].partition(".")
    if kind in ("parquet", "arrow", "arrows"):
        write_table(path, table(texts), rows)
    else:
        make = {"txt": lambda texts: "\n".join(texts).encode(), "jsonl": json_lines, "csv": csv_rows}[kind]
        raw = make(texts)
        path.write_bytes(PACK[packed](raw) if packed else raw)
    return config_of(path)


def config_of(path):
    """Return the source that reads a file, by its ending; a CSV file named flat has no line breaks."""
    kind, keys = path.name.split(".")[1], {"paths": [str(path)]}
    match kind:
        case "txt":
            return TextConfig(documents="line", **keys)
        case "csv":
            return CsvConfig(multiline=not path.name.startswith("flat"), **keys)
        case "jsonl":
            return JsonlConfig(**keys)
        case "parquet":
            return ParquetConfig(**keys)
    return ArrowConfig(**keys)


def read(source, unit_bytes=1 << 20, on_bad_document="error"):
    """Return the texts of a source and the skips by reason."""
    corpus, skips = Corpus([source]), Skips(on_bad_document)
    texts = [document.text for unit in corpus.units(unit_bytes) for document in corpus.read(unit, skips)]
    return texts, {reason: skip.count for reason, skip in skips.by_reason.items()}


TABLES = ["a.parquet", "a.arrow", "a.arrows"]
PLAIN = ["a.txt", "a.jsonl", "a.csv", "flat.csv", *TABLES]
NAMES = [*PLAIN, *(f"a.{kind}.{packed}" for kind in ("txt", "jsonl", "csv") for packed in PACK)]
