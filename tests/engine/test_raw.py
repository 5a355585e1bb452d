"""Raw DeepSpeed keys: Lumbre knows those that the installed DeepSpeed reads."""

import ast
from importlib.util import find_spec
from pathlib import Path

from lumbre.engine import raw

SOURCES = Path(str(find_spec("deepspeed").origin)).parent  # type: ignore[union-attr]
"""Read as text: to import it takes seconds."""


def test_the_keys_of_zero_are_those_of_deepspeeds_own_config() -> None:
    tree = ast.parse((SOURCES / "runtime/zero/config.py").read_text())
    (config,) = (
        one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "DeepSpeedZeroConfig"
    )
    found = set()
    for field in config.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            call = field.value
            keywords = call.keywords if isinstance(call, ast.Call) else []
            aliases = [
                one.value.value
                for one in keywords
                if one.arg == "alias" and isinstance(one.value, ast.Constant)
            ]
            found.add(aliases[0] if aliases else field.target.id)
    assert set(raw.ZERO_KEYS) == found


def test_every_other_key_is_named_in_deepspeeds_sources() -> None:
    text = "".join(file.read_text() for file in SOURCES.rglob("*.py"))
    assert [key for key in raw.KEYS if f'"{key}"' not in text and f"'{key}'" not in text] == []


def test_a_sound_config_has_no_problem() -> None:
    """Numbers, offload with the optimizer that is ours, groups of other names."""
    zero = {"reduce_bucket_size": 5e8, "overlap_comm": True, "offload_optimizer": {"device": "cpu"}}
    keys = {"zero_optimization": zero, "zero_force_ds_cpu_optimizer": False, "wall_clock_breakdown": True}
    assert list(raw.problems(keys, {"zero_optimization": {"stage": 2}}, 2)) == []


def test_a_disk_wants_stage_three_and_a_folder() -> None:
    keys = {
        "zero_optimization": {"offload_optimizer": {"device": "nvme"}},
        "zero_force_ds_cpu_optimizer": False,
    }
    (low,) = raw.problems(keys, {}, 2)
    assert low.key == "zero_optimization.offload_optimizer.device"
    (unnamed,) = raw.problems(keys, {}, 3)
    assert "nvme_path" in unnamed.remedy
