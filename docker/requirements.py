"""Write what the image installs, by how often it changes: build.txt, torch.txt, requirements.txt."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())
pins = Path("constraints.txt").read_text().splitlines()
files = {
    "build.txt": project["build-system"]["requires"],
    "torch.txt": [pin for pin in pins if pin.startswith("torch==")],
    "requirements.txt": project["project"]["dependencies"],
}
for name, lines in files.items():
    Path(name).write_text("".join(f"{line}\n" for line in lines))
