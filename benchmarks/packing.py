"""What packed rows cost document by document, as a share of a dense mask: attention forward and backward.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/packing.py [ROUNDS]

The kernels take turns in one process; a line gives the median of the rounds' ratios with their quartiles, and
what `auto` would take. Shapes: B rows, T tokens, N heads, H head size.
"""

import statistics
import sys
import time
from itertools import product

import torch
from torch import Tensor

from lumbre.models.attention import Kernel, KernelName, Pattern, choose

TOKENS = 2048
NAMES: tuple[KernelName, ...] = ("dense", "segments")


def main(rounds: int) -> None:
    """Print a line for each length of row, size of heads, length of documents and pattern."""
    torch.manual_seed(0)
    for T, (N, H), mean in product((512, 2048), ((12, 64), (4, 32)), (64, 128, 256, None)):
        documents_BT = None if mean is None else pack(TOKENS // T, T, mean)
        x_BTD = torch.zeros(TOKENS // T, T, N * H)
        for window, causal in product((None, 64), (False, True)):
            pattern = Pattern(causal, window, documents_BT, documents_BT)
            kernels = [choose(name, pattern, x_BTD, T) for name in NAMES]
            auto = type(choose("auto", pattern, x_BTD, T)).__name__.lower()
            seconds = [[measure(kernel, x_BTD, N) for kernel in kernels] for _ in range(rounds + 1)][1:]
            low, middle, high = statistics.quantiles([own / dense for dense, own in seconds], n=4)
            print(
                f"rows of {T}, documents of {mean or T:>4}, {N:>2} heads of {H}, "
                f"window {window or 'none':>4}, {'causal' if causal else 'both sides':>10}: "
                f"segments {middle:.2f} of dense (quartiles {low:.2f} to {high:.2f}); auto takes {auto}",
                flush=True,
            )


def pack(rows: int, length: int, mean: int) -> Tensor:
    """Return document_ids of rows full of documents half to one and a half times the mean long."""
    spans = torch.randint(mean // 2, mean * 3 // 2 + 1, (rows, length))
    starts_BT = torch.zeros(rows, length + 1, dtype=torch.int32)
    starts_BT.scatter_(1, spans.cumsum(1).clamp(max=length), 1)
    return starts_BT[:, :-1].cumsum(1, dtype=torch.int32) + 1


def measure(kernel: Kernel, x_BTD: Tensor, heads: int) -> float:
    """Return the seconds of one forward and backward."""
    qkv_BTMH = torch.randn(*x_BTD.shape[:2], 3 * heads, x_BTD.shape[2] // heads)
    q, k, v = (x.requires_grad_() for x in qkv_BTMH.split(heads, dim=2))
    start = time.perf_counter()
    y_BTNH = kernel(q, k, v, None)
    torch.autograd.grad(y_BTNH, (q, k, v), torch.ones_like(y_BTNH))
    return time.perf_counter() - start


if __name__ == "__main__":
    main(*[int(argument) for argument in sys.argv[1:]] or [5])
