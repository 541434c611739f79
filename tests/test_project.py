"""The project's own files agree with each other."""
import ast
import configparser
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from conftest import NAMES_OF_MACHINES, ROOT
from links import leads_nowhere, links
from measures import cells_of, notebooks, text
from packaging.specifiers import SpecifierSet
from readme import ADDRESS, FIGURE, MAP, render
from tinyrope.corpora import load_stories

PROJECT = tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT/"README.md").read_text(encoding="utf-8")
CONSTRAINTS = (ROOT/"constraints.txt").read_text()
WORKFLOWS = sorted((ROOT/".github"/"workflows").glob("*.yaml"))
FORMS = sorted((ROOT/".github"/"ISSUE_TEMPLATE").glob("*.yml"))
ASSETS = ROOT/"tinyrope"/"assets"


def result(name):
    "What a file in results/ holds"
    return json.loads((ROOT/"results"/f"{name}.json").read_text())


def sha256(path):
    "The checksum of a file"
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- settings

@pytest.fixture
def mirror():
    "What settings.ini says"
    ini = configparser.ConfigParser()
    ini.read(ROOT/"settings.ini", encoding="utf-8")
    return ini["DEFAULT"]


def test_settings_ini_mirrors_the_project(mirror):
    "Name, description, versions, keywords and author are the same"
    project = PROJECT["project"]
    assert mirror["lib_name"] == project["name"]
    assert mirror["description"] == project["description"]
    assert ">=" + mirror["min_python"] == project["requires-python"]
    assert mirror["keywords"].split() == project["keywords"]
    assert mirror["author"] == project["authors"][0]["name"]
    assert f'"{mirror["version"]}"' in (ROOT/"tinyrope"/"__init__.py").read_text()


def test_settings_ini_mirrors_the_addresses(mirror):
    "The addresses of repository and site are the same"
    urls = PROJECT["project"]["urls"]
    assert mirror["git_url"] == urls["Repository"]
    assert mirror["doc_host"] + mirror["doc_baseurl"] + "/" == urls["Documentation"]


def test_settings_ini_mirrors_nbdev(mirror):
    "The settings of nbdev are the same"
    for name in ("tst_flags", "title"): assert mirror[name] == PROJECT["tool"]["nbdev"][name]


def test_constraints_name_what_was_tested():
    "Each dependency has a version in constraints.txt"
    pins, extras = CONSTRAINTS.lower(), PROJECT["project"]["optional-dependencies"]
    assert "torch==2.13.0\n" in pins
    for need in PROJECT["project"]["dependencies"] + extras["dev"]:
        assert re.split(r"[<>=]", need)[0].lower() + "==" in pins, need


def test_all_install_the_same_torch():
    "README, workflows, container and check name the version of constraints.txt"
    container = (ROOT/".devcontainer"/"devcontainer.json").read_text()
    said = [README, container, (ROOT/".ci"/"run").read_text(), *(p.read_text() for p in WORKFLOWS)]
    found = re.findall(r"torch==([\d.]+)", "\n".join(said))
    assert len(found) >= 4 and {f"torch=={v}" for v in found} <= set(CONSTRAINTS.splitlines())


def test_who_cites_names_this_version():
    "CITATION.cff has the version and the addresses of the project"
    cited = yaml.safe_load((ROOT/"CITATION.cff").read_text())
    urls = PROJECT["project"]["urls"]
    assert (cited["repository-code"], cited["url"]) == (urls["Repository"], urls["Documentation"])
    assert f'"{cited["version"]}"' in (ROOT/"tinyrope"/"__init__.py").read_text()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_can_be_read(path):
    "GitHub shows a form only if it is valid: each part has a label"
    form = yaml.safe_load(path.read_text())
    parts = [part["attributes"]["label"] for part in form.get("body", [])]
    assert parts or "blank_issues_enabled" in form


