"""Model folders of three families, tiny and random, and a task of three labels to fine-tune them on."""

from pathlib import Path

import pytest
import torch

from finetune.data import Examples
from finetune.tasks import Classification, ClassificationConfig
from lumbre import hub
from lumbre.models import LanguageModel, TransformerConfig
from lumbre.tokenizer import BpeConfig, TokenizerConfig, WordPieceConfig

SHAPE = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 512}
LEARNED = {"position": {"type": "learned", "max_length": 48}}
FAMILIES: dict[str, tuple[type[TokenizerConfig], dict[str, object]]] = {
    "bert": (
        WordPieceConfig,
        {
            **LEARNED,
            "causal": False,
            "norm_position": "post",
            "norm_epsilon": 1e-12,
            "token_types": 2,
            "embedding_norm": True,
            "head_transform": True,
            "head_bias": True,
        },
    ),
    "gpt2": (BpeConfig, {**LEARNED, "causal": True}),
    "own": (WordPieceConfig, {"causal": False, "position": {"type": "rotary"}}),
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a model folder of each family."""
    top = tmp_path_factory.mktemp("models")
    out = {}
    for name, (tokenizer, keys) in FAMILIES.items():
        torch.manual_seed(0)
        trained = tokenizer.model_validate({"vocab_size": 512}).build([Path(__file__).read_text() * 3])
        model = LanguageModel(TransformerConfig.model_validate({**SHAPE, **keys}).build(512))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        out[name] = hub.save(model, trained, top / name)
        assert (hub.adapter_for(model.config) is None) == (name == "own")
    return out


@pytest.fixture(scope="session")
def examples() -> Examples:
    """Return texts of many lengths under three labels, in every split."""
    source = Path(__file__).read_text()
    labelled = [{"text": source[at : 7 * at % 60 + at + 9], "label": "abc"[at % 3]} for at in range(30)]
    return {"train": labelled[:18], "validation": labelled[18:24], "test": labelled[24:30]}


@pytest.fixture(scope="session")
def task(folders: dict[str, Path], examples: Examples) -> Classification:
    """Return the task for the BERT."""
    config = ClassificationConfig(max_length=32)
    return config.build(str(folders["bert"]), config.learn(examples))
