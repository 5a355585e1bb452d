"""Optimizers that look at whole parameters, where ZeRO gives each rank flat tensors with pieces of them.

What goes from rank to rank is a piece once there and once back: together one float32 copy of the parameters
each way, and at stages 1 and 2, where most parameters lie on one rank, next to nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from lumbre import distributed, watchdog
from lumbre.optim.base import OptimizerConfig


@dataclass(frozen=True)
class Piece:
    """Elements [start, start + numel) of a flattened parameter, from `offset` on in a flat tensor."""

    name: str
    shape: tuple[int, ...]
    start: int
    offset: int
    numel: int


class Shared:
    """A tensor on each rank, flat, and the pieces of parameters that lie in all of them."""

    def __init__(self, by_rank: Sequence[Sequence[Piece]], rank: int, device: torch.device) -> None:
        self.pieces = by_rank[rank]
        """What lies in this rank's tensor."""
        self.names = list(dict.fromkeys(piece.name for pieces in by_rank for piece in pieces))
        """What lies in any."""
        self.device = device
        owners = share_out(by_rank)
        self._sent = [[one for one in self.pieces if owners[one.name] == to] for to in range(len(by_rank))]
        self._got = [[one for one in pieces if owners[one.name] == rank] for pieces in by_rank]
        self._alone = all(owners[one.name] == index for index, pieces in enumerate(by_rank) for one in pieces)

    def gather(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the parameters whose turn it is on this rank, whole; every rank calls."""
        sent = [flat[one.offset : one.offset + one.numel] for pieces in self._sent for one in pieces]
        got = [one for pieces in self._got for one in pieces]
        parts = self._exchange(sent, self._sent, self._got)
        wholes = {one.name: flat.new_empty(one.shape, device=self.device) for one in got}
        for one, part in zip(got, parts, strict=True):
            wholes[one.name].view(-1)[one.start : one.start + one.numel] = part
        return wholes

    def scatter(self, wholes: Mapping[str, torch.Tensor], flat: torch.Tensor) -> None:
        """Write what `gather` gave, changed, back into every rank's flat tensor."""
        got = [one for pieces in self._got for one in pieces]
        parts = [wholes[one.name].reshape(-1)[one.start : one.start + one.numel] for one in got]
        back = self._exchange(parts, self._got, self._sent)
        for one, part in zip((one for pieces in self._sent for one in pieces), back, strict=True):
            flat[one.offset : one.offset + one.numel] = part

    def _exchange(
        self,
        parts: Sequence[torch.Tensor],
        sent: Sequence[Sequence[Piece]],
        got: Sequence[Sequence[Piece]],
    ) -> Sequence[torch.Tensor]:
        """Send each rank its parts; return what came, in the order of `got`."""
        if self._alone:
            return parts
        out = [sum(one.numel for one in pieces) for pieces in sent]
        into = [sum(one.numel for one in pieces) for pieces in got]
        send = torch.cat([part.to(self.device) for part in parts] or [torch.empty(0, device=self.device)])
        received = send.new_empty(sum(into))
        with watchdog.collective("exchange pieces of parameters"):
            torch.distributed.all_to_all_single(received, send, into, out)
        return torch.split(received, [one.numel for pieces in got for one in pieces])


def share_out(by_rank: Sequence[Sequence[Piece]]) -> dict[str, int]:
    """Return the rank that sees each parameter whole: one that has most of it, of these the least busy."""
    held: dict[str, Counter[int]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for rank, pieces in enumerate(by_rank):
        for one in pieces:
            held.setdefault(one.name, Counter())[rank] += one.numel
            shapes[one.name] = one.shape
    work = {name: prod(shape) * min(shape[-2:], default=1) for name, shape in shapes.items()}
    busy = [0] * len(by_rank)
    owners = {}
    for name in sorted(work, key=lambda name: (-work[name], name)):
        most = max(held[name].values())
        owner = min(
            (rank for rank, numel in held[name].items() if numel == most), key=lambda rank: busy[rank]
        )
        busy[owner] += work[name]
        owners[name] = owner
    return owners


class PiecewiseOptimizer(torch.optim.Optimizer):
    """An optimizer whose update of an element depends on the whole parameter."""

    def __init__(
        self, config: OptimizerConfig, groups: list[dict[str, Any]], named: Mapping[str, torch.Tensor]
    ) -> None:
        super().__init__(groups, {"lr": config.learning_rate})
        self.config = config
        self.names = {parameter: name for name, parameter in named.items()}
        """The names of whole parameters."""
        self.shared: dict[torch.Tensor, Shared] = {}
        """What lies in each flat tensor that stands in a parameter's place."""

    def lay_out(self, flats: Sequence[tuple[torch.Tensor, Sequence[Piece]]], device: torch.device) -> None:
        """Tell what lies in the flat tensors that ZeRO has put in the parameters' place; every rank calls.

        `device` is where ranks speak to each other, which a flat tensor in the host's memory is not.
        """
        everywhere = distributed.gather_objects([pieces for _, pieces in flats])
        rank = distributed.world().rank
        self.shared = {
            flat: Shared([pieces[index] for pieces in everywhere], rank, device)
            for index, (flat, _) in enumerate(flats)
        }

    def state_of(self, parameter: torch.Tensor, states: Sequence[str]) -> dict[str, Any]:
        """Return a parameter's state, made before its first step."""
        if not self.state[parameter]:
            self.state[parameter] = self.config.initial_state(parameter, 0, states)
        state: dict[str, Any] = self.state[parameter]
        return state


def with_gradient(group: Mapping[str, Any]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the parameters of a group that the loss has reached, and their gradients."""
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    return parameters, [parameter.grad for parameter in parameters]
