"""The built-in corpus: a fixed order, and nothing of the task's test set in what pretraining reads."""

import ast

import pytest

from lumbre import stdlib


@pytest.fixture(scope="module")
def functions():
    return stdlib.labelled_functions()


def test_every_label_stands_in_every_split(functions):
    for split in stdlib.SPLITS:
        assert {one.label for one in functions[split]} == set(stdlib.PACKAGES)


def test_splits_share_no_module_and_no_text(functions):
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not {f.module for f in functions[one]} & {f.module for f in functions[other]}
        assert not {f.text for f in functions[one]} & {f.text for f in functions[other]}
    for split in stdlib.SPLITS:
        assert len({f.text for f in functions[split]}) == len(functions[split])


def test_there_is_enough_to_learn_from_and_to_measure_on(functions):
    assert len(functions["train"]) > 1000
    assert len(functions["validation"]) > 250
    assert len(functions["test"]) > 400


def test_functions_are_whole_and_labelled_with_their_package(functions):
    for one in functions["test"]:
        assert one.module.split(".")[0] == one.label
        assert isinstance(ast.parse(one.text).body[0], stdlib.Function)


def test_no_held_out_function_stands_in_the_pretraining_corpus(functions):
    held_out = stdlib.held_out_modules()
    assert {one.module for split in ("validation", "test") for one in functions[split]} <= held_out
    corpus = list(stdlib.documents("definition", leave_out=held_out))
    assert not held_out & {one.module for one in corpus}
    texts = {one.text for one in corpus}
    assert not texts & {one.text for split in ("validation", "test") for one in functions[split]}


def test_documents_have_a_fixed_order_and_no_foreign_code():
    first = list(stdlib.documents("module"))
    assert first == list(stdlib.documents("module"))
    modules = {one.module for one in first}
    assert {"argparse", "asyncio.tasks", "pydoc_data.topics"} <= modules
    assert not any(module.split(".")[0] in stdlib.LEFT_OUT - {"pydoc_data"} for module in modules)
    assert not any("pip" in module.split(".") for module in modules)


def test_help_topics_are_a_document_each():
    path = stdlib.topics_file()
    if path is None:
        pytest.skip("this system has no pydoc_data")
    topics = {one.name: one.text for one in stdlib.documents_of("pydoc_data.topics", path, "definition")}
    assert topics["assert"].startswith('The "assert" statement')
    assert len(topics) > 50


def test_definitions_do_not_overlap(tmp_path):
    body = "\n".join(f"        line_{n} = {n}" for n in range(30))
    source = (
        f'"""{"A docstring of the module. " * 5}"""\n\n'
        "@decorated\ndef top(a):\n    def inner():\n        pass\n    # the place of these words\n"
        "    # is inside the function, so that it is long enough\n    return inner\n\n"
        f"class Large:\n    '''{'What it is for. ' * 10}'''\n\n    kind = 1\n    name = 2\n\n"
        f"    def one(self):\n{body}\n\n    def two(self):\n{body}\n\n"
        f"class Small:\n    def three(self):\n        '{'What it is for. ' * 10}'\n        a\n        b\n"
    )
    file = tmp_path / "m.py"
    file.write_text(source)
    found = list(stdlib.documents_of("m", file, "definition"))
    assert [one.name for one in found] == ["", "top", "Large", "Large.one", "Large.two", "Small"]
    assert found[1].text.startswith("@decorated\ndef top")
    assert found[2].text.endswith("name = 2")
    assert found[3].text.startswith("def one(self):\n    line_0 = 0")


def test_a_held_out_function_that_stands_elsewhere_is_left_out(tmp_path, monkeypatch):
    """Here every module of the package has the same function, and a module of no package has it too."""

    def function(name):
        return f"def {name}():\n    first\n    second\n    third\n\n"

    (tmp_path / "package").mkdir()
    for name in "abcdef":
        (tmp_path / "package" / f"{name}.py").write_text(function("shared") + function(f"own_{name}"))
        (tmp_path / f"{name}.py").write_text(function("shared"))
    monkeypatch.setattr(stdlib, "root", lambda: tmp_path)
    functions = stdlib.labelled_functions(("package",))
    texts = {split: [one.text.split("(")[0] for one in functions[split]] for split in stdlib.SPLITS}
    assert sum(map(len, texts.values())) == 7
    assert "def shared" in texts["train"]
    assert not {"def shared"} & {*texts["validation"], *texts["test"]}
    (tmp_path / "elsewhere.py").write_text("".join(function(f"own_{name}") for name in "abcdef"))
    stdlib.labelled_functions.cache_clear()
    functions = stdlib.labelled_functions(("package",))
    assert not functions["validation"]
    assert not functions["test"]
