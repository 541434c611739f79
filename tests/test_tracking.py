"""What Weights & Biases was given, read back from its offline files."""
import json
import struct
import subprocess
import sys

import pytest

NAMES = ("step", "epoch", "tokens", "train_loss", "train_perplexity", "val_loss", "val_perplexity", "val_bits_per_byte", "learning_rate", "grad_norm",
         "tokens_per_second", "mfu")
CODE = """
import sys, wandb
from tinyrope.train import train
def fails(*args, **kwargs): raise RuntimeError("no luck")
if "{what}" == "init": wandb.init = fails
else: wandb.Image = fails
train("smoke", out="run", device="cpu", steps=20, eval_every=10, wandb="offline")
"""


def records(path):
    """The records of a .wandb file, which has the format of LevelDB's log: blocks of 32 KiB, records in one or several parts.

    Only wandb-core, written in Go, reads such files: the Python package (0.31) has no reader, public or not. The records
    themselves are read by its own protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record
    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7: at += 32768 - at % 32768
        _, size, kind = struct.unpack("<IHB", data[at:at+7])
        part, at = part + data[at+7:at+7+size], at + 7 + size
        if kind in (1, 4):
            yield Record.FromString(part)
            part = b""


def test_offline_tracking_holds_what_the_run_measured(run, tmp_path):
    run("tinyrope-train", "--preset", "smoke", "--device", "cpu", "--steps", "60", "--set", "eval_every=10", "--wandb", "offline", "--out", "run")
    place, = (tmp_path/"run"/"wandb").glob("offline-run-*")
    found = list(records(next(place.glob("*.wandb"))))
    rows = [json.loads(line) for line in (tmp_path/"run"/"metrics.jsonl").read_text().splitlines()]

    history = [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in r.history.item} for r in found if r.WhichOneof("record_type") == "history"]
    assert [{n: h[n] for n in NAMES} for h in history] == [{n: row[n] for n in NAMES} for row in rows]
    assert any(r.metric.step_metric == "step" for r in found if r.WhichOneof("record_type") == "metric")

    best = [i for i, row in enumerate(rows) if row["val_loss"] == min(r["val_loss"] for r in rows[:i+1])]
    for name in ("attention_1", "attention_2"):
        assert [i for i, h in enumerate(history) if f"{name}/path" in h] == best
        for i in best: assert (place/"files"/history[i][f"{name}/path"]).read_bytes().startswith(b"\x89PNG")
    table = json.loads((place/"files"/history[best[-1]]["samples/path"]).read_text())
    samples = [json.loads(line) for line in (tmp_path/"run"/"samples.jsonl").read_text().splitlines()]
    assert table["data"] == [[s["step"], s["prompt"], s["text"]] for s in samples if s["step"] <= rows[best[-1]]["step"] and not s.get("final")]

    config = {u.key: json.loads(u.value_json) for r in found if r.WhichOneof("record_type") == "run" for u in r.run.config.update}
    written = json.loads((tmp_path/"run"/"config.json").read_text())
    assert {k: config[k] for k in written} == written and len(written["train_sha256"]) == 64


@pytest.mark.parametrize("what", ["init", "log"])
def test_a_tracker_that_fails_stops_nothing(tmp_path, environment, what):
    done = subprocess.run([sys.executable, "-c", CODE.format(what=what)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "the run goes on without it" in done.stderr, done.stderr
    assert len((tmp_path/"run"/"metrics.jsonl").read_text().splitlines()) == 2


def test_nothing_is_tracked_unasked(run, tmp_path):
    run("tinyrope-train", "--preset", "smoke", "--device", "cpu", "--steps", "10", "--set", "eval_every=10", "--out", "run")
    assert not list(tmp_path.rglob("*wandb*"))
