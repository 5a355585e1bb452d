"""Let a trained model speak, through plain transformers: complete a text, answer it, or fill its masks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.bar import Bar
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lumbre.errors import ModelError
from lumbre.files import write_json

SAMPLES_FILE = "samples.json"
MASKS = ("[MASK]", "<mask>")
"""Either stands for the tokenizer's own mask token."""
HEADLESS = ("ElectraForPreTraining", "LumbreModel")
"""The classes of detectors of replaced tokens."""
FILLS = 5
BAR_WIDTH = 24


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen."""

    max_new_tokens: int = 48
    """Most tokens to add."""
    temperature: float = 0.0
    """Divides the logits before a token is drawn; 0 takes the likeliest each time."""
    top_k: int = 50
    """Draw among so many likeliest tokens; 0 is all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    beams: int = 1
    """Texts that are followed at once, of which the likeliest is kept."""
    seed: int = 1
    """Seeds each prompt's draws."""

    def arguments(self) -> dict[str, Any]:
        """Return what `generate` is given."""
        drawn = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return {
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.beams,
            "do_sample": self.temperature > 0,
            **(drawn if self.temperature > 0 else {}),
        }


@dataclass(frozen=True)
class Speaker:
    """A model with its tokenizer."""

    folder: Path
    tokenizer: Any
    model: Any

    def limit(self) -> int | None:
        """Return the longest sequence in tokens that the model is meant for; None where it states none."""
        stated: list[int | None] = [getattr(self.model.config, "max_position_embeddings", None)]
        if not self.model.config.is_encoder_decoder:
            # RoBERTa's positions begin at 2, which its tokenizer knows.
            stated.append(self.tokenizer.model_max_length)
        return min((one for one in stated if one and one > 0), default=None)


def generate(place: Path, prompts: Sequence[str], sampling: Sampling) -> list[str]:
    """Print what the model makes of each prompt, and return the texts.

    A decoder goes on from the prompt, an encoder-decoder answers it, and an encoder fills its masks. `place`
    is a run folder, whose model/ is used and where the samples are kept for the report, or a Hugging Face
    folder. Raises ModelError when the folder holds no language model, or a prompt does not fit it.
    """
    from lumbre import products

    run = place if (place / "model" / "config.json").is_file() else None
    folder = place / "model" if run else place
    if not (folder / "config.json").is_file():
        raise ModelError(f"{place}: is neither a finished run nor a model folder; it has no config.json")
    with products.fastest():
        samples = said(folder, prompts, sampling, Console(highlight=False))
    if run is not None:
        write_json(run / SAMPLES_FILE, samples)
    return [one["text"].removeprefix("\n") for one in samples]


def said(folder: Path, prompts: Sequence[str], sampling: Sampling, console: Console) -> list[dict[str, str]]:
    """Return each prompt with the text that the model of a folder makes of it, and show them on the console.

    A text that does not go on from its prompt begins with a newline. Seeds torch's generator.
    """
    import torch

    speak, speaker = _load(folder)
    samples = []
    for prompt in prompts:
        torch.manual_seed(sampling.seed)
        with torch.no_grad():
            text = speak(speaker, prompt, sampling, console)
        samples.append({"prompt": prompt, "text": text if speak is _complete else f"\n{text}"})
        console.print()
    return samples


Speak = Callable[[Speaker, str, Sampling, Console], str]


def _complete(speaker: Speaker, prompt: str, sampling: Sampling, console: Console) -> str:
    tokenizer = speaker.tokenizer
    ids, bare = tokenizer(prompt)["input_ids"], tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if ids[-1:] != bare[-1:]:
        # The token that ends a text: this one goes on.
        ids = ids[:-1]
    ids = ids or [one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id) if one is not None][:1]
    if not ids:
        raise ModelError(
            f"{speaker.folder}: has no token that begins a text; give a prompt that is not empty"
        )
    _check_length(speaker, len(ids), sampling.max_new_tokens)
    new = _generate(speaker, ids, sampling)[len(ids) :]
    text: str = tokenizer.decode(new, skip_special_tokens=True)
    console.print(Text(prompt, "bold") + Text(text), soft_wrap=True)
    return text


def _answer(speaker: Speaker, prompt: str, sampling: Sampling, console: Console) -> str:
    tokenizer = speaker.tokenizer
    ids, bare = tokenizer(prompt)["input_ids"], tokenizer(prompt, add_special_tokens=False)["input_ids"]
    if ids == bare and tokenizer.eos_token_id is not None:
        # What an encoder reads is a whole text, and this tokenizer marks no end by itself.
        ids = [*ids, tokenizer.eos_token_id]
    _check_length(speaker, len(ids), 0)
    _check_length(speaker, 0, sampling.max_new_tokens)
    ends = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    # Not all special tokens: T5's answer says by them which gap a piece belongs to.
    text: str = tokenizer.decode([one for one in _generate(speaker, ids, sampling) if one not in ends])
    text = text.strip()
    console.print(Text(prompt, "bold"), soft_wrap=True)
    console.print(Text("→ ", "dim") + Text(text), soft_wrap=True)
    return text


