"""Chat tuning: targets are what the assistant says, and packed conversations never see each other."""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from finetune.data import Example
from finetune.examples import Skips, encoded, usable
from finetune.tasks import Chat, ChatConfig, ExampleError, Row, restored
from finetune.tasks.conversation import CHATML
from finetune.tasks.packing import check_packing, packed, run_packed
from lumbre.errors import DataError, ModelError
from lumbre.hub.classes.config import LumbreConfig

SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 512}
LLAMA = {**SHAPE, "intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8}
HUGGING_FACES: dict[str, transformers.PretrainedConfig] = {
    "gpt2": transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=512, n_positions=256),
    "llama": transformers.LlamaConfig(**LLAMA),
    "qwen3": transformers.Qwen3Config(**LLAMA),
}
TRANSFORMER = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 512, "causal": True}
OWN = LumbreConfig(transformer={**TRANSFORMER, "position": {"type": "alibi"}})
DECODERS = (*HUGGING_FACES, "own")
MARKED = CHATML.replace(
    "<|im_start|>{{ message.role }}\n{{ message.content | trim }}<|im_end|>\n",
    "<|im_start|>{{ message.role }}\n{% if message.role == 'assistant' %}{% generation %}"
    "{{ message.content | trim }}<|im_end|>{% endgeneration %}{% else %}"
    "{{ message.content | trim }}<|im_end|>{% endif %}{{ '\n' }}",
)


def talk(*turns: str, system: str = "") -> dict[str, Any]:
    """Return a record whose turns are the user's and the assistant's in turn."""
    messages = [{"role": ["user", "assistant"][at % 2], "content": turn} for at, turn in enumerate(turns)]
    return {"messages": [*([{"role": "system", "content": system}] if system else []), *messages]}


TALKS = [
    talk("def", "return"),
    talk("What is a path?", "A place of a file", "And a file?", "Bytes", system="Be short"),
    talk("import torch", "import numpy"),
    talk("for at in range", "yield at"),
]


@pytest.fixture(scope="module")
def decoders(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of decoders, their tokenizer one that knows ChatML's tokens and has no template."""
    top = tmp_path_factory.mktemp("decoders")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["gpt2"])
    known = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert (len(tokenizer), tokenizer.chat_template) == (known + 2, None)
    out = {}
    for name in DECODERS:
        torch.manual_seed(0)
        config = OWN if name == "own" else HUGGING_FACES[name]
        config.vocab_size, config.bos_token_id, config.eos_token_id = len(tokenizer), None, None
        model = transformers.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(top / name)
        tokenizer.save_pretrained(top / name)
        out[name] = top / name
    return out


def made(folder: Path, **keys: Any) -> Chat:
    """Return the task of a folder."""
    config = ChatConfig.model_validate({"max_length": 128, "max_new_tokens": 8, **keys})
    return config.build(str(folder), {})


def model_of(task: Chat) -> Any:
    """Return the task's model, in evaluation mode."""
    return task.build_model(task.path, from_scratch=False).model.eval()


def rows_of(task: Chat, examples: Sequence[Example]) -> list[Row]:
    """Return each example's row."""
    return [row for example in examples for row in task.encode(example)]


def said(task: Chat, row: Row) -> str:
    """Return the text of a row's targets."""
    labels = row["labels"]
    return str(task.tokenizer.decode(labels[labels >= 0]))


@pytest.mark.parametrize("template", [None, "chatml", MARKED])
def test_targets_are_the_assistants_turns_with_the_token_that_ends_them(
    decoders: dict[str, Path], template: str | None
) -> None:
    """Each label is the token after its place; the two ways to tell targets agree."""
    task = made(decoders["gpt2"], chat_template=template)
    end = "<|im_end|>" if template else task.tokenizer.eos_token
    (row,) = task.encode(TALKS[1])
    assert said(task, row) == f"A place of a file{end}Bytes{end}"
    places = np.flatnonzero(row["labels"] >= 0)
    assert np.array_equal(row["labels"][places], row["input_ids"][places + 1])


