"""The text follows from the results.

Pages are executed again and must say the same, and a changed result must change what they say.
"""
import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import HUNG, NAMES_OF_MACHINES, ROOT
from measures import notebooks
from nbclient import NotebookClient

FROM_RESULTS = ("claims", "05_eval_attention", "05a_interventions", "06a_pairs", "06b_probes",
                "07_studies", "07a_atlas", "08_scoreboard", "09_stories", "09a_grammar", "benchmarks",
                "index")
# a folder of notebooks that `nbdev-test --save` has just executed: all are compared
EXECUTED = os.environ.get("TINYROPE_EXECUTED")
PAGES = [path.stem for path in notebooks()] if EXECUTED else FROM_RESULTS
SLOW = r"(?m)^(?:time +about|[\d,]+ of [\d,]+ steps, loss|(?:scoring|tokenizing): ) ?.*\n?"
TIMES = (SLOW +                                         # lines of a slow run
         r"|[\d,.]+ tokens/s|\b[\d.]+ s\b"
         r"|'(?:seconds|tokens_per_second|mfu|first_step_seconds)': [^,}]+")
NUMBER = r"-?\d[\d,]*\.?\d*(?:e[+-]?\d+)?"


# ---- what a page shows

def shown(output):
    "The text of an output; of a picture, nothing"
    data = output.get("data", {})
    if "image/png" in data: return ""
    kinds = [kind for kind in ("text/markdown", "text/html", "text/plain") if kind in data]
    return "".join(data[kinds[0]] if kinds else output.get("text", ""))


def is_prose(cell):
    "Does a cell write Markdown, made from results?"
    return any("text/markdown" in output.get("data", {}) for output in cell["outputs"])


def outputs(notebook):
    "Map cells to what they have written, and whether it is prose"
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return {c["id"]: ("".join(map(shown, c["outputs"])), is_prose(c)) for c in cells}


def numbers(text):
    "All numbers in a text"
    return [float(number.replace(",", "")) for number in re.findall(NUMBER, text)]


def as_before(text, before, prose):
    "Compare outputs: prose to the letter, what was computed but for times and rounding"
    if prose: return text == before
    text, before = (re.sub(TIMES, "", t) for t in (text, before))
    same_words = re.sub(NUMBER, "", text) == re.sub(NUMBER, "", before)
    return same_words and numbers(text) == pytest.approx(numbers(before), rel=2e-3, abs=2e-5)


@pytest.mark.parametrize("text, before", [
    ("loss 1.2345 at 300 tokens/s, {'seconds': 1.2}",
     "loss 1.2344 at 9,000.5 tokens/s, {'seconds': 80}"),
    ("0.1000000001 and 1e-8", "0.1 and 0.0"),
    ("run\ntime     about 9 seconds\n3 of 9 steps, loss 4.1, 2 seconds left\nend", "run\nend"),
    ("run\nscoring: 2,304 of 4,789 windows, 11 seconds left\nend", "run\nend"),
])
def test_times_and_rounding_make_no_difference(text, before):
    "Outputs that differ in times and last digits only are the same"
    assert as_before(text, before, prose=False)


@pytest.mark.parametrize("text", ["loss 1.25", "loss 1.2345 ", "loss", "", "lost 1.2345"])
def test_other_outputs_are_told_from_those_before(text):
    "Another number, word or space is a difference"
    assert not as_before(text, "loss 1.2345", prose=False)


def test_prose_is_compared_to_the_letter():
    "In prose, the last digit counts"
    assert not as_before("0.8521", "0.8520", prose=True)


# ---- pages

def executed(path):
    "A notebook as it is when its code runs today"
    if EXECUTED: return json.loads(Path(EXECUTED, path.name).read_text(encoding="utf-8"))
    notebook = nbformat.read(path, 4)
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=HUNG, kernel_name="python3", resources=place).execute()
    return notebook


@pytest.mark.parametrize("page", PAGES)
def test_page_says_what_its_code_says(page):
    "Those pages whose prose is made from results, or all, if all were executed before"
    path = ROOT/"nbs"/f"{page}.ipynb"
    before = outputs(json.loads(path.read_text(encoding="utf-8")))
    now = outputs(executed(path))
    assert now.keys() == before.keys()
    old = [f"{name}: {before[name][0]!r}, now {text!r}" for name, (text, _) in now.items()
           if not as_before(text, *before[name])]
    advice = "is older than its code or results/: execute it again, then python tests/readme.py"
    assert not old, "\n".join([f"{page} {advice}", *old])


def test_readme_has_the_verdicts_of_the_results(monkeypatch):
    "The table of claims in the README is the one that results/ give"
    monkeypatch.chdir(ROOT)
    import tinyrope.claims  # noqa: F401 (claims register themselves)
    from tinyrope.evidence import CLAIMS, claims_table
    assert len(CLAIMS) == 10
    table = claims_table(base="https://tinyrope.github.io/tinyrope/", brief=True)
    advice = "execute nbs/index.ipynb again, then python tests/readme.py"
    assert table in (ROOT/"README.md").read_text(encoding="utf-8"), advice


# ---- a changed result

