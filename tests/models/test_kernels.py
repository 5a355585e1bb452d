"""Every kernel computes what the definition of attention says, and keeps documents apart."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention
from torch.nn.attention.flex_attention import create_mask
from torch.utils._python_dispatch import TorchDispatchMode

from lumbre import products
from lumbre.errors import ModelError
from lumbre.models.attention import KernelName, Pattern, choose, flash, flex, segments
from lumbre.models.attention.dense import Dense, attend

NAMES: list[KernelName] = ["dense", "segments"]
"""The kernels that train on a CPU."""


class Given(NamedTuple):
    """Queries, keys and values of a packed batch, and the weights of a loss over what is no padding."""

    q: Tensor
    k: Tensor
    v: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Case:
    """A pattern over packed rows, and how many heads look at it."""

    pattern: Pattern
    shape: tuple[int, int]
    heads: tuple[int, int]
    scale: float | None = None

    @property
    def documents(self) -> Tensor:
        documents_BT = self.pattern.query_documents_BQ
        return torch.ones(self.shape, dtype=torch.int32) if documents_BT is None else documents_BT

    def draw(self, dtype: torch.dtype = torch.float64, head_size: int = 8, seed: int = 0) -> Given:
        generator = torch.Generator().manual_seed(seed)
        N, K = self.heads
        q, k, v, weight = (
            torch.randn(*self.shape, heads, head_size, generator=generator).to(dtype)
            for heads in (N, K, K, N)
        )
        return Given(q, k, v, weight * (self.documents != 0)[:, :, None, None])


def pack(rows: list[list[int]], length: int) -> Tensor:
    """Return document_ids of these lengths, where a negative one is padding; the rest of a row is too."""
    documents_BT = torch.zeros(len(rows), length, dtype=torch.int32)
    for row, lengths in enumerate(rows):
        start = 0
        for document, span in enumerate(lengths, start=1):
            documents_BT[row, start : start + abs(span)] = document if span > 0 else 0
            start += abs(span)
    return documents_BT


def prefixes(rows: int, length: int) -> st.SearchStrategy[Tensor]:
    """Draw which keys are of a prefix: any of them, for no kernel knows more."""
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    return st.lists(row, min_size=rows, max_size=rows).map(torch.tensor)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Rows of documents, some of one token, padding anywhere; causal or not, windows, biases, prefixes,
    groups."""
    rows = draw(st.integers(1, 3))
    length = draw(st.integers(1, 24))
    documents = None
    if draw(st.booleans()):
        spans = st.lists(st.integers(-4, 12).filter(bool), max_size=6)
        documents = pack([draw(spans) for _ in range(rows)], length)
    K = draw(st.integers(1, 2))
    N = K * draw(st.integers(1, 3))
    bias = None
    if draw(st.booleans()):
        bias = torch.randn(draw(st.sampled_from([1, rows])), N, length, length, dtype=torch.float64)
    window = draw(st.none() | st.integers(1, 30))
    causal = draw(st.booleans())
    prefix = draw(st.none() | prefixes(rows, length)) if causal else None
    pattern = Pattern(causal, window, documents, documents, bias, prefix_BT=prefix)
    return Case(pattern, (rows, length), (N, K), draw(st.sampled_from([None, 1.0])))


def definition(case: Case, given: Given) -> Tensor:
    """Return softmax(scale q k + bias) v over what is seen, from its definition pair by pair."""
    pattern, (_, length) = case.pattern, case.shape
    place = range(length)
    far = length if pattern.window is None else pattern.window
    prefix = torch.zeros(case.shape, dtype=torch.bool) if pattern.prefix_BT is None else pattern.prefix_BT
    near = [
        [[abs(i - j) <= far and (j <= i or row[j] or not pattern.causal) for j in place] for i in place]
        for row in prefix.tolist()
    ]
    same = case.documents[:, :, None] == case.documents[:, None]
    q, k, v = (x.transpose(1, 2) for x in given[:3])
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if case.scale is None else case.scale)
    scores = scores if pattern.bias_BNQT is None else scores + pattern.bias_BNQT
    seen = (same & torch.tensor(near))[:, None]
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2)


def compute(name: KernelName, case: Case, given: Given) -> Tensor:
    """Return what the kernel of this name computes."""
    x_BQD = given.q.flatten(2)
    return choose(name, case.pattern, x_BQD, case.shape[1])(*given[:3], case.scale)


