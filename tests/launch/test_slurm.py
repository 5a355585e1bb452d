"""Jobs on a real Slurm of six virtual nodes: what ends them early, and that nothing of a run is lost by it.

The stories go on at the same time, for a cluster has many jobs; each test tells what came of one.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.end_to_end.conftest import CONFIG, Project
from tests.end_to_end.test_finetune import write_task
from tests.launch.places.slurm import CannotSetUpError, Cluster, cluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

NASTY = 'it\'s "$(touch pwned)" `id` & %j'
PARTITIONS = """\
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=2:00:00
PartitionName=high Nodes=node3 PriorityTier=2 PreemptMode=OFF
PartitionName=low Nodes=node3 PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=spare Nodes=node[4-5]
PartitionName=blind Nodes=node[2,6]
"""
STEPS = 400
JOB = (
    *("pretrain", "run.yaml", f"train.steps={STEPS}", "train.eval_every=1000"),
    *("schedule={type: constant, warmup: 0}", "checkpoint={every_steps: 1000}"),
)
# Two ranks take longer over a step: a part of the way will do, for the schedule is the same.
ZERO = ("engine.type=deepspeed", "engine.zero_stage=2", "train.steps=60")
TUNE = """\
name: tuned
compare_with_scratch: false
task: {type: classification, max_length: 32}
data: {type: jsonl, train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
optimizer: {type: adamw, learning_rate: 1.0e-3}
train: {steps: 4, global_batch_size: 8, micro_batch_size: 4, log_every: 1, eval_every: 4}
"""


@dataclass(frozen=True)
class Site:
    """The cluster, and a project in a folder that all nodes but one see."""

    cluster: Cluster
    project: Project

    def lumbre(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `lumbre launch` to its end."""
        return self.project.lumbre("launch", *words, **self.cluster.environment, **environment)

    def launch(
        self, name: str, *chain: tuple[str, ...], environment: dict[str, str] | None = None, **keys: Any
    ) -> list[str]:
        """Launch jobs, one after the other, and return the numbers that Slurm gives them."""
        tree = {"type": "slurm", "launch_name": name, "threads_per_process": 1}
        tree["env"] = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
        (self.project.folder / f"{name}.yaml").write_text(yaml.safe_dump(tree | keys))
        line = [word for job in chain for word in ("--", *job)]
        done = self.lumbre(f"{name}.yaml", *line, **(environment or {}))
        assert done.returncode == 0, done.stderr
        record = json.loads((self.project.folder / "launches" / name / "launch.json").read_text())
        return record["state"]["jobs"]

    def job(self, number: str) -> SimpleNamespace:
        """Return what Slurm says of a job."""
        line = self.cluster.run("scontrol", "show", "job", "-o", number)
        words = dict(word.split("=", 1) for word in line.split() if "=" in word)
        return SimpleNamespace(
            state=words.get("JobState", "unknown: the controller is busy"),
            restarts=int(words.get("Restarts", 0)),
            exit=words.get("ExitCode"),
        )

    def wait(self, name: str, condition: Callable[[], bool], seconds: float = 400) -> None:
        """Wait until the condition holds; what the launch has to say is the failure where it does not."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.told(name)
            time.sleep(0.1)

    def ended(self, number: str) -> bool:
        """Whether a job has ended for good."""
        return self.job(number).state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

    def finish(self, name: str, number: str) -> SimpleNamespace:
        """Return a job that has ended."""
        self.wait(name, lambda: self.ended(number))
        return self.job(number)

    def told(self, name: str) -> str:
        """Return the state and the logs of a launch."""
        return "".join(self.lumbre(verb, name).stdout for verb in ("status", "logs"))

    def assert_unbroken(self, run: str, steps: int = 60) -> None:
        """Every step stands there once, with the loss of the run that nothing stopped."""
        logged = [row["step"] for row in self.project.rows(run) if "loss" in row]
        assert logged == list(range(1, steps + 1))
        expected = self.project.losses("unbroken")
        for step, loss in self.project.losses(run).items():
            assert loss == pytest.approx(expected[step], rel=1e-6), f"step {step}"


def seeds(site: Site) -> SimpleNamespace:
    """Two runs of a grid at once on the same two nodes."""
    job = (*JOB, *ZERO, "name=grid")
    (number,) = site.launch("seeds", job, nodes=2, grid={"seed": [3, 4]})
    for index in (0, 1):
        site.finish("seeds", f"{number}_{index}")
    return SimpleNamespace(number=number, told=site.told("seeds"))


def signal(site: Site) -> SimpleNamespace:
    """A run that Slurm asks to save in the middle."""
    (number,) = site.launch("signal", (*JOB, *ZERO, "name=signalled"), nodes=2)
    site.wait("signal", lambda: site.project.has_step(5, "signalled"))
    site.cluster.run("scancel", "--batch", "--signal=USR1", number)
    site.wait("signal", lambda: site.job(number).restarts == 1)
    return SimpleNamespace(job=site.finish("signal", number), told=site.told("signal"))


def time_limit(site: Site) -> SimpleNamespace:
    """An allocation that ends before anything was saved; the setup stands for long work."""
    setup = ["if ((restarts == 0)); then sleep 300 & wait $!; fi"]
    job = ("pretrain", "run.yaml", "name=limited", "train.steps=2")
    (number,) = site.launch("limit", job, time=2, signal_lead_seconds=50, setup=setup)
    site.wait("limit", lambda: site.job(number).restarts == 1)
    site.cluster.run("scontrol", "update", f"JobId={number}", "TimeLimit=30")
    return SimpleNamespace(job=site.finish("limit", number))


def preemption(site: Site) -> SimpleNamespace:
    """A run whose node a job of higher priority wants."""
    (number,) = site.launch("low", (*JOB, "name=preempted"), partition="low", sbatch={"exclusive": True})
    site.wait("low", lambda: site.project.has_step(5, "preempted"))
    wants = ("--partition=high", "--exclusive", "--output=/dev/null", "--wrap=true")
    other = site.cluster.run("sbatch", "--parsable", *wants).strip()
    site.wait("low", lambda: site.job(number).restarts == 1)
    return SimpleNamespace(
        other=site.finish("low", other), job=site.finish("low", number), told=site.told("low")
    )


def lost_node(site: Site) -> SimpleNamespace:
    """A run one of whose nodes loses its power, and comes back later."""
    (number,) = site.launch(
        "lost", (*JOB, *ZERO, "name=lost", "checkpoint.every_steps=10"), nodes=2, partition="spare"
    )
    site.wait("lost", (site.project.folder / "runs/lost/checkpoints/step-00000010").exists)
    site.cluster.kill_node("node5")
    site.wait("lost", lambda: site.job(number).restarts == 1)
    site.cluster.start_node("node5")
    return SimpleNamespace(job=site.finish("lost", number), told=site.told("lost"))


def chain(site: Site) -> SimpleNamespace:
    """Prepare, pretrain, fine-tune, under names that a shell would run."""
    small = ("tokenizer.vocab_size=550", f"name={NASTY}")
    jobs = [
        ("prepare", "run.yaml", *small),
        ("pretrain", "run.yaml", *small, "train.steps=3"),
        ("finetune", "tune.yaml", f"model.path=runs/{NASTY}/model", f"name=-tuned {NASTY}"),
    ]
    setup = ['printf "%s|%s\\n" "$PASSED" "${STRAY-none}"']
    numbers = site.launch(
        "chain", *jobs, setup=setup, pass_env=["PASSED"], environment={"PASSED": NASTY, "STRAY": "seen"}
    )
    return SimpleNamespace(jobs=[site.finish("chain", number) for number in numbers], told=site.told("chain"))


def blind_node(site: Site) -> SimpleNamespace:
    """A run one of whose nodes does not see the folder."""
    (number,) = site.launch("blind", (*JOB, *ZERO, "name=blind"), nodes=2, partition="blind")
    return SimpleNamespace(job=site.finish("blind", number), told=site.told("blind"))


def blind_host(site: Site) -> SimpleNamespace:
    """A job whose only node does not see the folder, so that there is no log either."""
    keys = {"partition": "blind", "sbatch": {"nodelist": "node6"}}
    (number,) = site.launch("blinder", (*JOB, "name=blinder"), **keys)
    return SimpleNamespace(job=site.finish("blinder", number), told=site.told("blinder"))


def cancelled(site: Site) -> SimpleNamespace:
    """A chain that is cancelled while its first job runs."""
    jobs = [(*JOB, "name=first", "train.steps=100000"), (*JOB, "name=second")]
    numbers = site.launch("cancel", *jobs)
    site.wait("cancel", lambda: site.project.has_step(5, "first"))
    again = site.lumbre("cancel.yaml", "--", *jobs[1])
    assert site.lumbre("cancel", "cancel").returncode == 0
    return SimpleNamespace(
        jobs=[site.finish("cancel", number) for number in numbers], again=again, told=site.told("cancel")
    )


def near_duplicates(site: Site) -> SimpleNamespace:
    """Near-duplicates found by this machine, and by array jobs."""
    places = {"here": "null", "there": "{partition: main, memory_gb: 1, time: '01:00:00'}"}
    beside = site.project.folder.parent  # datatrove's own script takes no odd paths
    for name, place in places.items():
        keys = (f"data.folder={beside / name}", f"data.near_duplicates={{slurm: {place}}}")
        done = site.project.lumbre("prepare", "run.yaml", *keys, **site.cluster.environment)
        assert done.returncode == 0, done.stderr
    too_long = "data.near_duplicates={slurm: {partition: main, memory_gb: 1, time: '99-00:00:00'}}"
    keys = (f"data.folder={beside / 'never'}", too_long)
    never = site.project.lumbre("prepare", "run.yaml", *keys, **site.cluster.environment)
    files = {name: sorted((beside / name).rglob("*.tokens")) for name in places}
    jobs = site.cluster.run("squeue", "-h", "-t", "all", "-o", "%j").split()
    return SimpleNamespace(
        shards={name: [file.read_bytes() for file in files[name]] for name in places}, jobs=jobs, never=never
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Return the cluster with a project whose run `unbroken` is complete."""
    folder = tmp_path_factory.mktemp("slurm") / NASTY
    (folder / "corpus").mkdir(parents=True)
    for package in ("json", "logging"):
        for file in sorted(Path(__import__(package).__file__ or "").parent.glob("*.py")):
            (folder / "corpus" / f"{package}-{file.name}.txt").write_text(file.read_text())
    write_task(folder)
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "tune.yaml").write_text(TUNE)
    project = Project(folder)
    try:
        with cluster(tmp_path_factory.mktemp("cluster"), 6, PARTITIONS, lacks={"node6": folder}) as made:
            done = project.lumbre(*JOB, "name=unbroken")
            assert done.returncode == 0, done.stderr
            yield Site(made, project)
    except CannotSetUpError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def stories(site: Site, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[SimpleNamespace]]]:
    """Return what will come of each story that a test asks for."""
    items = [item for item in request.session.items if "stories" in getattr(item, "fixturenames", ())]
    with ThreadPoolExecutor(6) as pool:
        asked = [item.callspec.params["story"] for item in items]  # type: ignore[attr-defined]
        yield {story.__name__: pool.submit(story, site) for story in asked}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def story(request: pytest.FixtureRequest, stories: dict[str, Future[SimpleNamespace]]) -> SimpleNamespace:
    """Return what came of the story that the test is marked with."""
    return stories[request.param.__name__].result()


