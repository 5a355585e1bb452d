"""Model folders: written in a Hugging Face family's own format where one fits, and read back.

Where no family expresses the model, its model type is `lumbre`: our config and our names.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, overload

import torch
from pydantic import ValidationError
from torch import Tensor

from lumbre.errors import ModelError
from lumbre.files import explained, sync
from lumbre.hub.base import (
    TRUNK,
    Model,
    Named,
    SpecialIds,
    StateDictAdapter,
    build_model,
    check_names,
    check_shape,
    head_name,
    ids,
)
from lumbre.hub.bert import Bert, BertPair
from lumbre.hub.card import auto_class, model_card
from lumbre.hub.electra import Electra, ElectraGenerator
from lumbre.hub.filling import fill
from lumbre.hub.gpt2 import Gpt2
from lumbre.hub.llama import Llama
from lumbre.hub.modernbert import ModernBert
from lumbre.hub.qwen3 import Qwen3
from lumbre.hub.roberta import Roberta
from lumbre.hub.t5 import T5
from lumbre.hub.weights import read_json, read_weights, tensor_names, write_weights
from lumbre.models import Detector, EncoderDecoder, LanguageModel, Transformer, TransformerConfig

ADAPTERS: tuple[StateDictAdapter, ...] = (
    Roberta(),
    Bert(),
    BertPair(),
    Electra(),
    ElectraGenerator(),
    ModernBert(),
    Gpt2(),
    Llama(),
    Qwen3(),
    T5(),
)
LUMBRE = "lumbre"
WRITTEN = (".json", ".safetensors", ".md", ".txt", ".model")
"""Endings of what a model folder holds; a folder with anything else is not replaced."""


class SavableTokenizer(SpecialIds, Protocol):
    """A tokenizer that can write itself into a model's folder."""

    def save(
        self, folder: Path, *, model_max_length: int | None = None, token_type_ids: bool | None = None
    ) -> None:
        """Write tokenizer.json and tokenizer_config.json, for a model of that length and those inputs."""


def adapter_for(config: TransformerConfig, kind: type[Model] = LanguageModel) -> StateDictAdapter | None:
    """Return the family whose own class expresses the model with its heads, or None."""
    return next((one for one in ADAPTERS if one.kind is kind and one.misfit(config) is None), None)


