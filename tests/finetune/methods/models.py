"""Tiny random models of five families, with a head for two labels, in float64 and without dropout."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

from lumbre.hub.classes.classifiers import LumbreForSequenceClassification
from lumbre.hub.classes.config import LumbreConfig
from lumbre.hub.register import register_models
from lumbre.models import TransformerConfig

VOCABULARY, LENGTH, LAYERS = 40, 7, 3
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 8,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "pad_token_id": 0,
}


def bert() -> Any:
    config = transformers.BertConfig(**SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return transformers.BertForSequenceClassification(config)


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=8,
        n_layer=LAYERS,
        n_head=2,
        n_positions=LENGTH,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return transformers.GPT2ForSequenceClassification(config)


def t5() -> Any:
    """An encoder deeper than its decoder."""
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=8,
        d_kv=4,
        d_ff=16,
        num_layers=LAYERS,
        num_decoder_layers=LAYERS - 1,
        num_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        dropout_rate=0.0,
    )
    return transformers.T5ForSequenceClassification(config)


def modernbert() -> Any:
    tokens = {f"{name}_token_id": 1 for name in ("bos", "eos", "cls", "sep")}
    return transformers.ModernBertForSequenceClassification(transformers.ModernBertConfig(**SIZES, **tokens))


def own() -> Any:
    """Our own model type."""
    register_models()
    keys = {"vocab_size": VOCABULARY, "hidden_size": 8, "num_layers": LAYERS, "num_heads": 2, "causal": False}
    shape = TransformerConfig.model_validate({**keys, "position": {"type": "learned", "max_length": LENGTH}})
    config = LumbreConfig(transformer=shape.model_dump(mode="json", serialize_as_any=True), pad_token_id=0)
    return LumbreForSequenceClassification(config)


BUILDERS: dict[str, Callable[[], Any]] = {
    "bert": bert,
    "gpt2": gpt2,
    "t5": t5,
    "modernbert": modernbert,
    "lumbre": own,
}
HEADS = {"bert": "classifier.", "gpt2": "score.", "t5": "classification_head.", "lumbre": "classifier."}


def build(family: str) -> Any:
    """Return the family's model, the same each time, every weight large enough to matter."""
    torch.manual_seed(0)
    model = BUILDERS[family]().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def head(family: str) -> list[str]:
    """Return the names of the head's parameters."""
    starts = (HEADS[family],) if family in HEADS else ("head.", "classifier.")
    return [name for name, _ in build(family).named_parameters() if name.startswith(starts)]


def loss(model: Any) -> torch.Tensor:
    """Return the loss of one batch of texts that end alike, for T5 reads its head off the last token."""
    input_ids = torch.randint(2, VOCABULARY, (4, LENGTH), generator=torch.Generator().manual_seed(1))
    input_ids[:, -1] = 1
    output = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
    found: torch.Tensor = torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 1, 0]))
    return found
