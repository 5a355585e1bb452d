"""What torch.compile is given to compile, and what it is told on a CPU that it does not find by itself.

Its own passes have GPUs in mind. On a CPU a bias costs a pass over the product's output of its own, and the
error function of GELU some thirty instructions a number, which the backward pass would compute once more.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

from lumbre.models import Transformer

VARIANTS = 64
"""Kinds of layers x masks x training or not: more than torch keeps by default."""
aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default)
FORWARD, BACKWARD = "aten::gelu", "aten::gelu_backward"
VIEWS = (
    aten.view.default,
    aten.permute.default,
    aten.t.default,
    aten._unsafe_view.default,
    aten.expand.default,
)


def compile_trunk(trunk: Transformer, options: dict[str, Any] | None, *, whole: bool) -> None:
    """Have each block compiled by itself, or all in one graph; `options` are the compiler's."""
    torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    if whole:
        trunk.in_turn = torch.compile(trunk.in_turn, options=options)
        return
    for block in trunk.blocks:
        block.compile(options=options)


def cpu_options() -> dict[str, Any]:
    """Return what the compiler is told for a CPU."""
    return {"joint_custom_pre_pass": KeepDerivatives(), "post_grad_custom_post_pass": AddBiasesLater()}


class KeepDerivatives(CustomGraphPass):
    """Have the forward pass compute GELU's derivative, and keep it in place of GELU's input.

    Both need the error function. Left alone is what would then keep more: a GELU that gates a product, for
    whose gradient its input is needed anyway, and one whose derivative is wider than its input.

    torch's min-cut takes what costs least to keep, where it counts twice what it could fuse into what reads
    it. A derivative read by way of a node that fuses with nothing, and costs nothing, is counted once, as
    GELU's input is, and it is nearer to the backward pass. To mark it as what must be saved would not do:
    that holds only for what the forward pass itself needs.
    """

    def __call__(self, graph: fx.Graph) -> None:
        """Part the derivatives from what the backward pass multiplies by them."""
        for node in list(graph.nodes):
            if node.target is not aten.mul.Tensor or not _is_last_of(node, BACKWARD):
                continue
            for derivative in filter(_is_derivative, node.args):
                if all(_feeds_products(one) for x in _given(derivative) for one in _activated(x)):
                    with graph.inserting_after(derivative):
                        kept = graph.call_function(aten.detach.default, (derivative,))
                    kept.meta["val"] = derivative.meta["val"]
                    node.replace_input_with(derivative, kept)

    def uuid(self) -> Any:
        """Name this version of the pass for the compiler's cache."""
        return get_hash_for_files((__file__,))


class AddBiasesLater(CustomGraphPass):
    """Add the bias of a float32 product where its output is read next, not in a pass before the product.

    A narrower product is rounded once with its bias, and would be twice.
    """

    def __call__(self, graph: fx.Graph) -> None:
        """Part products with a bias into a product and a sum."""
        for node in list(graph.nodes):
            if node.target is not aten.addmm.default or node.kwargs:
                continue
            bias, left, right = node.args
            if node.meta["val"].dtype != torch.float32 or bias.meta["val"].dim() != 1:
                continue
            with graph.inserting_before(node):
                product = graph.call_function(aten.mm.default, (left, right))
                total = graph.call_function(aten.add.Tensor, (product, bias))
            product.meta["val"] = node.meta["val"]
            total.meta.update(node.meta)
            node.replace_all_uses_with(total)
            graph.erase_node(node)

    def uuid(self) -> Any:
        """Name this version of the pass for the compiler's cache."""
        return get_hash_for_files((__file__,))


def _is_of(node: Any, operator: str) -> bool:
    """Whether a node is part of what an operator was taken apart into; nodes hold copies of operators."""
    origin = node.meta.get("original_aten") if isinstance(node, fx.Node) else None
    return origin is not None and origin.name() == operator


def _is_last_of(node: fx.Node, operator: str) -> bool:
    return _is_of(node, operator) and not any(_is_of(user, operator) for user in node.users)


def _is_derivative(node: Any) -> bool:
    return _is_of(node, BACKWARD)


def _given(derivative: fx.Node) -> Iterator[fx.Node]:
    """Yield what a derivative is computed from, each once."""
    seen, left = {derivative}, [derivative]
    while left:
        for one in left.pop().all_input_nodes:
            if one in seen:
                continue
            seen.add(one)
            if _is_derivative(one):
                left.append(one)
            else:
                yield one


def _activated(x: fx.Node) -> Iterator[fx.Node]:
    """Yield the outputs of the GELUs of a node."""
    seen, left = {x}, [x]
    while left:
        for one in left.pop().users:
            if one not in seen and _is_of(one, FORWARD):
                seen.add(one)
                left.append(one)
                if _is_last_of(one, FORWARD):
                    yield one


def _feeds_products(node: fx.Node) -> bool:
    """Whether all that reads a node, views looked through, is products."""
    return all(
        user.target in PRODUCTS or (user.target in VIEWS and _feeds_products(user)) for user in node.users
    )
