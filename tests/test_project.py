"""The project's own files agree with each other."""
import ast
import configparser
import hashlib
import json
import re
import tomllib

import pytest
from conftest import ROOT
from links import leads_nowhere, links
from packaging.specifiers import SpecifierSet
from readme import ADDRESS, FIGURE, render
from tinyrope.corpora import load_stories

PROJECT = tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))


def test_settings_ini_mirrors_pyproject():
    ini = configparser.ConfigParser()
    ini.read(ROOT/"settings.ini", encoding="utf-8")
    mirror, project = ini["DEFAULT"], PROJECT["project"]
    assert mirror["lib_name"] == project["name"] and mirror["description"] == project["description"]
    assert ">=" + mirror["min_python"] == project["requires-python"]
    assert mirror["keywords"].split() == project["keywords"] and mirror["author"] == project["authors"][0]["name"]
    assert mirror["git_url"] == project["urls"]["Repository"] and mirror["doc_host"] + mirror["doc_baseurl"] + "/" == project["urls"]["Documentation"]
    assert mirror["tst_flags"] == PROJECT["tool"]["nbdev"]["tst_flags"] and mirror["title"] == PROJECT["tool"]["nbdev"]["title"]
    assert f'"{mirror["version"]}"' in (ROOT/"tinyrope"/"__init__.py").read_text()


def test_readme_follows_the_index_notebook():
    text, picture = render()
    assert (ROOT/"README.md").read_text(encoding="utf-8") == text, "run python tests/readme.py"
    assert (ROOT/FIGURE).read_bytes() == picture


def test_readme_says_what_was_measured():
    text = (ROOT/"README.md").read_text(encoding="utf-8")
    laptop, bundled, speed = (json.loads((ROOT/"results"/f"{name}.json").read_text()) for name in ("laptop", "bundled", "training"))
    assert f"**{laptop['bits_per_byte']:.3f} bits per byte** on validation" in text
    assert f"perplexity {laptop['perplexity']:.2f}" in text and f"in {laptop['wall_seconds']/60:.1f} minutes" in text
    assert f"**{bundled['test']['bits_per_byte']:.3f} bits per byte** on the test stories" in text
    assert all(f"{speed['groups']['laptop']['rows'][name]['ratio']:.2f} times" in text for name in ("tinyrope", "tinyrope, compiled"))


def test_constraints_name_what_was_tested():
    pins = (ROOT/"constraints.txt").read_text().lower()
    assert "torch==2.13.0\n" in pins
    for need in PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]:
        assert re.split(r"[<>=]", need)[0].lower() + "==" in pins, need


