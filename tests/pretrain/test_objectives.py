"""Objectives: their targets and noise are what the papers say, a function of (seed, sample) alone."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.distributed import Stream
from lumbre.errors import TokenizerError
from lumbre.models import NO_TARGET, Electra, LanguageModel, TransformerConfig
from lumbre.tokenizer import BpeConfig, Tokenizer, WordPieceConfig
from pretrain.data.plan import Plan, Stage, StageConfig
from pretrain.objectives import ClmConfig, MlmConfig, ModelKind, Objective, ObjectiveConfig
from pretrain.objectives.base import Row
from pretrain.run import flops_by_step

TEXT = ["the quick brown fox jumps over the lazy dog again and again, " * 20]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Return a small WordPiece tokenizer with every special token that an objective's defaults name."""
    special = ("[R]", "[X]", "[S]", "<fim_prefix>", "<fim_middle>", "<fim_suffix>")
    return WordPieceConfig(vocab_size=640, sentinels=100, special_tokens=special).build(TEXT)


def row(tokenizer: Tokenizer, length: int, documents: int = 1) -> Row:
    """Return a row of ordinary tokens, each document between [CLS] and [SEP], the last 4 places padding."""
    special = sorted(tokenizer.special_ids)
    ids = np.arange(length) % (tokenizer.vocab_size - len(special)) + len(special)
    document_ids = np.repeat(np.arange(1, documents + 1), -(-length // documents))[:length].astype(np.int32)
    starts = np.flatnonzero(np.diff(document_ids, prepend=0))
    ids[starts] = tokenizer.cls_id
    ids[starts - 1] = tokenizer.sep_id
    document_ids[-4:] = 0
    ids[-4:] = tokenizer.pad_id
    return {"input_ids": ids, "document_ids": document_ids, "position_ids": np.zeros(length, dtype=np.int64)}


def test_mlm_masks_as_bert_does(tokenizer: Tokenizer) -> None:
    """15% of ordinary tokens are targets; 80% of those are masked, 10% random, 10% kept; within 3 sigma."""
    objective = MlmConfig().build(tokenizer, seed=5)
    original = row(tokenizer, 200_000, documents=1000)
    noised = objective.apply(original, sample=0)
    target = noised["labels"] != NO_TARGET
    special = np.isin(original["input_ids"], sorted(tokenizer.special_ids))
    assert not target[special].any()
    assert np.array_equal(noised["labels"][target], original["input_ids"][target])
    assert np.array_equal(noised["input_ids"][~target], original["input_ids"][~target])
    ordinary, targets = int((~special).sum()), int(target.sum())
    within_three_sigma(targets, ordinary, 0.15)
    masked = noised["input_ids"][target] == tokenizer.mask_id
    kept = noised["input_ids"][target] == original["input_ids"][target]
    within_three_sigma(int(masked.sum()), targets, 0.8)
    chance_same = 0.1 / (tokenizer.vocab_size - len(tokenizer.special_ids))
    within_three_sigma(int(kept.sum()), targets, 0.1 + chance_same)
    replaced = noised["input_ids"][target][~masked & ~kept]
    assert not np.isin(replaced, sorted(tokenizer.special_ids)).any()


def within_three_sigma(count: int, trials: int, probability: float) -> None:
    """Assert that a binomial count is no more than three standard deviations off."""
    assert abs(count - trials * probability) < 3 * math.sqrt(trials * probability * (1 - probability))


@settings(max_examples=20, deadline=None)
@given(sample=st.integers(0, 2**40), seed=st.integers(0, 2**63 - 1))
def test_noise_is_a_function_of_seed_and_sample(tokenizer: Tokenizer, sample: int, seed: int) -> None:
    original = row(tokenizer, 256)
    one = MlmConfig().build(tokenizer, seed).apply(original, sample)
    two = MlmConfig().build(tokenizer, seed).apply(original, sample)
    assert all(np.array_equal(one[key], two[key]) for key in one)
    for other in (
        MlmConfig().build(tokenizer, seed).apply(original, sample + 1),
        MlmConfig().build(tokenizer, seed ^ 1).apply(original, sample),
        MlmConfig().build(tokenizer, seed).apply(original, sample, Stream.EVALUATION_NOISE),
    ):
        assert not np.array_equal(one["labels"], other["labels"])


def test_clm_predicts_the_next_token_of_the_same_document(tokenizer: Tokenizer) -> None:
    original = row(tokenizer, 64, documents=3)
    labels = ClmConfig().build(tokenizer, 0).apply(original, 0)["labels"]
    for at in range(63):
        same = original["document_ids"][at] == original["document_ids"][at + 1] != 0
        assert labels[at] == (original["input_ids"][at + 1] if same else NO_TARGET)
    assert labels[63] == NO_TARGET


every_objective = pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name, one in sorted(ObjectiveConfig.members.items()) for kind in one.model_kinds],  # type: ignore[attr-defined]
)


