"""Starting from a Hugging Face folder: continued pretraining (Gururangan et al., 2020, arXiv:2004.10964)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from lumbre.errors import ModelError, Problem
from lumbre.hub.auto import read_architecture, read_config, stored
from lumbre.hub.base import Model
from lumbre.models import ModelConfig, TransformerConfig
from lumbre.models.deferred import Deferred


class HuggingFaceConfig(ModelConfig):
    """The architecture and the weights of a model folder, Lumbre's own or any supported family's."""

    type: Literal["huggingface"] = "huggingface"
    path: str
    """Folder with config.json and weights."""
    new_head: bool = False
    """Whether the heads start afresh, as they must where the folder lacks one."""

    def problems(self) -> Iterator[Problem]:
        """Report a folder that holds no model that we have."""
        try:
            architecture = self.architecture()
        except ModelError as error:
            yield Problem("path", str(error))
            return
        for problem in architecture.all_problems():
            yield Problem("path", f"{self.path}/config.json: as {problem.key}: {problem.fault}", "repair it")

    def architecture(self) -> TransformerConfig:
        """Return the folder's architecture; raises ModelError where it cannot be read."""
        return read_architecture(self.path)

    def left_out(self) -> dict[str, float]:
        """Return what config.json asks for in training and is left out here: every kind of dropout."""
        config = read_config(Path(self.path))
        return {
            key: value
            for key, value in config.items()
            if ("dropout" in key or "pdrop" in key) and isinstance(value, float) and value > 0
        }

    @torch.no_grad()
    def initialise(self, model: Model, ending: str = "", deferred: Deferred | None = None) -> None:
        """Put the folder's weights into the model, at once or one by one as `deferred` settles it.

        A model beside the first starts afresh where there is no folder of its own. Raises ModelError where
        the weights do not fit.
        """
        folder = Path(f"{self.path.rstrip('/')}{ending}")
        if ending and not folder.is_dir():
            return
        _, found = stored(folder, None if self.new_head else type(model), head=not self.new_head)
        ours = model.state_dict()
        for name in found:
            if deferred is None:
                ours[name].copy_(found[name])
            else:
                deferred.replace(ours[name], partial(found.__getitem__, name))
