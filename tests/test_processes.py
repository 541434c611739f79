"""Killed and resumed, stopped and resumed, one process and two: the run must come out the same."""
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

BIN = Path(sys.executable).parent
SMOKE = ["--preset", "smoke", "--device", "cpu", "--set", "eval_blocks=4"]
LONG = [*SMOKE, "--steps", "1600", "--set", "eval_every=20", "--set", "dropout=0.1", "--set", "keep_every=800"]
SHORT = [*SMOKE, "--steps", "60", "--set", "eval_every=10", "--set", "keep_every=20"]
ONE, TWO = [str(BIN/"tinyrope-train")], [str(BIN/"torchrun"), "--standalone", "--nproc-per-node", "2", "-m", "tinyrope.train"]
TIMES = r', "seconds": [^,]+|, "tokens_per_second": \d+|, "mfu": [^}]+'
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and gloo processes as on Unix")


def log(folder):
    "The text of metrics.jsonl without the columns that hold times"
    return re.sub(TIMES, "", (folder/"metrics.jsonl").read_text())


def curve(folder):
    "Step, training loss, validation loss and norm of the gradient at each evaluation"
    rows = [json.loads(line) for line in (folder/"metrics.jsonl").read_text().splitlines()]
    return [[row[name] for name in ("step", "train_loss", "val_loss", "grad_norm")] for row in rows]


def complete(environment, *command):
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start(environment, *command):
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(true, process, seconds=120):
    "Wait until `true()`, or the process has ended"
    deadline = time.time() + seconds
    while process.poll() is None and time.time() < deadline and not true(): time.sleep(.0005)


def children(process):
    "The processes that a process has started, in the order of their numbers"
    return sorted(child.pid for child in psutil.Process(process.pid).children())


def alive(pid):
    "Tell whether a process is there and has not ended (nobody may have asked for its exit status yet)"
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state != "" and state[0] != "Z"


def end(pid):
    try: os.kill(pid, signal.SIGKILL)
    except ProcessLookupError: pass


def last(folder): return (folder/"last").read_text() if (folder/"last").exists() else None


def leftovers(folder): return list((folder/"checkpoints").glob(".step-*"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory, environment):
    "A run that nobody disturbed"
    folder = tmp_path_factory.mktemp("straight")/"run"
    complete(environment, *ONE, *LONG, "--out", str(folder))
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory, environment):
    "A short run by one process, without dropout, whose draws differ between one process and two"
    folder = tmp_path_factory.mktemp("one")/"run"
    complete(environment, *ONE, *SHORT, "--out", str(folder))
    return folder


def test_killed_at_twenty_instants_and_resumed(straight, tmp_path, environment):
    rng, folder, killed, writing = random.Random(0), tmp_path/"killed", 0, 0
    for i in range(20):
        before, process = last(folder), start(environment, *ONE, *LONG, "--out", str(folder), "--resume")
        until(lambda: last(folder) != before, process)              # it goes on, ...
        time.sleep(rng.uniform(0, .15))
        if i % 2: until(lambda: leftovers(folder), process)         # ... and every other time dies while it writes a checkpoint
        if i % 2: time.sleep(rng.uniform(0, .004))
        killed += process.poll() is None
        process.kill()
        process.communicate()
        writing += bool(leftovers(folder))
    assert killed >= 15 and writing >= 3, (killed, writing)
    assert re.search(r"resuming from .*step-000\d\d\d0", complete(environment, *ONE, *LONG, "--out", str(folder), "--resume"))
    assert (folder/"model.safetensors").read_bytes() == (straight/"model.safetensors").read_bytes()
    assert log(folder) == log(straight)
    assert {"step-0000800", "step-0001600"} <= {c.name for c in (folder/"checkpoints").iterdir()}


def test_sigterm_saves_and_prints_the_command_that_resumes(straight, tmp_path, environment):
    folder = tmp_path/"a run"
    process = start(environment, *ONE, *LONG, "--out", str(folder))
    until(lambda: last(folder), process)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert 0 < int(last(folder).split("-")[1]) < 1600
    command = printed.strip().splitlines()[-1]
    subprocess.run(command, shell=True, check=True, capture_output=True, env={**environment, "PATH": f"{BIN}{os.pathsep}{environment['PATH']}"})
    assert (folder/"model.safetensors").read_bytes() == (straight/"model.safetensors").read_bytes()
    assert log(folder) == log(straight)