def test_python_versions_are_those_that_are_tested():
    "Workflow, classifiers and README name the same versions"
    workflow = (ROOT/".github"/"workflows"/"test.yaml").read_text()
    tested = re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", workflow)[1])
    classifiers = PROJECT["project"]["classifiers"]
    named = [c.rsplit(" ", 1)[1] for c in classifiers if re.search(r"3\.\d+$", c)]
    said = re.search(r"with Python (.*):$", README, re.MULTILINE)[1]
    assert tested == named == re.findall(r"3\.\d+", said) and "3.14" in tested


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_hash(path):
    "A tag can be moved to other code; a hash cannot. Its version is named beside it"
    used = re.findall(r"uses: (.*)", path.read_text())
    pinned = re.compile(r"[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+")
    assert used and all(pinned.fullmatch(line) for line in used), used


# ---- the README

def test_readme_follows_the_index_notebook():
    "Rendering the notebook gives the README and its pictures"
    said, pictures = render()
    assert README == said, "run python tests/readme.py"
    assert len(pictures) == 2
    for name, content in pictures.items(): assert (ROOT/name).read_bytes() == content, name


def test_readme_says_what_the_default_run_reaches():
    "Bits per byte, perplexity and minutes are those of the result"
    laptop = result("laptop")
    assert f"**{laptop['bits_per_byte']:.3f} bits per byte** on validation" in README
    assert f"perplexity {laptop['perplexity']:.2f}" in README
    minutes = laptop["wall_seconds"]/60
    assert f"in {minutes:.1f} minutes" in README


def test_readme_says_what_the_bundled_model_reaches():
    "Bits per byte on the test stories are those of the result"
    bits = result("bundled")["test"]["bits_per_byte"]
    assert f"**{bits:.3f} bits per byte** on the test stories" in README


@pytest.mark.parametrize("kind", ["", ", compiled"])
def test_readme_says_how_fast_a_step_is(kind):
    "The ratio to the other library's speed, both compiled or neither, is that of the result"
    rows = result("training")["groups"]["laptop"]["rows"]
    ratio = rows["tinyrope" + kind]["ratio"]/rows["transformers" + kind]["ratio"]
    assert f"{ratio:.2f} times" in README


def test_readme_installs_the_torch_that_constraints_keep():
    "The CPU build of another version would be replaced by the pinned one, with all of CUDA"
    pin = re.search(r"^torch==(\S+)$", CONSTRAINTS, re.MULTILINE)[1]
    line, = re.findall(r"^pip install torch.*$", README, re.MULTILINE)
    index = "https://download.pytorch.org/whl/cpu"
    assert line == f"pip install torch=={pin} --index-url {index}"
    assert SpecifierSet(f"=={pin}").contains(f"{pin}+cpu")


def test_lines_of_the_readme_work_in_every_shell():
    "No line is joined to another, which PowerShell and cmd do in other ways"
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert len(blocks) > 5
    assert not [block for block in blocks if re.search(r"&&|\\$", block, re.MULTILINE)]


def test_pictures_of_the_readme_are_found_from_anywhere():
    "PyPI shows the README too, so that addresses are absolute"
    shown = re.findall(r"!\[.*?\]\((.*?)\)", README)
    ours = [ADDRESS + "nbs/images/play.png", ADDRESS + FIGURE, ADDRESS + MAP]
    assert shown[-3:] == ours and all(target.startswith("https://") for target in shown)


def test_badges_are_of_what_is_there():
    "The workflow whose state is shown exists, and so does the notebook that Colab opens"
    flow, = set(re.findall(r"actions/workflows/([\w.]+)", README))
    assert yaml.safe_load((ROOT/".github"/"workflows"/flow).read_text())["name"] == "test"
    opened, = re.findall(r"google\.com/github/tinyrope/tinyrope/blob/main/(\S+)\)", README)
    assert (ROOT/opened).is_file() and "import google.colab" in (ROOT/opened).read_text()


# ---- notebooks