def _fill(speaker: Speaker, prompt: str, sampling: Sampling, console: Console) -> str:
    import torch

    tokenizer, mask = speaker.tokenizer, speaker.tokenizer.mask_token
    for other in MASKS:
        prompt = prompt.replace(other, mask)
    ids_BT = torch.tensor([tokenizer(prompt)["input_ids"]], device=speaker.model.device)
    masks = (ids_BT[0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if not masks:
        raise ModelError(
            f"{speaker.folder}: is an encoder, which fills masks, and the prompt {prompt!r} has none; "
            f"write {mask} where a token is missing"
        )
    _check_length(speaker, ids_BT.shape[1], 0)
    logits_BTV = speaker.model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits
    likeliest = logits_BTV[0, masks].double().softmax(dim=-1).topk(min(FILLS, logits_BTV.shape[-1]))
    console.print(_marked(prompt, mask), soft_wrap=True)
    fills = Table.grid(padding=(0, 2, 0, 0))
    text = prompt
    for number, (shares, tokens) in enumerate(
        zip(*map(torch.Tensor.tolist, likeliest), strict=True), start=1
    ):
        pieces = [tokenizer.decode([token]) for token in tokens]
        text = text.replace(mask, pieces[0].strip().removeprefix("##"), 1)
        for rank, (piece, share) in enumerate(zip(pieces, shares, strict=True)):
            fills.add_row(
                Text(f"{number}" if len(masks) > 1 and rank == 0 else "", "dim"),
                _shown(piece, "bold" if rank == 0 else ""),
                Text(f"{share:.1%}", justify="right"),
                Bar(1.0, 0.0, share, width=BAR_WIDTH, color="cyan"),
            )
    console.print(Padding(fills, (0, 0, 0, 2), expand=False))
    return text


def _load(folder: Path) -> tuple[Speak, Speaker]:
    import torch
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with _explained(folder):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        tokenizer = read_tokenizer(folder)
        _check_head(folder, config)
        speak, name = _kind(config, tokenizer)
        if speak is _fill and tokenizer.mask_token is None:
            raise ValueError("it is an encoder, and its tokenizer has no mask token")
        model, report = getattr(transformers, name).from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        faults = {
            "lacks": sorted(report["missing_keys"]),
            # Classes of pretraining have other heads beside the language model's.
            "holds what is no part of it:": []
            if "ForPreTraining" in _architectures(config)
            else sorted(report["unexpected_keys"]),
            "has of another shape:": sorted(f"{key}" for key, *_ in report["mismatched_keys"]),
        }
        for fault, tensors in faults.items():
            if tensors:
                more = f" and {len(tensors) - 1} more" if len(tensors) > 1 else ""
                raise ValueError(f"it {fault} {tensors[0]}{more}")
        if config.is_encoder_decoder and model.generation_config.decoder_start_token_id is None:
            start = tokenizer.pad_token_id if config.pad_token_id is None else config.pad_token_id
            model.generation_config.decoder_start_token_id = start
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return speak, Speaker(folder, tokenizer, model.eval().to(device))


def read_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a model folder; raises ValueError where it has none that can be read."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"it has no tokenizer that can be read ({_first_line(error)})") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # What transformers makes up for some folders that have none.
        raise ValueError("it has no tokenizer")
    return tokenizer


def _architectures(config: Any) -> str:
    return " ".join(config.architectures or ())


def _check_head(folder: Path, config: Any) -> None:
    """Raise ValueError for a class without a language-model head."""
    name = _architectures(config)
    if name in HEADLESS:
        generator = folder.with_name(f"{folder.name}-generator")
        there = f"; its generator, which has one, is {generator}" if generator.is_dir() else ""
        raise ValueError(f"{name} has no language-model head{there}")


def _kind(config: Any, tokenizer: Any) -> tuple[Speak, str]:
    """Return how the model speaks, and the Auto class that loads it so."""
    if config.is_encoder_decoder:
        return _answer, "AutoModelForSeq2SeqLM"
    names = _architectures(config)
    if config.model_type == "lumbre":
        fills = not config.is_decoder
    elif "CausalLM" in names or "LMHead" in names:
        fills = False
    else:
        fills = "MaskedLM" in names or tokenizer.mask_token is not None
    return (_fill, "AutoModelForMaskedLM") if fills else (_complete, "AutoModelForCausalLM")


def _generate(speaker: Speaker, ids: list[int], sampling: Sampling) -> list[int]:
    import torch

    ids_BT = torch.tensor([ids], device=speaker.model.device)
    config = speaker.model.config
    # transformers lays a cache out by the encoder's layers.
    deeper = getattr(config, "num_decoder_layers", None) or 0
    uneven = config.model_type == "t5" and deeper > config.num_layers
    out_BT = speaker.model.generate(
        ids_BT,
        attention_mask=torch.ones_like(ids_BT),
        pad_token_id=speaker.tokenizer.pad_token_id,
        **({"use_cache": False} if uneven else {}),
        **sampling.arguments(),
    )
    found: list[int] = out_BT[0].tolist()
    return found


def _check_length(speaker: Speaker, given: int, new: int) -> None:
    limit = speaker.limit()
    if limit is None or given + new <= limit:
        return
    parts = [f"the prompt has {given} tokens"] if given else []
    parts += [f"{new} new ones are asked for"] if new else []
    room = limit - given
    remedy = f"use --max-new-tokens {room}" if new and room > 0 else "shorten the prompt"
    raise ModelError(
        f"{speaker.folder}: {' and '.join(parts)}, and the model has {limit} positions; {remedy}"
    )


def _marked(prompt: str, mask: str) -> Text:
    text = Text(prompt, "bold")
    text.highlight_words([mask], "cyan")
    return text


def _shown(piece: str, style: str) -> Text:
    """Return a token so that what is white in it can be seen."""
    text = Text(style=style)
    if piece.startswith(" "):
        text.append("·", "dim")
        piece = piece[1:]
    return text.append("".join(one if one.isprintable() else repr(one)[1:-1] for one in piece))


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn what transformers raises for a folder that does not fit into a ModelError."""
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    try:
        yield
    except UnpicklingError as error:
        raise ModelError(
            f"{folder}: its weights are a pickle that holds more than tensors, and is not read; convert it "
            "where you trust it, to model.safetensors"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: cannot be loaded as a language model: {_first_line(error)}; name a folder with one"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(":. ")
