"""Where runs and results go when nobody says where, and advice in the language of the one who asked."""
import json
import os
import subprocess
import sys

import pytest
from tinyrope.generation import newest_run
from tinyrope.studies import SCALES, STUDIES, Plan, run_study
from tinyrope.train import train

SMALL = dict(preset="smoke", device="cpu", steps=2)
COMMAND = ("tinyrope-train", "--preset", "smoke", "--device", "cpu", "--steps", "2")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_run_without_a_folder_gets_its_own(run, here):
    "Command 1 of the README, then its Python snippet, then both again"
    run(*COMMAND)
    assert train(**SMALL).folder.as_posix() == "runs/smoke-2"
    assert "runs/smoke-3" in run(*COMMAND).stdout.replace(os.sep, "/")
    assert sorted(p.name for p in (here/"runs").iterdir()) == ["smoke", "smoke-2", "smoke-3"]
    assert newest_run() == str(here.joinpath("runs", "smoke-3").relative_to(here))


def test_resume_without_a_folder_goes_on_with_the_newest(run, here):
    for name, age in (("smoke", 50), ("smoke-2", 10), ("other", 0)):
        train(out=f"runs/{name}", **SMALL)
        config = here/"runs"/name/"config.json"
        os.utime(config, (config.stat().st_mtime - age,)*2)
    assert "runs/smoke-2\n" in run(*COMMAND, "--resume").stdout.replace(os.sep, "/")
    assert train(resume=True, **SMALL).folder.name == "smoke-2"
    assert {p.name for p in (here/"runs").iterdir()} == {"smoke", "smoke-2", "other"}


def test_advice_is_in_the_language_of_the_caller(run, here):
    train(out="mine", **SMALL)
    with pytest.raises(FileExistsError, match="add `resume=True`.*another `out`$"): train(out="mine", **SMALL)
    told = run(*COMMAND, "--out", "mine", status=1).stderr
    assert "add --resume" in told and told.endswith("another --out\n") and "`" not in told


def test_several_processes_agree_on_the_folder(run, here, environment):
    if os.name == "nt": pytest.skip("gloo processes as on Unix")
    (here/"runs"/"smoke").mkdir(parents=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tinyrope.train", *COMMAND[1:]]
    subprocess.run(command, cwd=here, env=environment, check=True, capture_output=True, timeout=300)
    assert [p.name for p in (here/"runs").iterdir() if any(p.iterdir())] == ["smoke-2"]


def test_a_study_of_a_user_leaves_the_results_of_the_project_alone(here):
    (here/"results").mkdir()
    found = run_study(Plan("rope_base", "smoke", 2, here/"runs"/"studies"), device="cpu")
    written = here/"runs"/"studies"/"results"/"study-rope_base-smoke.json"
    assert json.loads(written.read_text())["rows"] == json.loads(json.dumps(found["rows"])) and not any((here/"results").iterdir())


def test_names_of_runs_fit_into_the_paths_of_windows():
    "260 characters in all: a name, what lies in its folder, and a home for the project"
    for study in STUDIES:
        for size in SCALES:
            runs = Plan(study, size).runs()
            names = [folder.name for _, folder in runs.values()]
            assert max(map(len, names)) <= 100 and len(set(names)) == len({json.dumps([s, seed]) for (_, seed), (s, _) in runs.items()})


def test_the_claims_say_where_their_results_lie(here):
    from tinyrope.claims import claims_table
    with pytest.raises(FileNotFoundError, match="git clone https://github.com/tinyrope/tinyrope"): claims_table()
