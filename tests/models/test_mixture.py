"""A mixture of experts against transformers' own, and its balance loss against the formula."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig, Qwen2MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from lumbre.models.mixture import MixtureConfig, MixtureOfExperts, balance_loss, flops_per_token

HIDDEN, INTERMEDIATE = 8, 12


def mixture(bias: bool = False, gated: bool = True, seed: int = 0, **keys: Any) -> MixtureOfExperts:
    config = MixtureConfig.model_validate({"num_experts": 5, **keys})
    module = MixtureOfExperts(HIDDEN, INTERMEDIATE, "silu", gated, bias, config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return module


def tokens(rows: int = 3, length: int = 7, seed: int = 1, **keys: Any) -> Tensor:
    return torch.randn(rows, length, HIDDEN, generator=torch.Generator().manual_seed(seed), **keys)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in module.named_parameters()}
    assert not [name for name, gradient in found.items() if gradient is None]
    return found


@contextmanager
def double_router() -> Iterator[None]:
    """Let transformers' routers, which round to float32 in any dtype, take their softmax in float64."""
    with (
        mock.patch.object(Tensor, "float", Tensor.double),
        mock.patch.object(torch, "float", torch.float64),
    ):
        yield


def mixtral(
    D: int, width: int, E: int, K: int, S: int
) -> tuple[torch.nn.Module, dict[str, Any], dict[str, Any]]:
    config = MixtralConfig(hidden_size=D, intermediate_size=width, num_local_experts=E, num_experts_per_tok=K)
    return MixtralSparseMoeBlock(config), {"shared_experts": 0}, {}


def qwen(
    D: int, width: int, E: int, K: int, S: int
) -> tuple[torch.nn.Module, dict[str, Any], dict[str, Any]]:
    config = Qwen2MoeConfig(
        hidden_size=D,
        moe_intermediate_size=width,
        shared_expert_intermediate_size=S * width,
        num_experts=E,
        num_experts_per_tok=K,
        norm_topk_prob=False,
    )
    keys = {"shared_experts": S, "normalise_weights": False, "gated_shared": True}
    parts = ("shared_expert.gate_proj.weight", "shared_expert.up_proj.weight")
    names = {
        "shared.up.weight": parts,
        "shared.down.weight": ("shared_expert.down_proj.weight",),
        "shared_gate.weight": ("shared_expert_gate.weight",),
    }
    return Qwen2MoeSparseMoeBlock(config), keys, names


