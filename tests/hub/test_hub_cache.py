"""An offline cluster: what its cache holds is no fault, what it lacks is told without a network."""

from pathlib import Path

import huggingface_hub.constants
import pytest

from lumbre.hub_cache import dataset_problems, model_problems


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return an empty cache of a node without a network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_a_model_in_the_cache_is_no_fault(cache: Path) -> None:
    (problem,) = model_problems("owner/name", "model.path")
    assert problem.key == "model.path"
    assert "hf download owner/name" in problem.remedy
    snapshot = cache / "hub/models--owner--name/snapshots/0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (cache / "hub/models--owner--name/refs").mkdir()
    (cache / "hub/models--owner--name/refs/main").write_text("0123")
    assert list(model_problems("owner/name", "model.path")) == []


def test_a_name_that_the_hub_cannot_have_is_told(cache: Path) -> None:
    (problem,) = model_problems("a b", "model.path")
    assert "no name of the hub" in problem.fault


@pytest.mark.parametrize(
    "folder", ["hub/datasets--Owner--a-set", "datasets/Owner___a-set", "datasets/owner___a_set"]
)
def test_a_data_set_in_either_cache_is_no_fault(cache: Path, folder: str) -> None:
    (problem,) = dataset_problems("Owner/a-set", "data.name")
    assert "hf download --repo-type dataset Owner/a-set" in problem.remedy
    (cache / folder).mkdir(parents=True)
    assert list(dataset_problems("Owner/a-set", "data.name")) == []


def test_with_a_network_nothing_is_looked_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert list(model_problems("owner/name", "model.path")) == []
    assert list(dataset_problems("owner/name", "data.name")) == []
