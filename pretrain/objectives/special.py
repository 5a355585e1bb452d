"""Special tokens that an objective's config names."""

from collections.abc import Iterator, Sequence

from lumbre.errors import Problem, TokenizerError
from lumbre.tokenizer import Tokenizer, TrainedConfig


def missing(objective: str, names: Sequence[str], tokenizer: TrainedConfig) -> Iterator[Problem]:
    """Yield the names that the tokenizer will not have once it is trained."""
    absent = [name for name in names if name not in tokenizer.special_names]
    if absent:
        fault = f"objective {objective} needs {', '.join(absent)}"
        yield Problem("tokenizer.special_tokens", fault, f"add [{', '.join(map(repr, absent))}]")


def special_id(objective: str, name: str, tokenizer: Tokenizer) -> int:
    """Return the id of a special token; raises TokenizerError where there is none of that name."""
    number = tokenizer.backend.token_to_id(name)
    if number is None or number not in tokenizer.special_ids:
        raise TokenizerError(
            f"objective {objective}: the tokenizer has no special token {name}; train one with it in "
            "tokenizer.special_tokens, or name another"
        )
    return number
