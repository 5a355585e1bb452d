"""Objectives that split documents into what is read and what is predicted: on both kinds of model."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre import hub
from lumbre.config import load
from lumbre.distributed import Stream
from lumbre.errors import ConfigError, TokenizerError
from lumbre.models import NO_TARGET, LanguageModel, TransformerConfig
from lumbre.tokenizer import BpeConfig, WordPieceConfig
from pretrain.config import PretrainConfig
from pretrain.objectives import ObjectiveConfig, PrefixLmConfig, SpanCorruptionConfig, Ul2Config
from pretrain.objectives.base import ModelKind, Row
from pretrain.objectives.denoiser import Denoiser
from pretrain.objectives.denoising import Denoising, DenoisingConfig
from pretrain.objectives.rows import documents as documents_of

CONFIGS = Path(__file__).parents[2] / "configs"
TEXT = ["the quick brown fox jumps over the lazy dog again and again, " * 20]
MODES = ("[R]", "[X]", "[S]")
TOKENIZERS = [
    kind.build(TEXT)
    for kind in (
        BpeConfig(vocab_size=1024, sentinels=100, special_tokens=MODES),
        WordPieceConfig(vocab_size=1024, sentinels=5, special_tokens=MODES),
    )
]
BPE = TOKENIZERS[0]
KINDS: tuple[ModelKind, ...] = ("encoder-decoder", "decoder")
NAMES = [name for name, kind in ObjectiveConfig.members.items() if issubclass(kind, DenoisingConfig)]


def trunk(kind: ModelKind, vocab_size: int = BPE.vocab_size) -> Any:
    keys = {"causal": kind == "decoder", "num_decoder_layers": int(kind == "encoder-decoder")}
    keys |= {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "position": {"type": "rotary"}}
    torch.manual_seed(1)
    return TransformerConfig.model_validate({**keys, "init_std": 0.3}).build(vocab_size)


TRUNKS = {kind: trunk(kind) for kind in KINDS}


def build(config: DenoisingConfig, kind: ModelKind, tokenizer: Any = BPE, seed: int = 1) -> Denoising:
    objective = config.build(tokenizer, seed)
    objective.attach_head(TRUNKS[kind])
    return objective


def packed(parts: list[np.ndarray], padding: int = 0) -> Row:
    sizes = [*map(len, parts), padding]
    return {
        "input_ids": np.concatenate([*parts, np.full(padding, 7)]),
        "position_ids": np.concatenate([np.arange(size) for size in sizes]),
        "document_ids": np.repeat([*range(1, len(parts) + 1), 0], sizes).astype(np.int32),
    }


def plain(length: int, end: tuple[int, ...] = ()) -> np.ndarray:
    return np.append(np.arange(length) % 50 + 300, end).astype(np.int64)


def taken_apart(row: Row, kind: ModelKind, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what is read of a document, and what is predicted."""
    here = row["document_ids"] == number
    if kind == "encoder-decoder":
        there = row["decoder_document_ids"] == number
        return row["input_ids"][here], row["labels"][there]
    prefix = here & row["prefix_mask"]
    return row["input_ids"][prefix], row["input_ids"][here & ~prefix]


def undone(source: list[int], target: list[int], tokenizer: Any, read_end: bool) -> list[int]:
    """Return the document: spans in the place of their sentinels, or the target after what is read."""
    modes = [tokenizer.backend.token_to_id(mode) for mode in MODES]
    source = source[1:] if source[0] in modes else source
    end = list(tokenizer.document_end)
    sentinels = tokenizer.sentinel_ids
    if not target:
        return source
    if target[0] != sentinels[0]:
        if read_end:
            assert source[-1:] == end
            source = source[:-1]
        return source + target
    assert target[-1:] == end
    starts = [at for at, token in enumerate(target) if token in sentinels]
    stops = [*starts[1:], len(target) - 1]
    spans = {target[start]: target[start + 1 : stop] for start, stop in zip(starts, stops, strict=True)}
    assert [token for token in source if token in sentinels] == list(spans)
    return [one for token in source for one in spans.get(token, [token])]