def gradients(function: Callable[[Case, Given], Tensor], case: Case, given: Given) -> list[Tensor]:
    """Return the output where it is no padding, and the gradients of queries, keys, values and bias."""
    leaves = [x.clone().requires_grad_() for x in given[:3]]
    if case.pattern.bias_BNQT is not None:
        leaves.append(case.pattern.bias_BNQT.clone().requires_grad_())
        case = replace(case, pattern=replace(case.pattern, bias_BNQT=leaves[3]))
    y = function(case, Given(*leaves[:3], given.weight))
    assert y.isfinite().all()
    grads = torch.autograd.grad((y * given.weight).sum(), leaves)
    return [y[case.documents != 0].detach(), *grads]


@pytest.fixture
def small_blocks() -> Iterator[None]:
    with mock.patch.multiple(segments, LEAST_BLOCK=2, SQUARE_BLOCKS=1):
        yield


@pytest.mark.parametrize("name", NAMES)
@given(case=cases())
@settings(max_examples=40, deadline=None)
@pytest.mark.usefixtures("small_blocks")
def test_outputs_and_gradients_are_those_of_the_definition(name: KernelName, case: Case) -> None:
    given = case.draw()
    wanted = gradients(definition, case, given)
    found = gradients(lambda case, given: compute(name, case, given), case, given)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_documents_in_a_narrow_window_are_those_of_the_definition(
    causal: bool, dtype: torch.dtype
) -> None:
    documents = pack([[230, 70, -3, 41], [-9, 400]], 412)
    case = Case(Pattern(causal, 40, documents, documents), (2, 412), (2, 1))
    wanted = gradients(definition, case, Given(*(x.double() for x in case.draw(dtype))))
    for name in NAMES:
        found = gradients(lambda case, given, name=name: compute(name, case, given), case, case.draw(dtype))
        for x, y in zip(found, wanted, strict=True):
            assert x.dtype == dtype
            assert (x - y).norm() <= 4 * torch.finfo(dtype).eps * y.norm()


