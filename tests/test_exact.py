"""Killed and resumed to the bit, in the ways that differ from the plain run: compiled, in bf16, accumulating on two processes."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tinyrope.processes import can_compile

BIN = Path(sys.executable).parent
ONE, TWO = [sys.executable], [str(BIN/"torchrun"), "--standalone", "--nproc-per-node", "2"]
TIMES = r', "seconds": [^,]+|, "tokens_per_second": [^,]+|, "mfu": [^,}]+|, "first_step_seconds": [^,}]+'
SHORT = dict(device="cpu", steps=30, eval_every=10, eval_blocks=4)
SCRIPT = """
import json, os, signal, sys
from tinyrope.train import Trainer, train
out, settings, dies = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
step = Trainer.step

def last_step(self):
    if self.progress.step == dies: os.kill(os.getpid(), signal.SIGKILL)
    return step(self)

Trainer.step = last_step
train("smoke", out=out, resume=True, **settings)
"""
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and gloo processes as on Unix")


@pytest.fixture
def smoke(tmp_path, environment):
    "Train in a new process (or two) until step `dies`, where it is killed, or to the end; returns the log without times"
    (tmp_path/"smoke.py").write_text(SCRIPT)
    variables = {**environment, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path/"compiled")}     # what is compiled once serves all

    def call(folder, start=ONE, dies=-1, **settings):
        arguments = [str(tmp_path/folder), json.dumps(SHORT | settings), str(dies)]
        done = subprocess.run([*start, str(tmp_path/"smoke.py"), *arguments], env=variables, capture_output=True, text=True, timeout=300)
        assert (done.returncode == 0) == (dies < 0), done.stderr
        return re.sub(TIMES, "", (tmp_path/folder/"metrics.jsonl").read_text())
    return call


def killed_and_resumed(smoke, tmp_path, start=ONE, **settings):
    "Compare an undisturbed run with one that is killed in its 18th step and resumed; returns the rows of the first"
    straight = smoke("straight", start, **settings)
    killed = smoke("killed", start, dies=17, **settings)
    assert killed.count("\n") == 1 and straight.startswith(killed)
    assert smoke("killed", start, **settings) == straight and straight.count("\n") == 3
    one, other = (tmp_path/name/"model.safetensors" for name in ("straight", "killed"))
    assert one.read_bytes() == other.read_bytes()
    return [json.loads(row) for row in (tmp_path/"straight"/"metrics.jsonl").read_text().splitlines()]


@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no compiler")
def test_compiled(smoke, tmp_path):
    rows = killed_and_resumed(smoke, tmp_path, compile="on")
    assert rows[0]["tokens_per_second"] > 2*rows[0]["tokens"]/rows[0]["seconds"], "compilation is in the speed"
    assert rows[0]["first_step_seconds"] > .5*rows[0]["seconds"]


def test_bf16_with_dropout(smoke, tmp_path):
    killed_and_resumed(smoke, tmp_path, precision="bf16", dropout=.1, attention_dropout=.1)


def test_accumulation_on_two_processes(smoke, tmp_path):
    rows = killed_and_resumed(smoke, tmp_path, TWO, accumulate=2)
    smoke("one")
    alone = [json.loads(row) for row in (tmp_path/"one"/"metrics.jsonl").read_text().splitlines()]
    for row, whole in zip(rows, alone, strict=True):
        for name in ("train_loss", "val_loss", "grad_norm"): assert row[name] == pytest.approx(whole[name], abs=1e-5)
