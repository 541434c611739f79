"""Shared by the tests of what does not belong in a notebook: commands, processes, and the project's own files."""
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    "Variables for commands: their own cache, one thread (two processes on two cores)"
    cache = os.environ.get("TINYROPE_CACHE") or str(tmp_path_factory.mktemp("cache"))
    return {**os.environ, "TINYROPE_CACHE": cache, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}


@pytest.fixture
def run(tmp_path, environment):
    "Run an installed command in a temporary folder; returns what it printed, fails on another exit status than `status`"
    def call(*command, status=0):
        program = shutil.which(command[0], path=sysconfig.get_path("scripts"))
        done = subprocess.run([program, *map(str, command[1:])], cwd=tmp_path, env=environment, capture_output=True, text=True,
                              encoding="utf-8", timeout=300)
        assert done.returncode == status, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done
    return call
