"""The norm of a gradient, exact to float32's rounding whatever its size, and clipping by it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

ROW = 1024
"""Elements whose squares are summed in one go: torch's own sum on a CPU loses four digits over millions."""
LARGE = 1 << 16
"""Elements of a gradient from which on that shows; what is smaller takes one call together."""


def norms(gradients: Sequence[Tensor]) -> Tensor:
    """Return the 2-norm of each in float64 [N]."""
    in_rows = [one.device.type == "cpu" and one.numel() >= LARGE for one in gradients]
    plain = [one for one, large in zip(gradients, in_rows, strict=True) if not large]
    rest = iter(torch._foreach_norm(plain) if plain else ())
    found = [
        _in_rows(one) if large else next(rest).double() for one, large in zip(gradients, in_rows, strict=True)
    ]
    return torch.stack(found) if found else torch.zeros(0, dtype=torch.float64)


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


def _in_rows(gradient: Tensor) -> Tensor:
    flat = gradient.reshape(-1)
    whole = len(flat) - len(flat) % ROW
    rows = torch.linalg.vector_norm(flat[:whole].view(-1, ROW), dim=1)
    rest = torch.linalg.vector_norm(flat[whole:])
    norm: Tensor = torch.linalg.vector_norm(torch.cat([rows, rest[None]]), dtype=torch.float64)
    return norm
