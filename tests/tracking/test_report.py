"""The report: one page that holds everything, whatever the runs are missing."""

import json
import re
from html.parser import HTMLParser

import pytest
import yaml

from lumbre.errors import RunFolderError
from lumbre.tracking import plots, report
from lumbre.tracking.report import write_picture, write_report

VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps tags and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
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
        self.text.append(data)


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
    first = make(tmp_path / "first", [*rows, event], {"seed": 1, "optimizer": {"learning_rate": 0.1, "b": 2}})
    second = make(tmp_path / "second", rows, {"seed": 1, "optimizer": {"learning_rate": 0.2, "b": 2}})
    page = render(tmp_path, first, second)
    for text in ("first", "40", "4,000", "5.0000", "4.5000", "1,000", "25.0%", "1.00%", "1.0 GiB", "0:20"):
        assert text in page.text, text
    assert {"optimizer.learning_rate", "0.1", "0.2", "checkpoint", "step-00000020"} <= set(page.text)
    assert not {"seed", "optimizer.b"} & set(page.text)
    assert [tag for tag, _ in page.tags].count("svg") == 2 + len(plots.PANELS)


def test_report_needs_nothing_but_itself(tmp_path):
    run = make(tmp_path / "run", [training(step) for step in range(1, 4)])
    page = render(tmp_path, run)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    source = (tmp_path / "out" / "report.html").read_text()
    assert all("#" in found for found in re.findall(r"url\([^)]*\)", source))


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
    assert "script" not in [tag for tag, _ in page.tags]
    assert page.text.count(evil) >= 6


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
    assert ("accuracy of each model") in [attributes.get("aria-label") for _, attributes in page.tags]


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
    render(tmp_path, bare)
    picture = write_picture([bare, whole], tmp_path / "docs" / "picture.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


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


def test_long_runs_are_thinned_and_keep_their_last_point():
    steps, values = plots.series(
        [{"step": step, "loss": step} for step in range(20_001)], lambda row: row["loss"]
    )
    assert len(steps) <= plots.MOST_POINTS + 1
    assert steps[-1] == values[-1] == 20_000


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
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert [label for label in labels if "Probe" in label] == ["Probe sst2: accuracy", "Probe cola: matthews"]

    (curves,) = (view.curves for view in report._read([probed]))
    lines = {panel.title: panel.line(curves) for panel in plots.probe_panels([curves])}
    assert lines == {"Probe sst2: accuracy": ([2, 4], [0.2, 0.4]), "Probe cola: matthews": ([4], [-0.125])}
    assert write_picture([probed, plain], tmp_path / "out.png").stat().st_size > 10_000
