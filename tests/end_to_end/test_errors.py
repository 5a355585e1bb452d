"""Law 8: errors come early, all at once, on one screen, with exit status 2 and no traceback."""

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from .conftest import Project

HEAVY = (
    "torch",
    "torch._dynamo",
    "transformers",
    "deepspeed",
    "accelerate",
    "datasets",
    "wandb",
    "sklearn",
    "matplotlib",
)


def refused(project: "Project", *arguments: str) -> str:
    """Run `lumbre` to an error; return what it said."""
    done = project.lumbre(*arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) < 24
    return done.stderr


def test_all_problems_are_told_at_once(project: "Project") -> None:
    said = refused(
        project,
        "pretrain",
        "run.yaml",
        "model.hiden_size=8",
        "train.steps=many",
        "optimizer.type=adamm",
        "train.global_batch_size=7",
    )
    assert "error: 3 problems in the config" in said
    assert "model.hiden_size: unknown key; did you mean 'hidden_size'?" in said
    assert "train.steps: should be a valid integer" in said
    assert "optimizer.type: unknown type 'adamm'; did you mean 'adamw'?" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["train.global_batch_size=7"],
            "7 is not micro_batch_size x accumulation_steps x processes = 2 x 3 x 1 = 6",
        ),
        (
            ["train.micro_batch_size=null"],
            "set two of global_batch_size, micro_batch_size and accumulation_steps",
        ),
        (["model.num_heads=3"], "3 heads do not divide hidden_size 16"),
        (["data.seq_length=65"], "65 tokens, and the model has 64 positions"),
        (["objective.type=clm"], "objective clm on an encoder (causal: false)"),
        (["data.sources.0.paths=[nowhere]"], "data.sources.0.paths.0: nowhere does not exist"),
        (["engine.zero_stage=2"], "engine.zero_stage: should be 0, got 2"),
        (["engine.type=deepspeed", "engine.precision=float64"], "DeepSpeed has no float64"),
        (
            ["engine.type=deepspeed", "engine.zero_stage=3", "engine.activation_checkpointing=selective"],
            "engine.activation_checkpointing: selective keeps products",
        ),
        (
            ["engine.activation_checkpointing=full"],
            "engine.activation_checkpointing: should be 'none' or 'selective', or should be a valid integer",
        ),
        (
            ["engine.compile=true", "engine.activation_checkpointing=selective"],
            "engine.activation_checkpointing: with compile: true the compiler itself chooses",
        ),
        (
            ["engine.type=deepspeed", "engine.deepspeed={gradient_clipping: 2}"],
            "engine.deepspeed.gradient_clipping: is set by optimizer.gradient_clipping",
        ),
        (["tracking=[{type: wandbb}]"], "tracking.0.type: unknown type 'wandbb'; did you mean 'wandb'?"),
        (["name=a/b"], "'a/b' cannot be a folder's name"),
        (["optimizer.learning_rate=-1"], "optimizer.learning_rate: should be greater than 0"),
    ],
)
def test_a_misfit_is_shown_with_its_arithmetic(
    project: "Project", arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In process, for speed: the same `load` that the command calls."""
    from lumbre.config import load
    from lumbre.errors import ConfigError
    from pretrain.config import PretrainConfig

    monkeypatch.chdir(project.folder)
    with pytest.raises(ConfigError) as caught:
        load(PretrainConfig, "run.yaml", arguments)
    assert expected in str(caught.value)


def test_world_size_is_part_of_the_arithmetic(project: "Project") -> None:
    done = project.lumbre("pretrain", "run.yaml", "--dry-run", WORLD_SIZE="3", RANK="0")
    assert done.returncode == 2
    assert "8 is not micro_batch_size x accumulation_steps x processes = 2 x 1 x 3 = 6" in done.stderr


def test_a_dry_run_prints_the_resolved_config_and_does_nothing(project: "Project") -> None:
    done = project.lumbre("pretrain", "run.yaml", "name=dry", "--dry-run")
    assert done.returncode == 0
    assert re.search(r"^  beta2: 0.98$", done.stdout, re.MULTILINE)
    assert not (project.folder / "runs/dry").exists()


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], ()),
        (["pretrain", "broken.yaml"], ()),
        (["pretrain", "nothing.yaml"], ()),
        (["pretrain", "run.yaml", "--dry-run"], ("torch",)),
        (["pretrain", "run.yaml", "model.hiden_size=1"], ("torch",)),
    ],
)
def test_errors_come_before_anything_heavy_is_imported(
    project: "Project", arguments: list[str], allowed: tuple[str, ...]
) -> None:
    """What takes seconds is imported late; a clock would only measure the machine."""
    (project.folder / "broken.yaml").write_text("name: [\n")
    code = (
        "import sys\nfrom lumbre import cli\n"
        f"try: cli.main({arguments!r})\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project.folder, capture_output=True, text=True, check=True
    )
    imported = eval(done.stderr.splitlines()[-1])
    assert set(imported) <= set(allowed)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_key_for_cuda_is_refused_before_data_is_prepared_and_a_dry_run_takes_it(project: "Project") -> None:
    """A dry run may be of a run on another machine."""
    key = "engine.cuda_graphs=true"
    words = ["pretrain", "run.yaml", "name=graphs", "data.folder=shards", key, "engine.compile=true"]
    assert project.lumbre(*words, "--dry-run").returncode == 0
    said = refused(project, *words)
    assert (
        "engine.cuda_graphs: needs a CUDA device, and the run is on cpu; use false, or a machine wi" in said
    )
    assert not (project.folder / "shards").exists()


def test_a_bad_command_line_is_explained(project: "Project") -> None:
    assert "No such command 'pretrian'" in refused(project, "pretrian")
    assert "Missing argument" in refused(project, "pretrain")
    assert "no such config file" in refused(project, "finetune", "nothing")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty", b"", "no document in 1 files"),
        ("nul", b"some text\x00 and more\n" * 9, "NUL"),
        ("latin", b"caf\xe9 au lait\n" * 9, "UTF-8"),
    ],
)
def test_a_bad_corpus_is_an_error_that_names_the_file(
    project: "Project", name: str, content: bytes, expected: str
) -> None:
    file = project.folder / f"{name}.txt"
    file.write_bytes(content)
    said = refused(project, "prepare", "run.yaml", f"data.sources.0.paths=[{name}.txt]")
    assert expected.lower() in said.lower()
    assert f"{name}.txt" in said or name == "empty"


def test_a_shard_that_was_changed_is_an_error(project: "Project") -> None:
    """A flipped bit and a cut: found by hash or size, the file named, before any training step."""
    assert project.lumbre("prepare", "run.yaml", "data.folder=shards").returncode == 0
    (shard,) = (project.folder / "shards").glob("train*.tokens")
    whole = shard.read_bytes()
    changed = bytearray(whole)
    changed[100] ^= 1
    shard.write_bytes(changed)
    assert shard.name in refused(project, "pretrain", "run.yaml", "name=flipped", "data.folder=shards")
    shard.write_bytes(whole[:-2])
    assert shard.name in refused(project, "pretrain", "run.yaml", "name=cut", "data.folder=shards")
    assert not list((project.folder / "runs").glob("flipped/metrics.jsonl"))


def test_another_tokenizer_than_the_datas_is_an_error(project: "Project") -> None:
    assert project.lumbre("prepare", "run.yaml", "data.folder=words").returncode == 0
    said = refused(project, "pretrain", "run.yaml", "data.folder=words", "tokenizer.vocab_size=700")
    assert "600" in said
    assert "700" in said


def test_a_run_folder_that_cannot_be_written_is_an_error(project: "Project") -> None:
    (project.folder / "file").write_text("in the way")
    said = refused(project, "pretrain", "run.yaml", "runs_folder=file")
    assert "a file stands where a folder is needed" in said
    assert Path(project.folder / "file").read_text() == "in the way"


def test_a_decoder_is_asked_for_where_one_is_needed(project: "Project") -> None:
    assert "is an encoder" in refused(project, "generate", "runs/unbroken", "--prompt", "def")
    assert "neither a finished run nor a model folder" in refused(
        project, "generate", "runs", "--prompt", "def"
    )
