"""Configs: one registry, files, names and overrides merged, every problem told at once."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import PositiveFloat, PositiveInt

from lumbre.config import Choice, Config, dump, load
from lumbre.errors import ConfigError, Problem


class Position(Choice):
    """A choice to test with."""

    shared: int = 1
    """A key that every member has."""


class Rotary(Position):
    """A member."""

    type: Literal["rotary"] = "rotary"
    theta: PositiveFloat = 1e4
    """Base."""


class Learned(Position):
    """Another member."""

    type: Literal["learned"] = "learned"
    max_length: PositiveInt
    """Longest."""


class Model(Config):
    """A group."""

    hidden_size: PositiveInt = 64
    num_heads: PositiveInt = 4
    position: Position = Rotary()

    def problems(self):  # type: ignore[no-untyped-def]
        """Heads must divide."""
        if self.hidden_size % self.num_heads:
            yield Problem(
                "num_heads", f"{self.num_heads} does not divide {self.hidden_size}", "choose another"
            )


class Run(Config):
    """A run."""

    name: str
    """The run's name."""
    model: Model
    """The model."""
    extra: Position | None = None
    rows: list[Position] = []  # noqa: RUF012


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a configs folder with a model room and a pretrain room."""
    (tmp_path / "configs/model").mkdir(parents=True)
    (tmp_path / "configs/pretrain").mkdir()
    write(tmp_path, "model/tiny", "hidden_size: 32\nposition: {type: learned, max_length: 3}\n")
    write(tmp_path, "model/large", "base: tiny\nhidden_size: 128\n")
    write(tmp_path, "pretrain/run", "name: x\nmodel: tiny\nrows:\n  - type: rotary\n")
    return tmp_path


def write(folder: Path, name: str, text: str) -> Path:
    """Write configs/NAME.yaml."""
    file = folder / "configs" / f"{name}.yaml"
    file.write_text(text)
    return file


def run_file(folder: Path) -> Path:
    """Return the run's file."""
    return folder / "configs/pretrain/run.yaml"


def problems(folder: Path, *overrides: str) -> list[str]:
    """Return the problems of the run with overrides."""
    with pytest.raises(ConfigError) as caught:
        load(Run, run_file(folder), overrides)
    return [str(problem) for problem in caught.value.problems]


def test_a_string_names_a_file_of_the_room(folder: Path) -> None:
    config = load(Run, run_file(folder))
    assert config.model.hidden_size == 32
    assert config.model.position == Learned(max_length=3)


def test_a_base_is_merged_under_the_mapping(folder: Path) -> None:
    write(folder, "pretrain/run", "name: x\nmodel: {base: large, position: {shared: 5}}\n")
    config = load(Run, run_file(folder))
    assert config.model.hidden_size == 128
    assert config.model.position == Learned(max_length=3, shared=5)


def test_a_base_is_merged_under_the_mapping_of_an_override_too(folder: Path) -> None:
    config = load(Run, run_file(folder), ["model={base: large, position: {shared: 5}}"])
    assert config.model.hidden_size == 128
    assert config.model.position == Learned(max_length=3, shared=5)
    assert problems(folder, "model={base: huge}")[0].startswith(
        "command line: model: there is no configs/model/huge.yaml"
    )


def test_overrides_win_and_reach_into_lists(folder: Path) -> None:
    config = load(Run, run_file(folder), ["model.hidden_size=8", "rows.0.theta=5", "extra={type: rotary}"])
    assert config.model.hidden_size == 8
    assert config.rows == [Rotary(theta=5.0)]
    assert config.extra == Rotary()


def test_another_type_keeps_the_keys_that_every_member_has(folder: Path) -> None:
    """Choosing another engine must not lose its precision, and must not carry alien keys over."""
    config = load(Run, run_file(folder), ["model.position.shared=7", "model.position.type=rotary"])
    assert config.model.position == Rotary(shared=7)


def test_a_name_replaces_and_does_not_mix(folder: Path) -> None:
    write(folder, "model/plain", "num_heads: 2\n")
    config = load(Run, run_file(folder), ["model=plain"])
    assert config.model == Model(num_heads=2)


def test_every_problem_is_told_at_once_with_place_fault_and_remedy(folder: Path) -> None:
    write(
        folder,
        "pretrain/run",
        "name: [1]\nmodel:\n  hiden_size: 3\n  position: {type: rotry}\nmodell: {}\n",
    )
    file = run_file(folder)
    found = problems(folder, "model.num_heads=many")
    assert f"{file}:1: name: should be a valid string, got [1]" in found
    assert f"{file}:3: model.hiden_size: unknown key; did you mean 'hidden_size'?" in found
    assert f"{file}:4: model.position.type: unknown type 'rotry'; did you mean 'rotary'?" in found
    assert f"{file}:5: modell: unknown key; did you mean 'model'?" in found
    assert any(text.startswith("command line: model.num_heads: should be a valid integer") for text in found)
    assert len(found) == 5


def test_problems_between_fields_carry_the_full_key(folder: Path) -> None:
    assert problems(folder, "model.num_heads=5") == [
        "command line: model.num_heads: 5 does not divide 32; choose another"
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model=tny", "there is no configs/model/tny.yaml; did you mean 'tiny'?"),
        ("rows.7.theta=1", "'7' is no index of a list of 1"),
        ("nonsense", "'nonsense' is not an override; write key.path=value"),
        ("name=[", "is not a YAML value"),
        ("extra=5", "expected a mapping with the key 'type'"),
        ("extra={theta: 1}", "'type' is missing; use one of learned, rotary"),
        ("extra.type=learned", "extra.max_length: this key is required; Longest."),
        ("model.position.theta=1", "unknown key; use one of type, shared, max_length"),
    ],
)
def test_a_bad_override_teaches(folder: Path, override: str, expected: str) -> None:
    (found,) = problems(folder, override)
    assert found.startswith("command line: ")
    assert expected in found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"- a\n- b\n", "a mapping is expected at the top, got a list"),
        (b"", "a mapping is expected at the top, got nothing"),
        (b"name: x\n  bad: [\n", ":2: is not valid YAML"),
        (b"name: x\nname: y\n", ":2: name: the key stands twice"),
        (b"name: \xff\n", "is not UTF-8 text (byte 6)"),
        (
            b"name: !!python/object/apply:os.system [ls]\n",
            "is not valid YAML: could not determine a constructor",
        ),
    ],
)
def test_a_file_that_is_no_config_teaches(folder: Path, content: bytes, expected: str) -> None:
    """Nothing in a config is ever run (law 10)."""
    run_file(folder).write_bytes(content)
    (found,) = problems(folder)
    assert expected in found
    assert str(run_file(folder)) in found


def test_a_missing_file_names_what_is_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such config file; give a path, or a name: one of run"):
        load(Run, folder / "configs/pretrain/nothing.yaml")


def test_a_circle_of_bases_is_an_error(folder: Path) -> None:
    write(folder, "model/tiny", "base: large\n")
    assert "is its own base; break the circle" in problems(folder)[0]


@settings(max_examples=30, deadline=None)
@given(
    hidden=st.integers(1, 10_000),
    theta=st.floats(1e-300, 1e300),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30),
)
def test_dump_reads_back_to_an_equal_config(
    tmp_path_factory: pytest.TempPathFactory, hidden: int, theta: float, name: str
) -> None:
    config = Run(name=name, model=Model(hidden_size=hidden, num_heads=1, position=Rotary(theta=theta)))
    file = tmp_path_factory.mktemp("dump") / "run.yaml"
    file.write_text(dump(config), encoding="utf-8")
    assert load(Run, file) == config
