"""The docker launcher without an engine: the lines that it writes, and what it refuses."""

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.docker import DockerConfig, DockerLauncher
from launch.docker.container import name_of
from launch.docker.engine import Engine
from launch.names import LABEL, label
from lumbre.config import load
from lumbre.errors import ConfigError, LaunchError
from tests.launch.launches import CHAIN, NASTY, launch, run

GOLDEN = Path(__file__).parent / "golden"
WORDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=30)
CASES = {
    "chain": {"processes": 2, "pass_env": ["HF_TOKEN"], "env": {"NOTE": NASTY}},
    "gpus": {
        "image": "lumbre:cuda",
        "gpus": 4,
        "network": "host",
        "user": "7:7",
        "shm_size": "64g",
        "mounts": [{"source": "/corpus, old", "target": "/corpus", "read_only": True}],
        "arguments": ["--ulimit=memlock=-1"],
    },
    "podman": {"command": "podman", "gpus": 2, "threads_per_process": 3, "pass_env": []},
}


def launcher(**keys) -> DockerLauncher:
    return DockerLauncher(DockerConfig(**keys), cores=8, user=(1000, 1000))


def rendered(case: str) -> str:
    (text,) = launcher(**CASES[case]).render(CHAIN).values()
    return text


def words_of(text: str) -> list[str]:
    """Return the words of a script's only container, as a shell reads them."""
    asked = 'docker() { [ "$1" = wait ] && echo 0 || printf "%s\\0" "$@"; }\n'
    found = subprocess.run(["sh", "-c", asked + text], capture_output=True, check=True).stdout
    return found.decode().split("\0")[:-1]


def job_of(words: list[str], image: str) -> list[str]:
    return words[words.index(image) + 1 :]


@pytest.mark.parametrize("case", CASES)
def test_script_is_the_golden_one(case):
    assert rendered(case) == (GOLDEN / f"docker-{case}.sh").read_text()


@pytest.mark.parametrize("case", CASES)
def test_script_passes_shellcheck(case, tmp_path):
    file = tmp_path / "script.sh"
    file.write_text(rendered(case))
    # SC2016: quoted arguments may look like variables.
    line = [Path(sys.executable).parent / "shellcheck", "--exclude=SC2016", file]
    found = subprocess.run(line, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@settings(deadline=None, max_examples=60)
@given(arguments=st.lists(WORDS, max_size=3), folder=WORDS, value=WORDS)
def test_no_name_or_path_is_more_than_a_word(arguments, folder, value):
    directory = f"/data/{folder}".replace("/..", "").rstrip("/")
    what = launch(run("a", *arguments, folder=f"{directory}/runs"), directory=directory)
    keys = {"image": "lumbre:cpu", "env": {"NOTE": value}}
    words = words_of(launcher(**keys).render(what)["containers.sh"])
    assert job_of(words, "lumbre:cpu") == ["-m", "lumbre.cli", "pretrain", *arguments]
    assert f"--env=NOTE={value}" in words
    assert f"--workdir={what.directory}" in words
    (mount,) = [word.removeprefix("--mount=") for word in words if word.startswith("--mount=")]
    expected = ["type=bind", f"source={what.directory}", f"target={what.directory}"]
    assert list(csv.reader(io.StringIO(mount, newline=""))) == [expected]


@given(WORDS, WORDS)
def test_every_run_has_a_name_that_dns_takes_and_no_other_has(one, other):
    names = {label(one), label(other)}
    assert all(LABEL.fullmatch(name) and len(name) <= 45 for name in names)
    assert len(names) == len({one, other})


def test_preparation_and_run_of_one_name_are_two_containers():
    runs = [task.runs[0] for task in CHAIN.tasks]
    assert len({name_of(one) for one in runs}) == 3
    assert name_of(run("a", folder="/x")) != name_of(run("a", folder="/y"))


def test_a_secrets_value_is_nowhere(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mellon")
    text = rendered("chain")
    assert "mellon" not in text
    assert "--env=HF_TOKEN \\\n" in text


@pytest.mark.parametrize("user", [0, 1000])
def test_podman_without_root_keeps_the_user(user):
    words = DockerLauncher(DockerConfig(command="podman"), cores=1, user=(user, user)).render(CHAIN)
    assert ("--userns=keep-id" in words["containers.sh"]) == (user != 0)


def test_run_folders_that_would_not_stay_are_refused():
    what = launch(run("a", folder="/scratch/runs"))
    with pytest.raises(LaunchError, match=r"/scratch/runs/a: .* add \{source: /scratch/runs\} to mounts"):
        launcher().render(what)
    launcher(mounts=[{"source": "/scratch"}]).render(what)
    for keys in ({"read_only": True}, {"target": "/elsewhere"}):
        with pytest.raises(LaunchError, match="mounts"):
            launcher(mounts=[{"source": "/scratch", **keys}]).render(what)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ("gpus: all", "processes: is missing, and gpus: all is no number"),
        ("gpus: 2\nprocesses: 4", "processes: 4 processes share 2 GPUs"),
        ("env: {HF_TOKEN: x}", "env.HF_TOKEN: looks like a secret"),
        ("image: '-v/:/host'", "image: "),
        ("mounts: [{source: a, target: b}]", "mounts.0.target: b is no absolute path"),
        ("shm_size: lots", "shm_size: "),
    ],
)
def test_a_wrong_config_is_explained(keys, fault, tmp_path):
    file = tmp_path / "docker.yaml"
    file.write_text(f"type: docker\n{keys}\n")
    with pytest.raises(ConfigError) as caught:
        load(DockerConfig, file)
    assert fault in str(caught.value)


# Stand-ins for an engine whose daemon does not answer, or which lacks the image.
ENGINES = {
    "silent": "echo 'Cannot connect to the Docker daemon' >&2; exit 1",
    "without": '[ "$1" = version ] || { echo "No such image" >&2; exit 1; }',
    "whole": "exit 0",
}


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("silent", "does not answer: Cannot connect to the Docker daemon; start it"),
        (
            "without",
            "image: lab/cuda:1 is not on this machine; build it: .* build --target cuda --tag lab/cuda:1",
        ),
        ("whole", None),
        ("absent", "command: .*absent is not on this machine; install Docker or Podman"),
    ],
)
def test_what_the_machine_lacks_is_told_with_its_remedy(kind, fault, tmp_path):
    command = tmp_path / kind
    if kind in ENGINES:
        command.write_text(f"#!/bin/sh\n{ENGINES[kind]}\n")
        command.chmod(0o755)
    problems = [str(problem) for problem in Engine(str(command)).faults("lab/cuda:1")]
    if fault is None:
        assert problems == []
    else:
        (problem,) = problems
        assert re.search(fault, problem), problem
