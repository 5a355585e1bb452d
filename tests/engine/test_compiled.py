"""What the compiler is told on a CPU: what the passes do to a graph, seen before any code is generated."""

from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table

from lumbre.engine.compiled import AddBiasesLater, KeepDerivatives, compile_trunk, cpu_options
from lumbre.models import Transformer, TransformerConfig

aten = torch.ops.aten
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's own tracer


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch._dynamo.reset()


class Seen(NamedTuple):
    """The operators of the forward and backward graph, and how much went from one to the other."""

    forward: list[Any]
    backward: list[Any]
    kept: int
    """Bytes that the backward pass is given."""


def run(call: Callable[..., Tensor], *given: Tensor, passes: bool) -> tuple[Tensor, list[Tensor], Seen]:
    """Return a compiled function's output, the gradients of its sum of squares, and the graphs."""
    graphs: list[fx.GraphModule] = []

    def partition(joint: fx.GraphModule, inputs: Any, **keys: Any) -> tuple[fx.GraphModule, fx.GraphModule]:
        if passes:
            KeepDerivatives()(joint.graph)
        return min_cut_rematerialization_partition(joint, inputs, **keys)

    def compiler(graph: fx.GraphModule, _: Any) -> Any:
        if passes:
            AddBiasesLater()(graph.graph)
            graph.graph.lint()
            graph.recompile()
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=compiler,
        bw_compiler=compiler,
        partition_fn=partition,
        decompositions=select_decomp_table(),
    )
    torch._dynamo.reset()
    own = [one.detach().requires_grad_() for one in given]
    y = torch.compile(call, backend=backend)(*own)
    y.square().sum().backward()
    forward, backward = graphs
    read = [node.meta["val"] for node in backward.graph.nodes if node.op == "placeholder"]
    sizes = [one.numel() * one.element_size() for one in read if isinstance(one, Tensor)]
    return (
        y.detach(),
        [_gradient(one) for one in own],
        Seen(_targets(forward), _targets(backward), sum(sizes)),
    )


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _targets(graph: fx.GraphModule) -> list[Any]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def mlp(x_ND: Tensor, up_FD: Tensor, bias_F: Tensor, down_DF: Tensor, *, tanh: bool = False) -> Tensor:
    """Return y_ND, biased on the way up alone."""
    inner_NF = F.linear(x_ND, up_FD, bias_F)
    return F.linear(F.gelu(inner_NF, approximate="tanh" if tanh else "none"), down_DF)


def gated(x_ND: Tensor, up_FD: Tensor, down_DI: Tensor) -> Tensor:
    """Return y_ND, the activation of one half times the other."""
    gate_NI, value_NI = F.linear(x_ND, up_FD).chunk(2, dim=-1)
    return F.linear(F.gelu(gate_NI) * value_NI, down_DI)


def numbers(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Return random tensors of these shapes."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_backward_pass_reads_gelus_derivative_in_place_of_its_input(
    dtype: torch.dtype, tanh: bool
) -> None:
    """No error function or tangent is computed twice, no more is kept, and the gradient stays float64's."""
    call = lambda *given: mlp(*given, tanh=tanh)  # noqa: E731
    given = numbers(dtype, (7, 5), (11, 5), (11,), (5, 11))
    costly = aten.tanh.default if tanh else aten.erf.default
    _, _, plain = run(call, *given, passes=False)
    y, gradients, seen = run(call, *given, passes=True)
    assert costly in plain.backward
    assert costly not in seen.backward
    assert seen.kept == plain.kept
    exact = [one.double().requires_grad_() for one in given]
    exact_y = call(*exact)
    exact_y.square().sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for found, true in zip([y, *gradients], [exact_y, *map(_gradient, exact)], strict=True):
        assert torch.linalg.vector_norm(found - true) < tolerance * torch.linalg.vector_norm(true)


def test_a_gelu_that_gates_is_left_alone_for_its_input_is_needed_anyway() -> None:
    given = numbers(torch.float32, (7, 5), (22, 5), (5, 11))
    _, _, plain = run(gated, *given, passes=False)
    _, _, seen = run(gated, *given, passes=True)
    assert seen == plain
    assert aten.erf.default in seen.backward


def test_a_gelu_whose_derivative_is_wider_than_its_input_is_left_alone() -> None:
    given = numbers(torch.bfloat16, (7, 5), (11, 5), (11,), (5, 11))
    _, _, plain = run(mlp, *given, passes=False)
    _, _, seen = run(mlp, *given, passes=True)
    assert seen == plain


@pytest.mark.parametrize(
    ("dtype", "parted"), [(torch.float32, True), (torch.bfloat16, False), (torch.float64, False)]
)
def test_a_bias_is_added_after_a_float32_product_and_with_any_other(dtype: torch.dtype, parted: bool) -> None:
    given = numbers(dtype, (7, 5), (11, 5), (11,), (5, 11))
    _, _, plain = run(mlp, *given, passes=False)
    _, _, seen = run(mlp, *given, passes=True)
    assert aten.addmm.default in plain.forward
    assert (aten.addmm.default in seen.forward) == (not parted)


def test_a_matrix_that_is_added_to_a_product_is_no_bias_and_stays_with_it() -> None:
    given = numbers(torch.float32, (7, 11), (7, 5), (5, 11))
    _, _, seen = run(torch.addmm, *given, passes=True)
    assert aten.addmm.default in seen.forward


@pytest.mark.parametrize(("whole", "graphs"), [(False, 2), (True, 1)])
def test_a_trunk_is_one_graph_and_of_blocks_those_that_are_alike_share_one(whole: bool, graphs: int) -> None:
    """The first block has no norm, and the two after it are alike."""
    keys = {"causal": False, "hidden_size": 8, "num_layers": 3, "num_heads": 2, "vocab_size": 9}
    keys |= {"position": {"type": "rotary"}, "first_attention_norm": False, "embedding_norm": True}
    trunk = TransformerConfig.model_validate(keys).build()
    assert isinstance(trunk, Transformer)
    asked: list[Any] = []

    def compile_fx(graph: fx.GraphModule, _: Any, **keys: Any) -> Any:
        asked.append(keys["config_patches"])
        return graph.forward

    limit = torch._dynamo.config.recompile_limit
    compile_trunk(trunk, {"cpp_wrapper": True}, whole=whole)
    with mock.patch("torch._inductor.compile_fx.compile_fx", compile_fx):
        trunk(torch.tensor([[1, 2, 3]]))
    torch._dynamo.config.recompile_limit = limit
    assert asked == [{"cpp_wrapper": True}] * graphs


def test_the_compiler_knows_the_passes_again_so_that_it_finds_what_it_has_cached() -> None:
    first, second = ({key: one.uuid() for key, one in cpu_options().items()} for _ in range(2))
    assert first == second
    assert None not in first.values()
