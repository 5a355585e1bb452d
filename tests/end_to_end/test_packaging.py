"""What a checkout and the wheel hold: the same programs, every file, and nothing generic."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("program", "config"), [("pretrain", "quickstart-bert"), ("finetune", "quickstart")])
def test_python_m_in_a_checkout_is_the_same_program(program: str, config: str) -> None:
    line = [f"configs/{program}/{config}.yaml", "seed=7", "--dry-run"]
    module, command = (
        subprocess.run(
            [sys.executable, "-m", *name, *line], cwd=ROOT, capture_output=True, text=True, check=False
        )
        for name in ([program], ["lumbre.cli", program])
    )
    assert (module.returncode, module.stdout, module.stderr) == (
        command.returncode,
        command.stdout,
        command.stderr,
    )
    assert module.returncode in (0, 2)
    assert "seed: 7" in module.stdout or "runs/quickstart" in module.stderr


def test_git_ignores_no_source() -> None:
    """What a fresh clone holds is what is tested here."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    rooms = ["lumbre", "pretrain", "finetune", "launch", "configs", "tests", "docs", "docker", "benchmarks"]
    listed = run(["git", "ls-files", "--others", "--ignored", "--exclude-standard", "--", *rooms], ROOT)
    assert [name for name in listed.splitlines() if "__pycache__" not in name] == []


def test_the_wheel_has_everything_and_nothing_generic(tmp_path: Path) -> None:
    """From an empty folder the installed command knows the shipped configs; only `lumbre` is importable."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("lumbre", "pretrain", "finetune", "launch", "configs", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)]
    run(build, tmp_path)
    (wheel,) = tmp_path.glob("lumbre-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lumbre"}
    shipped = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"lumbre/{path}" for path in shipped} <= set(names)
    assert not [name for name in names if "test" in name or name.endswith(".ipynb")]
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    run([*pip, "install", "--no-deps", "--no-index", "--target", str(installed), str(wheel)], tmp_path)
    top = {path.name for path in installed.iterdir()}
    assert {name for name in top if not name.startswith("lumbre-")} == {"lumbre", "bin"}
    command = str(installed / "bin/lumbre")
    code = "import lumbre.pretrain.run as module; print(module.__file__)"
    assert str(installed) in run([sys.executable, "-c", code], empty, PYTHONPATH=str(installed))
    shown = run([command, "pretrain", "quickstart-bert", "--dry-run"], empty, PYTHONPATH=str(installed))
    assert "name: quickstart-bert" in shown
    job = ["launch", "local", "--dry-run", "--", "pretrain", "quickstart-gpt"]
    assert "quickstart-gpt" in run([command, *job], empty, PYTHONPATH=str(installed))
    assert list(empty.iterdir()) == []


def run(arguments: list[str], folder: Path, **environment: str) -> str:
    """Run a command that ends well; return what it printed."""
    done = subprocess.run(
        arguments, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout
