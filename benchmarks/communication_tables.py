"""The counts of benchmarks/communication.py beside the formulas of launch/zero.py, as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from launch.zero import PAPER_FLOAT32, PAPER_MIXED, Held, Sent, deepspeed_widths, held, sent

Counts = Mapping[str, Any]
"""What one case came to on one number of ranks."""
PARTS = ("parameters", "gradients", "optimizer")


def tables(found: Sequence[Counts]) -> Iterator[str]:
    """Yield the lines of the report."""
    parameters = {one["parameters"] for one in found}
    sizes = " or ".join(f"{one:,}" for one in sorted(parameters, reverse=True))
    yield f"""\
# What a ZeRO rank sends and holds: counts and formulas

Written by `python -m benchmarks.communication --to benchmarks/results`, which counts in real runs on gloo
(torch {version("torch")}, DeepSpeed {version("deepspeed")}). No clock is read: the machine does not show.

The model is a GPT of {sizes} parameters, its embedding untied or tied.
All figures are bytes per parameter, P, on one of n ranks: the count, and in brackets what the paper's formula
gives (arXiv:1910.02054; in float32 4 bytes of weights, 4 of gradient and 8 of Adam's state, 16 as in mixed
precision). The last column is the largest difference of a count from the formula for DeepSpeed
(`launch/zero.py`).
"""
    ranks = sorted({one["ranks"] for one in found})
    yield from _table(
        "Sent in one step, through a ring", found, [one for one in ranks if one > 1], _sent_cell, sent_error
    )
    yield from _table("Held while gradients are accumulated", found, ranks, _held_cell, held_error)
    yield from _buffers(found)
    yield REMARKS


REMARKS = """\
## Why they differ from the paper

- Stages 1 and 2 send 3 P instead of 2 P: DeepSpeed reduces gradients by all-reduce and drops what a rank
  does not own. With `use_multi_rank_bucket_allreduce: false` ("reduced to owners") it reduces each part to
  its owner, which is the paper's volume.
- Stage 2 reduces after each micro batch, for a rank cannot add to a gradient that it no longer has; stage 3
  gathers twice and reduces once for each.
- Stage 3 gathers a tied embedding for each of the two places that use it. Untied, the count is the paper's.
- Stage 3 with "own thresholds", those that DeepSpeed has by default: parameters below
  `stage3_param_persistence_threshold` (100,000) stay whole on every rank, and what is used again within
  `stage3_max_reuse_distance` (a billion parameters) is not let go between forward and backward pass. A
  model below a billion is therefore gathered once a step instead of twice, and much of it is held whole. In
  the other rows these thresholds are 0, which they are, nearly, to a model of many billions.
- bfloat16: Lumbre has gradients summed and sent in float32 (`grad_accum_dtype`, `communication_data_type`),
  so that the layout does not show in them: twice the paper's bytes. At stage 1 the bfloat16 gradient stays
  beside the float32 one: 6 bytes.
- float32: stage 3 keeps a master copy of a rank's part of the weights, though they are of one width: 4 / n
  bytes. At stages 1 and 2 Lumbre has DeepSpeed update the model's own.
- Stage 1 in float32 with one micro batch a step holds but a part of the gradient: it is shared out while it
  is computed. With more it is summed whole, as the formula has it.
- Stages 1 and 2 in float32: a parameter that is cut between ranks has its gradient whole on each of them.
  In a model of this size the embedding is 40% of all; in a large one this is nothing.
- The rest: parts are padded to a multiple of the ranks, and norms and flags are summed, 4 to 8 bytes each.

