"""Tokens drawn from the softmax of a linear map's outputs, by numbers that the caller brings.

Shapes: M places, C of them at a time, E width of what is read, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lumbre.models.loss import LOGITS_AT_ONCE


@torch.no_grad()
def sample_linear(
    x_ME: Tensor,
    weight_VE: Tensor,
    bias_V: Tensor | None,
    uniform_M: Tensor,
    *,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Tensor:
    """Return a token [M] for each place, drawn from the softmax of the logits x W^T + b.

    The token is where the softmax's running sum passes the place's number in [0, 1): a function of the logits
    and that number. No gradient goes through it; sums are in float32 at least.
    """
    V = len(weight_VE)
    samples_M = torch.empty(len(x_ME), dtype=torch.int64, device=x_ME.device)
    C = max(1, logits_at_once // V)
    for start in range(0, len(x_ME), C):
        rows = slice(start, start + C)
        logits_CV = F.linear(x_ME[rows], weight_VE, bias_V)
        exact = torch.promote_types(logits_CV.dtype, torch.float32)
        sums_CV = logits_CV.to(exact).softmax(dim=1).cumsum(dim=1)
        # Rounding leaves the whole a little off 1.
        passed_C1 = uniform_M[rows, None].to(exact) * sums_CV[:, -1:]
        samples_M[rows] = torch.searchsorted(sums_CV, passed_C1, right=True)[:, 0].clamp(max=V - 1)
    return samples_M
