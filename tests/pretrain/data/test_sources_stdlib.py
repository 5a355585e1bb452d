"""The standard library as a source, in whole or by package."""

from pretrain.data.sources import StdlibConfig


def test_packages_are_read_alone_and_all_of_them_without_a_choice():
    whole = StdlibConfig().files()
    some = StdlibConfig(packages=["email", "argparse"]).files()
    assert set(some) < set(whole)
    assert {path.parent.name if path.name != "argparse.py" else "argparse" for path in some} <= {
        "email",
        "mime",
        "argparse",
    }
    assert any(path.name == "argparse.py" for path in some)


def test_a_package_that_is_not_there_is_named_with_those_that_are_like_it():
    problems = list(StdlibConfig(packages=["argparse", "emial"]).missing())
    assert [(problem.key, "email" in problem.remedy) for problem in problems] == [("packages.1", True)]
