"""What trackers were given, read back from the files of Weights & Biases and of trackio."""
import json
import sqlite3
import struct
import sys
from types import SimpleNamespace

import pytest
from conftest import finish, program, rows

NAMES = ("step", "epoch", "tokens", "train_loss", "train_perplexity", "val_loss",
         "val_perplexity", "val_bits_per_byte", "learning_rate", "grad_norm",
         "tokens_per_second", "mfu")
SMOKE = "--preset smoke --device cpu --set eval_every=10 --out run".split()
FAILING = """
import sys, wandb
from tinyrope.train import train
def fails(*args, **kwargs): raise RuntimeError("no luck")
if sys.argv[1] == "init": wandb.init = fails
else: wandb.Image = fails
train("smoke", out="run", device="cpu", steps=20, eval_every=10, max_stories=60, track="wandb")
"""
BLOCK, HEADER, WHOLE, LAST = 32768, 7, 1, 4     # of LevelDB's log: bytes, and kinds of parts


def records(path):
    """The records of a .wandb file, which has the format of LevelDB's log.

    It has blocks of 32 KiB, and records in one or several parts. Only wandb-core, written in Go,
    reads such files: the Python package (0.31) has no reader, public or not. The records
    themselves are read by its own protocol buffers.
    """
    from wandb.proto.wandb_internal_pb2 import Record
    data, at, part = path.read_bytes(), HEADER, b""
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER: at += left
        _, size, kind = struct.unpack("<IHB", data[at:at+HEADER])
        at += HEADER
        part, at = part + data[at:at+size], at + size
        if kind in (WHOLE, LAST):
            yield Record.FromString(part)
            part = b""


def of_kind(found, kind):
    "The records of a kind"
    return [getattr(r, kind) for r in found if r.WhichOneof("record_type") == kind]


def values(items):
    "Name → value of what a record lists"
    names = [item.key or "/".join(item.nested_key) for item in items]
    return {name: json.loads(item.value_json) for name, item in zip(names, items)}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory, environment):
    "A run that was tracked offline: its folder, its rows, the files of the tracker, its records"
    place = tmp_path_factory.mktemp("tracked")
    command = [program("tinyrope-train"), *SMOKE, "--steps", "60", "--track", "wandb"]
    finish(command, cwd=place, env=environment)
    folder = place/"run"
    offline, = (folder/"wandb").glob("offline-run-*")
    found = list(records(next(offline.glob("*.wandb"))))
    history = [values(r.item) for r in of_kind(found, "history")]
    return SimpleNamespace(folder=folder, rows=rows(folder), files=offline/"files",
                           records=found, history=history)


def best_so_far(rows):
    "The places of rows whose validation loss is the lowest up to them"
    losses = [row["val_loss"] for row in rows]
    return [i for i, loss in enumerate(losses) if loss == min(losses[:i+1])]


def test_the_tracker_has_the_rows_of_the_log(tracked):
    "Each row of metrics.jsonl was sent, with all its columns"
    given = [{name: h[name] for name in NAMES} for h in tracked.history]
    assert given == [{name: row[name] for name in NAMES} for row in tracked.rows]
    assert len(given) == 6


def test_curves_are_drawn_over_steps(tracked):
    "The step of training is the horizontal axis"
    assert any(m.step_metric == "step" for m in of_kind(tracked.records, "metric"))


@pytest.mark.parametrize("name", ["attention_1", "attention_2"])
def test_attention_is_drawn_whenever_the_model_is_the_best_yet(tracked, name):
    "At these evaluations a PNG of each layer was sent"
    drawn = [i for i, h in enumerate(tracked.history) if f"{name}/path" in h]
    assert drawn and drawn == best_so_far(tracked.rows)
    for i in drawn:
        picture = tracked.files/tracked.history[i][f"{name}/path"]
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_last_table_of_stories_has_all_that_were_told_until_then(tracked):
    "The table holds step, prompt and text of each sample"
    last = best_so_far(tracked.rows)[-1]
    table = json.loads((tracked.files/tracked.history[last]["samples/path"]).read_text())
    told = [s for s in rows(tracked.folder, "samples.jsonl")
            if s["step"] <= tracked.rows[last]["step"] and not s.get("final")]
    assert table["data"] == [[s["step"], s["prompt"], s["text"]] for s in told]
    assert told


def test_the_tracker_has_the_configuration_of_the_run(tracked):
    "All of config.json was sent, with the checksum of the data"
    config = {}
    for r in of_kind(tracked.records, "run"): config |= values(r.config.update)
    written = json.loads((tracked.folder/"config.json").read_text())
    assert {name: config[name] for name in written} == written
    assert len(written["train_sha256"]) == 64


@pytest.mark.parametrize("what", ["init", "log"])
def test_a_tracker_that_fails_stops_nothing(tmp_path, environment, what):
    "The run comes to its end, and says that it goes on without it"
    done = finish([sys.executable, "-c", FAILING, what], cwd=tmp_path, env=environment)
    assert "the run goes on without it" in done.stderr
    assert len(rows(tmp_path/"run")) == 2


def test_nothing_is_tracked_unasked(run, tmp_path):
    "Without --track no file of a tracker is written"
    run("tinyrope-train", *SMOKE, "--steps", "10", "--set", "max_stories=60")
    assert not [*tmp_path.rglob("*wandb*"), *tmp_path.rglob("*trackio*")]


# ---- trackio

def logged(folder):
    "The rows of metrics in trackio's data base"
    path, = folder.glob("tinyrope.db")
    with sqlite3.connect(path) as base:
        found = base.execute("select run_name, step, metrics from metrics order by id").fetchall()
    return [(name, step, json.loads(metrics)) for name, step, metrics in found]


def test_trackio_has_the_rows_of_the_log(tmp_path, environment):
    "Of a run that was stopped and resumed, under one name; and it prints nothing into the output"
    pytest.importorskip("trackio", reason="pip install trackio")
    env = environment | dict(TRACKIO_DIR=str(tmp_path/"kept"), HF_HUB_OFFLINE="1")
    words = [program("tinyrope-train"), *SMOKE, "--set", "max_stories=60", "--track", "trackio"]
    first = finish([*words, "--set", "schedule=constant", "--steps", "10"], cwd=tmp_path, env=env)
    finish([*words, "--set", "schedule=constant", "--steps", "20", "--resume"], cwd=tmp_path, env=env)
    assert "rackio" not in first.stdout
    found = logged(tmp_path/"kept")
    assert len({name for name, _, _ in found}) == 1 and found[0][0].startswith("run-")
    assert [step for _, step, _ in found] == [row["step"] for row in rows(tmp_path/"run")]
    for (_, _, given), row in zip(found, rows(tmp_path/"run")):
        assert {name: given[name] for name in NAMES[1:]} == {name: row[name] for name in NAMES[1:]}
    assert {"attention_1", "attention_2", "samples"} <= found[0][2].keys()
