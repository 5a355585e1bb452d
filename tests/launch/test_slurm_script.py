"""The Slurm launcher without a Slurm: what it writes, what it does with each end of a run, what it refuses.

Where the script runs here, stand-ins take the place of srun and scontrol; tests/launch/test_slurm.py has the
real ones.
"""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.base import Job, Launch, LauncherConfig, Run, Task
from launch.records import read, write
from launch.slurm import SlurmConfig
from launch.slurm.cluster import Job as SlurmJob
from launch.slurm.states import state_of
from launch.slurm.units import minutes
from lumbre.config import load
from lumbre.errors import ConfigError, LaunchError

GOLDEN = Path(__file__).parent / "golden"
NASTY = 'it\'s "$(touch pwned)" `touch pwned` & %j\nrm -rf x'
# What a path or an argument can hold.
WORDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=30)


def run(name: str, *arguments: str, program: str = "pretrain", folder: str = "/data/runs") -> Run:
    return Run(Job(program, arguments), name, Path(folder) / name)


def launch(*tasks: Task, name: str = "bert", directory: str = "/data") -> Launch:
    return Launch(name, tasks, Path(directory) / "launches" / name, Path(directory))


PREPARE = Task("bert", (run("bert", "bert.yaml", program="prepare"),))
PRETRAIN = Task("bert", (run("bert", "bert.yaml", "train.steps=9"),))
GRID = Task("tuned", tuple(run(f"tuned-{n}", "tune.yaml", f"seed={n}", program="finetune") for n in (1, 2)))
NODE = {"python": "/opt/lumbre/bin/python"}
CASES = {
    "chain": (
        launch(PREPARE, PRETRAIN, GRID),
        {"nodes": 2, "gpus_per_node": 4, "time": "12:00:00", "at_once": 1},
    ),
    "process": (
        launch(PRETRAIN),
        {"requeue": False, "pass_env": [], "sbatch": {"mem": "4G", "exclusive": True}},
    ),
    "node": (
        launch(PRETRAIN),
        {
            **{"processes_per_node": 2, "partition": "gpu", "constraint": "a100&ib", "account": "the lab"},
            **{"env": {"NCCL_DEBUG": "INFO", "NOTE": "a b"}, "setup": ["module load cuda"], "qos": "long"},
        },
    ),
    "pyxis": (
        launch(PRETRAIN),
        {"nodes": 2, "container": {"image": "lab/lumbre:1", "mounts": ["/scratch:/scratch"]}},
    ),
    "apptainer": (
        launch(PRETRAIN),
        {
            "gpus_per_node": 1,
            "gpu_type": "a100",
            "container": {"image": "docker://lab/x", "runtime": "apptainer"},
        },
    ),
}


def rendered() -> dict[str, str]:
    return {
        f"slurm-{case}-{name}": text
        for case, (what, keys) in CASES.items()
        for name, text in SlurmConfig(**NODE, **keys).build().render(what).items()
    }


@pytest.mark.parametrize("name", sorted(rendered()))
def test_a_script_is_what_was_looked_at(name: str) -> None:
    assert rendered()[name] == (GOLDEN / name).read_text()


def test_scripts_are_clean_for_shellcheck(tmp_path: Path) -> None:
    files = {**rendered(), **SlurmConfig(nodes=2).build().render(launch(Task(NASTY, (run("n", NASTY),))))}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    # SC2016: quoted names may look like variables.
    words = [Path(sys.executable).parent / "shellcheck", "--exclude=SC2016", *sorted(tmp_path.iterdir())]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@settings(max_examples=30, deadline=None)
@given(WORDS, WORDS, st.lists(WORDS, max_size=3))
def test_no_shell_reads_a_name(name: str, directory: str, arguments: list[str]) -> None:
    """Bash itself finds the words in the script that went in."""
    folder = f"/x/{directory.replace('/', '-')}"
    one = Run(Job("pretrain", tuple(arguments)), name, Path(folder) / "runs" / name.replace("/", "-"))
    for runs in ((one,), (one, run("other"))):
        what = launch(Task(name, runs), directory=folder)
        (text,) = SlurmConfig(env={"VALUE": name}).build().render(what).values()
        head, body = text.split("set -u\n")
        assert all(line.startswith(("#!/bin/bash", "# ", "#SBATCH --")) for line in head.splitlines())
        variables, _, rest = body.partition("\nstep=")
        lines = rest.partition("\nexport VALUE=")[2].partition("\ncd -- ")
        shown = '\nprintf "%s\\0" "$run" "${folders[@]}" "${job[@]}" "$VALUE"'
        script = f"SLURM_ARRAY_TASK_ID=0\n{variables}\nVALUE={lines[0]}{shown}"
        found = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
        expected = [one.folder, what.folder, one.folder, "pretrain", *arguments, name]
        assert found == b"".join(os.fsencode(word) + b"\0" for word in expected)


