"""Share a model's parameters out over the ranks before DeepSpeed's engine is made, one after the other."""

from itertools import chain
from typing import Any

import torch
from deepspeed import comm
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.zero.partition_parameters import Init
from torch import nn

from lumbre.engine.parameter_swap import ParameterSwapper
from lumbre.models.deferred import Deferred


def partition(
    model: nn.Module, config: dict[str, Any], dtype: torch.dtype, *, on_disk: bool, weights: Deferred | None
) -> None:
    """Leave each rank its part of every parameter as `dtype`, in memory or on the disk that `config` names.

    `weights` draws those that are not there yet. It is what deepspeed.initialize does first, to a whole
    model, and leaves out where it has been done. Left to it, the disk would hold bfloat16 whatever the model
    is on a device without float16 (InsertPostInitMethodToModuleSubClasses._set_dtype, DeepSpeed 0.19).
    """
    if not comm.is_initialized():
        comm.init_distributed(dist_init_required=False)
    swapper = ParameterSwapper(DeepSpeedConfig(config), dtype) if on_disk else None
    # Made of no parameters, so that they can be given one by one.
    init = Init(module=nn.Module(), config_dict_or_path=config, param_swapper=swapper)
    drawn = weights.settle(model) if weights is not None else ()
    for parameter in chain(drawn, model.parameters()):
        _share(init, parameter, dtype)


def _share(init: Init, parameter: nn.Parameter, dtype: torch.dtype) -> None:
    if not hasattr(parameter, "ds_id"):
        parameter.data = parameter.data.to(dtype)
        init._convert_to_zero_parameters([parameter])
