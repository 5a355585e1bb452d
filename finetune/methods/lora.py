"""LoRA: low-rank updates beside frozen linear maps (Hu et al., 2021, arXiv:2106.09685), by peft."""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from lumbre.errors import ModelError
from lumbre.optim.depth import BLOCK

from .base import MethodConfig, load_trained


class LoraConfig(MethodConfig):
    """Train two thin matrices beside each target, and the head whole; they are merged in the end."""

    type: Literal["lora"] = "lora"
    """The method's name."""
    rank: PositiveInt = 8
    """Inner width of an update."""
    alpha: PositiveFloat = 16
    """Scale of an update; alpha / rank multiplies it."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an update's input that is dropped in training."""
    target_modules: list[str] = Field(default_factory=list)
    """Ends of the names of linear maps; left out, peft's choice for the family, else all of the blocks."""

    def apply(self, model: nn.Module, head: Collection[str]) -> nn.Module:
        """Return peft's model around this one: frozen but for the updates and a copy of the head.

        Raises ModelError where there is nothing to put an update beside.
        """
        from peft import LoraConfig as PeftLora
        from peft import get_peft_model

        whole = _whole(model, head)
        targets = [name for name in self._targets(model) if name not in whole]
        config = PeftLora(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=targets,
            modules_to_save=whole or None,
            # transformers' Conv1D, GPT-2's linear map, holds its matrix the other way round.
            fan_in_fan_out=_is_conv1d(model.get_submodule(targets[0])),
        )
        with warnings.catch_warnings():
            # peft asks transformers 5 by the name that transformers 4 had.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            wrapped: nn.Module = get_peft_model(model, config)
        return wrapped.train()

    def finished(
        self, model: nn.Module, head: Collection[str], weights: Mapping[str, torch.Tensor], folder: Path
    ) -> nn.Module:
        """Return the plain model with the updates merged; write the adapter into `folder`/adapter."""
        wrapped: Any = self.apply(model, head)
        load_trained(wrapped, weights)
        wrapped.save_pretrained(folder / "adapter", save_embedding_layers=False)
        merged: nn.Module = wrapped.merge_and_unload()
        return merged

    def _targets(self, model: nn.Module) -> list[str]:
        """Return the whole names of the linear maps that get an update."""
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOICES

        maps = [name for name, module in model.named_modules() if _is_linear(module)]
        kind = getattr(getattr(model, "config", None), "model_type", "")
        ends = self.target_modules or CHOICES.get(kind) or []
        found = [name for name in maps if any(f".{name}".endswith(f".{end}") for end in ends)]
        if not ends:
            found = [name for name in maps if BLOCK.search(f"{name}.")]
        missing = [
            end for end in self.target_modules if not any(f".{name}".endswith(f".{end}") for name in maps)
        ]
        if missing or not found:
            known = sorted({name.rpartition(".")[2] for name in maps if BLOCK.search(f"{name}.")})
            fault = f"no linear map is called {missing[0]!r}" if missing else "the model has no blocks"
            raise ModelError(f"method.target_modules: {fault}; those of the blocks are {', '.join(known)}")
        return found


def _whole(model: Any, head: Collection[str]) -> list[str]:
    """Return the head's modules; a language model's head is none, for it has been trained with the base."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = {name.rpartition(".")[0] for name in head}
    return sorted(name for name in names if model.get_submodule(name) is not output)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or _is_conv1d(module)


def _is_conv1d(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)
