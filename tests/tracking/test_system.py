"""The figures of every node reach the main process through the run folder."""

import json
import os
import time

from lumbre.tracking import system
from lumbre.tracking.system import Figures, Nodes, NodeWatch


def test_each_nodes_latest_figures_are_news_once(tmp_path):
    watch = NodeWatch(tmp_path, 0.05)
    here = tmp_path / "system" / f"{os.uname().nodename}.jsonl"
    while not here.is_file() or not system.last_line(here):
        time.sleep(0.01)
    watch.finish(0)
    other = tmp_path / "system" / "other.jsonl"
    other.write_text('{"time": 1.0, "cpu_percent": 5}\n{"time": 2.0, "cpu_percent": 7}\n{"time": 3.0, "cp')
    nodes = Nodes(tmp_path)
    news = nodes.news()
    assert news["system/other/cpu_percent"] == 7
    assert 0 <= news[f"system/{os.uname().nodename}/memory_percent"] <= 100
    assert nodes.news() == {}
    with other.open("a") as out:
        out.write('u_percent": 9}\n')
    assert nodes.news() == {"system/other/cpu_percent": 9}


def test_rates_are_per_second_since_the_last_look(tmp_path, monkeypatch):
    figures = Figures(tmp_path)
    before = {"time": 10.0, "network_sent": 100, "network_received": 0, "disk_read": 0, "disk_written": 0}
    figures._before = before
    monkeypatch.setattr(figures, "_counted", lambda: {**before, "time": 12.0, "network_sent": 500})
    assert figures.now()["network_sent_per_second"] == 200


def test_a_folder_that_cannot_be_written_ends_the_figures_and_not_the_run(tmp_path):
    (tmp_path / "system").write_text("in the way")
    watch = NodeWatch(tmp_path, 0.05)
    watch._thread.join(5)
    assert not watch._thread.is_alive()
    watch.finish(0)


def test_a_line_of_figures_is_json_without_torch(tmp_path):
    assert json.loads(json.dumps(Figures(tmp_path).now()))["memory_used_bytes"] > 0
