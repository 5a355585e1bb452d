"""The card of a fine-tuned model: what it does, what it came to, how to use it."""

from collections.abc import Mapping
from pathlib import Path

from lumbre.files import write_text

from .config import FinetuneConfig
from .tasks import Task

CARD = """\
---
library_name: transformers
pipeline_tag: {pipeline}
tags:
- lumbre
---

# {name}

Fine-tuned with Lumbre {purpose} from `{start}`: {steps}, seed {seed}.

{table}

```python
{usage}
```

`lumbre predict THIS_FOLDER --input FILE.jsonl` writes predictions as JSON lines.
"""


def write_card(folder: Path, config: FinetuneConfig, task: Task, metrics: Mapping[str, float]) -> None:
    """Write README.md beside the model."""
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items())
    length = config.train
    text = CARD.format(
        pipeline=task.pipeline,
        name=config.name,
        purpose=task.purpose,
        start=Path(config.model.path).as_posix() + (" (fresh weights)" if config.model.from_scratch else ""),
        steps=_count(length.epochs, "epoch") if length.epochs is not None else _count(length.steps, "step"),
        seed=config.seed,
        table=f"| metric | value |\n|---|---|\n{rows}",
        usage=task.usage_code(),
    )
    write_text(folder / "README.md", text)


def _count(number: float | None, what: str) -> str:
    return f"{number:g} {what}" if number == 1 else f"{number:g} {what}s"