@pytest.mark.parametrize("documents", [None, pack([[60, 40], [-10, 90]], 100)], ids=["whole", "packed"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_short_rows_are_those_of_the_definition(
    dtype: torch.dtype, causal: bool, documents: Tensor | None
) -> None:
    case = Case(Pattern(causal, None, documents, documents), (2, 100), (4, 2))
    wanted = gradients(definition, case, Given(*(x.double() for x in case.draw(dtype))))
    found = gradients(lambda case, given: compute("dense", case, given), case, case.draw(dtype))
    for x, y in zip(found, wanted, strict=True):
        assert x.dtype == dtype
        assert (x - y).norm() <= 4 * torch.finfo(dtype).eps * y.norm()


class Calls(TorchDispatchMode):
    """Records the names of operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_short_rows_are_attended_by_whole_products_and_long_ones_in_tiles(dtype: torch.dtype) -> None:
    for length, whole in (100, True), (600, False):
        q = torch.randn(1, length, 2, 8).to(dtype)
        with Calls() as calls:
            attend(q, q, q, None, None, False)
        assert ("bmm" in calls.names) == whole
        assert any("scaled_dot_product" in name for name in calls.names) != whole


every_pattern = pytest.mark.parametrize(
    ("causal", "window", "biased"),
    [(c, w, b) for c in (False, True) for w in (None, 33) for b in (False, True)],
)


@every_pattern
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_editing_a_document_changes_its_neighbours_and_their_gradients_by_nothing(
    name: KernelName, dtype: torch.dtype, causal: bool, window: int | None, biased: bool
) -> None:
    documents = pack([[180, 1, -5, 90], [-7, 40, 230]], 280)
    bias = torch.randn(1, 2, 280, 280, generator=torch.Generator().manual_seed(2)) if biased else None
    case = Case(Pattern(causal, window, documents, documents, bias), (2, 280), (2, 1))
    given, other = case.draw(dtype), case.draw(dtype, seed=1)
    before = results(name, case, given)
    for edited in (0, 1, 2, 3):
        here = (documents == edited)[:, :, None, None]
        after = results(
            name, case, Given(*(torch.where(here, y, x) for x, y in zip(given, other, strict=True)))
        )
        neighbours = (documents != edited) & (documents != 0)
        for x, y in zip(before, after, strict=True):
            assert x.isfinite().all()
            assert torch.equal(x[neighbours], y[neighbours])
        # A key that is alone has the same attention whatever it is.
        assert edited == 0 or not torch.equal(before[0][documents == edited], after[0][documents == edited])


def results(name: KernelName, case: Case, given: Given) -> list[Tensor]:
    """Return outputs and gradients of queries, keys and values."""
    leaves = [x.clone().requires_grad_() for x in given[:3]]
    y = compute(name, case, Given(*leaves, given.weight))
    return [y.detach(), *torch.autograd.grad((y * given.weight).sum(), leaves)]


@pytest.mark.parametrize("window", [None, 33])
@pytest.mark.parametrize("name", NAMES)
def test_a_causal_kernel_never_sees_the_future(name: KernelName, window: int | None) -> None:
    documents = pack([[200, 60], [-20, 240]], 270)
    case = Case(Pattern(True, window, documents, documents), (2, 270), (2, 2))
    given, other = case.draw(torch.float32), case.draw(torch.float32, seed=1)
    edited = Given(*(torch.cat([x[:, :190], y[:, 190:]], 1) for x, y in zip(given, other, strict=True)))
    assert torch.equal(compute(name, case, given)[:, :190], compute(name, case, edited)[:, :190])


@pytest.mark.parametrize("name", NAMES)
def test_padding_has_no_gradient_and_gives_none(name: KernelName) -> None:
    documents = pack([[-3, 6, -2, 4], [9]], 17)
    case = Case(Pattern(False, None, documents, documents), (2, 17), (2, 2))
    given = case.draw()
    padding = documents == 0
    for x in results(name, case, given)[1:]:
        assert x[padding].eq(0).all()
        assert x[~padding].ne(0).any()


@pytest.mark.parametrize("library", ["mkl", "onednn"])
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)),
    mask=st.sampled_from(["none", "causal", "row", "head"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_whole_products_attend_as_torchs_own_does(
    library: products.ProductsName, shape: tuple[int, int, int, int], mask: str, seed: int
) -> None:
    """Short rows in float32 on a CPU, of queries as many as keys or not; a row that sees nothing is zero."""
    B, N, Q, T = shape
    generator = torch.Generator().manual_seed(seed)
    scale = None if seed % 2 else 0.3
    q, k, v, weight = (
        torch.randn(B, length, N, width, generator=generator)
        for length, width in ((Q, 8), (T, 8), (T, 5), (Q, 5))
    )
    added = None
    if mask in ("row", "head"):
        rows, heads = (B, 1) if mask == "row" else (1, N)
        added = torch.randn(rows, heads, Q, T, generator=generator)
        added = added.masked_fill(torch.rand(added.shape, generator=generator) < 0.3, -torch.inf)
        added[..., 0, :] = -torch.inf
    found: list[list[Tensor]] = []
    for dtype in (torch.float32, torch.float64):
        leaves = [one.detach().to(dtype).requires_grad_() for one in (q, k, v)]
        with products.fastest():
            products.choose(library)
            y = attend(*leaves, scale, None if added is None else added.to(dtype), mask == "causal")
            found.append([y, *torch.autograd.grad((y * weight.detach().to(dtype)).sum(), leaves)])
    for one, exact in zip(*found, strict=True):
        torch.testing.assert_close(one.double(), exact, rtol=1e-4, atol=1e-5)
    if added is not None:
        assert not found[0][0][:, 0].any()


class Largest(TorchDispatchMode):
    """Records the largest tensor that any operator returns, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else (result,):
            if isinstance(x, Tensor):
                self.numel = max(self.numel, x.numel())
        return result


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 16])
def test_segments_hold_no_square_of_a_row(causal: bool, window: int | None) -> None:
    length = 1024
    documents = pack([[60, 900, 30] if window else [60, 40, 30, -4] * 4], length)
    case = Case(Pattern(causal, window, documents, documents), (1, length), (2, 2))
    given = case.draw(torch.float32, head_size=4)
    sizes = {}
    for name in NAMES:
        with Largest() as largest:
            results(name, case, given)
        sizes[name] = largest.numel
    assert sizes["dense"] >= length * length
    assert sizes["segments"] < length * length / 4


@given(case=cases())
@settings(max_examples=40, deadline=None)
def test_flex_computes_the_definition(case: Case) -> None:
    given = case.draw()
    with mock.patch.object(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True):
        y = flex.flex(case.pattern, given.q.flatten(2))(*given[:3], case.scale)
    kept = case.documents != 0
    assert y.isfinite().all()
    torch.testing.assert_close(y[kept], definition(case, given)[kept], rtol=1e-10, atol=1e-10)


