"""Does pretraining pay? A small BERT, GPT and T5, pretrained and from scratch, fine-tuned over five seeds.

    python benchmarks/pretraining_pays.py DATA WORK [--models bert gpt t5] [--tasks sst2 ag_news ...]

DATA holds the unpacked sets wikitext2, books and imdb to pretrain on, and sst2, ag_news, cola, squad and
dialogsum. All that is made stays in WORK, and the same command goes on where it was stopped. Each model is
pretrained once (tens of minutes of two cores; benchmarks/configs/pays-*.yaml); each task is then learned with
the same settings from the pretrained weights and from fresh ones. The table is printed, and is WORK/table.md.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).parent / "configs"
LUMBRE = str(Path(sys.executable).parent / "lumbre")
SEEDS = [1, 2, 3, 4, 5]
CLASSIFY = {"type": "classification", "max_length": 64}
SUMMARIZE = {"type": "summarization", "text_field": "dialogue", "max_length": 256, "max_target_length": 48}
TASKS: dict[str, dict[str, Any]] = {
    "sst2": {"task": CLASSIFY, "data": {"train_limit": 1000}, "epochs": 8, "batch": 32},
    "ag_news": {
        "task": CLASSIFY,
        "data": {"train_limit": 1000, "test_limit": 2000},
        "epochs": 8,
        "batch": 32,
    },
    "cola": {"task": {**CLASSIFY, "metric": "matthews"}, "data": {}, "epochs": 3, "batch": 32},
    "squad": {
        "task": {"type": "question_answering", "max_length": 256, "stride": 64, "no_answers": False},
        "data": {"train_limit": 2000, "validation_limit": 300, "test_limit": 500, "on_bad_example": "skip"},
        "epochs": 2,
        "batch": 16,
    },
    "dialogsum": {
        "task": SUMMARIZE,
        "data": {"train_limit": 2000, "validation_limit": 50, "test_limit": 150},
        "epochs": 2,
        "batch": 16,
    },
}
TASKS_OF = {
    "bert": ["sst2", "ag_news", "cola", "squad"],
    "gpt": ["sst2", "dialogsum"],
    "t5": ["dialogsum"],
}
MICRO_BATCHES = {"bert": 1, "gpt": 4, "t5": 4}
"""A BERT computes no padding; the others have less of it with like lengths together."""
RATES = {"bert": 5e-4, "gpt": 5e-4, "t5": 1e-3}


def main() -> None:
    """Pretrain what is not pretrained yet, fine-tune what is not fine-tuned, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--models", nargs="+", default=list(TASKS_OF), choices=TASKS_OF)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    for name in ("wikitext2", "books", "imdb"):
        if not (chosen.work / name).exists():
            (chosen.work / name).symlink_to((chosen.data / name).resolve())
    for model in chosen.models:
        lumbre(chosen.work, "pretrain", str((CONFIGS / f"pays-{model}.yaml").resolve()))
        for task in TASKS_OF[model]:
            if task in chosen.tasks:
                write_splits(task, chosen.data, chosen.work / "splits" / task)
                finetune(chosen.work, model, task)
    table = "\n".join(rows(chosen.work))
    (chosen.work / "table.md").write_text(table + "\n", encoding="utf-8")
    print(table)


