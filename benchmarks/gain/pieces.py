"""What parts that have no key of their own do, each beside the plain way: in turn, in one process."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed.report import Spread
from lumbre import products
from lumbre.models import NO_TARGET, LanguageModel, TransformerConfig
from lumbre.models.loss import linear_cross_entropy

ROWS, TIME, WIDTH, WORDS = 16, 128, 256, 30522
MASKED = 0.15
Pair = tuple[Callable[[], Any], Callable[[], Any]]
"""Ours and the plain way, each one call; of a loss it returns the value."""


def cross_entropy() -> Pair:
    """Chunked, beside all logits at once: forward and backward of 2,048 targets."""
    x = torch.randn(ROWS * TIME, WIDTH, requires_grad=True)
    weight = torch.randn(WORDS, WIDTH, requires_grad=True)
    labels = torch.randint(WORDS, (ROWS * TIME,))

    def learned(loss: Tensor) -> Tensor:
        loss.backward()  # type: ignore[no-untyped-call]
        x.grad = weight.grad = None
        return loss.detach()

    def ours() -> Tensor:
        return learned(linear_cross_entropy(x, weight, None, labels)[0])

    def plain() -> Tensor:
        return learned(F.cross_entropy(F.linear(x, weight), labels, reduction="sum"))

    return ours, plain


def masked_head() -> Pair:
    """The head and the end of the last block at targets alone, beside every position: an MLM, no update."""
    config = TransformerConfig(
        **{"causal": False, "hidden_size": WIDTH, "num_layers": 4, "num_heads": 4, "vocab_size": WORDS},
        position={"type": "learned", "max_length": TIME},
        head_transform=True,
    )
    model = LanguageModel(config.build())
    ids = torch.randint(WORDS, (ROWS, TIME))
    labels = torch.where(torch.rand(ROWS, TIME) < MASKED, ids, NO_TARGET)

    def learned(loss: Tensor) -> Tensor:
        loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()
        return loss.detach()

    def ours() -> Tensor:
        return learned(model(ids, labels=labels).loss)

    def plain() -> Tensor:
        logits = model(ids).logits.flatten(0, 1)
        return learned(F.cross_entropy(logits, labels.flatten(), ignore_index=NO_TARGET, reduction="sum"))

    return ours, plain


def fused_adamw() -> Pair:
    """torch's fused kernel, beside torch's default on a CPU: an update of 16M parameters in 52 tensors."""

    def step(fused: bool) -> Callable[[], Any]:
        sizes = [(WORDS, WIDTH), *[(WIDTH, 3 * WIDTH), (WIDTH, 4 * WIDTH), (WIDTH,)] * 17]
        parameters = [torch.nn.Parameter(torch.randn(size)) for size in sizes]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        return torch.optim.AdamW(parameters, lr=1e-4, fused=fused).step

    return step(fused=True), step(fused=False)


PIECES = {
    "chunked cross-entropy": cross_entropy,
    "head at targets alone": masked_head,
    "fused AdamW": fused_adamw,
}


def table(threads: int, rounds: int) -> None:
    """Print a line a part."""
    torch.set_num_threads(threads)
    print("| part | ms | plain ms | ratio |")
    print("|---|---|---|---|", flush=True)
    with products.fastest():
        for name, make in PIECES.items():
            pair = make()
            seconds: tuple[list[float], list[float]] = ([], [])
            for run in pair * 2:
                run()
            for number in range(rounds):
                for which in (0, 1) if number % 2 == 0 else (1, 0):
                    began = time.perf_counter()
                    pair[which]()
                    seconds[which].append(time.perf_counter() - began)
            ours, plain = (f"{1e3 * statistics.median(one):.1f}" for one in seconds)
            spread = Spread.of([slow / fast for fast, slow in zip(*seconds, strict=True)])
            print(f"| {name} | {ours} | {plain} | {spread.shown('.2f')} |", flush=True)
