"""ELECTRA's two models: what they share, what the generator draws, and what the detector is asked."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lumbre import config as configs
from lumbre.models import Detector, Electra, ModelConfig, TransformerConfig, generator_config
from lumbre.models.sampling import sample_linear

VOCABULARY, LENGTH = 37, 12
KEYS: dict[str, Any] = {
    "causal": False,
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 2,
    "position": {"type": "learned", "max_length": LENGTH},
    "norm_position": "post",
    "embedding_norm": True,
    "head_transform": True,
    "head_bias": True,
    "token_types": 2,
    "init_std": 0.3,
}


def electra(**keys: Any) -> Electra:
    torch.manual_seed(0)
    config = TransformerConfig.model_validate({**KEYS, **keys})
    return Electra(config.build(), generator_config(config, 0.5, 0.5)).double()  # type: ignore[arg-type]


def batch(rows: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return rows with masked tokens, padding at the end of some."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (rows, LENGTH), generator=generator)
    kept = torch.arange(LENGTH) < torch.randint(3, LENGTH + 1, (rows, 1), generator=generator)
    masked = (torch.rand((rows, LENGTH), generator=generator) < 0.4) & kept
    return {
        "input_ids": torch.where(masked, 0, tokens),
        "position_ids": torch.arange(LENGTH).expand(rows, -1),
        "document_ids": kept.int(),
        "labels": torch.where(masked, tokens, -100),
        "uniform": torch.rand((rows, LENGTH), generator=generator),
        "original_labels": torch.where(kept, tokens, -100),
    }


def test_tokens_are_drawn_by_their_probability() -> None:
    """Within 3 sigma of the softmax, whatever number of rows is held at a time."""
    generator = torch.Generator().manual_seed(1)
    draws = 100_000
    weight, bias = torch.randn(7, 5, generator=generator), torch.randn(7, generator=generator)
    x = torch.randn(1, 5, generator=generator)
    uniform = torch.rand(draws, generator=generator)
    drawn = sample_linear(x.expand(draws, 5), weight, bias, uniform)
    expected = (x @ weight.T + bias).softmax(dim=1)[0].double()
    counts = torch.bincount(drawn, minlength=7).double()
    assert ((counts - draws * expected).abs() < 3 * (draws * expected * (1 - expected)).sqrt()).all()
    again = sample_linear(x.expand(draws, 5), weight, bias, uniform, logits_at_once=7 * 1013)
    assert torch.equal(drawn, again)


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.floats(-2000, 2000), min_size=1, max_size=9),
    number=st.floats(0, 1, exclude_max=True, width=32),
)
@example(scores=[-2000.0, 2000.0], number=0.0)
def test_a_draw_is_the_token_at_which_the_running_sum_passes(scores: list[float], number: float) -> None:
    """Reference: a loop in Python; ties of rounding at the passing point are let through."""
    weight = torch.tensor(scores, dtype=torch.float64)[:, None]
    one = torch.ones(1, 1, dtype=torch.float64)
    found = int(sample_linear(one, weight, None, torch.tensor([number], dtype=torch.float64)))
    weights = [math.exp(score - max(scores)) for score in scores]
    assert weights[found] > 0
    before = sum(weights[:found]) / sum(weights)
    assert before <= number + 1e-12
    assert number <= before + weights[found] / sum(weights) + 1e-12


def test_the_generator_shares_what_embeds_tokens_and_nothing_else() -> None:
    model = electra()
    detector, generator = model.detector.trunk, model.generator.trunk
    assert generator.embedding is detector.embedding
    assert generator.position is detector.position
    assert generator.token_type_embedding is detector.token_type_embedding
    assert generator.embedding_norm is detector.embedding_norm
    assert model.generator.head.decoder.weight is detector.embedding.weight
    shared = {id(one) for one in detector.parameters()} & {id(one) for one in generator.parameters()}
    assert len(shared) == 5
    rotary = electra(position={"type": "rotary"})
    assert rotary.generator.trunk.position is not rotary.detector.trunk.position


@pytest.mark.parametrize(
    ("hidden_size", "share", "width", "heads"),
    [(768, 1 / 3, 256, 4), (1024, 0.25, 256, 4), (256, 0.25, 64, 1)],
)
def test_generators_have_the_published_sizes(hidden_size: int, share: float, width: int, heads: int) -> None:
    config = TransformerConfig.model_validate({**KEYS, "hidden_size": hidden_size, "num_layers": 12})
    made = generator_config(config, share, 1.0)
    assert (made.hidden_size, made.num_heads, made.mlp_width, made.num_layers) == (
        width,
        heads,
        4 * width,
        12,
    )


@settings(max_examples=60, deadline=None)
@given(hidden_size=st.integers(1, 2048), share=st.floats(0.01, 1), layers=st.integers(1, 40))
def test_every_generator_can_be_made(hidden_size: int, share: float, layers: int) -> None:
    config = TransformerConfig.model_validate(
        {
            **KEYS,
            "hidden_size": hidden_size,
            "num_heads": 1,
            "num_layers": layers,
            "position": {"type": "rotary"},
        }
    )
    made = generator_config(config, share, share)
    own = {problem.key for problem in config.all_problems()}
    assert {problem.key for problem in made.all_problems()} <= own
    assert made.embedding_width == hidden_size
    assert abs(made.hidden_size - hidden_size * share) <= made.num_heads + 1


def test_a_token_that_the_generator_restores_is_an_original() -> None:
    model, rows = electra(), batch(20)
    output = model(**rows)
    restored, drawn = torch.zeros_like(rows["labels"], dtype=torch.bool), output.generator.samples
    masked = rows["labels"] != -100
    restored[masked] = drawn == rows["labels"][masked]
    assert 0 < restored.sum() < masked.sum()
    assert torch.equal(output.replaced_BT, masked & ~restored)


def test_every_weight_learns_and_no_gradient_goes_through_what_is_drawn() -> None:
    model, rows = electra(), batch()
    output = model(**rows)
    (output.generator.loss + output.loss).backward()
    assert all(one.grad is not None for one in model.parameters())
    only = electra()
    only(**rows).generator.loss.backward()
    shared = {name for name, _ in model.detector.named_parameters(prefix="detector")}
    for (name, one), two in zip(model.named_parameters(), only.parameters(), strict=True):
        if name not in shared:
            torch.testing.assert_close(one.grad, two.grad)


def test_both_losses_are_what_their_models_alone_give() -> None:
    """Reference: each model run by itself, all logits, torch's losses."""
    model, rows = electra(), batch()
    output = model(**rows)
    places = {name: rows[name] for name in ("position_ids", "document_ids")}
    logits = model.generator(rows["input_ids"], **places).logits
    loss = F.cross_entropy(logits.flatten(0, 1), rows["labels"].flatten(), reduction="sum")
    torch.testing.assert_close(output.generator.loss, loss)
    masked, kept = rows["labels"] != -100, rows["document_ids"] != 0
    read = rows["input_ids"].clone()
    read[masked] = output.generator.samples
    found = model.detector(read, **places).logits
    targets = (read != rows["original_labels"])[kept].double()
    expected = F.binary_cross_entropy_with_logits(found[kept], targets, reduction="sum")
    torch.testing.assert_close(output.loss, expected)


