"""The Kubernetes launcher without a cluster: the manifests, and what it makes of kubectl's answers.

A stand-in takes kubectl's place: it keeps what is applied, and answers as the test says.
"""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import records
from launch.base import Record
from launch.kubernetes import KubernetesConfig, KubernetesLauncher
from launch.kubernetes.text import dump, literal
from lumbre.config import load
from lumbre.errors import ConfigError, LaunchError
from tests.launch.launches import CHAIN, NASTY, launch, run

GOLDEN = Path(__file__).parent / "golden"
# What YAML can hold at all.
WORDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=30)
BASE = {"image": "registry.example/lumbre:1", "volumes": [{"claim": "work", "path": "/data"}]}
CASES = {
    "job": {"nodes": 2, "gpus_per_node": 4, "cpu": 16, "memory": "64Gi", "secret": "lumbre"},
    "pytorchjob": {"kind": "pytorchjob", "nodes": 3, "gpus_per_node": 8, "env": {"NOTE": NASTY}},
    "one": {
        "namespace": "lab",
        "context": "a cluster",
        "cpu": "2500m",
        "directory": "/work/lumbre",
        "volumes": [
            {"claim": "work", "path": "/work", "sub_path": "team"},
            {"claim": "corpus", "path": "/corpus", "read_only": True},
        ],
        "service_account": "trainer",
        "image_pull_secrets": ["registry"],
        "node_selector": {"nvidia.com/gpu.product": "H100"},
        "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
        "labels": {"kueue.x-k8s.io/queue-name": "training"},
    },
}


def launcher(case: str = "job", **keys) -> KubernetesLauncher:
    return KubernetesLauncher(KubernetesConfig(**{**BASE, **CASES[case], **keys}), look_seconds=0.01)


def rendered() -> dict[str, str]:
    return {
        f"kubernetes-{case}-{name}": text
        for case in CASES
        for name, text in launcher(case).render(CHAIN).items()
    }


def expanded(text: str, variables: dict[str, str]) -> str:
    """Return what Kubernetes makes of a word: $(NAME) is put in, $$ is $, and all else stays."""
    value = r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)"
    return re.sub(value, lambda m: "$" if m[0] == "$$" else variables.get(m[1] or "", m[0]), text)


def container(text: str) -> dict:
    *_, job = yaml.load_all(text, yaml.CSafeLoader)
    (one,) = job["spec"]["template"]["spec"]["containers"]
    return one


@pytest.mark.parametrize("name", sorted(rendered()))
def test_a_manifest_is_what_was_looked_at(name):
    assert rendered()[name] == (GOLDEN / name).read_text()


@settings(deadline=None, max_examples=25)
@given(arguments=st.lists(WORDS, max_size=3), folder=WORDS, value=WORDS)
def test_a_pod_runs_the_words_that_went_in(arguments, folder, value):
    """Nothing is put in for a $( ) of the user's, and no reader takes a word for a number."""
    directory = f"/data/{folder}".replace("/..", "").rstrip("/")
    what = launch(run("a", *arguments, folder=f"{directory}/runs"), directory=directory)
    (text,) = launcher(nodes=1, gpus_per_node=0, env={"NOTE": value}).render(what).values()
    found = container(text)
    variables = {"HOME": "wrong", "NOTE": "wrong"}
    words = [expanded(word, variables) for word in found["args"]]
    assert words[1:] == ["python", "-m", "lumbre.cli", "pretrain", *arguments]
    assert words[0] == str(what.tasks[0].runs[0].folder)
    assert expanded(next(one for one in found["env"] if one["name"] == "NOTE")["value"], variables) == value


@given(st.text(alphabet="$(A) \n"))
def test_literal_text_is_itself_after_expansion(text):
    assert expanded(literal(text), dict.fromkeys(("A", "HOME"), "wrong")) == text


@pytest.mark.parametrize(
    "word", ["1e3", "0o17", "0x1f", "y", "N", "1_000", "12:30", ".5", "+1", "null", "~", "", "="]
)
def test_what_a_reader_could_take_for_a_number_is_quoted(word):
    assert dump([{"value": word}]) == f'value: "{word}"\n' or dump([{"value": word}]) == f"value: '{word}'\n"


def test_every_rank_of_a_job_meets_at_the_first_pod():
    words = container(launcher().render(CHAIN)["bert.yaml"])["args"]
    place = ("--nnodes=2", "--node-rank=$(JOB_COMPLETION_INDEX)", "--master-addr=bert-0.bert")
    assert [word for word in words if word.startswith(("--nn", "--node", "--master-addr"))] == list(place)
    service, job = yaml.safe_load_all(launcher().render(CHAIN)["bert.yaml"])
    pods = job["spec"]["template"]
    assert service["metadata"]["name"] == pods["spec"]["subdomain"] == job["metadata"]["name"]
    assert service["spec"]["selector"].items() <= pods["metadata"]["labels"].items()
    assert service["spec"]["clusterIP"] == "None"


