"""kubectl: what is asked of the cluster, and what it answers."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from lumbre.errors import LaunchError, Problem

from .manifests import RESOURCES

if TYPE_CHECKING:
    from .config import KubernetesConfig

ANSWER_SECONDS = 10
ENDED = {"Complete": "COMPLETED", "Succeeded": "COMPLETED", "Failed": "FAILED"}
"""Conditions of Jobs and PyTorchJobs that have ended."""


class Kubectl:
    """The cluster's own command, in the namespace of the config."""

    def __init__(self, config: "KubernetesConfig") -> None:
        self._config = config

    def faults(self) -> Iterator[Problem]:
        """Yield what is missing: kubectl, a cluster that answers, leave, the kind, claims, the secret."""
        config = self._config
        if shutil.which("kubectl") is None:
            yield Problem("type", "kubectl is not on this machine", "install it, and log in to the cluster")
            return
        resource = RESOURCES["PyTorchJob" if config.kind == "pytorchjob" else "Job"]
        questions: list[tuple[str, ...]] = [("auth", "can-i", "create", resource)]
        questions += [("get", "persistentvolumeclaim", volume.claim) for volume in config.volumes]
        questions += [("get", "secret", config.secret)] if config.secret else []
        if config.kind == "pytorchjob":
            questions.append(("api-resources", "--api-group=kubeflow.org", "--output=name"))
        with ThreadPoolExecutor(len(questions)) as pool:
            leave, *answers = pool.map(lambda words: self._ask(*words), questions)
        if leave.returncode != 0:
            if leave.stdout.strip() == "no":
                fault = f"you may not create {resource} in {config.namespace}"
                yield Problem("namespace", fault, "name a namespace that is yours, or ask for leave")
            else:
                remedy = "see that `kubectl get nodes` works, or set context"
                yield Problem("context", f"the cluster does not answer: {_words(leave)}", remedy)
            return
        for (verb, kind, *_), answer in zip(questions[1:], answers, strict=True):
            if verb == "api-resources":
                if resource not in answer.stdout.split():
                    fault = "the cluster knows no PyTorchJob"
                    yield Problem("kind", fault, "install Kubeflow's training operator, or set kind: job")
            elif answer.returncode != 0 and "NotFound" in answer.stderr:
                key = "secret" if kind == "secret" else "volumes"
                remedy = f"create it in the namespace {config.namespace}, or name another"
                yield Problem(key, _words(answer), remedy)

    def apply(self, text: str) -> None:
        """Give the cluster what the text describes; raises LaunchError in its words."""
        self._must("apply", "--filename=-", text=text, seconds=60)

    def delete(self, text: str, *, wait: bool) -> None:
        """Delete what the text describes, pods asked to save first; raises LaunchError."""
        words = ("delete", "--ignore-not-found", f"--wait={str(wait).lower()}", "--filename=-")
        self._must(*words, text=text, seconds=self._config.stop_timeout_seconds + 60 if wait else 60)

    def job(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return a job as the cluster tells it; None where there is none. Raises LaunchError."""
        asked = self._ask("get", RESOURCES[kind], name, "--output=json")
        if asked.returncode == 0:
            found: dict[str, Any] = json.loads(asked.stdout)
            return found
        if "NotFound" in asked.stderr:
            return None
        raise LaunchError(f"kubectl: {_words(asked)}")

    def logs(self, selector: str) -> Iterator[str]:
        """Yield what all pods of a label have put out so far; raises LaunchError."""
        line = ["logs", f"--selector={selector}", "--tail=-1", "--prefix", "--max-log-requests=1000"]
        yield from self._must(*line, seconds=300).splitlines()

    def _must(self, *words: str, text: str | None = None, seconds: float = ANSWER_SECONDS) -> str:
        asked = self._ask(*words, text=text, seconds=seconds)
        if asked.returncode != 0:
            raise LaunchError(f"kubectl {words[0]}: {asked.stderr.strip() or asked.returncode}")
        return asked.stdout

    def _ask(
        self, *words: str, text: str | None = None, seconds: float = ANSWER_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        config = self._config
        where = [f"--context={config.context}"] if config.context else []
        line = ["kubectl", *where, f"--namespace={config.namespace}", *words]
        try:
            return subprocess.run(
                line, input=text or "", capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(line, 1, "", f"no answer in {seconds:.0f} s")


def state_of(job: dict[str, Any] | None) -> tuple[str, str]:
    """Return a job's state in one word, and what the cluster says of it."""
    if job is None:
        return "ABSENT", "not begun, or removed"
    status: dict[str, Any] = job.get("status", {})
    holds = [one for one in status.get("conditions") or [] if one.get("status") == "True"]
    for condition in holds:
        if condition["type"] in ENDED:
            return ENDED[condition["type"]], condition.get("message", "")
    replicas = (status.get("replicaStatuses") or {}).values()
    active = status.get("active", 0) + sum(one.get("active", 0) for one in replicas)
    failed = status.get("failed", 0) + sum(one.get("failed", 0) for one in replicas)
    detail = f"{active} pods" + (f", {failed} failed before" if failed else "")
    return ("RUNNING" if active else "PENDING"), detail


def _words(asked: subprocess.CompletedProcess[str]) -> str:
    lines = (asked.stderr.strip() or asked.stdout.strip()).splitlines()
    return lines[-1].removeprefix("Error from server (NotFound): ") if lines else f"status {asked.returncode}"
