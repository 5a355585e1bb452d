"""Packing: every token stands in one row, documents keep their bounds, and a row is a pure function."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lumbre.errors import DataError
from pretrain.data.order import OPEN_WINDOWS, GlobalOrder
from pretrain.data.packing import BestFitConfig, ConcatenateConfig, PackingConfig, PadConfig
from pretrain.data.shards import Documents, Shard

PAD = 65_535
KINDS = [PackingConfig.members[name]() for name in sorted(PackingConfig.members)]
SHARDS = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=8), min_size=1, max_size=4)
BEST_FIT = st.builds(BestFitConfig, window_rows=st.integers(1, 4), room=st.floats(0, 0.5))


def written(folder, shards, name="train"):
    """Write documents, lists of token ids in lists of shards, and open them."""
    listing = []
    for index, documents in enumerate(shards):
        tokens = np.array([token for document in documents for token in document], dtype="<u2")
        offsets = np.cumsum([0, *map(len, documents)]).astype("<i8")
        tokens.tofile(folder / f"{index}.tokens")
        offsets.tofile(folder / f"{index}.offsets")
        listing.append(
            Shard(
                name=str(index),
                documents=len(documents),
                tokens=len(tokens),
                tokens_sha256="",
                offsets_sha256="",
            )
        )
    return Documents(folder, name, listing, np.dtype("<u2"))


def numbered(lengths):
    """Return documents of these lengths whose tokens count on over all of them."""
    ends = np.cumsum(lengths).tolist()
    return [list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)]


def lognormal(tokens):
    """Return documents of about 300 tokens each, by a log-normal law of sigma 1."""
    drawn = np.random.default_rng(0).lognormal(np.log(300) - 0.5, 1, tokens // 300)
    return filler(np.maximum(1, drawn.astype(np.int64)))


def filler(lengths):
    """Return documents of these lengths whose tokens do not matter."""
    return [range(length) for length in np.asarray(lengths).tolist()]


def parts_of(row):
    """Return the tokens of each part of a row, having checked how its arrays are laid out."""
    length = len(row["input_ids"])
    assert {key: (value.shape, value.dtype) for key, value in row.items()} == {
        "input_ids": ((length,), np.int64),
        "position_ids": ((length,), np.int64),
        "document_ids": ((length,), np.int32),
    }
    used = int((row["document_ids"] > 0).sum())
    assert set(row["input_ids"][used:].tolist()) <= {PAD}
    assert not row["document_ids"][used:].any()
    assert not row["position_ids"][used:].any()
    parts, at = [], 0
    for number, (name, same) in enumerate(groupby(row["document_ids"][:used].tolist()), start=1):
        assert name == number
        size = len(list(same))
        assert row["position_ids"][at : at + size].tolist() == list(range(size))
        parts.append(row["input_ids"][at : at + size].tolist())
        at += size
    return parts


def all_parts(rows):
    """Return the parts of every row."""
    return [parts_of(rows.row(index)) for index in range(rows.num_rows)]


def naive_rows(lengths, T):
    """Return how many rows best-fit-decreasing opens for pieces of these lengths, by its definition."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [at for at, room in enumerate(rooms) if room >= length]
        if not fitting:
            rooms.append(T)
            fitting = [len(rooms) - 1]
        rooms[min(fitting, key=rooms.__getitem__)] -= length
    return len(rooms)


@settings(deadline=None, max_examples=150)
@given(SHARDS, st.integers(2, 9), st.sampled_from(KINDS) | BEST_FIT)
def test_every_token_stands_in_one_row(tmp_path_factory, lengths, seq_length, packing):
    flat = numbered([length for shard in lengths for length in shard])
    total = sum(map(len, flat))
    cuts = np.cumsum([0, *map(len, lengths)]).tolist()
    shards = [flat[a:b] for a, b in pairwise(cuts)]
    assume(total >= seq_length)
    rows = packing.build(written(tmp_path_factory.mktemp("shards"), shards), seq_length, PAD)
    assert rows.num_rows % rows.num_windows == 0
    home = {token: index for index, document in enumerate(flat) for token in document}
    parts = all_parts(rows)
    seen = [token for row in parts for part in row for token in part]
    if packing.type == "best_fit":
        height = rows.num_rows // rows.num_windows
        for start in range(0, rows.num_rows, height):
            window = parts[start : start + height]
            assert all(window) or all(len(part) == 1 for row in window for part in row)
        seen.sort()
    assert seen == list(range(total))
    for part in (part for row in parts for part in row):
        assert part == list(range(part[0], part[0] + len(part)))
        assert len({home[token] for token in part}) == 1
    if packing.type == "pad":
        assert all(len(row) == 1 for row in parts)
    assert rows.waste == pytest.approx(1 - total / (rows.num_rows * seq_length))


