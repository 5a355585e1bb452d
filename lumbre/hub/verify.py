"""Proof of an export: what plain transformers computes from the folder is what our model computes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from lumbre.errors import ModelError
from lumbre.hub.auto import LUMBRE, adapter_named, load, read_config
from lumbre.models import LanguageModel

TOLERANCE = 1e-5
SHORT = 16
LONGEST = 2048
UNLIMITED = 512
"""Length of the long sequences where the positions have no limit."""


@torch.no_grad()
def verify_export(model: LanguageModel, folder: str | Path, seed: int = 0) -> float:
    """Return the largest difference of float32 logits between the model and the folder's.

    The folder is loaded by plain transformers (a `lumbre` folder by `load`) and given random tokens, short
    and of full length, padded and not; padded positions are not compared. Raises ModelError when the
    difference is above 1e-5 x max(1, largest |logit|).
    """
    folder = Path(folder)
    theirs = _forward(folder)
    ours = deepcopy(model).to("cpu", torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    assert model.config.vocab_size is not None
    worst = 0.0
    limit = min(model.config.max_length or UNLIMITED, LONGEST)
    for length in sorted({min(SHORT, limit), limit}):
        # One row where it is long: the logits of a large vocabulary are what takes the memory.
        rows = 2 if length <= SHORT else 1
        input_ids = torch.randint(model.config.vocab_size, (rows, length), generator=generator)
        padded = torch.ones_like(input_ids)
        padded[-1, (length + 1) // 2 :] = 0
        for attention_mask in (torch.ones_like(input_ids), padded):
            kept = attention_mask.bool()
            wanted = ours(input_ids=input_ids, attention_mask=attention_mask).logits[kept]
            found = theirs(input_ids, attention_mask)[kept]
            difference = (wanted - found).abs().max().item()
            bound = TOLERANCE * max(1.0, wanted.abs().max().item())
            if not difference <= bound:
                raise ModelError(
                    f"{folder}: the exported model computes other logits than the one that was saved: they "
                    f"differ by {difference:.2g} on {length} tokens, {bound:.2g} is allowed; export it again"
                )
            worst = max(worst, difference)
    return worst


def _forward(folder: Path) -> Callable[[Tensor, Tensor], Tensor]:
    model_type = read_config(folder)["model_type"]
    if model_type == LUMBRE:
        ours = load(folder).float().eval()
        return lambda input_ids, attention_mask: ours(input_ids, attention_mask=attention_mask).logits
    import transformers

    auto = getattr(transformers, adapter_named(folder, model_type).auto_class)
    with _quiet():
        theirs, info = auto.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[what]:
            raise ModelError(
                f"{folder}: transformers finds {what.replace('_', ' ')}: {sorted(info[what])[:5]}"
            )
    theirs.eval()

    def forward(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = theirs(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits

    return forward


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
