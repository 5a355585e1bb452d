"""Packing: every token stands in one row, and documents keep their bounds."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lumbre.errors import DataError
from pretrain.data.pack import ConcatenateConfig, PackingConfig, PadConfig
from pretrain.data.shards import Documents, Shard

PAD = 999
KINDS = [PackingConfig.members[name]() for name in sorted(PackingConfig.members)]


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


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(1, 9),
    st.sampled_from(KINDS),
)
def test_every_token_stands_in_one_row_in_order(tmp_path_factory, lengths, seq_length, packing):
    flat = numbered([length for shard in lengths for length in shard])
    total = sum(map(len, flat))
    cuts = np.cumsum([0, *map(len, lengths)]).tolist()
    shards = [flat[a:b] for a, b in pairwise(cuts)]
    assume(total >= seq_length)
    rows = packing.build(written(tmp_path_factory.mktemp("shards"), shards), seq_length, PAD)
    home = {token: index for index, document in enumerate(flat) for token in document}
    seen = []
    for index in range(rows.num_rows):
        row = rows.row(index)
        assert {key: (value.shape, value.dtype) for key, value in row.items()} == {
            "input_ids": ((seq_length,), np.int64),
            "position_ids": ((seq_length,), np.int64),
            "document_ids": ((seq_length,), np.int32),
        }
        used = int((row["document_ids"] > 0).sum())
        ids = row["input_ids"].tolist()
        seen += ids[:used]
        assert ids[used:] == [PAD] * (seq_length - used)
        assert not row["document_ids"][used:].any()
        homes = [home[token] for token in ids[:used]]
        names = list(dict.fromkeys(homes))
        assert row["document_ids"][:used].tolist() == [names.index(one) + 1 for one in homes]
        assert row["position_ids"][:used].tolist() == [homes[:at].count(one) for at, one in enumerate(homes)]
        if packing.type == "pad":
            assert len(names) == 1
    assert seen == list(range(total))
    assert rows.waste == pytest.approx(1 - total / (rows.num_rows * seq_length))


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
