"""Killed and resumed, stopped and resumed, one process and two: the run must come out the same."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
TRAIN = [str(BIN/"tinyrope-train"), "--preset", "smoke", "--device", "cpu", "--steps", "400", "--set", "eval_every=25", "--set", "eval_blocks=4",
         "--set", "dropout=0.1"]
unix = pytest.mark.skipif(os.name == "nt", reason="signals and gloo processes as on Unix")


def metrics(folder):
    "Rows of metrics.jsonl without the columns that hold times"
    rows = [json.loads(line) for line in (folder/"metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second", "mfu")} for row in rows]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, environment):
    "A run that nobody disturbed"
    folder = tmp_path_factory.mktemp("straight")/"run"
    subprocess.run([*TRAIN, "--out", str(folder)], env=environment, check=True, capture_output=True)
    return folder


def disturbed(folder, environment, how, wait):
    "Start or resume a run and send it a signal `wait` seconds after its next checkpoint; returns whether it was still running"
    last = lambda: (folder/"last").read_text() if (folder/"last").exists() else None
    before = last()
    process = subprocess.Popen([*TRAIN, "--out", str(folder), "--resume"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while process.poll() is None and time.time() < deadline and last() == before: time.sleep(.01)
    time.sleep(wait)
    alive = process.poll() is None
    if alive: process.send_signal(how)
    process.wait(60)
    return alive


@unix
def test_killed_at_random_instants_and_resumed(straight, tmp_path, environment):
    rng, folder = random.Random(0), tmp_path/"killed"
    killed = sum(disturbed(folder, environment, signal.SIGKILL, rng.uniform(0, .2)) for _ in range(5))
    assert killed >= 3, "the run was hardly ever caught alive"
    subprocess.run([*TRAIN, "--out", str(folder), "--resume"], env=environment, check=True, capture_output=True)
    assert (folder/"model.safetensors").read_bytes() == (straight/"model.safetensors").read_bytes()
    assert metrics(folder) == metrics(straight)


@unix
def test_sigterm_saves_and_resume_goes_on(straight, tmp_path, environment):
    folder = tmp_path/"stopped"
    assert disturbed(folder, environment, signal.SIGTERM, 0)
    steps = int((folder/"last").read_text().split("-")[1])
    assert 0 < steps < 400
    subprocess.run([*TRAIN, "--out", str(folder), "--resume"], env=environment, check=True, capture_output=True)
    assert (folder/"model.safetensors").read_bytes() == (straight/"model.safetensors").read_bytes()
    assert metrics(folder) == metrics(straight)


@unix
def test_two_processes_make_the_one_process_run(tmp_path, environment):
    "Without dropout, whose draws differ by process, two processes give the losses of one"
    options = ["--preset", "smoke", "--device", "cpu", "--steps", "30", "--set", "eval_every=10"]
    subprocess.run([str(BIN/"tinyrope-train"), *options, "--out", str(tmp_path/"one")], env=environment, check=True, capture_output=True)
    done = subprocess.run([str(BIN/"torchrun"), "--standalone", "--nproc-per-node", "2", "-m", "tinyrope.train", *options, "--out", str(tmp_path/"two")],
                          env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    one, two = metrics(tmp_path/"one"), metrics(tmp_path/"two")
    assert [r["step"] for r in one] == [r["step"] for r in two] == [10, 20, 30]
    for a, b in zip(one, two):
        for name in ("train_loss", "val_loss"): assert abs(a[name] - b[name]) < 1e-4, (name, a[name], b[name])