def test_a_prompt_and_its_reply_are_the_conversation(decoders: dict[str, Path]) -> None:
    """What is asked when the model is used begins what it has learned from."""
    task = made(decoders["gpt2"])
    (row,) = task.encode(TALKS[1], "evaluate")
    length = len(row["prompt_ids"])
    assert np.array_equal(row["input_ids"][:length], row["prompt_ids"])
    assert row["labels"][length - 1] == row["input_ids"][length]


def test_a_template_that_renders_a_turn_otherwise_later_is_refused(decoders: dict[str, Path]) -> None:
    """As those that leave the thoughts of earlier replies out."""
    last = "{% if loop.last and message.role == 'assistant' %}(last) {% endif %}{{ message.content | trim }}"
    changing = CHATML.replace("{{ message.content | trim }}", last)
    task = made(decoders["gpt2"], chat_template=changing)
    with pytest.raises(ExampleError, match="turn 3 in another way where more follows"):
        task.encode(TALKS[1])
    assert said(task, task.encode(TALKS[0])[0]) == "(last) return<|im_end|>"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for one in messages %}{{ one.content }}\n{% endfor %}", "closes a reply with no token"),
        ("{% for one in %}", "cannot chat: the chat template cannot render it"),
        ("{{ eos_token }}", "leaves a reply out"),
    ],
)
def test_a_template_that_cannot_chat_is_explained(
    decoders: dict[str, Path], template: str, fault: str
) -> None:
    with pytest.raises(ModelError, match=fault):
        made(decoders["gpt2"], chat_template=template)


def test_chatml_wants_its_tokens(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="no token that the tokenizer knows as one"):
        made(folders["gpt2"], chat_template="chatml")


def test_the_template_is_saved_and_tells_when_a_reply_ends(decoders: dict[str, Path], tmp_path: Path) -> None:
    task = made(decoders["gpt2"], chat_template="chatml", generate=False)
    model = model_of(task)
    model.save_pretrained(tmp_path)
    task.save(tmp_path)
    again = restored(tmp_path)
    assert isinstance(again, Chat)
    end = task.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end in again.conversation.stops
    assert model.generation_config.eos_token_id == again.conversation.stops
    messages = TALKS[0]["messages"][:1]
    plain = transformers.AutoTokenizer.from_pretrained(tmp_path)
    asked = plain.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert asked == again.encode({"messages": messages}, "predict")[0]["prompt_ids"].tolist()


