"""Artifacts, tables and alerts, read back from the real client's offline files."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A pretraining and a fine-tuning, as the programs log them, one of which fails.
SCRIPT = """
import sys
from pathlib import Path
from lumbre.tracking import Artifact, RunInfo, Trackers, WandbConfig
folder = Path(sys.argv[1])
data, model = folder / "data", folder / "runs/made/model"
for name, inputs, outputs, status in [
    ("made", [Artifact(data, "dataset", is_input=True, title="data-1")], [Artifact(model, "model")], 0),
    ("tuned", [Artifact(model, "model", is_input=True), Artifact(folder / "hub/name", "model")], [], 1),
]:
    run = RunInfo(name, folder / "runs" / name, {}, 100)
    trackers = Trackers.start(run, [WandbConfig(mode="offline", system_seconds=0.1)])
    for one in inputs + outputs:
        trackers.artifact(one)
    trackers.log({"step": 1, "loss": 1.0})
    said = [{"prompt": "a [MASK]", "text": "a b"}, {"prompt": "c", "text": "d"}]
    trackers.log({"step": 2, "samples": said, "time": 0.0})
    for step in (3, 4):
        trackers.log({"step": step, "event": "loss_spike", "message": f"loss {step}"})
    trackers.finish(status)
"""


def test_lineage_tables_and_alerts_stand_in_the_offline_files(clean, tmp_path, records):
    made, tuned, model = tmp_path / "runs/made", tmp_path / "runs/tuned", tmp_path / "runs/made/model"
    (tmp_path / "data").mkdir()
    (tmp_path / "data/manifest.json").write_text('{"shards": {"train-00000.tokens": "sha256"}}')
    (tmp_path / "data/train-00000.tokens").write_bytes(bytes(100))
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(50))
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    first, second = records(made), records(tuned)

    data, written = (
        one["artifact"]
        for one in first
        if one["type"] == "artifact" and "table" not in one["artifact"]["type"]
    )
    assert (data["name"], data["type"], data.get("use_after_commit")) == ("data-1", "dataset", True)
    files = {entry["path"]: entry for entry in data["manifest"]["contents"]}
    assert files["train-00000.tokens"]["ref"] == f"file://{tmp_path}/data/train-00000.tokens"
    assert files["manifest.json"].get("ref") is None
    # The same name and content, written by one run and read by the other: on the server one version.
    (read,) = (
        one["artifact"] for one in second if one["type"] == "artifact" and one["artifact"]["type"] == "model"
    )
    assert (written["name"], written.get("use_after_commit")) == ("made-model", None)
    assert (read["name"], read["use_after_commit"]) == ("made-model", True)
    assert read["digest"] == written["digest"]

    alerts = [[one["alert"] for one in part if one["type"] == "alert"] for part in (first, second)]
    told = [[(alert["level"], alert["title"], alert["text"]) for alert in part] for part in alerts]
    spike = ("WARN", "Loss spike", "made, step 3: loss 3")
    assert told[0] == [spike]
    assert told[1][1] == ("ERROR", "Failed", "tuned, step 4: ended with status 1")

    rows = [one["history"]["item"] for one in first if one["type"] == "history"]
    said = next(row for row in rows if row["_step"] == 2)
    (folder,) = (made / "wandb").glob("offline-run-*")
    table = json.loads((folder / "files" / said["samples/table.path"]).read_text())
    assert table == {
        "columns": ["step", "prompt", "text"],
        "data": [[2, "a [MASK]", "a b"], [2, "c", "d"]],
    }
    assert any("cpu_percent" in key for row in rows for key in row)
