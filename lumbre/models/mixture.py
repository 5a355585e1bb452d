"""Mixture of experts: each token passes through the few MLPs that a router picks (arXiv:1701.06538).

Dropless (Gale et al., 2022, arXiv:2211.15841), with the balance loss of Fedus et al. (2021, arXiv:2101.03961)
and the shared experts of DeepSeekMoE (Dai et al., 2024, arXiv:2401.06066).
Shapes: B batch, T time, D hidden, I intermediate, E experts, K experts per token, P = B * T * K pairs of a
token and one of its experts, R and C rows and columns of any matrix.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from lumbre.errors import Problem
from lumbre.models.layers import ACTIVATIONS, Activation
from lumbre.models.mlp import Mlp, MlpConfig


class MixtureConfig(MlpConfig):
    """Many MLPs, of which each token passes through a few: more parameters for the same FLOPs."""

    type: Literal["mixture_of_experts"] = "mixture_of_experts"
    num_experts: PositiveInt
    """MLPs to choose from, each of the model's intermediate_size."""
    experts_per_token: PositiveInt = 2
    """How many of them each token passes through."""
    shared_experts: NonNegativeInt = 0
    """How many experts' width every token passes through besides, as one MLP that is never chosen."""
    normalise_weights: bool = True
    """Whether the chosen experts' weights are rescaled to sum to 1 (Mixtral yes, Qwen2-MoE no).

    With one expert per token say no: a weight that is always 1 teaches the router nothing.
    """
    gated_shared: bool = False
    """Whether each token has a gate on what the shared experts give, as Qwen2-MoE's."""
    balance_weight: NonNegativeFloat = 0.01
    """Weight in the training loss of the balance loss, which is 1 where all experts are chosen equally."""

    def problems(self) -> Iterator[Problem]:
        """Yield what asks for experts that are not there."""
        K, E = self.experts_per_token, self.num_experts
        if K > E:
            fault = f"{K} experts per token are more than the {E} there are"
            yield Problem("experts_per_token", fault, f"use at most {E}, or a larger num_experts")
        if self.gated_shared and not self.shared_experts:
            fault = "there is no shared expert to gate"
            yield Problem("gated_shared", fault, "use false, or shared_experts of at least 1")


class Router(nn.Linear):
    """A score per expert, in float32 at least: rounded scores pick other experts (Fedus et al., 2.4)."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map x_BTD to scores_BTE."""
        wide = torch.promote_types(x_BTD.dtype, torch.float32)
        with _exact(x_BTD.device.type):
            return F.linear(x_BTD.to(wide), self.weight.to(wide))


