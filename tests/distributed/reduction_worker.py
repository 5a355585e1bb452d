"""Two ranks train one model by ZeRO 1 and 2, as Lumbre has DeepSpeed do it and as DeepSpeed does by itself.

python -m torch.distributed.run --nproc-per-node=2 -m tests.distributed.reduction_worker FILE
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lumbre import distributed
from lumbre.engine import DeepSpeedConfig, reduction
from lumbre.optim import AdamWConfig

STEPS, MICRO_BATCHES = 3, 2
WORDS, WIDTH = 700, 130
"""The table is most of the model, and of more numbers than a norm takes in one go."""


class Model(nn.Module):
    """A table and three maps, of which one is large too, amid small ones; the loss is a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH)
        self.maps = nn.Sequential(
            nn.Linear(WIDTH, 40), nn.GELU(), nn.Linear(40, 400), nn.GELU(), nn.Linear(400, 7)
        )

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        """Return the sum of squares of what the words are mapped to."""
        loss: torch.Tensor = self.maps(self.table(words)).square().sum()
        return loss


def train(model: nn.Module, stage: int, clipping: float, precision: str) -> dict[str, Any]:
    """Return weights and norms after some steps, what was summed and kept, and whether weights are one."""
    config = DeepSpeedConfig.model_validate({"zero_stage": stage, "precision": precision})
    engine = config.build(model, AdamWConfig(learning_rate=0.01, gradient_clipping=clipping), 4)
    summed: list[int] = []
    all_reduce = torch.distributed.all_reduce

    def recorded(tensor: torch.Tensor, *arguments: Any, **keys: Any) -> Any:
        summed.append(tensor.numel())
        return all_reduce(tensor, *arguments, **keys)

    torch.distributed.all_reduce = recorded
    optimizer: Any = engine._optimizer
    keep, rooms = optimizer.copy_grads_in_partition, [0]

    def kept(*arguments: Any) -> None:
        keep(*arguments)
        rooms.append(0 if optimizer.grads_in_partition is None else optimizer.grads_in_partition.numel())

    optimizer.copy_grads_in_partition = kept
    norms = []
    for step in range(STEPS):
        for index in range(MICRO_BATCHES):
            chance = torch.Generator().manual_seed(100 * step + 10 * index + distributed.world().rank)
            with engine.accumulate(last=index == MICRO_BATCHES - 1):
                engine.backward(engine.forward()(torch.randint(WORDS, (4, 9), generator=chance)))
        norms.append(engine.step(0.01))
    torch.distributed.all_reduce = all_reduce
    pairs = zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups_flat, strict=True)
    one = [own.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr() for own, flat in pairs]
    found = {"weights": dict(engine.weights()), "norms": norms, "summed": summed, "shared": all(one)}
    return {**found, "room": max(rooms)}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference between weights."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def main(file: Path) -> None:
    """Write what every case came to."""
    found = []
    with distributed.session(0):
        torch.manual_seed(1)
        model = Model()
        ours, tuned = reduction.shorten, reduction.tuning
        for stage, clipping, precision in (
            *((stage, clipping, "float32") for stage in (1, 2) for clipping in (0.0, 1.0)),
            (2, 1.0, "bfloat16"),
        ):
            reduction.shorten, reduction.tuning = ours, tuned
            short = train(copy.deepcopy(model), stage, clipping, precision)
            reduction.shorten, reduction.tuning = (lambda optimizer: None), (lambda *_: {})
            plain = train(copy.deepcopy(model), stage, clipping, precision)
            weights = difference(short.pop("weights"), plain.pop("weights"))
            case = {"stage": stage, "clipping": clipping, "precision": precision, "difference": weights}
            found.append({**case, "short": short, "plain": plain})
    if distributed.world().is_main:
        file.write_text(json.dumps(found))
    distributed.leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