SRUN = """\
#!/bin/bash
# A stand-in for srun: the command alone, on one node.
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """\
#!/bin/bash
# A stand-in for scontrol.
if [[ $1 == show ]]; then
  echo "JobId=7 JobState=RUNNING Reason=None Requeue=$(cat requeue) Restarts=0"
else
  echo "$@" >>requeued
fi
"""
PYTHON = """\
#!/bin/bash
# A stand-in for Lumbre: a run that ends as the file `ends` says, or when it is asked to save.
if [[ $3 == launch ]]; then exit "$(cat outcome)"; fi
printf '%s\\0' "$@" > words
cp ends outcome
if [[ $(cat ends) == waits ]]; then
  trap 'echo 75 > outcome; exit 1' USR1
  touch began
  for _ in {1..300}; do sleep 0.1; done
fi
if [[ $(cat ends) == 0 ]]; then exit 0; fi
exit 1
"""


@pytest.fixture
def job(tmp_path: Path):
    """Start the script of a run in a folder with an odd name, its stand-ins beside it."""
    folder = tmp_path / NASTY.replace("/", "-")
    folder.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "python": PYTHON}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    children = []

    def start(ends: str, requeue: str = "1", restarts: str = "0", **keys: object) -> subprocess.Popen[str]:
        (folder / "ends").write_text(ends)
        (folder / "requeue").write_text(requeue)
        what = launch(Task("r", (run(NASTY, NASTY, folder=str(folder)),)), directory=str(folder))
        (text,) = SlurmConfig(python=str(tmp_path / "python"), **keys).build().render(what).values()
        environment = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_RESTART_COUNT": restarts}
        path = f"{tmp_path}:{os.environ['PATH']}"
        children.append(
            subprocess.Popen(
                ["bash", "-c", text],
                env={**os.environ, **environment, "PATH": path},
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
            )
        )
        return children[-1]

    start.folder = folder
    yield start
    for child in children:
        child.kill()
        child.wait()
        child.stderr.close()


@pytest.mark.parametrize(
    ("ends", "requeue", "restarts", "again"),
    [
        ("0", "1", "0", False),
        ("2", "1", "0", False),
        ("1", "1", "0", False),
        ("75", "1", "0", True),
        ("76", "1", "99", True),
        ("75", "1", "100", False),
        ("75", "0", "0", False),
    ],
)
def test_an_end_starts_a_job_again_or_does_not(
    job, ends: str, requeue: str, restarts: str, again: bool
) -> None:
    child = job(ends, requeue, restarts)
    _, told = child.communicate()
    assert child.returncode == int(ends), told
    assert (job.folder / "requeued").exists() == again
    assert not list(job.folder.parent.rglob("pwned"))
    words = (job.folder / "words").read_bytes().split(b"\0")[:-1]
    assert words == [b"-m", b"lumbre.cli", b"pretrain", NASTY.encode()]
    if restarts == "100":
        assert "restarted 100 times (max_restarts)" in told


def test_a_signal_to_the_script_reaches_the_run_and_waits_for_its_end(job) -> None:
    child = job("waits")
    while not (job.folder / "began").exists():
        time.sleep(0.02)
    child.send_signal(signal.SIGUSR1)
    assert child.wait() == 75
    assert (job.folder / "requeued").read_text() == "requeue 7\n"


def test_a_signal_before_the_run_begins_starts_none(job) -> None:
    child = job("0", setup=["sleep 30 & touch began; wait $!; kill %1"])
    while not (job.folder.parent / "began").exists():
        time.sleep(0.02)
    child.send_signal(signal.SIGUSR1)
    assert child.wait() == 75
    assert not (job.folder / "words").exists()
    assert (job.folder / "requeued").exists()


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"sbatch": {"partition": "x"}}, "sbatch.partition: is set by partition; use partition alone"),
        ({"sbatch": {"output": "x"}}, "sbatch.output: is set by launch_name"),
        ({"sbatch": {"mem_per_cpu": "1G"}}, "sbatch.mem_per_cpu: is no long option of sbatch"),
        ({"sbatch": {"comment": 'a"b'}}, "sbatch.comment: .* fits no #SBATCH line"),
        ({"account": "a\nb"}, "account: .* fits no #SBATCH line"),
        ({"time": 14400}, "time: YAML read 14400, which would be minutes; quote the time: '4:00:00'"),
        ({"time": "soon"}, "time: 'soon' is no time of Slurm's"),
        ({"time": 3}, "signal_lead_seconds: 120 s, and up to a minute more, before the end of 3 is before"),
        ({"gpus_per_node": 2, "processes_per_node": 4}, "processes_per_node: 4 processes share 2 GPUs"),
        ({"gpu_type": "a100"}, "gpu_type: is set, and gpus_per_node is 0"),
        ({"container": {"image": "/no/such.sif"}}, "container.image: there is no file /no/such.sif"),
        ({"container": {"image": "x", "mounts": ["a,b"]}}, "container.mounts.0: 'a,b' is no mount"),
        ({"pass_env": ["A B"]}, "pass_env.0: 'A B' is no name"),
    ],
)
def test_a_config_that_does_not_fit_is_explained(tmp_path: Path, keys: dict[str, object], fault: str) -> None:
    file = tmp_path / "slurm.yaml"
    file.write_text(yaml.safe_dump({"type": "slurm", **keys}))
    with pytest.raises(ConfigError, match=fault):
        load(LauncherConfig, file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("90", 90), ("1:30", 1.5), ("2:00:00", 120), ("1-12", 36 * 60), ("1-0:30", 1470)),
        *(("2-00:00:30", 2880.5), ("infinite", float("inf")), ("soon", None), (30, 30)),
    ],
)
def test_times_are_read_as_slurm_writes_them(text: str | int, expected: float | None) -> None:
    assert minutes(text) == expected


SINFO = """\
#!/bin/bash
# A stand-in for sinfo, of a cluster with three kinds of nodes.
echo 'cpu*|4|16|infinite|(null)'
echo 'gpu|2|32|1-00:00:00|gpu:a100:4(S:0-1)'
echo 'gpu|1|64|1-00:00:00|gpu:h100:8'
"""
SACCTMGR = """\
#!/bin/bash
# A stand-in for sacctmgr.
echo 'lab|normal,long'
echo 'class|normal'
"""


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({}, None),
        ({"partition": "gpu", "gpus_per_node": 4, "nodes": 3, "time": "1-00:00:00"}, None),
        ({"partition": "gpu", "gpus_per_node": 8, "gpu_type": "h100"}, None),
        ({"partition": "cpu,gpu", "gpus_per_node": 4}, None),
        ({"account": "lab", "qos": "long"}, None),
        (
            {"partition": "cpus"},
            "partition: there is no partition 'cpus'; did you mean 'cpu'? there are: cpu, gpu",
        ),
        ({"nodes": 5}, "nodes: partition cpu has 4, not 5; at most 4"),
        (
            {"threads_per_process": 17},
            "threads_per_process: nodes of cpu have at most 16 cores, not 1 x 17; ask for fewer",
        ),
        (
            {"gpus_per_node": 1},
            "gpus_per_node: nodes of partition cpu have at most 0, not 1 GPUs; use another partition",
        ),
        (
            {"gpus_per_node": 8, "nodes": 2, "partition": "gpu"},
            "nodes: 1 nodes of gpu have 8 GPUs and 32 cores, not 2; ask for fewer nodes, or less of each",
        ),
        (
            {"gpus_per_node": 1, "gpu_type": "v100", "partition": "gpu"},
            "gpu_type: partition gpu has no GPUs of the type v100; it has: a100, h100",
        ),
        (
            {"partition": "gpu", "time": "1-00:00:01"},
            "time: 1-00:00:01 is over the limit of partition gpu, 1-00:00:00; ask for less",
        ),
        ({"account": "lap"}, "account: you have no account 'lap'; you have: class, lab"),
        ({"account": "class", "qos": "long"}, "qos: you have no QOS 'long' there; you have: normal"),
    ],
)
def test_what_the_cluster_lacks_is_known_before_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, object], fault: str | None
) -> None:
    for name, text in {"sinfo": SINFO, "sacctmgr": SACCTMGR}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert [str(problem) for problem in SlurmConfig(**keys).build().faults()] == ([fault] if fault else [])


def test_a_machine_without_slurm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (problem,) = SlurmConfig().build().faults()
    assert str(problem).startswith("type: sinfo is not on this machine; call lumbre launch on a machine that")


SBATCH = """\
#!/bin/bash
# A stand-in for sbatch, which takes one script.
printf '%s\\n' "$@" >>"$SAID"
if [[ -e taken ]]; then echo 'sbatch: error: too many jobs' >&2; exit 1; fi
touch taken
echo '41;cluster'
"""
SCANCEL = """\
#!/bin/bash
# A stand-in for scancel.
echo "scancel $*" >>"$SAID"
"""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file in which stand-ins of sbatch and scancel note what they were called with."""
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "said"


