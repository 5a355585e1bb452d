"""Law 6 for heads beside the language model's: BERT's pair head, and ELECTRA's detector and generator."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lumbre import hub
from lumbre.errors import ModelError
from lumbre.hub.base import StateDictAdapter
from lumbre.hub.bert import BertPair
from lumbre.hub.electra import Electra
from lumbre.models import Detector, LanguageModel, ModelConfig, PairModel, TransformerConfig, generator_config
from lumbre.models import Electra as ElectraModel
from tests.hub.families import LENGTH, PAD_ID, SPECIAL, berts, electras

BERT: dict[str, Any] = {
    "causal": False,
    "vocab_size": 41,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "position": {"type": "learned", "max_length": 24},
    "norm_position": "post",
    "norm_epsilon": 1e-12,
    "embedding_norm": True,
    "head_transform": True,
    "head_bias": True,
    "token_types": 2,
    "init_std": 0.2,
}


def shape(**keys: Any) -> TransformerConfig:
    return TransformerConfig.model_validate({**BERT, **keys})


def fresh(kind: Any, **keys: Any) -> Any:
    torch.manual_seed(3)
    model = kind(shape(**keys).build())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def randomised(theirs: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return theirs.eval().double()


def loaded(adapter: StateDictAdapter, theirs: Any) -> Any:
    config = adapter.from_hf_config(theirs.config.to_dict())
    ours = adapter.kind(config.build()).double()  # type: ignore[arg-type]
    ours.load_state_dict(adapter.from_hf_state(config, theirs.state_dict()), strict=False)
    return ours


def inputs(theirs: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(theirs.config.vocab_size - 1, (3, LENGTH), generator=generator)
    input_ids += (input_ids >= PAD_ID).long()
    mask = torch.ones_like(input_ids)
    mask[1, 7:] = 0
    types = torch.randint(theirs.config.type_vocab_size, input_ids.shape, generator=generator)
    return {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types}


def assert_gradients_agree(adapter: StateDictAdapter, ours: Any, theirs: Any) -> None:
    gradients = type(ours)(ours.config.build()).double()
    for parameter, source in zip(gradients.parameters(), ours.parameters(), strict=True):
        parameter.data = source.grad
    found = adapter.to_hf_state(gradients, SPECIAL)
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm().item() <= 1e-9 * max(gradient.norm().item(), 1e-3), name


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_pair_model_has_the_losses_and_gradients_of_transformers_own(data: st.DataObject) -> None:
    """Reference: BertForPreTraining's own loss on the same arrays, in float64."""
    _, small = data.draw(berts())
    theirs = randomised(transformers.BertForPreTraining(small.config))
    ours = loaded(BertPair(), theirs)
    batch = inputs(theirs)
    masked = (torch.arange(LENGTH) % 3 == 1) & (batch["attention_mask"] != 0)
    labels = torch.where(masked, batch["input_ids"], -100)
    pairs = torch.tensor([0, 1, 1])
    expected = theirs(**batch, labels=labels, next_sentence_label=pairs)
    output = ours(**batch, labels=labels)
    whole = ours(**batch)
    torch.testing.assert_close(output.pair_logits, expected.seq_relationship_logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole.pair_logits, expected.seq_relationship_logits, rtol=1e-9, atol=1e-9)
    kept = batch["attention_mask"] != 0
    torch.testing.assert_close(whole.logits[kept], expected.prediction_logits[kept], rtol=1e-9, atol=1e-9)
    loss = output.loss / masked.sum() + torch.nn.functional.cross_entropy(output.pair_logits, pairs)
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-9)
    expected.loss.backward()
    loss.backward()
    assert_gradients_agree(BertPair(), ours, theirs)


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_a_detector_has_the_loss_and_gradients_of_transformers_own(data: st.DataObject) -> None:
    """Reference: ElectraForPreTraining's own loss on the same arrays, in float64."""
    _, small = data.draw(electras())
    theirs = randomised(transformers.ElectraForPreTraining(small.config))
    ours = loaded(Electra(), theirs)
    batch = inputs(theirs)
    replaced = torch.randint(2, (3, LENGTH), generator=torch.Generator().manual_seed(2))
    expected = theirs(**batch, labels=replaced)
    kept = batch["attention_mask"] != 0
    logits = ours(**batch).logits
    torch.testing.assert_close(logits[kept], expected.logits[kept], rtol=1e-9, atol=1e-9)
    losses = [
        torch.nn.functional.binary_cross_entropy_with_logits(one[kept], replaced[kept].double())
        for one in (expected.logits, logits)
    ]
    # Theirs rounds its targets, and with them the loss, to float32.
    assert losses[1].item() == pytest.approx(expected.loss.item(), rel=1e-6)
    for loss in losses:
        loss.backward()
    assert_gradients_agree(Electra(), ours, theirs)


