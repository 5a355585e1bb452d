"""CUDA graphs of compiled blocks, as far as a machine without such a device shows; the last runs on one."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from lumbre.engine import AccelerateConfig
from lumbre.engine.compiled import cpu_options
from lumbre.engine.compute import set_up
from lumbre.models import Electra, LanguageModel, TransformerConfig
from lumbre.optim import AdamWConfig

ON = {"compile": True, "cuda_graphs": True}


@pytest.fixture(autouse=True)
def _dynamo_as_before() -> Any:
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.config.recompile_limit = limit
    torch._dynamo.reset()


def trunk_config(**keys: Any) -> TransformerConfig:
    base = {"causal": False, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 9}
    return TransformerConfig.model_validate({**base, "position": {"type": "rotary"}, **keys})


def model_of(**keys: Any) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(trunk_config(**keys).build())


@pytest.mark.filterwarnings("ignore")  # of torch's own tracer
@pytest.mark.parametrize("on", [True, False])
def test_the_compiler_is_asked_for_graphs_of_fixed_shapes_where_the_key_says_so(on: bool) -> None:
    asked = []

    def compile_fx(graph: Any, inputs: Any, **keys: Any) -> Any:
        asked.append(keys["config_patches"])
        return graph.forward

    model = model_of()
    set_up(model, AccelerateConfig(compile=True, cuda_graphs=on))
    with mock.patch("torch._inductor.compile_fx.compile_fx", compile_fx):
        model(torch.tensor([[1, 2, 3]]))
    assert asked
    graphs = {"triton.cudagraphs": True, "triton.cudagraph_skip_dynamic_graphs": True}
    assert all(one == graphs if on else one.keys() == cpu_options().keys() for one in asked)


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "electra"])
def test_a_run_of_the_model_begins_one_step_of_the_graphs_however_many_stacks_it_has(kind: str) -> None:
    ids = torch.tensor([[1, 2, 3, 4]])
    given: dict[str, Any] = {"input_ids": ids, "labels": ids}
    if kind == "electra":
        model: nn.Module = Electra(trunk_config().build(), trunk_config())
        given |= {"original_labels": ids, "uniform": torch.rand(1, 4)}
    else:
        model = model_of(**({"num_decoder_layers": 2} if kind == "encoder-decoder" else {}))
        given |= {"decoder_input_ids": ids} if kind == "encoder-decoder" else {}
    with mock.patch.object(nn.Module, "compile"):
        set_up(model, AccelerateConfig.model_validate(ON))
    with mock.patch("torch.compiler.cudagraph_mark_step_begin") as begin:
        for done in (1, 2, 3):
            model(**given)
            assert begin.call_count == done


class Replayed(torch.autograd.Function):
    """A block as a graph plays it: its gradient lies in the same memory each time, as torch marks it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, memory: Tensor) -> Tensor:
        ctx.memory = memory
        return x.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.memory.copy_(gradients[0].expand_as(ctx.memory)), None


def test_a_gradient_is_not_written_over_by_the_next_micro_batch() -> None:
    model = model_of()
    with mock.patch.object(nn.Module, "compile"):
        set_up(model, AccelerateConfig.model_validate(ON))
    parameter = next(model.trunk.blocks.parameters())
    memory = torch.empty_like(parameter)
    torch._C._set_cached_tensors_enabled(True)
    torch._C._add_cached_tensor(memory)
    try:
        for weight in (1.0, 2.0, 4.0):
            (weight * Replayed.apply(parameter, memory)).backward()
    finally:
        torch._C._remove_cached_tensor(memory)
        torch._C._set_cached_tensors_enabled(False)
    assert parameter.grad is not None
    assert torch.equal(parameter.grad, torch.full_like(parameter, 7.0))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of torch's own tracer
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_graphs_change_no_loss_over_accumulation_evaluation_and_lengths(precision: str) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = (64, 64, 64, 32, 32, 64)
    batches = [torch.randint(9, (4, length), generator=generator).cuda() for length in lengths]
    curves = []
    for graphs in (False, True):
        config = AccelerateConfig(precision=precision, compile=True, cuda_graphs=graphs)
        engine = config.build(model_of(causal=True, hidden_size=64), AdamWConfig(learning_rate=1e-2), 4)
        losses = []
        for _ in range(4):
            for index, ids in enumerate(batches):
                with engine.accumulate(last=index == len(batches) - 1), engine.autocast():
                    loss = engine.forward()(ids, labels=ids).loss
                engine.backward(loss / len(batches))
                losses.append(float(loss.detach()))
            losses.append(engine.step(1e-2))
            with torch.no_grad(), engine.autocast():
                losses += [float(engine.forward()(ids, labels=ids).loss) for ids in batches]
        curves.append(losses)
    assert curves[1] == pytest.approx(curves[0], rel=1e-5 if precision == "float32" else 1e-2)
