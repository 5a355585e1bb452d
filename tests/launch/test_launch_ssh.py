"""The ssh launcher on one machine: what is rendered, and jobs through a stand-in of ssh."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.base import Job, Launch, Run, Task
from launch.ssh.config import SshConfig
from launch.ssh.connection import ssh_line
from launch.ssh.hosts import NAME, Host, parse
from launch.ssh.launcher import SshLauncher
from lumbre.config import load
from lumbre.errors import ConfigError
from tests.launch.test_launch_local import DRIVER, PROGRAM, gone, wait_for

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
HOSTS = [Host("node1", 4), Host("root@node2", 2)]
NASTY = 'it\'s a "run" $(touch pwned) `touch pwned`\n; touch pwned & # -rf ~ *'

# Stands in for ssh: what it is told to run on a host it runs here.
STAND_IN = """#!/bin/sh
for last; do :; done
case "$*" in
*" -G "*) echo "hostname localhost" ;;
*" -- silent "*) echo "ssh: connect to host silent port 22: Connection timed out" >&2; exit 255 ;;
*" run") echo "$@" >>"$0.seen"; exec sh -c "$last" ;;
*) exec sh -c "$last" ;;
esac
"""

names = st.from_regex(NAME, fullmatch=True).filter(str.isascii)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


def chain(*runs: Run) -> Launch:
    tasks = tuple(Task(run.name, (run,)) for run in runs)
    return Launch("bert", tasks, Path("/share/launches/bert"), Path("/share/my project"))


def a_run(program: str = "pretrain", *arguments: str) -> Run:
    return Run(Job(program, arguments or ("configs/bert.yaml",)), "bert", Path("/share/runs/bert"))


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(names, st.integers(1, 99)), max_size=8, unique_by=lambda pair: Host(pair[0]).machine.lower()
    )
)
def test_a_hostfile_says_what_was_written(hosts):
    lines = [f"  {name}\tslots={slots}  # a comment" for name, slots in hosts]
    lines = [text for line in lines for text in (line, "", "# nothing")]
    assert parse(lines) == ([Host(*pair) for pair in hosts], [])


@given(st.lists(st.text(max_size=30), max_size=6))
def test_any_text_is_hosts_that_ssh_takes_for_names_or_a_fault_in_its_line(lines):
    hosts, faults = parse(lines)
    assert all(0 <= fault.line < len(lines) for fault in faults)
    assert all(not host.name.startswith("-") and "/" not in host.name and host.slots > 0 for host in hosts)
    told = {fault.line for fault in faults}
    assert len(hosts) >= sum(bool(line.partition("#")[0].strip()) for line in lines) - len(told)


def test_all_faults_of_a_hostfile_are_told_with_their_lines(tmp_path):
    hostfile, config = tmp_path / "hostfile", tmp_path / "launch.yaml"
    hostfile.write_text("node1 slots=2\n\nnode1 slots=2\nnode2 slots=0\n-oProxyCommand=x\nnode3 slot=2\n")
    config.write_text(f"type: ssh\nhostfile: {hostfile}\n")
    with pytest.raises(ConfigError) as caught:
        load(SshConfig, config)
    told = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in told] == [f"{hostfile}:{line}" for line in (3, 4, 5, 6)]
    for line, text in zip(
        told, ("again, first in line 1", "no process", "no name of a host", "slots=N"), strict=True
    ):
        assert text in line


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ("", "hostfile: is missing"),
        ("hostfile: h\nhosts: [a]", "hostfile: and hosts are both set"),
        ("hostfile: /nowhere/h", "hostfile: /nowhere/h: No such file"),
        ("hosts: [a, b, A]", "hosts.2: A stands here again, first in line 1"),
        ("hosts: [localhost, b]", "master_address: the other hosts cannot reach the first"),
        ("hosts: [a]\npass_env: [A-B]", "no name of a variable"),
    ],
)
def test_hosts_that_cannot_be_are_refused(tmp_path, keys, fault):
    config = tmp_path / "launch.yaml"
    config.write_text(f"type: ssh\n{keys}\n")
    with pytest.raises(ConfigError, match=fault.replace(".", r"\.")):
        load(SshConfig, config)


def test_rendered_files_are_the_golden_ones():
    config = SshConfig(hosts=["x"], python="/opt/my python/bin/python", env={"NCCL_DEBUG": "it's INFO"})
    launch = chain(a_run("prepare"), a_run("pretrain", "configs/bert.yaml", "notes='a b' $(c)"))
    files = SshLauncher(config, HOSTS).render(launch)
    assert list(files) == ["hostfile", "1-prepare.sh", "2-pretrain.sh"]
    for name, text in files.items():
        assert text == (GOLDEN / f"ssh-{name}").read_text(), name


@given(words, words, st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=20))
def test_any_argument_value_and_folder_is_one_word_of_the_script(argument, value, folder):
    config = SshConfig(hosts=["x"], env={"A": value})
    launch = replace(chain(a_run("pretrain", "c.yaml", argument)), directory=Path("/") / folder)
    for hosts in ([Host("a")], HOSTS):
        text = SshLauncher(config, hosts).render(launch)["1-pretrain.sh"]
        found = shlex.split(text, comments=True)
        assert found[-2:] == ["c.yaml", argument]
        assert f"A={value}" in found
        assert found[found.index("cd") + 2] == str(Path("/") / folder)


@pytest.mark.parametrize("hosts", [1, 2])
def test_scripts_please_shellcheck(tmp_path, hosts):
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck is not installed")
    launch = chain(a_run("prepare"), a_run("pretrain", "c.yaml", NASTY))
    for name, text in SshLauncher(SshConfig(hosts=["x"]), HOSTS[:hosts]).render(launch).items():
        if name.endswith(".sh"):
            (tmp_path / name).write_text(text)
    # SC2016 tells of words that a shell does not expand: that is what they are quoted for.
    line = [shellcheck, "--exclude=SC2016", *tmp_path.glob("*.sh")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_script_run_by_a_shell_hands_every_word_over_as_it_is(tmp_path):
    python, folder = tmp_path / "py thon", tmp_path / "it's $(touch pwned)"
    folder.mkdir()
    python.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "print(json.dumps([os.getcwd(), os.environ['A'], sys.argv[1:]]))\n"
    )
    python.chmod(0o755)
    config = SshConfig(hosts=["x"], python=str(python), env={"A": NASTY})
    launch = replace(chain(a_run("pretrain", "-c.yaml", NASTY)), directory=folder)
    for hosts in ([Host("a")], HOSTS):
        (tmp_path / "script").write_text(SshLauncher(config, hosts).render(launch)["1-pretrain.sh"])
        places = {
            "NODES": "2",
            "NODE_RANK": "1",
            "PROCESSES": "2",
            "MASTER_ADDR": "$(touch pwned)",
            "MASTER_PORT": "29500",
        }
        told = subprocess.run(
            ["sh", tmp_path / "script"], env={**os.environ, **places}, capture_output=True, check=True
        )
        directory, value, argv = json.loads(told.stdout)
        assert (directory, value) == (str(folder), NASTY)
        assert argv[-5:] == ["-m", "lumbre.cli", "pretrain", "-c.yaml", NASTY]
        if len(hosts) > 1:
            assert {
                "--nnodes=2",
                "--node-rank=1",
                "--nproc-per-node=2",
                "--master-addr=$(touch pwned)",
            } <= set(argv)
    assert not list(tmp_path.rglob("pwned"))


def test_ssh_asks_nothing_shares_nothing_and_takes_no_host_for_an_option():
    line = ssh_line(SshConfig(hosts=["x"], ssh_options=["-p", "2222"]), HOSTS[1], "/my py", "run")
    assert line[-5:] == ["-p", "2222", "--", "root@node2", "exec '/my py' -m lumbre.launch.ssh.remote run"]
    assert {"BatchMode=yes", "ControlMaster=no", "ServerAliveCountMax=3", "ServerAliveInterval=5"} <= set(
        line
    )


@pytest.fixture
def start(tmp_path):
    """Start the launcher in a process of its own with the stand-in of ssh, on a run folder `run`."""
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin" / "ssh"
    ssh.write_text(STAND_IN)
    ssh.chmod(0o755)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "launch.yaml").write_text(
        "type: ssh\nhosts: [a]\nanswer_timeout_seconds: 3\nstop_timeout_seconds: 3\n"
    )
    folder = tmp_path / "run"
    folder.mkdir()
    started = []

    def begin(*words: str, launch: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
        line = [tmp_path / "launch.yaml", *launch, "--", "pretrain", folder, *words]
        child = subprocess.Popen(
            [sys.executable, tmp_path / "driver.py", tmp_path / "program.py", *line],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        return child

    begin.folder = folder
    yield begin
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


def jobs_of(folder: Path) -> list[int]:
    """Return the processes of the launch that are alive, its supervisors included."""
    mark = f"LUMBRE_LAUNCH={folder.parent}/launches/run".encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [int(file.parent.name)] if mark in file.read_bytes().split(b"\0") else []
        except OSError:
            continue
    return [pid for pid in found if not gone(pid)]


def wait_until_ended(folder: Path) -> None:
    while jobs_of(folder):
        time.sleep(0.05)


def test_a_job_is_run_with_secrets_that_stand_in_no_file_and_no_argument(start):
    secret = "s3cr3t-value"
    child = start("status", "0", WANDB_API_KEY=secret, launch=("threads_per_process=3",))
    out, err = child.communicate()
    assert child.returncode == 0, (out, err)
    assert (start.folder / "exit.json").exists()
    texts = [file.read_text() for file in start.folder.parent.rglob("*") if file.is_file()]
    assert not [text for text in texts if secret in text]


def test_a_job_that_fails_without_a_record_shows_its_status_and_its_log(start):
    child = start("status", "3", "silent")
    _, told = child.communicate()
    assert child.returncode == 3
    assert "ended with status 3, first on host a" in told
    assert "launches/run/a.log" in told


def test_ctrl_c_lets_the_job_save_and_until_then_it_is_not_started_twice(start):
    child = start()
    wait_for(start.folder / "ready-0")
    second = start()
    assert "a: a job of this launch still runs there (process " in second.communicate()[1]
    assert second.returncode != 0
    child.send_signal(signal.SIGINT)
    _, told = child.communicate()
    assert child.returncode == 75
    assert "SIGINT: asked the job to save" in told
    assert "stopped at step 7" in told


def test_a_job_whose_launcher_is_killed_saves_and_ends(start):
    child = start()
    wait_for(start.folder / "ready-0")
    assert jobs_of(start.folder)
    child.kill()
    wait_until_ended(start.folder)
    assert json.loads((start.folder / "exit.json").read_text())["status"] == 75
    log = (start.folder.parent / "launches" / "run" / "a.log").read_text()
    assert "the connection has ended: asked the job to save" in log


def test_a_job_whose_launcher_is_silent_saves_and_what_does_not_end_is_killed(start):
    """A launcher that stands still is what a host sees that has been cut off."""
    child = start("stubborn")
    wait_for(start.folder / "ready-0")
    child.send_signal(signal.SIGSTOP)
    wait_until_ended(start.folder)
    assert len(list(start.folder.glob("asked-*"))) == 1
    child.send_signal(signal.SIGCONT)
    child.communicate()
    assert child.returncode not in (0, 75)
    log = (start.folder.parent / "launches" / "run" / "a.log").read_text()
    assert "no word from the launcher for 3 s" in log


def test_hosts_that_do_not_answer_are_a_problem_of_the_config(start):
    child = start(launch=("hosts=[silent]",))
    _, told = child.communicate()
    assert child.returncode != 0
    assert "silent does not answer: ssh: connect to host silent port 22: Connection timed out" in told
    assert not (start.folder / "checked").exists()
