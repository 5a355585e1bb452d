"""Real vocabularies: GPT-2's and BERT's published tokenizers on our models of the published sizes.

LUMBRE_DATA names a folder with `tokenizers/` in it: GPT-2's encoder.json and vocab.bpe, BERT's vocab.txt.
"""

import os
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from lumbre import config as configs
from lumbre import hub
from lumbre.models import LanguageModel, ModelConfig
from lumbre.tokenizer import Tokenizer

pytestmark = pytest.mark.real_data
TEXT = "The quick brown fox didn't jump over 13 lazy dogs; élan vital, naïveté and 你好.\n"


@pytest.fixture(scope="module")
def vocabularies() -> Path:
    place = os.environ.get("LUMBRE_DATA")
    if not place or not (Path(place) / "tokenizers").is_dir():
        pytest.skip("needs LUMBRE_DATA, a folder with tokenizers/ (GPT-2's and BERT's vocabularies)")
    return Path(place) / "tokenizers"


def loaded(name: str, vocabularies: Path, folder: Path) -> Tokenizer:
    """Write the published vocabulary as a tokenizer.json and load it with ours."""
    if name == "gpt2":
        files = [str(vocabularies / "gpt2" / file) for file in ("encoder.json", "vocab.bpe")]
        backend = tokenizers.ByteLevelBPETokenizer(*files)
        backend.add_special_tokens(["<|endoftext|>"])
    else:
        backend = tokenizers.BertWordPieceTokenizer(str(vocabularies / "bert-base-uncased" / "vocab.txt"))
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)


@pytest.mark.parametrize(("name", "size"), [("gpt2", 50257), ("bert-base", 30522)])
@torch.no_grad()
def test_a_model_of_published_size_is_exported_with_its_published_vocabulary(
    name: str, size: int, vocabularies: Path, tmp_path: Path
) -> None:
    tokenizer = loaded(name, vocabularies, tmp_path)
    assert tokenizer.vocab_size == size
    config = configs.load(ModelConfig, f"configs/model/{name}.yaml", room="model")
    model = LanguageModel(config.build(tokenizer.vocab_size)).eval()
    folder = hub.save(model, tokenizer, tmp_path / "model")
    auto = transformers.AutoModelForCausalLM if name == "gpt2" else transformers.AutoModelForMaskedLM
    theirs, encode = auto.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    batch = encode([TEXT], return_tensors="pt")
    ids = tokenizer.encode_batch([TEXT])[0]
    kept = batch["input_ids"][0].tolist()
    assert tokenizer.decode(ids).split() == encode.decode(kept, skip_special_tokens=True).split()
    ours = model(batch["input_ids"], batch["attention_mask"]).logits
    wanted = theirs(**batch).logits
    assert (ours - wanted).abs().max() <= 1e-5 * max(1.0, wanted.abs().max().item())
