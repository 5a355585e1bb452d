"""A step with Liger's kernels beside one with torch's in float64, on the device that is named.

On a CPU the kernels are run by Triton's interpreter (TRITON_INTERPRET=1).
"""

import importlib
import sys
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from lumbre.engine.liger import swap
from lumbre.models import LanguageModel, TransformerConfig

_convert = interpreter._implicit_cvt


def _tensors_of_floats(value: Any) -> Any:
    """Give a kernel a number as a tensor, as compiled code has it: triton 3.7's interpreter does not."""
    if not isinstance(value, float):
        return _convert(value)
    return tl.tensor(interpreter.TensorHandle(np.array([value], np.float32), tl.float32), tl.float32)


@triton.jit
def _rsqrt(x):  # type: ignore[no-untyped-def]
    # CUDA's own, of libdevice, is not interpreted.
    return 1.0 / tl.sqrt(x)


def step(kinds: dict[str, Any], device: str, swapped: bool) -> tuple[list[torch.Tensor], list[str]]:
    """Return loss and gradients of a model of two documents a row, and the kinds of its parts."""
    torch.manual_seed(0)
    base = {"hidden_size": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 40, "init_std": 0.3}
    base |= {"position": {"type": "rotary"}, "norm_epsilon": 1e-3}
    model = LanguageModel(TransformerConfig.model_validate({**base, **kinds}).build())
    names = list(model.state_dict())
    for parameter in model.parameters():
        # Norms begin as ones and zeros, which would hide what is multiplied by what.
        parameter.data += 0.3 * torch.randn_like(parameter)
    model.to(device)
    if swapped:
        swap(model.trunk)
        assert list(model.state_dict()) == names
    else:
        model.double()
    ids = torch.randint(40, (2, 7), generator=torch.Generator().manual_seed(1)).to(device)
    documents = torch.tensor([[1, 1, 1, 2, 2, 2, 0], [1] * 7], dtype=torch.int32, device=device)
    loss = model(ids, document_ids=documents, labels=ids).loss
    loss.backward()
    parts = [type(part).__name__ for part in model.modules()]
    return [loss.detach(), *[one.grad for one in model.parameters()]], parts


LLAMA = {
    **{"causal": True, "norm": "rmsnorm", "activation": "silu", "gated_mlp": True, "bias": False},
    "qk_norm": True,
}
BERT = {"causal": False, "norm": "layernorm", "bias": True, "norm_position": "post", "embedding_norm": True}
if __name__ == "__main__":
    device = sys.argv[1]
    if device == "cpu":
        interpreter._implicit_cvt = _tensors_of_floats
        for name in ("rms_norm", "layer_norm"):
            importlib.import_module(f"liger_kernel.ops.{name}").rsqrt = _rsqrt
    for kinds, expected in (LLAMA, {"LigerRMSNorm": 9, "LigerSwiGlu": 2}), (BERT, {"LigerLayerNorm": 5}):
        exact, _ = step(kinds, device, swapped=False)
        found, parts = step(kinds, device, swapped=True)
        assert {name: parts.count(name) for name in parts if name.startswith("Liger")} == expected, parts
        for one, other in zip(found, exact, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)
