"""Folders of type `lumbre` through transformers: the Auto classes, `generate`, and when all that is there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from torch import Tensor

from lumbre import hub
from lumbre.errors import ModelError
from lumbre.hub import StateDictAdapter
from lumbre.hub.llama import Llama
from lumbre.hub.t5 import T5
from lumbre.models import LanguageModel, PositionConfig, TransformerConfig

VOCAB, LENGTH, PAD = 61, 24, 0
KINDS = sorted(PositionConfig.members)
LLAMA = {"norm": "rmsnorm", "activation": "silu", "gated_mlp": True, "bias": False, "num_kv_heads": 2}
T5_LIKE = {
    "num_decoder_layers": 2,
    "position": {"type": "relative", "num_buckets": 8, "max_distance": 16},
    "norm": "rmsnorm",
    "activation": "relu",
    "bias": False,
    "scaled_attention": False,
    "scaled_head": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped queries": {"num_kv_heads": 1, "norm": "rmsnorm", "bias": False},
    "window": {"layer_types": ["global", "local"], "window": 3},
    "query and key norm": {"qk_norm": True},
    "mixture of experts": {"mlp": {"type": "mixture_of_experts", "num_experts": 4, "shared_experts": 1}},
    "post-norm": {"norm_position": "post", "tied_embeddings": False},
    "encoder-decoder": {"num_decoder_layers": 3, "num_kv_heads": 2},
    "T5": T5_LIKE,
}
"""Each with rotary positions where it has none of its own."""


def position(kind: str) -> dict[str, Any]:
    sizes = {"learned": {"max_length": LENGTH}, "relative": {"num_buckets": 8, "max_distance": 16}}
    return {"type": kind, **sizes.get(kind, {})}


def language_model(causal: bool = True, dtype: torch.dtype = torch.float64, **keys: Any) -> LanguageModel:
    """Return a small model with weights so large that tokens differ."""
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
    keys = {**sizes, "position": {"type": "rotary"}, **keys}
    torch.manual_seed(7)
    causal = causal and not keys.get("num_decoder_layers")
    model = LanguageModel(TransformerConfig.model_validate({"causal": causal, **keys}).build()).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


def write(model: LanguageModel, folder: Path, **keys: Any) -> Path:
    """Write a folder of type `lumbre` by hand; `hub.save` would choose a family where one fits."""
    folder.mkdir()
    transformer = model.config.model_dump(mode="json", serialize_as_any=True)
    config = {"model_type": "lumbre", "pad_token_id": PAD, "transformer": transformer, **keys}
    config |= {"decoder_start_token_id": PAD} if model.config.num_decoder_layers else {}
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: tensor.detach().contiguous() for name, tensor in model.named_parameters()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_family(model: LanguageModel, adapter: StateDictAdapter, folder: Path) -> Path:
    """Write the model as the family's own."""
    folder.mkdir()
    config = {"model_type": adapter.model_type, **adapter.to_hf_config(model.config, None)}
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": PAD}))
    save_file(adapter.to_hf_state(model), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def auto(name: str, folder: Path, **keys: Any) -> Any:
    """Load a folder, refusing names that do not fit."""
    model, report = getattr(transformers, name).from_pretrained(
        folder, output_loading_info=True, dtype=keys.pop("dtype", torch.float64), **keys
    )
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert all(key.startswith(("classifier.", "head.")) for key in report["missing_keys"])
    return model


def prompts() -> tuple[Tensor, Tensor]:
    """Return two texts of other lengths, padded on the left, and their mask."""
    ids_BT = torch.randint(1, VOCAB, (2, 7), generator=torch.Generator().manual_seed(3))
    ids_BT[0, :3] = PAD
    return ids_BT, (ids_BT != PAD).long()


def tokens(model: Any, *, plain: bool = False, **options: Any) -> Tensor:
    """Return what `generate` gives for the two texts, without the cache where plain."""
    ids_BT, mask_BT = prompts()
    torch.manual_seed(0)
    out_BT: Tensor = model.generate(
        ids_BT, attention_mask=mask_BT, max_new_tokens=6, use_cache=not plain, pad_token_id=PAD, **options
    )
    return out_BT


def same_with_and_without_cache(model: Any) -> None:
    for options in ({"do_sample": False}, {"do_sample": True}, {"do_sample": False, "num_beams": 3}):
        assert torch.equal(tokens(model, **options), tokens(model, plain=True, **options))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    room = tmp_path_factory.mktemp("folders")
    keys: dict[str, dict[str, Any]] = {
        "encoder": {"causal": False, "head_transform": True, "head_bias": True, "token_types": 2},
        "decoder": {"position": position("learned")},
        "untied": {"tied_embeddings": False},
        "both": T5_LIKE,
    }
    return {name: write(language_model(**one), room / name) for name, one in keys.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_position_encoding_generates_with_a_cache_as_without(kind: str, tmp_path: Path) -> None:
    folder = write(language_model(position=position(kind)), tmp_path / "model")
    same_with_and_without_cache(auto("AutoModelForCausalLM", folder))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_architecture_generates_with_a_cache_as_without(variant: str, tmp_path: Path) -> None:
    folder = write(language_model(**VARIANTS[variant]), tmp_path / "model")
    name = "AutoModelForSeq2SeqLM" if "num_decoder_layers" in VARIANTS[variant] else "AutoModelForCausalLM"
    same_with_and_without_cache(auto(name, folder))


@pytest.mark.parametrize(
    "keys", [*({"position": position(kind)} for kind in KINDS), *VARIANTS.values()], ids=str
)
@torch.no_grad()
def test_logits_of_cached_steps_are_those_of_the_whole(keys: dict[str, Any], tmp_path: Path) -> None:
    model = language_model(**keys)
    ids_BT, mask_BT = prompts()
    both = model.config.num_decoder_layers > 0
    loaded = auto(
        "AutoModelForSeq2SeqLM" if both else "AutoModelForCausalLM", write(model, tmp_path / "model")
    )
    encoder = {"input_ids": ids_BT.flip(1), "attention_mask": mask_BT.flip(1)} if both else {}
    prefix = "decoder_" if both else ""
    whole = loaded(**encoder, **{f"{prefix}input_ids": ids_BT, f"{prefix}attention_mask": mask_BT}).logits
    cache, steps = None, []
    for start, end in ((0, 3), (3, 5), (5, 6), (6, 7)):
        step = {f"{prefix}input_ids": ids_BT[:, start:end], f"{prefix}attention_mask": mask_BT[:, :end]}
        output = loaded(**encoder, **step, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits)
    kept = mask_BT.bool()
    torch.testing.assert_close(torch.cat(steps, dim=1)[kept], whole[kept], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_on_the_left_changes_nothing(kind: str, tmp_path: Path) -> None:
    loaded = auto("AutoModelForCausalLM", write(language_model(position=position(kind)), tmp_path / "model"))
    ids_BT, _ = prompts()
    alone = loaded.generate(
        ids_BT[:1, 3:], attention_mask=torch.ones(1, 4), max_new_tokens=6, do_sample=False
    )
    assert torch.equal(tokens(loaded, do_sample=False)[:1, 3:], alone)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_tokens_are_those_of_transformers_own_class(family: str, beams: int, tmp_path: Path) -> None:
    adapter, name, keys = {
        "llama": (Llama(), "AutoModelForCausalLM", LLAMA),
        "t5": (T5(), "AutoModelForSeq2SeqLM", T5_LIKE),
    }[family]
    model = language_model(**keys)
    theirs = auto(name, write_family(model, adapter, tmp_path / "theirs"))
    ours = auto(name, write(model, tmp_path / "ours"))
    assert type(theirs).__name__ == adapter.architecture
    assert type(ours).__name__.startswith("Lumbre")
    options = {"num_beams": beams, "do_sample": False}
    assert torch.equal(tokens(ours, **options), tokens(theirs, **options))


LOADS = [
    ("encoder", "AutoModelForMaskedLM"),
    ("decoder", "AutoModelForCausalLM"),
    ("untied", "AutoModelForCausalLM"),
    ("both", "AutoModelForSeq2SeqLM"),
    *(
        (name, f"AutoModel{suffix}")
        for name in ("encoder", "decoder", "both")
        for suffix in ("", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
    ),
]


@pytest.mark.parametrize(("name", "kind"), LOADS)
def test_a_folder_loads_into_every_class_and_comes_back(
    name: str, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    ours, loaded = hub.load(folders[name]), auto(kind, folders[name])
    state = loaded.state_dict()
    for key, tensor in ours.state_dict().items():
        if key in state:
            assert torch.equal(state[key], tensor), key
    assert {key for key in ours.state_dict() if key.startswith("trunk.")} <= state.keys()
    loaded.save_pretrained(tmp_path / "again")
    again, report = type(loaded).from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert all(torch.equal(again.state_dict()[key], state[key]) for key in state)
    if "LM" in kind:
        reread = hub.load(tmp_path / "again").state_dict()
        assert all(torch.equal(reread[key], tensor) for key, tensor in ours.state_dict().items())


@pytest.mark.parametrize(
    ("name", "fitting"),
    [("encoder", "MaskedLM"), ("decoder", "CausalLM"), ("both", "Seq2SeqLM")],
)
def test_a_language_model_of_another_kind_is_refused(
    name: str, fitting: str, folders: dict[str, Path]
) -> None:
    for kind in {"MaskedLM", "CausalLM", "Seq2SeqLM"} - {fitting}:
        with pytest.raises(ModelError, match=f"use AutoModelFor{fitting}"):
            auto(f"AutoModelFor{kind}", folders[name])


def test_logits_and_losses_of_language_models_are_those_of_the_convention(folders: dict[str, Path]) -> None:
    ids_BT, mask_BT = prompts()
    ids_BT, mask_BT = ids_BT.flip(1), mask_BT.flip(1)
    labels_BT = ids_BT.masked_fill(mask_BT == 0, -100)
    start_BT = torch.cat([torch.full((2, 1), PAD), ids_BT[:, :-1]], dim=1)
    given = {"input_ids": ids_BT, "attention_mask": mask_BT}
    for name, kind, extra in (
        ("encoder", "MaskedLM", {}),
        ("decoder", "CausalLM", {}),
        ("both", "Seq2SeqLM", {"decoder_input_ids": start_BT}),
    ):
        loaded = auto(f"AutoModelFor{kind}", folders[name])
        wanted = hub.load(folders[name])(**given, **extra).logits
        output = loaded(**given, labels=labels_BT)
        kept = torch.ones_like(mask_BT, dtype=torch.bool) if name == "both" else mask_BT.bool()
        assert torch.equal(output.logits[kept], wanted[kept])
        aligned = (wanted[:, :-1], labels_BT[:, 1:]) if kind == "CausalLM" else (wanted, labels_BT)
        # transformers computes losses in float32.
        loss = F.cross_entropy(aligned[0].transpose(1, 2).float(), aligned[1])
        torch.testing.assert_close(output.loss, loss, rtol=1e-6, atol=0)
        shared = loaded(**given, labels=labels_BT, num_items_in_batch=100).loss
        torch.testing.assert_close(shared, loss * (aligned[1] != -100).sum() / 100, rtol=1e-6, atol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_classifies_by_its_last_token_as_llama(side: str, tmp_path: Path) -> None:
    model = language_model(**LLAMA)
    theirs = transformers.LlamaForSequenceClassification.from_pretrained(
        write_family(model, Llama(), tmp_path / "theirs"), num_labels=3, dtype=torch.float64
    )
    ours = auto("AutoModelForSequenceClassification", write(model, tmp_path / "ours"), num_labels=3)
    ours.load_state_dict(
        {"classifier.weight": theirs.score.weight, "classifier.bias": torch.zeros(3)}, strict=False
    )
    ids_BT, mask_BT = prompts()
    if side == "right":
        ids_BT, mask_BT = ids_BT.flip(1), mask_BT.flip(1)
    wanted = theirs(ids_BT, mask_BT).logits
    # Llama's norm is computed in float32.
    torch.testing.assert_close(ours(ids_BT, mask_BT).logits, wanted, rtol=0, atol=1e-6)
    if side == "right":
        # Without a mask the padding token tells what is text.
        torch.testing.assert_close(ours(ids_BT).logits, wanted, rtol=0, atol=1e-6)


def test_an_encoder_classifies_by_its_first_token(folders: dict[str, Path]) -> None:
    loaded = auto("AutoModelForSequenceClassification", folders["encoder"], num_labels=3)
    ids_BT, mask_BT = prompts()
    x_BTD = loaded.run(ids_BT, mask_BT).last_hidden_state
    wanted = loaded.classifier(torch.stack([x_BTD[0, 3], x_BTD[1, 0]]))
    assert torch.equal(loaded(ids_BT, mask_BT).logits, wanted)


def test_two_stacks_classify_by_what_the_decoder_last_reads_behind_the_start(
    folders: dict[str, Path],
) -> None:
    loaded = auto("AutoModelForSequenceClassification", folders["both"], num_labels=3)
    ids_BT, mask_BT = prompts()
    ids_BT, mask_BT = ids_BT.flip(1), mask_BT.flip(1)
    start_BT = torch.cat([torch.full((2, 1), PAD), ids_BT[:, :-1]], dim=1)
    hidden = hub.load(folders["both"]).trunk(ids_BT, mask_BT, decoder_input_ids=start_BT)
    wanted = loaded.classifier(torch.stack([hidden.x_BTD[0, 3], hidden.x_BTD[1, 6]]))
    torch.testing.assert_close(loaded(ids_BT, mask_BT).logits, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["encoder", "decoder", "both"])
def test_every_weight_learns_from_each_task(name: str, folders: dict[str, Path]) -> None:
    ids_BT, mask_BT = prompts()
    labels_B = torch.tensor([0, 2])
    tasks: dict[str, tuple[dict[str, Any], Any]] = {
        "SequenceClassification": ({"labels": labels_B}, lambda out: F.cross_entropy(out.logits, labels_B)),
        "TokenClassification": (
            {"labels": ids_BT % 3},
            lambda out: F.cross_entropy(out.logits.float().transpose(1, 2), ids_BT % 3),
        ),
        "QuestionAnswering": (
            {"start_positions": labels_B, "end_positions": labels_B + 3},
            lambda out: (
                (F.cross_entropy(out.start_logits, labels_B) + F.cross_entropy(out.end_logits, labels_B + 3))
                / 2
            ),
        ),
    }
    for task, (labels, loss) in tasks.items():
        keys = {} if task == "QuestionAnswering" else {"num_labels": 3}
        model = auto(f"AutoModelFor{task}", folders[name], **keys).train()
        output = model(ids_BT, mask_BT, **labels)
        torch.testing.assert_close(output.loss, loss(output), rtol=1e-6, atol=0, check_dtype=False)
        output.loss.backward()
        without = [key for key, weight in model.named_parameters() if weight.grad is None]
        assert not without


@pytest.mark.parametrize(
    ("labels", "problem", "loss"),
    [
        (torch.tensor([0.5, 2.0, -1.0]), "regression", F.mse_loss),
        (
            torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 0]]),
            "multi_label_classification",
            F.binary_cross_entropy_with_logits,
        ),
    ],
)
def test_the_kind_of_labels_chooses_the_loss(
    labels: Tensor, problem: str, loss: Any, folders: dict[str, Path]
) -> None:
    count = 1 if labels.dim() == 1 else 3
    model = auto("AutoModelForSequenceClassification", folders["decoder"], num_labels=count)
    output = model(torch.randint(1, VOCAB, (3, 5)), labels=labels.double())
    torch.testing.assert_close(output.loss, loss(output.logits.squeeze(1), labels.double()))
    assert model.config.problem_type == problem


@pytest.mark.parametrize("name", ["decoder", "untied", "both"])
def test_a_larger_vocabulary_keeps_what_was_known(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    kind = "AutoModelForSeq2SeqLM" if name == "both" else "AutoModelForCausalLM"
    loaded = auto(kind, folders[name])
    ids_BT = torch.randint(1, VOCAB, (2, 5))
    given = {"input_ids": ids_BT, **({"decoder_input_ids": ids_BT} if name == "both" else {})}
    before = loaded(**given).logits
    loaded.set_input_embeddings(torch.nn.Embedding.from_pretrained(loaded.get_input_embeddings().weight))
    assert all(stack.embedding is loaded.get_input_embeddings() for stack in loaded.stacks)
    loaded.resize_token_embeddings(VOCAB + 3, mean_resizing=False)
    assert loaded.config.vocab_size == VOCAB + 3
    after = loaded(**given).logits
    # Another width, or place in memory, adds up in another order on some processors.
    torch.testing.assert_close(after[..., :VOCAB], before, rtol=0, atol=1e-12)
    loaded.save_pretrained(tmp_path / "larger")
    again = auto(kind, tmp_path / "larger")(**given).logits
    torch.testing.assert_close(again, after, rtol=0, atol=1e-12)
    assert hub.load(tmp_path / "larger").config.vocab_size == VOCAB + 3


@pytest.mark.parametrize("name", ["encoder", "both"])
def test_activation_checkpointing_gives_the_same_gradients(name: str, folders: dict[str, Path]) -> None:
    model = auto("AutoModelForSequenceClassification", folders[name], num_labels=3).train()
    ids_BT, mask_BT = prompts()

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(ids_BT, mask_BT, labels=torch.tensor([0, 2])).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    plain = gradients()
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing
    assert [stack.recompute for stack in model.stacks] == [1] * len(model.stacks)
    assert all(torch.equal(one, other) for one, other in zip(plain, gradients(), strict=True))
    model.activation_checkpointing_disable()
    assert [stack.recompute for stack in model.stacks] == ["none"] * len(model.stacks)


def test_hidden_states_are_what_each_block_reads_and_the_last(folders: dict[str, Path]) -> None:
    ids_BT, mask_BT = prompts()
    loaded = auto("AutoModel", folders["decoder"])
    output = loaded(ids_BT, mask_BT, output_hidden_states=True)
    assert len(output.hidden_states) == 3
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    first = loaded.trunk.position.embed(loaded.trunk.embedding(ids_BT), positions_BT)
    assert torch.equal(output.hidden_states[0], first)
    assert loaded(ids_BT, mask_BT).hidden_states is None


def test_a_model_without_weights_is_drawn_as_ours(folders: dict[str, Path]) -> None:
    config = transformers.AutoConfig.from_pretrained(folders["both"])
    config.transformer["init"] = "t5"
    config.transformer["scaled_residual_init"] = False
    torch.manual_seed(5)
    fresh = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float64)
    torch.manual_seed(5)
    torch.set_default_dtype(torch.float64)
    try:
        ours = config.architecture().build()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(fresh.trunk.state_dict()[key], value) for key, value in ours.state_dict().items())


def test_a_config_that_is_no_architecture_of_ours_is_explained(tmp_path: Path) -> None:
    folder = write(language_model(), tmp_path / "model", transformer={"causal": True})
    with pytest.raises(ModelError, match=r"transformer\.hidden_size"):
        transformers.AutoConfig.from_pretrained(folder)


LUMBRE_FIRST = """
import sys
import lumbre
assert not {{"torch", "transformers"}} & set(sys.modules)
from transformers import AutoModel
assert type(AutoModel.from_pretrained({folder!r})).__name__ == "LumbreModel"
"""
TRANSFORMERS_FIRST = """
from transformers import CONFIG_MAPPING
assert "lumbre" not in CONFIG_MAPPING
import lumbre
assert CONFIG_MAPPING["lumbre"].__name__ == "LumbreConfig"
"""


def test_importing_lumbre_is_enough_in_either_order(folders: dict[str, Path]) -> None:
    runs = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code.format(folder=str(folders["encoder"]))])
        for code in (LUMBRE_FIRST, TRANSFORMERS_FIRST)
    ]
    assert [run.wait() for run in runs] == [0, 0]