def build(name: str, kind: ModelKind, tokenizer: Tokenizer) -> tuple[Objective, LanguageModel | Electra]:
    """Return an objective with the defaults of its config, and the small model that it trains."""
    shape = TransformerConfig.model_validate(
        {
            "causal": kind == "decoder",
            "num_decoder_layers": int(kind == "encoder-decoder"),
            "hidden_size": 16,
            "num_layers": 1,
            "num_heads": 2,
            "position": {"type": "learned", "max_length": 128},
            "token_types": 2 if kind == "encoder" else 0,
        }
    )
    objective: Objective = ObjectiveConfig.members[name]().build(tokenizer, 1)  # type: ignore[attr-defined]
    return objective, objective.attach_head(shape.build(tokenizer.vocab_size))


def batch_of(objective: Objective, rows: list[Row]) -> dict[str, torch.Tensor]:
    """Return the samples of these rows as a batch, all of one shape."""
    samples = [objective.sample(Fixed(rows), index, index) for index in range(len(rows))]
    return {key: torch.from_numpy(np.stack([one[key] for one in samples])) for key in samples[0]}


class Fixed:
    """A split of these rows."""

    num_windows = 1
    waste = 0.0

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self.num_rows = len(rows)

    def row(self, index: int) -> dict[str, np.ndarray]:
        return dict(self._rows[index])

    def document(self, index: int) -> int:
        return index


@every_objective
def test_every_objective_trains_on_rows_of_one_shape(
    tokenizer: Tokenizer, name: str, kind: ModelKind
) -> None:
    """Forward and backward of what it draws for packed, short and empty rows; its counts are its loss's."""
    objective, model = build(name, kind, tokenizer)
    empty = row(tokenizer, 64) | {"document_ids": np.zeros(64, dtype=np.int32)}
    rows = [row(tokenizer, 64, documents) for documents in (1, 2, 20)]
    batch = batch_of(objective, [*rows, empty])
    seq_length, decoder_length, share = objective.lengths(64)
    assert batch["input_ids"].shape == (4, seq_length)
    assert batch["labels"].shape[1] == (decoder_length or seq_length)
    assert 0 < share <= 1
    output = objective.loss(model, batch)
    assert objective.counts(batch) == {key: term.count for key, term in output.terms.items()}
    total = sum(term.sum * term.weight for term in output.terms.values())
    total.backward()
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    assert all(one.isfinite().all() for one in gradients)
    assert any(one.any() for one in gradients)
    assert objective.tokens(batch) > 0


@every_objective
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loss_is_the_summed_cross_entropy(
    tokenizer: Tokenizer, name: str, kind: ModelKind, dtype: torch.dtype
) -> None:
    """The head at targets alone gives the loss that full logits give (reference: torch, all positions)."""
    objective, model = build(name, kind, tokenizer)
    model = model.to(dtype)
    language_model = model.generator if isinstance(model, Electra) else model
    batch = batch_of(objective, [row(tokenizer, 64, documents=2)] * 3)
    term = objective.loss(model, batch).terms["loss"]
    decided = ("labels", "original_labels", "uniform")
    full = language_model(**{key: batch[key] for key in objective.inputs if key not in decided}).logits
    expected = F.cross_entropy(full.float().flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    assert float(term.sum.detach()) == pytest.approx(
        float(expected.detach()), rel=1e-5 if dtype == torch.float32 else 2e-2
    )
    assert objective.counts(batch)["loss"] == term.count
    read = [int((batch[key] != 0).sum()) for key in batch if key.endswith("document_ids")]
    assert objective.tokens(batch) == sum(read)


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    tokenizer = BpeConfig(vocab_size=512).build(TEXT)
    with pytest.raises(TokenizerError, match=r"has no mask token; use tokenizer\.type=wordpiece"):
        MlmConfig().build(tokenizer, 1)


def test_a_steps_flops_are_those_of_its_stage(tokenizer: Tokenizer) -> None:
    keys = {"causal": True, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 100}
    shape = TransformerConfig.model_validate({**keys, "position": {"type": "rotary"}})
    objective = ClmConfig().build(tokenizer, 0)
    later = StageConfig(after_step=3, seq_length=48, global_batch_size=6)
    flops = flops_by_step(shape, objective, Plan.of(Stage(0, 0, 24, 4, 2, (1.0,)), [later]))
    first, second = 4 * objective.flops(shape, 24), 6 * objective.flops(shape, 48)
    assert [flops(step) for step in range(1, 7)] == [first] * 3 + [second] * 3