@given(
    spans=st.lists(st.integers(-9, 30).filter(bool), max_size=8),
    length=st.integers(1, 60),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 40),
    block=st.sampled_from([1, 4, 7]),
    prefixed=st.booleans(),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_flex_skips_no_block_in_which_something_is_seen(
    spans: list[int],
    length: int,
    causal: bool,
    window: int | None,
    block: int,
    prefixed: bool,
    data: st.DataObject,
) -> None:
    documents = pack([spans, spans[::-1]], length)
    # Prefixes of some tokens in every document, so that whole blocks are of one now and then.
    cut = data.draw(st.integers(1, 9))
    prefix = torch.arange(length).expand(2, -1) % 20 < 2 * cut if causal and prefixed else None
    pattern = Pattern(causal, window, documents, documents, prefix_BT=prefix)
    with mock.patch.object(flex, "BLOCK", block):
        blocks = flex.flex(pattern, torch.zeros(2, length, 1)).blocks
    assert blocks is not None
    seen = create_mask(blocks.mask_mod, 2, None, length, length, "cpu")[:, 0]
    assert torch.equal(seen, pattern.allowed(length, length, torch.device("cpu"))[:, 0])
    fill = -length % block
    tiles = torch.nn.functional.pad(seen, (0, fill, 0, fill)).unfold(1, block, block).unfold(2, block, block)
    some, every = tiles.flatten(3).any(3), tiles.flatten(3).all(3)
    full = torch.zeros_like(some)
    for row, query in torch.cartesian_prod(torch.arange(2), torch.arange(some.shape[1])).tolist():
        count = blocks.full_kv_num_blocks[row, 0, query]
        full[row, query, blocks.full_kv_indices[row, 0, query, :count].long()] = True
    assert not (full & ~every).any()
    assert not (some & ~blocks.to_dense()[:, 0].bool()).any()


@pytest.mark.parametrize("package", [True, False])
@given(case=cases())
@settings(max_examples=40, deadline=None)
def test_flash_is_called_with_each_document_as_a_sequence(package: bool, case: Case) -> None:
    """The kernel itself needs a GPU: a stand-in with the signature of each provider, by the definition."""
    case = replace(case, pattern=replace(case.pattern, bias_BNQT=None, prefix_BT=None))
    given = case.draw()
    runs = case.pattern.runs(*case.shape)
    if runs is None:
        return
    module = ModuleType("flash_attn")
    module.flash_attn_varlen_func = stand_in  # type: ignore[attr-defined]
    with (
        mock.patch.dict(sys.modules, {"flash_attn": module}),
        mock.patch("torch.nn.attention.varlen.varlen_attn", stand_in),
        mock.patch.object(flash, "_package", return_value=package),
    ):
        y = flash.flash(case.pattern, runs, given.q.flatten(2))(*given[:3], case.scale)
    kept = case.documents != 0
    assert y.shape == given.q.shape
    torch.testing.assert_close(y[kept], definition(case, given)[kept], rtol=1e-10, atol=1e-10)


def stand_in(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    starts: Tensor,
    key_starts: Tensor,
    longest: int,
    longest_key: int,
    *,
    window_size: tuple[int, int],
    causal: bool | None = None,
    deterministic: bool = False,
    enable_gqa: bool = True,
    **scales: float | None,
) -> Tensor:
    """Attention of packed sequences as flash_attn_varlen_func and varlen_attn are documented."""
    (scale,) = scales.values()
    assert scales.keys() <= {"softmax_scale", "scale"}
    assert starts.dtype == torch.int32
    assert torch.equal(starts, key_starts)
    assert longest == longest_key == starts.diff().max()
    assert len(q) == starts[-1]
    assert enable_gqa
    left, right = (len(q) if side == -1 else side for side in window_size)
    assert causal is None or causal == (right == 0)
    y = torch.full_like(q, torch.nan)
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        queries, keys, values = (x[start:stop].transpose(0, 1) for x in (q, k, v))
        place = torch.arange(stop - start)
        ahead = place - place[:, None]
        seen = (ahead <= right) & (-ahead <= left)
        y[start:stop] = torch.nn.functional.scaled_dot_product_attention(
            *(queries, keys, values), attn_mask=seen, scale=scale, enable_gqa=True
        ).transpose(0, 1)
    return y


PACKED = pack([[200, 300], [500]], 512)
TINY = pack([[1] * 512] * 2, 512)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        (Pattern(True), Dense),
        (Pattern(False, window=511), Dense),
        (Pattern(False, None, PACKED, PACKED), segments.Segments),
        (Pattern(False, window=64), segments.Segments),
        (Pattern(False, window=128), Dense),
        (Pattern(True, None, PACKED, PACKED.clone()), Dense),
        (Pattern(True, None, PACKED[:, 500:], PACKED, past=500), Dense),
        (Pattern(True, None, TINY, TINY), Dense),
        (Pattern(True, None, PACKED, PACKED, prefix_BT=PACKED == 1), segments.Segments),
        (Pattern(True, 64, prefix_BT=PACKED == 1), Dense),
    ],
    ids=[
        *("plain", "wide window", "packed", "window", "half", "memory", "cache", "tiny documents"),
        *("packed prefixes", "a prefix in a window"),
    ],
)
def test_auto_on_a_cpu_goes_document_by_document_where_that_spares_enough(
    pattern: Pattern, wanted: type
) -> None:
    queries = 512 - pattern.past
    assert isinstance(choose("auto", pattern, torch.zeros(2, queries, 256), 512), wanted)


