"""Fine-tuning by transformers' own Trainer, as its examples do it: run_glue, run_qa and run_summarization.

    python benchmarks/peers/hf_trainer.py JOB.json OUT.json

JOB.json names the task, the model folder, the files, the fields and the hyperparameters. Batches are padded
to their longest row; run_glue and run_qa pad to max_length unless told otherwise, which takes longer.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)


def records(file: str) -> list[dict[str, Any]]:
    """Return a JSON-lines file's records."""
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def arguments(job: dict[str, Any], folder: str, kind: type[TrainingArguments], **more: Any) -> Any:
    """Return the recipe's arguments: AdamW, linear decay, no checkpoint but the model at the end."""
    return kind(
        output_dir=folder,
        per_device_train_batch_size=job["batch_size"],
        per_device_eval_batch_size=job["eval_batch_size"],
        num_train_epochs=job["epochs"],
        learning_rate=job["learning_rate"],
        warmup_steps=job["warmup"],
        weight_decay=0.0,
        lr_scheduler_type="linear",
        seed=job["seed"],
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        eval_strategy="no",
        logging_steps=50,
        report_to=[],
        disable_tqdm=True,
        **more,
    )


def classification(job: dict[str, Any], folder: str) -> dict[str, float]:
    """Train and measure as run_glue does; return accuracy."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForSequenceClassification.from_pretrained(job["model"], num_labels=2)

    def encode(batch: dict[str, list[Any]]) -> Any:
        return tokenizer(batch["sentence"], truncation=True, max_length=job["max_length"])

    sets = {
        split: Dataset.from_list(records(job[split])).map(encode, batched=True)
        for split in ("train", "validation")
    }
    trainer = Trainer(
        model=model,
        args=arguments(job, folder, TrainingArguments),
        train_dataset=sets["train"],
        eval_dataset=sets["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=lambda found: {
            "accuracy": float((np.argmax(found.predictions, axis=1) == found.label_ids).mean())
        },
    )
    trainer.train()
    trainer.save_model(job["saved"])
    return {"accuracy": trainer.evaluate()["eval_accuracy"]}


def question_answering(job: dict[str, Any], folder: str) -> dict[str, float]:
    """Train as run_qa does: strides, positions of the answer's tokens; return the validation rows' loss."""
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForQuestionAnswering.from_pretrained(job["model"])

    def encode(batch: dict[str, list[Any]]) -> Any:
        encoded = tokenizer(
            [question.lstrip() for question in batch["question"]],
            batch["context"],
            truncation="only_second",
            max_length=job["max_length"],
            stride=job["stride"],
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        example_of = encoded.pop("overflow_to_sample_mapping")
        starts, ends = [], []
        for row, offsets in enumerate(encoded.pop("offset_mapping")):
            answer = batch["answers"][example_of[row]]
            sequence = encoded.sequence_ids(row)
            context = [at for at, which in enumerate(sequence) if which == 1]
            cls = encoded["input_ids"][row].index(tokenizer.cls_token_id)
            first = answer["answer_start"][0] if answer["text"] else -1
            last = first + len(answer["text"][0]) if answer["text"] else -1
            inside = answer["text"] and offsets[context[0]][0] <= first and offsets[context[-1]][1] >= last
            if not inside:
                starts.append(cls)
                ends.append(cls)
                continue
            starts.append(max(at for at in context if offsets[at][0] <= first))
            ends.append(min(at for at in context if offsets[at][1] >= last))
        encoded["start_positions"], encoded["end_positions"] = starts, ends
        return encoded

    sets = {
        split: (data := Dataset.from_list(records(job[split]))).map(
            encode, batched=True, remove_columns=data.column_names
        )
        for split in ("train", "validation")
    }
    trainer = Trainer(
        model=model,
        args=arguments(job, folder, TrainingArguments),
        train_dataset=sets["train"],
        eval_dataset=sets["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(job["saved"])
    return {"loss": trainer.evaluate()["eval_loss"]}


def summarization(job: dict[str, Any], folder: str) -> dict[str, float]:
    """Train and generate as run_summarization does; return ROUGE-L by the package rouge-score."""
    from rouge_score.rouge_scorer import RougeScorer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForSeq2SeqLM.from_pretrained(job["model"])

    def encode(batch: dict[str, list[Any]]) -> Any:
        encoded = tokenizer(batch["dialogue"], truncation=True, max_length=job["max_length"])
        targets = tokenizer(
            text_target=batch["summary"], truncation=True, max_length=job["max_target_length"]
        )
        encoded["labels"] = targets["input_ids"]
        return encoded

    sets = {}
    for split in ("train", "validation"):
        data = Dataset.from_list(records(job[split]))
        sets[split] = data.map(encode, batched=True, remove_columns=data.column_names)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)

    def measure(found: Any) -> dict[str, float]:
        pad = tokenizer.pad_token_id
        texts = [
            tokenizer.batch_decode(np.where(ids < 0, pad, ids), skip_special_tokens=True)
            for ids in (found.label_ids, found.predictions)
        ]
        scores = [scorer.score(*pair)["rougeL"].fmeasure for pair in zip(*texts, strict=True)]
        return {"rougeL": float(np.mean(scores))}

    trainer = Seq2SeqTrainer(
        model=model,
        args=arguments(
            job,
            folder,
            Seq2SeqTrainingArguments,
            predict_with_generate=True,
            generation_max_length=job["max_target_length"],
            generation_num_beams=job["beams"],
        ),
        train_dataset=sets["train"],
        eval_dataset=sets["validation"],
        data_collator=DataCollatorForSeq2Seq(tokenizer, model),
        processing_class=tokenizer,
        compute_metrics=measure,
    )
    trainer.train()
    trainer.save_model(job["saved"])
    return {"rougeL": trainer.evaluate()["eval_rougeL"]}


TASKS = {
    "classification": classification,
    "question_answering": question_answering,
    "summarization": summarization,
}


def main() -> None:
    """Do the job and write its metrics."""
    transformers.logging.set_verbosity_error()
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        found = TASKS[job["task"]](job, folder)
    Path(sys.argv[2]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