def test_a_chain_is_queued_whole_or_not_at_all(said: Path) -> None:
    folder = str(said.parent / "100% $(x)")
    records: list[dict[str, object]] = []
    with pytest.raises(LaunchError, match="sbatch refused: sbatch: error: too many jobs"):
        SlurmConfig().build().submit(launch(PREPARE, PRETRAIN, directory=folder), records.append)
    assert said.read_text().splitlines() == [
        "--parsable",
        f"--output={said.parent}/100%% $(x)/launches/bert/1-prepare-%j.log",
        "1-prepare.sh",
        "--parsable",
        f"--output={said.parent}/100%% $(x)/launches/bert/2-pretrain-%j.log",
        "--dependency=afterok:41",
        "--kill-on-invalid-dep=yes",
        "2-pretrain.sh",
        "scancel 41",
    ]
    assert not records


def test_a_launch_that_was_submitted_is_read_back(said: Path) -> None:
    config = SlurmConfig(nodes=2, container={"image": "x"}, sbatch={"mem": "4G"})
    what = launch(PRETRAIN, directory=str(said.parent))
    assert config.build().submit(what, partial(write, what, config)) == 0
    launcher, record = read("bert")
    assert record.state == {"jobs": ["41"]}
    assert record.launch == what
    assert launcher.render(what) == config.build().render(what)


