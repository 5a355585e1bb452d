"""The manifests against the schemas of Kubernetes, Kubeflow's models, and kubectl; offline."""

import json
import subprocess
from shutil import which
from types import SimpleNamespace

import pytest
import yaml

from tests.launch.launches import NASTY, launch, run
from tests.launch.test_kubernetes_manifests import launcher, rendered

pytestmark = pytest.mark.docker
validate = pytest.importorskip("kubernetes_validate", reason="`make images` installs kubernetes-validate")
training = pytest.importorskip("kubeflow.training", reason="`make images` installs kubeflow-training")
DOCUMENTS = {
    f"{name}-{document['kind']}": document
    for name, text in rendered().items()
    for document in yaml.safe_load_all(text)
}
OPERATORS = [name for name, document in DOCUMENTS.items() if document["kind"] == "PyTorchJob"]


@pytest.mark.parametrize("version", ["1.31", "1.37"])
@pytest.mark.parametrize("name", sorted(DOCUMENTS.keys() - OPERATORS))
def test_kubernetes_knows_every_key(name, version):
    validate.validate(DOCUMENTS[name], version, strict=True)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_operator_loses_no_key(name):
    """Its model keeps what it knows, and drops the rest in silence."""
    client = training.ApiClient()
    answer = SimpleNamespace(data=json.dumps(DOCUMENTS[name]))
    read = client.deserialize(answer, "KubeflowOrgV1PyTorchJob")
    assert client.sanitize_for_serialization(read) == DOCUMENTS[name]


@pytest.mark.skipif(which("kubectl") is None, reason="there is no kubectl here")
@pytest.mark.parametrize("case", ["job", "one"])
def test_kubectl_reads_the_words_that_were_written(case):
    """Go's reader of YAML takes nothing for a number, a date or a truth that Python's does not."""
    words = [
        NASTY,
        *("1e3", "0o17", "0x1f", "y", "no", "1_000", "12:30", ".5", "2026-11-28", "null", "~", ""),
    ]
    what = launch(run("bert", "é\u2028\x85\x07", *words, folder="/data/work/runs"))
    (text,) = (
        launcher(
            case,
            env=dict.fromkeys("ABC", "1e3"),
            directory=None,
            volumes=[{"claim": "work", "path": "/data"}],
        )
        .render(what)
        .values()
    )
    line = ["kubectl", "annotate", "--local", "--filename=-", "--output=json", "a=b"]
    read = subprocess.run(line, input=text, capture_output=True, text=True, check=True).stdout
    for document in yaml.safe_load_all(text):
        document["metadata"]["annotations"] = {"a": "b"}
        found, end = json.JSONDecoder().raw_decode(read)
        read = read[end:].lstrip()
        found.pop("status", None)
        found["metadata"].pop("creationTimestamp", None)
        found.get("spec", {}).get("template", {}).get("metadata", {}).pop("creationTimestamp", None)
        assert found == document
    assert not read
