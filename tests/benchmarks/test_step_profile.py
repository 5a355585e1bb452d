"""The profile of a step: classes that cover all of it, steps alone, and what its products alone come to."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.speed.classes import (
    ATTENTION,
    BETWEEN,
    LINEAR,
    OPTIMIZER,
    PATTERNS,
    REST,
    bound,
    by_class,
    class_of,
    product_rates,
    table,
)
from benchmarks.speed.operators import Operator, Profiler, mean_step, operators

SIDE = 16
KNOWN = {
    "aten::mm": LINEAR,
    "aten::addmm": LINEAR,
    "aten::baddbmm": ATTENTION,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": ATTENTION,
    "aten::_efficient_attention_forward": ATTENTION,
    "aten::_softmax_backward_data": "softmax",
    "aten::gelu_backward": "activations",
    "aten::native_layer_norm_backward": "norms",
    "aten::copy_": "copies",
    "aten::embedding_dense_backward": "embedding look-ups",
    "aten::_foreach_mul_": "sums and element-wise",
    "aten::_fused_adamw_": OPTIMIZER,
    "Optimizer.step#AdamW.step": OPTIMIZER,
    "aten::view": REST,
    "AddmmBackward0": REST,
    "mine::mm": REST,
    "unheard of": REST,
}


def step() -> None:
    weight = torch.ones(SIDE, SIDE, requires_grad=True)
    with record_function("unheard of"):
        scores = torch.nn.functional.gelu(torch.ones(SIDE, SIDE) @ weight).softmax(-1)
    torch.bmm(scores[None], scores[None]).sum().backward()
    torch.optim.AdamW([weight], fused=True).step()


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_an_operator_has_the_class_of_what_it_computes(name: str) -> None:
    assert class_of(name) == KNOWN[name]


def test_the_classes_cover_all_that_the_profiler_sees() -> None:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    found = by_class(operators(seen))
    assert list(found) == [*PATTERNS, REST]
    total = sum(one.seconds for its in found.values() for one in its.values())
    assert total == pytest.approx(seen.profiler.self_cpu_time_total / 1e6, rel=1e-9)
    assert "unheard of" in found[REST]
    for kind in (LINEAR, ATTENTION, "softmax", "activations", OPTIMIZER):
        assert found[kind], kind


def test_the_profiler_sees_steps_alone_and_counts_their_products() -> None:
    profiler = Profiler(torch.device("cpu"))
    profiler.begin()
    step()
    profiler.end()
    assert profiler.of_steps == []
    profiler.is_on = True
    for _ in range(2):
        torch.ones(SIDE, SIDE).cos()
        profiler.begin()
        step()
        profiler.end()
    first, second = profiler.of_steps
    assert "aten::cos" not in first | second
    # One product forward and the weight's gradient; the batched one, and one for each of its sides.
    assert [first[name].flops for name in ("aten::mm", "aten::bmm")] == [2 * 2 * SIDE**3, 3 * 2 * SIDE**3]


def test_the_mean_step_is_of_the_middle_half() -> None:
    of_steps = [{"aten::mm": Operator(2, took, 8)} for took in (9.0, 1.0, 3.0, 0.0)]
    seconds, found = mean_step([10.0, 2.0, 4.0, 1.0], of_steps)
    assert seconds == 3.0
    assert found == {"aten::mm": Operator(2, 2.0, 8)}


SEEN = {
    "aten::mm": Operator(3, 0.5, 60),
    "aten::bmm": Operator(2, 0.25, 20),
    "aten::copy_": Operator(1, 0.125, 0),
    "unheard of": Operator(1, 0.0625, 0),
}


def test_the_table_makes_up_the_step() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(SEEN, 1.0)][2:]
    took = {kind: float(ms) for kind, ms, *_ in rows}
    whole = took.pop("the step, with the profiler")
    assert sum(took.values()) == whole == 1000.0
    assert took[LINEAR] == 500.0
    assert took[REST] == 62.5
    assert took[BETWEEN] == 62.5
    assert rows[-1][3] == "7"


def test_the_bound_is_of_products_alone() -> None:
    assert bound(SEEN, flops=80.0, rate=160.0) == 80.0 / 0.75 / 160.0
    assert product_rates(SEEN, 80.0) == {LINEAR: 120.0, ATTENTION: 80.0}


@pytest.mark.parametrize(
    ("other", "flops"),
    [({}, 100.0), ({"aten::_scaled_dot_product_flash_attention_for_cpu": Operator(1, 0.1, 0)}, 80.0)],
)
def test_rates_of_products_that_are_not_all_counted_are_left_out(
    other: dict[str, Operator], flops: float
) -> None:
    assert product_rates({**SEEN, **other}, flops) == {}
