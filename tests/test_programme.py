"""The programme of studies is planned and begun by its command.

The studies themselves are run at a size for tests in their notebooks.
"""
import re
import subprocess
import sys

import pytest
from conftest import HUNG, ROOT


def programme(*words, check=True):
    "Run the command at the root of the project"
    return subprocess.run([sys.executable, "benchmarks/programme.py", *words], cwd=ROOT,
                          timeout=HUNG, check=check, capture_output=True, text=True)


def test_plan_names_every_study_and_fits_into_eleven_hours():
    "The last line of the plan counts runs and hours"
    printed = programme("--plan").stdout
    hours = re.search(r"\d+ runs, (\d+\.\d) hours on 2 cores", printed)[1]
    assert float(hours) <= 11
    for name in ("shares", "repeats", "start", "canaries", "added_web", "original", "positions",
                 "layers", "grouped"):
        assert f"| {name} |" in printed


@pytest.mark.parametrize("words, said", [
    (["added_web"], "add --web FILE"),
    (["layers", "--size", "tiny", "--minutes", "0"], "the same command goes on"),
    (["nothing"], "unknown study 'nothing'"),
])
def test_what_cannot_be_begun_is_said_in_a_sentence(words, said, tmp_path):
    "Wrong names, missing texts and the end of the time"
    places = ["--folder", str(tmp_path/"runs"), "--out", str(tmp_path/"results")]
    failed = programme(*words, *places, check=False)
    assert failed.returncode == 1 and said in failed.stderr and "Traceback" not in failed.stderr