def test_a_pod_that_saved_goes_on_and_a_users_error_ends_the_job():
    *_, job = yaml.safe_load_all(launcher().render(CHAIN)["bert.yaml"])
    rules = job["spec"]["podFailurePolicy"]["rules"]
    actions = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in rules if "onExitCodes" in rule}
    assert actions == {2: "FailJob", 75: "Ignore", 76: "Count"}
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_secrets_go_by_name_alone(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mellon")
    for text in launcher().render(CHAIN).values():
        assert "mellon" not in text
        told = {one["name"]: one["valueFrom"] for one in container(text)["env"] if "valueFrom" in one}
        assert told["HF_TOKEN"] == {"secretKeyRef": {"name": "lumbre", "key": "HF_TOKEN", "optional": True}}
    assert "secretKeyRef" not in launcher(secret=None).render(CHAIN)["bert.yaml"]


def test_run_folders_on_no_volume_are_refused():
    what = launch(run("a", folder="/scratch/runs"))
    with pytest.raises(LaunchError, match=r"/scratch/runs/a: is on no volume.*add one to volumes"):
        launcher().render(what)
    with pytest.raises(LaunchError, match="no volume"):
        launcher(volumes=[{"claim": "w", "path": "/scratch", "read_only": True}]).render(what)
    launcher(volumes=[{"claim": "w", "path": "/scratch"}]).render(what)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ("gpus_per_node: 2\nprocesses_per_node: 4", "processes_per_node: 4 processes share 2 GPUs"),
        ("cpu: many", "cpu: 'many' is no quantity"),
        ("memory: 64 GB", "memory: "),
        ("namespace: My_Lab", "namespace: "),
        ("labels: {team: 'a b'}", "labels: team=a b is no label of Kubernetes"),
        ("volumes: [{claim: a, path: /w}, {claim: b, path: /w}]", "volumes.1.path: /w is mounted twice"),
        ("volumes: [{claim: a, path: /dev/shm}]", "volumes.0.path: is the shared memory"),
        ("pass_env: [A-B]", "pass_env.0: 'A-B' is no name of a variable"),
    ],
)
def test_a_wrong_config_is_explained(keys, fault, tmp_path):
    file = tmp_path / "kubernetes.yaml"
    file.write_text(f"type: kubernetes\nimage: a\n{keys}\n")
    with pytest.raises(ConfigError) as caught:
        load(KubernetesConfig, file)
    assert fault in str(caught.value)


KUBECTL = """\
#!{python}
# A stand-in for kubectl: objects are files of this folder; answers.json has what else it is to say.
import json, pathlib, sys
folder = pathlib.Path(__file__).parent
words = [word for word in sys.argv[1:] if not word.startswith(("--namespace=", "--context="))]
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
answers = json.loads((folder / "answers.json").read_text())
for beginning, (status, out, error) in answers.items():
    if " ".join(words).startswith(beginning):
        print(out, end="")
        print(error, end="", file=sys.stderr)
        sys.exit(status)
if words[0] in ("apply", "delete"):
    import yaml
    for found in yaml.safe_load_all(sys.stdin.read()):
        file = folder / (found["kind"].lower() + "s-" + found["metadata"]["name"])
        if words[0] == "apply":
            state = folder / ("next-" + found["metadata"]["name"])
            found["status"] = json.loads(state.read_text()) if state.exists() else {{"active": 1}}
            file.write_text(json.dumps(found))
        else:
            file.unlink(missing_ok=True)
elif words[0] == "get":
    file = folder / (words[1].split(".")[0] + "-" + words[2])
    if not file.exists():
        print(f'Error from server (NotFound): {{words[1]}} "{{words[2]}}" not found', file=sys.stderr)
        sys.exit(1)
    print(file.read_text())
"""
ENDED = {"conditions": [{"type": "Complete", "status": "True"}]}
FAILED = {"conditions": [{"type": "Failed", "status": "True", "message": "exit code 2"}]}


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Return the folder of a stand-in for kubectl that is first on the PATH."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "kubectl").write_text(KUBECTL.format(python=sys.executable))
    (folder / "kubectl").chmod(0o755)
    (folder / "answers.json").write_text("{}")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def answer(cluster: Path, **answers) -> None:
    (cluster / "answers.json").write_text(
        json.dumps({key.replace("_", " "): v for key, v in answers.items()})
    )


