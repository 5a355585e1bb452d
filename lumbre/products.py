"""Which library multiplies float32 matrices on a CPU.

torch's own choice, MKL, has AVX-512 for Intel's processors alone; oneDNN has it for AMD's too, where it takes
half the time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

Library = Literal["mkl", "onednn"]
ProductsName = Literal["auto"] | Library
CPU_INFO = Path("/proc/cpuinfo")
MODES: dict[Library, str] = {"mkl": "ieee", "onednn": "bf16"}
"""What torch's switch is called: it lets oneDNN round to bfloat16 where a processor has matrix units for
that, and oneDNN computes in float32 where it has none."""
SIDE = 256
"""Of the products by which it is seen that nothing is rounded."""
EXACT = 1e-6
"""Float32's own error, relative to the norms of a row and a column, is smaller."""


class _Used:
    """What computes them now; kept here too, for the compiler does not see through torch's switch."""

    library: Library | None = None
    """None is how torch is found."""


def choose(name: ProductsName) -> None:
    """Have all float32 products of this process's CPU from here on computed by a library."""
    _use(_named(name))


def are_onednn() -> bool:
    """Whether oneDNN computes them now."""
    return _Used.library == "onednn"


@contextmanager
def fastest() -> Iterator[None]:
    """Compute products by what `auto` takes, and leave the choice as it was."""
    with _kept():
        choose("auto")
        yield


def fault(name: ProductsName) -> str | None:
    """Return why products cannot be had from a library, or None."""
    if name != "onednn" or _is_exact():
        return None
    return "rounds float32 on this processor, or this build of torch lacks it"


def _use(name: Library | None) -> None:
    _Used.library = name
    switch: Any = torch.backends.mkldnn
    switch.matmul.fp32_precision = "none" if name is None else MODES[name]


def _named(name: ProductsName) -> Library:
    if name != "auto":
        return name
    return "onednn" if _is_amd_with_avx512(CPU_INFO) and _is_exact() else "mkl"


@contextmanager
def _kept() -> Iterator[None]:
    """Leave the choice as it was."""
    before = _Used.library
    try:
        yield
    finally:
        _use(before)


def _is_amd_with_avx512(info: Path) -> bool:
    """Read what Linux says of the processor."""
    text = info.read_text() if info.exists() else ""
    return "AuthenticAMD" in text and "avx512f" in text


@cache
def _is_exact() -> bool:
    """Whether oneDNN's products are float32's, and not those of numbers rounded to bfloat16."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    with _kept():
        _use("onednn")
        return error(left, right, left @ right) < EXACT


def error(left: torch.Tensor, right: torch.Tensor, product: torch.Tensor) -> float:
    """Return the largest error of a product of [M, K] and [K, N], relative to the norms of row and column."""
    scale = left.double().norm(dim=1)[:, None] * right.double().norm(dim=0)
    return float(((product.double() - left.double() @ right.double()).abs() / scale).max())