def about(told: Callable[[Site], SimpleNamespace]) -> pytest.MarkDecorator:
    """Give a test the end of a story."""
    return pytest.mark.parametrize("story", [told], indirect=True, ids=[told.__name__])


def test_a_partition_that_does_not_exist_is_told_before_anything_is_queued(site: Site) -> None:
    keys = ["partition=mian", "nodes=3", "launch_name=nowhere"]
    done = site.lumbre("slurm", *keys, "--", *JOB)
    assert done.returncode == 2
    assert (
        "partition: there is no partition 'mian'; did you mean 'main'? there are: blind, high" in done.stderr
    )
    assert not (site.project.folder / "launches/nowhere").exists()


@about(seeds)
def test_two_nodes_train_as_one_process_does_and_two_jobs_share_them(
    site: Site, story: SimpleNamespace
) -> None:
    site.assert_unbroken("grid-seed3")
    assert site.project.losses("grid-seed4")[1] != pytest.approx(site.project.losses("unbroken")[1])
    ends = [site.cluster.run("scontrol", "show", "job", "-o", f"{story.number}_{index}") for index in (0, 1)]
    times = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in ends]
    assert max(one["StartTime"] for one in times) < min(one["EndTime"] for one in times), (
        "one after the other"
    )
    assert {one["NodeList"] for one in times} == {"node[1-2]"}
    assert story.told.count("done at step 60") >= 2


