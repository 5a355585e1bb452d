"""From a run to a Hugging Face folder whose logits are proven to be the model's own."""

from collections.abc import Mapping
from pathlib import Path

import torch
from rich.console import Console

from lumbre import config as configs
from lumbre import distributed, hub
from lumbre.checkpoint import Checkpoints, Reader
from lumbre.errors import CheckpointError, DataError, ModelError
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
    reader = Reader(folder)
    weights = {
        name: reader.read("param", name, 0, torch.Size(shape).numel()).view(shape)
        for name, shape in reader.shapes.items()
    }
    tokenizer = prepared.tokenizer()
    objective = ObjectiveConfig.model_validate(saved["objective"]).build(tokenizer, config.seed)
    write_model(weights, objective, shape, tokenizer, to)


def write_model(
    weights: Mapping[str, torch.Tensor] | None,
    objective: Objective,
    shape: TransformerConfig,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    proven: bool = True,
) -> None:
    """Write the model folder on the main rank and verify it; other ranks (weights None) do nothing.

    Where the objective trains several models, each has a folder, its name that of the first with an ending.
    """
    if weights is None:
        return
    model = objective.attach_head(shape.build())
    names = [name for name, _ in model.named_parameters()]
    lacking = [name for name in names if name not in weights]
    if lacking:
        raise CheckpointError(f"the checkpoint lacks {lacking[0]}, and {len(lacking) - 1} more")
    # Tied tensors have a second name, which is left out.
    model.load_state_dict({name: weights[name] for name in names}, strict=False)
    for ending, part in objective.exports(model).items():
        place = folder.with_name(f"{folder.name}{ending}")
        if proven:
            _prove_and_write(part, tokenizer, place, objective.remark)
        else:
            hub.save(part, tokenizer, place, remark=objective.remark)


def _prove_and_write(
    model: LanguageModel | Detector, tokenizer: Tokenizer, folder: Path, remark: str
) -> None:
    differences: list[float] = []

    def proof(fresh: Path) -> None:
        try:
            differences.append(hub.verify_export(model, fresh))
        except ModelError as error:
            raise ModelError(str(error).replace(str(fresh), str(folder))) from error

    hub.save(model, tokenizer, folder, proof=proof, remark=remark)
    if distributed.world().is_main:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"exported: {folder} (largest logit difference to transformers {differences[0]:.1e})")
