"""Models larger than a process's memory: written, read and proven part by part."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lumbre import hub
from lumbre.errors import ModelError
from lumbre.hub import filling, verify, weights
from lumbre.models import LanguageModel
from lumbre.models.transformer import Block
from tests.hub.shipped import shipped


@pytest.mark.parametrize("name", ["gpt-tiny", "bert-tiny", "t5-mini", "mixture-tiny"])
def test_weights_of_more_than_a_file_are_several_with_an_index(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lumbre and plain transformers read them as they read one."""
    limit = 200_000
    monkeypatch.setattr(weights, "FILE_BYTES", limit)
    model = shipped(name)
    folder = hub.save(model, None, tmp_path / "model")
    files = sorted(folder.glob("*.safetensors"))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert [file.name for file in files] == sorted(set(index["weight_map"].values()))
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    held = {file.name: load_file(file) for file in files}
    assert index["weight_map"] == {one: file for file in held for one in held[file]}
    sizes = [[one.nbytes for one in tensors.values()] for tensors in held.values()]
    assert index["metadata"]["total_size"] == sum(map(sum, sizes))
    assert len(files) > 2
    assert all(sum(size) <= limit or len(size) == 1 for size in sizes)
    assert hub.verify_export(model, folder) <= 1e-3
    again = hub.load(folder)
    for key, parameter in model.named_parameters():
        assert torch.equal(again.get_parameter(key), parameter), key


@pytest.mark.parametrize("name", ["gpt-tiny", "bert-tiny", "t5-mini", "mixture-tiny"])
def test_a_model_without_weights_is_written_and_proven_from_those_it_is_lent(
    name: str, tmp_path: Path
) -> None:
    """Of its blocks no more than one has weights at a time; other weights than the folder's are found out."""
    model = shipped(name)
    with torch.device("meta"):
        empty = LanguageModel(model.config.build())
    read: list[str] = []

    class Source(Mapping[str, torch.Tensor]):
        def __getitem__(self, key: str) -> torch.Tensor:
            read.append(key)
            return model.get_parameter(key).detach()

        def __iter__(self) -> Iterator[str]:
            return (key for key, _ in model.named_parameters())

        def __len__(self) -> int:
            return len(dict(model.named_parameters()))

    source = Source()
    one, other = tmp_path / "one" / "model", tmp_path / "other" / "model"
    hub.save(empty, None, one, weights=source.items())
    hub.save(model, None, other)
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert (one / "config.json").read_bytes() == (other / "config.json").read_bytes()
    assert sorted(read) == sorted(source)
    read.clear()
    held: list[int] = []
    forward = Block.forward

    def watched(block: Block, *inputs: Any, **keys: Any) -> Any:
        parts = [part for part in lent if any(not each.is_meta for each in part.parameters())]
        held.append(len(parts))
        return forward(block, *inputs, **keys)

    lent: list[Block] = []
    init = filling.lend

    def lend(meta: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
        init(meta, weights)
        lent.extend(part for part in meta.modules() if isinstance(part, Block))

    with patch.object(Block, "forward", watched), patch.object(verify, "lend", lend):
        found = hub.verify_export(empty, one, weights=source)
    assert max(held) == 1
    assert found == hub.verify_export(model, one)
    assert all(parameter.is_meta for parameter in empty.parameters())
    with torch.no_grad():
        model.get_parameter(next(key for key in source if "blocks.1.mlp" in key)).mul_(1.01)
    with pytest.raises(ModelError, match="computes other logits"):
        hub.verify_export(empty, one, weights=source)


def test_weights_that_do_not_all_come_leave_no_folder(tmp_path: Path) -> None:
    model = shipped("gpt-tiny")
    given = [(name, one) for name, one in model.named_parameters() if "blocks.1.mlp.up.weight" not in name]
    with pytest.raises(ModelError, match=r"blocks\.1\.mlp\.up\.weight is missing"):
        hub.save(model, None, tmp_path / "model", weights=given)
    assert not list(tmp_path.iterdir())