@pytest.mark.parametrize("family", ["llama", "own"])
def test_the_card_shows_code_that_runs(
    decoders: dict[str, Path], tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = made(decoders[family])
    model_of(task).save_pretrained(tmp_path)
    task.save(tmp_path)
    monkeypatch.setattr(transformers, "pipeline", partial(transformers.pipeline, device="cpu"))
    *lines, last = task.usage_code().replace("THIS FOLDER", str(tmp_path)).splitlines()
    scope: dict[str, Any] = {}
    exec("\n".join(lines), scope)
    assert isinstance(eval(last, scope), str)
    assert ("import lumbre" in task.usage_code()) == (family == "own")


@pytest.mark.parametrize("family", DECODERS)
def test_packed_conversations_never_see_each_other(decoders: dict[str, Path], family: str) -> None:
    """Another first conversation changes no bit of the others' logits, and each is as it is alone."""
    task = made(decoders[family], packing=True)
    model = model_of(task).double()
    rows = rows_of(task, TALKS)
    other = {**rows[0], "input_ids": rows[0]["input_ids"][::-1].copy()}
    length = len(rows[0]["input_ids"])
    with torch.no_grad():
        first, second = (
            run_packed(model, batch["input_ids"], batch["position_ids"])
            for batch in (task.collate(packed([one, *rows[1:]], 400)) for one in (rows[0], other))
        )
        alone = [model(input_ids=torch.from_numpy(row["input_ids"])[None]).logits[0] for row in rows]
    assert len(first) == 1
    assert not torch.equal(first[0, :length], second[0, :length])
    assert torch.equal(first[0, length:], second[0, length:])
    torch.testing.assert_close(first[0], torch.cat(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", DECODERS)
def test_packing_changes_neither_loss_nor_gradient(decoders: dict[str, Path], family: str) -> None:
    """Rows of unequal length, so that there is padding too; float64."""
    tasks = [made(decoders[family], packing=packing, max_length=90) for packing in (False, True)]
    found = []
    for task in tasks:
        model = model_of(task).double()
        rows = task.arrange(rows_of(task, TALKS))
        batch = task.collate(rows)
        term = task.loss(model, batch).terms["loss"]
        term.sum.backward()
        gradient = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
        assert task.counts(batch) == {"loss": term.count}
        found.append((len(rows), term.count, term.sum.item(), gradient))
    (many, count, loss, gradient), (few, packed_count, packed_loss, packed_gradient) = found
    assert many > few > 1
    assert packed_count == count
    assert packed_loss == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(packed_gradient, gradient, rtol=1e-9, atol=1e-11)


def test_a_model_that_sees_beyond_a_conversation_is_refused(decoders: dict[str, Path]) -> None:
    model = model_of(made(decoders["llama"]))
    check_packing(model)
    forward = model.forward
    model.forward = lambda position_ids, **keys: forward(**keys)
    with pytest.raises(ModelError, match="models of type llama see beyond a conversation"):
        check_packing(model)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_every_row_is_packed_once_whole_and_in_order(lengths: list[int]) -> None:
    rows = [{"input_ids": np.full(length, at)} for at, length in enumerate(lengths)]
    out = packed(rows, 20)
    for row in out:
        assert len(row["input_ids"]) <= 20
        numbers, counts = np.unique(row["input_ids"], return_counts=True)
        assert np.array_equal(row["input_ids"], np.repeat(numbers, counts))
        assert np.array_equal(row["position_ids"], np.concatenate([np.arange(one) for one in counts]))
    assert sorted(np.concatenate([row["input_ids"] for row in out])) == sorted(
        np.concatenate([row["input_ids"] for row in rows])
    )
    # Best fit leaves no two rows that would fit in one.
    sizes = sorted(len(row["input_ids"]) for row in out)
    assert len(sizes) == 1 or sizes[0] + sizes[1] > 20


@pytest.mark.parametrize("family", DECODERS)
def test_replies_are_those_of_each_prompt_alone(decoders: dict[str, Path], family: str) -> None:
    """Neither padding on the left nor the cache shows: forward passes alone say the same."""
    task = made(decoders[family])
    model = model_of(task)
    rows = [row for one in TALKS for row in task.encode(one, "predict")]
    assert len({len(row["input_ids"]) for row in rows}) > 1
    with torch.no_grad():
        together = [output[-1] for output in task.predict(model, task.collate(rows)).outputs]
        for row, reply in zip(rows, together, strict=True):
            ids = row["input_ids"].tolist()
            while len(ids) < len(row["input_ids"]) + 8:
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] in task.conversation.stops:
                    break
            written = task.tokenizer.decode(ids[len(row["input_ids"]) :], skip_special_tokens=True)
            assert reply == written.strip()
    assert any(together)


def test_the_score_is_that_of_all_targets_together(decoders: dict[str, Path]) -> None:
    """Perplexity and accuracy by hand, from batches of unequal size; a conversation's share is its own."""
    task = made(decoders["llama"])
    model = model_of(task)
    rows = [row for one in TALKS for row in task.encode(one, "evaluate")]
    with torch.no_grad():
        parts = [task.predict(model, task.collate(rows[span])) for span in (slice(3), slice(3, None))]
        right, losses = [], []
        for row in rows:
            logits = model(input_ids=torch.from_numpy(row["input_ids"])[None]).logits[0].double()
            at = np.flatnonzero(row["labels"] >= 0)
            wanted = torch.from_numpy(row["labels"][at])
            right.append((logits[at].argmax(-1) == wanted).tolist())
            losses += (-logits[at].log_softmax(-1)[torch.arange(len(at)), wanted]).tolist()
    predictions = task.decide(TALKS, [[output] for part in parts for output in part.outputs])
    score = task.score(TALKS, predictions)
    assert score["token_accuracy"] == pytest.approx(np.mean([one for each in right for one in each]))
    assert score["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    assert sum(part.loss for part in parts) == pytest.approx(np.sum(losses), rel=1e-5)
    judged = [task.judge(one, prediction) for one, prediction in zip(TALKS, predictions, strict=True)]
    assert judged == [pytest.approx(np.mean(one)) for one in right]


def test_evaluations_write_only_where_that_is_asked(decoders: dict[str, Path]) -> None:
    task = made(decoders["llama"], generate=False)
    assert not task.generates
    assert "prompt_ids" not in task.encode(TALKS[0], "evaluate")[0]
    assert task.decide(TALKS[:1], [[(2, 1, 3.0, None)]]) == [
        {"prediction": None, "tokens": 2, "right_tokens": 1, "loss": 1.5}
    ]


def test_a_conversation_is_cut_at_the_right(decoders: dict[str, Path]) -> None:
    whole = made(decoders["gpt2"]).encode(TALKS[1])[0]
    task = made(decoders["gpt2"], max_length=len(whole["input_ids"]) - 5)
    (cut,) = task.encode(TALKS[1])
    assert np.array_equal(cut["input_ids"], whole["input_ids"][:-5])
    assert np.array_equal(cut["labels"][:-1], whole["labels"][: len(cut["labels"]) - 1])
    assert cut["labels"][-1] == -100
    with pytest.raises(ExampleError, match="the prompt of the last reply is longer than max_length"):
        made(decoders["gpt2"], max_length=20).encode(TALKS[1], "evaluate")
    with pytest.raises(ExampleError, match="nothing of the assistant's is within max_length"):
        made(decoders["gpt2"], max_length=10).encode(TALKS[1])


def test_a_prompt_and_its_reply_fit_the_positions(decoders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"has 256 positions; .* come to 257; set them lower"):
        made(decoders["gpt2"], max_length=249)
    made(decoders["gpt2"], max_length=249, generate=False)


@pytest.mark.parametrize("from_scratch", [False, True])
def test_a_language_models_head_is_part_of_its_trunk(decoders: dict[str, Path], from_scratch: bool) -> None:
    """A frozen trunk leaves nothing to train, and LoRA does not train the head whole."""
    start = made(decoders["llama"]).build_model(str(decoders["llama"]), from_scratch=from_scratch)
    assert ("lm_head.weight" in start.head) == from_scratch


def test_a_conversation_that_ends_in_a_question_is_answered_and_not_evaluated(
    decoders: dict[str, Path],
) -> None:
    task = made(decoders["gpt2"])
    record = talk("def", "return", "and then?")
    assert task.config.fault(record) == task.config.fault(record, "predict") == ""
    assert "the last message is not the assistant's" in task.config.fault(record, "evaluate")
    assert task.shown(record) == {"input": record["messages"]}
    (row,) = task.encode(record, "predict")
    assert task.tokenizer.decode(row["prompt_ids"]).endswith("and then?\n\n### Assistant:\n")


def test_an_instruction_is_a_conversation_of_two_turns(decoders: dict[str, Path]) -> None:
    task = made(decoders["gpt2"], instruction_field="instruction")
    record = {"instruction": "Sum up", "input": "a and b", "output": "ab"}
    (row,), (same,) = task.encode(record), made(decoders["gpt2"]).encode(talk("Sum up\n\na and b", "ab"))
    assert np.array_equal(row["input_ids"], same["input_ids"])
    assert task.shown(record) == {"input": [{"role": "user", "content": "Sum up\n\na and b"}], "target": "ab"}
    assert task.config.fault({"instruction": "Sum up"}, "predict") == ""


def test_other_names_of_roles_and_fields_are_told_by_the_config(decoders: dict[str, Path]) -> None:
    keys = {"messages_field": "conversations", "role_field": "from", "content_field": "value"}
    task = made(decoders["gpt2"], **keys, roles={"human": "user", "gpt": "assistant"})
    record = {"conversations": [{"from": "human", "value": "def"}, {"from": "gpt", "value": "return"}]}
    assert task.config.fault(record) == ""
    assert np.array_equal(
        task.encode(record)[0]["input_ids"], made(decoders["gpt2"]).encode(TALKS[0])[0]["input_ids"]
    )


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"text": "a"}, "has no field 'messages'"),
        ({"messages": None}, "the field 'messages' is null"),
        ({"messages": []}, "is no list of messages"),
        ({"messages": "hello"}, "is no list of messages"),
        ({"messages": ["hello"]}, "message 1 has no fields"),
        ({"messages": [{"role": "user"}]}, "message 1 has no field 'content'"),
        ({"messages": [{"role": "human", "content": "a"}]}, "message 1 has the unknown role 'human'"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, "which is no text"),
        (talk("def", " "), "message 2 has an empty text"),
        (talk("def"), "no message is the assistant's"),
    ],
)
def test_a_record_that_cannot_be_learned_is_named(record: dict[str, Any], fault: str) -> None:
    assert fault in ChatConfig().fault(record)
    with pytest.raises(DataError, match="train record 2"):
        usable(ChatConfig(), {"train": [TALKS[0], record]}, "error", Skips())


