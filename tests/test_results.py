"""The text follows from the results: pages are executed again and must say the same, and a changed result must change what they say."""
import json
import re
import shutil

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

PAGES = ("claims", "05_eval_attention", "07_studies", "08_scoreboard", "09_stories")


def said(notebook):
    "What the cells of a notebook have written as Markdown, by cell"
    return {cell["id"]: "".join(o["data"]["text/markdown"]) for cell in notebook["cells"] for o in cell.get("outputs", []) if "text/markdown" in o.get("data", {})}


@pytest.mark.parametrize("page", PAGES)
def test_page_says_what_the_results_say(page):
    notebook = nbformat.read(ROOT/"nbs"/f"{page}.ipynb", 4)
    before = said(notebook)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT/"nbs")}}).execute()
    assert before and said(notebook) == before, f"{page} is older than results/: execute it again, then python tests/readme.py"


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
