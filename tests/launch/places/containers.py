"""Podman with a store of its own, and a base image made here: no registry, daemon or account is asked.

Needs Linux, root and apt. What pip and apt of this machine are told (indexes, local folders, certificates)
is told to the build too. LUMBRE_CONTAINERS names a folder that keeps the store from one session to the next.
"""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("podman", "runc", "mmdebstrap", "ca-certificates", "catatonit")
BASE = "localhost/base:latest"
INSIDE = "python3,python3-pip,python3-venv,python3-dev,python-is-python3,ca-certificates"
PIP_KEYS = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "proxy")
CONF = """\
[containers]
netns = "host"
default_ulimits = ["nofile={files}", "nproc={processes}"]
init_path = "/usr/libexec/podman/catatonit"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""
STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/store"
runroot = "{folder}/run"
"""


class CannotSetUpError(Exception):
    """Why there can be no containers here."""


@dataclass(frozen=True)
class Containers:
    """A Podman that is told its store by the environment."""

    folder: Path
    environment: dict[str, str]

    def podman(self, *words: str | Path, check: bool = True, **keys: str) -> subprocess.CompletedProcess[str]:
        """Run podman to its end."""
        return subprocess.run(
            ["podman", *words],
            env={**os.environ, **self.environment, **keys},
            capture_output=True,
            text=True,
            check=check,
        )

    def build(self, context: Path, target: str, tag: str) -> str:
        """Build a target of docker/Dockerfile from a folder; returns what podman says."""
        secret, shared = pip_settings(self.folder)
        done = self.podman(
            *("build", "--pull=never", "--network=host", "--isolation=oci", "--format=docker", "--layers"),
            *(f"--volume={path}:{path}:ro" for path in shared),
            f"--secret=id=pip,src={secret}",
            *(f"--build-arg={pair}" for pair in (f"BASE_IMAGE={BASE}", "TORCH_INDEX=", "REVISION=tests")),
            *(f"--target={target}", f"--tag={tag}", f"--file={context}/docker/Dockerfile", context),
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout


def install() -> None:
    """Install what is missing; raises CannotSetUpError with the reason where that cannot be."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise CannotSetUpError("containers without a registry need root on Linux")
    if all(shutil.which(program) for program in ("podman", "runc", "mmdebstrap")) and init_path().exists():
        return
    if shutil.which("apt-get") is None:
        raise CannotSetUpError("podman is not installed, and there is no apt-get to install it")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        line = ["apt-get", "-qq", *words]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotSetUpError(f"podman cannot be installed: {done.stderr.strip()[-300:]}")


def init_path() -> Path:
    """Return where Debian puts the init that `--init` takes."""
    return Path("/usr/libexec/podman/catatonit")


@contextmanager
def containers(folder: Path) -> Iterator[Containers]:
    """Have a Podman, and the base image in its store; raises CannotSetUpError with the reason."""
    install()
    kept = os.environ.get("LUMBRE_CONTAINERS")
    folder = Path(kept) if kept else folder
    folder.mkdir(parents=True, exist_ok=True)
    limits = {"files": _limit(resource.RLIMIT_NOFILE), "processes": _limit(resource.RLIMIT_NPROC)}
    (folder / "containers.conf").write_text(CONF.format(**limits))
    (folder / "storage.conf").write_text(STORAGE.format(folder=folder))
    made = Containers(
        folder,
        {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        },
    )
    try:
        if made.podman("image", "exists", BASE, check=False).returncode != 0:
            _make_base(made)
        yield made
    finally:
        if not kept:
            made.podman("system", "reset", "--force", check=False)
            shutil.rmtree(folder, ignore_errors=True)


def pip_settings(folder: Path) -> tuple[Path, set[str]]:
    """Return a pip.conf with what this machine's pip is told, and the paths on this machine in it."""
    line = [sys.executable, "-m", "pip", "config", "list"]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    settings: dict[str, str] = {}
    for key, _, value in (text.partition("=") for text in told.splitlines()):
        name = key.rpartition(".")[2].replace("_", "-")
        if name in PIP_KEYS:
            settings[name] = value.strip("'\"").replace("\\n", " ")
    file = folder / "pip.conf"
    file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    words = [word.removeprefix("file://") for value in settings.values() for word in value.split()]
    return file, {word.removesuffix("/simple") for word in words if Path(word).exists()}


def _make_base(made: Containers) -> None:
    """Make a small Debian with Python, in memory: on a disk, dpkg's care for each file takes minutes."""
    tar = made.folder / "base.tar"
    memory = Path("/dev/shm")
    scratch = memory / f"lumbre-base-{os.getpid()}" if memory.is_dir() else made.folder / "scratch"
    scratch.mkdir()
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    sources = [str(file) for file in Path("/etc/apt/sources.list.d").glob("debian.sources")]
    line = [
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={INSIDE}"),
        *("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*"),
        '--customize-hook=rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',
        f'--customize-hook=cp -L {bundle} "$1{bundle}"',
        *("bookworm", str(scratch / "base.tar"), *sources),
    ]
    try:
        environment = {**os.environ, "TMPDIR": str(scratch)}
        done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotSetUpError(f"no base image can be made: {done.stderr.strip()[-300:]}")
        shutil.move(scratch / "base.tar", tar)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    made.podman("import", "--quiet", tar, BASE)
    tar.unlink()


def _limit(kind: int) -> str:
    """Return a limit that this user may set: without CAP_SYS_RESOURCE Podman's own is refused."""
    hard = resource.getrlimit(kind)[1]
    number = 16384 if hard == resource.RLIM_INFINITY else min(hard, 16384)
    return f"{number}:{number}"
