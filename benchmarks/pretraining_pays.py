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
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).parent / "configs"
LUMBRE = str(Path(sys.executable).parent / "lumbre")
SETS = ("wikitext2", "books", "imdb", "sst2", "ag_news", "cola", "squad", "dialogsum")
SEEDS = [1, 2, 3, 4, 5]
CLASSIFY = {"type": "classification", "max_length": 64}
SUMMARIZE = {"type": "summarization", "text_field": "dialogue", "max_length": 256, "max_target_length": 48}
AG_TEST = "ag_news_test.csv"
"""AG News' test part with the columns of its training part."""
TASKS: dict[str, dict[str, Any]] = {
    "sst2": {
        "task": CLASSIFY,
        "data": {
            "type": "table",
            "columns": ["text", "label"],
            **{"train": "sst2/train.tsv", "validation": "sst2/dev.tsv", "test": "sst2/test.tsv"},
            "train_limit": 1000,
        },
        "epochs": 8,
        "batch": 32,
    },
    "ag_news": {
        "task": CLASSIFY,
        "data": {
            "type": "table",
            "columns": ["text", "label"],
            **{"train": "ag_news/lst_train.csv", "validation_share": 0.2, "test": AG_TEST},
            **{"train_limit": 1000, "test_limit": 2000},
        },
        "epochs": 8,
        "batch": 32,
    },
    "cola": {
        "task": {**CLASSIFY, "metric": "matthews"},
        "data": {
            "type": "table",
            "columns": ["source", "label", "star", "text"],
            "train": "cola/in_domain_train.tsv",
            "validation": "cola/in_domain_dev.tsv",
            "test": "cola/out_of_domain_dev.tsv",
        },
        "epochs": 3,
        "batch": 32,
    },
    "squad": {
        "task": {"type": "question_answering", "max_length": 256, "stride": 64, "no_answers": False},
        "data": {
            "type": "squad",
            **{"train": "squad/train-v1.1.json", "validation_share": 0.05, "test": "squad/dev-v1.1.json"},
            **{"train_limit": 2000, "validation_limit": 300, "test_limit": 500},
            "on_bad_example": "skip",
        },
        "epochs": 2,
        "batch": 16,
    },
    "dialogsum": {
        "task": SUMMARIZE,
        "data": {
            "type": "jsonl",
            **{"train": "dialogsum/train.jsonl", "validation_share": 0.05, "test": "dialogsum/dev.jsonl"},
            **{"train_limit": 2000, "validation_limit": 50, "test_limit": 150},
        },
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
    for name in SETS:
        if not (chosen.work / name).exists():
            (chosen.work / name).symlink_to((chosen.data / name).resolve())
    write_ag_test(chosen.work)
    for model in chosen.models:
        lumbre(chosen.work, "pretrain", str((CONFIGS / f"pays-{model}.yaml").resolve()))
        for task in TASKS_OF[model]:
            if task in chosen.tasks:
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
        "data": settings["data"],
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
            cells = [f"{statistics.mean(its):.3f} ± {statistics.stdev(its):.3f}" for its in values.values()]
            test = stats.ttest_rel(values["pretrained"], values["scratch"])
            gain = f"{results['gain']['mean']:+.3f} ± {results['gain']['standard_error']:.3f}"
            yield f"| {model} | {task} | {metric} | {' | '.join(cells)} | {gain} | p = {test.pvalue:.2g} |"


def write_ag_test(work: Path) -> None:
    """Write AG News' test part as the training part is: text, label; it counts from 1, that from 0."""
    with (work / "ag_news" / "test.csv").open(encoding="utf-8", newline="") as stream:
        found = [(f"{title} {text}", int(label) - 1) for label, title, text in csv.reader(stream)]
    with (work / AG_TEST).open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows(found)


if __name__ == "__main__":
    main()
