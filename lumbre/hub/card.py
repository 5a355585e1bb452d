"""The model card: what is in a model folder, and how to load it (Mitchell et al., 2019, arXiv:1810.03993)."""

from collections.abc import Sequence

from lumbre.hub.base import Model, StateDictAdapter
from lumbre.models import Detector, TransformerConfig

CARD = """\
---
library_name: {library}
pipeline_tag: {pipeline}
tags:
- lumbre
---

# {kind} of {millions:.1f}M parameters

Pretrained with Lumbre. {layers} layers, hidden size {hidden}, {heads} heads, {vocabulary} tokens,
{position} positions.

```python
{usage}
```

{note}
"""


def model_card(
    model: Model, adapter: StateDictAdapter | None, adapters: Sequence[StateDictAdapter], remark: str = ""
) -> str:
    """Return the README.md of a model folder; `remark` is what else there is to say of the model."""
    config = model.config
    auto = adapter.auto_class if adapter else auto_class(model)
    usage = f"from transformers import {auto}, AutoTokenizer\n\n"
    usage += 'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")\n'
    usage += f'model = {auto}.from_pretrained("THIS FOLDER")'
    if adapter is not None:
        note = (
            f"The architecture is transformers' own {adapter.architecture}: Lumbre is not needed to load it."
        )
    else:
        usage = f"import lumbre  # registers the model type\n{usage}"
        fitting = [other for other in adapters if other.kind is type(model)]
        misfits = [f"- {other.architecture}: {other.misfit(config)}" for other in fitting]
        note = "Loading it needs Lumbre, as no class of transformers expresses this model:\n\n"
        note += "\n".join(misfits)
    kind, pipeline = _kind(model)
    return CARD.format(
        library="transformers" if adapter else "lumbre",
        pipeline=pipeline,
        kind=kind,
        millions=sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        layers=_layers(config),
        hidden=config.hidden_size,
        heads=config.num_heads,
        vocabulary=config.vocab_size,
        position=type(config.position).model_fields["type"].default,
        usage=usage,
        note=f"{note}\n\n{remark}" if remark else note,
    )


def auto_class(model: Model) -> str:
    """Return the Auto class of a model of type `lumbre`, which has a language-model head or none."""
    if isinstance(model, Detector):
        return "AutoModel"
    if model.config.num_decoder_layers:
        return "AutoModelForSeq2SeqLM"
    return "AutoModelForCausalLM" if model.config.causal else "AutoModelForMaskedLM"


def _kind(model: Model) -> tuple[str, str]:
    config = model.config
    if isinstance(model, Detector):
        return "A detector of replaced tokens", "feature-extraction"
    if config.num_decoder_layers:
        return "An encoder-decoder", "text2text-generation"
    return ("A decoder", "text-generation") if config.causal else ("An encoder", "fill-mask")


def _layers(config: TransformerConfig) -> str:
    if config.num_decoder_layers:
        return f"{config.num_layers} + {config.num_decoder_layers}"
    return str(config.num_layers)
