"""Sequence-to-sequence learning: Hugging Face's own loss, padding without effect, and generation as saved."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.trainer_pt_utils import LabelSmoother

from finetune.methods import LoraConfig
from finetune.tasks import ExampleError, Task, restored
from finetune.tasks.generation import GenerationConfig
from finetune.tasks.summarization import SummarizationConfig
from lumbre.errors import ModelError

from .writers import DECODERS, ENCODER_DECODERS, EXAMPLES, FAMILIES, FAST, WORDS, batch_of, folder, made

CONTROLLED = {
    "beams": 3,
    "min_new_tokens": 4,
    "length_penalty": 2.0,
    "no_repeat_ngram_size": 2,
    "repetition_penalty": 1.3,
    "early_stopping": True,
}


EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


class Places(dict[str, Path]):
    """Model folders by family, each made when it is asked for."""

    def __init__(self, top: Path) -> None:
        super().__init__()
        self._top = top

    def __missing__(self, name: str) -> Path:
        self[name] = folder(name, self._top)
        return self[name]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Return a model folder of each family."""
    return Places(tmp_path_factory.mktemp("writers"))


def whole(task: Any, example: dict[str, str]) -> tuple[list[int], list[int]]:
    """Return a decoder's row as Hugging Face wants it: all tokens, and a label under each target itself."""
    prompt = task.tokenizer(f"{example['document']}\n\nTL;DR:")["input_ids"]
    prompt = prompt[:-1] if prompt[-1] == task._end else prompt
    target = task.tokenizer(f" {example['summary']}", add_special_tokens=False)["input_ids"]
    return [*prompt, *target, task._end], [-100] * len(prompt) + [*target, task._end]


def theirs(task: Any, model: Any, name: str) -> tuple[Any, torch.Tensor]:
    """Return what transformers' model gives for all examples and labels, and the labels."""
    if name in ENCODER_DECODERS:
        given = {key: batch_of(task, EXAMPLES)[key] for key in ("input_ids", "attention_mask", "labels")}
    else:
        pairs = [whole(task, one) for one in EXAMPLES]
        longest = max(len(ids) for ids, _ in pairs)
        ids_BT = torch.tensor([ids + [5] * (longest - len(ids)) for ids, _ in pairs])
        mask_BT = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in pairs])
        labels_BT = torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in pairs])
        given = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}
    with torch.no_grad():
        output = model(**given)
    return output, given["labels"]


def by_hand(output: Any, labels_BT: torch.Tensor, name: str) -> float:
    """Return the mean negative log-likelihood of the targets: the losses of most classes are float32."""
    logits_BTV = output.logits
    if name in DECODERS:
        logits_BTV, labels_BT = logits_BTV[:, :-1], labels_BT[:, 1:]
    chances_BT = logits_BTV.log_softmax(-1).gather(-1, labels_BT.clamp(min=0)[..., None])[..., 0]
    return -float(chances_BT[labels_BT != -100].mean())


def ours(task: Any, model: Any, purpose: str = "train") -> float:
    """Return the loss over micro batches of three."""
    batches = [batch_of(task, EXAMPLES[at : at + 3], purpose) for at in range(0, len(EXAMPLES), 3)]
    with torch.no_grad():
        terms = [task.loss(model, batch).terms["loss"] for batch in batches]
    assert [term.count for term in terms] == [task.counts(batch)["loss"] for batch in batches]
    return sum(float(term.sum) for term in terms) / sum(term.count for term in terms)


@pytest.mark.parametrize("name", EVERY)
def test_the_loss_is_hugging_faces_own(places: Places, name: str) -> None:
    """Their model shifts the targets by itself; ours are aligned, and padded less."""
    task, model = made(places[name], prefix="summarize: ")
    output, labels_BT = theirs(task, model, name)
    for purpose in ("train", "evaluate"):
        assert ours(task, model, purpose) == pytest.approx(float(output.loss), rel=1e-6)
        assert ours(task, model, purpose) == pytest.approx(by_hand(output, labels_BT, name), rel=1e-12)


@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_smoothed_labels_are_those_of_transformers_trainer(places: Places, name: str) -> None:
    task, model = made(places[name], label_smoothing=0.1)
    output, labels_BT = theirs(task, model, name)
    wanted = LabelSmoother(epsilon=0.1)(output, labels_BT, shift_labels=name in DECODERS)
    assert ours(task, model) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize("name", EVERY)
