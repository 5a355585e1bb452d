"""From a run to a Hugging Face folder whose logits are proven to be the model's own."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from lumbre import config as configs
from lumbre import distributed, hub
from lumbre.checkpoint import Checkpoints, Weights
from lumbre.engine import Engine
from lumbre.errors import CheckpointError, DataError, LumbreError, ModelError
from lumbre.models import Detector, LanguageModel, TransformerConfig
from lumbre.run_folder import CONFIG_FILE
from lumbre.tokenizer import Tokenizer

from .config import PretrainConfig
from .data.mixture import prepare_sets
from .objectives import Objective, ObjectiveConfig


def export(run: Path, to: Path) -> None:
    """Write the latest checkpoint of the run folder to `to`, and compare the two models' logits.

    Raises CheckpointError where the run has no checkpoint, ModelError where the logits differ.
    """
    if not (run / CONFIG_FILE).is_file():
        raise CheckpointError(f"{run}: is no run folder, it has no {CONFIG_FILE}")
    config = configs.load(PretrainConfig, run / CONFIG_FILE, room="pretrain")
    checkpoints = Checkpoints(run / "checkpoints")
    folder = checkpoints.latest()
    if folder is None:
        raise CheckpointError(f"{run}: has no checkpoint yet; train first")
    prepared = next(iter(prepare_sets(config.data, config.tokenizer).values()))
    saved = checkpoints.state(folder)["identity"]
    if saved["tokenizer"] != prepared.manifest.tokenizer_fingerprint:
        raise DataError(
            f"{prepared.folder}: its tokenizer is {prepared.manifest.tokenizer_fingerprint}, "
            f"the checkpoint's is {saved['tokenizer']}; set tokenizer and data back to those of the run"
        )
    shape = TransformerConfig.model_validate(saved["model"])
    tokenizer = prepared.tokenizer()
    objective = ObjectiveConfig.model_validate(saved["objective"]).build(tokenizer, config.seed)
    export_checkpoint(folder, objective, shape, tokenizer, to)


def export_checkpoint(
    checkpoint: Path, objective: Objective, shape: TransformerConfig, tokenizer: Tokenizer, folder: Path
) -> None:
    """Write the model of a checkpoint to `folder`, and prove it; no process has the model whole.

    Where the objective trains several models, each has a folder, its name that of the first with an ending.
    Raises CheckpointError where a tensor is not there, ModelError where logits differ.
    """
    saved = Weights(checkpoint)
    for part in _parts(objective, shape):
        if lacking := [name for name in part.names if name not in saved]:
            raise CheckpointError(f"{checkpoint}: lacks {lacking[0]}, and {len(lacking) - 1} more")
        _prove_and_write(part, saved, tokenizer, part.place(folder), objective.remark)


def export_weights(
    engine: Engine, objective: Objective, shape: TransformerConfig, tokenizer: Tokenizer, folder: Path
) -> None:
    """Write the weights as they are in the engine, unproven; all ranks call, and the main one writes.

    Raises there what it meets, once the others have given all that they gather.
    """
    error: Exception | None = None
    for part in _parts(objective, shape):
        weights = engine.weights()
        try:
            if distributed.world().is_main and error is None:
                hub.save(
                    part.model,
                    tokenizer,
                    part.place(folder),
                    weights=((part.names[name], one) for name, one in weights if name in part.names),
                    remark=objective.remark,
                )
        except (LumbreError, OSError) as fault:
            error = fault
        for _ in weights:
            # The other ranks gather them in any case.
            pass
    if error is not None:
        raise error


@dataclass(frozen=True)
class _Part:
    """A model that is exported, without weights."""

    model: LanguageModel | Detector
    ending: str
    """What its folder's name ends with."""
    names: Mapping[str, str]
    """Its own name of each tensor that the whole has."""

    def place(self, folder: Path) -> Path:
        return folder.with_name(f"{folder.name}{self.ending}")


class _Renamed(Mapping[str, Tensor]):
    """A part's tensors by its own names."""

    def __init__(self, whole: Mapping[str, Tensor], part: _Part) -> None:
        self._whole = whole
        self._names = {own: name for name, own in part.names.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._whole[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _parts(objective: Objective, shape: TransformerConfig) -> Iterator[_Part]:
    with torch.device("meta"):
        whole = objective.attach_head(shape.build())
    names = {id(one): name for name, one in whole.named_parameters()}
    for ending, model in objective.exports(whole).items():
        yield _Part(model, ending, {names[id(one)]: own for own, one in model.named_parameters()})


def _prove_and_write(
    part: _Part, saved: Mapping[str, Tensor], tokenizer: Tokenizer, folder: Path, remark: str
) -> None:
    differences: list[float] = []
    weights = _Renamed(saved, part)

    def proof(fresh: Path) -> None:
        try:
            differences.append(hub.verify_export(part.model, fresh, weights=weights))
        except ModelError as error:
            raise ModelError(str(error).replace(str(fresh), str(folder))) from error

    hub.save(part.model, tokenizer, folder, weights=weights.items(), proof=proof, remark=remark)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"exported: {folder} (largest logit difference to transformers {differences[0]:.1e})")
