"""The tokenizer and the model that fine-tuning starts from: any folder or name that transformers loads."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from lumbre.errors import ModelError

Kind = Literal["encoder", "decoder", "encoder-decoder"]
KINDS: Mapping[Kind, str] = {
    "encoder": "an encoder, which reads both ways (BERT, RoBERTa, ModernBERT, ELECTRA)",
    "decoder": "a decoder, which goes on with a text (GPT-2, Llama, Qwen3)",
    "encoder-decoder": "an encoder-decoder, which answers a text (T5, BART)",
}
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "dropout_rate",
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
"""What transformers' families call the dropout of their trunks."""


@dataclass(frozen=True)
class Start:
    """A model ready to be fine-tuned, in training mode."""

    model: nn.Module
    head: tuple[str, ...]
    """Names of the parameters above the trunk: what a frozen trunk leaves to train."""
    new: tuple[str, ...]
    """Names of the parameters that the folder has no weights for."""


@contextmanager
def explained(path: str, purpose: str) -> Iterator[None]:
    """Turn what transformers raises for a folder that does not fit into a ModelError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{path}: cannot be fine-tuned {purpose}: {reason}; "
            "give a folder with config.json, model.safetensors and a tokenizer of a family in transformers"
        ) from error


def load_tokenizer(path: str, purpose: str) -> Any:
    """Return the folder's tokenizer, with a token for padding; raises ModelError where it has none."""
    from transformers import AutoTokenizer

    with explained(path, purpose):
        tokenizer = AutoTokenizer.from_pretrained(path)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            # transformers makes up an empty tokenizer for a folder that has none.
            raise ValueError("it has no tokenizer")
        if tokenizer.pad_token_id is None:
            # GPT-2 has no token for padding; the attention mask hides whichever is used.
            tokenizer.pad_token = tokenizer.eos_token
        if tokenizer.pad_token_id is None:
            raise ValueError("its tokenizer has no token for padding")
    return tokenizer


def check_fast(tokenizer: Any, path: str, purpose: str) -> None:
    """Raise ModelError where a tokenizer cannot tell which characters its tokens stand for."""
    if not tokenizer.is_fast:
        fault = f"its {type(tokenizer).__name__} does not tell which characters tokens stand for"
        remedy = "give a folder with a tokenizer.json (the package tokenizers)"
        raise ModelError(f"{path}: cannot be fine-tuned {purpose}: {fault}; {remedy}")


def kind_of(config: Any) -> Kind:
    """Return what a model is, by its transformers config."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    if config.is_encoder_decoder:
        return "encoder-decoder"
    causal = getattr(config, "causal", None)
    if causal is not None:
        return "decoder" if causal else "encoder"
    written = " ".join(config.architectures or ())
    if "CausalLM" in written or "LMHead" in written:
        return "decoder"
    masked = type(config) in AutoModelForMaskedLM._model_mapping
    return "decoder" if type(config) in AutoModelForCausalLM._model_mapping and not masked else "encoder"


def load_config(path: str, purpose: str, kinds: Collection[Kind]) -> Any:
    """Return the folder's config; raises ModelError where the model is of another kind than those."""
    from transformers import AutoConfig

    with explained(path, purpose):
        config = AutoConfig.from_pretrained(path)
    kind = kind_of(config)
    if kind not in kinds:
        able = ", or ".join(KINDS[one] for one in KINDS if one in kinds)
        raise ModelError(
            f"{path}: is {KINDS[kind]}, and cannot be fine-tuned {purpose}; what can be is {able}"
        )
    return config


def load_model(
    path: str,
    config: Any,
    tokenizer: Any,
    auto_class: Any,
    purpose: str,
    *,
    from_scratch: bool,
    dropout: float | None = None,
    loading: Mapping[str, Any] | None = None,
) -> Start:
    """Return the folder's model under `auto_class`'s head, or the same with fresh weights.

    A head is new where the folder has none, or one of another size. Raises ModelError when the folder has no
    model for this head, or lacks weights of the model below it.
    """
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with explained(path, purpose):
        if len(tokenizer) > config.vocab_size:
            raise ValueError(f"{len(tokenizer)} tokens, and the model has {config.vocab_size}")
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
        if dropout is not None:
            for name in DROPOUTS:
                if isinstance(getattr(config, name, None), float | int):
                    setattr(config, name, dropout)
        model: Any
        if from_scratch:
            model = auto_class.from_config(config, dtype=torch.float32)
            new = [name for name, _ in model.named_parameters()]
        else:
            model, report = auto_class.from_pretrained(
                path,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **(loading or {}),
            )
            new = [*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]
            _check_trunk(model, new)
    trunk = _trunk(model)
    head = [name for name, _ in model.named_parameters() if not name.startswith(trunk) or name in new]
    if from_scratch:
        head = [name for name in head if not name.startswith(trunk)]
    # transformers gives a model with weights in evaluation mode, one without in training mode.
    return Start(model.train(), tuple(head), tuple(sorted(new)))


def _trunk(model: Any) -> tuple[str, ...]:
    """Return how the names of what is below the head begin."""
    prefix = f"{model.base_model_prefix}."
    if any(name.startswith(prefix) for name, _ in model.named_parameters()):
        return (prefix,)
    if hasattr(model, "shared"):
        # T5 with a head holds its stacks itself.
        return ("shared.", "encoder.", "decoder.")
    # No head at all: everything is trunk.
    return ("",)


def _check_trunk(model: nn.Module, missing: Collection[str]) -> None:
    """Raise ValueError where the folder lacks weights below the head: training would start from chance.

    BERT's pooler counts to the head; language models have none.
    """
    below = sorted(name for name in missing if name.startswith(_trunk(model)) and "pooler." not in name)
    if below:
        raise ValueError(f"the weights lack {len(below)} tensors, such as {below[0]}")
