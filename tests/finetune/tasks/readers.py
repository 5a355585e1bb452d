"""Tiny random models of families that read both ways, each with a tokenizer of its family's kind."""

from pathlib import Path

import torch
import transformers
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from lumbre.tokenizer import BpeConfig, UnigramConfig

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = Path(__file__).read_text()


def roberta(folder: Path) -> Path:
    """Return a RoBERTa with a byte-level vocabulary that has other pieces behind a blank."""
    backend = BpeConfig(vocab_size=512).build([TEXT * 2]).backend
    backend.add_special_tokens(["<s>", "</s>", "<pad>"])
    ids = {name: backend.token_to_id(name) for name in ("<s>", "</s>", "<pad>")}
    pair = ("</s>", ids["</s>"]), ("<s>", ids["<s>"])
    backend.post_processor = processors.RobertaProcessing(*pair, trim_offsets=True, add_prefix_space=False)
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = transformers.RobertaConfig(
        vocab_size=backend.get_vocab_size(),
        max_position_embeddings=600,
        pad_token_id=ids["<pad>"],
        type_vocab_size=1,
        **SIZES,
    )
    return saved(transformers.RobertaModel, config, folder)


def deberta(folder: Path) -> Path:
    """Return a DeBERTa of the second version, whose pieces are a unigram model's."""
    tokenizer = UnigramConfig(vocab_size=512).build([TEXT])
    tokenizer.save(folder)
    config = transformers.DebertaV2Config(
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_id,
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        **SIZES,
    )
    return saved(transformers.DebertaV2Model, config, folder)


def saved(
    kind: type[transformers.PreTrainedModel], config: transformers.PretrainedConfig, folder: Path
) -> Path:
    """Write a model with weights that are far from even."""
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    return folder


FAMILIES = {"roberta": roberta, "deberta": deberta}