@pytest.mark.parametrize("family", [mixtral, qwen])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_outputs_and_gradients_are_transformers_own(family: Any, data: st.DataObject) -> None:
    D, width, E, S = (data.draw(st.integers(1, most)) for most in (9, 9, 6, 3))
    K = data.draw(st.integers(1, E))
    B, T, seed = (data.draw(st.integers(1, 6)) for _ in range(3))
    theirs, keys, names = family(D, width, E, K, S)
    config = MixtureConfig(num_experts=E, experts_per_token=K, **keys)
    ours = MixtureOfExperts(D, width, "silu", True, False, config).double()
    names |= {
        "router.weight": ("gate.weight",),
        "up": ("experts.gate_up_proj",),
        "down": ("experts.down_proj",),
    }
    theirs.double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    state = theirs.state_dict()
    ours.load_state_dict({name: torch.cat([state[part] for part in parts]) for name, parts in names.items()})
    x = torch.randn(B, T, D, dtype=torch.float64, generator=generator)
    direction = torch.randn(B, T, D, dtype=torch.float64, generator=generator)
    x_theirs, x_ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    with double_router():
        wanted = theirs(x_theirs)
    found, _ = ours(x_ours, None)
    (wanted * direction).sum().backward()
    (found * direction).sum().backward()
    pairs = [("output", found, wanted), ("input", x_ours.grad, x_theirs.grad)]
    from_theirs = gradients(theirs)
    for name, gradient in gradients(ours).items():
        pairs.append((name, gradient, torch.cat([from_theirs[part] for part in names[name]])))
    for name, one, other in pairs:
        assert (one - other).norm().item() <= 1e-9 * max(other.norm().item(), 1e-3), name


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_the_balance_loss_is_the_papers_formula(data: st.DataObject) -> None:
    B, T, E = (data.draw(st.integers(1, most)) for most in (4, 6, 5))
    K = data.draw(st.integers(1, E))
    kept = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=T, max_size=T), min_size=B, max_size=B))
    )
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    probabilities = torch.rand(B, T, E, dtype=torch.float64, generator=generator).softmax(-1)
    chosen = torch.rand(B, T, E, generator=generator).topk(K).indices
    wanted = 0.0
    for row in range(B):
        times = [time for time in range(T) if kept[row, time]]
        for expert in range(E):
            hits = sum(chosen[row, time].tolist().count(expert) for time in times)
            total = sum(probabilities[row, time, expert].item() for time in times)
            wanted += E * hits / (K * len(times)) * total / len(times) if times else 0.0
    assert balance_loss(probabilities, chosen, kept).item() == pytest.approx(wanted, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("experts_per_token", [1, 2, 5])
def test_uniform_routing_has_a_balance_loss_of_one_per_row(experts_per_token: int) -> None:
    module = mixture(experts_per_token=experts_per_token)
    torch.nn.init.zeros_(module.router.weight)
    _, balance = module(tokens(3), None)
    assert balance.item() == pytest.approx(3.0, rel=1e-6)


def test_the_worst_routing_costs_as_much_as_there_are_experts() -> None:
    module = mixture(experts_per_token=1)
    torch.nn.init.zeros_(module.router.weight)
    module.router.weight.data[3] = 1e3
    _, balance = module(tokens(2).abs() + 1, None)
    assert balance.item() == pytest.approx(2 * 5.0, rel=1e-6)


def test_the_balance_loss_pulls_the_router_towards_balance() -> None:
    module = mixture().double()
    x = tokens(dtype=torch.float64)
    _, before = module(x, None)
    before.backward()
    assert module.up.grad is None, "the experts are not what is balanced"
    with torch.no_grad():
        module.router.weight -= 0.01 * module.router.weight.grad
    _, after = module(x, None)
    assert after < before


def test_the_balance_loss_of_a_batch_is_the_sum_of_its_rows() -> None:
    module = mixture().double()
    x = tokens(4, dtype=torch.float64)
    kept = torch.rand(4, 7, generator=torch.Generator().manual_seed(0)) < 0.6
    kept[2] = False
    _, whole = module(x, kept)
    rows = [module(x[row : row + 1], kept[row : row + 1])[1].item() for row in range(4)]
    assert rows[2] == 0.0
    assert whole.item() == pytest.approx(sum(rows), rel=1e-12)


def test_padding_changes_neither_the_balance_loss_nor_the_kept_tokens() -> None:
    module = mixture().double()
    x, kept = tokens(dtype=torch.float64), torch.ones(3, 7, dtype=torch.bool)
    kept[:, 5:] = False
    y, balance = module(x, kept)
    alone, balance_alone = module(x[:, :5], None)
    torch.testing.assert_close(y[kept], alone.flatten(0, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(balance, balance_alone)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("crowded", [False, True])
def test_no_token_is_dropped(bias: bool, gated: bool, crowded: bool) -> None:
    """Every token is the weighted sum of its experts, even where all choose the same one."""
    module = mixture(bias, gated, shared_experts=2).double()
    x = tokens(dtype=torch.float64).abs()
    if crowded:
        module.router.weight.data[3] = 5.0
    with torch.no_grad():
        y, _ = module(x, None)
        for token, found in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True):
            probabilities = (module.router.weight @ token).softmax(0)
            experts = probabilities.argsort(descending=True)[:2].tolist()
            assert experts[0] == 3 or not crowded
            wanted = module.shared(token)
            for expert in experts:
                inner = module.up[expert] @ token + (module.up_bias[expert] if bias else 0)
                first = inner[:INTERMEDIATE] * inner[:INTERMEDIATE].sigmoid()
                inner = first * inner[INTERMEDIATE:] if gated else first
                out = module.down[expert] @ inner + (module.down_bias[expert] if bias else 0)
                wanted = wanted + out * probabilities[expert] / probabilities[experts].sum()
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_expert_that_nobody_chose_has_a_gradient_of_zeros(dtype: torch.dtype) -> None:
    module = mixture(bias=True, shared_experts=1, gated_shared=True).to(dtype)
    module.router.weight.data[2] = -5.0
    y, balance = module(tokens(dtype=dtype).abs(), None)
    (y.square().sum() + balance).backward()
    for name, gradient in gradients(module).items():
        if name in ("up", "down", "up_bias", "down_bias"):
            used = gradient.flatten(1).any(dim=1).tolist()
            assert used == [True, True, False, True, True], name


def test_a_batch_without_tokens_reaches_every_parameter() -> None:
    module = mixture(bias=True, shared_experts=1)
    y, balance = module(tokens(0), None)
    (y.sum() + balance).backward()
    assert not any(gradient.any() for gradient in gradients(module).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_editing_a_row_leaves_the_others(dtype: torch.dtype) -> None:
    module = mixture(shared_experts=1).to(dtype)
    x = tokens(dtype=dtype)
    before, _ = module(x, None)
    x[1] = tokens(1, seed=9, dtype=dtype)
    after, _ = module(x, None)
    assert not torch.equal(before[1], after[1])
    assert (before - after)[[0, 2]].abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_is_kept_and_routing_is_never_rounded(dtype: torch.dtype) -> None:
    module = mixture(bias=True, shared_experts=1, gated_shared=True).to(dtype)
    x = tokens(dtype=dtype)
    y, balance = module(x, None)
    assert y.dtype == dtype
    assert balance.dtype == torch.promote_types(dtype, torch.float32)
    wanted, exact = module.double()(x.double(), None)
    assert (y.double() - wanted).norm() <= {torch.bfloat16: 2e-2}.get(dtype, 1e-6) * wanted.norm()
    assert balance.item() == pytest.approx(exact.item(), rel=1e-6)


def test_autocast_rounds_the_experts_and_not_the_router() -> None:
    module = mixture(bias=True, shared_experts=1, gated_shared=True)
    plain, wanted = module(tokens(), None)
    with torch.autocast("cpu", torch.bfloat16):
        y, balance = module(tokens(), None)
        (y.sum() + balance).backward()
    assert torch.equal(balance, wanted)
    assert 1e-6 <= (y - plain).norm() / plain.norm() <= 2e-2
    assert {gradient.dtype for gradient in gradients(module).values()} == {torch.float32}


@pytest.mark.parametrize("autocast", [False, True])
def test_recomputing_changes_no_gradient(autocast: bool) -> None:
    found = []
    for recompute in (False, True):
        module, x = mixture(bias=True, shared_experts=1), tokens().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y, balance = checkpoint(module, x, None, use_reentrant=False) if recompute else module(x, None)
        (y.square().sum() + balance).backward()
        found.append([x.grad, *gradients(module).values()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shared", [{}, {"shared_experts": 2}, {"shared_experts": 1, "gated_shared": True}])
def test_flops_are_what_torch_counts(gated: bool, shared: dict[str, Any]) -> None:
    config = MixtureConfig(num_experts=5, experts_per_token=3, **shared)
    module = mixture(gated=gated, experts_per_token=3, **shared)
    with FlopCounterMode(display=False) as counter:
        y, balance = module(tokens().requires_grad_(), None)
        (y.sum() + balance).backward()
    forward = 2 * 3 * 7 * flops_per_token(config, HIDDEN, INTERMEDIATE, gated)
    assert counter.get_total_flops() == 3 * forward


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        ({"experts_per_token": 6}, "experts_per_token", "6 experts per token are more than the 5 there are"),
        ({"gated_shared": True}, "gated_shared", "there is no shared expert to gate"),
    ],
)
def test_experts_that_are_not_there_are_named(keys: dict[str, Any], key: str, words: str) -> None:
    (problem,) = MixtureConfig.model_validate({"num_experts": 5, **keys}).problems()
    assert problem.key == key
    assert words in str(problem)
