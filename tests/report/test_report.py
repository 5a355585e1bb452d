"""The report: one page that holds everything, whatever the runs are missing."""

import json
import re
from html.parser import HTMLParser

import pytest
import yaml

from lumbre.errors import RunFolderError
from lumbre.report import write_report

VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        else:
            self.text.append(data)

    @property
    def data(self):
        """What the page's scripts draw."""
        return json.loads(self.scripts[0])


def training(step, **changes):
    row = {
        "step": step,
        "tokens": step * 100,
        "loss": 5.0,
        "learning_rate": 1e-3,
        "grad_norm": 1.0,
        "tokens_per_second": 1000.0,
        "mfu": 0.25,
        "step_seconds": 0.5,
        "data_seconds": 0.001,
        "overhead_seconds": 0.004,
        "peak_memory_bytes": 2**30,
        "time": 0.0,
    }
    return row | changes


def make(folder, rows=(), config=None, tail="", **files):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def render(tmp_path, *runs):
    return Page(write_report(runs, tmp_path / "out" / "report.html").read_text())


def test_report_shows_numbers_curves_configs_and_events(tmp_path):
    rows = [
        *(training(step) for step in range(1, 41)),
        {"step": 40, "eval/loss": 4.5, "eval/perplexity": 90.0},
    ]
    event = {"step": 20, "event": "checkpoint", "message": "step-00000020", "time": 0.0}
    config = {"seed": 1, "optimizer": {"learning_rate": 0.1, "b": 2}, "task": "mine alone"}
    first = make(tmp_path / "first", [*rows, event], config)
    second = make(tmp_path / "second", rows, {"seed": 1, "optimizer": {"learning_rate": 0.2, "b": 2}})
    page = render(tmp_path, first, second)
    for text in ("first", "40", "4,000", "5.0000", "4.5000", "1,000", "25.0%", "1.00%", "1.0 GiB", "0:20"):
        assert text in page.text, text
    assert {"optimizer.learning_rate", "0.1", "0.2", "checkpoint", "step-00000020"} <= set(page.text)
    assert not {"seed", "optimizer.b"} & set(page.text)
    assert page.text.index("optimizer.learning_rate") < page.text.index("1 keys of some runs alone")
    assert page.text.index("1 keys of some runs alone") < page.text.index("mine alone")
    figures = {figure["key"]: figure for figure in page.data["figures"]}
    assert list(figures) == [
        *("loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "peak_memory_bytes", "overhead"),
        "eval/perplexity",
    ]
    assert [(line["run"], line.get("dots", False)) for line in figures["loss"]["lines"]] == [
        *((0, False), (0, True), (1, False), (1, True))
    ]
    assert figures["mfu"]["lines"][0]["y"] == [25.0] * 40
    assert page.data["events"] == []


def test_report_needs_nothing_but_itself(tmp_path):
    run = make(tmp_path / "run", [training(step) for step in range(1, 4)])
    page = render(tmp_path, run)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    assert not re.search(r"url\(|@import", "".join(page.text))


def test_everything_from_a_run_is_escaped(tmp_path):
    evil = "<script>alert('$\\nope$ & \"y\"')</script>"
    run = make(
        tmp_path / "a<b>$c$",
        [training(1), {"step": 1, "event": evil, "message": evil}, {"step": 1, f"eval/{evil}": 1.0}],
        {evil: {evil: [evil]}},
        results={
            "rows": [{"model": evil, "seed": 1, evil: 0.5}, {"model": evil, evil: 0.7}],
            "summary": evil,
        },
        samples=[{"prompt": evil, "text": evil + evil}],
    )
    page = render(tmp_path, run)
    assert [tag for tag, _ in page.tags].count("script") == 4
    assert page.text.count(evil) >= 6
    assert page.data["events"][0]["message"] == evil


def test_results_and_samples_are_shown(tmp_path):
    rows = [
        {"model": model, "seed": seed, "accuracy": 0.5 + seed / 8} for model in "ab" for seed in (1, 2, 3)
    ]
    run = make(
        tmp_path / "run",
        results={"rows": rows, "summary": "Pretraining pays."},
        samples=[{"prompt": "import ", "text": "import os"}, {"prompt": "def ", "text": "main():"}],
    )
    page = render(tmp_path, run)
    assert {"Pretraining pays.", "accuracy", "0.6250", "0.8750", "import ", "os", "def ", "main():"} <= set(
        page.text
    )
    (drawn,) = (attributes["data-scores"] for _, attributes in page.tags if "data-scores" in attributes)
    scores = {model: [0.625, 0.75, 0.875] for model in "ab"}
    assert json.loads(drawn) == {"metric": "accuracy", "scores": scores}


def test_of_a_grid_only_the_chosen_setting_is_told_on_test(tmp_path):
    rows = [
        {
            "model": "pretrained",
            "seed": 1,
            "point": {"optimizer.learning_rate": rate},
            "split": "test",
            "accuracy": test,
            "validation": {"accuracy": validation},
        }
        for rate, validation, test in [(1e-4, 0.75, 0.6543), (1e-3, 0.625, 0.9876)]
    ]
    results = {
        "metrics": ["accuracy"],
        "rows": rows,
        "chosen": {"pretrained": {"optimizer.learning_rate": 1e-4}},
    }
    shown = set(render(tmp_path, make(tmp_path / "run", results=results)).text)
    assert {"0.7500", "0.6250", "0.6543", "2 settings", "optimizer.learning_rate"} <= shown
    assert "0.9876" not in shown


def test_what_went_wrong_is_shown_the_surest_mistakes_first(tmp_path):
    """Of several runs those of the one that was best on validation."""
    rows = [
        {
            "model": "pretrained",
            "run": name,
            "split": "test",
            "accuracy": 0.5,
            "validation": {"accuracy": value},
        }
        for name, value in (("first", 0.5), ("second", 0.75))
    ]
    run = make(tmp_path / "run", results={"metrics": ["accuracy"], "rows": rows})
    for name in ("first", "second"):
        (run / name).mkdir()
        lines = [
            {"input": f"{name} right", "prediction": "a", "score": 1.0},
            {
                "input": f"{name} unsure",
                "prediction": "a",
                "probabilities": {"a": 0.6, "b": 0.4},
                "score": 0.0,
            },
            {"input": [f"{name} sure", "<b>"], "prediction": "a", "probabilities": {"a": 0.9}, "score": 0.0},
        ]
        (run / name / "predictions-test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shown = render(tmp_path, run).text
    assert shown.index("second sure · <b>") < shown.index("second unsure")
    assert "a (90%)" in shown
    assert "What run gets wrong" in shown
    assert not [text for text in shown if text.startswith(("second right", "first"))]


@pytest.mark.parametrize(
    ("rows", "tail"),
    [
        ([], ""),
        ([], "{torn"),
        ([training(1)], '{"step": 2, "lo'),
        ([training(step, loss=None, grad_norm=None, mfu=None) for step in range(1, 30)], ""),
        ([{"step": 5, "loss": 1.0}, {"loss": 2.0}, {"step": None, "loss": "x"}], "[1]\nnull\n"),
        ([{"step": 5, "eval/accuracy": 0.5}], ""),
        ([training(1, step_seconds=0.0)], ""),
    ],
)
def test_runs_with_missing_or_torn_metrics_still_render(tmp_path, rows, tail):
    bare = make(tmp_path / "bare", rows, tail=tail)
    whole = make(tmp_path / "whole", [training(step) for step in range(1, 9)], {"seed": 1})
    assert len(render(tmp_path, bare, whole).data["runs"]) == 2
    shown = render(tmp_path, bare).text
    assert {"Missing", ": no config.yaml that can be read"} <= set(shown)
    assert (": no metrics yet" in shown) == (not rows)


def test_a_damaged_side_file_is_left_out(tmp_path):
    run = make(tmp_path / "run", [training(1)], results=[1], samples={"a": 1})
    (run / "config.yaml").write_text("a: [")
    page = render(tmp_path, run)
    assert not [text for text in page.text if text.startswith(("Results", "Samples"))]


def test_the_same_runs_make_the_same_bytes(tmp_path):
    run = make(tmp_path / "run", [training(step) for step in range(1, 9)])
    pages = [write_report([run], tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_a_folder_that_is_not_there_is_explained(tmp_path):
    with pytest.raises(RunFolderError, match="nowhere: no such run folder"):
        write_report([tmp_path / "nowhere"], tmp_path / "report.html")


def test_a_probe_is_a_figure_of_its_first_metric_and_a_column_of_each(tmp_path):
    rows = [training(step) for step in range(1, 5)]
    rows += [
        {"step": step, "downstream/sst2/accuracy": step / 10, "downstream/sst2/f1": 0.25} for step in (2, 4)
    ]
    rows += [{"step": 4, "downstream/cola/matthews": -0.125}]
    probed = make(tmp_path / "probed", rows)
    plain = make(tmp_path / "plain", [training(step) for step in range(1, 5)])
    page = render(tmp_path, probed, plain)
    assert {"downstream/sst2/accuracy", "0.4000", "downstream/sst2/f1", "-0.1250"} <= set(page.text)
    lines = {
        figure["key"]: [(line["run"], line["x"], line["y"]) for line in figure["lines"]]
        for figure in page.data["figures"]
        if figure["group"] == "Probes"
    }
    assert lines == {
        "downstream/sst2/accuracy": [(0, [2, 4], [0.2, 0.4])],
        "downstream/sst2/f1": [(0, [2, 4], [0.25, 0.25])],
        "downstream/cola/matthews": [(0, [4], [-0.125])],
    }


def test_a_folder_that_is_no_run_is_explained(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(RunFolderError, match=r"photos: is no run folder, it has none of metrics\.jsonl"):
        write_report([tmp_path / "photos"], tmp_path / "report.html")


def test_events_are_listed_and_marked_and_checkpoints_listed_alone(tmp_path):
    events = [{"step": step, "event": "checkpoint", "message": f"step-{step}"} for step in (2, 4)]
    events += [{"step": 3, "event": "loss_spike", "message": "9.1 against 2.3"}]
    page = render(tmp_path, make(tmp_path / "run", [training(1), *events]))
    spike = {"run": 0, "step": 3, "event": "loss_spike", "message": "9.1 against 2.3"}
    assert page.data["events"] == [spike]
    assert {"loss_spike", "9.1 against 2.3", "2 checkpoints", "step-2", "step-4"} <= set(page.text)


def test_samples_show_the_latest_and_what_came_before_it(tmp_path):
    rows = [{"step": step, "samples": [{"prompt": "One", "text": f"One at {step}"}]} for step in (10, 20, 30)]
    shown = render(tmp_path, make(tmp_path / "run", rows)).text
    assert shown[shown.index("step 30") + 1 :][:2] == ["One", " at 30"]
    assert (
        shown.index(" at 30")
        < shown.index("at earlier steps")
        < shown.index(" at 10")
        < shown.index(" at 20")
    )
    assert "step 10" not in shown


def test_other_axes_are_what_the_run_logged_and_time_has_no_pauses(tmp_path):
    """Steps 1 to 3 took half a second each, though a night lies between two of them."""
    rows = [training(step, samples=8 * step, time=1e5 * step) for step in (1, 2, 3)]
    (run,) = render(tmp_path, make(tmp_path / "run", rows)).data["runs"]
    assert run["axes"] == {
        **{"tokens_at": [1, 2, 3], "tokens": [100, 200, 300]},
        **{"samples_at": [1, 2, 3], "samples": [8, 16, 24]},
        **{"seconds_at": [1, 2, 3], "seconds": [0.5, 1, 1.5]},
    }


def test_figures_of_every_node_stand_at_the_step_of_their_time(tmp_path):
    run = make(tmp_path / "run", [training(step, time=10.0 * step) for step in range(1, 5)])
    (run / "system").mkdir()
    lines = [{"time": seconds, "cpu_percent": seconds / 2} for seconds in (5.0, 15.0, 30.0, 99.0)]
    (run / "system" / "node-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (figure,) = (one for one in render(tmp_path, run).data["figures"] if one["group"] == "System")
    assert figure["key"] == "system/node-1/cpu_percent"
    assert (figure["lines"][0]["x"], figure["lines"][0]["y"]) == ([1.5, 3], [7.5, 15.0])
