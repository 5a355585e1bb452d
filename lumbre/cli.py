"""The `lumbre` command: finds the program by name, imports it late, and explains what went wrong."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.exceptions import TyperException

import lumbre
from lumbre import config as configs
from lumbre.distributed import leave, world
from lumbre.errors import ConfigError, ExitStatus, LumbreError, Problem
from lumbre.peers import is_lost_peer, told
from lumbre.signals import interrupt_on_signals
from lumbre.world import as_one_process

if TYPE_CHECKING:
    from lumbre.run_config import Child, RunConfig

app = typer.Typer(
    name="lumbre",
    help="Raw text to a pretrained Transformer to a fine-tuned model: one YAML, one command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or a shipped config's name.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Overrides of the config's keys.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Resolve, check and print the config; train nothing.")
]


@app.command()
def prepare(config: ConfigArgument, overrides: Overrides = None, dry_run: DryRun = False) -> int:
    """Tokenize a corpus into shards (pretrain does it by itself where it has not been done)."""
    return _program("pretrain", "prepare", config, overrides, dry_run)


@app.command()
def pretrain(config: ConfigArgument, overrides: Overrides = None, dry_run: DryRun = False) -> int:
    """Pretrain a Transformer; the same command again goes on where the run left off."""
    return _program("pretrain", "main", config, overrides, dry_run)


@app.command()
def finetune(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="A YAML file, or a shipped config's name.")
    ] = None,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="RUN RUN", help="Compare two runs that are complete; no CONFIG."),
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option("--sweep", metavar="FILE", help="Write the grid as a W&B sweep; no training."),
    ] = None,
) -> int:
    """Fine-tune a model folder on a task and measure it."""
    if compare is not None and config is None:
        importlib.import_module("lumbre.finetune.compare").compare(*compare)
        return ExitStatus.DONE
    if config is None or compare is not None:
        raise typer.BadParameter("give a CONFIG, or --compare with two runs")
    if sweep is not None:
        resolved = _resolved("finetune", config, overrides)
        importlib.import_module("lumbre.finetune.sweep").write_sweep(resolved, config, sweep)
        print(f"sweep: {sweep}; start it with `wandb sweep {sweep}`")
        return ExitStatus.DONE
    return _program("finetune", "main", config, overrides, dry_run)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A fine-tuned run, or its model folder.")],
    source: Annotated[
        Path, typer.Option("--input", metavar="FILE", help="Records as JSON lines; - is standard input.")
    ],
    target: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Where to write; standard output if absent."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Records of the greatest length at once; of shorter ones, more.")
    ] = 32,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Write an error in place of a record that cannot be used.")
    ] = False,
) -> int:
    """Let a fine-tuned model predict: JSON lines in, JSON lines out, in the same order."""
    module = importlib.import_module("lumbre.finetune.predict")
    module.predict(run, source, target, batch_size, skip=skip_bad)
    return ExitStatus.DONE


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def launch(context: typer.Context) -> int:
    """Start a program through a launcher: lumbre launch LAUNCH_CONFIG -- PROGRAM CONFIG ...

    LAUNCH_CONFIG is a YAML file or local, slurm, docker, ssh, kubernetes, followed by key=value; --dry-run
    prints what would be run. More jobs, each after another --, begin when the one before is done.

    lumbre launch status|logs|cancel [NAME] follow what was launched from this folder.

    lumbre launch sweep LAUNCH_CONFIG agents=N -- PROGRAM CONFIG hands the grid to a W&B sweep.
    """
    return int(importlib.import_module("lumbre.launch.__main__").main(context.args))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder with a checkpoint.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write.")],
) -> int:
    """Write a run's latest checkpoint as a Hugging Face folder, and prove that its logits are the same."""
    importlib.import_module("lumbre.pretrain.export").export(run, to)
    return ExitStatus.DONE


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; the run may be going on.")],
) -> int:
    """Check every checkpoint of a run, and say which are whole; exit 2 where some are not."""
    return int(importlib.import_module("lumbre.checkpoint.inspection").report(run))


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(metavar="RUN_OR_FOLDER", help="A run, or a Hugging Face folder.")],
    prompt: Annotated[
        list[str], typer.Option("--prompt", help="A text, for an encoder with [MASK]; may be given again.")
    ],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to add.")] = 48,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw among so many likeliest tokens; 0 is all.")] = 50,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Draw among the likeliest with this total probability.")
    ] = 1.0,
    beams: Annotated[int, typer.Option(min=1, help="Texts followed at once; the likeliest is kept.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the draws.")] = 1,
) -> int:
    """Let a model speak: a decoder completes, an encoder-decoder answers, an encoder fills masks."""
    module = importlib.import_module("lumbre.generate")
    sampling = module.Sampling(max_new_tokens, temperature, top_k, top_p, beams, seed)
    module.generate(folder, prompt, sampling)
    return ExitStatus.DONE


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The HTML file to write.")] = Path(
        "report.html"
    ),
    attention: Annotated[
        str | None,
        typer.Option(
            "--attention",
            metavar="TEXT",
            help="Show what each head looks at in this text; '' takes the latest sample's prompt.",
        ),
    ] = None,
) -> int:
    """Draw the runs' curves, events, samples, results and attention on one self-contained page."""
    write = importlib.import_module("lumbre.report").write_report
    written = write(runs, to, attention_text=attention)
    print(f"report: {written}")
    return ExitStatus.DONE


