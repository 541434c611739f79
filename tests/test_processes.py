"""Killed and resumed, stopped and resumed, one process and two: the run must come out the same."""
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time

import psutil
import pytest
from conftest import HUNG, finish, log, needs_unix, program, rows, same_weights

ONE = [program("tinyrope-train")]
TORCHRUN = [program("torchrun"), "--standalone", "--nproc-per-node", "2"]
TWO = [*TORCHRUN, "-m", "tinyrope.train"]
SMOKE = "--preset smoke --device cpu --set eval_blocks=4".split()
LONG = [*SMOKE, *"--steps 1600 --set eval_every=20 --set dropout=0.1 --set keep_every=800".split()]
SHORT = [*SMOKE, *"--steps 60 --set eval_every=10 --set keep_every=20".split()]
ALONE, COPIES, SHARDS = [*ONE, *SHORT], [*TWO, *SHORT], [*TWO, *SHORT, "--shard"]
pytestmark = needs_unix


# ---- a run, seen from outside

def last(folder):
    "The name of the newest checkpoint of a run, or None"
    return (folder/"last").read_text() if (folder/"last").exists() else None


def last_step(folder):
    "The step after which the newest checkpoint was saved"
    return int(last(folder).split("-")[1])


def half_written(folder):
    "Checkpoints that are not whole yet, or never will be"
    return list((folder/"checkpoints").glob(".step-*"))


def curve(folder):
    "Step, training loss, validation loss and norm of the gradient at all evaluations, in a row"
    names = ("step", "train_loss", "val_loss", "grad_norm")
    return [row[name] for row in rows(folder) for name in names]


def same_curve(folder, other):
    "Are two runs the same but for rounding?"
    return curve(folder) == pytest.approx(curve(other), abs=5e-5)


# ---- processes

@pytest.fixture(scope="module")
def complete(environment):
    "Run a command to its end; returns what it printed"
    return lambda *command: finish(command, env=environment).stdout


@pytest.fixture
def start(environment):
    "Start commands without waiting for them; what still runs after the test is killed"
    started = []
    def call(*command):
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process = subprocess.Popen([str(word) for word in command], env=environment, **pipes)
        started.append(process)
        return process
    yield call
    for process in started: process.kill()


def until(true, process):
    "Wait until `true()`, or the process has ended"
    deadline = time.monotonic() + HUNG
    while process.poll() is None and time.monotonic() < deadline and not true():
        time.sleep(.0005)


def workers_of(process):
    "The processes that a torchrun has started, in the order of their numbers"
    return sorted(child.pid for child in psutil.Process(process.pid).children())


def alive(pid):
    "Is a process there that has not ended? (Nobody may have asked for its exit status yet)"
    try: return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess: return False


def end(pid):
    "Kill a process that may have ended"
    try: os.kill(pid, signal.SIGKILL)
    except ProcessLookupError: pass


LEAVES = """
import os, sys, torch
from tinyrope.processes import any_rank, processes
def take_part():
    with processes():
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
        model(torch.ones(2, 4)).sum().backward()
        any_rank(False, torch.device("cpu"))
for port in sys.argv[1:]:
    os.environ["MASTER_PORT"] = port
    take_part()
"""


def free_ports(n):
    "Ports of this machine that nobody listens to"
    held = [socket.socket() for _ in range(n)]
    for place in held: place.bind(("localhost", 0))
    ports = [str(place.getsockname()[1]) for place in held]
    for place in held: place.close()
    return ports


def test_processes_leave_together(environment):
    "PyTorch's thread gives its tensors back before the group is deleted, or both would wait for ever"
    command = [sys.executable, "-c", LEAVES, *free_ports(15)]
    shared = environment | dict(WORLD_SIZE="2", MASTER_ADDR="localhost")
    both = [subprocess.Popen(command, env=shared | dict(RANK=rank)) for rank in "01"]
    try: assert [process.wait(120) for process in both] == [0, 0]
    finally:
        for process in both: process.kill()


