"""Tiny random models of every family that writes, as the folders that pretraining leaves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from finetune.tasks.summarization import Summarization, SummarizationConfig
from lumbre import hub
from lumbre.models import LanguageModel, TransformerConfig
from lumbre.tokenizer import BpeConfig, TokenizerConfig, UnigramConfig, WordPieceConfig

SHAPE = {"hidden_size": 16, "num_layers": 2, "num_heads": 2}
T5: dict[str, Any] = {
    "causal": False,
    "num_decoder_layers": 2,
    "position": {"type": "relative"},
    "norm": "rmsnorm",
    "activation": "gelu_tanh",
    "gated_mlp": True,
    "bias": False,
    "scaled_attention": False,
    "tied_embeddings": False,
}
LLAMA: dict[str, Any] = {
    "causal": True,
    "position": {"type": "rotary"},
    "norm": "rmsnorm",
    "activation": "silu",
    "gated_mlp": True,
    "bias": False,
    "tied_embeddings": False,
}
FAMILIES: dict[str, tuple[type[TokenizerConfig], dict[str, Any]]] = {
    "t5": (BpeConfig, T5),
    "t5 tied": (UnigramConfig, {**T5, "gated_mlp": False, "activation": "relu", "tied_embeddings": True}),
    "t5 with the deeper decoder": (BpeConfig, {**T5, "num_decoder_layers": 3}),
    "gpt2": (BpeConfig, {"causal": True, "position": {"type": "learned", "max_length": 96}}),
    "llama": (BpeConfig, LLAMA),
    "own decoder": (WordPieceConfig, {"causal": True, "position": {"type": "alibi"}}),
    "own both": (
        WordPieceConfig,
        {"causal": False, "num_decoder_layers": 1, "position": {"type": "sinusoidal"}},
    ),
}
MODEL_TYPES = {"t5": "t5", "gpt2": "gpt2", "llama": "llama", "own": "lumbre"}
ENCODER_DECODERS = tuple(name for name, (_, keys) in FAMILIES.items() if "num_decoder_layers" in keys)
DECODERS = tuple(name for name in FAMILIES if name not in ENCODER_DECODERS)
FAST = ("t5", "gpt2", "own decoder")
"""The families that the fast tier tries."""
TEXT = "the old red fox ran over a green hill and saw two small birds in one tall tree by the sea"
WORDS = TEXT.split()
EXAMPLES = [
    {
        "document": " ".join(WORDS[(at * step) % len(WORDS)] for at in range(4 + step)),
        "summary": " ".join(WORDS[(at * step + 1) % len(WORDS)] for at in range(1 + step % 4)),
    }
    for step in (1, 5, 3, 9, 2, 11, 7, 4)
]


def folder(name: str, top: Path) -> Path:
    """Return a model folder of a family, with weights that are far from even."""
    kind, keys = FAMILIES[name]
    torch.manual_seed(0)
    texts = [f"{text} " for one in EXAMPLES for text in one.values()] * 3
    tokenizer = kind.model_validate({"vocab_size": 512}).build(texts)
    model = LanguageModel(TransformerConfig.model_validate({**SHAPE, **keys}).build(tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    saved = hub.save(model, tokenizer, top / name)
    adapter = hub.adapter_for(model.config)
    assert (adapter.model_type if adapter else "lumbre") == MODEL_TYPES[name.split()[0]]
    return saved


def made(place: Path, **keys: Any) -> tuple[Summarization, Any]:
    """Return the task, and the folder's model in evaluation mode and float64."""
    task = SummarizationConfig.model_validate({"max_length": 48, "max_target_length": 12, **keys}).build(
        str(place), {}
    )
    return task, task.build_model(str(place), from_scratch=False).model.double().eval()


def batch_of(task: Summarization, examples: Sequence[dict[str, str]], purpose: Any = "evaluate") -> Any:
    """Return examples as one batch."""
    return task.collate([row for one in examples for row in task.encode(one, purpose)])
