"""The text follows from the results: pages are executed again and must say the same, and a changed result must change what they say."""
import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

FROM_RESULTS = ("claims", "05_eval_attention", "07_studies", "08_scoreboard", "09_stories", "benchmarks", "index")
EXECUTED = os.environ.get("TINYROPE_EXECUTED")          # a folder of notebooks that `nbdev-test --save` has just executed: all are compared
PAGES = sorted(p.stem for p in (ROOT/"nbs").glob("*.ipynb")) if EXECUTED else FROM_RESULTS
TIMES = r"[\d,.]+ tokens/s|\b[\d.]+ s\b|'(?:seconds|tokens_per_second|mfu|first_step_seconds)': [^,}]+"
NUMBER = r"-?\d[\d,]*\.?\d*(?:e[+-]?\d+)?"


def shown(output):
    "Return the text of an output; of a picture, nothing"
    data = output.get("data", {})
    if "image/png" in data: return ""
    return "".join(next((data[kind] for kind in ("text/markdown", "text/html", "text/plain") if kind in data), output.get("text", "")))


def outputs(notebook):
    "Map cells to what they have written, and whether it is prose: Markdown, made from results"
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return {c["id"]: ("".join(map(shown, c["outputs"])), any("text/markdown" in o.get("data", {}) for o in c["outputs"])) for c in cells}


def as_before(text, before, prose):
    "Compare outputs: prose to the letter, what was computed but for times and rounding"
    if prose: return text == before
    text, before = (re.sub(TIMES, "", t) for t in (text, before))
    values = [[float(n.replace(",", "")) for n in re.findall(NUMBER, t)] for t in (text, before)]
    return re.sub(NUMBER, "", text) == re.sub(NUMBER, "", before) and values[0] == pytest.approx(values[1], rel=2e-3, abs=2e-5)


@pytest.mark.parametrize("page", PAGES)
def test_page_says_what_its_code_says(page):
    "Those pages whose prose is made from results, or all, if all were executed before"
    path = ROOT/"nbs"/f"{page}.ipynb"
    stored = json.loads(path.read_text(encoding="utf-8"))
    if EXECUTED: fresh = json.loads(Path(EXECUTED, path.name).read_text(encoding="utf-8"))
    else:
        fresh = nbformat.read(path, 4)
        NotebookClient(fresh, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT/"nbs")}}).execute()
    now, before = outputs(fresh), outputs(stored)
    old = [f"{name}: {before[name][0]!r}, now {text!r}" for name, (text, prose) in now.items() if not as_before(text, *before[name])]
    assert now.keys() == before.keys() and not old, f"{page} is older than its code or results/: execute it again, then python tests/readme.py\n" + "\n".join(old)


def test_outputs_that_differ_are_told_from_those_that_do_not():
    assert as_before("loss 1.2345 at 300 tokens/s, {'seconds': 1.2}", "loss 1.2344 at 9,000.5 tokens/s, {'seconds': 80}", False)
    assert as_before("0.1000000001 and 1e-8", "0.1 and 0.0", False)
    for text in ("loss 1.25", "loss 1.2345 ", "loss", "", "lost 1.2345"): assert not as_before(text, "loss 1.2345", False)
    assert not as_before("0.8521", "0.8520", True)


def test_readme_has_the_verdicts_of_the_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    from tinyrope.claims import CLAIMS, claims_table
    assert len(CLAIMS) == 10
    assert claims_table(base="https://tinyrope.github.io/tinyrope/", brief=True) in (ROOT/"README.md").read_text(encoding="utf-8"), "execute nbs/index.ipynb again, then python tests/readme.py"


@pytest.mark.parametrize("better", ["deeper", "wider"])
def test_a_changed_result_changes_the_claims(monkeypatch, tmp_path, better):
    "The tests above can fail: with other losses in one file, the table and a verdict are others"
    from tinyrope.claims import CLAIMS, claims_table
    monkeypatch.chdir(ROOT)
    true = claims_table()
    shutil.copytree(ROOT/"results", tmp_path/"results")
    path = tmp_path/"results"/"study-depth-nano.json"
    result = json.loads(path.read_text())
    for place, arm in enumerate(result["arms"]):
        for row in (r for r in result["rows"] if r["arm"] == arm): row["bits_per_byte"] = 1 + .1*place*(-1 if better == "deeper" else 1) + .001*row["seed"]
    path.write_text(json.dumps(result))
    monkeypatch.chdir(tmp_path)
    assert claims_table() != true and CLAIMS[8].find()[1].startswith("**holds**" if better == "deeper" else "**does not hold**")


@pytest.mark.parametrize("path", sorted((ROOT/"results").glob("study-*.json")), ids=lambda p: p.stem)
def test_a_study_says_how_it_was_made(path):
    result = json.loads(path.read_text())
    assert path.stem == f"study-{result['command'].split()[1]}-{result['size']}"
    assert {"command", "date", "versions", "cpu", "corpus_sha256", "base", "arms", "rows", "seeds"} <= set(result)
    assert len(result["rows"]) == len(result["arms"])*result["seeds"] and result["seeds"] >= 3
    assert not re.search(r"/tmp/|/root/|/home/|/work/", path.read_text())