@st.composite
def configs(draw: st.DrawFn) -> DenoisingConfig:
    least = draw(st.integers(2, 20))
    kind = draw(st.sampled_from(["spans", "prefix", "published", "mixture"]))
    if kind == "spans":
        return SpanCorruptionConfig(min_document_length=least)
    if kind == "prefix":
        return PrefixLmConfig(min_document_length=least)
    if kind == "published":
        return Ul2Config(min_document_length=least)
    lengths = st.none() | st.floats(1, 12)
    one = st.builds(
        Denoiser,
        noise_density=st.floats(0.02, 0.98),
        mean_span_length=lengths,
        rate=st.floats(0.1, 5),
        mode=st.sampled_from([None, *MODES]),
    )
    return Ul2Config(min_document_length=least, denoisers=draw(st.lists(one, min_size=1, max_size=4)))


@st.composite
def rows(draw: st.DrawFn, tokenizer: Any, most: int = 8) -> list[np.ndarray]:
    """Draw documents of ordinary tokens, some whole and some cut from their begin or end tokens."""
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), sorted(tokenizer.special_ids))
    drawn = []
    for length in draw(st.lists(st.integers(1, 40), min_size=1, max_size=most)):
        begin, end = (
            part if draw(st.booleans()) else () for part in (tokenizer.document_begin, tokenizer.document_end)
        )
        drawn.append(np.concatenate([begin, numbers.choice(ordinary, length), end]).astype(np.int64))
    return drawn


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120, deadline=None)
@given(data=st.data(), config=configs(), sample=st.integers(0, 2**40), padding=st.integers(0, 5))
def test_what_is_read_and_what_is_predicted_restore_every_document(
    kind: ModelKind, data: st.DataObject, config: DenoisingConfig, sample: int, padding: int
) -> None:
    """And every row has the lengths that the objective says, and the config at most, however it is packed."""
    tokenizer = data.draw(st.sampled_from(TOKENIZERS))
    parts = data.draw(rows(tokenizer))
    objective = build(config, kind, tokenizer)
    row = packed(parts, padding)
    noised = objective.apply(row, sample)
    T, S, _ = objective.lengths(len(row["input_ids"]))
    assert max(T, S) <= config.longest(len(row["input_ids"]), kind)
    assert noised.keys() == {*objective.inputs}
    for name, array in noised.items():
        two = kind == "encoder-decoder"
        assert len(array) == (S if two and (name == "labels" or name.startswith("decoder")) else T)
        expected = {"document_ids": np.int32, "decoder_document_ids": np.int32, "prefix_mask": np.bool_}
        assert array.dtype == expected.get(name, np.int64)
    for number, document in enumerate(parts, start=1):
        source, target = taken_apart(noised, kind, number)
        restored = undone(source.tolist(), target.tolist(), tokenizer, kind == "encoder-decoder")
        assert restored == document.tolist()
        short = len(document) - (document[-1] in tokenizer.document_end) < config.min_document_length
        assert (len(target) == 0) == short
    assert (noised["labels"] != NO_TARGET).sum() == sum(
        len(taken_apart(noised, kind, number)[1]) for number in range(1, len(parts) + 1)
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data(), config=configs(), sample=st.integers(0, 2**40))
def test_a_decoder_predicts_each_token_of_the_target_from_the_one_before(
    data: st.DataObject, config: DenoisingConfig, sample: int
) -> None:
    noised = build(config, "decoder").apply(packed(data.draw(rows(BPE)), 3), sample)
    tokens, numbers, prefix = (noised[name] for name in ("input_ids", "document_ids", "prefix_mask"))
    for at in range(len(tokens) - 1):
        target = numbers[at + 1] == numbers[at] != 0 and not prefix[at + 1]
        assert noised["labels"][at] == (tokens[at + 1] if target else NO_TARGET)
    assert noised["labels"][-1] == NO_TARGET
    assert not prefix[numbers == 0].any()
    for number in set(numbers.tolist()) - {0}:
        here = numbers == number
        assert np.array_equal(noised["position_ids"][here], np.arange(here.sum()))
        assert prefix[here][0]
        assert (np.diff(prefix[here].astype(int)) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(config=configs(), length=st.integers(24, 120))
def test_no_packing_has_more_tokens_than_there_is_room(
    kind: ModelKind, config: DenoisingConfig, length: int
) -> None:
    """The most of all packings, by dynamic programming over the length of the last document."""
    room = build(config, kind).lengths(length)
    sentinels = len(BPE.sentinel_ids)
    read, said, both = [0] * (length + 1), [0] * (length + 1), [0] * (length + 1)
    sizes = [
        (one.sizes(np.arange(1, length + 1), sentinels), one.mean_span_length is None)
        for one in config.mixture
    ]
    for most, make in (
        (read, lambda one, last, at: one.source_L[at] + last),
        (said, lambda one, last, at: one.target_L[at]),
        (both, lambda one, last, at: one.both_L[at]),
    ):
        for total in range(1, length + 1):
            documents = range(config.min_document_length, total + 1)
            most[total] = max(
                [most[total - 1] + (most is not said)]
                + [most[total - size] + int(make(*one, size - 1)) for size in documents for one in sizes]
            )
    if kind == "decoder":
        assert both[length] <= room.seq_length
    else:
        assert read[length] <= room.seq_length
        assert said[length] <= room.decoder_length


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
@given(sample=st.integers(0, 2**40), seed=st.integers(0, 2**63 - 1))
def test_noise_is_a_function_of_seed_sample_and_document(
    name: str, kind: ModelKind, sample: int, seed: int
) -> None:
    config: Any = ObjectiveConfig.members[name]()
    row = packed([plain(90)] * 20)
    one, two = (build(config, kind, seed=seed).apply(row, sample) for _ in range(2))
    assert all(np.array_equal(one[key], two[key]) for key in one)
    objective = build(config, kind, seed=seed)
    for other in (
        objective.apply(row, sample + 1),
        build(config, kind, seed=seed ^ 1).apply(row, sample),
        objective.apply(row, sample, Stream.EVALUATION_NOISE),
    ):
        assert not np.array_equal(one["labels"], other["labels"])
    targets = [taken_apart(one, kind, number)[1].tolist() for number in range(1, 21)]
    assert any(target != targets[0] for target in targets)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(data=st.data(), config=configs(), sample=st.integers(0, 2**40))
def test_a_document_changes_nothing_of_its_neighbours(
    kind: ModelKind, data: st.DataObject, config: DenoisingConfig, sample: int
) -> None:
    parts = data.draw(rows(BPE))
    changed = data.draw(st.integers(0, len(parts) - 1))
    (other,) = data.draw(rows(BPE, most=1))
    objective = build(config, kind)
    before = objective.apply(packed(parts, padding=2), sample)
    after = objective.apply(packed([*parts[:changed], other, *parts[changed + 1 :]], padding=2), sample)
    for number in set(range(1, len(parts) + 1)) - {changed + 1}:
        for one, two in zip(taken_apart(before, kind, number), taken_apart(after, kind, number), strict=True):
            assert np.array_equal(one, two)


def targets_of(config: DenoisingConfig, length: int, samples: int, kind: ModelKind = "decoder") -> Any:
    """Return what is read and predicted of one document, sample after sample."""
    objective = build(config, kind)
    row = packed([plain(length)])
    return [taken_apart(objective.apply(row, sample), kind, 1) for sample in range(samples)]


def within_three_sigma(count: float, trials: int, probability: float) -> None:
    assert abs(count - trials * probability) < 3 * math.sqrt(trials * probability * (1 - probability))


def test_a_prefix_ends_anywhere_alike() -> None:
    """Each of the 19 cuts of 20 tokens as often as another, within 3 sigma."""
    cuts = np.array([len(source) for source, _ in targets_of(PrefixLmConfig(), 20, 4000)])
    assert (cuts.min(), cuts.max()) == (1, 19)
    for cut in range(1, 20):
        within_three_sigma((cuts == cut).sum(), len(cuts), 1 / 19)


def test_ul2_gives_each_document_one_of_seven_denoisers_alike() -> None:
    """Told apart by mode and by how much is predicted in how many spans; all within 3 sigma of a seventh."""
    samples, length = 4200, 400
    # Left out and spans of 400 tokens, by the formulas of random_spans_noise_mask.
    known = {(3, 0.15): (60, 20), (8, 0.15): (60, 8), (64, 0.15): (60, 1)}
    known |= {(3, 0.5): (200, 67), (8, 0.5): (200, 25), (64, 0.5): (200, 3)}
    modes = {(3, 0.15): "[R]", (8, 0.15): "[R]"}
    found = dict.fromkeys([*known, None], 0)
    ends = []
    for source, target in targets_of(Ul2Config(), length, samples):
        mode = BPE.backend.id_to_token(int(source[0]))
        spans = int(np.isin(target, BPE.sentinel_ids).sum())
        if mode == "[S]":
            assert spans == 0
            found[None] += 1
            ends.append(len(target))
            continue
        (key,) = (one for one, sizes in known.items() if sizes == (len(target) - spans - 1, spans))
        assert mode == modes.get(key, "[X]")
        found[key] += 1
    for count in found.values():
        within_three_sigma(count, samples, 1 / 7)
    # The end is uniform from one token to 199: 25% on average.
    sigma = math.sqrt((199**2 - 1) / 12 / len(ends))
    assert abs(np.mean(ends) - length / 4) < 3 * sigma
    assert 1 <= min(ends) <= max(ends) <= 199


def test_rates_are_kept() -> None:
    """Rates of 1 and 3, within 3 sigma; a mode is optional."""
    denoisers = [Denoiser(rate=1), Denoiser(rate=3, mean_span_length=None)]
    config = Ul2Config(denoisers=denoisers)
    found = targets_of(config, 30, 2000)
    spans = sum(target[0] == BPE.sentinel_ids[0] for _, target in found)
    within_three_sigma(spans, len(found), 1 / 4)
    counts = np.array([len(target) for _, target in found])
    seq_length, _, share = build(config, "decoder").lengths(30)
    assert abs(counts.mean() - share * seq_length) < 3 * counts.std() / math.sqrt(len(counts))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_flops_are_told_the_expected_targets_of_a_row_of_one_document(name: str, kind: ModelKind) -> None:
    """Within 3 standard errors of the mean over samples."""
    config: Any = ObjectiveConfig.members[name]()
    counts = np.array([len(target) for _, target in targets_of(config, 128, 700, kind)])
    seq_length, decoder_length, share = build(config, kind).lengths(128)
    expected = share * (decoder_length or seq_length)
    assert abs(counts.mean() - expected) <= 3 * counts.std() / math.sqrt(len(counts)) + 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_packed_documents_is_the_sum_of_each_alone(name: str, kind: ModelKind) -> None:
    config: Any = ObjectiveConfig.members[name]()
    objective = build(config, kind)
    model = LanguageModel(trunk(kind)).double()
    noised = objective.apply(packed([plain(40), plain(9), plain(25, BPE.document_end)], padding=6), 0)
    batch = {key: torch.from_numpy(array)[None] for key, array in noised.items()}
    term = objective.loss(model, batch).terms["loss"]
    total, count = 0.0, 0.0
    for number in (1, 2, 3):
        at = {"": batch["document_ids"] == number}
        if kind == "encoder-decoder":
            at["decoder"] = batch["decoder_document_ids"] == number
        second = at.get("decoder", at[""])
        one = {
            key: value[second if key == "labels" or key.startswith("decoder") else at[""]][None]
            for key, value in batch.items()
        }
        if not (one["labels"] != NO_TARGET).any():
            continue
        alone = objective.loss(model, one).terms["loss"]
        total, count = total + alone.sum, count + alone.count
    torch.testing.assert_close(term.sum, total, rtol=1e-10, atol=0)
    assert term.count == count == (noised["labels"] != NO_TARGET).sum()
    assert objective.tokens(batch) == sum(
        int((noised[name] != 0).sum()) for name in noised if name.endswith("document_ids")
    )


def test_a_decoder_without_a_padding_token_is_served_and_an_encoder_decoder_is_not() -> None:
    tokenizer = BpeConfig(vocab_size=600).build(TEXT)
    tokenizer.pad_id = None
    objective = PrefixLmConfig().build(tokenizer, 1)
    objective.attach_head(trunk("decoder", tokenizer.vocab_size))
    assert set(objective.apply(packed([plain(9)], padding=3), 0)["input_ids"][-3:]) == {0}
    with pytest.raises(TokenizerError, match="no padding token to begin an encoder-decoder's documents"):
        PrefixLmConfig().build(tokenizer, 1).attach_head(trunk("encoder-decoder", tokenizer.vocab_size))


def test_a_mode_that_the_tokenizer_lacks_is_refused_early_and_late() -> None:
    tokenizer = BpeConfig(vocab_size=700, sentinels=100, special_tokens=("[R]",))
    (problem,) = Ul2Config().misfits(tokenizer, 128)
    assert str(problem) == ("tokenizer.special_tokens: objective ul2 needs [X], [S]; add ['[X]', '[S]']")
    with pytest.raises(
        TokenizerError, match=r"no special token \[X\]; train one with it in tokenizer\.special"
    ):
        Ul2Config().build(tokenizer.build(TEXT), 1)
    with pytest.raises(TokenizerError, match="no special token x"):
        Ul2Config(denoisers=[Denoiser(mode="x")]).build(BPE, 1)
    assert not list(PrefixLmConfig().misfits(BpeConfig(), 128))


def problems(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(PretrainConfig, CONFIGS / "pretrain/ul2-mini.yaml", arguments, room="pretrain")
    return str(caught.value)


def test_rows_that_are_longer_than_the_model_are_told_before_data_is_read() -> None:
    """A decoder's row has spans twice: 128 tokens of text are up to 192 of UL2's, and of a prefix 128."""
    assert Ul2Config().longest(128, "decoder") == 192
    assert PrefixLmConfig().longest(128, "decoder") == 128
    assert Ul2Config().longest(128, "encoder-decoder") == 136
    assert (
        "128 tokens, of which ul2 makes up to 192, and the model has 150 positions; at most 100, or a larger"
    ) in problems("model=gpt-mini", "model.position.max_length=150")


def test_a_model_of_neither_kind_is_refused() -> None:
    wanted = "choose an encoder-decoder, such as t5-mini, or a decoder, such as gpt-mini"
    assert f"objective ul2 on an encoder (causal: false); {wanted}" in problems("model=bert-mini")


def test_padding_is_no_document_wherever_it_stands() -> None:
    numbers = np.array([0, 3, 3, 0, 1, 0, 0], dtype=np.int32)
    assert list(documents_of(numbers)) == [(3, slice(1, 3)), (1, slice(4, 5))]


def test_the_card_of_a_decoder_says_how_it_was_trained_to_read(tmp_path: Path) -> None:
    """And our own model of the exported folder reads so."""
    objective = PrefixLmConfig().build(BPE, 1)
    assert not objective.remark
    model = objective.attach_head(trunk("decoder"))
    assert isinstance(model, LanguageModel)
    folder = hub.save(model, BPE, tmp_path / "model", remark=objective.remark)
    assert "see what it is given in both directions" in (folder / "README.md").read_text()
    input_ids = torch.arange(300, 312)[None]
    prefix = torch.arange(12)[None] < 6
    with torch.no_grad():
        both = [one(input_ids, prefix_mask=prefix).logits for one in (model, hub.load(folder))]
        assert not torch.equal(both[0], model(input_ids).logits)
    torch.testing.assert_close(*both)
