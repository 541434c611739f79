"""Where runs and results go when nobody says where; advice in the language of who asked."""
import json
import os
import sys
from dataclasses import replace

import pytest
from conftest import finish, needs_unix
from tinyrope import studies
from tinyrope.corpora import load_stories
from tinyrope.run_folder import newest_run
from tinyrope.studies import SCALES, STUDIES, Plan, run_study
from tinyrope.train import train

SMALL = dict(preset="smoke", device="cpu", steps=2, max_stories=60)
OPTIONS = "--preset smoke --device cpu --steps 2 --set max_stories=60".split()
COMMAND = ("tinyrope-train", *OPTIONS)


@pytest.fixture
def here(tmp_path, monkeypatch):
    "An empty working directory"
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_slashes(text):
    "The same text, with paths as on Unix"
    return text.replace(os.sep, "/")


def test_each_run_without_a_folder_gets_its_own(run, here):
    "Command 1 of the README, then its Python snippet, then the command again"
    run(*COMMAND)
    assert train(**SMALL).folder.as_posix() == "runs/smoke-2"
    assert "runs/smoke-3" in with_slashes(run(*COMMAND).stdout)
    assert sorted(p.name for p in (here/"runs").iterdir()) == ["smoke", "smoke-2", "smoke-3"]
    assert with_slashes(newest_run()) == "runs/smoke-3"


def test_resume_without_a_folder_goes_on_with_the_newest(run, here):
    "Only runs of the same preset count; others may be newer"
    for name, age in (("smoke", 50), ("smoke-2", 10), ("other", 0)):
        train(out=f"runs/{name}", **SMALL)
        config = here/"runs"/name/"config.json"
        os.utime(config, (config.stat().st_mtime - age,)*2)
    assert "runs/smoke-2\n" in with_slashes(run(*COMMAND, "--resume").stdout)
    assert train(resume=True, **SMALL).folder.name == "smoke-2"
    assert {p.name for p in (here/"runs").iterdir()} == {"smoke", "smoke-2", "other"}


def test_advice_is_in_the_language_of_the_caller(run, here):
    "Python is told of arguments, the terminal of options"
    train(out="mine", **SMALL)
    with pytest.raises(FileExistsError, match="add `resume=True`.*another `out`$"):
        train(out="mine", **SMALL)
    told = run(*COMMAND, "--out", "mine", status=1).stderr
    assert "add --resume" in told and told.endswith("another --out\n") and "`" not in told


@needs_unix
def test_several_processes_agree_on_the_folder(here, environment):
    "Two processes find the same free folder, and write into it alone"
    (here/"runs"/"smoke").mkdir(parents=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finish([sys.executable, *torchrun, "-m", "tinyrope.train", *OPTIONS], cwd=here, env=environment)
    assert [p.name for p in (here/"runs").iterdir() if any(p.iterdir())] == ["smoke-2"]


@pytest.fixture
def few_stories(monkeypatch):
    "Let studies of size `smoke` read and score a few stories only"
    base = SCALES["smoke"].base | dict(max_stories=200, epochs=.1)
    monkeypatch.setitem(SCALES, "smoke", replace(SCALES["smoke"], base=base))
    monkeypatch.setattr(studies, "load_stories", lambda split: load_stories(split)[:20])


def test_a_study_of_a_user_leaves_the_results_of_the_project_alone(here, few_stories):
    "The result of a study lies beside its runs"
    (here/"results").mkdir()
    plan = Plan("arms", "smoke", 2, here/"runs"/"studies")
    found = run_study(plan, device="cpu")
    written = here/"runs"/"studies"/"results"/"study-arms-smoke.json"
    assert json.loads(written.read_text())["rows"] == json.loads(json.dumps(found["rows"]))
    assert len(found["rows"]) == 4 and not any((here/"results").iterdir())


@pytest.mark.parametrize("size", SCALES)
@pytest.mark.parametrize("study", STUDIES)
def test_names_of_runs_fit_into_the_paths_of_windows(study, size):
    "260 characters in all: a name, what lies in its folder, and a home for the project"
    runs = Plan(study, size).runs()
    names = [folder.name for _, folder in runs.values()]
    assert max(map(len, names)) <= 100
    different = {json.dumps([settings, seed]) for (_, seed), (settings, _) in runs.items()}
    assert len(set(names)) == len(different)


def test_the_claims_say_where_their_results_lie(here):
    "Without results/, the error says how to get them"
    import tinyrope.claims  # noqa: F401 (claims register themselves)
    from tinyrope.evidence import claims_table
    advice = "git clone https://github.com/tinyrope/tinyrope"
    with pytest.raises(FileNotFoundError, match=advice): claims_table()
