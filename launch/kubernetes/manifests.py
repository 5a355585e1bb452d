"""A run as what the cluster is given: an indexed Job with its headless Service, or a PyTorchJob."""

from typing import TYPE_CHECKING, Any

from lumbre.errors import ExitStatus

from ..base import Launch, Run
from .pod import RUN_LABEL, is_operators, labels, name_of, nodes, pod, processes

if TYPE_CHECKING:
    from .config import KubernetesConfig

RESOURCES = {"Job": "jobs.batch", "PyTorchJob": "pytorchjobs.kubeflow.org"}


def kind_of(config: "KubernetesConfig", run: Run) -> str:
    """Return the kind of the run's job."""
    return "PyTorchJob" if is_operators(config, run) else "Job"


def manifests(config: "KubernetesConfig", launch: Launch, run: Run) -> list[dict[str, Any]]:
    """Return what is applied for the run."""
    if is_operators(config, run):
        return [_pytorchjob(config, launch, run)]
    job = _job(config, launch, run)
    return [_service(config, launch, run), job] if nodes(config, run.job) > 1 else [job]


def _metadata(config: "KubernetesConfig", launch: Launch, run: Run) -> dict[str, Any]:
    return {"name": name_of(run), "namespace": config.namespace, "labels": labels(config, launch, run)}


def _service(config: "KubernetesConfig", launch: Launch, run: Run) -> dict[str, Any]:
    """Return the Service that gives each pod a name; pods meet before they are ready."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(config, launch, run),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {RUN_LABEL: name_of(run)},
            "ports": [{"name": "rendezvous", "port": config.port}],
        },
    }


def _job(config: "KubernetesConfig", launch: Launch, run: Run) -> dict[str, Any]:
    """Return the Job. A user's error ends it; a pod that saved or was evicted is no failure; others count."""
    count = nodes(config, run.job)
    spec = {"restartPolicy": "Never", "subdomain": name_of(run), **pod(config, launch, run)}
    if count == 1:
        del spec["subdomain"]

    def on_exit(action: str, status: ExitStatus) -> dict[str, Any]:
        codes = {"containerName": "lumbre", "operator": "In", "values": [int(status)]}
        return {"action": action, "onExitCodes": codes}

    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(config, launch, run),
        "spec": {
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": count,
            "backoffLimit": config.max_restarts,
            "podFailurePolicy": {
                "rules": [
                    on_exit("FailJob", ExitStatus.USER_ERROR),
                    on_exit("Ignore", ExitStatus.STOPPED),
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    on_exit("Count", ExitStatus.WATCHDOG),
                ]
            },
            "template": {"metadata": {"labels": labels(config, launch, run)}, "spec": spec},
        },
    }


def _pytorchjob(config: "KubernetesConfig", launch: Launch, run: Run) -> dict[str, Any]:
    """Return the PyTorchJob. Its ExitCode policy restarts pods that end with 128 and more."""

    def replicas(count: int) -> dict[str, Any]:
        template = {"metadata": {"labels": labels(config, launch, run)}, "spec": pod(config, launch, run)}
        return {"replicas": count, "restartPolicy": "ExitCode", "template": template}

    others = config.nodes - 1
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _metadata(config, launch, run),
        "spec": {
            "nprocPerNode": str(processes(config, run.job)),
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": config.max_restarts},
            "pytorchReplicaSpecs": {
                "Master": replicas(1),
                **({"Worker": replicas(others)} if others else {}),
            },
        },
    }
