"""Sentence embeddings: the losses, the embeddings and the folder are sentence-transformers' own."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import pearsonr, spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.util import pairwise_cos_sim

from finetune.batches import EpochBatches
from finetune.config import FinetuneConfig
from finetune.data import Example
from finetune.examples import Skips, usable
from finetune.tasks import Embedding, EmbeddingConfig, Row, restored
from finetune.tasks.embedding import cosent, mnrl
from lumbre import distributed
from lumbre.config import load
from lumbre.errors import ConfigError, DataError, ModelError

SOURCE = Path(__file__).read_text()
TEXTS = [SOURCE[at : at + 20 + 7 * at % 60] for at in range(0, 1800, 60)]
PAIRS = [{"anchor": one, "positive": two} for one, two in zip(TEXTS[:12], TEXTS[12:24], strict=True)]
TRIPLETS = [{**pair, "negative": text} for pair, text in zip(PAIRS, TEXTS[3:15], strict=True)]
SCORED = [
    {"sentence1": pair["anchor"], "sentence2": pair["positive"], "score": at * 5 % 12 // 2 / 5}
    for at, pair in enumerate(PAIRS)
]


def made(folder: Path, **keys: Any) -> Embedding:
    """Return the task of a folder."""
    config = EmbeddingConfig.model_validate({"max_length": 32, "group_size": 4, **keys})
    return config.build(str(folder), {})


def model_of(task: Embedding) -> Any:
    """Return the task's model in float64 and evaluation mode."""
    return task.build_model(task.path, from_scratch=False).model.eval().double()


def rows_of(task: Embedding, examples: Sequence[Example]) -> list[Row]:
    """Return each example's row."""
    return [row for example in examples for row in task.encode(example)]


def columns(task: Embedding, model: Any, rows: Sequence[Row]) -> list[torch.Tensor]:
    """Return the embeddings of the rows' first texts, of their second ones, ..., each text read alone."""
    texts = [np.split(row["input_ids"], np.cumsum(row["lengths"])[:-1]) for row in rows]
    alone = [
        torch.cat(
            [task.embed(model, task.collate([{"input_ids": ids, "lengths": [len(ids)]}])) for ids in one]
        )
        for one in texts
    ]
    return list(torch.stack(alone, dim=1))


@pytest.mark.parametrize("family", ["bert", "own"])
@pytest.mark.parametrize("negative", [None, "negative"])
def test_mnrl_is_sentence_transformers_own_in_each_group(
    folders: dict[str, Path], family: str, negative: str | None
) -> None:
    """Sums over the groups of any micro batches are the mean of their loss over the groups; float64."""
    task = made(folders[family], negative_field=negative)
    model = model_of(task)
    rows = rows_of(task, TRIPLETS)
    theirs = losses.MultipleNegativesRankingLoss(None)
    with torch.no_grad():
        terms = [task.loss(model, task.collate(part)).terms["loss"] for part in (rows[:8], rows[8:])]
        mean = [
            float(
                theirs.compute_loss_from_embeddings(columns(task, model, rows[at : at + 4]), torch.empty(0))
            )
            for at in (0, 4, 8)
        ]
    assert [term.count for term in terms] == [8, 4]
    assert len(rows[0]["lengths"]) == (3 if negative else 2)
    assert sum(float(term.sum) for term in terms) / 12 == pytest.approx(np.mean(mean), rel=1e-12)


def test_cosent_is_sentence_transformers_own_in_each_group(folders: dict[str, Path]) -> None:
    """With ties among the scores."""
    task = made(folders["bert"], loss="cosent", group_size=6)
    model = model_of(task)
    rows = rows_of(task, SCORED)
    assert len({float(row["score"][0]) for row in rows[:6]}) < 6
    theirs = losses.CoSENTLoss(None)
    scores = torch.tensor([one["score"] for one in SCORED])
    with torch.no_grad():
        term = task.loss(model, task.collate(rows)).terms["loss"]
        expected = sum(
            float(
                theirs.compute_loss_from_embeddings(
                    columns(task, model, rows[at : at + 6]), scores[at : at + 6]
                )
            )
            for at in (0, 6)
        )
    assert term.count == 2
    assert float(term.sum) == pytest.approx(expected, rel=1e-12)


