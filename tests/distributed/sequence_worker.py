"""One rank of a group that runs models on parts of rows, and on whole rows by itself, which is the reference.

Run by torchrun: sequence_worker.py FOLDER CASES_JSON. A case is what a model has beside SHAPE, `"model"`, and
how many ranks share a row, `"ranks"`; the groups of a world take the same rows, and are compared one by one.
With an `"objective"`, rows are its own, cut as in a run, and `counts` is how far targets and tokens differ.
Rank 0 writes FOLDER/results-WORLD.json: for each case, as the largest of any rank, the relative differences
of `loss` and `gradient`, as one vector, in float64, and by how much hidden states move when each row's first
document is edited: `edited` its own, `others` all else.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lumbre import distributed
from lumbre.distributed import Place
from lumbre.models import LanguageModel, Transformer, TransformerConfig
from lumbre.models.attention import SequenceParallel
from lumbre.tokenizer import Tokenizer, WordPieceConfig
from pretrain.data.loader_workers import stacked
from pretrain.data.parts import parts
from pretrain.objectives import ObjectiveConfig

VOCABULARY, ROWS, LENGTH, OBJECTIVE_LENGTH = 31, 3, 48, 64
SHAPE: dict[str, Any] = {
    "causal": False,
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 4,
    "position": {"type": "rotary"},
}
TEXT = ["The quick brown fox jumps over the lazy dog. Again and again it jumps, and again it rests. " * 20]
MODES = ("[R]", "[X]", "[S]", "<fim_prefix>", "<fim_middle>", "<fim_suffix>")
Batch = dict[str, Tensor]


def build(case: dict[str, Any]) -> LanguageModel:
    """Return the case's model, in which every parameter matters; the same on every rank."""
    torch.manual_seed(0)
    model = LanguageModel(TransformerConfig.model_validate({**SHAPE, **case["model"]}).build()).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    for trunk in trunks(model):
        trunk.attention_kernel = case.get("kernel", "auto")
        trunk.recompute = case.get("recompute", "none")
        if case.get("compile"):
            for block in trunk.blocks:
                block.compile()
    return model


def trunks(model: nn.Module) -> list[Transformer]:
    return [part for part in model.modules() if isinstance(part, Transformer)]


