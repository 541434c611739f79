"""Killed and resumed to the bit, in the ways that differ from the plain run.

They are compiled, in bf16 with dropout, and accumulating on two processes.
"""
import json
import sys

import pytest
from conftest import finish, log, needs_unix, program, rows, same_weights

ONE = [sys.executable]
TWO = [program("torchrun"), "--standalone", "--nproc-per-node", "2"]
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
KILLED = {tuple(ONE): -9, tuple(TWO): 1}        # torchrun says that its processes have failed
pytestmark = needs_unix


@pytest.fixture
def smoke(tmp_path, environment):
    "Train in a new process (or two) until step `dies`, where it is killed, or to the end"
    script = tmp_path/"smoke.py"
    script.write_text(SCRIPT)
    compiled = str(tmp_path/"compiled")         # what is compiled once serves all
    variables = {**environment, "TORCHINDUCTOR_CACHE_DIR": compiled}

    def call(folder, start=ONE, dies=-1, **settings):
        words = [*start, script, tmp_path/folder, json.dumps(SHORT | settings), dies]
        finish(words, KILLED[tuple(start)] if dies >= 0 else 0, env=variables)
        return log(tmp_path/folder)
    return call


def killed_and_resumed(smoke, folder, start=ONE, **settings):
    "Compare an undisturbed run with one that is killed in its 18th step and resumed"
    straight = smoke("straight", start, **settings)
    killed = smoke("killed", start, dies=17, **settings)
    assert killed.count("\n") == 1 and straight.startswith(killed)
    assert smoke("killed", start, **settings) == straight and straight.count("\n") == 3
    assert same_weights(folder/"straight", folder/"killed")
    return rows(folder/"straight")


def test_compiled(smoke, tmp_path, compiles):
    "A compiled run is resumed exactly, and the time of compiling is in no speed"
    if not compiles: pytest.skip("no compiler")
    first = killed_and_resumed(smoke, tmp_path, compile="on")[0]
    with_compiling = first["tokens"]/first["seconds"]
    assert first["tokens_per_second"] > 2*with_compiling
    assert first["first_step_seconds"] > .5*first["seconds"]


def test_bf16_with_dropout(smoke, tmp_path):
    "Draws of dropout and rounding to bf16 come out the same"
    killed_and_resumed(smoke, tmp_path, precision="bf16", dropout=.1, attention_dropout=.1)


def test_accumulation_on_two_processes(smoke, tmp_path):
    "It is, but for rounding, the run of one process that does not accumulate"
    found = killed_and_resumed(smoke, tmp_path, TWO, accumulate=2)
    smoke("one")
    for row, whole in zip(found, rows(tmp_path/"one"), strict=True):
        for name in ("train_loss", "val_loss", "grad_norm"):
            assert row[name] == pytest.approx(whole[name], abs=1e-5)
