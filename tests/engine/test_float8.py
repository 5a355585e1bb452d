"""Products of 8-bit floats: scaled and rounded as their formula says, in the blocks alone.

On a CPU torchao multiplies what it has rounded in float32; on a GPU the same laws hold of its kernels.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lumbre.engine import AccelerateConfig
from lumbre.errors import ConfigError
from lumbre.models import LanguageModel, Transformer, TransformerConfig
from lumbre.models.fused import fused_rows
from lumbre.optim import AdamWConfig

pytest.importorskip("torchao", reason="torchao is not installed: make kernels")
float8 = pytest.importorskip("lumbre.engine.float8")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
RECIPES = pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
BIASED = {"bias": True, "position": {"type": "learned", "max_length": 32}, "norm": "layernorm"}
EXPERTS = {"mlp": {"type": "mixture_of_experts", "num_experts": 16, "shared_experts": 1}, "gated_mlp": True}


def model_of(**keys: Any) -> LanguageModel:
    torch.manual_seed(0)
    base = {"causal": True, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 48}
    base |= {"init_std": 0.3, "position": {"type": "rotary"}}
    return LanguageModel(TransformerConfig.model_validate({**base, **keys}).build())


def converted(recipe: str, device: str = "cpu", **keys: Any) -> LanguageModel:
    model = model_of(**keys).to(device)
    for trunk in (part for part in model.modules() if isinstance(part, Transformer)):
        float8.convert(trunk, recipe, emulate=device == "cpu")
    return model


def rounded(x: Tensor, recipe: str, dim: int, dtype: torch.dtype = torch.float8_e4m3fn) -> Tensor:
    """Return x as 8 bits have it: its largest value, or that along `dim`, becomes the type's largest."""
    largest = x.abs().max() if recipe == "tensorwise" else x.abs().amax(dim, keepdim=True)
    limit = torch.finfo(dtype).max
    scale = limit / largest.double().clamp(min=1e-12)
    if recipe == "rowwise":
        scale = 2 ** scale.log2().floor()
    scale = scale.float()
    return (x.float() * scale).clamp(-limit, limit).to(dtype).double() / scale


@RECIPES
@pytest.mark.parametrize("rows", [16, 23])
@pytest.mark.parametrize("device", DEVICES)
def test_a_map_and_its_gradients_are_products_of_scaled_8_bit_floats(
    recipe: str, rows: int, device: str
) -> None:
    """Float8's e4m3 for values; gradients are e5m2 with one scale a tensor."""
    block = converted(recipe, device, **BIASED).trunk.blocks[0]
    linear = block.mlp.up
    assert isinstance(linear, nn.Linear)
    x, y_grad = (
        torch.randn(rows, sides, dtype=torch.bfloat16, device=device)
        for sides in (linear.in_features, linear.out_features)
    )
    x[3] *= 50
    x.requires_grad_()
    y = linear(x)
    y.backward(y_grad)
    steep = torch.float8_e5m2 if recipe == "tensorwise" else torch.float8_e4m3fn
    weight, bias = linear.weight.detach(), linear.bias.detach()
    along, across = (rounded(y_grad, recipe, dim, steep) for dim in (-1, 0))
    wanted = {
        "output": (y, rounded(x.detach(), recipe, -1) @ rounded(weight, recipe, -1).T + bias.double()),
        "input's gradient": (x.grad, along @ rounded(weight, recipe, 0)),
        "weight's gradient": (linear.weight.grad, across.T @ rounded(x.detach(), recipe, 0)),
    }
    for name, (found, expected) in wanted.items():
        assert found is not None
        near(found, expected, name)
    exact = x.detach().double() @ weight.double().T + bias.double()
    with pytest.raises(AssertionError):
        near(y, exact, "rounded to 8 bits")


def near(found: Tensor, expected: Tensor, name: str) -> None:
    """Within the precision of bfloat16, and of a sum."""
    atol = 1e-4 * float(expected.abs().max())
    torch.testing.assert_close(found.detach().double(), expected, rtol=2**-7, atol=atol, msg=name)


@RECIPES
@pytest.mark.parametrize("keys", [BIASED, EXPERTS, {"causal": False, "num_decoder_layers": 2}], ids=str)
def test_only_the_plain_maps_of_blocks_multiply_8_bits(recipe: str, keys: dict[str, Any]) -> None:
    from torchao.float8.float8_linear import Float8Linear

    model = converted(recipe, **keys)
    changed = {name for name, part in model.named_modules() if isinstance(part, Float8Linear)}
    plain = {name for name, part in model_of(**keys).named_modules() if type(part) is nn.Linear}
    expected = {name for name in plain if ".blocks." in name and "shared_gate" not in name}
    assert expected
    assert changed == expected


@RECIPES
def test_parameters_keep_their_names_and_values_and_a_checkpoint_knows_nothing_of_8_bits(recipe: str) -> None:
    plain, model = model_of(gated_mlp=True), converted(recipe, gated_mlp=True)
    before, after = plain.state_dict(), model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert fused_rows(model) == fused_rows(plain)
    engines = [
        AccelerateConfig().build(one, AdamWConfig(learning_rate=1e-2), micro_batch_size=2)
        for one in (model, plain)
    ]
    ids = torch.randint(48, (2, 8))
    engines[0].backward(engines[0].forward()(ids, labels=ids).loss)
    engines[0].step(1e-2)
    held = {one.name: one for one in engines[0].fragments()}

    def read(kind: str, name: str, start: int, stop: int) -> Tensor:
        return held[name].tensors[kind][start:stop]

    engines[1].restore(read, 1)
    for one, other in zip(engines[0].fragments(), engines[1].fragments(), strict=True):
        assert (one.name, one.shape, one.start) == (other.name, other.shape, other.start)
        assert all(tensor.dtype == torch.float32 for tensor in one.tensors.values())
        assert all(torch.equal(one.tensors[key], other.tensors[key]) for key in one.tensors)


@RECIPES
@pytest.mark.parametrize("recompute", ["selective", 1])
def test_recomputation_changes_no_bit(recipe: str, recompute: Any) -> None:
    ids = torch.randint(48, (2, 8))
    found = []
    for kind in ("none", recompute):
        model = converted(recipe)
        model.trunk.recompute = kind
        model(ids, labels=ids).loss.backward()
        found.append([one.grad for one in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_rowwise_scales_keep_packed_documents_and_the_future_apart() -> None:
    """And tensorwise ones do not: one outlier scales all tokens."""
    documents = torch.tensor([[1] * 7 + [2] * 9], dtype=torch.int32)
    ids = torch.randint(48, (1, 16))
    moved = {}
    for recipe in ("rowwise", "tensorwise"):
        model = converted(recipe)
        embeddings = model.trunk.embedding(ids)
        loud = embeddings.clone()
        loud[0, 10] *= 100
        with torch.no_grad():
            first, second = (
                model.trunk(ids, document_ids=documents, embeddings_BTD=x).x_BTD for x in (embeddings, loud)
            )
        moved[recipe] = (first - second)[0].abs().amax(-1)
    assert not moved["rowwise"][:10].any()
    assert moved["rowwise"][10:].any()
    assert moved["tensorwise"][:7].any()


def test_a_model_whose_maps_do_not_fit_is_refused_with_a_remedy() -> None:
    with pytest.raises(
        ConfigError, match=r"engine\.float8: no linear map .* sides that 16 divides both; use"
    ):
        converted("rowwise", hidden_size=24, intermediate_size=40)
