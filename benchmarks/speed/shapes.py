"""What is trained: models of three families from small to large, and the config of a run of each."""

from dataclasses import dataclass, field
from typing import Any, Literal

Family = Literal["bert", "gpt", "t5"]
ENDLESS = 10**6
"""Steps of a run that is ended from outside."""


@dataclass(frozen=True)
class Shape:
    """A model and its batch."""

    family: Family
    base: str
    """The model of configs/model/ that it is a size of."""
    batch: int
    length: int
    sizes: dict[str, Any] = field(default_factory=dict)
    """Keys of the model that are not the base's."""
    by_character: bool = False
    """Whether each character is a token."""


MINI_T5 = {
    **{"hidden_size": 256, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4},
    "intermediate_size": 1024,
}
BESIDE_NANOGPT = {"vocab_size": 8192, "activation": "gelu"}
"""nanoGPT's GELU is exact, where GPT-2's own is an approximation that a CPU takes longer for."""
SHAPES: dict[str, Shape] = {
    "gpt-0.8m": Shape(
        **{"family": "gpt", "base": "gpt-tiny", "batch": 12, "length": 64, "by_character": True},
        sizes={"hidden_size": 128, "num_layers": 4, "num_heads": 4, **BESIDE_NANOGPT, "vocab_size": 65},
    ),
    "gpt-14m": Shape(
        *("gpt", "gpt-mini", 8, 256),
        {"hidden_size": 384, "num_layers": 6, "num_heads": 6, **BESIDE_NANOGPT},
    ),
    "gpt-30m": Shape(
        *("gpt", "gpt-mini", 8, 256),
        {"hidden_size": 512, "num_layers": 8, "num_heads": 8, **BESIDE_NANOGPT},
    ),
    "gpt2": Shape("gpt", "gpt2", 4, 1024),
    "gpt2-medium": Shape("gpt", "gpt2-medium", 4, 1024),
    "gpt-1.3b": Shape("gpt", "gpt2", 4, 1024, {"hidden_size": 2048, "num_layers": 24, "num_heads": 16}),
    "bert-4x256": Shape("bert", "bert-mini", 16, 128, {"vocab_size": 30522}),
    "bert-base": Shape("bert", "bert-base", 8, 128),
    "t5-mini": Shape("t5", "t5-small", 8, 128, MINI_T5),
    "t5-small": Shape("t5", "t5-small", 8, 128),
}
"""By name. gpt-0.8m is nanoGPT's CPU setting."""
CHARACTERS = "characters"
"""The folder of the tokenizer whose tokens are characters."""
PIECES = "pieces"
"""The folder of the given texts, cut into documents that are longer than a row; a BERT's are paragraphs."""
PACKAGES = ["asyncio", "email", "logging", "unittest"]
"""Of the standard library: text enough for some hundred steps."""
TOKENIZERS: dict[Family, dict[str, Any]] = {
    "gpt": {"type": "bpe", "vocab_size": 4096},
    "bert": {"type": "wordpiece", "vocab_size": 8192},
    "t5": {"type": "bpe", "vocab_size": 4096, "sentinels": 100},
}
"""The text decides what words there are, the model how many the head knows: a step takes the same time."""
OBJECTIVES: dict[Family, str] = {"gpt": "clm", "bert": "mlm", "t5": "span_corruption"}


def run_config(
    shape: Shape, *, batch: int, length: int, engine: dict[str, Any], texts: list[str], folder: str
) -> dict[str, Any]:
    """Return the config of `lumbre pretrain` that trains the shape, all else as users have it by default."""
    tokenizer = dict(TOKENIZERS[shape.family])
    if shape.by_character:
        tokenizer = {"type": "file", "path": f"{folder}/{CHARACTERS}"}
    model: dict[str, Any] = {"base": shape.base, **shape.sizes}
    if shape.family == "gpt":
        # nanoGPT has as many positions as a row has tokens.
        model["position"] = {"type": "learned", "max_length": length}
    source: dict[str, Any] = {"type": "text", "paths": texts, "documents": "paragraph"}
    if texts and shape.family != "bert":
        source = {"type": "text", "paths": [f"{folder}/{PIECES}"], "documents": "file"}
    if not texts:
        unit = "definition" if shape.family == "bert" else "module"
        source = {"type": "stdlib", "unit": unit, "hold_out": False, "packages": PACKAGES}
    return {
        "name": "run",
        "runs_folder": folder,
        "tokenizer": tokenizer,
        "data": {
            "sources": [source],
            "seq_length": length,
            "folder": f"{folder}/data",
            "validation_fraction": 0.02,
        },
        "model": model,
        "objective": {"type": OBJECTIVES[shape.family]},
        "optimizer": {"type": "adamw", "learning_rate": 1.0e-4, "weight_decay": 0.1},
        "train": {
            "steps": ENDLESS,
            "micro_batch_size": batch,
            "accumulation_steps": 1,
            # A run that waits for its turn would pass for one that hangs.
            "watchdog": {"enabled": False},
        },
        "engine": engine,
    }