def test_training_rows_are_packed_and_others_are_not(decoders: dict[str, Path]) -> None:
    task = made(decoders["gpt2"], packing=True, generate=False)
    records = list(enumerate(TALKS, start=1))
    splits = encoded(task, {"train": records, "validation": records}, "error", Skips())
    assert len(splits["train"].rows) < len(TALKS) == len(splits["validation"].rows)


CONFIG = """\
name: chat
task: {type: chat, max_length: 64, max_new_tokens: 8, packing: true}
data: {type: jsonl, train: train.jsonl, validation: validation.jsonl}
optimizer: {type: adamw, learning_rate: 1.0e-2}
schedule: {type: constant}
train: {steps: 60, global_batch_size: 4, micro_batch_size: 2, log_every: 20}
"""


@pytest.mark.slow
def test_a_decoder_learns_to_answer_from_the_command_to_the_pipeline(
    decoders: dict[str, Path], tmp_path: Path
) -> None:
    """What evaluation, `lumbre predict` and transformers' pipeline write is the answer that was learned."""
    for split, words in (("train", ["for", "def", "path", "text"] * 4), ("validation", ["def", "text"])):
        lines = [json.dumps(talk(word, f"is {word}")) for word in words]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    (tmp_path / "chat.yaml").write_text(f"{CONFIG}model: {{path: {decoders['llama']}}}\n")
    asked = talk("def")
    (tmp_path / "asked.jsonl").write_text(json.dumps(asked))
    lumbre(tmp_path, "finetune", "chat.yaml")
    folder = tmp_path / "runs/chat"
    (row,) = json.loads((folder / "results.json").read_text())["rows"]
    assert row["token_accuracy"] == 1
    assert row["perplexity"] == pytest.approx(np.exp(row["loss"]))
    predictions = [
        json.loads(line) for line in (folder / "predictions-validation.jsonl").read_text().splitlines()
    ]
    assert [(one["input"], one["target"], one["prediction"], one["score"]) for one in predictions] == [
        (talk(word)["messages"], f"is {word}", f"is {word}", 1.0) for word in ("def", "text")
    ]
    lumbre(tmp_path, "predict", "runs/chat", "--input", "asked.jsonl", "--output", "answered.jsonl")
    assert json.loads((tmp_path / "answered.jsonl").read_text())["prediction"] == "is def"
    chat = transformers.pipeline("text-generation", str(folder / "model"), device="cpu")
    reply = chat(asked["messages"], max_new_tokens=8, do_sample=False)
    assert reply[0]["generated_text"][-1] == {"role": "assistant", "content": "is def"}


def lumbre(folder: Path, *arguments: str) -> None:
    """Run the command in a folder."""
    command = [sys.executable, "-m", "lumbre.cli", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
