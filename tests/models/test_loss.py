"""The loss on some rows at a time against torch's on the full logits."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lumbre.models.loss import linear_cross_entropy

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
MODES = ["float32", "bfloat16", "autocast"]


class Case(NamedTuple):
    """The arguments of the loss."""

    x_MD: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    labels_M: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        return [tensor for tensor in self[:3] if tensor is not None]

    def to(self, *args: Any) -> "Case":
        """Return fresh leaves of another dtype or device."""
        x_MD, weight_VD, bias_V = (
            tensor if tensor is None else tensor.detach().to(*args).requires_grad_() for tensor in self[:3]
        )
        assert x_MD is not None
        assert weight_VD is not None
        return Case(x_MD, weight_VD, bias_V, self.labels_M.to(x_MD.device))


def draw(M: int, D: int, V: int, *, bias: bool = True, seed: int = 0) -> Case:
    """Draw a case in float64."""
    generator = torch.Generator().manual_seed(seed)
    x_MD, weight_VD, bias_V = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((M, D), (V, D), (V,))
    )
    labels_M = torch.randint(V, (M,), generator=generator)
    return Case(x_MD, weight_VD, bias_V if bias else None, labels_M)


def full(x_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_M: Tensor) -> Tensor:
    logits_MV = F.linear(x_MD, weight_VD, bias_V)
    if logits_MV.dtype == torch.bfloat16:
        logits_MV = logits_MV.float()
    return F.cross_entropy(logits_MV, labels_M, reduction="sum")


class Record(TorchDispatchMode):
    """Every tensor that an operation returns, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.returned: list[tuple[str, torch.Size, torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for out in result if isinstance(result, tuple | list) else [result]:
            if isinstance(out, Tensor) and not func.is_view:
                self.returned.append((func.overloadpacket.__name__, out.shape, out.dtype))
        return result

    @property
    def largest(self) -> int:
        return max(shape.numel() for _, shape, _ in self.returned)

    def dtypes(self, *operations: str) -> set[torch.dtype]:
        return {dtype for name, _, dtype in self.returned if name in operations}


def summed(*case: Any, **keys: Any) -> Tensor:
    """Return the loss alone."""
    return linear_cross_entropy(*case, **keys)[0]


@pytest.mark.parametrize("rows", [1, 5, 12])
def test_the_losses_of_the_targets_add_up_to_the_loss_and_have_no_gradient(rows: int) -> None:
    case = draw(12, 8, 97)
    loss, losses_M = linear_cross_entropy(*case, logits_at_once=rows * 97)
    logits_MV = case.x_MD @ case.weight_VD.T + (0 if case.bias_V is None else case.bias_V)
    torch.testing.assert_close(losses_M, F.cross_entropy(logits_MV, case.labels_M, reduction="none"))
    torch.testing.assert_close(loss, losses_M.sum())
    assert loss.requires_grad
    assert not losses_M.requires_grad


@settings(max_examples=60, deadline=None)
@given(
    M=st.integers(0, 12),
    D=st.integers(1, 6),
    V=st.integers(1, 33),
    rows=st.integers(0, 13),
    bias=st.booleans(),
    scale=st.floats(-3, 3),
    seed=st.integers(0, 99),
)
@example(M=0, D=3, V=7, rows=4, bias=True, scale=2.0, seed=0)
@example(M=1, D=3, V=7, rows=1, bias=False, scale=1.0, seed=0)
@example(M=12, D=3, V=33, rows=5, bias=True, scale=0.1, seed=0)
def test_loss_and_gradients_are_those_of_the_full_logits(
    M: int, D: int, V: int, rows: int, bias: bool, scale: float, seed: int
) -> None:
    case = draw(M, D, V, bias=bias, seed=seed)
    ours, wanted = summed(*case, logits_at_once=rows * V), full(*case)
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)
    ours_gradients = torch.autograd.grad(ours * scale, case.leaves)
    for one, other in zip(ours_gradients, torch.autograd.grad(wanted * scale, case.leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_target_is_no_loss_and_zero_gradients(dtype: torch.dtype) -> None:
    case = draw(0, 5, 9).to(dtype)
    loss = summed(*case)
    assert loss.item() == 0
    for leaf, gradient in zip(case.leaves, torch.autograd.grad(loss, case.leaves), strict=True):
        assert torch.equal(gradient, torch.zeros_like(leaf))


def test_extreme_logits_stay_finite_and_exact() -> None:
    x_MD = torch.tensor([[2000.0], [-2000.0]], requires_grad=True)
    weight_VD = torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    loss = summed(x_MD, weight_VD, None, torch.tensor([1, 2]))
    assert loss.item() == 2000
    loss.backward()
    assert x_MD.grad is not None
    assert x_MD.grad.flatten().tolist() == [1, 0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_rounding_is_no_worse_than_with_the_full_logits(mode: str, bias: bool, device: str) -> None:
    M, D, V = 96, 32, 301
    case = draw(M, D, V, bias=bias).to(torch.bfloat16 if mode == "bfloat16" else torch.float32).to(device)
    truth = case.to(torch.float64)
    with torch.autocast(device, torch.bfloat16) if mode == "autocast" else nullcontext():
        ours, theirs = summed(*case, logits_at_once=7 * V), full(*case)
    wanted = full(*truth)
    assert ours.dtype == torch.float32
    assert relative_error(ours, wanted) <= 2 * relative_error(theirs, wanted) + 1e-7
    for leaf, one, other, exact in zip(
        case.leaves,
        torch.autograd.grad(ours / M, case.leaves),
        torch.autograd.grad(theirs / M, case.leaves),
        torch.autograd.grad(wanted / M, truth.leaves),
        strict=True,
    ):
        assert one.dtype == leaf.dtype
        assert relative_error(one, exact) <= 1.05 * relative_error(other, exact)


def relative_error(tensor: Tensor, exact: Tensor) -> float:
    return float((tensor.detach().double() - exact.detach()).norm() / exact.detach().norm())


@pytest.mark.parametrize("mode", ["bfloat16", "autocast"])
def test_the_weights_gradient_does_not_stall_over_many_small_steps(mode: str) -> None:
    """Bfloat16 has 8 bits: 600 equal numbers added up in it stop growing at 256."""
    row = draw(1, 4, 5)
    case = Case(row.x_MD.repeat(600, 1), *row[1:3], row.labels_M.repeat(600))
    case = case.to(torch.bfloat16 if mode == "bfloat16" else torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        loss = summed(*case, logits_at_once=5)
    loss.backward()
    wanted = torch.autograd.grad(full(*row) * 600, row.leaves)[1]
    assert case.weight_VD.grad is not None
    assert relative_error(case.weight_VD.grad, wanted) < 0.02


@pytest.mark.parametrize("mode", MODES)
def test_no_tensor_is_as_large_as_the_full_logits(mode: str) -> None:
    M, D, V = 64, 8, 97
    case = draw(M, D, V).to(torch.bfloat16 if mode == "bfloat16" else torch.float32)
    with Record() as ours, torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        summed(*case, logits_at_once=5 * V).backward()
    with Record() as theirs:
        full(*case).backward()
    assert theirs.largest == M * V
    assert ours.largest == V * D
    products = [shape for name, shape, _ in ours.returned if name == "mm"]
    assert max(shape.numel() for shape in products if shape != (V, D)) <= 5 * V


def test_the_largest_tensor_at_real_sizes_is_the_weights_gradient() -> None:
    M, D, V = 4096, 768, 50257
    with torch.device("meta"):
        x_MD, weight_VD, bias_V = (torch.empty(shape, requires_grad=True) for shape in ((M, D), (V, D), (V,)))
        labels_M = torch.empty(M, dtype=torch.int64)
    with Record() as record:
        summed(x_MD, weight_VD, bias_V, labels_M).backward()
    assert record.largest == V * D


@pytest.mark.parametrize("rows", [1, 3, 7, 15, 19, 20])
def test_rows_are_shared_out_evenly_below_the_limit(rows: int) -> None:
    V = 11
    with Record() as record:
        summed(*draw(20, 3, V), logits_at_once=rows * V + V - 1)
    at_once = [shape[0] for name, shape, _ in record.returned if name == "gather"]
    assert sum(at_once) == 20
    assert max(at_once) <= rows
    assert len(at_once) == -(-20 // rows)
    assert max(at_once) - min(at_once) <= 1


def test_autocast_multiplies_in_bfloat16_and_sums_in_float32() -> None:
    case = draw(12, 8, 97).to(torch.float32)
    with Record() as record, torch.autocast("cpu", torch.bfloat16):
        summed(*case, logits_at_once=5 * 97).backward()
    assert record.dtypes("mm", "addmm") == {torch.bfloat16}
    assert record.dtypes("_log_softmax", "exp_", "sum", "add_") == {torch.float32}


@pytest.mark.parametrize("needs", [(x, w, b) for x in (0, 1) for w in (0, 1) for b in (0, 1)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_product_is_computed_where_it_is_needed_and_counted(
    needs: tuple[int, int, int], device: str
) -> None:
    M, D, V = 12, 8, 97
    case = draw(M, D, V).to(torch.float32).to(device)
    for leaf, need in zip(case.leaves, needs, strict=True):
        leaf.requires_grad_(bool(need))
    with FlopCounterMode(display=False) as counter:
        loss = summed(*case, logits_at_once=5 * V)
        if any(needs):
            loss.backward()
    assert counter.get_total_flops() == 2 * M * D * V * (1 + needs[0] + needs[1])
    assert [leaf.grad is not None for leaf in case.leaves] == [bool(need) for need in needs]


def test_without_gradients_only_the_loss_is_computed() -> None:
    M, D, V = 64, 8, 97
    case = draw(M, D, V)
    with torch.no_grad(), Record() as record, FlopCounterMode(display=False) as counter:
        loss = summed(*case, logits_at_once=5 * V)
    assert not loss.requires_grad
    assert counter.get_total_flops() == 2 * M * D * V
    assert record.largest <= 5 * V
    torch.testing.assert_close(loss, full(*case), rtol=1e-12, atol=1e-12)


def test_a_tied_weight_adds_both_its_gradients() -> None:
    _, weight_VD, bias_V, labels_M = draw(10, 4, 13)
    ids_M = labels_M.roll(1)
    ours, wanted = (
        torch.autograd.grad(loss(weight_VD[ids_M].tanh(), weight_VD, bias_V, labels_M) / 10, weight_VD)[0]
        for loss in (summed, full)
    )
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)


def test_the_weight_is_not_kept_for_the_backward() -> None:
    """ZeRO-3 takes it away in between."""
    case = draw(10, 4, 13)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        summed(*case)
    assert [tensor.shape for tensor in kept] == [leaf.shape for leaf in case.leaves]
    assert {tensor.data_ptr() for tensor in kept}.isdisjoint(leaf.data_ptr() for leaf in case.leaves)


def test_a_second_backward_is_an_error_not_another_gradient() -> None:
    loss = summed(*draw(10, 4, 13)) / 10
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