def test_padding_changes_no_loss() -> None:
    model, rows = electra(), batch()
    changed = rows["input_ids"].masked_fill(rows["document_ids"] == 0, 5)
    before, after = model(**rows), model(**{**rows, "input_ids": changed})
    assert torch.equal(before.loss, after.loss)
    assert torch.equal(before.generator.loss, after.generator.loss)


def test_rows_without_a_masked_token_have_a_loss() -> None:
    rows = batch()
    rows |= {"labels": torch.full_like(rows["labels"], -100)}
    output = electra()(**rows)
    assert output.generator.loss == 0
    (output.loss + output.generator.loss).backward()
    nothing = electra()(**{**rows, "original_labels": rows["labels"]})
    assert nothing.loss == 0


@pytest.mark.parametrize("name", ["electra-small", "electra-base"])
def test_a_detector_has_the_published_number_of_parameters(name: str) -> None:
    config = configs.load(ModelConfig, f"configs/model/{name}.yaml", room="model")
    assert isinstance(config, TransformerConfig)
    theirs = transformers.ElectraConfig(
        embedding_size=config.embedding_width,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_heads,
        intermediate_size=config.mlp_width,
    )
    with torch.device("meta"):
        counts = [
            sum(one.numel() for one in model.parameters())
            for model in (Detector(config.build()), transformers.ElectraForPreTraining(theirs))  # type: ignore[arg-type]
        ]
    assert counts[0] == counts[1]
