"""What stands between srun and the job's python where the job runs in a container."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from lumbre.config import Config
from lumbre.errors import Problem


class ContainerConfig(Config):
    """The image that jobs run in."""

    image: str
    """A file, or a name that the runtime resolves: a registry's image, `docker://...` for Apptainer."""
    runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """Pyxis (srun's own options, with Enroot), or the program `apptainer` on every node."""
    mounts: list[str] = Field(default_factory=list)
    """Folders of the nodes seen in the container, PATH or PATH:PATH_INSIDE; ours come by themselves."""
    python: str = "python3"
    """The interpreter in the image that has Lumbre."""

    def problems(self) -> Iterator[Problem]:
        """Report an image file that is absent, and mounts that no runtime can read."""
        if self.is_file and not Path(self.image).exists():
            yield Problem("image", f"there is no file {self.image}", "build or copy the image first")
        for index, mount in enumerate(self.mounts):
            if "," in mount or mount.count(":") > 2 or not mount.startswith("/"):
                yield Problem(
                    f"mounts.{index}", f"{mount!r} is no mount", "write /PATH or /PATH:/PATH_INSIDE"
                )

    @property
    def is_file(self) -> bool:
        """Whether the image is a file, as opposed to a name."""
        return self.image.startswith(("/", "./", "../", "~")) or self.image.endswith((".sif", ".sqsh"))

    def words(self, folders: Sequence[Path], directory: Path, gpus: bool) -> list[str]:
        """Return the words between srun's own options and the python of the image."""
        seen = list(dict.fromkeys([f"{folder}:{folder}" for folder in folders] + self.mounts))
        if self.runtime == "pyxis":
            mounts = f"--container-mounts={','.join(seen)}"
            return [f"--container-image={self.image}", mounts, f"--container-workdir={directory}"]
        bound = [f"--bind={mount}" for mount in seen]
        return ["apptainer", "exec", *(["--nv"] if gpus else []), *bound, f"--pwd={directory}", self.image]
