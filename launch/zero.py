"""What ZeRO has each rank send in a step, and hold (Rajbhandari et al., 2020, arXiv:1910.02054, 5 and 7).

The paper's formulas and what DeepSpeed makes of them, which `python -m benchmarks.communication` counts in
real runs. P parameters, n ranks; all results are bytes.
"""

from dataclasses import dataclass
from typing import Literal

Collective = Literal["all_reduce", "reduce_scatter", "all_gather", "reduce", "broadcast", "all_to_all"]
Stage = Literal[0, 1, 2, 3]
MASTER_COPY = 4


@dataclass(frozen=True)
class Widths:
    """Bytes for each parameter."""

    parameter: float
    """Of the weights that the forward pass reads; they are gathered in this width."""
    gradient: float
    """Of the gradient."""
    optimizer: float
    """Of what the optimizer keeps: master weights where they are others, and its state."""
    reduced: float
    """Of the gradient as it is sent."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.parameter + self.gradient + self.optimizer


PAPER_MIXED = Widths(2, 2, 12, reduced=2)
"""Section 3.1: 16 bytes with Adam in mixed precision, 12 of them master weights and two moments."""
PAPER_FLOAT32 = Widths(4, 4, 8, reduced=4)
"""The same in float32, where the weights need no master copy: 16 bytes again."""


def deepspeed_widths(stage: Stage, precision: Literal["float32", "bfloat16"]) -> Widths:
    """Return the widths of DeepSpeed as engine.type=deepspeed sets it up, with AdamW.

    Gradients are summed and sent in float32; stage 1 in bfloat16 keeps the bfloat16 ones beside. In bfloat16
    there is a master copy from stage 1 on, in float32 at stage 3 alone. Stage 0 in bfloat16 is float32 under
    autocast.
    """
    if not stage:
        return PAPER_FLOAT32
    parameter = 2 if precision == "bfloat16" else 4
    gradient = 4 + parameter if stage == 1 and precision == "bfloat16" else 4
    master = MASTER_COPY if precision == "bfloat16" or stage == 3 else 0
    return Widths(parameter, gradient, 8 + master, reduced=4)


@dataclass(frozen=True)
class Held:
    """What a rank holds of the model between its steps, activations and buffers left out."""

    parameters: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer


@dataclass(frozen=True)
class Sent:
    """What a rank sends in one optimizer step."""

    gradients: float
    parameters: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.gradients + self.parameters


def held(stage: Stage, parameters: float, ranks: int, widths: Widths) -> Held:
    """Return what a rank holds while gradients are accumulated: figure 1 of the paper.

    Ranks share out optimizer state from stage 1 on, gradients from stage 2 on, parameters in stage 3.
    """
    share = parameters / ranks
    return Held(
        parameters=widths.parameter * (share if stage >= 3 else parameters),
        gradients=widths.gradient * (share if stage >= 2 else parameters),
        optimizer=widths.optimizer * (share if stage >= 1 else parameters),
    )


def sent(
    stage: Stage,
    parameters: float,
    ranks: int,
    widths: Widths,
    *,
    micro_batches: int = 1,
    shared: float = 0.0,
    all_reduces: bool = False,
) -> Sent:
    """Return what a rank sends in a step of so many micro batches: section 7 of the paper.

    A step reduces the gradient, which stages 2 and 3 do after each micro batch, and gathers the updated
    parameters; stage 3 gathers them for each forward and each backward pass instead. Of those, `shared` are
    used in two places, as a tied embedding is, and gathered for each. With `all_reduces`, which is
    DeepSpeed's default, stages 1 and 2 send whole sums where a rank's own part would do.
    """
    reductions = micro_batches if stage >= 2 else 1
    reduction: Collective = "all_reduce" if stage == 0 or (stage < 3 and all_reduces) else "reduce_scatter"
    gathered = {0: 0.0, 3: 2.0 * micro_batches * (parameters + shared)}.get(stage, parameters)
    return Sent(
        gradients=reductions * ring_bytes(reduction, widths.reduced * parameters, ranks),
        parameters=ring_bytes("all_gather", widths.parameter * gathered, ranks),
    )


def ring_bytes(collective: Collective, whole: float, ranks: int) -> float:
    """Return what each rank of a ring sends, for `whole` bytes that all gather or reduce together.

    A reduction and a gathering pass on all but one n-th, once; an all-reduce is both.
    """
    return (2 if collective == "all_reduce" else 1) * whole * (ranks - 1) / ranks
