"""Which tokens look at which: the attention weights of a run's model for one text, head by head.

Shapes: N heads, Q queries, T keys.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumbre.errors import LumbreError, ModelError
from lumbre.report.run import Run

if TYPE_CHECKING:
    from torch import Tensor

MOST_TOKENS = 48
SENTENCE = "The model reads this sentence, and each head looks at it in a way of its own."
FINEST = 65535
"""A weight of 1 on the page, where weights are numbers of two bytes."""


@dataclass(frozen=True)
class Maps:
    """The heads of one kind of attention."""

    title: str
    queries: list[str]
    """The tokens that look."""
    keys: list[str]
    """The tokens that are looked at."""
    layers: "list[Tensor]"
    """Each layer's weights [N, Q, T]; a row sums to 1."""

    def packed(self) -> dict[str, Any]:
        """Return the maps as the page reads them."""
        import torch

        stacked = torch.stack(self.layers).double()
        whole = (stacked * FINEST).round().cpu().numpy().astype("<u2")
        return {
            "title": self.title,
            "queries": self.queries,
            "keys": self.keys,
            "layers": len(self.layers),
            "heads": stacked.shape[1],
            "weights": base64.b64encode(whole.tobytes()).decode(),
        }


def sample_text(runs: Sequence[Run]) -> str:
    """Return the prompt of a run's latest sample, or a sentence where there is none."""
    for run in runs:
        for row in reversed(run.generations):
            for sample in row["samples"]:
                if sample.get("prompt"):
                    return str(sample["prompt"])
    return SENTENCE


def maps_of(run: Run, text: str) -> tuple[list[Maps], str]:
    """Return the maps of the run's model, and what the page says of them: why there are none, for one."""
    folder = run.folder / "model"
    if not (folder / "config.json").is_file():
        remedy = f"lumbre export {run.folder} --to {folder}"
        return [], f"{run.name} has no model folder yet; `{remedy}` makes one of its checkpoint"
    try:
        maps, cut = attention_maps(folder, text)
    except LumbreError as error:
        return [], str(error)
    return maps, f"the first {MOST_TOKENS} tokens of the text" if cut else ""


def attention_maps(folder: Path, text: str) -> tuple[list[Maps], bool]:
    """Run the text through a model folder; return its maps, and whether the text was cut to MOST_TOKENS.

    An encoder-decoder reads the text in both stacks. Raises ModelError where the folder holds no model of
    ours or no tokenizer.
    """
    import torch

    from lumbre import hub
    from lumbre.generate import read_tokenizer
    from lumbre.models import EncoderDecoder
    from lumbre.models.attention import recorded

    trunk = hub.load_trunk(folder).eval()
    try:
        tokenizer = read_tokenizer(folder)
    except ValueError as error:
        raise ModelError(f"{folder}: {error}; export the model again") from error
    ids = tokenizer(text)["input_ids"]
    limit = min(MOST_TOKENS, trunk.config.max_length or MOST_TOKENS)
    cut, ids = len(ids) > limit, ids[:limit]
    if not ids:
        raise ModelError(f"{folder}: the text has no tokens for it; give another by --attention")
    ids_BT = torch.tensor([ids])
    tokens = [_shown(tokenizer, one) for one in ids]
    with torch.no_grad(), recorded(trunk) as weights:
        if isinstance(trunk, EncoderDecoder):
            trunk(ids_BT, decoder_input_ids=ids_BT)
        else:
            trunk(ids_BT)
    kinds = {
        "Encoder": ("encoder.", ".attention"),
        "Decoder": ("decoder.", ".attention"),
        "Decoder to encoder": ("decoder.", ".cross_attention"),
    }
    if not isinstance(trunk, EncoderDecoder):
        kinds = {"Self-attention": ("", ".attention")}
    return [
        Maps(title, tokens, tokens, layers)
        for title, (start, end) in kinds.items()
        if (
            layers := [
                one[0] for name, one in weights.items() if name.startswith(start) and name.endswith(end)
            ]
        )
    ], cut


def _shown(tokenizer: Any, token: int) -> str:
    """Return a token so that what is white in it can be seen."""
    text: str = tokenizer.decode([token])
    return "".join("·" if one == " " else one if one.isprintable() else repr(one)[1:-1] for one in text)
