"""Each encoding against its paper's formula, and against the models that made it known."""

import math
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding
from transformers.models.t5.modeling_t5 import T5Attention

from lumbre.models.position import (
    Alibi,
    AlibiConfig,
    Learned,
    LearnedConfig,
    PositionConfig,
    Relative,
    RelativeConfig,
    Rotary,
    RotaryConfig,
    RotaryScaling,
    Rotation,
    Sinusoidal,
    SinusoidalConfig,
    rotate,
)
from lumbre.models.position.alibi import slopes
from lumbre.models.position.sinusoidal import frequencies

SEED = st.integers(0, 2**31 - 1)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", sorted(PositionConfig.members))
def test_every_encoding_opens_at_most_one_door_and_none_opens_none(kind: str, causal: bool) -> None:
    position_ids = torch.arange(5)[None]
    x = torch.zeros(1, 5, 12)
    keys = {"type": kind} | ({"max_length": 8} if kind == "learned" else {})
    position = PositionConfig.model_validate(keys).build(12, 2, 6, causal)
    opened = [
        not torch.equal(position.embed(x, position_ids), x),
        position.rotation(position_ids) is not None,
        position.bias(position_ids, position_ids) is not None,
    ]
    assert sum(opened) == (kind != "none")


def test_sinusoids_are_the_papers_formula() -> None:
    position = SinusoidalConfig().build(16, 2, 8, False)
    assert isinstance(position, Sinusoidal)
    wave = position.embed(torch.zeros(1, 40, 16), torch.arange(40)[None])[0]
    for pos in (0, 1, 7, 39):
        for i in range(8):
            angle = pos / 10_000 ** (2 * i / 16)
            assert wave[pos, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert wave[pos, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    scaled = position.embed(torch.ones(1, 40, 16), torch.arange(40)[None])[0] - wave
    torch.testing.assert_close(scaled, torch.full((40, 16), 4.0))


@settings(max_examples=10, deadline=None)
@given(start=st.integers(0, 500), shift=st.integers(0, 500), seed=st.integers(0, 9))
def test_rotary_scores_depend_on_distance_alone(start: int, shift: int, seed: int) -> None:
    position = RotaryConfig(theta=1000.0).build(16, 2, 8, False)
    qk = randn(1, 6, 2, 8, seed=seed)

    def scores(offset: int) -> torch.Tensor:
        turned = rotate(qk, position.rotation(torch.arange(offset, offset + 6)[None]))
        return turned[:, :, 0] @ turned[:, :, 1].transpose(1, 2)

    torch.testing.assert_close(scores(start), scores(start + shift), atol=2e-3, rtol=2e-3)


def test_rotary_turns_each_pair_by_position_times_frequency() -> None:
    position = RotaryConfig(theta=100.0).build(8, 2, 4, False)
    assert isinstance(position, Rotary)
    x = torch.tensor([1.0, 0.0, 0.0, 2.0]).view(1, 1, 1, 4)
    turned = rotate(x, position.rotation(torch.tensor([[3]]))).flatten()
    wanted = [math.cos(3.0), -2 * math.sin(0.3), math.sin(3.0), 2 * math.cos(0.3)]
    torch.testing.assert_close(turned, torch.tensor(wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_keeps_dtype_and_length_of_vectors(dtype: torch.dtype) -> None:
    position = RotaryConfig().build(64, 2, 32, False).to(dtype)
    x = randn(2, 9, 3, 32).to(dtype)
    turned = rotate(x, position.rotation(torch.arange(9)[None] * 1000))
    assert turned.dtype == dtype
    torch.testing.assert_close(turned.float().norm(dim=-1), x.float().norm(dim=-1), rtol=2e-2, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(
    batch=st.integers(1, 3),
    time=st.integers(1, 9),
    heads=st.integers(1, 5),
    pairs=st.integers(1, 20),
    shared=st.booleans(),
    strided=st.booleans(),
    seed=SEED,
)
def test_rotation_and_its_gradient_are_transformers(
    batch: int, time: int, heads: int, pairs: int, shared: bool, strided: bool, seed: int
) -> None:
    angle = 9 * randn(1 if shared else batch, time, 1, pairs, seed=seed)
    rotation = Rotation(angle.cos(), angle.sin())
    x = randn(batch, time, heads + 2, 2 * pairs, seed=seed + 1).double()
    x = (x[:, :, :heads] if strided else x[:, :, :heads].contiguous()).requires_grad_()
    upstream = randn(batch, heads, time, 2 * pairs, seed=seed + 2).double().transpose(1, 2)
    turned = rotate(x, rotation)
    full = [torch.cat((table, table), dim=-1)[:, :, 0].double() for table in rotation]
    wanted, _ = apply_rotary_pos_emb(x, x, *full, unsqueeze_dim=2)
    torch.testing.assert_close(turned, wanted, rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(turned, x, upstream)
    (wanted_gradient,) = torch.autograd.grad(wanted, x, upstream)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-12, atol=1e-12)
    in_bfloat16 = rotate(x.detach().bfloat16(), rotation)
    in_float32 = rotate(x.detach().bfloat16().float(), rotation)
    assert torch.equal(in_bfloat16, in_float32.bfloat16())


LONG = st.integers(8, 100_000)
FACTOR = st.floats(1, 64)
SCALINGS: dict[str, Any] = {
    "none": st.just({}),
    "linear": st.fixed_dictionaries({"factor": FACTOR}),
    "llama3": st.fixed_dictionaries(
        {
            "factor": FACTOR,
            "low_freq_factor": st.floats(0.1, 4),
            "high_freq_factor": st.floats(4.5, 64),
            "original_max_length": LONG,
        }
    ),
    "yarn": st.fixed_dictionaries(
        {"factor": FACTOR, "original_max_length": LONG},
        optional={
            "beta_fast": st.floats(8, 64),
            "beta_slow": st.floats(0.1, 4),
            "attention_factor": st.floats(0.1, 2),
        },
    ),
}


@pytest.mark.parametrize("kind", sorted(RotaryScaling.members))
@settings(max_examples=30, deadline=None)
@given(data=st.data(), pairs=st.integers(1, 64), theta=st.floats(100, 1e6))
def test_scaled_frequencies_are_transformers(kind: str, data: Any, pairs: int, theta: float) -> None:
    keys = data.draw(SCALINGS[kind])
    scaling = RotaryScaling.model_validate({"type": kind, **keys})
    theirs = {"rope_type": "default" if kind == "none" else kind, "rope_theta": theta, **keys}
    if "original_max_length" in theirs:
        theirs["original_max_position_embeddings"] = theirs.pop("original_max_length")
    config = transformers.LlamaConfig(head_dim=2 * pairs, rope_parameters=theirs)
    init = ROPE_INIT_FUNCTIONS.get(kind, LlamaRotaryEmbedding.compute_default_rope_parameters)
    wanted, factor = init(config)
    ours = scaling.scale(frequencies(2 * pairs, theta, torch.device("cpu")), theta)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, wanted, rtol=2e-6, atol=0)
    assert scaling.magnitude == pytest.approx(factor, rel=1e-12)


def test_global_layers_are_scaled_and_local_ones_have_their_own_theta() -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 160_000.0, "factor": 4.0}
    yarn["original_max_position_embeddings"] = 64
    local = {"rope_type": "default", "rope_theta": 10_000.0}
    types = {"full_attention": yarn, "sliding_attention": local}
    theirs = ModernBertRotaryEmbedding(
        transformers.ModernBertConfig(hidden_size=64, num_attention_heads=2, rope_parameters=types)
    )
    scaling = RotaryScaling.model_validate({"type": "yarn", "factor": 4, "original_max_length": 64})
    ours = RotaryConfig(theta=160_000.0, local_theta=10_000.0, scaling=scaling).build(64, 2, 32, False)
    position_ids = torch.arange(300)[None]
    for kind in types:
        rotation = ours.rotation(position_ids, local=kind == "sliding_attention")
        wanted = theirs(torch.zeros(1), position_ids, kind)
        for table, wanted_table in zip(rotation, wanted, strict=True):
            assert table.dtype == torch.float32
            torch.testing.assert_close(table[:, :, 0].repeat(1, 1, 2), wanted_table, rtol=0, atol=2e-5)
    alike = RotaryConfig(theta=160_000.0, scaling=scaling).build(64, 2, 32, False)
    for everywhere, globally in zip(
        alike.rotation(position_ids, local=True), ours.rotation(position_ids), strict=True
    ):
        assert torch.equal(everywhere, globally)


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        (
            {"type": "llama3", "factor": 8, "original_max_length": 64, "high_freq_factor": 1},
            "high_freq_factor",
        ),
        ({"type": "yarn", "factor": 8, "original_max_length": 64, "beta_fast": 0.5}, "beta_fast"),
    ],
)
def test_scalings_without_a_blend_are_refused(keys: dict[str, Any], key: str) -> None:
    config = RotaryConfig.model_validate({"scaling": keys})
    assert [problem.key for problem in config.all_problems()] == [f"scaling.{key}"]


def test_alibi_slopes_are_the_papers() -> None:
    assert slopes(8) == [2.0**-power for power in range(1, 9)]
    assert slopes(16) == pytest.approx([2.0 ** (-power / 2) for power in range(1, 17)])
    assert slopes(1) == [2.0**-8]
    # Twelve heads: those of 8, then the 1st, 3rd, 5th and 7th of 16.
    assert slopes(12) == pytest.approx([*slopes(8), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def test_alibi_biases_by_distance_to_either_side() -> None:
    position = AlibiConfig().build(16, 2, 8, False)
    assert isinstance(position, Alibi)
    bias = position.bias(torch.arange(4)[None], torch.arange(4)[None])
    distance = torch.tensor([[0.0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0]])
    torch.testing.assert_close(bias, -torch.stack([distance / 16, distance / 256])[None])
    later = position.bias(torch.tensor([[3]]), torch.arange(4)[None])
    assert torch.equal(later, bias[:, :, 3:])


@settings(max_examples=30, deadline=None)
@given(
    causal=st.booleans(),
    num_buckets=st.integers(4, 70),
    room=st.integers(1, 200),
    lengths=st.tuples(st.integers(1, 40), st.integers(1, 300)),
    past=st.integers(0, 300),
    seed=SEED,
)
def test_relative_bias_is_t5s(
    causal: bool, num_buckets: int, room: int, lengths: tuple[int, int], past: int, seed: int
) -> None:
    max_distance = num_buckets // 2 + room
    ours = RelativeConfig(num_buckets=num_buckets, max_distance=max_distance).build(12, 3, 4, causal)
    assert isinstance(ours, Relative)
    theirs = T5Attention(
        transformers.T5Config(
            d_model=12,
            num_heads=3,
            d_kv=4,
            is_decoder=causal,
            relative_attention_num_buckets=num_buckets,
            relative_attention_max_distance=max_distance,
        ),
        has_relative_attention_bias=True,
        layer_idx=0,
    )
    with torch.no_grad():
        ours.embedding.weight.copy_(randn(num_buckets, 3, seed=seed))
        theirs.relative_attention_bias.weight.copy_(ours.embedding.weight)
    queries, keys = lengths
    bias = ours.bias(torch.arange(past, past + queries)[None], torch.arange(keys)[None])
    wanted = theirs.compute_bias(queries, keys, past_seen_tokens=past)
    assert bias.is_contiguous()
    assert torch.equal(bias, wanted)
    upstream = randn(*bias.shape, seed=seed).double()
    (gradient,) = torch.autograd.grad(
        ours.double().bias(torch.arange(past, past + queries)[None], torch.arange(keys)[None]),
        ours.embedding.weight,
        upstream,
    )
    (wanted_gradient,) = torch.autograd.grad(
        theirs.double().compute_bias(queries, keys, past_seen_tokens=past),
        theirs.relative_attention_bias.weight,
        upstream,
    )
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-12, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(causal=st.booleans(), shift=st.integers(-10_000, 10_000), batch=st.integers(1, 3), seed=SEED)
def test_relative_bias_knows_the_distance_alone(causal: bool, shift: int, batch: int, seed: int) -> None:
    position = RelativeConfig(num_buckets=8, max_distance=20).build(12, 3, 4, causal)
    generator = torch.Generator().manual_seed(seed)
    query, key = (torch.randint(-99, 99, (batch, size), generator=generator) for size in (5, 7))
    bias = position.bias(query, key)
    assert bias.shape == (batch, 3, 5, 7)
    assert torch.equal(bias, position.bias(query + shift, key + shift))
    row, column = batch - 1, 6
    alone = position.bias(torch.zeros(1, 1).long(), (key - query[:, 4:])[row : row + 1, column:])
    assert torch.equal(alone.flatten(), bias[row, :, 4, column])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["alibi", "relative"])
def test_biases_are_float32_and_have_the_batch_of_the_positions(kind: str, dtype: torch.dtype) -> None:
    position = PositionConfig.model_validate({"type": kind}).build(24, 3, 8, True).to(dtype)
    for batch in (1, 2):
        bias = position.bias(torch.arange(4, 6).repeat(batch, 1), torch.arange(6).repeat(batch, 1))
        assert bias is not None
        assert (bias.shape, bias.dtype) == ((batch, 3, 2, 6), torch.float32)


def test_relative_distances_without_room_are_refused() -> None:
    config = RelativeConfig(num_buckets=32, max_distance=16)
    assert [problem.key for problem in config.problems()] == ["max_distance"]
    assert not list(RelativeConfig(num_buckets=32, max_distance=17).problems())


def test_learned_positions_add_the_vector_of_each_position() -> None:
    position = LearnedConfig(max_length=6).build(4, 2, 2, False)
    assert isinstance(position, Learned)
    out = position.embed(torch.ones(1, 3, 4), torch.tensor([[2, 0, 5]]))
    torch.testing.assert_close(out[0], 1 + position.embedding.weight[[2, 0, 5]])