@about(signal)
def test_a_run_asked_to_save_goes_on_in_the_next_allocation(site: Site, story: SimpleNamespace) -> None:
    assert (story.job.state, story.job.restarts) == ("COMPLETED", 1)
    assert "launch: stopped at step" in story.told
    assert "restart 1" in story.told
    site.assert_unbroken("signalled")


@about(time_limit)
def test_the_time_limit_starts_a_job_again(story: SimpleNamespace) -> None:
    assert (story.job.state, story.job.restarts) == ("COMPLETED", 1)


@about(near_duplicates)
def test_near_duplicates_are_found_by_array_jobs_as_by_this_machine(story: SimpleNamespace) -> None:
    assert any(job.startswith("lumbre-") for job in story.jobs)
    assert story.shards["there"] == story.shards["here"]
    assert story.shards["here"]


@about(near_duplicates)
def test_array_jobs_that_can_never_start_are_an_error(story: SimpleNamespace) -> None:
    assert story.never.returncode == 2, story.never.stderr
    assert "can never start: PartitionTimeLimit; set near_duplicates.slurm.time" in story.never.stderr


@about(preemption)
def test_a_preempted_run_saves_and_goes_on(site: Site, story: SimpleNamespace) -> None:
    assert story.other.state == "COMPLETED"
    assert (story.job.state, story.job.restarts) == ("COMPLETED", 1)
    assert "launch: stopped at step" in story.told
    site.assert_unbroken("preempted", STEPS)


