"""The pages of the documentation, as nbdev prepares them for Quarto, show what the notebooks say."""
import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT

from tinyrope.generation import Sampling
from tinyrope.model import ModelConfig
from tinyrope.train import TrainConfig

PREPARE = """
from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
from nbdev.serve import proc_nbs
if __name__ == "__main__":
    refresh_quarto_yml()
    nbdev_sidebar.__wrapped__()
    proc_nbs(force=True, n_workers=2)
"""     # what `nbdev-docs` does before it calls Quarto


def text(cell):
    return "".join(cell["source"])


def options(cell):
    "The directives of a cell, those of nbdev too: name → value"
    lines = re.findall(r"(?m)^#\|\s*([\w-]+):?[ \t]*(.*)$", text(cell)) if cell["cell_type"] == "code" else []
    return dict(lines)


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and "_proc" not in p.parts}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "All pages, prepared in a copy of the project"
    place = tmp_path_factory.mktemp("site")
    skip = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__", "assets")
    for folder in ("nbs", "results", "tinyrope"): shutil.copytree(ROOT/folder, place/folder, ignore=skip)
    for file in ("pyproject.toml", "settings.ini"): shutil.copy(ROOT/file, place)
    before = files(place) - {"nbs/sidebar.yml"}             # it may lie there from an earlier build
    done = subprocess.run([sys.executable, "-c", PREPARE], cwd=place, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = []
    for path in sorted((place/"_proc").glob("*.ipynb")):
        source, page = (json.loads(p.read_text(encoding="utf-8"))["cells"] for p in (place/"nbs"/path.name, path))
        pages.append(SimpleNamespace(name=path.name, source=source, cells=page))
    assert {p.name for p in pages} == {p.name for p in (ROOT/"nbs").glob("*.ipynb")}
    return SimpleNamespace(pages=pages, folder=place/"_proc", made=files(place) - before)


def untracked(path):
    "Would git name `path` as a file that nobody has added?"
    known = ["git", "ls-files", "--error-unmatch", path], ["git", "check-ignore", "-q", path]
    return all(subprocess.run(command, cwd=ROOT, capture_output=True).returncode for command in known)


def documented(page):
    "What `show_doc` wrote on a page: name → Markdown"
    return {m[1]: "".join(c["outputs"][0]["data"]["text/markdown"]) for c in page.cells
            if c["cell_type"] == "code" and (m := re.search(r"^show_doc\((\S+)\)$", text(c), re.M))}


def signatures(page):
    "The signatures on a page: name → code"
    return {name: re.search(r"```python\n(.*?)```", shown, re.S)[1] for name, shown in documented(page).items()}


def test_no_output_is_empty(site):
    "nbdev writes null for an empty Markdown output, and Quarto stops"
    empty = [(p.name, c["id"]) for p in site.pages for c in p.cells for o in c.get("outputs", [])
             for kind, data in o.get("data", {}).items() if kind.startswith("text/") and not "".join(data or "").strip()]
    assert not empty


def test_each_page_keeps_its_introduction(site):
    "nbdev makes front matter of the whole cell of the title; what else stands in it is lost"
    lost = [p.name for p in site.pages if any(line and line[0] not in "#>" for line in text(p.source[0]).splitlines())]
    bare = [p.name for p in site.pages
            if (first := next(c for c in p.cells if c["cell_type"] != "raw" and not text(c).startswith("<!--")))["cell_type"] != "markdown"
            or text(first).startswith("#")]
    assert not lost and not bare, (lost, bare)


def test_functions_can_appear_on_this_page(site):
    "Quarto puts the output of a cell with `execution` in a box, and leaves headings in boxes out of 'On this page'"
    shown = [c for p in site.pages for c in p.cells if "show_doc(" in text(c)]
    assert len(shown) > 100
    boxed = [text(c).splitlines()[-1] for c in shown if "execution" in c["metadata"]]
    assert not boxed, f"{len(boxed)} functions, {boxed[:5]} among them"


def test_no_option_is_given_twice(site):
    "Quarto refuses it"
    twice = [(p.name, c["id"]) for p in site.pages for c in p.cells if c["cell_type"] == "code"
             for names in [re.findall(r"^#\| ([\w-]+):", text(c).split("\n\n")[0], re.M)] if len(names) > len(set(names))]
    assert not twice


def seen(cell, page):
    "Does a reader of the page see the code of a cell of the notebook, or what it puts out?"
    found = next((c for c in page.cells if c.get("id") == cell["id"]), None)
    return found is not None and bool(options(found).get("echo") != "false" or found["outputs"])


def test_prose_stands_beside_what_it_speaks_of(site):
    "After a paragraph comes something that is seen, unless nothing is exported there; after a colon at once"
    alone = []
    for page in site.pages:
        for i, cell in enumerate(page.source[1:], 1):
            prose = re.sub(r"(?m)^#+ .*$", "", text(cell)).strip() if cell["cell_type"] == "markdown" else ""
            end = next((j for j, c in enumerate(page.source[i+1:], i+1) if c["cell_type"] == "markdown"), len(page.source))
            code = [c for c in page.source[i+1:end] if not options(c).keys() & {"hide", "default_exp"}]
            if prose and code and not any(seen(c, page) for c in code): alone.append((page.name, cell["id"], prose[:60]))
            elif prose.endswith(":") and not (code and seen(code[0], page)): alone.append((page.name, cell["id"], prose[-60:]))
    assert not alone, "\n".join(map(str, [len(alone), *alone]))


def names_in(code, wanted):
    "Names that a piece of code imports (`Import`), or uses (`Name`)"
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, wanted)]
    if wanted is ast.Name: return {node.id for node in nodes}
    return {(alias.asname or alias.name).split(".")[0] for node in nodes for alias in node.names}


