"""Law 9: the FLOP formula against torch's own count, for every shipped model."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lumbre import config as configs
from lumbre.models import (
    Electra,
    LanguageModel,
    ModelConfig,
    PairModel,
    TransformerConfig,
    electra_flops_per_sample,
    flops_per_sample,
    flops_per_token,
    generator_config,
    pair_flops_per_sample,
    parameter_count,
)
from lumbre.models.mixture import MixtureOfExperts
from lumbre.models.sampling import sample_linear

SHIPPED = sorted(Path("configs/model").glob("*.yaml"))
PUBLISHED = {
    "bert-base": 109_514_298,
    "bert-large": 335_174_458,
    "electra-base": 109_514_298,
    "electra-small": 13_546_682,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
    "llama3.2-1b": 1_235_814_400,
    "mixtral-8x7b": 46_702_792_704,
    "modernbert-base": 149_655_232,
    "modernbert-large": 395_881_664,
    "qwen3-0.6b": 596_049_920,
    "qwen3-8b": 8_190_735_360,
    # The published table has two rows more, which no token reads.
    "roberta-base": 124_697_433 - 2 * 768,
    "roberta-large": 355_412_057 - 2 * 1024,
    "t5-base": 222_903_552,
    "t5-small": 60_506_624,
    "t5-v1.1-base": 247_577_856,
    "t5-v1.1-small": 76_961_152,
}
"""What transformers counts for the published model, with its language-model head."""


def shipped(file: Path) -> TransformerConfig:
    config = configs.load(ModelConfig, file, room="model")
    assert isinstance(config, TransformerConfig)
    return config.model_copy(update={"vocab_size": config.vocab_size or 8192})


def evenly(counts: Callable[..., list[int]]) -> Callable[..., list[int]]:
    """The meta device has no routing to read; how tokens are shared out does not change the sum."""

    def shares(expert_P: torch.Tensor, experts: int) -> list[int]:
        whole, rest = divmod(len(expert_P), experts)
        return [whole + (index < rest) for index in range(experts)]

    return shares


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
@pytest.mark.parametrize("share", [1.0, 0.25])
def test_flops_are_what_torch_counts(file: Path, share: float) -> None:
    config, length = shipped(file), 128
    decoder_length = 64 if config.num_decoder_layers else 0
    with torch.device("meta"):
        model = LanguageModel(config.build())
        input_ids = torch.zeros(2, length, dtype=torch.int64)
        others = {"decoder_input_ids": input_ids[:, :decoder_length]} if decoder_length else {}
    fake = evenly(MixtureOfExperts.counts)
    with (
        mock.patch.object(MixtureOfExperts, "counts", staticmethod(fake)),
        FlopCounterMode(display=False) as counter,
    ):
        # Labels have no known number on the meta device, so the model's parts are run one by one.
        rows = torch.arange(int(2 * (decoder_length or length) * share), device="meta")
        hidden = model.trunk(input_ids, **others, rows_M=rows)
        loss = model.head(hidden.x_BTD).sum()
        (loss if hidden.balance is None else loss + hidden.balance).backward()
    counted = counter.get_total_flops() / 2
    assert flops_per_sample(config, length, decoder_length, share) == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("name", ["bert-tiny", "bert-base", "electra-small"])
def test_flops_of_a_pair_head_are_what_torch_counts(name: str) -> None:
    config, length, share = shipped(Path(f"configs/model/{name}.yaml")), 128, 0.25
    with torch.device("meta"):
        model = PairModel(config.build())  # type: ignore[arg-type]
        input_ids = torch.zeros(2, length, dtype=torch.int64)
        rows = torch.arange(2 + int(2 * length * share))
    with FlopCounterMode(display=False) as counter:
        x = model.trunk(input_ids, rows_M=rows).x_BTD
        (model.head(x[2:]).sum() + model.pair_head(x[:2]).sum()).backward()
    counted = counter.get_total_flops() / 2
    # Closer than elsewhere: the pair head is less than a thousandth.
    assert pair_flops_per_sample(config, length, share) == pytest.approx(counted, rel=1e-9)


@pytest.mark.parametrize("name", ["bert-tiny", "electra-base", "electra-small"])
def test_flops_of_a_detector_and_its_generator_are_what_torch_counts(name: str) -> None:
    config, length, share = shipped(Path(f"configs/model/{name}.yaml")), 128, 0.25
    made = generator_config(config, 0.25, 1.0)
    with torch.device("meta"):
        model = Electra(config.build(), made)  # type: ignore[arg-type]
        input_ids = torch.zeros(2, length, dtype=torch.int64)
        rows = torch.arange(int(2 * length * share))
        head = model.generator.head
        with FlopCounterMode(display=False) as counter:
            x = model.generator.trunk(input_ids, rows_M=rows).x_BTD
            (head(x).sum() + model.detector(input_ids).logits.sum()).backward()
            read = torch.zeros(len(rows), made.embedding_width)
            sample_linear(read, head.decoder.weight, head.decoder.bias, torch.zeros(len(rows)))
    counted = counter.get_total_flops() / 2
    assert electra_flops_per_sample(config, made, length, share) == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_parameters_are_counted_exactly(file: Path) -> None:
    config = shipped(file)
    if file.stem in PUBLISHED:
        assert parameter_count(config) == PUBLISHED[file.stem]
    elif "tiny" in file.stem or "mini" in file.stem:
        assert parameter_count(config) == sum(p.numel() for p in LanguageModel(config.build()).parameters())


def test_the_first_transformer_has_the_papers_parameters_to_its_three_digits() -> None:
    # Table 3 says 65 and 213 million; the shared vocabulary of about 37,000 is not given exactly.
    assert parameter_count(shipped(Path("configs/model/transformer-base.yaml"))) == pytest.approx(
        65e6, rel=0.04
    )
    assert parameter_count(shipped(Path("configs/model/transformer-big.yaml"))) == pytest.approx(
        213e6, rel=0.01
    )


def test_longer_sequences_cost_more_by_the_square_of_attention() -> None:
    config = shipped(Path("configs/model/bert-tiny.yaml"))
    extra = flops_per_token(config, 512) - flops_per_token(config, 128)
    assert extra == 3 * 2 * 2 * 2 * 384 * 128
