"""One evaluation for the models of both sides, outside the clock: the mean loss of a target, in nats.

Shapes: R rows, T tokens of a row, V vocabulary.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers

ROWS_AT_ONCE = 32
NO_TARGET = -100
Logits = Callable[[torch.Tensor], torch.Tensor]
"""From tokens [R, T] to logits [R, T, V]."""


def mean_loss(model: Logits, inputs_RT: np.ndarray, labels_RT: np.ndarray) -> float:
    """Return the mean cross-entropy of the labels that are targets; labels stand where they are predicted."""
    total, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(inputs_RT), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            labels = torch.from_numpy(labels_RT[rows].astype(np.int64)).flatten()
            targets = labels != NO_TARGET
            logits = model(torch.from_numpy(inputs_RT[rows].astype(np.int64))).flatten(0, 1)[targets]
            total += float(F.cross_entropy(logits, labels[targets], reduction="sum"))
            count += int(targets.sum())
    return total / count


def windows(tokens: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all whole windows of `length` tokens, one after another, and of each token the next one."""
    count = (len(tokens) - 1) // length
    end = count * length
    return tokens[:end].reshape(count, length), tokens[1 : end + 1].reshape(count, length)


def masked(
    tokens: np.ndarray, length: int, mask_id: int, ordinary: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows with noise and their labels as BERT has them: of 15% of the ordinary tokens 80/10/10."""
    rows_RT = tokens[: len(tokens) // length * length].reshape(-1, length).astype(np.int64)
    chance = np.random.default_rng(seed)
    chosen_RT = (chance.random(rows_RT.shape) < 0.15) & np.isin(rows_RT, ordinary)
    fate_RT = chance.random(rows_RT.shape)
    other_RT = chance.choice(ordinary, rows_RT.shape)
    noisy_RT = np.where(fate_RT < 0.8, mask_id, np.where(fate_RT < 0.9, other_RT, rows_RT))
    return np.where(chosen_RT, noisy_RT, rows_RT), np.where(chosen_RT, rows_RT, NO_TARGET)


def unigram_loss(train: np.ndarray, labels_RT: np.ndarray, vocab_size: int) -> float:
    """Return what the frequencies of the training tokens alone lose on the targets."""
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    targets = labels_RT[labels_RT != NO_TARGET]
    return float(-np.log(counts / counts.sum())[targets].mean())


def saved_model(folder: Path, kind: str) -> Logits:
    """Return the model of a Hugging Face folder, kind "bert" or "gpt", for rows without padding."""
    classes = {"bert": transformers.AutoModelForMaskedLM, "gpt": transformers.AutoModelForCausalLM}
    model = classes[kind].from_pretrained(folder, dtype=torch.float32).eval()

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model(input_ids=tokens).logits
        return found

    return logits


def parameters(folder: Path, kind: str) -> int:
    """Return how many numbers a folder's model has, shared ones once."""
    classes = {"bert": transformers.AutoModelForMaskedLM, "gpt": transformers.AutoModelForCausalLM}
    return sum(one.numel() for one in classes[kind].from_pretrained(folder).parameters())
