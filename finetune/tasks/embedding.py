"""Sentence embeddings: pooled, normalised states of an encoder (Reimers & Gurevych, 2019, arXiv:1908.10084).

Shapes: B batch of rows, S texts, T time, D hidden, C texts of a row, G groups, N rows of a group.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from lumbre.errors import Problem
from lumbre.files import write_json
from lumbre.trainer import Batch, LossOutput, Term

from ..data import Example
from ..metrics import classification, embedding
from ..pretrained import Kind, Start
from .base import Predicted, Prediction, Purpose, Row, Task, TaskConfig, at_least_float32, inputs, missing

Loss = Literal["mnrl", "cosent", "cosine"]
Evaluation = Literal["sts", "retrieval"]
METRICS: Mapping[Evaluation, tuple[str, ...]] = {
    "sts": ("spearman", "pearson"),
    "retrieval": ("accuracy", "mrr"),
}
MODULES = ("Transformer", "Pooling", "Normalize")
USAGE = """\
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("THIS FOLDER")
model.encode(["..."])"""


class EmbeddingConfig(TaskConfig):
    """Texts that mean the same near each other: learned from pairs, or from scores of how near they are."""

    kinds: ClassVar[tuple[Kind, ...]] = ("encoder",)

    type: Literal["embedding"] = "embedding"
    """The task's name."""
    loss: Loss = "mnrl"
    """mnrl: a text's partner among those of its group (Henderson et al., 2017, arXiv:1705.00652); cosent:
    pairs of the group in the order of their scores; cosine: squared error of a pair's cosine."""
    evaluation: Evaluation | None = None
    """sts: correlation of cosines with scores; retrieval: each pair's partner among those of the split.
    Left out, retrieval for mnrl, else sts."""
    anchor_field: str = "anchor"
    """The field of a pair that holds the text that asks."""
    positive_field: str = "positive"
    """The field of a pair that holds its partner."""
    negative_field: str | None = None
    """The field that holds a text that is near but no partner."""
    first_field: str = "sentence1"
    """The field of a scored pair that holds the first text."""
    second_field: str = "sentence2"
    """The field of a scored pair that holds the second text."""
    score_field: str = "score"
    """The field of a scored pair that holds how near its texts are."""
    score_range: tuple[float, float] = (0.0, 1.0)
    """The lowest and the highest score, which the loss cosine takes for cosines 0 and 1."""
    text_field: str = "text"
    """The field of a record that is to be embedded by `lumbre predict`."""
    pooling: Literal["mean", "cls"] = "mean"
    """What stands for a text: the mean of its tokens' states, or its first token's."""
    scale: PositiveFloat = 20.0
    """What cosines are multiplied by, 1 / temperature, in mnrl and cosent."""
    group_size: PositiveInt = Field(32, ge=2)
    """Records whose texts mnrl and cosent compare; train.micro_batch_size is a multiple of it."""

    @property
    def unit(self) -> int:
        """Records of a group."""
        return 1 if self.loss == "cosine" else self.group_size

    @property
    def evaluated(self) -> Evaluation:
        """How the validation and test splits are measured."""
        return self.evaluation or ("retrieval" if self.loss == "mnrl" else "sts")

    def problems(self) -> Iterator[Problem]:
        """Report a range without extent, and a negative that no loss reads."""
        low, high = self.score_range
        if not -math.inf < low < high < math.inf:
            yield Problem("score_range", f"[{low:g}, {high:g}] has no extent", "give the lowest score first")
        if self.negative_field is not None and self.loss != "mnrl":
            yield Problem("negative_field", f"the loss {self.loss} has no such thing", "leave it out")

    def scored(self, purpose: Purpose) -> bool:
        """Return whether records have scores, instead of being pairs that belong together."""
        return self.loss != "mnrl" if purpose == "train" else self.evaluated == "sts"

    def fields(self, purpose: Purpose) -> list[str]:
        """Return the fields of a record's texts."""
        if purpose == "predict":
            return [self.text_field]
        if self.scored(purpose):
            return [self.first_field, self.second_field]
        negative = purpose == "train" and self.negative_field is not None
        return [self.anchor_field, self.positive_field, *([str(self.negative_field)] if negative else [])]

    @property
    def measures(self) -> tuple[str, ...]:
        """Every metric that an evaluation may have."""
        return METRICS[self.evaluated]

    def fault(self, example: Example, purpose: Purpose = "train") -> str:
        """Return which field a record lacks, that a text is empty, or a score is none."""
        names = self.fields(purpose)
        scored = purpose != "predict" and self.scored(purpose)
        if fault := missing(example, [*names, self.score_field] if scored else names):
            return fault
        for name in names:
            if not isinstance(example[name], str):
                return f"the field {name!r} is no text: {example[name]!r}"
            if not example[name].strip():
                return f"the field {name!r} is an empty text"
        if not scored:
            return ""
        score, (low, high) = example[self.score_field], self.score_range
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            return f"the score {score!r} is no finite number"
        if self.loss == "cosine" and purpose == "train" and not low <= score <= high:
            return f"the score {score:g} is beyond task.score_range: it is [{low:g}, {high:g}]"
        return ""

    def build(self, path: str, state: Mapping[str, Any]) -> "Embedding":
        """Return the task; raises ModelError where the folder has no tokenizer."""
        return Embedding(self, path, state)


