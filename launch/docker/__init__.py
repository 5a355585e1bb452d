"""Docker and Podman: a container for each run on this machine, which is waited for."""

from .config import DockerConfig as DockerConfig
from .launcher import DockerLauncher as DockerLauncher
