"""The prepared sets of a run, all in the tokens of one tokenizer."""

import sys

from lumbre.distributed import world
from lumbre.tokenizer import TokenizerConfig

from .config import DataConfig
from .preparation.prepare import prepare
from .preparation.vocabulary import train_tokenizer
from .shards import PreparedData


def prepare_sets(data: DataConfig, tokenizer: TokenizerConfig) -> dict[str, PreparedData]:
    """Return the sets by name, prepared now where that has not been done; a single corpus has the name "".

    A tokenizer that is trained learns from all sets, by their weights. Raises what `prepare` raises, and
    DataError where a set was prepared with another tokenizer.
    """
    if not data.mixture:
        return {"": prepare(data, tokenizer)}
    tokenizer = train_tokenizer(list(data.mixture.values()), data.largest_weights, tokenizer)
    sets = {}
    for name, one in data.mixture.items():
        if world().is_main:
            print(f"set {name}:", file=sys.stderr, flush=True)
        sets[name] = prepare(one, tokenizer)
    return sets
