"""The pod of a run: what it runs, on what, and what it sees."""

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lumbre.errors import LaunchError

from ..agent import agent
from ..attempt import AS_RETRYABLE
from ..base import Job, Launch, Run
from ..names import job_name, label
from .text import literal

if TYPE_CHECKING:
    from .config import KubernetesConfig

RUN_LABEL = "lumbre/run"
LAUNCH_LABEL = "lumbre/launch"
OPERATOR_CONTAINER = "pytorch"
"""The container of this name is the one that the training operator tells its rank."""


def name_of(run: Run) -> str:
    """Return the name of the run's job."""
    return label(job_name(run))


def is_operators(config: "KubernetesConfig", run: Run) -> bool:
    """Whether the run is a PyTorchJob; preparation, one process, is a plain Job in any case."""
    return config.kind == "pytorchjob" and run.job.is_training


def nodes(config: "KubernetesConfig", job: Job) -> int:
    """Return how many pods the job gets."""
    return config.nodes if job.is_training else 1


def processes(config: "KubernetesConfig", job: Job) -> int:
    """Return how many processes each pod of the job runs."""
    return (config.processes_per_node or config.gpus_per_node or 1) if job.is_training else 1


def labels(config: "KubernetesConfig", launch: Launch, run: Run) -> dict[str, str]:
    """Return the labels by which the run's objects are found."""
    ours = {"app.kubernetes.io/name": "lumbre", LAUNCH_LABEL: label(launch.name), RUN_LABEL: name_of(run)}
    return {**config.labels, **ours}


def pod(config: "KubernetesConfig", launch: Launch, run: Run) -> dict[str, Any]:
    """Return the pod's spec, but for what Jobs and PyTorchJobs say each in their way."""
    mounts = [_mount(index, config) for index in range(len(config.volumes))]
    container = {
        "name": OPERATOR_CONTAINER if is_operators(config, run) else "lumbre",
        "image": config.image,
        "command": [literal(config.python), "-m", "lumbre.cli", "launch", "attempt"],
        "args": _arguments(config, launch, run),
        "workingDir": str(_there(config, launch, launch.directory)),
        "env": _environment(config, run.job),
        "resources": _resources(config, run.job),
        "volumeMounts": [*mounts, {"name": "shm", "mountPath": "/dev/shm"}],
    }
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": config.stop_timeout_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": config.user,
            "fsGroup": config.user,
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        "containers": [container],
        "volumes": [
            *(_volume(index, config) for index in range(len(config.volumes))),
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": config.shm_size}},
        ],
    }
    if config.service_account:
        spec["serviceAccountName"] = config.service_account
    if config.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in config.image_pull_secrets]
    if config.node_selector:
        spec["nodeSelector"] = dict(config.node_selector)
    if config.tolerations:
        spec["tolerations"] = [taint.model_dump(exclude_none=True) for taint in config.tolerations]
    return spec


def refuse_unseen(config: "KubernetesConfig", launch: Launch) -> None:
    """Raise LaunchError for a run folder that would vanish with its pod."""
    paths = {PurePosixPath(volume.path): volume.read_only for volume in config.volumes}
    for run in (run for task in launch.tasks for run in task.runs if run.job.is_training):
        folder = _there(config, launch, run.folder)
        mounted = [path for path in paths if folder.is_relative_to(path)]
        if not mounted or paths[max(mounted, key=lambda path: len(path.parts))]:
            raise LaunchError(
                f"{folder}: is on no volume that pods may write to, and would vanish with them; "
                "add one to volumes, or set runs_folder to a folder on one"
            )


def _there(config: "KubernetesConfig", launch: Launch, path: Path) -> PurePosixPath:
    """Return where pods see a path of this machine."""
    if config.directory and path.is_relative_to(launch.directory):
        return PurePosixPath(config.directory) / path.relative_to(launch.directory)
    return PurePosixPath(path)


def _arguments(config: "KubernetesConfig", launch: Launch, run: Run) -> list[str]:
    folder = literal(str(_there(config, launch, run.folder)))
    job = Job(run.job.program, tuple(map(literal, run.job.arguments)))
    count, each = nodes(config, job), processes(config, job)
    python = literal(config.python)
    words = [folder, python, *job.command]
    if count * each > 1:
        words = [folder, python, *agent(job, each, config.stop_timeout_seconds, _rendezvous(config, run))]
    return [AS_RETRYABLE, *words] if is_operators(config, run) else words


def _rendezvous(config: "KubernetesConfig", run: Run) -> list[str]:
    """Return where the pods meet; Kubernetes puts the variables in."""
    count = nodes(config, run.job)
    if count == 1:
        return ["--standalone"]
    if is_operators(config, run):
        first, rank, port = "$(MASTER_ADDR)", "$(RANK)", "$(MASTER_PORT)"
    else:
        name = name_of(run)
        first, rank, port = f"{name}-0.{name}", "$(JOB_COMPLETION_INDEX)", str(config.port)
    return [f"--nnodes={count}", f"--node-rank={rank}", f"--master-addr={first}", f"--master-port={port}"]


def _environment(config: "KubernetesConfig", job: Job) -> list[dict[str, Any]]:
    threads = config.threads_per_process
    if threads is None and str(config.cpu).isdigit():
        threads = max(1, int(str(config.cpu)) // processes(config, job))
    values = {**({"OMP_NUM_THREADS": str(threads)} if threads else {}), **config.env}
    told: list[dict[str, Any]] = [{"name": name, "value": literal(value)} for name, value in values.items()]
    for name in config.pass_env if config.secret else ():
        # Optional: a key that the Secret lacks is a variable that is not set, as in a shell.
        key = {"name": config.secret, "key": name, "optional": True}
        told.append({"name": name, "valueFrom": {"secretKeyRef": key}})
    return told


def _resources(config: "KubernetesConfig", job: Job) -> dict[str, Any]:
    asked = {"cpu": config.cpu, "memory": config.memory}
    requests = {name: str(amount) for name, amount in asked.items() if amount is not None}
    limits = {name: amount for name, amount in requests.items() if name == "memory"}
    if config.gpus_per_node and job.is_training:
        limits[config.gpu_resource] = str(config.gpus_per_node)
    return {"requests": requests, "limits": limits}


def _volume(index: int, config: "KubernetesConfig") -> dict[str, Any]:
    return {
        "name": f"volume-{index}",
        "persistentVolumeClaim": {"claimName": config.volumes[index].claim},
    }


def _mount(index: int, config: "KubernetesConfig") -> dict[str, Any]:
    volume = config.volumes[index]
    mount: dict[str, Any] = {"name": f"volume-{index}", "mountPath": volume.path}
    if volume.sub_path:
        mount["subPath"] = volume.sub_path
    if volume.read_only:
        mount["readOnly"] = True
    return mount