@pytest.mark.parametrize(
    ("kind", "architecture", "keys"),
    [
        (PairModel, "BertForPreTraining", {}),
        (Detector, "ElectraForPreTraining", {}),
        (Detector, "ElectraForPreTraining", {"embedding_size": 10, "activation": "relu"}),
        (LanguageModel, "ElectraForMaskedLM", {"embedding_size": 10}),
        (PairModel, "LumbreForMaskedLM", {"position": {"type": "rotary"}}),
        (Detector, "LumbreModel", {"position": {"type": "rotary"}}),
        (LanguageModel, "LumbreForMaskedLM", {"embedding_size": 10, "position": {"type": "rotary"}}),
    ],
)
def test_what_is_exported_is_proven_and_comes_back(
    kind: Any, architecture: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    model = fresh(kind, **keys)
    folder = hub.save(model, None, tmp_path / "model")
    assert json.loads((folder / "config.json").read_text())["architectures"] == [architecture]
    assert hub.verify_export(model, folder) < 1e-5
    trunk = hub.load_trunk(folder).state_dict()
    assert all(torch.equal(trunk[name], one) for name, one in model.trunk.state_dict().items())
    if architecture == "LumbreModel":
        with pytest.raises(ModelError, match=r"no detector's head; model\.new_head: true"):
            hub.load(folder, kind)
        return
    again = hub.load(folder, kind)
    assert type(again) is (kind if "Lumbre" not in architecture else LanguageModel)
    assert all(torch.equal(model.state_dict()[name], one) for name, one in again.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        (PairModel, "bert.pooler.dense.bias"),
        (Detector, "dense_prediction"),
        (LanguageModel, "token_type_embeddings"),
    ],
)
def test_a_head_or_segment_that_was_changed_does_not_pass_the_proof(
    kind: Any, tensor: str, tmp_path: Path
) -> None:
    model = fresh(kind)
    folder = hub.save(model, None, tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if tensor in name)
    state[name].flatten()[-1] += 0.1
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="computes other logits"):
        hub.verify_export(model, folder)


@torch.no_grad()
def test_pretraining_goes_on_from_folders_with_other_heads(tmp_path: Path) -> None:
    def started(kind: Any, path: Path, **keys: Any) -> Any:
        config = ModelConfig.model_validate({"type": "huggingface", "path": str(path), **keys})
        torch.manual_seed(7)
        model = kind(config.build(41))
        config.initialise(model)
        return model

    pair = fresh(PairModel)
    both = hub.save(pair, None, tmp_path / "pair")
    alone = hub.save(LanguageModel(pair.trunk), None, tmp_path / "alone")
    with_pairs, without = started(PairModel, both), started(LanguageModel, both)
    ids = torch.randint(41, (2, 9))
    assert torch.equal(with_pairs(ids).pair_logits, pair(ids).pair_logits)
    assert torch.equal(without(ids).logits, pair(ids).logits)
    with pytest.raises(ModelError, match=r"no pair head: bert\.pooler.*model\.new_head: true"):
        started(PairModel, alone)
    again = started(PairModel, alone, new_head=True)
    assert torch.equal(again.trunk(ids).x_BTD, pair.trunk(ids).x_BTD)

    torch.manual_seed(0)
    config = shape()
    whole = ElectraModel(config.build(), generator_config(config, 0.5, 1.0))  # type: ignore[arg-type]
    hub.save(whole.detector, None, tmp_path / "model")
    hub.save(whole.generator, None, tmp_path / "model-generator")
    source = ModelConfig.model_validate({"type": "huggingface", "path": str(tmp_path / "model")})
    torch.manual_seed(9)
    other = ElectraModel(source.build(41), generator_config(config, 0.5, 1.0))  # type: ignore[arg-type]
    source.initialise(other.detector)
    source.initialise(other.generator, "-generator")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
    with pytest.raises(ModelError, match="no language-model head"):
        started(LanguageModel, tmp_path / "model")
    with pytest.raises(ModelError, match=r"no detector's head; model\.new_head: true"):
        started(Detector, both)


@torch.no_grad()
def test_a_classifier_starts_from_the_trained_pooler_or_detector(tmp_path: Path) -> None:
    ids = torch.randint(4, 41, (2, 9))
    auto = transformers.AutoModelForSequenceClassification
    pair, detector = fresh(PairModel), fresh(Detector, embedding_size=10)
    folder = hub.save(pair, None, tmp_path / "pair")
    classifier, info = auto.from_pretrained(folder, num_labels=3, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    pooled = pair.pair_head.pooler(pair.trunk(ids).x_BTD[:, 0]).tanh()
    torch.testing.assert_close(classifier.bert(ids).pooler_output, pooled)
    folder = hub.save(detector, None, tmp_path / "detector")
    classifier, info = auto.from_pretrained(folder, num_labels=3, output_loading_info=True)
    assert all(name.startswith("classifier.") for name in info["missing_keys"])
    torch.testing.assert_close(classifier.electra(ids).last_hidden_state, detector.trunk(ids).x_BTD)