class MixtureOfExperts(nn.Module):
    """Experts, the router that picks for each token, and the shared MLP where there is one."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: Activation,
        gated: bool,
        bias: bool,
        config: MixtureConfig,
    ) -> None:
        super().__init__()
        D, E, S = hidden_size, config.num_experts, config.shared_experts
        width = intermediate_size * (2 if gated else 1)
        self.activation = ACTIVATIONS[activation]
        self.gated = gated
        self.experts_per_token = config.experts_per_token
        self.normalise_weights = config.normalise_weights
        self.router = Router(D, E, bias=False)
        self.up = nn.Parameter(torch.empty(E, width, D))
        """Gated: the gate's rows, then the value's, as in Mlp."""
        self.down = nn.Parameter(torch.empty(E, D, intermediate_size))
        self.up_bias = nn.Parameter(torch.empty(E, width)) if bias else None
        self.down_bias = nn.Parameter(torch.empty(E, D)) if bias else None
        self.shared = Mlp(D, S * intermediate_size, activation, gated, bias) if S else None
        self.shared_gate = nn.Linear(D, 1, bias=False) if S and config.gated_shared else None

    def forward(
        self, x_BTD: Tensor, kept_BT: Tensor | None, over_row: Callable[[Tensor], Tensor] = lambda x: x
    ) -> tuple[Tensor, Tensor]:
        """Return y_BTD and the sum over the rows of each row's balance loss over its kept tokens.

        `kept_BT` is false at padding, None where there is none. Padding passes through experts like any
        token and touches no other token. `over_row` adds up what ranks that share rows have counted.
        """
        probabilities_BTE = self.router(x_BTD).softmax(dim=-1)
        weights_BTK, chosen_BTK = probabilities_BTE.topk(self.experts_per_token)
        if self.normalise_weights:
            weights_BTK = weights_BTK / weights_BTK.sum(dim=-1, keepdim=True)
        y_BTD = (self._through_experts(x_BTD, chosen_BTK) * weights_BTK[..., None]).sum(dim=2)
        if self.shared is not None:
            shared_BTD = self.shared(x_BTD)
            if self.shared_gate is not None:
                shared_BTD = shared_BTD * self.shared_gate(x_BTD).sigmoid()
            y_BTD = y_BTD + shared_BTD
        return y_BTD.type_as(x_BTD), balance_loss(probabilities_BTE, chosen_BTK, kept_BT, over_row)

    @staticmethod
    def counts(expert_P: Tensor, num_experts: int) -> list[int]:
        """Return how many pairs each expert has, read back from the device."""
        sizes: list[int] = expert_P.bincount(minlength=num_experts).tolist()
        return sizes

    def _through_experts(self, x_BTD: Tensor, chosen_BTK: Tensor) -> Tensor:
        """Return y_BTKD, each token through each of its experts; an expert takes as many as chose it."""
        (B, T, K), D = chosen_BTK.shape, x_BTD.shape[-1]
        expert_P = chosen_BTK.flatten()
        order_P = expert_P.argsort(stable=True)
        back_P = order_P.argsort()
        counts_E = self.counts(expert_P, len(self.up))
        x_PD = x_BTD[:, :, None].expand(B, T, K, D).reshape(-1, D)
        inner_PI = _grouped_linear(_reorder(x_PD, order_P, back_P), self.up, self.up_bias, counts_E)
        if self.gated:
            gate_PI, value_PI = inner_PI.chunk(2, dim=-1)
            inner_PI = self.activation(gate_PI) * value_PI
        else:
            inner_PI = self.activation(inner_PI)
        y_PD = _grouped_linear(inner_PI, self.down, self.down_bias, counts_E)
        return _reorder(y_PD, back_P, order_P).view(B, T, K, D)


def balance_loss(
    probabilities_BTE: Tensor,
    chosen_BTK: Tensor,
    kept_BT: Tensor | None,
    over_row: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Return the sum over rows of E * sum_e f_e P_e (Fedus et al., 2021, equation 4).

    f_e is the share of the choices of the row's kept tokens that fell on expert e, P_e the mean probability
    that they gave it. A row's loss is its own, so that the sum does not know how rows are dealt out.
    """
    E, K = probabilities_BTE.shape[-1], chosen_BTK.shape[-1]
    if kept_BT is None:
        kept_BT = chosen_BTK.new_ones(chosen_BTK.shape[:2], dtype=torch.bool)
    kept_BT1 = kept_BT[..., None].type_as(probabilities_BTE)
    hits_BTE = torch.zeros_like(probabilities_BTE).scatter(-1, chosen_BTK, 1.0)
    sums = [(x * kept_BT1).sum(dim=1) for x in (hits_BTE, probabilities_BTE)]
    counted_BC = over_row(torch.cat([*sums, kept_BT1.sum(dim=1)], dim=1))
    hits_BE, sum_BE, count_B1 = torch.split(counted_BC, [E, E, 1], dim=1)
    count_B1 = count_B1.clamp(min=1)
    return E * (hits_BE / (K * count_B1) * (sum_BE / count_B1)).sum()


def flops_per_token(config: MixtureConfig, hidden_size: int, intermediate_size: int, gated: bool) -> float:
    """Return the forward multiply-adds per token: router, chosen experts, shared MLP and its gate."""
    mlp = (3 if gated else 2) * hidden_size * intermediate_size
    scores = config.num_experts + (1 if config.gated_shared and config.shared_experts else 0)
    return float(hidden_size * scores + (config.experts_per_token + config.shared_experts) * mlp)


def _exact(device_type: str) -> AbstractContextManager[Any]:
    """Return the context without autocast, which the meta device does not have."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _grouped_linear(x_PC: Tensor, weight_ERC: Tensor, bias_ER: Tensor | None, counts_E: list[int]) -> Tensor:
    """Map the first counts_E[0] rows by the first matrix, the next by the second: y_PR.

    An expert without rows still gets a gradient, of zeros, as DDP and ZeRO need. torch's grouped_mm has no
    float64, no bias, no autocast and wants aligned rows.
    """
    weights = weight_ERC.unbind()
    biases = [None] * len(weights) if bias_ER is None else bias_ER.unbind()
    parts = zip(x_PC.split_with_sizes(counts_E), weights, biases, strict=True)
    return torch.cat([F.linear(x, weight, bias) for x, weight, bias in parts])


class _Reorder(torch.autograd.Function):
    """Rows in another order, whose gradient is a gather too: that of indexing would add with atomics."""

    @staticmethod
    def forward(ctx: Any, x_PD: Tensor, order_P: Tensor, back_P: Tensor) -> Tensor:
        ctx.save_for_backward(back_P)
        return x_PD[order_P]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (back_P,) = ctx.saved_tensors
        return gradients[0][back_P], None, None


def _reorder(x_PD: Tensor, order_P: Tensor, back_P: Tensor) -> Tensor:
    y_PD: Tensor = _Reorder.apply(x_PD, order_P, back_P)  # type: ignore[no-untyped-call]
    return y_PD
