"""Objectives from text to an export, by the command that users run."""

import json
from typing import TYPE_CHECKING, Any

import pytest
import transformers

if TYPE_CHECKING:
    from .conftest import Project

BPE: dict[str, Any] = {"type": "bpe", "vocab_size": 800, "sentinels": 50}
FIM = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
SMALL: dict[str, Any] = {"hidden_size": 16, "num_heads": 2, "num_layers": 2}
GPT = ("gpt-tiny", SMALL)
LLAMA = ("llama-tiny", {**SMALL, "num_kv_heads": 1})
T5 = ("t5-mini", {**SMALL, "head_size": 8, "num_decoder_layers": 1, "intermediate_size": 32})
Model = tuple[str, dict[str, Any]]
CASES: dict[str, tuple[dict[str, Any], dict[str, Any] | None, Model | None, str]] = {
    "mlm-words": ({"type": "mlm", "masking": "whole_word"}, None, None, "BertForMaskedLM"),
    "mlm-spans": ({"type": "mlm", "masking": "span"}, None, None, "BertForMaskedLM"),
    "fim": ({"type": "fim"}, {**BPE, "special_tokens": FIM}, GPT, "GPT2LMHeadModel"),
    "prefix-decoder": ({"type": "prefix_lm"}, BPE, LLAMA, "LlamaForCausalLM"),
    "prefix-t5": ({"type": "prefix_lm"}, BPE, T5, "T5ForConditionalGeneration"),
    "ul2-t5": (
        {"type": "ul2"},
        {**BPE, "special_tokens": ["[R]", "[X]", "[S]"]},
        T5,
        "T5ForConditionalGeneration",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_objective_trains_and_its_model_is_exported(project: "Project", case: str) -> None:
    objective, tokenizer, model, architecture = CASES[case]
    command = ["pretrain", "run.yaml", f"name={case}", "train.steps=18", f"objective={json.dumps(objective)}"]
    command += [f"tokenizer={json.dumps(tokenizer)}"] if tokenizer else []
    command += (
        [f"model={model[0]}", *(f"model.{key}={value}" for key, value in model[1].items())] if model else []
    )
    done = project.lumbre(*command)
    assert done.returncode == 0, done.stderr
    losses, folder = project.losses(case), project.folder / "runs" / case
    assert min(losses[step] for step in (16, 17, 18)) < losses[1]
    kind = getattr(transformers, architecture)
    assert json.loads((folder / "model/config.json").read_text())["architectures"] == [architecture]
    assert kind.from_pretrained(folder / "model").num_parameters() > 0
