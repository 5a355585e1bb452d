"""Cross-entropy of a linear map's outputs, some rows at a time (Hsu et al., 2024, arXiv:2410.10989).

Shapes: M targets, C rows at a time, D hidden, V vocabulary, R words at a time.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS_AT_ONCE = 8 * 2**20
"""How many logits are held at a time; fewer make the products slower."""


def linear_cross_entropy(
    x_MD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_M: Tensor,
    *,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy in nats of the logits x W^T + b, summed over targets in float32 at least.

    Beside it that of each target [M], through which no gradient goes.

    The gradients are computed along with the loss, and scaled in place by its backward, which can run once.
    Under autocast the products are in its dtype, softmax and the sum of the weight's gradient in float32.
    """
    total, losses_M = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        x_MD, weight_VD, bias_V, labels_M, logits_at_once, torch.is_grad_enabled()
    )
    return total, losses_M


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_MD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_M: Tensor,
        logits_at_once: int,
        differentiable: bool,
    ) -> tuple[Tensor, Tensor]:
        needs_x, needs_weight, needs_bias = (differentiable and need for need in ctx.needs_input_grad[:3])
        (M, D), V = x_MD.shape, len(weight_VD)
        x_dtype, dtype = x_MD.dtype, _product_dtype(x_MD)
        exact = torch.promote_types(dtype, torch.float32)
        x_MD, weight_VD = x_MD.to(dtype), weight_VD.to(dtype)

        grad_x_MD = torch.empty_like(x_MD) if needs_x else None
        # The first rows write it; without any it is zero.
        new = x_MD.new_empty if M else x_MD.new_zeros
        grad_weight_VD = new(V, D, dtype=exact) if needs_weight else None
        grad_bias_V = x_MD.new_zeros(V, dtype=exact) if needs_bias else None
        losses_M1 = x_MD.new_empty(M, 1, dtype=exact)

        C = _even_rows(M, max(1, logits_at_once // V))
        buffer_CV = x_MD.new_empty(C, V)
        for start in range(0, M, C):
            rows = slice(start, start + C)
            x_CD, labels_C1 = x_MD[rows], labels_M[rows, None]
            logits_CV = torch.mm(x_CD, weight_VD.T, out=buffer_CV[: len(x_CD)])
            scores_CV = logits_CV.to(exact)
            if bias_V is not None:
                scores_CV += bias_V
            torch.log_softmax(scores_CV, dim=1, out=scores_CV)
            chosen_C1 = scores_CV.gather(1, labels_C1)
            torch.neg(chosen_C1, out=losses_M1[rows])
            if not (needs_x or needs_weight or needs_bias):
                continue
            # The loss's derivative by the logits: softmax, less 1 at the label.
            scores_CV.exp_().scatter_(1, labels_C1, chosen_C1.expm1())
            if grad_bias_V is not None:
                grad_bias_V += scores_CV.sum(dim=0)
            slope_CV = scores_CV if exact == dtype else logits_CV.copy_(scores_CV)
            if grad_x_MD is not None:
                torch.mm(slope_CV, weight_VD, out=grad_x_MD[rows])
            if grad_weight_VD is not None:
                _add_product(grad_weight_VD, slope_CV, x_CD, max(1, logits_at_once // D), first=not start)

        grad_x_MD = None if grad_x_MD is None else grad_x_MD.to(x_dtype)
        ctx.save_for_backward(grad_x_MD, grad_weight_VD, grad_bias_V)
        losses_M = losses_M1[:, 0]
        ctx.mark_non_differentiable(losses_M)
        return losses_M.sum(), losses_M

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (gradient if gradient is None else gradient.mul_(scale) for gradient in ctx.saved_tensors)
        return *gradients, None, None, None


def _product_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which F.linear would run here."""
    kind = x.device.type
    if x.dtype != torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def _even_rows(rows: int, at_most: int) -> int:
    """Return the size of equal chunks: a small last one would cost a pass over the weight's gradient."""
    return math.ceil(rows / math.ceil(rows / at_most)) if rows else 1


def _add_product(total_VD: Tensor, slope_CV: Tensor, x_CD: Tensor, R: int, *, first: bool) -> None:
    """Add slope^T x to `total_VD`, or write the first there; where that is wider, R words at a time."""
    if total_VD.dtype == x_CD.dtype:
        if first:
            torch.mm(slope_CV.T, x_CD, out=total_VD)
        else:
            # Not addmm_, which FlopCounterMode does not count.
            torch.addmm(total_VD, slope_CV.T, x_CD, out=total_VD)
        return
    for total_RD, slope_CR in zip(torch.split(total_VD, R), torch.split(slope_CV, R, dim=1), strict=True):
        if first:
            total_RD.copy_(slope_CR.T @ x_CD)
        else:
            total_RD += slope_CR.T @ x_CD