def _program(package: str, function: str, config: str, overrides: list[str] | None, dry_run: bool) -> int:
    resolved = _resolved(package, config, overrides)
    run = importlib.import_module(f"lumbre.{package}.run")
    if dry_run:
        if world().is_main:
            print(configs.dump(resolved), end="")
        return ExitStatus.DONE
    program: Callable[[Any], int] = getattr(run, function)
    return program(resolved)


def _resolved(package: str, config: str, overrides: list[str] | None) -> "RunConfig":
    file = configs.find(config, package)
    # Before torch is imported, which takes seconds: a file that does not parse is told at once.
    configs.read(file)
    run = importlib.import_module(f"lumbre.{package}.run")
    resolved: RunConfig = configs.load(run.CONFIG, file, overrides or [], room=package)
    problems = [problem for child in resolved.children() for problem in _problems(child)]
    if problems:
        raise ConfigError(problems)
    return resolved


def _problems(child: "Child") -> Iterator[Problem]:
    """Yield what is wrong with the config of a run that another one will start, as one process."""
    kind = importlib.import_module(f"lumbre.{child.program}.run").CONFIG
    try:
        with as_one_process():
            configs.load(kind, child.config, child.overrides, room=child.program)
    except ConfigError as error:
        for problem in error.problems:
            if problem.key != child.later:
                place = child.key if problem.place == "command line" else f"{child.key}: {problem.place}"
                yield replace(problem, place=place)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its status; users' errors are explained without a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"lumbre {lumbre.__version__}")
        sys.exit(ExitStatus.DONE)
    # Threads that spin long at barriers starve each other where other processes use the CPU too.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    interrupt_on_signals()
    try:
        status = app(arguments, standalone_mode=False, prog_name="lumbre")
        code = int(status or ExitStatus.DONE)
    except LumbreError as error:
        if error.exit_status == ExitStatus.BUG:
            raise
        _explain(error)
        code = int(error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        Console(stderr=True).print("stopped; run the same command again to go on")
        code = int(ExitStatus.STOPPED)
    except RuntimeError as error:
        # A rank whose neighbour was killed has nothing of its own to tell.
        if world().size == 1 or not is_lost_peer(error):
            raise
        print(f"rank {world().rank} ends: {told(error)}", file=sys.stderr)
        code = int(ExitStatus.BUG)
    except TyperException as error:
        print(f"error: {error.format_message()} Try 'lumbre --help'.", file=sys.stderr)
        code = int(ExitStatus.USER_ERROR)
    leave(code)


def _explain(error: LumbreError) -> None:
    # What a user is to mend is told once; a rank that has not come may be the one that would tell.
    is_told = error.exit_status == ExitStatus.USER_ERROR and os.environ.get("LOCAL_RANK", "0") != "0"
    if is_told or not str(error):
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if isinstance(error, ConfigError):
        count = len(error.problems)
        title = "1 problem in the config" if count == 1 else f"{count} problems in the config"
        console.print(f"[bold red]error:[/] {title}")
        for problem in error.problems:
            console.print(f"  {problem}", markup=False)
    else:
        console.print("[bold red]error:[/]", end=" ")
        console.print(str(error), markup=False)


if __name__ == "__main__":
    main()
