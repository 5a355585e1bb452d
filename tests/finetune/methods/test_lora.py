"""LoRA against the package peft used directly, in float64, and what a run saves of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import PeftModel, get_peft_model
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from finetune.methods import LoraConfig, QloraConfig, parameter_counts
from lumbre.engine import AccelerateConfig
from lumbre.errors import ConfigError, ModelError
from lumbre.optim import AdamWConfig
from tests.finetune.methods.models import BUILDERS, LAYERS, SIZES, build, head, loss

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

METHOD = LoraConfig(rank=2, alpha=6)
THEIRS: dict[str, dict[str, Any]] = {
    "bert": {"task_type": "SEQ_CLS"},
    "gpt2": {"task_type": "SEQ_CLS", "fan_in_fan_out": True},
    "t5": {"modules_to_save": ["classification_head"]},
    "modernbert": {
        "target_modules": ["Wqkv", "Wo", "Wi"],
        "modules_to_save": ["head", "classifier"],
    },
    "lumbre": {"target_modules": ["qkv", "output", "up", "down"], "modules_to_save": ["classifier"]},
}
"""What a user of peft would write."""
RATE, STEPS = 1e-2, 3


def trained(family: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return our model after some steps, and the engine's weights."""
    torch.manual_seed(1)
    model = METHOD.apply(build(family), head(family))
    engine = AccelerateConfig(precision="float64").build(model, AdamWConfig(learning_rate=RATE), 1)
    for _ in range(STEPS):
        engine.backward(loss(engine.forward()))
        engine.step(RATE)
    weights = engine.state_dict()
    assert weights is not None
    return engine.module, weights


def by_peft(family: str) -> Any:
    """Return the same by peft and torch alone."""
    torch.manual_seed(1)
    model = get_peft_model(build(family), PeftLora(r=2, lora_alpha=6, **THEIRS[family])).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decay = [{"params": [one], "weight_decay": 0.01 if one.ndim > 1 else 0.0} for one in parameters]
    optimizer = torch.optim.AdamW(decay, lr=RATE, betas=(0.9, 0.98))
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(model).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    return model


@pytest.mark.parametrize("family", BUILDERS)
def test_steps_and_the_merged_model_are_pefts_own(family: str, tmp_path: Path) -> None:
    """The same loss after three steps, merged into a plain model of transformers, saved and read back."""
    model, weights = trained(family)
    theirs = by_peft(family)
    torch.testing.assert_close(loss(model), loss(theirs), rtol=1e-12, atol=0)
    assert parameter_counts(model) == theirs.get_nb_trainable_parameters()
    assert all("lora_" in name or "modules_to_save" in name for name in weights)
    plain = METHOD.finished(build(family), head(family), weights, tmp_path)
    assert plain.state_dict().keys() == build(family).state_dict().keys()
    plain.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    read = type(plain).from_pretrained(tmp_path / "model", dtype=torch.float64)
    torch.testing.assert_close(loss(read), loss(theirs), rtol=1e-12, atol=0)
    adapted = PeftModel.from_pretrained(build(family), tmp_path / "adapter")
    torch.testing.assert_close(loss(adapted), loss(theirs), rtol=1e-12, atol=0)


def test_the_base_stays_and_every_update_moves() -> None:
    before = build("lumbre").state_dict()
    model, weights = trained("lumbre")
    start = METHOD.apply(build("lumbre"), head("lumbre")).state_dict()
    assert not any(torch.equal(tensor, start[name]) for name, tensor in weights.items() if "lora_B" in name)
    for name, tensor in model.base_model.model.named_parameters():
        if "lora_" not in name and "modules_to_save" not in name:
            plain = name.replace(".base_layer", "").replace(".original_module", "")
            assert torch.equal(tensor, before[plain]), name
            assert tensor.grad is None


def test_a_recomputed_block_gives_its_updates_the_same_gradient() -> None:
    """No input of a block takes a gradient below the first update."""
    norms = []
    for recompute in ("none", 1):
        torch.manual_seed(1)
        model = METHOD.apply(build("bert"), head("bert"))
        config = AccelerateConfig(precision="float64", activation_checkpointing=recompute)
        engine = config.build(model, AdamWConfig(learning_rate=RATE), 1)
        engine.backward(loss(engine.forward()))
        norms.append(engine.step(RATE))
    assert norms[0] == pytest.approx(norms[1], rel=1e-12)


@pytest.mark.parametrize(("ends", "expected"), [(["output"], 3), (["mlp.up", "qkv"], 6), (["0.mlp.down"], 1)])
def test_targets_are_named_by_their_ends(ends: list[str], expected: int) -> None:
    model: Any = LoraConfig(rank=2, target_modules=ends).apply(build("lumbre"), head("lumbre"))
    updated = [name for name, _ in model.named_modules() if name.endswith(".lora_A.default")]
    assert len(updated) == expected
    assert all(any(f"{end}.lora_A" in name for end in ends) for name in updated)


def test_a_target_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(
        ModelError, match=r"no linear map is called 'q_proj'; those of the blocks are down, out"
    ):
        LoraConfig(target_modules=["qkv", "q_proj"]).apply(build("lumbre"), head("lumbre"))


def test_a_language_models_head_is_not_new() -> None:
    """It is the largest matrix that there is, and trained already."""
    config = GPT2Config(vocab_size=40, n_embd=8, n_layer=1, n_head=2, tie_word_embeddings=False)
    config.bos_token_id = config.eos_token_id = 1
    model = METHOD.apply(GPT2LMHeadModel(config), ["lm_head.weight"])
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert [name.rpartition(".c_attn.")[2] for name in trained] == [
        "lora_A.default.weight",
        "lora_B.default.weight",
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_qlora_without_a_gpu_says_what_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"method.type: qlora needs a CUDA device, .*; use lora, or a mach"):
        QloraConfig().check()


def test_qlora_trains_beside_packed_blocks_and_is_merged_into_unpacked_ones(tmp_path: Path) -> None:
    """bitsandbytes packs on the CPU too, slowly; the head is not packed, or it could not train."""
    pytest.importorskip("bitsandbytes")
    config = BertConfig(**{**SIZES, "hidden_size": 64, "intermediate_size": 64})
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    method = QloraConfig(rank=2)
    base, model = (
        BertForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32, **more)
        for more in ({}, method.loading())
    )
    packed = {name for name, part in model.named_modules() if type(part).__name__ == "Linear4bit"}
    assert len(packed) == 6 * LAYERS
    assert all(".layer." in name for name in packed)
    model = method.apply(model, head("bert"))
    assert parameter_counts(model) == model.get_nb_trainable_parameters()
    engine = AccelerateConfig().build(model, AdamWConfig(learning_rate=RATE), 1)
    start = loss(engine.forward())
    for _ in range(4):
        engine.backward(loss(engine.forward()))
        engine.step(RATE)
    weights = engine.state_dict()
    assert weights is not None
    assert {fragment.name for fragment in engine.fragments()} == weights.keys()
    plain = method.finished(base, head("bert"), weights, tmp_path)
    assert loss(engine.forward()) < start - 0.02
    torch.testing.assert_close(loss(plain), loss(engine.forward()), rtol=0.02, atol=0)
