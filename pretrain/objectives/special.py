"""Special tokens that an objective's config names."""

from collections.abc import Iterator, Sequence

from lumbre.errors import Problem, TokenizerError
from lumbre.tokenizer import FileTokenizerConfig, Tokenizer, TokenizerConfig, TrainedConfig
from lumbre.tokenizer.base import USUAL_NAMES, usual_roles


def missing(objective: str, names: Sequence[str], tokenizer: TrainedConfig) -> Iterator[Problem]:
    """Yield the names that the tokenizer will not have once it is trained."""
    absent = [name for name in names if name not in tokenizer.special_names]
    if absent:
        fault = f"objective {objective} needs {', '.join(absent)}"
        yield Problem("tokenizer.special_tokens", fault, f"add [{', '.join(map(repr, absent))}]")


def lacking_roles(objective: str, roles: Sequence[str], tokenizer: TokenizerConfig) -> Iterator[Problem]:
    """Yield the roles of special tokens that the tokenizer does not have, or will not once it is trained."""
    if isinstance(tokenizer, TrainedConfig):
        found = usual_roles(tokenizer.roles, tokenizer.special_tokens)
        remedy = "use wordpiece"
    elif isinstance(tokenizer, FileTokenizerConfig):
        try:
            found = tokenizer.build([]).specials
        except TokenizerError:
            return
        remedy = "use another, or train one with tokenizer.type=wordpiece"
    else:
        return
    absent = [USUAL_NAMES[role][0] for role in roles if role not in found]
    if absent:
        fault = f"objective {objective} needs {', '.join(absent)}, and {tokenizer.type} has none"
        yield Problem("tokenizer.type", fault, remedy)


def special_id(objective: str, name: str, tokenizer: Tokenizer) -> int:
    """Return the id of a special token; raises TokenizerError where there is none of that name."""
    number = tokenizer.backend.token_to_id(name)
    if number is None or number not in tokenizer.special_ids:
        raise TokenizerError(
            f"objective {objective}: the tokenizer has no special token {name}; train one with it in "
            "tokenizer.special_tokens, or name another"
        )
    return number
