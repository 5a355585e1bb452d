"""Classes of operators: what a step's time is made of, and what its products alone would come to."""

import re
from collections.abc import Iterator, Mapping

from benchmarks.speed.operators import Operator

LINEAR, ATTENTION, OPTIMIZER = "linear products", "attention's products", "optimizer"
REST, BETWEEN = "everything else", "between operators"
PATTERNS = {
    LINEAR: r"mm|addmm|mv|addmv|_scaled_mm",
    ATTENTION: r"bmm|baddbmm|_(scaled_dot_product_)?(flash|efficient|cudnn)_attention\w*",
    "softmax": r"_(log_)?softmax",
    "activations": r"gelu|silu|relu|threshold|tanh|sigmoid|glu|elu|mish",
    "norms": r"native_layer_norm|_fused_rms_norm|_fused_layer_norm",
    "copies": r"copy|_to_copy|clone|contiguous|cat",
    "embedding look-ups": r"embedding\w*|index\w*|gather|scatter\w*|take",
    "sums and element-wise": (
        r"add|sub|mul|div|neg|abs|exp|log|sqrt|rsqrt|pow|square|reciprocal|addcmul|addcdiv|lerp|maximum|minimum"
        r"|clamp\w*|sum|mean|norm|linalg_vector_norm|cumsum|max|min|amax|amin|argmax|all|any|where|masked_fill"
        r"|eq|ne|lt|le|gt|ge|isnan|isinf|isneginf|isfinite|bitwise_\w+|logical_\w+|fill|zero|triu|tril|sin|cos"
    ),
    OPTIMIZER: r"_fused_(adam|adamw|sgd)",
}
"""Of aten's operators by name, forms DERIVED from one as itself; a Newton-Schulz iteration's are products."""
DERIVED = re.compile(r"^_foreach_|_backward(_data)?$|_$")
OPTIMIZER_FRAME = "Optimizer."
"""What torch calls an optimizer's own Python begins with."""
LARGEST = 3
"""Operators of a class that are named."""
AGREES = 0.05
"""How far the profiler's FLOPs may be from the formula's, which knows how many tokens predict on average."""


def class_of(name: str) -> str:
    """Return an operator's class."""
    if name.startswith(OPTIMIZER_FRAME):
        return OPTIMIZER
    namespace, _, own = name.rpartition("::")
    stem = DERIVED.sub("", own)
    known = (one for one, pattern in PATTERNS.items() if re.fullmatch(pattern, stem))
    return next(known, REST) if namespace == "aten" else REST


def by_class(operators: Mapping[str, Operator]) -> dict[str, dict[str, Operator]]:
    """Return the operators of each class, empty ones too."""
    found: dict[str, dict[str, Operator]] = {name: {} for name in (*PATTERNS, REST)}
    for name, one in operators.items():
        found[class_of(name)][name] = one
    return found


def bound(operators: Mapping[str, Operator], flops: float, rate: float) -> float:
    """Return the MFU of a step in which nothing but its products took time."""
    return flops / product_seconds(operators) / rate


def product_seconds(operators: Mapping[str, Operator]) -> float:
    """Return the time of linear maps' and attention's products."""
    classes = by_class(operators)
    return sum(one.seconds for kind in (LINEAR, ATTENTION) for one in classes[kind].values())


def product_rates(operators: Mapping[str, Operator], flops: float) -> dict[str, float]:
    """Return the FLOP/s of each class of products; nothing where the profiler does not count them all."""
    classes = by_class(operators)
    products = {kind: list(classes[kind].values()) for kind in (LINEAR, ATTENTION)}
    counted = sum(one.flops for kind in products.values() for one in kind)
    is_known = all(kind and all(one.flops for one in kind) for kind in products.values())
    if not is_known or abs(counted - flops) > AGREES * flops:
        return {}
    return {
        kind: sum(one.flops for one in its) / sum(one.seconds for one in its)
        for kind, its in products.items()
    }


def table(operators: Mapping[str, Operator], seconds: float) -> Iterator[str]:
    """Yield a step's table: a line a class, what no operator took, and the step."""
    yield "| class of operator | ms a step | share | calls a step | largest, ms |"
    yield "|---|---|---|---|---|"
    between = seconds
    for kind, its in by_class(operators).items():
        took = sum(one.seconds for one in its.values())
        between -= took
        largest = sorted(its, key=lambda name: its[name].seconds, reverse=True)[:LARGEST]
        named = (f"{name.removeprefix('aten::')} {1e3 * its[name].seconds:.2f}" for name in largest)
        yield _line(kind, took, seconds, f"{sum(one.calls for one in its.values()):,.0f}", ", ".join(named))
    yield _line(BETWEEN, between, seconds)
    calls = sum(one.calls for one in operators.values())
    yield _line("the step, with the profiler", seconds, seconds, f"{calls:,.0f}")


def _line(kind: str, took: float, seconds: float, calls: str = "", named: str = "") -> str:
    return f"| {kind} | {1e3 * took:.2f} | {took / seconds:.1%} | {calls} | {named} |"