def test_what_is_shown_can_be_run(site):
    "What the code that is seen uses is imported by code that is seen"
    lacking = []
    for page in site.pages:
        code = [c for c in page.source if c["cell_type"] == "code"]
        shown = {c["id"] for c in page.cells if options(c).get("echo") != "false"}
        imported, hidden = (set().union(*(names_in(text(c), (ast.Import, ast.ImportFrom)) for c in code if (c["id"] in shown) is there))
                            for there in (True, False))
        used = set().union(*(names_in(text(c), ast.Name) for c in code if c["id"] in shown))
        if names := used & hidden - imported: lacking.append((page.name, sorted(names)))
    assert not lacking, "\n".join(map(str, lacking))


def test_paragraphs_are_not_left_in_a_row(site):
    "Three cells of prose without a heading or anything seen between them have lost their code"
    rows = []
    for page in site.pages:
        kinds = "".join("p" if c["cell_type"] == "markdown" and not text(c).startswith(("#", "<!--")) else "." for c in page.cells)
        rows += [(page.name, text(page.cells[m.start()])[:60]) for m in re.finditer("ppp+", kinds)]
    assert not rows


def test_definitions_are_documented_before_their_code(site):
    "All of a cell, in its order"
    for page in site.pages:
        shown = [m[1] if (m := re.search(r"^show_doc\((?:\w+\.)*(\w+)\)$", text(c), re.M)) else c["id"] for c in page.cells]
        for cell in page.source:
            if "exports" not in options(cell): continue
            names = [n.name for n in ast.parse(text(cell)).body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name in shown]
            at = shown.index(cell["id"])
            assert shown[at - len(names):at] == names, (page.name, cell["id"])


def test_what_the_pages_ask_for_exists(site):
    settings = yaml.safe_load((site.folder/"_quarto.yml").read_text(encoding="utf-8"))
    asked = [settings["format"]["html"]["css"], *settings["metadata-files"], *settings["project"]["resources"]]
    assert not [name for name in asked if not (site.folder/name).exists()]


def test_preparing_leaves_nothing_untracked(site):
    assert not [path for path in site.made if untracked(path)]


def test_the_sidebar_lists_each_page_once(site):
    def entries(contents):
        return [e for c in contents for e in (entries(c["contents"]) if isinstance(c, dict) else [c])]
    listed = entries(yaml.safe_load((site.folder/"sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"])
    assert sorted(listed) == sorted(p.name for p in site.pages)


def test_pictures_say_what_is_seen(site):
    "For readers who cannot see them, and each with a caption"
    mute = [(p.name, c["id"], name) for p in site.pages for c in p.cells
            if any(kind.startswith("image/") for o in c.get("outputs", []) for kind in o.get("data", {}))
            for name in ("fig-alt", "fig-cap", "label") if len(options(c).get(name, "")) < 5]
    mute += [(p.name, c["id"]) for p in site.pages for c in p.cells if c["cell_type"] == "markdown" and re.search(r"!\[\s*\]\(|<img(?![^>]* alt=)", text(c))]
    assert not mute, "\n".join(map(str, [len(mute), *mute]))


def test_signatures_are_as_written(site):
    strange = re.compile(r"__main__|<lambda>|_ArrayFunctionDispatcher|<function|<class| at 0x")
    found = [(p.name, name, m[0]) for p in site.pages for name, code in signatures(p).items() if (m := strange.search(code))]
    assert not found, f"{len(found)}, {found[:5]} among them"


def test_signatures_are_no_wider_than_code(site):
    wide = [(p.name, name, len(line)) for p in site.pages for name, code in signatures(p).items() for line in code.splitlines() if len(line) > 100]
    assert not wide, f"{len(wide)}, {wide[:5]} among them"


@pytest.mark.parametrize("config", [ModelConfig, TrainConfig, Sampling])
def test_the_fields_of_a_configuration_are_explained(site, config):
    shown, = (d[config.__name__] for p in site.pages if config.__name__ in (d := documented(p)))
    rows = {m[1]: m[2] for m in re.finditer(r"(?m)^\| `(\w+):.*\| (.+) \|$", shown)}
    assert list(rows) == [f.name for f in fields(config)]


COMMANDS = {name: target for name, target in tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"].items()
            if target.startswith("tinyrope.")}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_explained(site, command):
    module, function = COMMANDS[command].removeprefix("tinyrope.").split(":")
    page, = (p for p in site.pages if re.search(rf"(?m)^#\| *default_exp {module}$", "\n".join(map(text, p.source))))
    shown = documented(page)[function]
    assert " # " in signatures(page)[function], "no argument is explained"
    assert len(shown.rpartition("```")[2].split()) > 3, "nothing is said of what it does"


def test_a_name_is_documented_once(site):
    "The link to the source of a name that two pages document leads to one of them"
    where = {}
    for page in site.pages:
        for name in documented(page): where.setdefault(name, []).append(page.name)
    assert not {name: pages for name, pages in where.items() if len(pages) > 1}


def test_the_workflow_builds_proposals_and_publishes_main_only():
    workflow = yaml.load((ROOT/".github"/"workflows"/"docs.yaml").read_text(encoding="utf-8"), yaml.BaseLoader)
    assert {"push", "pull_request"} <= workflow["on"].keys() and workflow["on"]["push"]["branches"] == ["main"]
    build, deploy = workflow["jobs"]["build"], workflow["jobs"]["deploy"]
    assert "if" not in build and "github.ref == 'refs/heads/main'" in deploy["if"] and "!= 'pull_request'" in deploy["if"]
    allowed = workflow["permissions"] | build.get("permissions", {})
    assert "write" not in allowed.values(), "a proposal could publish"
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for job in (build, deploy) for step in job["steps"] if "uses" in step)