def test_the_target_and_its_end_alone_bear_loss(places: Places, name: str) -> None:
    """Also where padding and end are one token, as GPT-2 has them."""
    task, _ = made(places[name])
    task.tokenizer.pad_token_id = task._end
    for example, labels_T in zip(EXAMPLES, batch_of(task, EXAMPLES)["labels"], strict=True):
        targets = labels_T[labels_T != -100].tolist()
        assert targets[-1] == task._end
        assert task.tokenizer.decode(targets, skip_special_tokens=True).strip() == example["summary"]


@pytest.mark.parametrize("generation", [{}, CONTROLLED], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", EVERY)
def test_padding_changes_nothing(places: Places, name: str, generation: Any) -> None:
    """Decoders' prompts are padded on the left: positions and attention have to know."""
    task, model = made(places[name], generation={**generation, "max_new_tokens": 8})
    together = task.predict(model, batch_of(task, EXAMPLES[:4]))
    alone = [task.predict(model, batch_of(task, [one])) for one in EXAMPLES[:4]]
    assert together.outputs == [one.outputs[0] for one in alone]
    assert together.loss == pytest.approx(sum(one.loss for one in alone), rel=1e-12)
    assert together.count == sum(one.count for one in alone)
    bare = task.predict(model, batch_of(task, EXAMPLES[:4], "predict"))
    assert (bare.outputs, bare.loss, bare.count) == (together.outputs, 0, 0)


@pytest.mark.parametrize("name", EVERY)
def test_plain_transformers_writes_the_same_from_the_saved_folder(
    places: Places, name: str, tmp_path: Path
) -> None:
    """`generate` without an argument: how the model writes is saved with it."""
    task, model = made(places[name], generation=CONTROLLED)
    written = task.predict(model, batch_of(task, EXAMPLES[:3])).outputs
    model.save_pretrained(tmp_path)
    task.save(tmp_path)
    auto = "AutoModelForSeq2SeqLM" if name in ENCODER_DECODERS else "AutoModelForCausalLM"
    loaded = getattr(transformers, auto).from_pretrained(tmp_path, dtype=torch.float64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for example, wanted in zip(EXAMPLES[:3], written, strict=True):
        if name in ENCODER_DECODERS:
            ids = tokenizer(example["document"])["input_ids"]
            ids = ids if ids[-1] == task._end else [*ids, tokenizer.eos_token_id]
        else:
            ids = tokenizer(example["document"] + "\n\nTL;DR:")["input_ids"]
            ids = ids[:-1] if ids[-1] == task._end else ids
        given = torch.tensor([ids])
        out = loaded.generate(given, attention_mask=torch.ones_like(given))[0].tolist()
        out = out[1:] if name in ENCODER_DECODERS else out[len(ids) :]
        assert (out[: out.index(task._end)] if task._end in out else out) == wanted
    again = restored(tmp_path)
    assert again.predict(loaded.eval(), batch_of(again, EXAMPLES[:3])).outputs == written  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_controls_of_repetition_and_length_reach_generate(places: Places, name: str) -> None:
    plain, model = made(places[name])
    loose = plain.predict(model, batch_of(plain, EXAMPLES)).outputs
    assert any(len(set(ids)) < len(ids) for ids in loose)
    task, model = made(places[name], generation={"no_repeat_ngram_size": 1, "max_new_tokens": 7})
    written = task.predict(model, batch_of(task, EXAMPLES)).outputs
    assert all(len(set(ids)) == len(ids) <= 7 for ids in written)
    task, model = made(places[name], generation={"repetition_penalty": 50.0})
    damped = task.predict(model, batch_of(task, EXAMPLES)).outputs
    assert sum(len(set(ids)) for ids in damped) > sum(len(set(ids)) for ids in loose)


def test_a_text_ends_no_sooner_than_asked_for(places: Places) -> None:
    for fewest in (0, 6):
        task, model = made(places["t5"], generation={"min_new_tokens": fewest})
        with torch.no_grad():
            # The likeliest token is always the end.
            model.lm_head.weight.zero_()
            model.lm_head.weight[task._end] = 1
            model.decoder.final_layer_norm.register_forward_hook(lambda *given: given[2].abs())
        outputs = task.predict(model, batch_of(task, EXAMPLES[:2])).outputs
        assert [len(ids) for ids in outputs] == [fewest, fewest]


def test_draws_are_the_same_each_time_and_leave_the_generator_alone(places: Places) -> None:
    task, model = made(places["gpt2"], generation={"temperature": 2.0, "top_k": 0})
    batch = batch_of(task, EXAMPLES)
    torch.manual_seed(3)
    once = task.predict(model, batch).outputs
    drawn = torch.rand(1)
    assert task.predict(model, batch).outputs == once
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    greedy, model = made(places["gpt2"])
    assert greedy.predict(model, batch).outputs != once


@pytest.mark.parametrize("length", [18, 23, 31, 40])
@pytest.mark.parametrize("name", ["gpt2", "own decoder"])
def test_a_decoders_text_is_cut_and_its_prompt_and_target_stay(
    places: Places, name: str, length: int
) -> None:
    prompt = "The text: {text}\n\nTL;DR:"
    task, _ = made(places[name], max_length=length, prompt=prompt)
    example = {"document": " ".join(WORDS * 3), "summary": "two birds"}
    (row,) = task.encode(example, "evaluate")
    # The last token that the text gives may hold more letters alone than in its place.
    assert length - 2 <= len(row["prompt"]) <= length
    said = task.tokenizer.decode(row["prompt"], skip_special_tokens=True)
    wanted = task.tokenizer.decode(
        task.tokenizer(prompt.replace("{text}", example["document"]))["input_ids"], skip_special_tokens=True
    )
    before, after = wanted.split(example["document"])
    assert said.startswith(before)
    assert said.strip().endswith(after.strip())
    assert example["document"].startswith(
        said.removeprefix(before).strip().removesuffix(after.strip()).strip()
    )
    targets = row["labels"][row["labels"] != -100]
    (cut,) = made(places[name], max_length=length, max_target_length=3, prompt=prompt)[0].encode(
        {**example, "summary": " ".join(WORDS)}
    )
    assert (cut["labels"] != -100).sum() == 3
    assert cut["labels"][-1] == task._end
    assert task.tokenizer.decode(targets, skip_special_tokens=True).strip() == "two birds"


@pytest.mark.parametrize("name", ["t5", "own both"])
def test_what_is_cut_keeps_its_end(places: Places, name: str) -> None:
    task, _ = made(places[name], max_length=10, max_target_length=6)
    long = {"document": " ".join(WORDS), "summary": " ".join(WORDS)}
    (row,) = task.encode(long)
    assert (len(row["input_ids"]), len(row["labels"])) == (10, 6)
    assert row["input_ids"][-1] == row["labels"][-1] == task._end
    assert task.length(row) == 16


def test_the_prefix_is_read_before_the_source(places: Places) -> None:
    task, _ = made(places["t5"], prefix="over a ")
    other, _ = made(places["t5"])
    (row,) = task.encode({"document": "green hill", "summary": "hill"})
    (same,) = other.encode({"document": "over a green hill", "summary": "hill"})
    assert np.array_equal(row["input_ids"], same["input_ids"])


def test_tokens_are_what_the_stacks_read(places: Places) -> None:
    for name in ("t5", "gpt2"):
        task, _ = made(places[name])
        rows = [row for one in EXAMPLES for row in task.encode(one)]
        assert task.tokens(task.collate(rows)) == sum(task.length(row) for row in rows)


def test_a_record_within_a_record_is_found(places: Places) -> None:
    task, _ = made(places["gpt2"], text_field="pair.long", summary_field="pair.short")
    example = {"pair": {"long": "green hill", "short": "hill"}}
    assert task.config.fault(example) == ""
    assert task.shown(example) == {"input": "green hill", "target": "hill"}
    assert task.config.fault({"pair": {"long": "green hill"}}).startswith(
        "has no text in the field 'pair.short'"
    )
    assert task.config.fault({"pair": {"long": "green hill"}}, "predict") == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"document": None}, "has no text in the field 'document': {\"document\": null"),
        ({"document": " \n"}, "the field 'document' is an empty text"),
        ({"summary": ""}, "the field 'summary' is an empty text"),
        ({"summary": ["red", "fox"]}, "the field 'summary' is a list, not a text"),
    ],
)
def test_a_record_without_its_texts_is_named(change: dict[str, Any], expected: str) -> None:
    assert SummarizationConfig().fault({**EXAMPLES[0], **change}).startswith(expected)