# ---- runs that nobody disturbed

@pytest.fixture(scope="module")
def straight(tmp_path_factory, complete):
    "A long run, with dropout"
    folder = tmp_path_factory.mktemp("straight")/"run"
    complete(*ONE, *LONG, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory, complete):
    "A short run by one process; without dropout, whose draws differ between one process and two"
    folder = tmp_path_factory.mktemp("one")/"run"
    complete(*ALONE, "--out", folder)
    return folder


# ---- killed

def freeze_while_writing(process, folder, pause):
    "Stop a process at an instant at which it is writing a checkpoint, unless it ends before"
    while process.poll() is None:
        until(lambda: half_written(folder), process)
        time.sleep(pause)
        process.send_signal(signal.SIGSTOP)
        if half_written(folder): return
        process.send_signal(signal.SIGCONT)         # the checkpoint was whole by then
        pause = 0


def kill_at_an_instant(process, folder, rng, writing):
    "Kill a run after its next checkpoint; returns whether it still ran, and was writing another"
    before = last(folder)
    until(lambda: last(folder) != before, process)
    time.sleep(rng.uniform(0, .15))
    if writing: freeze_while_writing(process, folder, rng.uniform(0, .004))
    ran = process.poll() is None
    process.kill()
    process.communicate()
    return ran, bool(half_written(folder))


def test_killed_at_twelve_instants_and_resumed(straight, tmp_path, start, complete):
    "Every other time it dies while it writes a checkpoint"
    rng, folder, found = random.Random(0), tmp_path/"killed", []
    resume = [*ONE, *LONG, "--out", folder, "--resume"]
    for i in range(12):
        found.append(kill_at_an_instant(start(*resume), folder, rng, writing=i % 2 == 1))
    killed, writing = map(sum, zip(*found))
    assert killed >= 9 and writing >= 3
    assert re.search(r"resuming from .*step-000\d\d\d0", complete(*resume))
    assert same_weights(folder, straight) and log(folder) == log(straight)
    kept = {checkpoint.name for checkpoint in (folder/"checkpoints").iterdir()}
    assert {"step-0000800", "step-0001600"} <= kept


def test_a_process_that_dies_ends_the_others(tmp_path, start):
    "The other process does not wait for ever, and says why it ends"
    folder = tmp_path/"run"
    process = start(*TWO, *LONG, "--set", "batch_size=8", "--out", folder)
    until(lambda: last(folder), process)
    workers = workers_of(process)
    assert len(workers) == 2
    process.send_signal(signal.SIGSTOP)         # torchrun, which might end the other one first
    os.kill(workers[1], signal.SIGKILL)
    until(lambda: psutil.Process(workers[0]).status() == psutil.STATUS_ZOMBIE, process)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=HUNG)
    assert process.returncode != 0 and "another process of this run has ended" in errors, errors


# ---- stopped

def test_sigterm_saves_and_prints_the_command_that_resumes(straight, tmp_path, start, environment):
    "That command completes the run, to the bit"
    folder = tmp_path/"a run"
    process = start(*ONE, *LONG, "--out", folder)
    until(lambda: last(folder), process)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=HUNG)
    assert process.returncode == 0, errors
    assert 0 < last_step(folder) < 1600

    command = printed.strip().splitlines()[-1]
    path = os.pathsep.join((sysconfig.get_path("scripts"), environment["PATH"]))
    subprocess.run(command, shell=True, check=True, capture_output=True,
                   env=environment | {"PATH": path})
    assert same_weights(folder, straight) and log(folder) == log(straight)


# ---- one process and two

def test_the_same_seed_gives_the_same_log(one, tmp_path, complete):
    "The same seed gives the same metrics.jsonl, byte for byte but for the times"
    complete(*ALONE, "--out", tmp_path/"again")
    assert log(tmp_path/"again") == log(one)