@settings(deadline=None, max_examples=150)
@given(SHARDS, st.integers(2, 9), BEST_FIT)
def test_best_fit_cuts_no_document_that_a_row_has_room_for(tmp_path_factory, lengths, T, packing):
    flat = numbered([length for shard in lengths for length in shard])
    assume(sum(map(len, flat)) >= T)
    rows = packing.build(written(tmp_path_factory.mktemp("shards"), [flat]), T, PAD)
    pieces = {
        document[at]: len(document[at : at + T]) for document in flat for at in range(0, len(document), T)
    }
    parts = all_parts(rows)
    height = rows.num_rows // rows.num_windows
    for window in range(rows.num_windows):
        mine = parts[window * height : (window + 1) * height]
        whole = {part[0]: len(part) for row in mine for part in row if part[0] in pieces}
        lengths = [pieces[start] for start in whole]
        cut = [pieces[start] for start, length in whole.items() if length < pieces[start]]
        if cut and len(whole) >= height:
            assert min(cut) > T - min(sum(map(len, row)) for row in mine)
            assert naive_rows(lengths, T) > height


@pytest.mark.parametrize("T", [128, 512, 1024])
def test_best_fit_wastes_little_and_cuts_next_to_none(tmp_path, T):
    documents = written(tmp_path, [lognormal(1_500_000)])
    rows = BestFitConfig().build(documents, T, PAD)
    needed = int((-(-documents.lengths // T)).sum())
    parts = sum(len(rows.window(number).starts) for number in range(rows.num_windows))
    assert 0 < rows.waste < 0.005
    assert parts - needed < 0.005 * documents.num_documents


@pytest.mark.parametrize("lengths", [[8] * 64, [5] * 100, [1000], [7, 1] * 50, [3, 800, 2] * 3])
def test_best_fit_takes_documents_of_any_kind(tmp_path, lengths):
    documents = numbered(lengths)
    rows = BestFitConfig(window_rows=16).build(written(tmp_path, [documents[:1], documents[1:]]), 8, PAD)
    parts = all_parts(rows)
    assert all(parts)
    assert sorted(token for row in parts for part in row for token in part) == list(range(sum(lengths)))


def test_the_first_rows_of_a_window_are_like_its_others(tmp_path):
    """Evaluation takes the first rows: their documents are neither the longest nor the shortest."""
    rows = BestFitConfig().build(written(tmp_path, [lognormal(800_000)]), 512, PAD)
    documents = [int(rows.row(index)["document_ids"].max()) for index in range(rows.num_rows)]
    half = rows.num_rows // 2
    assert np.mean(documents[:half]) == pytest.approx(np.mean(documents[half:]), rel=0.1)
    assert np.std(documents[:half]) == pytest.approx(np.std(documents[half:]), rel=0.2)


def test_a_row_is_the_same_for_any_thread_and_order_of_asking(tmp_path):
    documents = written(tmp_path, [lognormal(20_000), lognormal(10_000)])
    packing = BestFitConfig(window_rows=2)
    rows = packing.build(documents, 64, PAD)
    assert rows.num_windows > 4 * OPEN_WINDOWS
    expected = [rows.row(index) for index in range(rows.num_rows)]
    asked = [*range(rows.num_rows), *range(rows.num_rows)]
    random.Random(0).shuffle(asked)
    fresh = packing.build(documents, 64, PAD)
    with ThreadPoolExecutor(8) as pool:
        for index, row in zip(asked, pool.map(fresh.row, asked), strict=True):
            assert all((row[key] == expected[index][key]).all() for key in row)


def test_a_window_is_packed_once_for_all_threads(tmp_path, monkeypatch):
    documents = written(tmp_path, [lognormal(60_000)])
    read, asked = documents.document_starts, []

    def slow(*bounds):
        asked.append(bounds)
        time.sleep(0.02)
        return read(*bounds)

    monkeypatch.setattr(documents, "document_starts", slow)
    rows = BestFitConfig().build(documents, 64, PAD)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(rows.row, range(64)))
    assert len(asked) == 1


def test_the_number_of_rows_needs_no_file(tmp_path):
    shard = Shard(name="0", documents=7, tokens=10**12, tokens_sha256="", offsets_sha256="")
    rows = BestFitConfig(window_rows=1000, room=0.01).build(
        Documents(tmp_path, "train", [shard], np.dtype("<u2")), 1000, PAD
    )
    assert rows.num_windows == 10**6
    assert rows.num_rows == 10**6 * 1010
    assert rows.waste == pytest.approx(10 / 1010)


def test_a_row_needs_only_the_stream_around_its_window(tmp_path, monkeypatch):
    lengths = [40] * 500
    documents = written(tmp_path, [numbered(lengths)])
    ranges = []
    for name in ("document_starts", "tokens"):
        read = getattr(documents, name)
        monkeypatch.setattr(
            documents, name, lambda low, high, read=read: ranges.append((low, high)) or read(low, high)
        )
    rows = BestFitConfig(window_rows=10).build(documents, 16, PAD)
    height = rows.num_rows // rows.num_windows
    for index in range(rows.num_rows):
        ranges.clear()
        rows.row(index)
        window = index // height
        low, high = (20_000 * one // rows.num_windows for one in (window, window + 1))
        assert min(ranges)[0] >= low - 2 * 40
        assert max(high for _, high in ranges) <= high + 16


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 70), st.integers(1, 8), st.integers(0, 2**32))
def test_an_order_by_windows_visits_every_row_once_an_epoch(windows, height, seed):
    order = GlobalOrder(windows * height, seed, windows)
    for epoch in (0, 3):
        stream = [order(epoch * order.rows + sample) for sample in range(order.rows)]
        assert {one for one, _ in stream} == {epoch}
        assert sorted(row for _, row in stream) == list(range(order.rows))
        for start in range(0, order.rows, OPEN_WINDOWS * height):
            group = stream[start : start + OPEN_WINDOWS * height]
            assert len({row // height for _, row in group}) <= OPEN_WINDOWS


def test_an_order_by_windows_mixes_windows_and_rows_anew_each_epoch():
    order = GlobalOrder(100 * 50, seed=1, windows=100)
    epochs = [[order(epoch * 5000 + sample)[1] for sample in range(5000)] for epoch in (0, 1)]
    opened = [{row // 50 for row in rows[: 50 * OPEN_WINDOWS]} for rows in epochs]
    assert len(opened[0] & opened[1]) < OPEN_WINDOWS / 2
    for rows in epochs:
        first = [row // 50 for row in rows[:50]]
        assert len(set(first)) > OPEN_WINDOWS / 2
        assert abs(np.corrcoef(rows[: 50 * OPEN_WINDOWS], range(50 * OPEN_WINDOWS))[0, 1]) < 0.2


def test_an_order_by_windows_never_changes_between_releases():
    order = GlobalOrder(1_000_000, seed=42, windows=1000)
    assert [order(sample)[1] for sample in (0, 1, 999_999, 1_000_000)] == [634515, 171587, 175326, 544998]
    few = GlobalOrder(1_000_003 * OPEN_WINDOWS, 42, OPEN_WINDOWS)
    assert few(5) == GlobalOrder(1_000_003 * OPEN_WINDOWS, 42)(5)


@pytest.mark.real_data
@pytest.mark.parametrize("T", [128, 512, 1024])
@pytest.mark.parametrize("unit", ["articles", "paragraphs"])
def test_best_fit_wastes_little_on_real_text(tmp_path, T, unit):
    place = Path(os.environ.get("LUMBRE_DATA", "")) / "wikitext2" / "train.txt"
    if "LUMBRE_DATA" not in os.environ or not place.is_file():
        pytest.skip("needs LUMBRE_DATA, a folder with wikitext2/train.txt")
    lines = place.read_text(encoding="utf-8").splitlines()
    heads = [line.startswith(" = ") and not line.startswith(" = = ") for line in lines]
    names = np.cumsum(heads) if unit == "articles" else np.arange(len(lines))
    words = np.bincount(names, [len(line.split()) for line in lines]).astype(np.int64)
    documents = written(tmp_path, [filler(words[words > 0])])
    rows = BestFitConfig().build(documents, T, PAD)
    needed = int((-(-documents.lengths // T)).sum())
    parts = sum(len(rows.window(number).starts) for number in range(rows.num_windows))
    assert rows.waste < 0.01
    assert parts - needed < 0.01 * documents.num_documents


def test_concatenating_wastes_less_than_one_row(tmp_path):
    rows = ConcatenateConfig().build(written(tmp_path, [numbered([5, 7, 9])]), 8, PAD)
    assert rows.num_rows == 3
    assert rows.waste == pytest.approx(3 / 24)


def test_padding_cuts_a_long_document_into_rows(tmp_path):
    rows = PadConfig().build(written(tmp_path, [numbered([5, 17]), numbered([8])]), 8, PAD)
    assert [int((rows.row(index)["document_ids"] > 0).sum()) for index in range(rows.num_rows)] == [
        5,
        8,
        8,
        1,
        8,
    ]


def test_a_corpus_smaller_than_a_row_says_its_size_and_the_remedy(tmp_path):
    documents = written(tmp_path, [numbered([5, 6])])
    with pytest.raises(
        DataError, match=r"train split has 11 tokens in 2 documents.*of 128.*seq_length to 11"
    ):
        ConcatenateConfig().build(documents, 128, PAD)


@pytest.mark.parametrize("packing", KINDS, ids=lambda one: one.type)
def test_an_empty_split_says_how_to_fill_it(tmp_path, packing):
    with pytest.raises(DataError, match=r"validation split has 0 tokens.*raise data\.validation_fraction"):
        packing.build(Documents(tmp_path, "validation", [], np.dtype("<u2")), 8, PAD)


def test_a_small_validation_split_is_one_padded_row(tmp_path):
    rows = ConcatenateConfig().build(written(tmp_path, [numbered([5])], name="validation"), 128, PAD)
    assert rows.num_rows == 1
    assert int((rows.row(0)["document_ids"] > 0).sum()) == 5