@pytest.mark.parametrize("name", FAST)
def test_a_text_of_no_tokens_is_refused(places: Places, name: str) -> None:
    task, _ = made(places[name], prompt="{text}\n")
    # What the tokenizer drops, though it is no white space.
    task.tokenizer.backend_tokenizer.normalizer = None
    for field in ("document", "summary"):
        with pytest.raises(ExampleError, match="has no token"):
            task.encode({**EXAMPLES[0], field: ""})


def test_a_model_that_reads_both_ways_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError) as caught:
        SummarizationConfig().build(str(folders["bert"]), {})
    assert "is an encoder, which reads both ways" in str(caught.value)
    assert "cannot be fine-tuned for summarization; what can be is a decoder" in str(caught.value)
    assert "or an encoder-decoder, which answers a text (T5, BART)" in str(caught.value)


@pytest.mark.parametrize("keys", [{"max_length": 85}, {"generation": {"max_new_tokens": 60}}])
def test_a_decoder_holds_source_and_target(places: Places, keys: dict[str, Any]) -> None:
    with pytest.raises(
        ModelError, match=r"of target, and the model has 96 positions; lower task\.max_length"
    ):
        made(places["gpt2"], **keys)


@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_a_prompt_that_leaves_no_room_is_told_once(places: Places, name: str) -> None:
    with pytest.raises(ModelError, match=r"tokens, which leaves none of max_length 6 to a source"):
        made(
            places[name],
            max_length=6,
            prefix="two birds in one tree:",
            prompt="{text} two birds in one tree:",
        )