def texts_of(cell):
    "All that a cell shows but pictures, as JSON"
    shown = [output.get("data", output) for output in cell.get("outputs", [])]
    return json.dumps([{k: v for k, v in data.items() if k != "image/png"} for data in shown])


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.name)
def test_notebooks_show_no_machine_and_no_warning(path):
    "Stored outputs hold no path, warning, progress bar or error"
    bad = re.compile(NAMES_OF_MACHINES + r"|C:\\\\|Warning:|it/s")
    for cell in cells_of(path):
        assert not bad.search(texts_of(cell)), (cell["id"], texts_of(cell)[:300])
        assert all(output["output_type"] != "error" for output in cell.get("outputs", []))


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.name)
def test_imports_stand_in_cells_of_their_own(path):
    "To build the docs, cells that import are executed, without the cells before them"
    for cell in cells_of(path):
        if cell["cell_type"] != "code": continue
        lines = ast.parse(text(cell)).body
        kinds = {isinstance(line, ast.Import | ast.ImportFrom) for line in lines}
        assert kinds != {True, False}, (cell["id"], text(cell)[:200])


# ---- assets

def test_the_bundled_model_is_what_its_record_says():
    "The files have the checksums of about.json, and fit into the package"
    folder = ASSETS/"bundled"
    known = json.loads((folder/"about.json").read_text())["sha256"]
    assert known == {name: sha256(folder/name) for name in known}
    assert sum(f.stat().st_size for f in folder.iterdir()) < 12e6


def test_the_bundled_model_is_the_one_that_was_measured():
    "The result was measured with these weights"
    weights = ASSETS/"bundled"/"model.safetensors"
    assert result("bundled")["model_sha256"] == sha256(weights)


@pytest.fixture
def notice():
    "What the package says of its data, in one line"
    return " ".join((ASSETS/"NOTICE.txt").read_text().split())


def test_data_say_whose_they_are_and_what_was_changed(notice):
    "What CDLA-Sharing 1.0 asks for in 3.1"
    train, valid, test = (len(load_stories(split)) for split in ("train", "valid", "test"))
    counts = f"{train:,} stories of its training texts, and {valid:,} and {test:,} of the validation"
    assert counts in notice
    for words in ("Eldan", "HAVE BEEN CHANGED", "Sharing - Version 1.0",
                  "roneneldan/TinyStories"):
        assert words in notice


def test_all_data_of_others_are_named(notice):
    "The notice names each asset that is not the project's own"
    ours = {"live", "tinystories-sources.tsv", "NOTICE.txt", "bundled"}
    kept = {f.name for f in ASSETS.iterdir() if not f.name.startswith(("LICENSE", "."))}
    assert not [name for name in kept - ours if name not in notice]


def test_licences_are_packed():
    "The wheel holds all licences and notices"
    assert "license: apache-2.0" in (ASSETS/"bundled"/"README.md").read_text()
    patterns = PROJECT["project"]["license-files"]
    packed = {path.name for pattern in patterns for path in ROOT.glob(pattern)}
    assert packed == {"LICENSE", "NOTICE", "NOTICE.txt", "LICENSE-gpt2.txt",
                      "LICENSE-CDLA-Sharing-1.0.txt"}


# ---- links

def test_links_into_the_site_and_the_repository_lead_somewhere():
    "Pages, headings and files that are linked exist"
    found = links()
    assert len(found) > 100
    assert [(page.name, target) for page, target in found if leads_nowhere(page, target)] == []


@pytest.mark.parametrize("target", [
    "no.html", "rope.html#no", "00_rope.ipynb#no", "12_none.ipynb", "#no", "nbs/images/readme.png",
    "https://tinyrope.github.io/tinyrope/train.html#no",
    "https://github.com/tinyrope/tinyrope/blob/main/no.md"])
def test_broken_links_are_found(target):
    "A page, heading or file that does not exist is noticed"
    assert leads_nowhere(ROOT/"nbs"/"index.ipynb", target)


@pytest.mark.parametrize(("given", "used"), [(None, "10000"), ("7", "7")])
def test_idle_threads_give_way_unless_the_user_says_otherwise(given, used):
    "Importing the package sets how OpenMP waits; a value that is set already stays"
    env = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    if given: env["GOMP_SPINCOUNT"] = given
    code = "import os, tinyrope; print(os.environ['GOMP_SPINCOUNT'])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == used
