"""The Newton-Schulz iteration that Muon takes for orthogonalization (Jordan et al., 2024).

https://kellerjordan.github.io/posts/muon/. Shapes: K matrices, M rows, N columns, M <= N.
"""

from collections.abc import Sequence

import torch

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the odd polynomial a x + b x^3 + c x^5, steep at 0: singular values end between 0.7 and 1.2, about."""
SMALLEST_NORM = 1e-7
WIDE = 2
"""Columns per row from which the iteration goes over the small product X X^T."""


def orthogonalize(matrices: Sequence[torch.Tensor], steps: int, dtype: torch.dtype) -> None:
    """Move the singular values of each matrix [..., rows, columns] close to 1, in place.

    On a GPU matrices of one shape go through together: many small products wait for their launch. On a CPU
    that gains nothing, and each matrix alone comes out the same to the bit beside any others.
    """
    stacks: dict[object, list[torch.Tensor]] = {}
    for index, matrix in enumerate(matrices):
        stacks.setdefault(matrix.shape if matrix.is_cuda else index, []).append(matrix)
    for stack in stacks.values():
        done = zeropower(torch.stack(stack), steps, dtype)
        for matrix, result in zip(stack, done, strict=True):
            matrix.copy_(result)


def zeropower(matrices: torch.Tensor, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """Return what is close to U V^T of each [..., rows, columns] = U S V^T, of at least their dtype.

    They are computed in `dtype`, or in their own where it is the wider.
    """
    wide = matrices.flatten(0, -3) if matrices.ndim > 2 else matrices[None]
    tall = wide.shape[-2] > wide.shape[-1]
    x_KMN = wide.mT if tall else wide
    x_KMN = x_KMN / x_KMN.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    if matrices.dtype == torch.float32:
        x_KMN = x_KMN.to(dtype)
    x_KMN = _by_gram(x_KMN, steps) if x_KMN.shape[-1] >= WIDE * x_KMN.shape[-2] else _plain(x_KMN, steps)
    return (x_KMN.mT if tall else x_KMN).reshape(matrices.shape).to(matrices.dtype)


def _plain(x_KMN: torch.Tensor, steps: int) -> torch.Tensor:
    """Return X after steps X <- a X + (b R + c R^2) X, with R = X X^T."""
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        r_KMM = x_KMN @ x_KMN.mT
        z_KMM = torch.baddbmm(r_KMM, r_KMM, r_KMM, beta=b, alpha=c)
        x_KMN = torch.baddbmm(x_KMN, z_KMM, x_KMN, beta=a)
    return x_KMN


def _by_gram(x_KMN: torch.Tensor, steps: int) -> torch.Tensor:
    """Return the same from the product Q of the steps' a I + b R + c R^2, which are small.

    All are polynomials of the first R and commute. After two steps R is taken from X anew, for small
    singular values drown in R's rounding until they have grown.
    """
    a, b, c = COEFFICIENTS
    for count in (min(2, steps), max(0, steps - 2)):
        r_KMM, q_KMM = x_KMN @ x_KMN.mT, None
        for step in range(count):
            z_KMM = torch.baddbmm(r_KMM, r_KMM, r_KMM, beta=b, alpha=c)
            if q_KMM is None:
                q_KMM = z_KMM.clone()
                q_KMM.diagonal(dim1=-2, dim2=-1).add_(a)
            else:
                q_KMM = torch.baddbmm(q_KMM, z_KMM, q_KMM, beta=a)
            if step < count - 1:
                half_KMM = torch.baddbmm(r_KMM, z_KMM, r_KMM, beta=a)
                r_KMM = torch.baddbmm(half_KMM, z_KMM, half_KMM, beta=a)
        if q_KMM is not None:
            x_KMN = q_KMM @ x_KMN
    return x_KMN