class Embedding(Task):
    """An encoder without a head, its pooled states normalised; the loss by groups of consecutive samples."""

    purpose = "to embed sentences"
    pipeline = "feature-extraction"
    config: EmbeddingConfig

    def __init__(self, config: EmbeddingConfig, path: str, state: Mapping[str, Any]) -> None:
        super().__init__(config, path, state)
        self.config = config
        self.metrics = METRICS[config.evaluated]
        self.usage = USAGE

    def auto_class(self) -> Any:
        """Return the Auto class of models without a head."""
        from transformers import AutoModel

        return AutoModel

    def build_model(self, path: str, **keys: Any) -> Start:
        """Return the model without BERT's pooler, which nothing here reads and so nothing would train."""
        start = super().build_model(path, **keys)
        model: Any = start.model
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
        head, new = (
            tuple(name for name in names if not name.startswith("pooler."))
            for names in (start.head, start.new)
        )
        return replace(start, head=head, new=new)

    def encode(self, example: Example, purpose: Purpose = "train") -> Sequence[Row]:
        """Return input_ids [T], the texts one behind the other, their lengths [C], and the score [1]."""
        texts = [example[name] for name in self.config.fields(purpose)]
        encoded = self.tokenizer(texts, truncation=True, max_length=self.config.max_length)["input_ids"]
        row = {
            "input_ids": np.asarray([token for ids in encoded for token in ids], dtype=np.int64),
            "lengths": np.asarray([len(ids) for ids in encoded], dtype=np.int64),
        }
        if purpose == "train" and self.config.scored(purpose):
            row["score"] = np.asarray([example[self.config.score_field]], dtype=np.float32)
        return [row]

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Return input_ids and attention_mask [S, T] of all rows' texts, row by row, and scores [B].

        `columns` [B] has how many texts each row has; `text` [S] the same number for the same text.
        """
        texts = [
            {"input_ids": ids}
            for row in rows
            for ids in np.split(row["input_ids"], np.cumsum(row["lengths"])[:-1])
        ]
        batch = inputs(texts, self.tokenizer.pad_token_id)
        batch["columns"] = torch.tensor([len(row["lengths"]) for row in rows])
        batch["text"] = torch.unique(batch["input_ids"], dim=0, return_inverse=True)[1]
        if "score" in rows[0]:
            batch["scores"] = torch.from_numpy(np.concatenate([row["score"] for row in rows]))
        return batch

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of rows; with cosent, which compares those of a group, of groups."""
        rows = len(batch["columns"])
        return {"loss": float(rows // self.unit if self.config.loss == "cosent" else rows)}

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Return the loss summed over rows or groups."""
        x_SD = self.embed(model, batch)
        x_GNCD = x_SD.view(-1, self.unit, len(x_SD) // len(batch["columns"]), x_SD.shape[-1])
        if self.config.loss == "mnrl":
            total = mnrl(x_GNCD, batch["text"].view(x_GNCD.shape[:3]), self.config.scale)
        else:
            cosines_GN = (x_GNCD[:, :, 0] * x_GNCD[:, :, 1]).sum(-1)
            scores_GN = batch["scores"].to(cosines_GN.dtype).view(cosines_GN.shape)
            if self.config.loss == "cosent":
                total = cosent(cosines_GN, scores_GN, self.config.scale)
            else:
                low, high = self.config.score_range
                total = F.mse_loss(cosines_GN, (scores_GN - low) / (high - low), reduction="sum")
        return LossOutput({"loss": Term(total, self.counts(batch)["loss"])})

    def embed(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the normalised embedding of each text [S, D]."""
        mask_ST = batch["attention_mask"]
        output = model(input_ids=batch["input_ids"], attention_mask=mask_ST)
        x_STD = at_least_float32(output.last_hidden_state)
        if self.config.pooling == "cls":
            x_SD = x_STD[:, 0]
        else:
            weights_ST1 = mask_ST[..., None].to(x_STD.dtype)
            x_SD = (x_STD * weights_ST1).sum(1) / weights_ST1.sum(1)
        return F.normalize(x_SD, dim=-1)

    def predict(self, model: nn.Module, batch: Batch) -> Predicted:
        """Return the embeddings of each row's texts [C, D]; no loss, which is one of groups in training."""
        x_SD = self.embed(model, batch).cpu().numpy()
        return Predicted(np.split(x_SD, np.cumsum(batch["columns"].tolist())[:-1]))

    def decide(self, examples: Sequence[Example], outputs: Sequence[Sequence[Any]]) -> list[Prediction]:
        """Return a pair's cosine, the partner found and the rank of the right one, or an embedding."""
        found = [rows[0] for rows in outputs]
        if all(len(x_CD) == 1 for x_CD in found):
            return [{"prediction": x_CD[0].tolist()} for x_CD in found]
        x_NCD = np.stack(found).astype(np.float64)
        cosines = (x_NCD[:, 0] * x_NCD[:, 1]).sum(-1).tolist()
        if self.config.evaluated == "sts":
            return [{"prediction": cosine} for cosine in cosines]
        partners = [one[self.config.positive_field] for one in examples]
        nearest, ranks = embedding.nearest(x_NCD[:, 0], x_NCD[:, 1], partners)
        return [
            {"prediction": partners[at], "rank": int(rank), "cosine": cosine}
            for at, rank, cosine in zip(nearest, ranks, cosines, strict=True)
        ]

    def score(self, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return Spearman's and Pearson's correlation, or accuracy and mean reciprocal rank."""
        if self.config.evaluated == "retrieval":
            return embedding.retrieval(np.array([one["rank"] for one in predictions]))
        cosines = np.array([one["prediction"] for one in predictions])
        scores = np.array([float(one[self.config.score_field]) for one in examples])
        found = classification.regression(cosines, scores)
        return {name: found[name] for name in self.metrics}

    def shown(self, example: Example) -> dict[str, Any]:
        """Return the text; a pair's texts and score, or the text that asks and its partner."""
        config = self.config
        if config.evaluated == "sts" and config.first_field in example:
            texts = [example[config.first_field], example.get(config.second_field)]
            return {"input": texts, "target": example.get(config.score_field)}
        if config.evaluated == "retrieval" and config.anchor_field in example:
            return {"input": example[config.anchor_field], "target": example.get(config.positive_field)}
        return {"input": example[config.text_field]}

    def judge(self, example: Example, prediction: Prediction) -> float | None:
        """Return the reciprocal rank of the right partner; None for a cosine, which is right among others."""
        return 1 / prediction["rank"] if "rank" in prediction else None

    def save(self, folder: Path) -> None:
        """Write the task, and what sentence-transformers of any version loads the folder by."""
        super().save(folder)
        places = ("", "1_Pooling", "2_Normalize")
        modules = [
            {"idx": at, "name": str(at), "path": place, "type": f"sentence_transformers.models.{name}"}
            for at, (place, name) in enumerate(zip(places, MODULES, strict=True))
        ]
        write_json(folder / "modules.json", modules)
        write_json(
            folder / "sentence_bert_config.json",
            {"max_seq_length": self.config.max_length, "do_lower_case": False},
        )
        pooling = {
            "word_embedding_dimension": self.model_config.hidden_size,
            "pooling_mode_cls_token": self.config.pooling == "cls",
            "pooling_mode_mean_tokens": self.config.pooling == "mean",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        }
        for place in places[1:]:
            (folder / place).mkdir(exist_ok=True)
        write_json(folder / "1_Pooling" / "config.json", pooling)


def mnrl(x_GNCD: torch.Tensor, text_GNC: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the cross-entropy, summed over rows, of a row's own partner among all texts of its group.

    The candidates of [anchor, partner, negative ...] are all but the anchors. One that is the partner's very
    text is no negative.
    """
    groups, rows, columns, width = x_GNCD.shape
    candidates_GMD = x_GNCD[:, :, 1:].transpose(1, 2).reshape(groups, (columns - 1) * rows, width)
    text_GM = text_GNC[:, :, 1:].transpose(1, 2).reshape(groups, -1)
    logits_GNM = x_GNCD[:, :, 0] @ candidates_GMD.transpose(1, 2) * scale
    own_NM = torch.eye(rows, text_GM.shape[1], dtype=torch.bool, device=logits_GNM.device)
    same_GNM = (text_GNC[:, :, 1, None] == text_GM[:, None]) & ~own_NM
    logits_GNM = logits_GNM.masked_fill(same_GNM, -math.inf)
    own = torch.arange(rows, device=logits_GNM.device).repeat(groups)
    return F.cross_entropy(logits_GNM.flatten(0, 1), own, reduction="sum")


def cosent(cosines_GN: torch.Tensor, scores_GN: torch.Tensor, scale: float) -> torch.Tensor:
    """Return log(1 + the sum of exp(scale (cosine - that of a pair with a higher score))), over groups.

    CoSENT (Huang et al., 2024, 10.1109/TASLP.2024.3402087).
    """
    gaps_GNN = scale * (cosines_GN[:, :, None] - cosines_GN[:, None])
    lower_GNN = scores_GN[:, :, None] < scores_GN[:, None]
    gaps_GM = gaps_GNN.masked_fill(~lower_GNN, -math.inf).flatten(1)
    return torch.logsumexp(F.pad(gaps_GM, (1, 0)), dim=1).sum()
