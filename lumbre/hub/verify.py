"""Proof of an export: what plain transformers computes from the folder is what our model computes.

Shapes: B batch, T time, V vocabulary, M compared positions.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumbre.errors import ModelError
from lumbre.hub.auto import LUMBRE, adapter_named, read_config
from lumbre.hub.card import auto_class
from lumbre.models import LanguageModel

TOLERANCE = 1e-5
SHORT = 16
LONGEST = 2048
UNLIMITED = 512
"""Length of the long sequences where the positions have no limit."""

Forward = Callable[[Tensor, Tensor], Tensor]
"""Maps input_ids and attention_mask to logits_BTV."""


@torch.no_grad()
def verify_export(model: LanguageModel, folder: str | Path, seed: int = 0) -> float:
    """Return the largest difference of float32 logits between the model and the folder's.

    The folder is loaded by plain transformers (a `lumbre` folder through the classes that Lumbre registers)
    and given random tokens, short and of full length, padded and not; padded positions are not compared.
    Documents packed into one row of ours are compared with theirs one by one. An encoder-decoder's decoder
    is given half as many tokens. Raises ModelError when the difference is above
    1e-5 x max(1, largest |logit|), or above twice our own float32's error where rounding alone is coarser.
    """
    folder = Path(folder)
    theirs = _theirs(folder, model)
    ours = deepcopy(model).to("cpu", torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    limit = min(model.config.max_length or UNLIMITED, LONGEST)
    for length in sorted({min(SHORT, limit), limit}):
        # One row where it is long: the logits of a large vocabulary are what takes the memory.
        input_ids = _tokens(model, folder, 2 if length <= SHORT else 1, length, generator)
        padded = torch.ones_like(input_ids)
        padded[-1, (length + 1) // 2 :] = 0
        for attention_mask in (torch.ones_like(input_ids), padded):
            wanted, found = _ours(ours, input_ids, attention_mask), theirs(input_ids, attention_mask)
            exact = partial(_exact, ours, input_ids, attention_mask)
            if not model.config.num_decoder_layers:
                kept = attention_mask.bool()
                wanted, found = wanted[kept], found[kept]
                exact = partial(_exact, ours, input_ids, attention_mask, kept)
            worst = max(worst, _compare(folder, length, wanted, found, exact))
        worst = max(worst, _compare_packed(folder, ours, theirs, input_ids[:1]))
    return worst


def _compare_packed(folder: Path, ours: LanguageModel, theirs: Forward, input_ids: Tensor) -> float:
    """Compare three documents in one row of ours with each alone in theirs."""
    T = input_ids.shape[1]
    if T < 3:
        return 0.0
    cuts = [T // 2, T // 3, T - T // 2 - T // 3]
    document_ids = torch.arange(1, 4).repeat_interleave(torch.tensor(cuts))[None].int()
    packed = {"document_ids": document_ids}
    if ours.config.num_decoder_layers:
        packed |= {"decoder_input_ids": input_ids, "decoder_document_ids": document_ids}
    wanted = torch.split(ours(input_ids, **packed).logits[0], cuts)
    worst = 0.0
    for part, logits in zip(torch.split(input_ids, cuts, dim=1), wanted, strict=True):
        whole = torch.ones_like(part)
        found = theirs(part, whole)[0]
        # Theirs decodes half of what it reads: causal, so that the rest does not matter.
        exact = partial(_exact, ours, part, whole, 0)
        worst = max(worst, _compare(folder, part.shape[1], logits[: len(found)], found, exact))
    return worst


def _compare(folder: Path, length: int, wanted: Tensor, found: Tensor, exact: Callable[[], Tensor]) -> float:
    difference = (wanted - found).abs().max().item()
    bound = TOLERANCE * max(1.0, wanted.abs().max().item())
    if not difference <= bound:
        # Large scores in attention: both may be right, and float32 too coarse to agree closer.
        bound = max(bound, 2 * (exact() - wanted).abs().max().item())
    if not difference <= bound:
        raise ModelError(
            f"{folder}: the exported model computes other logits than the one that was saved: they "
            f"differ by {difference:.2g} on {length} tokens, {bound:.2g} is allowed; export it again"
        )
    return difference


def _tokens(model: LanguageModel, folder: Path, rows: int, length: int, generator: torch.Generator) -> Tensor:
    """Return random tokens, none of which is padding: some families derive positions from it."""
    assert model.config.vocab_size is not None
    input_ids = torch.randint(model.config.vocab_size, (rows, length), generator=generator)
    pad_id = read_config(folder).get("pad_token_id")
    other = (input_ids + 1) % model.config.vocab_size
    return input_ids if pad_id is None else torch.where(input_ids == pad_id, other, input_ids)


def _decoder_ids(input_ids: Tensor) -> Tensor:
    return input_ids[:, : max(1, input_ids.shape[1] // 2)]


def _ours(model: LanguageModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    others = {"decoder_input_ids": _decoder_ids(input_ids)} if model.config.num_decoder_layers else {}
    logits: Tensor = model(input_ids, attention_mask, **others).logits
    return logits


def _exact(model: LanguageModel, input_ids: Tensor, attention_mask: Tensor, at: Any = slice(None)) -> Tensor:
    """Return our logits computed in float64."""
    return _ours(deepcopy(model).double(), input_ids, attention_mask)[at]


def _theirs(folder: Path, model: LanguageModel) -> Forward:
    import transformers

    kind = read_config(folder)["model_type"]
    name = auto_class(model.config) if kind == LUMBRE else adapter_named(folder, kind).auto_class
    with _quiet():
        theirs, info = getattr(transformers, name).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[what]:
            raise ModelError(
                f"{folder}: transformers finds {what.replace('_', ' ')}: {sorted(info[what])[:5]}"
            )
    theirs.eval()

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        others = {"decoder_input_ids": _decoder_ids(input_ids)} if model.config.num_decoder_layers else {}
        logits: Tensor = theirs(input_ids=input_ids, attention_mask=attention_mask, **others).logits
        return logits

    return forward


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