def calls(cluster: Path) -> list[str]:
    lines = (cluster / "calls").read_text().splitlines()
    return [" ".join(word for word in json.loads(line) if not word.startswith("--")) for line in lines]


def test_a_launch_is_applied_followed_and_cancelled(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_mellon")
    what = launch(run("bert", "bert.yaml", folder=f"{tmp_path}/runs"), directory=str(tmp_path))
    asked = launcher(volumes=[{"claim": "w", "path": str(tmp_path)}], secret=None)
    record = Record(what, {}, 0.0)
    assert [job.state for job in asked.status(record)] == ["ABSENT"]
    assert asked.submit(what, lambda state: None) == 0
    assert "HF_TOKEN: not passed" in capsys.readouterr().err
    assert [job.state for job in asked.status(record)] == ["RUNNING"]
    with pytest.raises(LaunchError, match="its job bert has not ended; cancel it"):
        asked.submit(what, lambda state: None)
    asked.cancel(record)
    assert [job.state for job in asked.status(record)] == ["ABSENT"]
    with pytest.raises(LaunchError, match="none of its jobs is running"):
        asked.cancel(record)


def test_a_job_that_has_ended_is_run_anew(cluster, tmp_path):
    what = launch(run("bert", folder=f"{tmp_path}/runs"), directory=str(tmp_path))
    asked = launcher(volumes=[{"claim": "w", "path": str(tmp_path)}])
    (cluster / "next-bert").write_text(json.dumps(ENDED))
    for _ in range(2):
        assert asked.submit(what, lambda state: None) == 0
    verbs = [call.split()[0] for call in calls(cluster)]
    assert verbs == ["get", "apply", "get", "delete", "apply"]


@pytest.mark.parametrize(("state", "status", "applied"), [(ENDED, 0, 2), (FAILED, 1, 1)])
def test_a_task_begins_when_the_one_before_it_has_done(state, status, applied, cluster, tmp_path, capsys):
    folder = f"{tmp_path}/runs"
    what = launch(
        run("a", program="prepare", folder=folder), run("a", folder=folder), directory=str(tmp_path)
    )
    (cluster / "next-a-prepare").write_text(json.dumps(state))
    answer(cluster, logs_selector=[0, "", ""], **{"logs": [0, "[pod/a] error: the corpus is empty\n", ""]})
    asked = launcher(volumes=[{"claim": "w", "path": str(tmp_path)}])
    assert asked.submit(what, lambda state: None) == status
    assert [call.split()[0] for call in calls(cluster)].count("apply") == applied
    if status:
        told = capsys.readouterr().err
        assert "exit code 2" in told
        assert "error: the corpus is empty" in told


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ({"auth": [1, "no\n", ""]}, "namespace: you may not create jobs.batch in default"),
        (
            {"auth": [1, "", "dial tcp 10.0.0.1:443: connect: refused"]},
            "context: the cluster does not answer: dial",
        ),
        ({"get persistentvolumeclaim": [0, "", ""]}, 'secret: secret "lumbre" not found'),
        ({"get secret": [0, "", ""]}, 'volumes: persistentvolumeclaim "work" not found'),
        ({"get": [0, "", ""]}, None),
    ],
)
def test_what_the_cluster_lacks_is_told(answers, fault, cluster):
    (cluster / "answers.json").write_text(json.dumps(answers))
    problems = [str(problem) for problem in launcher().faults()]
    assert [problem[: len(fault or "")] for problem in problems] == ([fault] if fault else [])


def test_a_cluster_without_the_operator_is_told(cluster):
    (cluster / "answers.json").write_text(json.dumps({"get": [0, "", ""]}))
    (problem,) = launcher("pytorchjob").faults()
    assert str(problem) == (
        "kind: the cluster knows no PyTorchJob; install Kubeflow's training operator, or set kind: job"
    )


def test_a_refusal_is_shown_in_the_clusters_words(cluster, tmp_path):
    what = launch(run("bert", folder=f"{tmp_path}/runs"), directory=str(tmp_path))
    answer(cluster, apply=[1, "", 'admission webhook "quota" denied the request'])
    with pytest.raises(LaunchError, match='kubectl apply: admission webhook "quota" denied'):
        launcher(volumes=[{"claim": "w", "path": str(tmp_path)}]).submit(what, lambda state: None)


def test_a_record_is_read_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = KubernetesConfig(**{**BASE, **CASES["one"]})
    what = launch(run("bert"), directory=str(tmp_path))
    records.write(what, config, {})
    read, record = records.read("bert")
    assert record.launch == what
    assert read.render(CHAIN) == config.build().render(CHAIN)