def made_up(place, by_place, missing=0, floor=2.):
    "Write the study of depths with losses that follow the place of an arm, in bits per byte"
    from tinyrope.programme import SCALES, STUDIES
    from tinyrope.shape_studies import _depths
    arms, order = _depths(SCALES["small"]), ("2 layers in all", "2 layers", "base", "8 layers",
                                             "16 layers", "16 layers in all")
    rows = [dict(arm=arm, seed=seed, tuning=False,
                 bits_per_byte=1 + by_place*order.index(arm) + .0004*seed*(1 + order.index(arm)),
                 sense=.7 - .6*by_place*order.index(arm) + .0004*seed*(1 + order.index(arm)))
            for arm in order for seed in range(arms[arm].seeds)]
    parts = {k: vars(part) for k, part in STUDIES["layers"].parts.items()}
    result = dict(rows=rows[:len(rows) - missing], parts=parts, reference="base", size="small",
                  arms={k: dict(seeds=arm.seeds) for k, arm in arms.items()}, floor={"4": floor})
    shutil.copytree(ROOT/"results", place/"results")
    (place/"results"/"study-layers-small.json").write_text(json.dumps(result))


@pytest.mark.parametrize("by_place, more, word", [
    (-.1, {}, "holds"), (.1, {}, "does not hold"), (-.1, dict(missing=1), "undecided"),
    (-.1, dict(floor=.9), "undecided")],
    ids=["deeper is better", "wider is better", "a run is missing", "below the floor"])
def test_a_changed_result_changes_the_claims(monkeypatch, tmp_path, by_place, more, word):
    "The tests above can fail: with other losses in one file, the table and a verdict are others"
    import tinyrope.claims  # noqa: F401 (claims register themselves)
    from tinyrope.evidence import CLAIMS, claims_table
    from tinyrope.verdicts import verdict
    monkeypatch.chdir(ROOT)
    true = claims_table()
    made_up(tmp_path, by_place, **more)
    monkeypatch.chdir(tmp_path)
    assert claims_table() != true
    assert verdict(CLAIMS[8].find().parts) == word


def with_effects_reversed(path):
    "Let rotations weaken the band, and let a partner's column be needed where the name's is"
    result = json.loads(path.read_text())
    bands, columns = result["rotations"]["band"], result["columns"]["other words"]
    bands["untouched"], bands["none kept"] = bands["none kept"], bands["untouched"]
    columns["blocked"] = [pair[::-1] for pair in columns["blocked"]]
    path.write_text(json.dumps(result))


def test_other_effects_of_interventions_change_the_claims(monkeypatch, tmp_path):
    "With effects of the other sign, the causal parts of two claims are refuted"
    import tinyrope.claims  # noqa: F401 (claims register themselves)
    from tinyrope.evidence import CLAIMS
    from tinyrope.verdicts import judged
    shutil.copytree(ROOT/"results", tmp_path/"results")
    with_effects_reversed(tmp_path/"results"/"interventions.json")
    for folder, word in ((ROOT, "yes"), (tmp_path, "no")):
        monkeypatch.chdir(folder)
        band, columns = (judged(CLAIMS[number].find().parts) for number in (5, 6))
        assert band["rotations make the band of a trained model"] == word
        assert columns["mentions of names need their column more than other words"] == word


STUDIES = sorted((ROOT/"results").glob("study-*-nano.json"))
PROGRAMME = sorted((ROOT/"results").glob("study-*-small.json"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_says_how_it_was_made(path):
    "Command, versions and data are in the file, and a row for each arm and seed"
    result = json.loads(path.read_text())
    assert path.stem == f"study-{result['command'].split()[1]}-{result['size']}"
    assert {"command", "date", "versions", "cpu", "corpus_sha256", "base", "arms", "rows",
            "seeds"} <= set(result)
    assert len(result["rows"]) == len(result["arms"])*result["seeds"]
    assert result["seeds"] >= 3
    assert not re.search(NAMES_OF_MACHINES, path.read_text())


def test_there_are_studies():
    "The test above is not empty"
    assert len(STUDIES) >= 5


@pytest.mark.parametrize("path", PROGRAMME, ids=lambda path: path.stem)
def test_a_study_of_the_programme_is_what_was_planned(path):
    "Its arms and parts are those of the code, no row is there twice, and it has its floor"
    from tinyrope.programme import SCALES, STUDIES
    from tinyrope.shape_studies import _depths    # noqa: F401 (studies register themselves)
    from tinyrope.text_studies import canaries    # noqa: F401
    result = json.loads(path.read_text())
    _, name, size = path.stem.split("-")
    study = STUDIES[name]
    assert result["parts"] == {k: vars(part) for k, part in study.parts.items()}
    arms = study.arms(SCALES[size])
    assert {k: arm["seeds"] for k, arm in result["arms"].items()} == {
        k: arm.seeds for k, arm in arms.items() if k in result["arms"]}
    rows = [(row["arm"], row["rate"], row["seed"]) for row in result["rows"]]
    assert len(rows) == len(set(rows)) and set(result["floor"]) == {"1", "2", "3", "4"}
    assert not re.search(NAMES_OF_MACHINES, path.read_text())
