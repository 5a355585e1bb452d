"""The files that tokenizers are published in: tokenizer.json, BERT's, GPT-2's, RoBERTa's, SentencePiece's."""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, normalizers, processors

from lumbre.errors import Problem, TokenizerError

from .base import Tokenizer, read_json, said_roles, usual_roles
from .bpe import byte_level
from .wordpiece import WordPieceConfig, bert, frame

WHOLE = ("tokenizer.json",)
WORDPIECE = ("vocab.txt",)
SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""GPT-2's two files, as Hugging Face and as OpenAI names them."""
KNOWN = (WHOLE, WORDPIECE, *PAIRS, *((name,) for name in SENTENCEPIECE))
REMEDY = "name a tokenizer.json, vocab.txt, vocab.json, spiece.model, or a folder with one"
AGAIN = "copy or export the tokenizer again"


def find(path: Path) -> tuple[Path, ...] | Problem:
    """Return the files of the tokenizer at a file or folder, or what is missing there."""
    if not path.exists():
        return Problem("path", f"{path} does not exist", REMEDY)
    folder = path if path.is_dir() else path.parent
    for names in KNOWN:
        files = tuple(folder / name for name in names)
        if not any(file.is_file() for file in files) or not (path.is_dir() or path in files):
            continue
        missing = [file.name for file in files if not file.is_file()]
        if not missing:
            return files
        present = next(file.name for file in files if file.is_file())
        return Problem("path", f"{folder} holds {present} without {missing[0]}", "put it beside the other")
    if path.is_dir():
        return Problem("path", f"{path} holds no tokenizer", REMEDY)
    known = {".json", ".txt", ".model"}
    return (path,) if path.suffix in known else Problem("path", f"{path} is no known kind of file", REMEDY)


def is_wordpiece(files: tuple[Path, ...]) -> bool:
    """Whether the files are BERT's vocab.txt, which does not say whether text is lowercased."""
    return len(files) == 1 and files[0].suffix == ".txt"


def read(files: tuple[Path, ...], lowercase: bool | None) -> Tokenizer:
    """Return the tokenizer of the files; no code of theirs is run.

    Raises TokenizerError where they cannot be read.
    """
    first = files[0]
    if first.suffix == ".model":
        return _read_sentencepiece(first)
    try:
        if is_wordpiece(files):
            return _read_wordpiece(first, lowercase)
        return _read_pair(first, files[1]) if len(files) == 2 else Tokenizer.load(first)
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{first}: {error}; {AGAIN}") from error


def _read_wordpiece(file: Path, lowercase: bool | None) -> Tokenizer:
    said = read_json(file.parent / "tokenizer_config.json")
    lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    vocabulary = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    roles = WordPieceConfig.roles | said_roles(file.parent)
    absent = [token for token in roles.values() if token not in vocabulary]
    if absent:
        raise ValueError(f"it has no {absent[0]}")
    backend = bert(
        models.WordPiece(vocabulary, unk_token=roles["unk"]),
        normalizers.BertNormalizer(
            lowercase=said.get("do_lower_case", True) if lowercase is None else lowercase,
            handle_chinese_chars=said.get("tokenize_chinese_chars", True),
            strip_accents=said.get("strip_accents"),
        ),
    )
    backend.add_special_tokens(list(roles.values()))
    _add(backend, file.parent, said)
    frame(backend, roles["cls"], roles["sep"])
    return Tokenizer(backend, roles)


def _read_pair(vocabulary_file: Path, merges_file: Path) -> Tokenizer:
    said = read_json(vocabulary_file.parent / "tokenizer_config.json")
    vocabulary = read_json(vocabulary_file)
    try:
        model = models.BPE.from_file(str(vocabulary_file), str(merges_file))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{merges_file}: {error}; {AGAIN}") from error
    add_prefix_space = bool(said.get("add_prefix_space", False))
    backend = byte_level(model, add_prefix_space=add_prefix_space)
    _add(backend, vocabulary_file.parent, said)
    names = {*vocabulary, *(token.content for token in backend.get_added_tokens_decoder().values())}
    roles = usual_roles(said_roles(vocabulary_file.parent), names)
    is_roberta = {"<s>", "</s>"} <= roles.keys() | set(roles.values())
    if is_roberta:
        roles = {"cls": "<s>", "sep": "</s>"} | roles
    absent = [token for token in roles.values() if token not in names]
    if absent:
        raise ValueError(f"it has no {absent[0]}")
    backend.add_special_tokens(
        [AddedToken(token, special=True, lstrip=role == "mask") for role, token in roles.items()]
    )
    if is_roberta:
        ids = backend.get_vocab(with_added_tokens=True)
        sep, cls = ((roles[role], ids[roles[role]]) for role in ("sep", "cls"))
        backend.post_processor = processors.RobertaProcessing(
            sep, cls, trim_offsets=True, add_prefix_space=add_prefix_space
        )
    return Tokenizer(backend, roles)


def _add(backend: tokenizers.Tokenizer, folder: Path, said: dict[str, Any]) -> None:
    """Add the tokens that were added to the vocabulary after it was made, as two generations of files say."""
    later = {int(number): token for number, token in said.get("added_tokens_decoder", {}).items()}
    for content, number in read_json(folder / "added_tokens.json").items():
        later.setdefault(number, {"content": content, "special": False})
    for number in sorted(later):
        backend.add_tokens([AddedToken(**{"normalized": False} | later[number])])
        if backend.token_to_id(later[number]["content"]) != number:
            raise ValueError(f"added token {later[number]['content']!r} cannot have the id {number}")


def _read_sentencepiece(file: Path) -> Tokenizer:
    """Return what transformers makes of the folder: it knows what each model type adds to its file."""
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False, local_files_only=True)
        backend = tokenizers.Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    except Exception as error:  # of any kind, from several libraries
        fault = str(error).strip().partition("\n")[0] or type(error).__name__
        remedy = "put the config.json of its model beside it, or save it as a tokenizer.json"
        raise TokenizerError(f"{file}: transformers cannot convert it: {fault}; {remedy}") from error
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    tokens = {role.removesuffix("_token"): str(token) for role, token in theirs.special_tokens_map.items()}
    return Tokenizer(backend, usual_roles(tokens, special))
