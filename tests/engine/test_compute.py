"""What an engine's config asks of a model reaches every stack of it."""

from typing import Any

import pytest
import torch
import transformers

from lumbre.engine import AccelerateConfig
from lumbre.engine.compute import set_up
from lumbre.errors import ConfigError
from lumbre.models import LanguageModel, Transformer, TransformerConfig
from lumbre.models.recompute import in_turn


def model_of(**keys: Any) -> LanguageModel:
    base = {"causal": False, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "vocab_size": 9}
    return LanguageModel(
        TransformerConfig.model_validate({**base, "position": {"type": "rotary"}, **keys}).build()
    )


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
@pytest.mark.parametrize("compiled", [True, "trunk"])
@pytest.mark.parametrize("keys", [{}, {"num_decoder_layers": 2}], ids=str)
def test_kernel_recomputation_and_compilation_reach_every_stack(
    keys: dict[str, Any], compiled: bool | str
) -> None:
    model = model_of(**keys)
    asked = {"attention_kernel": "dense", "activation_checkpointing": 2, "compile": compiled}
    limit = torch._dynamo.config.recompile_limit
    set_up(model, AccelerateConfig.model_validate(asked))
    torch._dynamo.config.recompile_limit = limit
    trunks = [part for part in model.modules() if isinstance(part, Transformer)]
    assert len(trunks) == (2 if keys else 1)
    for trunk in trunks:
        assert (trunk.attention_kernel, trunk.recompute) == ("dense", 2)
        by_itself = [block._compiled_call_impl is not None for block in trunk.blocks]
        assert by_itself == [compiled is True] * 2
        assert (trunk.in_turn is in_turn) == (compiled is True)
    plain = model_of(**keys)
    set_up(plain, AccelerateConfig())
    assert all(getattr(part, "_compiled_call_impl", None) is None for part in plain.modules())
    assert all(part.in_turn is in_turn for part in plain.modules() if isinstance(part, Transformer))


def test_a_model_of_transformers_recomputes_and_has_its_own_kernels() -> None:
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    model = transformers.BertForMaskedLM(config)
    set_up(model, AccelerateConfig(activation_checkpointing=1))
    assert model.is_activation_checkpointing
    with pytest.raises(ConfigError, match=r"attention_kernel(.|\n)*activation_checkpointing"):
        set_up(model, AccelerateConfig(attention_kernel="flex", activation_checkpointing=2))
