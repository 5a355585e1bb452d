"""Muon against torch's, DeepSpeed's and the singular value decomposition, and what it takes for a matrix."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lumbre import config as configs
from lumbre.errors import ConfigError
from lumbre.models import LanguageModel, ModelConfig, TransformerConfig
from lumbre.models.attention.module import Attention
from lumbre.models.fused import fused_rows
from lumbre.models.mixture import MixtureOfExperts, Router
from lumbre.models.mlp import Mlp
from lumbre.optim import MuonConfig, set_learning_rate
from lumbre.optim.muon import MOMENTUM, is_hidden_matrix
from lumbre.optim.newton_schulz import COEFFICIENTS, orthogonalize, zeropower

SHAPES = {
    "blocks.0.square.weight": (12, 12),
    "blocks.0.tall.weight": (40, 8),
    "blocks.0.wide.weight": (8, 24),
    "blocks.1.broad.weight": (16, 20),
}
"""Of matrices; the tall and the wide one go over the small product."""
REST = {"embedding.weight": (30, 12), "blocks.0.tall.bias": (40,), "head.weight": (30, 12)}


def parameters(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype))
        for name, shape in shapes.items()
    }


def gradients(shapes: dict[str, tuple[int, ...]], steps: int) -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(6)
    for _ in range(steps):
        yield {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def follow(
    one: torch.optim.Optimizer,
    other: torch.optim.Optimizer,
    ours: dict[str, nn.Parameter],
    theirs: dict[str, nn.Parameter],
) -> float:
    """Give both the same gradients for some steps; return the largest difference over the way gone."""
    start = {name: parameter.detach().clone() for name, parameter in ours.items()}
    for named in gradients({name: tuple(one.shape) for name, one in ours.items()}, 6):
        for name, gradient in named.items():
            ours[name].grad = gradient.to(ours[name].dtype)
            theirs[name].grad = gradient.to(theirs[name].dtype)
        one.step()
        other.step()
    differences = []
    for name, parameter in ours.items():
        moved = (parameter.detach() - start[name]).abs().max()
        assert moved > 0
        differences.append(float((parameter.detach() - theirs[name].detach()).abs().max() / moved))
    return max(differences)


def by_decomposition(matrix: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the iteration's result from the singular values, which its polynomial alone changes."""
    a, b, c = COEFFICIENTS
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    return left @ torch.diag(values) @ right


@given(rows=st.integers(1, 20), columns=st.integers(1, 60), steps=st.integers(1, 7), seed=st.integers(0, 99))
def test_newton_schulz_changes_the_singular_values_by_its_polynomial(
    rows: int, columns: int, steps: int, seed: int
) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    expected = by_decomposition(matrix, steps)
    for dtype, bound in ((torch.float32, 2e-5), (torch.float64, 1e-10)):
        found = zeropower(matrix.to(dtype), steps, torch.float32)
        assert found.dtype == dtype
        assert (found - expected).abs().max() < bound