Buckets are no part of the formula: `reduce_bucket_size` elements (500 million by default) of the width in
which gradients are sent, whatever the model. On a CPU what is never written takes no memory.
"""


def _table(title: str, found: Sequence[Counts], ranks: Sequence[int], cell: Any, error: Any) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield "| run | " + " | ".join(f"{one} ranks" if one > 1 else "1 rank" for one in ranks) + " | off |"
    yield "|---|" + "---|" * (len(ranks) + 1)
    for name in dict.fromkeys(map(name_of, found)):
        of = {one["ranks"]: one for one in found if name_of(one) == name}
        errors = [error(of[one]) for one in ranks if one in of]
        off = "" if None in errors or not errors else f"{max(errors, key=abs):+.2%}"
        yield f"| {name} | " + " | ".join(cell(of[one]) if one in of else "" for one in ranks) + f" | {off} |"
    yield ""


def name_of(case: Counts) -> str:
    """Return what a case is called."""
    parts = [f"stage {case['stage']}", case["precision"]]
    if case["micro_batches"] > 1:
        parts.append(f"{case['micro_batches']} micro batches")
    if not case["tied"]:
        parts.append("untied")
    if by_owner(case):
        parts.append("reduced to owners")
    if case["stage"] == 3 and not case["zero"]:
        parts.append("own thresholds")
    return ", ".join(parts)


def by_owner(case: Counts) -> bool:
    """Whether gradients are reduced to their owners alone."""
    return case["zero"].get("use_multi_rank_bucket_allreduce") is False


def paper(case: Counts) -> tuple[Sent, Held]:
    """Return what the paper has a rank send and hold."""
    widths = PAPER_MIXED if case["precision"] == "bfloat16" else PAPER_FLOAT32
    arguments = (case["stage"], case["parameters"], case["ranks"], widths)
    return sent(*arguments, micro_batches=case["micro_batches"]), held(*arguments)


def formula(case: Counts) -> tuple[Sent, Held] | None:
    """Return what DeepSpeed has a rank send and hold; None where its thresholds decide."""
    if case["stage"] == 3 and not case["zero"]:
        return None
    widths = deepspeed_widths(case["stage"], case["precision"])
    arguments = (case["stage"], case["parameters"], case["ranks"], widths)
    sending = sent(
        *arguments,
        micro_batches=case["micro_batches"],
        shared=case["shared"],
        all_reduces=not by_owner(case),
    )
    return sending, held(*arguments)


def sent_error(case: Counts) -> float | None:
    """Return how far what was sent is from the formula, relative."""
    expected = formula(case)
    return None if expected is None else _relative(sum(case["sent"].values()), expected[0].total)


def held_error(case: Counts) -> float | None:
    """Return how far what was held is from the formula, relative; None where nothing is accumulated."""
    expected = formula(case)
    if expected is None or (case["stage"] == 1 and case["micro_batches"] == 1):
        return None
    return _relative(total_held(case), expected[1].total)


def cut_gradient(case: Counts) -> float:
    """Return how many bytes of gradients that are another rank's may be held: those of a cut embedding."""
    is_cut = case["stage"] in (1, 2) and case["precision"] == "float32" and case["ranks"] > 1
    return 4.0 * case["shared"] if is_cut else 0.0


def total_held(case: Counts) -> float:
    """Return what parameters, gradient and optimizer took."""
    return sum(case["held"][part] for part in PARTS)


def _relative(found: float, expected: float) -> float:
    return found / expected - 1 if expected else float(found > 0)


def _sent_cell(case: Counts) -> str:
    P = case["parameters"]
    return f"{sum(case['sent'].values()) / P:.2f} ({paper(case)[0].total / P:.2f})"


def _held_cell(case: Counts) -> str:
    P = case["parameters"]
    parts = " + ".join(f"{case['held'][part] / P:.2f}" for part in PARTS)
    return f"{parts} = {total_held(case) / P:.2f} ({paper(case)[1].total / P:.2f})"


def _buffers(found: Sequence[Counts]) -> Iterator[str]:
    largest: dict[str, tuple[int, str]] = {}
    for case in found:
        for name, nbytes in {
            **case["held"]["buffers"],
            "what nothing leads to": case["held"]["unnamed"],
        }.items():
            largest[name] = max(largest.get(name, (0, "")), (nbytes, name_of(case)))
    yield "What else was there at those moments, in bytes, where there was most of it:"
    yield ""
    yield from (f"- {name}: {nbytes:,} ({case})" for name, (nbytes, case) in sorted(largest.items()))
    yield ""
