"""Each encoding against its paper's formula."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre.models.position import (
    Alibi,
    AlibiConfig,
    Learned,
    LearnedConfig,
    PositionConfig,
    Rotary,
    RotaryConfig,
    Sinusoidal,
    SinusoidalConfig,
)
from lumbre.models.position.alibi import slopes


def test_every_encoding_opens_exactly_one_door() -> None:
    position_ids = torch.arange(5)[None]
    x = torch.zeros(1, 5, 12)
    for kind in sorted(PositionConfig.members):
        keys = {"type": kind} | ({"max_length": 8} if kind == "learned" else {})
        position = PositionConfig.model_validate(keys).build(12, 2, 6)
        opened = [
            not torch.equal(position.embed(x, position_ids), x),
            position.rotation(position_ids) is not None,
            position.bias(position_ids) is not None,
        ]
        assert sum(opened) == 1, kind


def test_sinusoids_are_the_papers_formula() -> None:
    position = SinusoidalConfig().build(16, 2, 8)
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
    position = RotaryConfig(theta=1000.0).build(16, 2, 8)
    qk = torch.randn(1, 6, 2, 8, generator=torch.Generator().manual_seed(seed))

    def scores(offset: int) -> torch.Tensor:
        rotate = position.rotation(torch.arange(offset, offset + 6)[None])
        turned = rotate(qk)
        return turned[:, :, 0] @ turned[:, :, 1].transpose(1, 2)

    torch.testing.assert_close(scores(start), scores(start + shift), atol=2e-3, rtol=2e-3)


def test_rotary_turns_each_pair_by_position_times_frequency() -> None:
    position = RotaryConfig(theta=100.0).build(8, 2, 4)
    assert isinstance(position, Rotary)
    x = torch.tensor([1.0, 0.0, 0.0, 2.0]).view(1, 1, 1, 4)
    turned = position.rotation(torch.tensor([[3]]))(x).flatten()
    wanted = [math.cos(3.0), -2 * math.sin(0.3), math.sin(3.0), 2 * math.cos(0.3)]
    torch.testing.assert_close(turned, torch.tensor(wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotary_keeps_dtype_and_length_of_vectors(dtype: torch.dtype) -> None:
    position = RotaryConfig().build(64, 2, 32).to(dtype)
    x = torch.randn(2, 9, 3, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    turned = position.rotation(torch.arange(9)[None] * 1000)(x)
    assert turned.dtype == dtype
    torch.testing.assert_close(turned.float().norm(dim=-1), x.float().norm(dim=-1), rtol=2e-2, atol=1e-3)


def test_alibi_slopes_are_the_papers() -> None:
    assert slopes(8) == [2.0**-power for power in range(1, 9)]
    assert slopes(16) == pytest.approx([2.0 ** (-power / 2) for power in range(1, 17)])
    assert slopes(1) == [2.0**-8]
    # Twelve heads: those of 8, then the 1st, 3rd, 5th and 7th of 16.
    assert slopes(12) == pytest.approx([*slopes(8), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def test_alibi_biases_by_distance_to_either_side() -> None:
    position = AlibiConfig().build(16, 2, 8)
    assert isinstance(position, Alibi)
    bias = position.bias(torch.arange(4)[None])
    distance = torch.tensor([[0.0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0]])
    torch.testing.assert_close(bias, -torch.stack([distance / 16, distance / 256])[None])


def test_learned_positions_add_the_vector_of_each_position() -> None:
    position = LearnedConfig(max_length=6).build(4, 2, 2)
    assert isinstance(position, Learned)
    out = position.embed(torch.ones(1, 3, 4), torch.tensor([[2, 0, 5]]))
    torch.testing.assert_close(out[0], 1 + position.embedding.weight[[2, 0, 5]])
