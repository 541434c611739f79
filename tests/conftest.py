"""Shared by the tests of what does not belong in a notebook: commands, processes, files."""
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import tinyrope             # before torch: sets how its idle threads wait

ROOT = Path(__file__).parent.parent
NAMES_OF_MACHINES = r"/tmp/|/root/|/home/|/work/"
TIMES = r', "(?:seconds|tokens_per_second|mfu|first_step_seconds)": [^,}]+'
HUNG = 1800             # seconds after which a process is taken to hang; a busy machine is slow

needs_unix = pytest.mark.skipif(os.name == "nt", reason="signals, limits and gloo as on Unix")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    "The cache of the tests: one of their own, unless one is named"
    if "TINYROPE_CACHE" not in os.environ:
        os.environ["TINYROPE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def environment(cache):
    "Variables for processes: one thread each (two processes on two cores), and text in UTF-8"
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}


@pytest.fixture(scope="session")
def compiles():
    "Does PyTorch find a compiler?"
    import torch
    from tinyrope.processes import can_compile
    return can_compile(torch.device("cpu"))


def program(name):
    "The path of an installed command"
    return shutil.which(name, path=sysconfig.get_path("scripts"))


def finish(command, status=0, **options):
    "Run a program to its end; it has to end with `status`. Returns what it printed, as text"
    text = dict(encoding="utf-8", errors="replace")
    options = dict(capture_output=True, timeout=HUNG) | text | options
    done = subprocess.run([str(word) for word in command], **options)
    assert done.returncode == status, (
        f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def python(code, *arguments, **options):
    "Run lines of Python in a new process; returns what they printed, without the last line break"
    return finish([sys.executable, "-c", code, *arguments], **options).stdout.strip()


@pytest.fixture
def run(tmp_path, environment):
    "Run an installed command in a temporary folder; returns what it printed"
    def call(name, *words, status=0):
        return finish([program(name), *words], status, cwd=tmp_path, env=environment)
    return call


def rows(folder, name="metrics.jsonl"):
    "The rows of a log of a run"
    return [json.loads(line) for line in (folder/name).read_text().splitlines()]


def log(folder):
    "The text of metrics.jsonl without the columns that hold times"
    return re.sub(TIMES, "", (folder/"metrics.jsonl").read_text())


def same_weights(folder, other):
    "Are the final weights of two runs the same to the bit?"
    one, two = (path/"model.safetensors" for path in (folder, other))
    return one.read_bytes() == two.read_bytes()
