"""The model card: what is in a model folder, and how to load it (Mitchell et al., 2019, arXiv:1810.03993)."""

from collections.abc import Sequence

from lumbre.hub.base import StateDictAdapter
from lumbre.models import LanguageModel, parameter_count

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
    model: LanguageModel, adapter: StateDictAdapter | None, adapters: Sequence[StateDictAdapter]
) -> str:
    """Return the README.md of a model folder."""
    config = model.config
    if adapter is not None:
        usage = f"from transformers import {adapter.auto_class}, AutoTokenizer\n\n"
        usage += 'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")\n'
        usage += f'model = {adapter.auto_class}.from_pretrained("THIS FOLDER")'
        note = (
            f"The architecture is transformers' own {adapter.architecture}: Lumbre is not needed to load it."
        )
    else:
        usage = 'import lumbre.hub\n\nmodel = lumbre.hub.load("THIS FOLDER")'
        usage += "\nlogits = model(input_ids=input_ids, attention_mask=attention_mask).logits"
        misfits = [f"- {other.architecture}: {other.misfit(config)}" for other in adapters]
        note = "Loading it needs Lumbre, as no class of transformers expresses this model:\n\n"
        note += "\n".join(misfits)
    return CARD.format(
        library="transformers" if adapter else "lumbre",
        pipeline="text-generation" if config.causal else "fill-mask",
        kind="A decoder" if config.causal else "An encoder",
        millions=parameter_count(config) / 1e6,
        layers=config.num_layers,
        hidden=config.hidden_size,
        heads=config.num_heads,
        vocabulary=config.vocab_size,
        position=type(config.position).model_fields["type"].default,
        usage=usage,
        note=note,
    )