def save(
    model: Model,
    tokenizer: SavableTokenizer | None,
    folder: str | Path,
    *,
    weights: Iterable[Named] | None = None,
    proof: Callable[[Path], object] | None = None,
    remark: str = "",
) -> Path:
    """Write config.json, model.safetensors, the tokenizer and a model card; return the folder.

    `weights` are the model's own tensors by its names where it is on the meta device, and are written as
    they come: no more of them than a file holds (5 GB) is in memory at once.

    The folder appears whole or not at all, and an older model in its place is replaced at the end, once
    `proof` has been given the new one and has raised nothing. In model type `lumbre` there is no other head
    than the language model's. Raises ModelError when the folder holds what is no model's, or cannot be
    written. The card ends with the `remark`.
    """
    from safetensors import SafetensorError

    folder = Path(folder)
    weights = model.state_dict().items() if weights is None else weights
    adapter = adapter_for(model.config, type(model))
    if adapter is not None:
        config = adapter.to_hf_config(model.config, tokenizer)
        weights = adapter.to_hf(model.config, weights, tokenizer)
        config |= {"model_type": adapter.model_type, "architectures": [adapter.architecture]}
    else:
        architecture = auto_class(model).replace("AutoModelFor", "LumbreFor").replace("Auto", "Lumbre")
        config = {"model_type": LUMBRE, "architectures": [architecture], **ids(tokenizer)}
        if model.config.num_decoder_layers:
            config["decoder_start_token_id"] = config["pad_token_id"]
        config["transformer"] = model.config.model_dump(mode="json", serialize_as_any=True)
        weights = _own_state(model, weights)
    with _replacing(folder) as fresh:
        try:
            dtype = write_weights(fresh, weights)
        except SafetensorError as error:
            raise ModelError(
                f"{folder}: the weights cannot be written: {error}; free some space, or choose another folder"
            ) from error
        config |= {"dtype": str(dtype).removeprefix("torch."), f"{LUMBRE}_version": version(LUMBRE)}
        (fresh / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (fresh / "README.md").write_text(model_card(model, adapter, ADAPTERS, remark), encoding="utf-8")
        if tokenizer is not None:
            limit, types = model.config.max_length, model.config.token_types > 0
            tokenizer.save(fresh, model_max_length=limit, token_type_ids=types)
        if proof is not None:
            proof(fresh)
    return folder


@overload
def load(folder: str | Path) -> LanguageModel: ...


@overload
def load(folder: str | Path, kind: type[Model]) -> Model: ...


def load(folder: str | Path, kind: type[Model] = LanguageModel) -> Model:
    """Return our model with the weights of a folder of any family here, in the dtype they are stored in.

    `kind` says with which heads: a language model's unless told otherwise, and a family that has no others
    gives these. Raises ModelError when a file is missing or damaged, the config asks for what we do not
    have, or a tensor is missing, extra or misshapen.
    """
    folder = Path(folder)
    config, weights = stored(folder, kind)
    model_type = read_config(folder)["model_type"]
    made = LanguageModel if model_type == LUMBRE else adapter_named(folder, model_type, kind).kind
    with torch.device("meta"):
        model = build_model(made, config)
    fill(model, weights)
    return model


def load_trunk(folder: str | Path) -> Transformer | EncoderDecoder:
    """Return the trunk alone, from a folder with or without a language-model head; raises as `load`."""
    config, weights = stored(folder, None, head=False)
    with torch.device("meta"):
        trunk = config.build()
    fill(trunk, {name.removeprefix(TRUNK): tensor for name, tensor in weights.items()})
    return trunk


def read_architecture(folder: str | Path) -> TransformerConfig:
    """Return the model of a folder, field by field; raises ModelError where we do not have it."""
    folder = Path(folder)
    config = read_config(folder)
    if config["model_type"] == LUMBRE:
        return _own_config(folder, config)
    adapter = adapter_named(folder, config["model_type"])
    for field in ("quantization_config", "pruned_heads"):
        if config.get(field):
            raise ModelError(
                f"{folder / 'config.json'}: {field} is set, and is not supported here; "
                "use the checkpoint before that was done to it"
            )
    try:
        architecture = adapter.settle(adapter.from_hf_config(config), tensor_names(folder))
    except ModelError:
        raise
    except Exception as error:
        # The file may hold anything, and transformers checks it with errors of many kinds.
        fault = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ModelError(
            f"{folder / 'config.json'}: {adapter.architecture} cannot be made of it: {fault}; "
            "use the config.json that was saved with the weights"
        ) from error
    for problem in architecture.all_problems():
        raise ModelError(f"{folder / 'config.json'}: as {problem.key}: {problem.fault}; {problem.remedy}")
    return architecture


def stored(
    folder: str | Path, kind: type[Model] | None, *, head: bool = True
) -> tuple[TransformerConfig, Mapping[str, Tensor]]:
    """Return the model of a folder and its weights by our names, with the heads of `kind` or without any.

    A tensor of a safetensors file takes memory when it is asked for. Raises as `load`.
    """
    folder = Path(folder)
    architecture, config = read_architecture(folder), read_config(folder)
    if config["model_type"] == LUMBRE:
        if kind is not None and not issubclass(kind, LanguageModel):
            raise _headless(folder, LUMBRE, kind)
        return architecture, _check_own(architecture, read_weights(folder), head)
    adapter = adapter_named(folder, config["model_type"], kind)
    state = read_weights(folder)
    adapter.check(config, state)
    return architecture, adapter.from_hf_state(architecture, state, head=head)


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json; raises ModelError when it is missing or no model's."""
    file = folder / "config.json"
    config = read_json(file)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{file}: model_type is missing; it names the family, such as 'bert'")
    return config


def adapter_named(folder: Path, model_type: str, kind: type[Model] | None = None) -> StateDictAdapter:
    """Return the family of a folder, in its class with the heads of `kind`, or else with some of them.

    Raises ModelError where the family is not known, or has none of these heads.
    """
    family = [adapter for adapter in ADAPTERS if adapter.model_type == model_type]
    if family and kind is None:
        return family[0]
    for adapter in sorted(family, key=lambda one: one.kind is not kind):
        if kind is not None and issubclass(kind, adapter.kind):
            return adapter
    if family and kind is not None:
        raise _headless(folder, model_type, kind)
    known = ", ".join(sorted({LUMBRE, *(adapter.model_type for adapter in ADAPTERS)}))
    raise ModelError(f"{folder / 'config.json'}: model_type is {model_type!r}; supported are {known}")


def _headless(folder: Path, model_type: str, kind: type[Model]) -> ModelError:
    return ModelError(
        f"{folder}: a folder of model type {model_type!r} has no {head_name(kind)}; "
        "model.new_head: true starts a fresh one"
    )


def _own_config(folder: Path, config: dict[str, Any]) -> TransformerConfig:
    try:
        return TransformerConfig.model_validate(config.get("transformer"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["transformer", *map(str, first["loc"])])
        raise ModelError(
            f"{folder / 'config.json'}: {place}: {first['msg']}; export the model again"
        ) from error


def _own_state(model: Model, weights: Iterable[Named]) -> Iterator[Named]:
    """Yield every tensor of what model type `lumbre` has once, under its first name."""
    parts = (TRUNK,) if isinstance(model, Detector) else (TRUNK, "head.")
    wanted = {name for name, _ in model.named_parameters() if name.startswith(parts)}
    for name, tensor in weights:
        if name in wanted:
            wanted.remove(name)
            yield name, tensor.detach().cpu().contiguous()
    check_names(type(model).__name__, wanted, ())


def _check_own(config: TransformerConfig, state: dict[str, Tensor], head: bool) -> dict[str, Tensor]:
    with torch.device("meta"):
        wanted = {
            name: tuple(value.shape) for name, value in LanguageModel(config.build()).named_parameters()
        }
    if not head:
        wanted = {name: shape for name, shape in wanted.items() if name.startswith(TRUNK)}
        state = {name: tensor for name, tensor in state.items() if name.startswith(TRUNK)}
    check_names("the model of config.json", set(wanted), state.keys())
    for name, shape in wanted.items():
        check_shape(name, shape, state[name])
    return state


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a fresh folder that takes the place of `folder` when the block ends well."""
    if folder.exists() or folder.is_symlink():
        entries = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else [folder]
        foreign = [path for path in entries if path.is_dir() or path.suffix not in WRITTEN]
        if foreign or (entries and not (folder / "config.json").is_file()):
            found = (foreign or entries)[0]
            raise ModelError(
                f"{folder}: holds {found.name}, which is no part of a model, and is not replaced; "
                "choose another folder"
            )
    fresh = folder.with_name(f".{folder.name}.new-{os.getpid()}")
    stale = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        with explained(folder):
            fresh.mkdir(parents=True)
            yield fresh
            for file in fresh.iterdir():
                sync(file)
            if folder.exists():
                folder.rename(stale)
            fresh.rename(folder)
            sync(folder.parent)
    finally:
        if stale.exists() and not folder.exists():
            stale.rename(folder)
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(stale, ignore_errors=True)
