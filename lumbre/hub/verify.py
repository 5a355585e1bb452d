"""Proof of an export: what plain transformers computes from the folder is what our model computes.

Shapes: B batch, T time, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumbre.errors import ModelError
from lumbre.hub.auto import LUMBRE, adapter_named, read_config
from lumbre.hub.base import Model
from lumbre.hub.card import auto_class
from lumbre.hub.filling import lend
from lumbre.models import Detector

TOLERANCE = 1e-5
SHORT = 16
LONGEST = 2048
UNLIMITED = 512
"""Length of the long sequences where the positions have no limit."""

Inputs = dict[str, Tensor]
Forward = Callable[[Inputs], list[Tensor]]
"""Maps a model's inputs to what it returns: logits, by token or by row."""


@torch.no_grad()
def verify_export(
    model: Model, folder: str | Path, seed: int = 0, weights: Mapping[str, Tensor] | None = None
) -> float:
    """Return the largest difference of float32 logits, of each head, between the model and the folder's.

    The folder is loaded by plain transformers (a `lumbre` folder through the classes that Lumbre registers)
    and given random tokens, short and of full length, padded and not; padded positions are not compared.
    Where there are several token types, tokens have random ones. A model without a head there is compared by
    its last hidden states. Documents packed into one row of ours are compared with theirs one by one. An
    encoder-decoder's decoder is given half as many tokens. Raises ModelError when the difference is above
    1e-5 x max(1, largest |logit|), or above twice our own float32's error where rounding alone is coarser.

    A model on the meta device is given `weights`, by its names, block by block; the folder's files are
    mapped: neither model is in memory whole.
    """
    folder = Path(folder)
    outputs, theirs = _theirs(folder, model)
    ours = deepcopy(model)
    if weights is None:
        ours = ours.to("cpu")
    else:
        lend(ours, weights)
    ours = ours.float().eval()
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    limit = min(model.config.max_length or UNLIMITED, LONGEST)
    for length in sorted({min(SHORT, limit), limit}):
        # One row where it is long: the logits of a large vocabulary are what takes the memory.
        whole = _inputs(model, folder, 2 if length <= SHORT else 1, length, generator)
        padded = whole["attention_mask"].clone()
        padded[-1, (length + 1) // 2 :] = 0
        for inputs in (whole, {**whole, "attention_mask": padded}):
            kept = None if model.config.num_decoder_layers else inputs["attention_mask"].bool()
            run = partial(_run, outputs=outputs, kept=kept)
            for number, (wanted, found) in enumerate(
                zip(run(ours, inputs), _kept(theirs(inputs), kept), strict=True)
            ):
                exact = partial(_exact, run, ours, inputs, number)
                worst = max(worst, _compare(folder, length, wanted, found, exact))
        worst = max(worst, _compare_packed(folder, ours, outputs[0], theirs, whole))
    return worst


def _compare_packed(folder: Path, ours: Model, output: str, theirs: Forward, inputs: Inputs) -> float:
    """Compare three documents in one row of ours with each alone in theirs."""
    row: Inputs = {name: inputs[name][:1] for name in ("input_ids", "token_type_ids") if name in inputs}
    T = row["input_ids"].shape[1]
    if T < 3:
        return 0.0
    cuts = [T // 2, T // 3, T - T // 2 - T // 3]
    document_ids = torch.arange(1, 4).repeat_interleave(torch.tensor(cuts))[None].int()
    packed = {**row, "document_ids": document_ids}
    if ours.config.num_decoder_layers:
        packed |= {"decoder_input_ids": row["input_ids"], "decoder_document_ids": document_ids}
    wanted = torch.split(getattr(ours(**packed), output)[0], cuts)
    worst = 0.0
    for number, logits in enumerate(wanted):
        part = {name: torch.split(tensor, cuts, dim=1)[number] for name, tensor in row.items()}
        part["attention_mask"] = torch.ones_like(part["input_ids"])
        if ours.config.num_decoder_layers:
            part["decoder_input_ids"] = _half(part["input_ids"])
        found = theirs(part)[0][0]
        # Theirs decodes half of what it reads: causal, so that the rest does not matter.
        exact = partial(_exact, partial(_run, outputs=[output], kept=None), ours, part, 0, 0)
        worst = max(worst, _compare(folder, cuts[number], logits[: len(found)], found, exact))
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


def _inputs(model: Model, folder: Path, rows: int, length: int, generator: torch.Generator) -> Inputs:
    """Return random tokens, none of which is padding: some families derive positions from it."""
    assert model.config.vocab_size is not None
    input_ids = torch.randint(model.config.vocab_size, (rows, length), generator=generator)
    pad_id = read_config(folder).get("pad_token_id")
    other = (input_ids + 1) % model.config.vocab_size
    input_ids = input_ids if pad_id is None else torch.where(input_ids == pad_id, other, input_ids)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    if model.config.num_decoder_layers:
        inputs["decoder_input_ids"] = _half(input_ids)
    if model.config.token_types > 1:
        inputs["token_type_ids"] = torch.randint(
            model.config.token_types, input_ids.shape, generator=generator
        )
    return inputs


def _half(input_ids: Tensor) -> Tensor:
    return input_ids[:, : max(1, input_ids.shape[1] // 2)]


def _run(model: Model, inputs: Inputs, outputs: list[str], kept: Tensor | None) -> list[Tensor]:
    """Return what our model computes, of tokens those that are kept."""
    output = model(**inputs)
    return _kept([getattr(output, name) for name in outputs], kept)


def _kept(outputs: list[Tensor], kept: Tensor | None) -> list[Tensor]:
    if kept is None:
        return outputs
    return [output[kept] if output.shape[:2] == kept.shape else output for output in outputs]


def _exact(
    run: Callable[[Model, Inputs], list[Tensor]], model: Model, inputs: Inputs, number: int, at: Any = ...
) -> Tensor:
    """Return one of our outputs computed in float64."""
    return run(deepcopy(model).double(), inputs)[number][at]


def _theirs(folder: Path, model: Model) -> tuple[list[str], Forward]:
    """Return what is compared by our names, and their model."""
    import transformers

    kind = read_config(folder)["model_type"]
    outputs: Mapping[str, str]
    if kind == LUMBRE:
        name = auto_class(model)
        compared = "last_hidden_state" if isinstance(model, Detector) else "logits"
        outputs = {compared: compared}
    else:
        adapter = adapter_named(folder, kind, type(model))
        name, outputs = adapter.auto_class, adapter.outputs
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

    def forward(inputs: Inputs) -> list[Tensor]:
        output = theirs(**inputs)
        return [getattr(output, name) for name in outputs.values()]

    return list(outputs), forward


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