def lumbre(work: Path, *arguments: str) -> None:
    """Run the command in the work folder."""
    done = subprocess.run([LUMBRE, *arguments], cwd=work, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


def finetune(work: Path, model: str, task: str) -> None:
    """Fine-tune a model on a task, both starts and every seed."""
    settings = TASKS[task]
    config = {
        "name": f"{model}-{task}",
        "seeds": SEEDS,
        "compare_with_scratch": True,
        "model": {"path": f"runs/pays-{model}/model"},
        "task": settings["task"],
        "data": {
            "type": "jsonl",
            **{split: f"splits/{task}/{split}.jsonl" for split in ("train", "validation", "test")},
            **settings["data"],
        },
        "selection": {"keep": "best"},
        "optimizer": {"type": "adamw", "learning_rate": RATES[model], "weight_decay": 0.01},
        "schedule": {"type": "linear", "warmup": 0.1},
        "train": {
            "epochs": settings["epochs"],
            "global_batch_size": settings["batch"],
            "micro_batch_size": settings["batch"] // MICRO_BATCHES[model],
            "log_every": 50,
        },
    }
    file = work / f"{model}-{task}.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    lumbre(work, "finetune", file.name)


def rows(work: Path) -> Iterable[str]:
    """Yield the table's lines, of what is complete."""
    yield "| model | task | metric | from scratch | pretrained | gain | paired t-test |"
    yield "|---|---|---|---|---|---|---|"
    from scipy import stats

    for model, tasks in TASKS_OF.items():
        for task in tasks:
            file = work / "runs" / f"{model}-{task}" / "results.json"
            if not file.is_file():
                continue
            results = json.loads(file.read_bytes())
            metric = results["metrics"][0]
            values = {
                start: [row[metric] for row in results["rows"] if row["model"] == start]
                for start in ("scratch", "pretrained")
            }
            cells = [f"{sum(its) / len(its):.3f} ± {_std(its):.3f}" for its in values.values()]
            test = stats.ttest_rel(values["pretrained"], values["scratch"])
            gain = f"{results['gain']['mean']:+.3f} ± {results['gain']['standard_error']:.3f}"
            yield f"| {model} | {task} | {metric} | {' | '.join(cells)} | {gain} | p = {test.pvalue:.2g} |"


def _std(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return float((sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5)


def write_splits(task: str, data: Path, folder: Path) -> None:
    """Write a task's records as JSON lines, a file a split, if that has not been done."""
    if (folder / "test.jsonl").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for split, records in SPLITS[task](data).items():
        lines = "".join(json.dumps(one) + "\n" for one in records)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def sst2(data: Path) -> dict[str, list[Any]]:
    """Return SST-2 with its own splits."""
    files = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
    return {
        split: [{"text": text, "label": int(label)} for text, label in tsv(data / "sst2" / name)]
        for split, name in files.items()
    }


def ag_news(data: Path) -> dict[str, list[Any]]:
    """Return AG News, the last fifth of its training part as validation."""
    with (data / "ag_news" / "lst_train.csv").open(encoding="utf-8", newline="") as stream:
        train = [{"text": text, "label": int(label)} for text, label in csv.reader(stream)]
    with (data / "ag_news" / "test.csv").open(encoding="utf-8", newline="") as stream:
        test = [{"text": f"{title} {text}", "label": int(label)} for label, title, text in csv.reader(stream)]
    cut = len(train) * 4 // 5
    return {"train": train[:cut], "validation": train[cut:], "test": test}


def cola(data: Path) -> dict[str, list[Any]]:
    """Return CoLA; validation is in-domain, test out-of-domain development data."""
    files = {
        "train": "in_domain_train.tsv",
        "validation": "in_domain_dev.tsv",
        "test": "out_of_domain_dev.tsv",
    }
    return {
        split: [{"text": row[3], "label": int(row[1])} for row in tsv(data / "cola" / name)]
        for split, name in files.items()
    }


def squad(data: Path) -> dict[str, list[Any]]:
    """Return SQuAD 1.1: its training part, and its development part by article as validation and test."""
    articles = {
        part: json.loads((data / "squad" / f"{part}-v1.1.json").read_bytes())["data"]
        for part in ("train", "dev")
    }
    parts = {"train": articles["train"], "validation": articles["dev"][::2], "test": articles["dev"][1::2]}
    return {
        split: [
            {
                "id": one["id"],
                "question": one["question"],
                "context": paragraph["context"],
                "answers": {
                    "text": [answer["text"] for answer in one["answers"]],
                    "answer_start": [answer["answer_start"] for answer in one["answers"]],
                },
            }
            for article in its
            for paragraph in article["paragraphs"]
            for one in paragraph["qas"]
        ]
        for split, its in parts.items()
    }


def dialogsum(data: Path) -> dict[str, list[Any]]:
    """Return DialogSum with its own splits; of several summaries of a dialogue the first."""
    out = {}
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        lines = (data / "dialogsum" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        out[split] = [
            {"dialogue": one["dialogue"], "summary": one.get("summary", one.get("summary1"))}
            for one in records
        ]
    return out


def tsv(file: Path) -> list[list[str]]:
    """Return a file's rows."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


SPLITS = {"sst2": sst2, "ag_news": ag_news, "cola": cola, "squad": squad, "dialogsum": dialogsum}


if __name__ == "__main__":
    main()
