"""The norm of a gradient, exact to float32's rounding whatever its size, and clipping by it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

ROW = 1024
"""Elements whose squares are summed in one go: torch's own sum on a CPU loses four digits over millions."""
LARGE = 1 << 16
"""Elements of a gradient up to which that does not show, and all such take one call together."""


def norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of each in float64 [N]."""
    found = torch.zeros(len(gradients), dtype=torch.float64)
    for large, dtype in ((False, None), (True, torch.float64)):
        places = [place for place, one in enumerate(gradients) if _is_large(one) is large]
        if places:
            parts = [norms_of_rows(gradients[place]) for place in places]
            some = torch.stack(torch._foreach_norm(parts, dtype=dtype)).double()
            if len(places) == len(gradients):
                return some
            found[places] = some
    return found


def clip(parameters: Iterable[nn.Parameter], limit: float) -> float:
    """Scale all gradients down together where their norm is above the limit; return it as it was."""
    parameters = list(parameters)
    norm = float(torch.linalg.vector_norm(norms([one.grad for one in parameters if one.grad is not None])))
    scale_down(parameters, limit, norm)
    return norm


def scale_down(parameters: Iterable[nn.Parameter], limit: float, norm: float) -> None:
    """Bring gradients of such a norm to the limit where it is above that, as torch's clip_grad_norm_ does."""
    if norm > limit:
        gradients = [one.grad for one in parameters if one.grad is not None]
        torch._foreach_mul_(gradients, limit / (norm + 1e-6))


def norms_of_rows(gradient: Tensor) -> Tensor:
    """Return what has the norm of a gradient: of a large one on a CPU the norms of its rows."""
    if not _is_large(gradient):
        return gradient
    flat = gradient.reshape(-1)
    whole = len(flat) - len(flat) % ROW
    rows: Tensor = torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1)
    if whole == len(flat):
        return rows
    return torch.cat([rows, torch.linalg.vector_norm(flat[whole:])[None]])


def _is_large(gradient: Tensor) -> bool:
    return gradient.device.type == "cpu" and gradient.numel() > LARGE