def test_cosine_is_the_squared_error_of_the_cosine(folders: dict[str, Path]) -> None:
    """As CosineSimilarityLoss, whose scores go from 0 to 1."""
    task = made(folders["bert"], loss="cosine", score_range=[1, 5])
    model = model_of(task)
    given = [{**one, "score": 1 + 4 * one["score"]} for one in SCORED]
    rows = rows_of(task, given)
    with torch.no_grad():
        term = task.loss(model, task.collate(rows)).terms["loss"]
        cosines = pairwise_cos_sim(*columns(task, model, rows))
    scores = torch.tensor([one["score"] for one in SCORED], dtype=torch.float64)
    expected = torch.nn.MSELoss()(cosines, scores)
    assert float(term.sum) / term.count == pytest.approx(float(expected), rel=1e-6)


def test_a_partner_that_stands_twice_in_a_group_is_no_negative(folders: dict[str, Path]) -> None:
    """Two records with the same partner, or one record twice, do not push it away."""
    x_GNCD = torch.nn.functional.normalize(torch.randn(1, 3, 2, 8, dtype=torch.float64), dim=-1)
    x_GNCD[0, 2, 1] = x_GNCD[0, 0, 1]
    texts = torch.tensor([[[0, 1], [2, 3], [4, 1]]])
    logits_NN = x_GNCD[0, :, 0] @ x_GNCD[0, :, 1].T * 5
    first, second, third = logits_NN
    expected = sum(
        math.log(sum(math.exp(one) for one in others)) - own
        for own, others in (
            (float(first[0]), [float(first[0]), float(first[1])]),
            (float(second[1]), second.tolist()),
            (float(third[2]), [float(third[1]), float(third[2])]),
        )
    )
    assert float(mnrl(x_GNCD, texts, 5.0)) == pytest.approx(expected, rel=1e-12)
    task = made(folders["bert"])
    batch = task.collate(rows_of(task, [PAIRS[0], PAIRS[1], {**PAIRS[2], "positive": PAIRS[0]["positive"]}]))
    numbers = batch["text"].tolist()
    assert numbers[5] == numbers[1]
    assert len(set(numbers)) == 5


@pytest.mark.parametrize("name", ["mnrl", "cosent", "cosine"])
@pytest.mark.parametrize(("world", "micro"), [(1, 4), (2, 4), (1, 8)])
def test_layout_does_not_change_loss_and_gradient(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, world: int, micro: int
) -> None:
    """A group is never cut, whatever micro batches and ranks there are; float64 (law 2)."""
    task = made(folders["bert"], loss=name)
    model = model_of(task)
    rows = rows_of(task, PAIRS if name == "mnrl" else SCORED)

    def summed(world: int, micro: int) -> tuple[float, float, torch.Tensor]:
        model.zero_grad()
        loss = count = 0.0
        for rank in range(world):
            monkeypatch.setenv("WORLD_SIZE", str(world))
            monkeypatch.setenv("RANK", str(rank))
            for batch in next(iter(EpochBatches(task, rows, 3, 8, micro, 1))):
                term = task.loss(model, batch).terms["loss"]
                assert task.counts(batch) == {"loss": term.count}
                term.sum.backward()
                loss, count = loss + float(term.sum.detach()), count + term.count
        return loss, count, torch.cat([one.grad.flatten() for one in model.parameters()])

    whole, other = summed(1, 8), summed(world, micro)
    assert distributed.world().size == world
    assert other[:2] == (pytest.approx(whole[0], rel=1e-12), whole[1])
    torch.testing.assert_close(other[2], whole[2], rtol=1e-9, atol=1e-12)


