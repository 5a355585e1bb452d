"""Our models against transformers' own classes: one training step, in turn, in one process.

    python benchmarks/model_speed.py [CASE...] [--rounds 15] [--batch 8] [--length 128] [--threads 2]

A step is forward, backward and AdamW (torch's fused kernel for both), float32, no dropout, the same
weights' shapes and the same batch. The trunk cases have no language-model head; the others compute the loss
as each model does it by itself: theirs at every position, ours at targets.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch
import transformers
from torch import nn

from lumbre.hub.base import StateDictAdapter
from lumbre.hub.bert import Bert
from lumbre.hub.gpt2 import Gpt2
from lumbre.models import NO_TARGET, LanguageModel

MASKED = 0.15


@dataclass(frozen=True)
class Case:
    """One shape of one family."""

    family: str
    layers: int
    hidden: int
    heads: int
    vocabulary: int
    head: bool


CASES = {
    "bert-trunk": Case("bert", 6, 384, 6, 30522, head=False),
    "bert-mlm": Case("bert", 6, 384, 6, 30522, head=True),
    "gpt2-trunk": Case("gpt2", 6, 384, 6, 50257, head=False),
    "gpt2-clm": Case("gpt2", 6, 384, 6, 50257, head=True),
    "mlm-4x256": Case("bert", 4, 256, 4, 30522, head=True),
    "mlm-base": Case("bert", 12, 768, 12, 30522, head=True),
}


def models(case: Case, length: int) -> tuple[nn.Module, LanguageModel]:
    """Return transformers' model and ours, with the same sizes."""
    adapter: StateDictAdapter
    if case.family == "bert":
        config = transformers.BertConfig(
            vocab_size=case.vocabulary,
            hidden_size=case.hidden,
            num_hidden_layers=case.layers,
            num_attention_heads=case.heads,
            intermediate_size=4 * case.hidden,
            max_position_embeddings=max(512, length),
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        theirs, adapter = transformers.BertForMaskedLM(config), Bert()
    else:
        config = transformers.GPT2Config(
            vocab_size=case.vocabulary,
            n_embd=case.hidden,
            n_layer=case.layers,
            n_head=case.heads,
            n_positions=max(512, length),
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
        )
        theirs, adapter = transformers.GPT2LMHeadModel(config), Gpt2()
    return theirs.train(), LanguageModel(adapter.from_hf_config(config.to_dict()).build()).train()


def losses(case: Case, batch: int, length: int) -> list[tuple[nn.Module, Callable[[], torch.Tensor]]]:
    """Return theirs and ours, each with what computes its loss on the same tokens."""
    theirs, ours = models(case, length)
    input_ids = torch.randint(case.vocabulary, (batch, length))
    if not case.head:
        trunk = theirs.base_model

        def their_sum() -> torch.Tensor:
            return trunk(input_ids).last_hidden_state.sum()

        def our_sum() -> torch.Tensor:
            return ours.trunk(input_ids).x_BTD.sum()

        return [(trunk, their_sum), (ours.trunk, our_sum)]
    labels, aligned = input_ids, nn.functional.pad(input_ids[:, 1:], (0, 1), value=NO_TARGET)
    if case.family == "bert":
        labels = aligned = torch.where(torch.rand(batch, length) < MASKED, input_ids, NO_TARGET)
    targets = int((aligned != NO_TARGET).sum())

    def their_loss() -> torch.Tensor:
        return theirs(input_ids, labels=labels).loss

    def our_loss() -> torch.Tensor:
        return ours(input_ids, labels=aligned).loss / targets

    return [(theirs, their_loss), (ours, our_loss)]


def step(model: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """Return what does one training step and gives its seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> float:
        began = time.perf_counter()
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - began

    return run


def measure(case: Case, batch: int, length: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return seconds a step of theirs and of ours, taken in turn: A B B A."""
    torch.manual_seed(0)
    theirs, ours = (step(model, loss) for model, loss in losses(case, batch, length))
    for _ in range(2):
        theirs(), ours()
    found: tuple[list[float], list[float]] = ([], [])
    for index in range(rounds):
        pair = ((theirs, found[0]), (ours, found[1]))
        for run, times in pair if index % 2 else pair[::-1]:
            times.append(run())
    return found


def main() -> None:
    """Print a row a case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"{asked.batch} x {asked.length} tokens, {asked.threads} threads, {asked.rounds} rounds")
    print(f"{'case':<12}{'theirs ms':>11}{'ours ms':>10}{'ratio':>8}   quartiles")
    for name in asked.cases:
        theirs, ours = measure(CASES[name], asked.batch, asked.length, asked.rounds)
        ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        shown = (1e3 * statistics.median(theirs), 1e3 * statistics.median(ours))
        print(f"{name:<12}{shown[0]:>11.1f}{shown[1]:>10.1f}{middle:>8.2f}   {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