@pytest.mark.parametrize(
    ("keys", "folder"),
    [({}, "a\\b"), ({"container": {"image": "x"}}, "a,b"), ({"container": {"image": "x"}}, "a:b")],
)
def test_folders_that_slurm_would_read_otherwise_are_refused(
    said: Path, keys: dict[str, object], folder: str
) -> None:
    with pytest.raises(LaunchError, match="path with"):
        SlurmConfig(**keys).build().submit(launch(PRETRAIN, directory=str(said.parent / folder)), print)
    assert not said.exists()


def slurm_job(state: str, **keys: object) -> SlurmJob:
    return SlurmJob(
        **{
            "number": "7",
            "state": state,
            "reason": "",
            "nodes": "n1",
            "status": 0,
            "signal": 0,
            "restarts": 0,
        }
        | keys
    )


@pytest.mark.parametrize(
    ("job", "record", "expected"),
    [
        (slurm_job("PENDING", reason="Priority"), None, "others come first"),
        (
            slurm_job("PENDING", reason="BeginTime", restarts=2),
            75,
            "starts again soon; restart 2; stopped at step 5",
        ),
        (slurm_job("PENDING", reason="Unheard"), None, "Unheard"),
        (slurm_job("RUNNING", restarts=1), None, "on n1; restart 1"),
        (slurm_job("COMPLETED"), 0, "done at step 5"),
        (slurm_job("FAILED", status=2), 2, "ended with status 2 at step 5, first on rank 0: why"),
        (slurm_job("FAILED", status=15, signal=53), None, "node n1 cannot open"),
        (slurm_job("FAILED", status=2), None, "line 24\nline 25"),
        (slurm_job("CANCELLED"), None, "line 25"),
        (None, 0, "done at step 5"),
        (None, None, "no longer known to Slurm"),
    ],
)
def test_a_state_is_told_in_words(
    tmp_path: Path, job: SlurmJob | None, record: int | None, expected: str
) -> None:
    one = run("run", folder=str(tmp_path))
    one.folder.mkdir()
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(26)))
    if record is not None:
        end = {"status": record, "reason": "why", "rank": 0, "step": 5}
        (one.folder / "exit.json").write_text(json.dumps(end))
    state = state_of(one, job, 0, log)
    assert state.state == (job.state if job else "ENDED")
    assert expected in state.detail
    assert "line 5\n" not in state.detail, "more than the end of the log"


def test_what_an_earlier_launch_recorded_is_not_told(tmp_path: Path) -> None:
    one = run("run", folder=str(tmp_path))
    one.folder.mkdir()
    (one.folder / "exit.json").write_text(json.dumps({"status": 0, "reason": "", "rank": 0, "step": 5}))
    state = state_of(one, slurm_job("CANCELLED"), time.time() + 60, tmp_path / "log")
    assert state.detail == "it never began"
