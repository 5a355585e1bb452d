"""The files of a model folder that hold tensors: safetensors, or pickles that hold nothing else."""

import json
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from lumbre.errors import ModelError
from lumbre.hub.base import Named

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
FILE_BYTES = 5 * 10**9
"""Most that is written into one file, unless one tensor is larger."""


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of model.safetensors or its shards, or else of pickles that hold tensors alone.

    Raises ModelError where there are none, or a file is damaged or holds something else.
    """
    files = _files(folder)
    if not files:
        raise ModelError(f"{folder / SAFE}: no such file; give a folder that holds the model's weights")
    state: dict[str, Tensor] = {}
    for file in files:
        state |= _read(file)
    for name, tensor in state.items():
        if not tensor.is_floating_point() and not name.endswith(("position_ids", ".bias")):
            raise ModelError(f"{folder}: {name} is {tensor.dtype}, and weights are floating-point numbers")
    return state


def tensor_names(folder: Path) -> frozenset[str]:
    """Return the names of a folder's tensors, without reading safetensors' contents; none without files."""
    from safetensors import SafetensorError, safe_open

    names: set[str] = set()
    for file in _files(folder):
        if file.suffix != ".safetensors":
            names |= _read(file).keys()
            continue
        try:
            with safe_open(file, framework="pt") as tensors:
                names |= set(tensors.keys())
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from error
    return frozenset(names)


def write_weights(folder: Path, tensors: Iterable[Named]) -> torch.dtype:
    """Write tensors as they come, no more than a file's in memory at once; return the first one's type.

    What is more than one file holds is several with an index, as transformers reads them.
    """
    from safetensors.torch import save_file

    files: list[dict[str, int]] = []
    kept: dict[str, Tensor] = {}
    dtypes: list[torch.dtype] = []

    def write() -> None:
        files.append({name: tensor.nbytes for name, tensor in kept.items()})
        save_file(kept, folder / f"{len(files)}-{SAFE}", metadata={"format": "pt"})
        kept.clear()

    for name, tensor in tensors:
        if kept and sum(one.nbytes for one in kept.values()) + tensor.nbytes > FILE_BYTES:
            write()
        kept[name] = tensor
        dtypes.append(tensor.dtype)
    write()
    stem, total = SAFE.removesuffix(".safetensors"), len(files)
    places: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = SAFE if total == 1 else f"{stem}-{number:05d}-of-{total:05d}.safetensors"
        (folder / f"{number}-{SAFE}").rename(folder / file)
        places |= dict.fromkeys(names, file)
    if total > 1:
        index = {"metadata": {"total_size": sum(sum(one.values()) for one in files)}, "weight_map": places}
        (folder / f"{SAFE}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return dtypes[0]


def read_json(file: Path) -> Any:
    """Return a file's JSON; raises ModelError when it cannot be read or is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(
            f"{file}: cannot be read: {error.strerror}; give a folder that holds config.json and "
            "model.safetensors"
        ) from error
    except ValueError as error:
        raise ModelError(f"{file}: is not JSON ({error}); export the model again") from error


def _files(folder: Path) -> list[Path]:
    for name in (SAFE, PICKLED):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = _weight_map(index)
            # The last part alone: an index names no file outside its folder.
            return [folder / Path(shard).name for shard in sorted(set(shards.values()))]
    return []


def _weight_map(index: Path) -> dict[str, str]:
    found = read_json(index)
    shards = found.get("weight_map") if isinstance(found, dict) else None
    if not shards or not isinstance(shards, dict) or not all(isinstance(one, str) for one in shards.values()):
        raise ModelError(f"{index}: weight_map names no file for each tensor; export or download it again")
    return shards


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not file.is_file():
        raise ModelError(f"{file}: no such file; give a folder that holds the model's weights")
    try:
        if file.suffix == ".safetensors":
            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if "allowlist" in str(error):
            raise ModelError(
                f"{file}: a pickle that holds more than tensors can run code, and is not read; convert it "
                "where you trust it, with transformers' from_pretrained and save_pretrained, to safetensors"
            ) from error
        raise _damaged(file, error) from error
    except Exception as error:
        # Damaged files fail in as many ways as there are bytes.
        raise _damaged(file, error) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{file}: holds no state dict; save the model's weights again")
    return state


def _damaged(file: Path, error: Exception) -> ModelError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ModelError(f"{file}: damaged or unreadable ({first}); export or download it again")