def test_micro_batches_hold_whole_groups(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(
        '{"anchor": "a", "positive": "b", "sentence1": "a", "sentence2": "b", "score": 1}'
    )
    text = f"""\
name: one
model: {{path: {folders["bert"]}}}
task: {{type: embedding, group_size: 8, max_length: 32}}
data: {{type: jsonl, train: {tmp_path}/train.jsonl, validation_share: 0.5}}
optimizer: {{type: adamw, learning_rate: 0.001}}
train: {{steps: 2, global_batch_size: 24, micro_batch_size: 12}}
"""
    (tmp_path / "one.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"micro_batch_size: 12 = 1 x 8 \+ 4 cuts a group of 8 samples"):
        load(FinetuneConfig, tmp_path / "one.yaml", [])
    for loss in ("task.loss=cosine", "task.group_size=6"):
        load(FinetuneConfig, tmp_path / "one.yaml", [loss])


@pytest.mark.parametrize("family", ["bert", "own"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_loads_the_folder_and_embeds_alike(
    folders: dict[str, Path], tmp_path: Path, family: str, pooling: str
) -> None:
    """Padded batches, and texts that are cut; plain transformers loads the same model."""
    task = made(folders[family], pooling=pooling)
    model = task.build_model(task.path, from_scratch=False).model.eval()
    model.save_pretrained(tmp_path)
    task.save(tmp_path)
    texts = [*TEXTS[:5], SOURCE[:600]]
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    assert theirs.max_seq_length == 32
    again = restored(tmp_path)
    assert isinstance(again, Embedding)
    rows = [row for text in texts for row in again.encode({"text": text}, "predict")]
    with torch.no_grad():
        outputs = again.predict(model, again.collate(rows)).outputs
    found = [one["prediction"] for one in again.decide(texts, [[output] for output in outputs])]
    np.testing.assert_allclose(found, theirs.encode(texts), rtol=1e-4, atol=1e-6)
    assert np.linalg.norm(found[0]) == pytest.approx(1)
    plain = transformers.AutoModel.from_pretrained(tmp_path).eval()
    ids = torch.from_numpy(rows[0]["input_ids"])[None]
    with torch.no_grad():
        assert torch.equal(plain(ids).last_hidden_state, model(ids).last_hidden_state)


def test_every_parameter_trains_and_none_is_new(folders: dict[str, Path]) -> None:
    """BERT's pooler, which nothing reads, is gone: an engine waits for its gradient."""
    task = made(folders["bert"])
    start = task.build_model(task.path, from_scratch=False)
    assert (start.head, start.new) == ((), ())
    task.loss(start.model, task.collate(rows_of(task, PAIRS[:4]))).terms["loss"].sum.backward()
    assert all(one.grad is not None for one in start.model.parameters())


def test_scores_are_scipys_correlations(folders: dict[str, Path]) -> None:
    task = made(folders["bert"], loss="cosent")
    model = model_of(task)
    rows = [row for one in SCORED for row in task.encode(one, "evaluate")]
    with torch.no_grad():
        outputs = task.predict(model, task.collate(rows)).outputs
        cosines = pairwise_cos_sim(*columns(task, model, rows)).numpy()
    predictions = task.decide(SCORED, [[output] for output in outputs])
    np.testing.assert_allclose([one["prediction"] for one in predictions], cosines, rtol=1e-6)
    scores = [one["score"] for one in SCORED]
    assert task.score(SCORED, predictions) == {
        "spearman": pytest.approx(spearmanr(cosines, scores).statistic),
        "pearson": pytest.approx(pearsonr(cosines, scores).statistic),
    }


def test_retrieval_ranks_each_partner_among_those_of_the_split(folders: dict[str, Path]) -> None:
    """By hand: the second is found, the first comes after it, the third's text stands twice, nearly equal."""
    task = made(folders["bert"])
    records = [{"anchor": "x", "positive": name} for name in ("p", "q", "r", "r")]
    angles = [(0.0, 0.9), (0.5, 0.4), (2.0, 2.1), (3.0, 2.0999999)]
    outputs = [[np.array([[math.cos(at), math.sin(at)] for at in pair])] for pair in angles]
    predictions = task.decide(records, outputs)
    assert [(one["prediction"], one["rank"]) for one in predictions] == [
        ("q", 2),
        ("q", 1),
        ("r", 1),
        ("r", 1),
    ]
    assert task.score(records, predictions) == {"accuracy": 0.75, "mrr": 0.875}
    assert [task.judge(one, found) for one, found in zip(records, predictions, strict=True)] == [0.5, 1, 1, 1]
    assert task.shown(records[0]) == {"input": "x", "target": "p"}


def test_pairs_may_be_learned_from_and_scores_measured() -> None:
    config = EmbeddingConfig(loss="mnrl", evaluation="sts", negative_field="negative")
    usable(config, {"train": TRIPLETS, "validation": SCORED}, "error", Skips())
    assert config.fields("predict") == ["text"]


@pytest.mark.parametrize(
    ("keys", "record", "fault"),
    [
        ({}, {"anchor": "a"}, "has no field 'positive'"),
        ({"negative_field": "negative"}, PAIRS[0], "has no field 'negative'"),
        ({}, {"anchor": "a", "positive": " "}, "the field 'positive' is an empty text"),
        ({}, {"anchor": "a", "positive": ["b"]}, "the field 'positive' is no text"),
        ({"loss": "cosent"}, {**SCORED[0], "score": None}, "the field 'score' is null"),
        ({"loss": "cosent"}, {**SCORED[0], "score": math.nan}, "is no finite number"),
        ({"loss": "cosine"}, {**SCORED[0], "score": 3}, "3 is beyond task.score_range: it is [0, 1]"),
    ],
)
def test_a_record_that_cannot_be_learned_is_named(
    keys: dict[str, Any], record: dict[str, Any], fault: str
) -> None:
    config = EmbeddingConfig.model_validate(keys)
    assert fault in config.fault(record)
    with pytest.raises(DataError, match="train record 1"):
        usable(config, {"train": [record]}, "error", Skips())


def test_settings_that_nothing_reads_are_told() -> None:
    config = EmbeddingConfig(loss="cosine", negative_field="negative", score_range=(5, 0))
    assert [problem.key for problem in config.problems()] == ["score_range", "negative_field"]


def test_a_decoder_embeds_no_sentence(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="cannot be fine-tuned to embed sentences"):
        made(folders["gpt2"])


def test_cosent_of_equal_scores_is_nothing() -> None:
    assert float(cosent(torch.tensor([[0.1, 0.9]]), torch.tensor([[0.5, 0.5]]), 20.0)) == 0


CONFIG = """\
name: pairs
task: {type: embedding, group_size: 8, max_length: 32}
data: {type: jsonl, train: train.jsonl, validation: validation.jsonl, test: train.jsonl}
optimizer: {type: adamw, learning_rate: 1.0e-2}
schedule: {type: constant}
train: {steps: 80, global_batch_size: 16, micro_batch_size: 8, log_every: 10, eval_every: 20}
selection: {keep: best}
"""


@pytest.mark.slow
def test_an_encoder_learns_pairs_from_the_command_to_sentence_transformers(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """What `lumbre predict` writes is what sentence-transformers computes, and partners are found."""
    for split, part in (("train", PAIRS), ("validation", PAIRS[::2])):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    (tmp_path / "asked.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS[:3]))
    (tmp_path / "pairs.yaml").write_text(f"{CONFIG}model: {{path: {folders['bert']}}}\n")
    for arguments in (
        ("finetune", "pairs.yaml"),
        ("predict", "runs/pairs", "--input", "asked.jsonl", "--output", "embedded.jsonl"),
    ):
        command = [sys.executable, "-m", "lumbre.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/pairs"
    (row,) = json.loads((folder / "results.json").read_text())["rows"]
    assert row["split"] == "test"
    assert 0.5 < row["accuracy"] <= row["mrr"]
    embedded = [json.loads(line) for line in (tmp_path / "embedded.jsonl").read_text().splitlines()]
    theirs = SentenceTransformer(str(folder / "model"), device="cpu").encode(TEXTS[:3])
    np.testing.assert_allclose([one["prediction"] for one in embedded], theirs, rtol=1e-4, atol=1e-6)
    card = (folder / "model/README.md").read_text()
    assert "SentenceTransformer(" in card