@pytest.mark.parametrize("how", [[], ["--shard"]], ids=["copies", "shards"])
def test_two_processes_make_the_one_process_run(one, tmp_path, environment, how):
    folder = tmp_path/"two"
    complete(environment, *TWO, *SHORT, *how, "--out", str(folder))
    assert sum(curve(folder), []) == pytest.approx(sum(curve(one), []), abs=1e-5)


@pytest.mark.parametrize("first, then", [((TWO, ["--shard"]), (ONE, [])), ((ONE, []), (TWO, ["--shard"])), ((TWO, []), (ONE, []))],
                         ids=["from shards to one", "from one to shards", "from copies to one"])
def test_saved_by_some_resumed_by_others(one, tmp_path, environment, first, then):
    folder = tmp_path/"run"
    process = start(environment, *first[0], *SHORT, *first[1], "--out", str(folder))
    until(lambda: last(folder), process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=90)
    assert 0 < int(last(folder).split("-")[1]) < 60, "it was stopped too late"
    complete(environment, *then[0], *SHORT, *then[1], "--out", str(folder), "--resume")
    assert sum(curve(folder), []) == pytest.approx(sum(curve(one), []), abs=1e-5)
    assert (folder/"result.json").exists()


def test_a_process_that_dies_ends_the_others(tmp_path, environment):
    folder = tmp_path/"run"
    process = start(environment, *TWO, *LONG, "--set", "batch_size=8", "--out", str(folder))
    until(lambda: last(folder), process)
    workers = children(process)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "another process of this run has ended" in errors, errors


def test_the_same_seed_gives_the_same_log(one, tmp_path, environment):
    "The same seed gives the same metrics.jsonl, byte for byte but for the times"
    complete(environment, *ONE, *SHORT, "--out", str(tmp_path/"again"))
    assert log(tmp_path/"again") == log(one)


@pytest.mark.parametrize("more", [[], ["--resume"]], ids=["new", "resumed"])
def test_of_two_started_at_once_one_is_refused(one, tmp_path, environment, more):
    folder = tmp_path/"run"
    if more: shutil.copytree(one, folder)
    for name in ("last", "best", "model.safetensors", "result.json"): (folder/name).unlink(missing_ok=True)
    shutil.rmtree(folder/"checkpoints", ignore_errors=True)
    both = [start(environment, *ONE, *SHORT, "--out", str(folder), *more) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], errors
    ran, refused = both if both[1].returncode else both[::-1]
    error = errors[both.index(refused)]
    assert f"{folder} is being written by process {ran.pid} on" in error or "holds a run already" in error and not more, error
    assert "Traceback" not in error and log(folder) == log(one)


def test_workers_whose_torchrun_was_killed_hold_their_run_and_stop(one, tmp_path, environment):
    folder = tmp_path/"run"
    again = [*ONE, *SHORT, "--out", str(folder), "--resume"]
    process = start(environment, *TWO, *SHORT, "--out", str(folder))
    until(lambda: last(folder), process)
    workers = children(process)
    for pid in workers: os.kill(pid, signal.SIGSTOP)            # they shall not end before we look
    process.kill()
    process.wait()
    try:
        refused = subprocess.run(again, env=environment, capture_output=True, text=True, timeout=120)
        said = rf"is being written by process ({workers[0]}|{workers[1]}) on"
        assert refused.returncode == 1 and re.search(said, refused.stderr), refused.stderr
        for pid in workers: os.kill(pid, signal.SIGCONT)
        deadline = time.time() + 330        # PyTorch may wait for the store of a torchrun that is gone
        while any(map(alive, workers)) and time.time() < deadline: time.sleep(.1)
        assert not any(map(alive, workers)) and 0 < int(last(folder).split("-")[1]) < 60
    finally:
        for pid in workers: end(pid)
    complete(environment, *again)
    assert sum(curve(folder), []) == pytest.approx(sum(curve(one), []), abs=1e-5)


def test_no_process_leaves_before_the_run_is_scored(tmp_path, environment):
    code = ("import sys, time, tinyrope.train as t\n"
            "real = t.evaluate_stories\n"
            "def slow(*args):\n"
            "    time.sleep(3)\n"
            "    return real(*args)\n"
            "t.evaluate_stories = slow\n"
            "run = t.train('smoke', out=sys.argv[1], device='cpu', steps=2, eval_blocks=4, max_stories=60, shard=True)\n"
            "sys.stdout.write(f\"score {run.result['loss']:.3f}\\n\")\n")
    (tmp_path/"two.py").write_text(code)
    printed = complete(environment, *TWO[:-2], str(tmp_path/"two.py"), str(tmp_path/"run"))
    assert printed.count("score ") == 2