def test_bundled_model_is_what_its_record_says():
    folder = ROOT/"tinyrope"/"assets"/"bundled"
    for name, digest in json.loads((folder/"about.json").read_text())["sha256"].items():
        assert hashlib.sha256((folder/name).read_bytes()).hexdigest() == digest, name
    assert sum(f.stat().st_size for f in folder.iterdir()) < 12e6
    measured = json.loads((ROOT/"results"/"bundled.json").read_text())
    assert measured["model_sha256"] == hashlib.sha256((folder/"model.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("notebook", sorted(p.name for p in (ROOT/"nbs").glob("*.ipynb")))
def test_notebooks_show_no_machine_and_no_warning(notebook):
    for cell in json.loads((ROOT/"nbs"/notebook).read_text(encoding="utf-8"))["cells"]:
        shown = json.dumps([{k: v for k, v in o.get("data", o).items() if k != "image/png"} for o in cell.get("outputs", [])])
        assert not re.search(r"/tmp/|/root/|/home/|/work/|C:\\\\|Warning:|it/s", shown), (cell["id"], shown[:300])
        assert all(o["output_type"] != "error" for o in cell.get("outputs", []))


@pytest.mark.parametrize("notebook", sorted(p.name for p in (ROOT/"nbs").glob("*.ipynb")))
def test_imports_stand_in_cells_of_their_own(notebook):
    "The docs are built by executing cells that import; what else stands in them would run without the cells before"
    for cell in json.loads((ROOT/"nbs"/notebook).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code": continue
        kinds = {isinstance(line, ast.Import | ast.ImportFrom) for line in ast.parse("".join(cell["source"])).body}
        assert kinds != {True, False}, (cell["id"], "".join(cell["source"])[:200])


README = (ROOT/"README.md").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT/".github"/"workflows").glob("*.yaml"))


def test_readme_installs_the_torch_that_constraints_keep():
    "The CPU build of another version would be replaced by the pinned one, with all of CUDA"
    pin = re.search(r"^torch==(\S+)$", (ROOT/"constraints.txt").read_text(), re.MULTILINE)[1]
    line, = re.findall(r"^pip install torch.*$", README, re.MULTILINE)
    assert line == f"pip install torch=={pin} --index-url https://download.pytorch.org/whl/cpu"
    assert SpecifierSet(f"=={pin}").contains(f"{pin}+cpu")


def test_python_versions_are_those_that_are_tested():
    tested = re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", (ROOT/".github"/"workflows"/"test.yaml").read_text())[1])
    named = [c.rsplit(" ", 1)[1] for c in PROJECT["project"]["classifiers"] if re.search(r"3\.\d+$", c)]
    said = re.search(r"with Python (.*):$", README, re.MULTILINE)[1]
    assert tested == named == re.findall(r"3\.\d+", said) and "3.14" in tested


def test_lines_of_the_readme_work_in_every_shell():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert len(blocks) > 5 and not any(re.search(r"&&|\\$", block, re.MULTILINE) for block in blocks)


def test_pictures_of_the_readme_are_found_from_anywhere():
    assert re.findall(r"!\[.*?\]\((.*?)\)", README) == [ADDRESS + FIGURE]


def test_data_say_whose_they_are_and_what_was_changed():
    "What CDLA-Sharing 1.0 asks for in 3.1, and the licence of the weights; all of it is packed"
    assets = ROOT/"tinyrope"/"assets"
    notice = " ".join((assets/"NOTICE.txt").read_text().split())
    counts = [len(load_stories(split)) for split in ("train", "valid", "test")]
    assert "{:,} stories of its training texts, and {:,} and {:,} of the validation".format(*counts) in notice
    assert all(word in notice for word in ("Eldan", "HAVE BEEN CHANGED", "Sharing - Version 1.0", "roneneldan/TinyStories"))
    ours = {"attention.html", "tinystories-sources.tsv", "NOTICE.txt", "bundled"}
    kept = {f.name for f in assets.iterdir() if not f.name.startswith(("LICENSE", "."))}
    assert all(name in notice for name in kept - ours), kept
    assert "license: apache-2.0" in (assets/"bundled"/"README.md").read_text()
    packed = [f.name for pattern in PROJECT["project"]["license-files"] for f in ROOT.glob(pattern)]
    assert {"LICENSE", "NOTICE", "NOTICE.txt", "LICENSE-gpt2.txt", "LICENSE-CDLA-Sharing-1.0.txt"} == set(packed)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_actions_are_pinned_by_hash(path):
    "A tag can be moved to other code; a hash cannot. The version that it stands for is named beside it"
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", line) for line in used), used


def test_links_into_the_site_and_the_repository_lead_somewhere():
    assert [(page.name, target) for page, target in links() if leads_nowhere(page, target)] == []


@pytest.mark.parametrize("target", ["no.html", "rope.html#no", "00_rope.ipynb#no", "12_none.ipynb", "#no", "https://tinyrope.github.io/tinyrope/train.html#no",
                                    "https://github.com/tinyrope/tinyrope/blob/main/no.md", "nbs/images/readme.png"])
def test_broken_links_are_found(target):
    assert leads_nowhere(ROOT/"nbs"/"index.ipynb", target)