@about(lost_node)
def test_a_lost_node_costs_the_steps_since_the_last_checkpoint(site: Site, story: SimpleNamespace) -> None:
    assert (story.job.state, story.job.restarts) == ("COMPLETED", 1)
    site.assert_unbroken("lost")


@about(chain)
def test_a_chain_runs_in_order_and_no_shell_reads_its_names(site: Site, story: SimpleNamespace) -> None:
    assert [job.state for job in story.jobs] == ["COMPLETED"] * 3, story.told
    assert (site.project.folder / "runs" / NASTY / "model/config.json").exists()
    assert not list(site.project.folder.rglob("pwned"))
    assert story.told.count(f"\n{NASTY}|none\n") == 3, "what goes over to the job"
    files = (site.project.folder / "launches/chain").glob("*.[sj]*")
    assert all('PASSED="' not in file.read_text() and f"|{NASTY}" not in file.read_text() for file in files)


@about(blind_node)
def test_a_node_that_does_not_see_the_folder_is_named(site: Site, story: SimpleNamespace) -> None:
    assert (story.job.state, story.job.exit) == ("FAILED", "2:0")
    assert "srun: error: node6" in story.told
    assert "a launch needs folders that all nodes share" in story.told
    assert not (site.project.folder / "runs/blind/metrics.jsonl").exists()


@about(blind_host)
def test_a_job_without_a_log_is_explained(story: SimpleNamespace) -> None:
    assert story.job.state == "FAILED"
    assert "node node6 cannot open" in story.told
    assert "a launch needs a folder that all nodes share" in story.told


@about(cancelled)
def test_a_cancelled_chain_saves_and_does_not_come_back(site: Site, story: SimpleNamespace) -> None:
    assert story.again.returncode == 2
    assert "is RUNNING already" in story.again.stderr
    first, second = story.jobs
    assert (first.state, first.exit, first.restarts) == ("FAILED", "75:0", 0)
    assert second.state == "CANCELLED"
    assert site.project.exit("first")["status"] == 75
    assert "stopped at step" in story.told
