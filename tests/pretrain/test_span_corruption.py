"""Span corruption: T5's noise, exactly invertible, document by document, in rows that always fit."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.distributed import Stream
from lumbre.errors import TokenizerError
from lumbre.models import NO_TARGET, LanguageModel, TransformerConfig
from lumbre.tokenizer import BpeConfig, FileTokenizerConfig, Tokenizer, TokenizerConfig, WordPieceConfig
from pretrain.objectives import ClmConfig, SpanCorruptionConfig
from pretrain.objectives.base import Row

TEXT = ["the quick brown fox jumps over the lazy dog again and again, " * 20]
TOKENIZERS = [
    WordPieceConfig(vocab_size=1024, sentinels=100).build(TEXT),
    BpeConfig(vocab_size=1024, sentinels=100).build(TEXT),
    BpeConfig(vocab_size=1024, sentinels=3).build(TEXT),
]
BPE = TOKENIZERS[1]

configs = st.builds(
    SpanCorruptionConfig,
    noise_density=st.floats(0.02, 0.98),
    mean_span_length=st.floats(1, 12),
    min_document_length=st.integers(2, 24),
)


@st.composite
def documents(draw: st.DrawFn, tokenizer: Tokenizer, most: int = 8) -> list[np.ndarray]:
    """Draw documents of ordinary tokens, some whole and some cut from their begin or end tokens."""
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
    drawn = []
    for length in draw(st.lists(st.integers(1, 70), min_size=1, max_size=most)):
        begin, end = (
            part if draw(st.booleans()) else () for part in (tokenizer.document_begin, tokenizer.document_end)
        )
        drawn.append(np.concatenate([begin, numbers.choice(ordinary, length), end]).astype(np.int64))
    return drawn


def packed(parts: list[np.ndarray], padding: int = 0) -> Row:
    """Return the row of these documents."""
    sizes = [*map(len, parts), padding]
    return {
        "input_ids": np.concatenate([*parts, np.full(padding, 7)]),
        "position_ids": np.concatenate([np.arange(size) for size in sizes]),
        "document_ids": np.repeat([*range(1, len(parts) + 1), 0], sizes).astype(np.int32),
    }


def plain(length: int) -> Row:
    """Return a row of one document of ordinary tokens."""
    return packed([np.arange(length) % 50 + 200])


def batch_of(rows: list[Row]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}


def restored(source: list[int], target: list[int], tokenizer: Tokenizer) -> list[int]:
    """Put each span of the targets in the place of its sentinel; both name the sentinels in order."""
    sentinels = tokenizer.sentinel_ids
    *target, end = target
    assert (end,) == tokenizer.document_end
    spans: list[list[int]] = []
    for token in target:
        if token in sentinels:
            assert token == sentinels[len(spans)]
            spans.append([])
        else:
            spans[-1].append(token)
    assert all(spans)
    assert [token for token in source if token in sentinels] == list(sentinels[: len(spans)])
    whole = [spans[sentinels.index(token)] if token in sentinels else [token] for token in source]
    return [token for part in whole for token in part]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), config=configs, sample=st.integers(0, 2**40), padding=st.integers(0, 5))
def test_inputs_and_targets_restore_every_document(
    data: st.DataObject, config: SpanCorruptionConfig, sample: int, padding: int
) -> None:
    """And every row has the lengths that the objective says, however it is packed."""
    tokenizer = data.draw(st.sampled_from(TOKENIZERS))
    parts = data.draw(documents(tokenizer))
    row = packed(parts, padding)
    T = len(row["input_ids"])
    if config.min_document_length > T:
        return
    objective = config.build(tokenizer, 1)
    noised = objective.apply(row, sample)
    _, S, _ = objective.lengths(T)
    for key, array in noised.items():
        assert array.shape == (S if key == "labels" or key.startswith("decoder") else T,)
        assert array.dtype == (np.int32 if key.endswith("document_ids") else np.int64)
    begin, end = (tokenizer.document_begin, tokenizer.document_end)
    for number, document in enumerate(parts, start=1):
        at_T, at_S = noised["document_ids"] == number, noised["decoder_document_ids"] == number
        source, target = noised["input_ids"][at_T], noised["labels"][at_S]
        assert np.array_equal(noised["position_ids"][at_T], np.arange(len(source)))
        assert np.array_equal(noised["decoder_position_ids"][at_S], np.arange(len(target)))
        if len(document) - (document[-1] in end) < config.min_document_length:
            assert np.array_equal(source, document)
            assert not len(target)
            continue
        assert restored(source.tolist(), target.tolist(), tokenizer) == document.tolist()
        assert (source[0] in begin, source[-1] in end) == (document[0] in begin, document[-1] in end)
        assert np.array_equal(noised["decoder_input_ids"][at_S], [tokenizer.pad_id, *target[:-1]])
    for prefix in ("", "decoder_"):
        nothing = noised[f"{prefix}document_ids"] == 0
        assert set(noised[f"{prefix}input_ids"][nothing]) <= {tokenizer.pad_id}
        assert (np.diff(noised[f"{prefix}document_ids"])[: (~nothing).sum() - 1] >= 0).all()
    assert np.array_equal(noised["labels"] == NO_TARGET, noised["decoder_document_ids"] == 0)


@settings(max_examples=60, deadline=None)
@given(config=configs, tokenizer=st.sampled_from(TOKENIZERS), length=st.integers(2, 160))
def test_no_packing_has_more_targets_than_the_decoder_has_room(
    config: SpanCorruptionConfig, tokenizer: Tokenizer, length: int
) -> None:
    """The most of all packings, by dynamic programming over the length of the last document."""
    if length < config.min_document_length:
        return
    objective = config.build(tokenizer, 1)
    (denoiser,), sentinels = config.mixture, len(tokenizer.sentinel_ids)
    lengths = range(config.min_document_length, length + 1)
    targets = {size: int(sum(denoiser.spans(size, sentinels))) + 1 for size in lengths}
    most = [0] * (length + 1)
    for total in range(1, length + 1):
        most[total] = max(
            [most[total - 1], *(more + most[total - size] for size, more in targets.items() if size <= total)]
        )
    assert most[length] <= objective.lengths(length).decoder_length
    assert objective.lengths(length).seq_length == length


@pytest.mark.parametrize("length", [16, 17, 20, 31, 100, 512, 600])
def test_as_many_tokens_in_as_many_spans_as_t5(length: int) -> None:
    """The formulas of random_spans_noise_mask; the share is 15% but for half a token."""
    target = SpanCorruptionConfig().build(BPE, 1).apply(plain(length), 0)["labels"]
    spans = int(np.isin(target, BPE.sentinel_ids).sum())
    left_out = int((target != NO_TARGET).sum()) - spans - 1
    assert left_out == min(max(round(length * 0.15), 1), length - 1)
    assert spans == max(round(left_out / 3.0), 1)
    assert abs(left_out - 0.15 * length) <= 0.5


def test_every_way_to_cut_a_document_is_equally_likely() -> None:
    """12 tokens: 4 in 2 spans, 7 x 3 ways; chi-square within 3 sigma of its mean."""
    config = SpanCorruptionConfig(noise_density=0.3, mean_span_length=2, min_document_length=2)
    objective, row, samples = config.build(BPE, 1), plain(12), 1050
    first, second = BPE.sentinel_ids[:2]
    ways: Counter[tuple[int, int]] = Counter()
    for sample in range(samples):
        noised = objective.apply(row, sample)
        kept = noised["input_ids"].tolist().index(first)
        ways[kept, noised["labels"].tolist().index(second) - 1] += 1
    possible = [(kept, left_out) for kept in range(1, 8) for left_out in range(1, 4)]
    assert set(ways) == set(possible)
    expected, freedom = samples / len(possible), len(possible) - 1
    chi_square = sum((ways[way] - expected) ** 2 for way in possible) / expected
    assert abs(chi_square - freedom) < 3 * math.sqrt(2 * freedom)


def test_spans_are_three_tokens_long_on_average_and_spread_evenly() -> None:
    """200 rows of 512 tokens: lengths as random cuts have them, the middle in either half; within 3 sigma."""
    objective = SpanCorruptionConfig().build(BPE, 1)
    row, samples = plain(512), 200
    left_out, spans, singles, early = 77, 26, 0, 0
    for sample in range(samples):
        noised = objective.apply(row, sample)
        places = np.flatnonzero(np.isin(noised["labels"], [*BPE.sentinel_ids, *BPE.document_end]))
        lengths = np.diff(places) - 1
        assert (len(lengths), lengths.sum()) == (spans, left_out)
        singles += int(lengths[0] == 1)
        kept = noised["input_ids"].tolist().index(BPE.sentinel_ids[spans // 2 - 1]) - (spans // 2 - 1)
        early += int(kept <= (512 - left_out) // 2)
    chance = math.comb(left_out - 2, spans - 2) / math.comb(left_out - 1, spans - 1)
    assert abs(singles - samples * chance) < 3 * math.sqrt(samples * chance * (1 - chance))
    assert abs(early - samples / 2) < 3 * math.sqrt(samples / 4)


def test_more_spans_than_sentinels_makes_longer_spans_and_leaves_the_share() -> None:
    """4096 tokens: 614 in 205 spans, or in the 100 that there are names for."""
    target = SpanCorruptionConfig().build(BPE, 1).apply(plain(4096), 0)["labels"]
    assert np.isin(target, BPE.sentinel_ids).sum() == 100
    assert (target != NO_TARGET).sum() == 614 + 100 + 1


@settings(max_examples=20, deadline=None)
@given(sample=st.integers(0, 2**40), seed=st.integers(0, 2**63 - 1))
def test_noise_is_a_function_of_seed_and_sample(sample: int, seed: int) -> None:
    row, config = plain(256), SpanCorruptionConfig()
    one, two = (config.build(BPE, seed).apply(row, sample) for _ in range(2))
    assert all(np.array_equal(one[key], two[key]) for key in one)
    for other in (
        config.build(BPE, seed).apply(row, sample + 1),
        config.build(BPE, seed ^ 1).apply(row, sample),
        config.build(BPE, seed).apply(row, sample, Stream.EVALUATION_NOISE),
    ):
        assert not np.array_equal(one["labels"], other["labels"])
    twins = config.build(BPE, seed).apply(packed([row["input_ids"]] * 2), sample)
    first, second = (twins["labels"][twins["decoder_document_ids"] == number] for number in (1, 2))
    assert not np.array_equal(first, second)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), sample=st.integers(0, 2**40))
def test_a_document_changes_nothing_of_its_neighbours(data: st.DataObject, sample: int) -> None:
    """Another document in its place, of any length, leaves their noise as it was."""
    parts = data.draw(documents(BPE))
    changed = data.draw(st.integers(0, len(parts) - 1))
    (other,) = data.draw(documents(BPE, most=1))
    objective = SpanCorruptionConfig(min_document_length=2).build(BPE, 1)
    before = objective.apply(packed(parts, padding=2), sample)
    after = objective.apply(packed([*parts[:changed], other, *parts[changed + 1 :]], padding=2), sample)
    for number in set(range(1, len(parts) + 1)) - {changed + 1}:
        for key in before:
            documents_of = "decoder_document_ids" if key[:2] in ("de", "la") else "document_ids"
            one, two = (row[key][row[documents_of] == number] for row in (before, after))
            assert np.array_equal(one, two)


def build_model() -> LanguageModel:
    keys = {"causal": False, "hidden_size": 16, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 2}
    keys |= {"position": {"type": "relative"}, "init_std": 0.3}
    torch.manual_seed(1)
    return LanguageModel(TransformerConfig.model_validate(keys).build(BPE.vocab_size)).double()


def test_the_loss_of_packed_documents_is_the_sum_of_each_alone() -> None:
    objective, model = SpanCorruptionConfig().build(BPE, 1), build_model()
    noised = objective.apply(packed([np.arange(200, 200 + size) for size in (40, 9, 25)], padding=6), 0)
    batch = batch_of([noised])
    term = objective.loss(model, batch).terms["loss"]
    alone = []
    for number in (1, 3):
        at_T, at_S = batch["document_ids"] == number, batch["decoder_document_ids"] == number
        one = {
            key: value[at_S if key == "labels" or key.startswith("decoder") else at_T][None]
            for key, value in batch.items()
        }
        alone.append(objective.loss(model, one).terms["loss"])
    torch.testing.assert_close(term.sum, alone[0].sum + alone[1].sum, rtol=1e-10, atol=0)
    assert term.count == alone[0].count + alone[1].count


def test_counts_are_the_labels_and_tokens_what_both_stacks_read() -> None:
    objective = SpanCorruptionConfig().build(BPE, 1)
    batch = batch_of([objective.apply(packed([np.arange(200, 260)] * 2, padding=4), at) for at in range(3)])
    # 60 tokens: 9 left out in 3 spans, and the end.
    assert objective.counts(batch) == {"loss": 3 * 2 * 13.0}
    assert objective.counts(batch)["loss"] == float((batch["labels"] != NO_TARGET).sum())
    assert objective.tokens(batch) == 3 * 2 * (60 - 9 + 3 + 13)


def test_a_row_without_a_target_has_no_loss_and_finite_gradients() -> None:
    objective, model = SpanCorruptionConfig().build(BPE, 1), build_model()
    batch = batch_of([objective.apply(packed([np.arange(200, 210)] * 3), 0)])
    term = objective.loss(model, batch).terms["loss"]
    assert (term.count, float(term.sum.detach())) == (0.0, 0.0)
    term.sum.backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in model.parameters())


@pytest.mark.parametrize("length", [16, 128, 512])
def test_flops_are_told_the_lengths_and_targets_of_a_row_of_one_document(length: int) -> None:
    objective = SpanCorruptionConfig().build(BPE, 1)
    noised = objective.apply(plain(length), 0)
    seq_length, decoder_length, share = objective.lengths(length)
    assert (len(noised["input_ids"]), len(noised["labels"])) == (seq_length, decoder_length)
    assert share * decoder_length == pytest.approx((noised["labels"] != NO_TARGET).sum())


def test_one_stack_has_no_decoder_length() -> None:
    assert ClmConfig().build(BPE, 1).lengths(64) == (64, 0, 1.0)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["<pad>", "</s>"], r"has no <extra_id_0>; train one with tokenizer\.sentinels=100"),
        (["<pad>", "<extra_id_0>"], r"no end token to end .* with; use tokenizer\.type=bpe"),
        (["</s>", "<extra_id_0>"], r"no padding token to begin .* with; use tokenizer\.type=bpe"),
    ],
)
def test_a_tokenizer_that_lacks_a_token_is_refused(names: list[str], expected: str, tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"x": 0}, "x"))
    backend.add_special_tokens(names)
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(TokenizerError, match=expected):
        SpanCorruptionConfig().build(Tokenizer.load(tmp_path), 1).attach_head(build_model().trunk)


@pytest.mark.parametrize(
    ("tokenizer", "seq_length", "keys"),
    [
        (BpeConfig(), 128, ["tokenizer.sentinels"]),
        (BpeConfig(sentinels=100), 15, ["objective.min_document_length"]),
        (BpeConfig(sentinels=100), 16, []),
        (FileTokenizerConfig(path="x"), 128, []),
    ],
)
def test_a_misfit_is_told_before_data_is_read(
    tokenizer: TokenizerConfig, seq_length: int, keys: list[str]
) -> None:
    assert [one.key for one in SpanCorruptionConfig().misfits(tokenizer, seq_length)] == keys


@pytest.mark.parametrize(
    ("objective", "model", "expected"),
    [
        (
            "span_corruption",
            "bert-mini",
            "on an encoder (causal: false); choose an encoder-decoder, such as t5-mini",
        ),
        (
            "clm",
            "t5-mini",
            "on an encoder-decoder (num_decoder_layers above 0); choose a decoder, such as gpt-mini",
        ),
        (
            "mlm",
            "t5-mini",
            "on an encoder-decoder (num_decoder_layers above 0); choose an encoder, such as bert-mini",
        ),
    ],
)
def test_a_model_of_another_kind_is_refused(objective: str, model: str, expected: str) -> None:
    from lumbre.config import load
    from lumbre.errors import ConfigError
    from pretrain.config import PretrainConfig

    file = Path(__file__).parents[2] / "configs/pretrain/t5-mini.yaml"
    arguments = [f"objective={{type: {objective}}}", f"model={model}"]
    with pytest.raises(ConfigError) as caught:
        load(PretrainConfig, file, arguments, room="pretrain")
    assert f"objective {objective} {expected}" in str(caught.value)