@pytest.mark.parametrize("two", [COPIES, SHARDS], ids=["copies", "shards"])
def test_two_processes_make_the_one_process_run(one, tmp_path, complete, two):
    "Copies of the model, or shards of it, change rounding only"
    complete(*two, "--out", tmp_path/"two")
    assert same_curve(tmp_path/"two", one)


@pytest.mark.parametrize("first, then", [
    pytest.param(SHARDS, ALONE, id="from shards to one"),
    pytest.param(ALONE, SHARDS, id="from one to shards"),
    pytest.param(COPIES, ALONE, id="from copies to one"),
])
def test_saved_by_some_resumed_by_others(one, tmp_path, start, complete, first, then):
    "A checkpoint depends neither on the number of processes nor on shards"
    folder = tmp_path/"run"
    process = start(*first, "--out", folder)
    until(lambda: last(folder), process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=HUNG)
    assert 0 < last_step(folder) < 60, "it was stopped too late"
    complete(*then, "--out", folder, "--resume")
    assert same_curve(folder, one)
    assert (folder/"result.json").exists()


def test_no_process_leaves_before_the_run_is_scored(tmp_path, complete):
    "Scoring is done by one process; the others wait for it, and have the score"
    (tmp_path/"two.py").write_text("""
import sys, time, tinyrope.train as t
real = t.evaluate_stories
def slow(*args):
    time.sleep(3)
    return real(*args)
t.evaluate_stories = slow
run = t.train("smoke", out=sys.argv[1], device="cpu", steps=2, eval_blocks=4, max_stories=60,
              shard=True)
sys.stdout.write(f"score {run.result['loss']:.3f}\\n")
""")
    printed = complete(*TORCHRUN, tmp_path/"two.py", tmp_path/"run")
    assert printed.count("score ") == 2


# ---- one writer

def begin_anew(folder):
    "Leave of a run what is there before its first checkpoint"
    for name in ("last", "best", "model.safetensors", "result.json"):
        (folder/name).unlink(missing_ok=True)
    shutil.rmtree(folder/"checkpoints", ignore_errors=True)


@pytest.mark.parametrize("resume", [False, True], ids=["new", "resumed"])
def test_of_two_started_at_once_one_is_refused(one, tmp_path, start, resume):
    "If it comes after the other has finished, a new run is refused because the folder is taken"
    folder = tmp_path/"run"
    if resume: shutil.copytree(one, folder)
    begin_anew(folder)
    command = [*ALONE, "--out", folder, *["--resume"]*resume]
    both = [start(*command) for _ in range(2)]
    errors = [process.communicate(timeout=HUNG)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], errors
    ran, refused = both if both[1].returncode else both[::-1]
    error = errors[both.index(refused)]
    late = "holds a run already" in error and not resume
    named = f"{folder} is being written by process {ran.pid} on", f"{folder} is being written by another"
    assert any(said in error for said in named) or late, error      # its number follows its lock
    assert "Traceback" not in error and log(folder) == log(one)


@pytest.fixture
def orphans(tmp_path, start):
    "A run whose torchrun was killed; its workers, which are held before they can see that"
    folder = tmp_path/"run"
    process = start(*COPIES, "--out", folder)
    until(lambda: last(folder), process)
    workers = workers_of(process)
    for pid in workers: os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.wait()
    yield folder, workers
    for pid in workers: end(pid)


def test_workers_whose_torchrun_was_killed_hold_their_run_and_stop(one, orphans, environment):
    "Nobody else writes while they live; they end, and the run can be resumed"
    folder, workers = orphans
    again = [*ALONE, "--out", folder, "--resume"]
    refused = finish(again, status=1, env=environment)
    assert re.search(rf"is being written by (process ({workers[0]}|{workers[1]}) on|another)", refused.stderr)

    for pid in workers: os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + HUNG          # PyTorch waits for the store of torchrun, 300 s
    while any(map(alive, workers)) and time.monotonic() < deadline: time.sleep(.1)
    assert not any(map(alive, workers)) and 0 < last_step(folder) < 60
    finish(again, env=environment)
    assert same_curve(folder, one)
