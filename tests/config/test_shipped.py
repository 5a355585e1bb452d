"""Every shipped YAML is read by the entry point that its users reach it through."""

from pathlib import Path

import huggingface_hub.constants
import pytest

from finetune.config import FinetuneConfig
from launch.__main__ import LauncherConfig
from lumbre.config import load
from lumbre.engine import EngineConfig
from lumbre.errors import ConfigError, Problem
from lumbre.models import ModelConfig
from lumbre.optim import OptimizerConfig
from lumbre.tokenizer import TokenizerConfig
from pretrain.config import PretrainConfig
from pretrain.data.config import DataConfig

CONFIGS = Path(__file__).parents[2] / "configs"
ROOMS = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "launch": LauncherConfig,
    "model": ModelConfig,
    "data": DataConfig,
    "engine": EngineConfig,
    "optimizer": OptimizerConfig,
    "tokenizer": TokenizerConfig,
}
FILES = sorted(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(CONFIGS)) for file in FILES])
def test_shipped_config_is_right(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no problem but inputs that the user provides: a model that an earlier run leaves, a corpus."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # names of the hub are looked up
    problems: tuple[Problem, ...] = ()
    try:
        load(ROOMS[file.parent.name], file, room=file.parent.name)
    except ConfigError as error:
        problems = error.problems
    assert not [str(problem) for problem in problems if "does not exist" not in problem.fault]


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(CONFIGS)) for file in FILES])
def test_shipped_config_is_readable(file: Path) -> None:
    """A run is about thirty lines: what it is made of has names and defaults."""
    lines = [
        line for line in file.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    assert len(lines) <= 45
