"""Law 9: the FLOP formula against torch's own count, for every shipped model."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lumbre import config as configs
from lumbre.models import LanguageModel, ModelConfig, TransformerConfig, flops_per_token, parameter_count

SHIPPED = sorted(Path("configs/model").glob("*.yaml"))
PUBLISHED = {"bert-base": 109_514_298, "gpt2": 124_439_808}
"""What transformers counts for bert-base-uncased's masked-language model and for gpt2."""


def shipped(file: Path) -> TransformerConfig:
    config = configs.load(ModelConfig, file, room="model")
    assert isinstance(config, TransformerConfig)
    return config.model_copy(update={"vocab_size": config.vocab_size or 8192})


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_flops_are_what_torch_counts(file: Path, share: float) -> None:
    config, length = shipped(file), 128
    with torch.device("meta"):
        model = LanguageModel(config.build())
        input_ids = torch.zeros(2, length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        # A bool mask has no known size on the meta device, so the head is run on its share by hand.
        hidden = model.trunk(input_ids)
        model.head(hidden[:, : int(length * share)]).sum().backward()
    counted = counter.get_total_flops() / (2 * length)
    assert flops_per_token(config, length, share) == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_parameters_are_counted_exactly(file: Path) -> None:
    config = shipped(file)
    if file.stem in PUBLISHED:
        assert parameter_count(config) == PUBLISHED[file.stem]
    else:
        trunk = config.build()
        assert parameter_count(config) == sum(p.numel() for p in LanguageModel(trunk).parameters())


def test_longer_sequences_cost_more_by_the_square_of_attention() -> None:
    config = shipped(Path("configs/model/bert-tiny.yaml"))
    extra = flops_per_token(config, 512) - flops_per_token(config, 128)
    assert extra == 3 * 2 * 2 * 2 * 384 * 128