def test_a_folder_that_lacks_a_stack_is_refused(places: Places, tmp_path: Path) -> None:
    """A T5 holds its stacks itself, beside the head."""
    shutil.copytree(places["t5"], tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("decoder.block.1")}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    task, _ = made(places["t5"])
    with pytest.raises(ModelError, match="the weights lack"):
        task.build_model(str(tmp_path), from_scratch=False)


def test_a_folder_without_the_head_gets_a_new_one(places: Places, tmp_path: Path) -> None:
    """And that alone is called the head: one that was pretrained trains where the rest does."""
    task, _ = made(places["llama"])
    shutil.copytree(places["llama"], tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    start = task.build_model(str(tmp_path), from_scratch=False)
    assert start.new == start.head == ("lm_head.weight",)
    start = task.build_model(str(places["llama"]), from_scratch=False)
    assert (start.new, start.head) == ((), ())


def test_what_is_above_the_stacks_of_a_t5_is_its_head(places: Places) -> None:
    task, _ = made(places["t5"])
    assert Task.build_model(task, str(places["t5"]), from_scratch=False).head == ("lm_head.weight",)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_an_adapted_model_writes(places: Places, name: str) -> None:
    task, _ = made(places[name])
    start = task.build_model(str(places[name]), from_scratch=False)
    # The head is pretrained, and adapted no more than the embedding.
    assert (start.head, start.new) == ((), ())
    plain = task.predict(start.model.eval(), batch_of(task, EXAMPLES))
    adapted = LoraConfig().apply(start.model, start.head).eval()
    assert task.predict(adapted, batch_of(task, EXAMPLES)).outputs == plain.outputs


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"prompt": "TL;DR:"}, "has the source in it 0 times"),
        ({"generation": {"length_penalty": 2.0}}, "beams are 1, and nothing reads it"),
        ({"generation": {"top_p": 0.9}}, "temperature is 0, and nothing reads it"),
        ({"generation": {"min_new_tokens": 9, "max_new_tokens": 8}}, "9, and max_new_tokens is 8"),
        ({"generation": {"min_new_tokens": 129}}, "129, and max_target_length is 128"),
    ],
)
def test_settings_that_contradict_each_other_are_told(keys: dict[str, Any], expected: str) -> None:
    found = [*SummarizationConfig.model_validate(keys).all_problems()]
    assert [problem.fault for problem in found if expected in problem.fault]


def test_what_nothing_reads_is_left_out() -> None:
    """transformers refuses to save it."""
    for config in (
        GenerationConfig(),
        GenerationConfig(beams=2, length_penalty=0.5),
        GenerationConfig(temperature=1),
    ):
        transformers.GenerationConfig(**config.arguments(8)).validate(strict=True)