@pytest.mark.parametrize("name", ["auto", *NAMES])
def test_a_document_in_two_pieces_is_one_document(name: KernelName) -> None:
    documents = torch.tensor([[1, 1, 2, 2, 0, 2, 3], [1, 0, 1, 0, 0, 0, 0]])
    case = Case(Pattern(True, None, documents, documents), (2, 7), (2, 1))
    kernel = choose(name, case.pattern, torch.zeros(2, 7, 4096), 7)
    assert isinstance(kernel, Dense)
    given = case.draw()
    found, kept = compute(name, case, given), documents != 0
    torch.testing.assert_close(found[kept], definition(case, given)[kept], rtol=1e-12, atol=1e-12)


def test_a_prefix_goes_to_a_kernel_that_has_one_where_flash_is_asked_for() -> None:
    pattern = Pattern(True, None, PACKED, PACKED, prefix_BT=PACKED == 1)
    x_BQD = torch.zeros(2, 512, 64)
    with mock.patch.object(flash, "fault", return_value=None):
        assert isinstance(choose("flash", replace(pattern, prefix_BT=None), x_BQD, 512), flash.Flash)
        assert isinstance(choose("flash", pattern, x_BQD, 512), Dense)
        with mock.patch.object(flex, "fault", return_value=None):
            assert isinstance(choose("flash", pattern, x_BQD, 512), flex.Flex)


@pytest.mark.parametrize("name", ["flex", "flash"])
def test_a_kernel_that_the_device_rules_out_is_named_with_a_remedy(name: KernelName) -> None:
    for pattern in (Pattern(True), Pattern(True, None, PACKED, PACKED)):
        with pytest.raises(
            ModelError, match=rf"engine\.attention_kernel: {name} needs a CUDA device.*use auto"
        ):
            choose(name, pattern, torch.zeros(2, 512, 64), 512)


@pytest.mark.gpu
@every_pattern
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_agree_on_a_gpu(causal: bool, window: int | None, biased: bool, dtype: torch.dtype) -> None:
    documents = pack([[180, 1, -5, 90], [-7, 40, 230]], 280)
    given, other = (
        Given(
            *(
                x.cuda()
                for x in Case(Pattern(causal, None, documents, documents), (2, 280), (4, 2)).draw(
                    dtype, 64, seed
                )
            )
        )
        for seed in (0, 1)
    )
    documents = documents.cuda()
    bias = torch.randn(1, 4, 280, 280, device="cuda") if biased else None
    case = Case(Pattern(causal, window, documents, documents, bias), (2, 280), (4, 2))
    half = dtype is torch.bfloat16 and not biased
    kinds: dict[KernelName, type] = {"flex": flex.Flex, "auto": flash.Flash if half else flex.Flex}
    kinds |= {"flash": flash.Flash} if half else {}
    wanted = results("dense", case, given)
    kept, here = documents != 0, documents == 2
    edited = Given(*(torch.where(here[:, :, None, None], y, x) for x, y in zip(given, other, strict=True)))
    for name, kind in kinds.items():
        assert isinstance(choose(name, case.pattern, given.q.flatten(2), 280), kind)
        found = results(name, case, given)
        for x, y in zip(found, wanted, strict=True):
            assert x.isfinite().all()
            bound = 2e-2 if dtype is torch.bfloat16 else 1e-5
            assert (x[kept] - y[kept]).norm() <= bound * y[kept].norm()
        neighbours = kept & ~here
        assert torch.equal(compute(name, case, edited)[neighbours], found[0][neighbours])


def test_attention_of_packed_short_rows_is_one_graph_where_it_is_compiled() -> None:
    q = torch.randn(2, 8, 3, 4)
    documents = pack([[3, 5], [8]], 8)
    same = (documents[:, :, None] == documents[:, None])[:, None]
    mask = torch.zeros(same.shape).masked_fill(~same, -torch.inf)
    whole = torch.compile(attend, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(q, q, q, None, mask, False), attend(q, q, q, None, mask, False))