def batch_of(case: dict[str, Any]) -> Batch:
    """Return rows of several documents, of one document, and of one with padding; targets here and there."""
    chance = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=chance)
    time = torch.arange(LENGTH)
    documents = torch.stack([1 + (time >= 5) + (time >= 29), time * 0 + 1, (time < 20).long()]).int()
    wanted = (torch.rand((ROWS, LENGTH), generator=chance) < 0.4) & (documents != 0)
    # One rank in two has no target at all in some rows.
    wanted[1, : LENGTH // 2] = False
    batch = {"input_ids": ids, "document_ids": documents, "labels": torch.where(wanted, ids, -100)}
    if case.get("prefix"):
        batch["prefix_mask"] = time.expand(ROWS, -1) % 29 < 12
    if case["model"].get("num_decoder_layers"):
        batch |= {"decoder_input_ids": ids.flip(1), "decoder_document_ids": documents}
        # The two stacks' rows differ in length.
        batch |= {name: batch[name][:, :40] for name in ("input_ids", "document_ids")}
    if case.get("plain"):
        del batch["document_ids"]
    return batch


def cut(batch: Batch, sequence: SequenceParallel) -> Batch:
    return {name: sequence.part(row).clone() for name, row in batch.items()}


def learn(model: LanguageModel, batch: Batch, sequence: SequenceParallel) -> tuple[Tensor, Tensor]:
    """Return loss and gradient of this rank's part; what experts are asked is asked by every rank."""
    for trunk in trunks(model):
        trunk.sequence = sequence
    model.train().zero_grad()
    output = model(**cut(batch, sequence))
    loss = output.loss if output.balance is None else output.loss + 0.1 * output.balance / sequence.size
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def hidden(model: LanguageModel, batch: Batch, sequence: SequenceParallel) -> Tensor:
    inputs = {name: part for name, part in cut(batch, sequence).items() if name != "labels"}
    with torch.no_grad():
        return model.eval()(**inputs).last_hidden_state


def run(case: dict[str, Any], sequence: SequenceParallel, group: Any) -> dict[str, float]:
    """Return what the case comes to on this rank."""
    model, batch = build(case), batch_of(case)
    wanted_loss, wanted = learn(model, batch, SequenceParallel())
    loss, gradient = learn(model, batch, sequence)
    torch.distributed.all_reduce(loss, group=group)
    torch.distributed.all_reduce(gradient, group=group)
    found = {
        "loss": float((loss - wanted_loss).abs() / wanted_loss.abs()),
        "gradient": float((gradient - wanted).norm() / wanted.norm()),
    }
    if "document_ids" in batch and "decoder_input_ids" not in batch:
        first = batch["document_ids"] == 1
        other = torch.where(first, (batch["input_ids"] + 1) % VOCABULARY, batch["input_ids"])
        moved = hidden(model, {**batch, "input_ids": other}, sequence) - hidden(model, batch, sequence)
        first = sequence.part(first)
        found |= {"edited": float(moved[first].abs().sum()), "others": float(moved[~first].abs().sum())}
    return found


class Rows:
    """A split of rows of one to four documents each, with padding."""

    num_windows, num_rows, waste = 1, 4, 0.0

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids = tokenizer.encode_batch(TEXT)[0][:OBJECTIVE_LENGTH].astype(np.int64)

    def row(self, index: int) -> dict[str, np.ndarray]:
        time = np.arange(OBJECTIVE_LENGTH)
        documents = np.minimum(time // 16, index) + 1
        documents[OBJECTIVE_LENGTH - 6 :] = 0
        starts = np.maximum.accumulate(np.where(np.diff(documents, prepend=0) != 0, time, 0))
        ids = np.roll(self._ids, index)
        return {"input_ids": ids, "position_ids": time - starts, "document_ids": documents.astype(np.int32)}

    def document(self, index: int) -> int:
        return index


def run_objective(
    case: dict[str, Any], place: Place, sequence: SequenceParallel, group: Any
) -> dict[str, float]:
    """Return what an objective comes to on this rank, its terms weighted and divided by all ranks' counts."""
    torch.manual_seed(0)
    tokenizer = WordPieceConfig(vocab_size=640, sentinels=100, special_tokens=MODES).build(TEXT)
    objective = ObjectiveConfig.members[case["objective"]].model_validate(case["config"]).build(tokenizer, 1)
    shape = TransformerConfig.model_validate({**SHAPE, "vocab_size": None, **case["model"]})
    model = objective.attach_head(shape.build(tokenizer.vocab_size)).double()
    rows = Rows(tokenizer)
    counted: list[dict[str, float]] = []
    losses, gradients = [], []
    for own, its_place in ((SequenceParallel(), Place(0, 1)), (sequence, place)):
        for trunk in trunks(model):
            trunk.sequence = own
        sample = parts(lambda index: objective.sample(rows, index, index), its_place)
        batch = {
            name: torch.from_numpy(array) for name, array in stacked(sample, range(rows.num_rows)).items()
        }
        counts = {**objective.counts(batch), "tokens": float(objective.tokens(batch))}
        totals = torch.tensor(list(counts.values()), dtype=torch.float64)
        if own.size > 1:
            torch.distributed.all_reduce(totals, group=group)
        counted.append(dict(zip(counts, totals.tolist(), strict=True)))
        model.zero_grad()
        terms = objective.loss(model, batch).terms
        loss = torch.stack([term.sum * term.weight / counted[-1][name] for name, term in terms.items()]).sum()
        loss.backward()
        losses.append(loss.detach())
        gradients.append(
            torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
        )
    torch.distributed.all_reduce(losses[1], group=group)
    torch.distributed.all_reduce(gradients[1], group=group)
    return {
        "loss": float((losses[1] - losses[0]).abs() / losses[0].abs()),
        "gradient": float((gradients[1] - gradients[0]).norm() / gradients[0].norm()),
        "counts": max(abs(counted[1][name] - counted[0][name]) for name in counted[0]),
    }


def main(folder: Path, cases: dict[str, dict[str, Any]]) -> None:
    """Run every case in one session."""
    torch.set_num_threads(1)
    results: dict[str, dict[str, float]] = {}
    with distributed.session(1) as world:
        groups = {
            ranks: distributed.neighbours(ranks) for ranks in {case["ranks"] for case in cases.values()}
        }
        for name, case in cases.items():
            place, group = world.within_group(case["ranks"]), groups[case["ranks"]]
            sequence = SequenceParallel(place.index, place.count, group.group_name)
            if "objective" in case:
                found = run_objective(case, place, sequence, group)
            else:
                found = run(case, sequence, group)
            everyone = distributed.gather_objects(found)
            results[name] = {key: max(one[key] for one in everyone) for key in everyone[0]}
        if world.is_main:
            (folder / f"results-{world.size}.json").write_text(json.dumps(results))
        distributed.barrier()
    distributed.leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
