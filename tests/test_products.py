"""What multiplies matrices: the same numbers, rounded as float32 rounds, whichever library it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumbre import products
from lumbre.engine import AccelerateConfig
from lumbre.products import ProductsName

SIZES = st.one_of(st.integers(1, 40), st.integers(1, 700))


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    with products.fastest():
        yield


@pytest.mark.parametrize("name", ["mkl", "onednn"])
@given(M=SIZES, K=SIZES, N=SIZES, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_products_are_float32s_whatever_the_shape(
    name: ProductsName, M: int, K: int, N: int, seed: int
) -> None:
    """As linear maps, as plain products of either transposed, and in batches; against float64."""
    if products.fault(name):
        pytest.skip(f"{name} {products.fault(name)}")
    products.choose(name)
    generator = torch.Generator().manual_seed(seed)
    x, w = torch.randn(M, K, generator=generator), torch.randn(N, K, generator=generator)
    zeros = torch.zeros(N)
    found = {
        "linear": torch.nn.functional.linear(x, w),
        "with a bias": torch.nn.functional.linear(x, w, zeros),
        "contiguous": x @ w.t().contiguous(),
        "left transposed": x.t().contiguous().t() @ w.t(),
        "in a batch": torch.bmm(x[None], w.t()[None])[0],
    }
    for way, product in found.items():
        assert products.error(x, w.t(), product) < 1e-6, way
        assert product.dtype == torch.float32


@pytest.mark.parametrize(
    ("info", "exact", "taken"),
    [
        ("vendor_id: AuthenticAMD\nflags: avx2 avx512f avx512bw", True, True),
        ("vendor_id: AuthenticAMD\nflags: avx2 avx512f avx512bw", False, False),
        ("vendor_id: AuthenticAMD\nflags: avx2", True, False),
        ("vendor_id: GenuineIntel\nflags: avx2 avx512f amx_bf16", True, False),
        ("", True, False),
    ],
)
def test_auto_takes_onednn_where_mkl_leaves_vector_units_unused_and_nothing_is_rounded(
    info: str, exact: bool, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpuinfo"
    if info:
        file.write_text(info)
    monkeypatch.setattr(products, "CPU_INFO", file)
    monkeypatch.setattr(products, "_is_exact", lambda: exact)
    products.choose("auto")
    assert products.are_onednn() is taken
    products.choose("mkl")
    assert not products.are_onednn()


def test_a_choice_for_the_moment_leaves_the_other_as_it_was() -> None:
    for name in ("mkl", "onednn"):
        products.choose(name)
        before = products.are_onednn()
        with products.fastest():
            pass
        assert products.are_onednn() is before


def test_a_library_that_would_round_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_is_exact", lambda: False)
    (problem,) = AccelerateConfig(float32_products="onednn").problems()
    assert problem.key == "float32_products"
    assert "onednn rounds float32 on this processor" in problem.fault
    assert problem.remedy == "use auto"
    assert not list(AccelerateConfig(float32_products="auto").problems())
