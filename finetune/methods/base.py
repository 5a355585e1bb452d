"""What a method is: which weights train, and how the trained ones become a plain model again."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lumbre.config import Choice
from lumbre.errors import ModelError


class MethodConfig(Choice):
    """Which weights fine-tuning trains.

    Dropout stays on in what is frozen, as it does under transformers' Trainer.
    """

    def check(self) -> None:
        """Raise ConfigError where this machine lacks what the method needs; called before data is read."""

    def loading(self) -> dict[str, Any]:
        """Return what from_pretrained is given beside its own arguments for the model that is to train."""
        return {}

    def apply(self, model: nn.Module, head: Collection[str]) -> nn.Module:
        """Set which parameters train; return the model to train, in training mode.

        `head` names the parameters that are new or belong to the task's head. Raises ModelError where the
        model does not have what the method is told to train.
        """
        raise NotImplementedError

    def finished(
        self, model: nn.Module, head: Collection[str], weights: Mapping[str, torch.Tensor], folder: Path
    ) -> nn.Module:
        """Return a plain model of Hugging Face with the trained weights.

        `model` is built anew as the one that was trained, without `loading`; `weights` are an engine's
        state_dict. What the method saves beside the model goes into `folder`.
        """
        trained = self.apply(model, head)
        load_trained(trained, weights)
        return trained


def load_trained(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Set what trains to the weights of an engine; what is frozen stays.

    Raises ModelError where the weights are of another model or method.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    trains = {name for name, parameter in named.items() if parameter.requires_grad}
    found = model.load_state_dict(dict(weights), strict=False)
    wrong = sorted({*found.unexpected_keys, *(trains & set(found.missing_keys))})
    if wrong:
        raise ModelError(f"the trained weights are of another model or method: {wrong[0]} does not fit")


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Return how many parameters train, and how many there are; one that is packed counts unpacked."""
    counts = [(_numel(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(numel for numel, trains in counts if trains), sum(numel for numel, _ in counts)


def _numel(parameter: Any) -> int:
    # bitsandbytes keeps weights of 4 bits flat, two in a byte, and their shape beside them.
    packed = getattr(parameter, "quant_state", None)
    return int(parameter.numel()) if packed is None else int(packed.shape.numel())