@given(
    rank=st.integers(1, 3),
    size=st.sampled_from([(8, 8), (6, 30), (30, 6)]),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_five_steps_bring_singular_values_near_one_whatever_the_gradients_size(
    rank: int, size: tuple[int, int], scale: float
) -> None:
    """Those that are well above nothing; a matrix of zeros stays one."""
    generator = torch.Generator().manual_seed(rank)
    left, _ = torch.linalg.qr(torch.randn(size[0], rank, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(size[1], rank, generator=generator, dtype=torch.float64))
    values = torch.linalg.svdvals(zeropower(scale * left @ right.mT, 5, torch.float32))
    assert values[:rank].min() > 0.65
    assert values[:rank].max() < 1.25
    assert values[rank:].max() < 1e-6 if rank < min(size) else True
    assert not zeropower(torch.zeros(size), 5, torch.float32).any()


def test_a_matrix_comes_out_the_same_to_the_bit_beside_any_others() -> None:
    """On which rank it is done, beside which, must not show."""
    matrices = [torch.randn(8, 24), torch.randn(3, 8, 24), torch.randn(24, 8), torch.randn(8, 24)]
    alone = [matrix.clone() for matrix in matrices]
    for matrix in alone:
        orthogonalize([matrix], 5, torch.float32)
    orthogonalize(matrices, 5, torch.float32)
    assert all(map(torch.equal, matrices, alone))


@pytest.mark.parametrize("update_scale", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_agrees_with_torchs(update_scale: Any, nesterov: bool) -> None:
    """torch's computes in bfloat16, whatever the weights are."""
    config = MuonConfig(
        learning_rate=0.02,
        weight_decay=0.1,
        update_scale=update_scale,
        nesterov=nesterov,
        newton_schulz_dtype="bfloat16",
    )
    ours, theirs = parameters(SHAPES, torch.float32), parameters(SHAPES, torch.float32)
    other = torch.optim.Muon(
        theirs.values(), lr=0.02, weight_decay=0.1, nesterov=nesterov, adjust_lr_fn=update_scale
    )
    assert follow(config.build(ours.items()), other, ours, theirs) < 5e-2


def test_muon_agrees_with_torchs_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's one cast to bfloat16 left out, to the precision of float32."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    ours, theirs = parameters(SHAPES, torch.float32), parameters(SHAPES, torch.float32)
    one = MuonConfig(learning_rate=0.02, weight_decay=0.1).build(ours.items())
    other = torch.optim.Muon(theirs.values(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    assert follow(one, other, ours, theirs) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_muon_agrees_with_deepspeeds() -> None:
    """Matrices by both of its ways, in float32, and the rest by its AdamW."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from deepspeed.runtime.zero.muon import original_muon
        from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    config = MuonConfig(
        learning_rate=0.02,
        adamw_learning_rate=3e-3,
        weight_decay=0.1,
        update_scale="original",
        momentum=0.9,
    )
    shapes = {**SHAPES, **REST}
    ours, theirs = parameters(shapes, torch.float32), parameters(shapes, torch.float32)
    one = config.build(ours.items())
    set_learning_rate(one, config.learning_rate)
    rest = {"betas": (config.beta1, config.beta2), "eps": config.epsilon, "lr": 3e-3}
    other = MuonWithAuxAdam(
        [
            {
                "params": [theirs[name] for name in SHAPES],
                "use_muon": True,
                "lr": 0.02,
                "momentum": 0.9,
                "weight_decay": 0.1,
            },
            {
                "params": [theirs[name] for name in REST if len(REST[name]) > 1],
                "use_muon": False,
                "weight_decay": 0.1,
                **rest,
            },
            {
                "params": [theirs["blocks.0.tall.bias"]],
                "use_muon": False,
                "weight_decay": 0.0,
                **rest,
            },
        ]
    )
    with torch.compiler.set_stance("force_eager"):
        assert original_muon.ns_compute_dtype("gram") == torch.float32
        assert follow(one, other, ours, theirs) < 1e-4


def test_rms_of_an_update_is_about_that_of_adamw() -> None:
    """0.2, whatever the shape (Moonlight, section 2.2)."""
    for shape in ((64, 64), (64, 256), (300, 20)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        MuonConfig(learning_rate=1.0, weight_decay=0.0).build([("blocks.0.weight", weight)]).step()
        assert weight.square().mean().sqrt().item() == pytest.approx(0.2, rel=0.25)


def test_what_is_fused_is_orthogonalized_apart() -> None:
    """A weight of three maps moves as three weights do."""
    rows = (8, 4, 4)
    whole = nn.Parameter(torch.zeros(16, 12))
    parts = {
        f"blocks.0.{index}.weight": nn.Parameter(torch.zeros(size, 12)) for index, size in enumerate(rows)
    }
    whole.grad = torch.randn(16, 12, generator=torch.Generator().manual_seed(1))
    for part, gradient in zip(parts.values(), whole.grad.split(rows), strict=True):
        part.grad = gradient.clone()
    config = MuonConfig(learning_rate=0.1)
    config.build([("blocks.0.qkv.weight", whole)], {"blocks.0.qkv.weight": rows}).step()
    config.build(parts.items()).step()
    assert torch.equal(whole.detach(), torch.cat([part.detach() for part in parts.values()]))


def test_each_part_has_its_rate() -> None:
    """Times the schedule's factor and the layer's own."""
    shapes = {**SHAPES, **REST}
    config = MuonConfig(learning_rate=0.02, adamw_learning_rate=0.001, layer_decay=0.5)
    optimizer = config.build(parameters(shapes, torch.float32).items())
    set_learning_rate(optimizer, 0.5 * config.learning_rate)
    rates = {
        (group["states"] == MOMENTUM, group["params"][0].ndim, round(group["lr"], 9))
        for group in optimizer.param_groups
    }
    assert rates == {
        (True, 2, 0.005),
        (True, 2, 0.0025),
        (False, 2, 0.0005),
        (False, 2, 0.0000625),
        (False, 1, 0.000125),
    }


MODELS = {
    "gpt-tiny": {},
    "bert-tiny": {},
    "llama-tiny": {},
    "modernbert-tiny": {},
    "mixture-tiny": {},
    "t5-mini": {"hidden_size": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2},
}


def built(name: str) -> nn.Module:
    path = Path("configs/model") / f"{name}.yaml"
    overrides = ["vocab_size=64", *(f"{key}={value}" for key, value in MODELS[name].items())]
    config = configs.load(ModelConfig, path, overrides, room="model")
    assert isinstance(config, TransformerConfig)
    with torch.device("meta"):
        return LanguageModel(config.build())


@pytest.mark.parametrize("name", MODELS)
def test_hidden_matrices_are_the_maps_of_blocks(name: str) -> None:
    """Told from names, held against what the modules are."""
    model = built(name)
    expected = set()
    for prefix, module in model.named_modules():
        if ".blocks." not in f".{prefix}.":
            continue
        if isinstance(module, nn.Linear) and not isinstance(module, Router):
            expected.add(f"{prefix}.weight")
        if isinstance(module, MixtureOfExperts):
            expected |= {f"{prefix}.up", f"{prefix}.down"}
    found = {key for key, one in model.named_parameters() if is_hidden_matrix(key, one.shape)}
    assert found == expected
    assert expected


@pytest.mark.parametrize("name", MODELS)
def test_fused_rows_are_those_of_their_weights(name: str) -> None:
    model = built(name)
    weights = dict(model.named_parameters())
    fused = fused_rows(model)
    for key, rows in fused.items():
        assert sum(rows) == weights[key].shape[-2]
    products = [
        module
        for module in model.modules()
        if isinstance(module, Attention) or (isinstance(module, Mlp | MixtureOfExperts) and module.gated)
    ]
    assert len(fused) == len(products)


def test_fused_rows_are_queries_then_keys_then_values() -> None:
    """Queries of zeros look at all alike, whatever the keys are; values of zeros give zeros."""
    attention = Attention(12, num_heads=4, num_kv_heads=2, head_size=3, bias=False)
    assert attention.qkv is not None
    (rows,) = fused_rows(attention).values()
    queries, keys, values = attention.qkv.weight.detach().split(rows)
    x_BTD = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))

    def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float | None) -> torch.Tensor:
        heads = (one.transpose(1, 2) for one in (q, k, v))
        return F.scaled_dot_product_attention(*heads, enable_gqa=True).transpose(1, 2)

    queries.zero_()
    before = attention(x_BTD, None, kernel).detach()
    keys.mul_(7)
    assert torch.equal(attention(x_BTD, None, kernel).detach(), before)
    assert before.any()
    values.zero_()
    assert not attention(x_BTD, None, kernel).any()


@pytest.mark.parametrize(
    ("name", "shape", "hidden"),
    [
        ("transformer.h.0.attn.c_attn.weight", (64, 192), True),
        ("transformer.wte.weight", (100, 64), False),
        ("transformer.wpe.weight", (100, 64), False),
        ("lm_head.weight", (100, 64), False),
        ("bert.encoder.layer.0.attention.self.query.weight", (64, 64), True),
        ("bert.encoder.layer.0.attention.output.LayerNorm.weight", (64,), False),
        ("bert.pooler.dense.weight", (64, 64), False),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", (32, 8), False),
        ("model.layers.0.mlp.gate_proj.weight", (96, 64), True),
        ("model.layers.0.block_sparse_moe.gate.weight", (8, 64), False),
        ("model.layers.0.mlp.experts.gate_up_proj", (8, 96, 64), True),
        ("trunk.blocks.0.mlp.up_bias", (8, 96), False),
        ("trunk.blocks.0.mlp.shared_gate.weight", (1, 64), False),
    ],
)
def test_names_of_other_families_are_told_apart(name: str, shape: tuple[int, ...], hidden: bool) -> None:
    assert is_hidden_matrix(name, shape) == hidden


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer.type: no parameter that trains is a matrix of a block"):
        MuonConfig(learning_rate=1.0).build(nn.Linear(2, 2).named_parameters())


def test_the_scales_are_their_formulas() -> None:
    rms, original = MuonConfig(learning_rate=1.0), MuonConfig(learning_rate=1.0, update_scale="original")
    assert rms.scale(100, 400) == pytest.approx(0.2 * 20)
    assert rms.scale(900, 400) == pytest.approx(0.2 * 30)
    assert original.scale(100, 400) == 1.0
    assert original.scale(900, 400) == pytest.approx(math.sqrt(9 / 4))
