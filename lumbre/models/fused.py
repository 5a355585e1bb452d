"""Which maps of a model are several maps in one product, for those who must see them apart."""

from torch import nn

from lumbre.models.attention.module import Attention
from lumbre.models.mixture import MixtureOfExperts
from lumbre.models.mlp import Mlp


def fused_rows(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return, by the name of each such weight, the rows of its parts; those of other models are not known."""
    found: dict[str, tuple[int, ...]] = {}
    for prefix, module in model.named_modules():
        for name, rows in _rows(module).items():
            found[f"{prefix}.{name}" if prefix else name] = rows
    return found


def _rows(module: nn.Module) -> dict[str, tuple[int, ...]]:
    if isinstance(module, Attention):
        queries, keys = module.num_heads * module.head_size, module.num_kv_heads * module.head_size
        if module.qkv is not None:
            return {"qkv.weight": (queries, keys, keys)}
        return {"key_value.weight": (keys, keys)}
    if isinstance(module, Mlp) and module.gated:
        return {"up.weight": (module.up.out_features // 2,) * 2}
    if isinstance(module, MixtureOfExperts) and module.gated:
        # What DeepSpeed has shared out is flat, and has its shape beside it.
        return {"up": (getattr(module.up, "ds_shape", module.up.shape)[-2] // 2,) * 2}
    return {}
