"""What each position encoding does beyond the length it was trained at.

    python benchmarks/extrapolation.py [--steps 600] [--to docs/extrapolation]

Trains the decoder of benchmarks/configs/extrapolation.yaml once for each encoding at 128 tokens (runs that
are complete are not trained again) and measures it on long validation documents at 128, 256, 512 and 1,024.
The same tokens are measured at each length: the first 1,024 of a document, cut into windows that start
without what came before. Whoever can use a longer past gets better with the length; whoever fails beyond
the trained length gets worse. Writes the figures as JSON and the curves as a picture.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from lumbre.pretrain.config import PretrainConfig
from lumbre.pretrain.data.preparation.prepare import prepare

from lumbre import config as configs
from lumbre import hub

CONFIG = Path(__file__).parent / "configs" / "extrapolation.yaml"
TRAINED, LENGTHS = 128, (128, 256, 512, 1024)
DOCUMENTS = 64
ENCODINGS = {
    "learned": "{type: learned, max_length: 1024}",
    "sinusoidal": "{type: sinusoidal}",
    "rotary": "{type: rotary}",
    "alibi": "{type: alibi}",
    "relative": "{type: relative}",
    "none": "{type: none}",
}
"""Learned positions have a vector for each of 1,024; training reaches the first 128 of them."""


def train(kind: str, steps: int) -> Path:
    """Train with one encoding, or find it trained; return the model folder."""
    lumbre = Path(sys.executable).with_name("lumbre")
    overrides = [f"name={kind}-{steps}", f"train.steps={steps}", f"model.position={ENCODINGS[kind]}"]
    subprocess.run([lumbre, "pretrain", CONFIG, *overrides], check=True)
    return Path("runs/extrapolation") / f"{kind}-{steps}" / "model"


def long_documents() -> torch.Tensor:
    """Return the first 1,024 tokens of validation documents that have so many, [documents, 1024]."""
    config = configs.load(PretrainConfig, CONFIG, room="pretrain")
    documents = prepare(config.data, config.tokenizer).split("validation")
    rows = []
    for index in range(documents.num_documents):
        start, stop = documents.document(index)
        if stop - start >= LENGTHS[-1] and len(rows) < DOCUMENTS:
            rows.append(torch.from_numpy(documents.tokens(start, start + LENGTHS[-1]).astype("int64")))
    return torch.stack(rows)


@torch.no_grad()
def losses(folder: Path, ids_DT: torch.Tensor) -> dict[int, float]:
    """Return the mean loss in nats at each length, over the tokens that are targets at every one."""
    model = hub.load(folder).eval()
    found = {}
    for length in LENGTHS:
        windows = ids_DT.view(-1, length)
        labels = windows.roll(-1, dims=1).view(-1, TRAINED)
        labels[:, -1] = -100
        labels = labels.view(-1, length)
        total = sum(
            model(window, labels=label).loss.item()
            for window, label in zip(windows.split(4), labels.split(4), strict=True)
        )
        found[length] = total / int((labels != -100).sum())
    return found


def draw(results: dict[str, dict[int, float]], file: Path) -> None:
    """Draw loss against length, a line an encoding."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.2), dpi=150)
    for color, (kind, found) in zip(
        ("#c2542d", "#2f6690", "#5a8f5a", "#8a5a8f", "#b8912b", "#6b6b6b"), results.items(), strict=True
    ):
        axes.plot(list(found), list(found.values()), marker="o", color=color, label=kind)
    axes.axvline(TRAINED, color="#999999", linestyle=":", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
    axes.set_xlabel("length at evaluation, in tokens (trained at 128)")
    axes.set_ylabel("loss, nats per token")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    """Train, measure, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--to", type=Path, default=Path("docs/extrapolation"))
    asked = parser.parse_args()
    results = {}
    for kind in ENCODINGS:
        folder = train(kind, asked.steps)
        results[kind] = losses(folder, long_documents())
        print(f"{kind:<12}" + "".join(f"{length:>7}: {loss:.3f}" for length, loss in results[kind].items()))
    asked.to.with_suffix(".json").write_text(
        json.dumps({"steps": asked.steps, "loss": results}, indent=2) + "\n"
    )
    draw(results, asked.to.with_suffix(".png"))


if __name__ == "__main__":
    main()
