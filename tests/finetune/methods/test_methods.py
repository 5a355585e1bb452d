"""Which weights a method trains, and what is left of what it froze."""

from pathlib import Path

import pytest
import torch

from finetune.methods import FrozenConfig, FullConfig, MethodConfig, parameter_counts
from lumbre.errors import ModelError
from lumbre.optim import AdamWConfig
from tests.finetune.methods.models import BUILDERS, LAYERS, build, head, loss

LAST_BLOCK = {
    "bert": ("bert.encoder.layer.2.", "bert.pooler."),
    "gpt2": ("transformer.h.2.", "transformer.ln_f."),
    "t5": (
        "transformer.encoder.block.2.",
        "transformer.encoder.final_layer_norm.",
        "transformer.decoder.block.1.",
        "transformer.decoder.final_layer_norm.",
    ),
    "modernbert": ("model.layers.2.", "model.final_norm."),
    "lumbre": ("trunk.blocks.2.", "trunk.final_norm."),
}
"""What trains beside the head with one trainable layer."""


@pytest.mark.parametrize("family", BUILDERS)
def test_full_trains_everything(family: str) -> None:
    model = FullConfig().apply(build(family), head(family))
    trained, every = parameter_counts(model)
    assert trained == every == model.num_parameters()
    assert model.training


@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("family", BUILDERS)
def test_a_frozen_trunk_takes_no_gradient_and_does_not_move(family: str, layers: int) -> None:
    """Only the head, and the blocks that are asked for, have gradients; a step changes all of them alone."""
    heads = head(family)
    model = FrozenConfig(trainable_layers=layers).apply(build(family), heads)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = AdamWConfig(learning_rate=1e-2).build(model.named_parameters())
    loss(model).backward()
    expected = {
        name
        for name, _ in model.named_parameters()
        if name in heads or (layers and name.startswith(LAST_BLOCK[family]))
    }
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == expected
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == expected
    assert parameter_counts(model)[0] == sum(model.get_parameter(name).numel() for name in expected)


def test_no_block_is_computed_backwards_below_the_lowest_that_trains() -> None:
    model = FrozenConfig(trainable_layers=1).apply(build("bert"), head("bert"))
    outputs = []
    for block in model.bert.encoder.layer:
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    loss(model)
    assert [output.requires_grad for output in outputs] == [False, False, True]


def test_all_blocks_of_each_stack_train_and_no_embedding() -> None:
    """T5's decoder has a block less than its encoder."""
    model = FrozenConfig(trainable_layers=LAYERS).apply(build("t5"), head("t5"))
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == ["transformer.shared.weight"]


def test_a_misfit_of_model_and_method_is_told() -> None:
    with pytest.raises(
        ModelError, match=r"method.trainable_layers: 4, and the model has 3 blocks; use fewer"
    ):
        FrozenConfig(trainable_layers=4).apply(build("bert"), head("bert"))
    with pytest.raises(ModelError, match=r"nothing trains; set method.trainable_layers"):
        FrozenConfig().apply(build("bert"), [])


@pytest.mark.parametrize("method", [FullConfig(), FrozenConfig(), FrozenConfig(trainable_layers=1)])
def test_the_finished_model_is_the_trained_one(method: MethodConfig, tmp_path: Path) -> None:
    """What trained comes from the weights, what was frozen from the model anew, to the bit."""
    model = method.apply(build("bert"), head("bert"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    finished = method.finished(build("bert"), head("bert"), trained, tmp_path)
    assert all(
        torch.equal(tensor, model.state_dict()[name]) for name, tensor in finished.state_dict().items()
    )


def test_weights_of_another_method_are_refused(tmp_path: Path) -> None:
    model = FrozenConfig().apply(build("bert"), head("bert"))
    trained = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    with pytest.raises(ModelError, match="of another model or method"):
        FullConfig().finished(build("bert"), head("bert"), trained, tmp_path)
