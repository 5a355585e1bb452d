"""QLoRA: LoRA beside base weights of 4 bits (Dettmers et al., 2023, arXiv:2305.14314), by bitsandbytes."""

from importlib.util import find_spec
from typing import Any, Literal

import torch

from lumbre import distributed
from lumbre.errors import ConfigError, Problem
from lumbre.optim.depth import BLOCK

from .lora import LoraConfig


class QloraConfig(LoraConfig):
    """LoRA beside blocks held in 4-bit NormalFloat, doubly quantized; their products are in bfloat16."""

    type: Literal["qlora"] = "qlora"  # type: ignore[assignment]
    """The method's name."""

    def check(self) -> None:
        """Raise ConfigError where there is no CUDA device or no bitsandbytes."""
        problems = []
        if not torch.cuda.is_available():
            fault = "qlora needs a CUDA device, and none is visible here"
            problems.append(Problem("method.type", fault, "use lora, or a machine with a GPU"))
        if find_spec("bitsandbytes") is None:
            fault = "qlora needs the package bitsandbytes, which is not installed"
            problems.append(Problem("method.type", fault, "pip install 'lumbre[qlora]', or use lora"))
        if problems:
            raise ConfigError(problems)

    def loading(self) -> dict[str, Any]:
        """Return the quantization and this process's device, on which the weights are packed."""
        from transformers import BitsAndBytesConfig

        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            # A new head trains, which packed weights cannot: only the blocks are packed.
            llm_int8_skip_modules=[rf"(?!.*{BLOCK.pattern}).*"],
        )
        return {"quantization_config": quantization, "device_map": {"": distributed.device()}}
