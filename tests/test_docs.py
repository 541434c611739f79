"""The pages of the documentation show what the notebooks say, as nbdev prepares them for Quarto."""
import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT, finish
from links import MADE, markdown
from measures import cells_of, notebooks, text
from pages import Page, faults, glossary, rows
from test_colab import SETUPS
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

PROJECT = tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))
SCRIPTS = PROJECT["project"]["scripts"]
COMMANDS = {name: target.removeprefix("tinyrope.").split(":")
            for name, target in SCRIPTS.items() if target.startswith("tinyrope.")}


def code_of(cells):
    "The cells of code"
    return [c for c in cells if c["cell_type"] == "code"]


def options(cell):
    "The directives of a cell, those of nbdev too: name → value"
    if cell["cell_type"] != "code": return {}
    return dict(re.findall(r"(?m)^#\|\s*([\w-]+):?[ \t]*(.*)$", text(cell)))


def files(folder):
    "All files in a folder, but those that are prepared for Quarto"
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return {p.as_posix() for p in found if "_proc" not in p.parts}


def untracked(path):
    "Would git name `path` as a file that nobody has added?"
    known = ["git", "ls-files", "--error-unmatch", path], ["git", "check-ignore", "-q", path]
    return all(subprocess.run(c, cwd=ROOT, capture_output=True).returncode for c in known)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "All pages, prepared in a copy of the project"
    place = tmp_path_factory.mktemp("site")
    skip = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__", "assets")
    for folder in ("nbs", "results", "tinyrope"):
        shutil.copytree(ROOT/folder, place/folder, ignore=skip)
    for file in ("pyproject.toml", "settings.ini"): shutil.copy(ROOT/file, place)
    before = files(place) - {"nbs/sidebar.yml"}             # it may lie there from an earlier build
    finish([sys.executable, "-c", PREPARE], cwd=place)
    pages = [SimpleNamespace(name=path.name, source=cells_of(place/"nbs"/path.name),
                             cells=cells_of(path))
             for path in sorted((place/"_proc").glob("*.ipynb"))]
    assert [p.name for p in pages] == [p.name for p in notebooks()]
    return SimpleNamespace(pages=pages, folder=place/"_proc", made=files(place) - before)


def documented(page):
    "What `show_doc` wrote on a page: pairs of name and Markdown"
    for cell in code_of(page.cells):
        if name := re.search(r"^show_doc\((\S+)\)$", text(cell), re.M):
            yield name[1], "".join(cell["outputs"][0]["data"]["text/markdown"])


def signature(shown):
    "The signature in what `show_doc` wrote"
    return re.search(r"```python\n(.*?)```", shown, re.S)[1]


def signatures(site):
    "All signatures of the site, each with its page and its name"
    return [(p.name, name, signature(shown)) for p in site.pages for name, shown in documented(p)]


def few(found):
    "A message of not too many lines"
    return "\n".join(map(str, [f"{len(found)}:", *found[:60]]))


def test_no_output_is_empty(site):
    "nbdev writes null for an empty Markdown output, and Quarto stops"
    texts = [(p.name, c["id"], data) for p in site.pages for c in p.cells
             for o in c.get("outputs", []) for kind, data in o.get("data", {}).items()
             if kind.startswith("text/")]
    empty = [(name, cell) for name, cell, data in texts if not "".join(data or "").strip()]
    assert texts and not empty, few(empty)


def test_each_page_keeps_its_introduction(site):
    "nbdev makes front matter of the whole cell of the title; what else stands in it is lost"
    for page in site.pages:
        lines = filter(None, text(page.source[0]).splitlines())
        assert all(line.startswith(("# ", "> ")) for line in lines), page.name
        body = [c for c in page.cells if c["cell_type"] != "raw" and not text(c).startswith("<!--")]
        first = body[0]
        assert first["cell_type"] == "markdown" and not text(first).startswith("#"), page.name


def test_functions_can_appear_on_this_page(site):
    "Quarto boxes the output of a cell with `execution`; headings in boxes are left out of the list"
    shown = [c for p in site.pages for c in code_of(p.cells) if "show_doc(" in text(c)]
    boxed = [text(c).splitlines()[-1] for c in shown if "execution" in c["metadata"]]
    assert len(shown) > 100 and not boxed, few(boxed)


def test_no_option_is_given_twice(site):
    "Quarto refuses it"
    for page in site.pages:
        for cell in code_of(page.cells):
            head = re.match(r"(#\|.*\n)*", text(cell))[0]
            names = re.findall(r"(?m)^#\|\s*([\w-]+):", head)
            assert len(names) == len(set(names)), (page.name, cell["id"])


def seen(cell, page):
    "Does a reader of the page see the code of a cell of the notebook, or what it puts out?"
    found = next((c for c in page.cells if c.get("id") == cell["id"]), None)
    return found is not None and bool(options(found).get("echo") != "false" or found["outputs"])


def test_prose_stands_beside_what_it_speaks_of(site):
    "If code follows a paragraph, some of it is seen; after a colon, the first of it"
    alone = []
    for page in site.pages:
        for i, cell in enumerate(page.source[1:], 1):
            if cell["cell_type"] != "markdown": continue
            prose, rest = re.sub(r"(?m)^#+ .*$", "", text(cell)).strip(), page.source[i+1:]
            end = next((j for j, c in enumerate(rest) if c["cell_type"] == "markdown"), len(rest))
            code = [c for c in rest[:end] if not options(c).keys() & {"hide", "default_exp"}]
            lost = bool(code) and not any(seen(c, page) for c in code)
            dangling = prose.endswith(":") and not (code and seen(code[0], page))
            if prose and (lost or dangling): alone.append((page.name, cell["id"], prose[:60]))
    assert not alone, few(alone)


def imports(cells):
    "The names that cells import"
    nodes = (n for c in cells for n in ast.walk(ast.parse(text(c)))
             if isinstance(n, ast.Import | ast.ImportFrom))
    return {(name.asname or name.name).split(".")[0] for node in nodes for name in node.names}


def test_what_is_shown_can_be_run(site):
    "What the code that is seen uses is imported by code that is seen"
    lacking = []
    for page in site.pages:
        ids = {c["id"] for c in page.cells if options(c).get("echo") != "false"}
        shown = [c for c in code_of(page.source) if c["id"] in ids]
        hidden = [c for c in code_of(page.source) if c["id"] not in ids]
        trees = [ast.parse(text(c)) for c in shown]
        used = {n.id for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Name)}
        names = used & imports(hidden) - imports(shown)
        if names: lacking.append((page.name, sorted(names)))
    assert not lacking, few(lacking)


def test_paragraphs_are_not_left_in_a_row(site):
    "Three cells of prose without a heading or anything seen between them have lost their code"
    def is_prose(c): return c["cell_type"] == "markdown" and not text(c).startswith(("#", "<!--"))
    for page in site.pages:
        kinds = "".join("p" if is_prose(c) else "." for c in page.cells)
        if row := re.search("ppp", kinds):
            pytest.fail(f"{page.name}: {text(page.cells[row.start()])[:80]}")


def test_definitions_are_documented_before_their_code(site):
    "All of a cell, in its order"
    for page in site.pages:
        shown = [m[1] if (m := re.search(r"^show_doc\((?:\w+\.)*(\w+)\)$", text(c), re.M))
                 else c["id"] for c in page.cells]
        for cell in page.source:
            if "exports" not in options(cell): continue
            names = [n.name for n in ast.parse(text(cell)).body
                     if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name in shown]
            at = shown.index(cell["id"])
            assert shown[at - len(names):at] == names, (page.name, cell["id"])


def test_what_the_pages_ask_for_exists(site):
    "Styles, metadata, resources"
    settings = yaml.safe_load((site.folder/"_quarto.yml").read_text(encoding="utf-8"))
    asked = [settings["format"]["html"]["css"], *settings["metadata-files"], *settings["filters"],
             *settings["project"]["resources"]]
    assert not [name for name in asked if name not in MADE and not (site.folder/name).exists()]


def test_preparing_leaves_nothing_untracked(site):
    "Git tracks or ignores each file that the build makes"
    assert not [path for path in site.made if untracked(path)]


def test_pages_lead_to_their_notebooks_on_colab(site):
    "Those that set themselves up there, and no others"
    linked = {}
    for page in site.pages:
        front = yaml.safe_load(text(page.cells[0]).strip().strip("-"))
        links = [link["href"].rpartition("/")[2] for link in front.get("code-links", [])]
        linked[page.name] = links == [page.name]
    expected = {path.name for path in SETUPS}
    assert {name for name, there in linked.items() if there} == expected


def test_the_sidebar_lists_each_page_once(site):
    "Each page can be reached, and from one place"
    def entries(contents):
        return [e for c in contents for e in (entries(c["contents"]) if "contents" in c else [c])]
    sidebar = yaml.safe_load((site.folder/"sidebar.yml").read_text(encoding="utf-8"))
    listed = entries(sidebar["website"]["sidebar"]["contents"])
    assert sorted(listed) == sorted(p.name for p in site.pages)


def test_pictures_say_what_is_seen(site):
    "For readers who cannot see them; and each has a caption, and a label to refer to it"
    drawn = [(p.name, c) for p in site.pages for c in code_of(p.cells)
             if any(kind.startswith("image/") for o in c["outputs"] for kind in o.get("data", {}))]
    mute = [(page, c["id"], name) for page, c in drawn for name in ("fig-alt", "fig-cap", "label")
            if len(options(c).get(name, "")) < 5]
    linked = re.compile(r"!\[\s*\]\(|<img(?![^>]* alt=)")
    mute += [(p.name, c["id"]) for p in site.pages for c in p.cells
             if c["cell_type"] == "markdown" and linked.search(text(c))]
    assert drawn and not mute, few(mute)


def test_signatures_are_as_written(site):
    "No signature shows an object where the code has an expression"
    strange = re.compile(r"__main__|<lambda>|_ArrayFunctionDispatcher|<function|<class| at 0x")
    found = [(page, name, m[0]) for page, name, code in signatures(site)
             if (m := strange.search(code))]
    assert not found, few(found)


def test_signatures_are_no_wider_than_code(site):
    "No line of a signature is over 100 columns"
    wide = [(page, name, len(line)) for page, name, code in signatures(site)
            for line in code.splitlines() if len(line) > 100]
    assert not wide, few(wide)


@pytest.mark.parametrize("config", [ModelConfig, TrainConfig, Sampling])
def test_the_fields_of_a_configuration_are_explained(site, config):
    "The table of a configuration has a row with a text for each field"
    shown, = (said for p in site.pages for name, said in documented(p) if name == config.__name__)
    rows = dict(re.findall(r"(?m)^\| `(\w+):.*\| (.+) \|$", shown))
    assert list(rows) == [f.name for f in fields(config)]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_explained(site, command):
    "The page of a command says what it does and what its arguments mean"
    module, function = COMMANDS[command]
    page, = (p for p in site.pages for c in p.source if options(c).get("default_exp") == module)
    shown = dict(documented(page))[function]
    assert " # " in signature(shown), "no argument is explained"
    assert len(shown.rpartition("```")[2].split()) > 3, "nothing is said of what it does"


def test_a_name_is_documented_once(site):
    "The link to the source of a name that is documented twice leads to one of the two"
    times = Counter(name for p in site.pages for name, _ in documented(p))
    both = {"Scale", "Study", "study"}      # of the studies, and of those that take their place
    assert {name for name, n in times.items() if n > 1} <= both


def test_the_workflow_builds_proposals_and_publishes_main_only():
    "No pull request has the permission to publish"
    path = ROOT/".github"/"workflows"/"docs.yaml"
    workflow = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    assert {"push", "pull_request"} <= workflow["on"].keys()
    assert workflow["on"]["push"]["branches"] == ["main"]
    build, deploy = workflow["jobs"]["build"], workflow["jobs"]["deploy"]
    assert "if" not in build and "github.ref == 'refs/heads/main'" in deploy["if"]
    allowed = workflow["permissions"] | build.get("permissions", {})
    assert "write" not in allowed.values(), "a proposal could publish"


def test_pages_that_are_made_are_made_before_the_site():
    "The workflow writes them beside the notebooks, and Quarto takes them along"
    path = ROOT/".github"/"workflows"/"docs.yaml"
    workflow = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    commands = [step.get("run", "") for step in workflow["jobs"]["build"]["steps"]]
    quarto = yaml.safe_load((ROOT/"nbs"/"_quarto.yml").read_text(encoding="utf-8"))
    for name in MADE:
        made, = (i for i, command in enumerate(commands) if f"--out nbs/{name}" in command)
        assert made < commands.index("nbdev-docs") and name in quarto["project"]["resources"]
        assert commands[made].split()[0] in COMMANDS


# ---- terms, papers, and the pages as they are built

def test_each_term_is_explained_once_and_where_the_glossary_says():
    "In a sentence or two; the page that is named for it uses the term"
    terms = [row for row in rows("glossary.ipynb") if len(row) == 3 and row[0] != "term"]
    named = [word for words, _, _ in terms for word in words.split(", ")]
    assert len(terms) > 40 and len(named) == len(set(named))
    for words, meaning, link in terms:
        assert meaning.endswith(".") and len(meaning) < 180 and meaning.count(". ") < 2, words
        place = ROOT/"nbs"/re.search(r"\((.*?)\)", link)[1]
        page = "\n".join(map(text, cells_of(place))).lower()
        assert any(word.lower() in page for word in words.split(", ")), (words, link)


PANDOC = shutil.which("pandoc") or shutil.which("quarto")


def newest(program):
    "The command of a Pandoc that can read JSON in a filter, or None"
    if not program: return None
    command = [program, "pandoc"] if Path(program).stem == "quarto" else [program]
    said = subprocess.run([*command, "--version"], capture_output=True, text=True).stdout
    version = tuple(map(int, re.search(r"(\d+)\.(\d+)\.?(\d*)", said + " 0.0.0").groups("0")))
    return command if version >= (3, 1, 1) else None


def filtered(markdown, *more):
    "Markdown as HTML, through the filter of the site"
    command = [*newest(PANDOC), "--wrap=none", "-t", "html", "--lua-filter", ROOT/"nbs"/"site.lua",
               *more]
    return subprocess.run(command, input=markdown, stdout=subprocess.PIPE, encoding="utf-8",
                          check=True).stdout


@pytest.mark.skipif(not newest(PANDOC), reason="needs Pandoc 3.1.1, or Quarto")
def test_pages_explain_what_the_glossary_does():
    "Each term at its first mention in prose, and not in headings; each name where it is code"
    meanings = glossary()
    lines = [f"# {words[0]}\n\nOf ({words[0]}), and of {words[0]}." for words in meanings.values()]
    lines += ["No term or name, as in the heads of the tables."]
    assert sorted(Page(filtered("\n\n".join(lines))).explained) == sorted(meanings)


@pytest.mark.skipif(not newest(PANDOC), reason="needs Pandoc 3.1.1, or Quarto")
@pytest.mark.parametrize("source, html", [
    ("[[`f`](https://tinyrope.github.io/tinyrope/a.html#f)](b.html)",
     '<a href="b.html"><code class="short">f</code></a>'),
    ("[a](https://tinyrope.github.io/tinyrope/a.html#f)", '<a href="a.html#f">a</a>'),
    ("[Su](https://arxiv.org/abs/2104.09864)", 'aria-description="Su et al. (2021). RoFormer: '),
    (f"| a |\n|---|\n| {'word '*20} |", '<div class="sentence">'),
    (f"| a | b | c |\n|---|---|---|\n| 1 | 2 | {'word '*20} |",
     '<div class="sentence" data-column="c">'),
    ("[`_f`](https://tinyrope.github.io/tinyrope/a.html#_f)", '<p><code class="short">_f</code></p>'),
    ("::: {#cell-fig-x .cell}\n``` {.python .cell-code}\nplot(x)\n```\n:::", "Code of the figure"),
    ("::: {.cell}\n``` {.python .cell-code}\nimport a\nfrom b import (c,\n  d)\n```\n:::",
     "Imports"),
    ("| a | b |\n|---|---|\n| x | −1.5 ± 0.2 % |", 
     '<td style="text-align: right;">−1.5\xa0±\xa00.2\xa0%</td>'),
    ("| a | b |\n|---|---|\n| x | 1 of 2 |", "<td>1 of 2</td>"),
    ("[source](a.py)\n\n### f\n\n*Return it. Raises* an error", "<em>Return it. Raises an error</em>"),
    ("### Study\n\n[`Study`](https://tinyrope.github.io/tinyrope/programme.html#study)",
     '<a href="#study"><code class="short">Study</code></a>'),
    ("::: {.cell}\n``` {.python .cell-code code-summary=Solution}\nf()\n```\n\n1\n:::",
     "<summary>What it gives</summary>"),
    ("::: {.cell-output}\n```\na   1\nb   2\n```\n:::", 'class="cell-output aligned"'),
    ("| a | b | c |\n|---|---|---|\n| 1 | | 2 |\n", '<th>a</th>\n<th style="text-align: right;">c</th>'),
    ("::: {.cell}\n``` {.cell-code code-fold=show code-summary=\"Exported source\"}\nx\n```\n:::",
     'code-summary="Source"'),
], ids=["nested link", "link inside", "paper", "cell of a table", "name of a column", "private name",
        "plotting", "imports", "numbers", "no numbers", "docstring", "name of the page",
        "solution", "columns of an output", "empty column", "source"])
def test_the_filter_changes_pages(source, html):
    "One example of each thing that it does"
    assert html in filtered(source)


SOURCE = "::: {{.cell}}\n``` {{.python .cell-code code-fold={}}}\ndef f(x): return x\n```\n:::"
LOADS = '---\nheader-includes: |\n  ```{=html}\n  <script src="require.min.js"></script>\n  ```\n---\n'


@pytest.mark.skipif(not newest(PANDOC), reason="needs Pandoc 3.1.1, or Quarto")
def test_what_a_page_does_not_need_is_left_out():
    "A signature above its open source, folds one after another, a table without rows, libraries"
    said = "### f\n\n``` python\ndef f(\n  x,\n)\n```\n\n*Return it*\n\n"
    assert filtered(said + SOURCE.format("show")).count("<pre") == 1
    assert filtered(said + SOURCE.format("true")).count("<pre") == 2
    assert filtered("\n\n".join([SOURCE.format("true")]*3)).count("<pre") == 1
    assert filtered("\n\n".join([SOURCE.format("show")]*3)).count("<pre") == 3
    assert "<table" not in filtered("| field | default |\n|---|---|\n")
    assert "require" not in filtered(LOADS + "Text", "--standalone")
    assert "other.js" in filtered(LOADS.replace("require.min", "other") + "Text", "--standalone")


def test_faults_of_built_pages_are_found(tmp_path):
    "A missing anchor, two equal ones, a picture without a text, a lost reference, an unknown term"
    meaning, other = list(glossary())[:2]
    term = '<i class="term" aria-description="{}">x</i>'.format
    terms = term(meaning) + term(other)
    good = f'<h2 id="b">b</h2><a href="#b">b</a><img alt="" src="p.png">{terms}'
    (tmp_path/"a.html").write_text(good)
    assert list(faults(tmp_path)) == []
    bad = f'<a href="a.html#c">c</a><a href="c.html"></a><img src="p">?@fig-x{term("y")*2}' + '<p id="p">'*2
    (tmp_path/"b.html").write_text(bad)
    assert len(list(faults(tmp_path))) == 8


def cited():
    "Links to papers in the notebooks, as pairs of text and address"
    places = (r"arxiv\.org/abs|doi\.org|aclanthology\.org|www\.jstor\.org|openreview\.net"
              r"|archive\.org/details|www\.reddit\.com")
    kinds = f"https://(?:{places})/"
    prose = "\n".join(markdown(path) for path in notebooks() if path.name != "references.ipynb")
    return re.findall(rf"\[([^\]]*)\]\(({kinds}[^)]*)\)", prose)


def test_cited_papers_are_in_the_bibliography():
    "With the surname and the year that the text gives"
    entries = (ROOT/"nbs"/"references.bib").read_text(encoding="utf-8").split("\n}\n")
    papers = {f["url"]: f for f in (dict(re.findall(r"(\w+) = \{(.*)\}", e)) for e in entries[:-1])}
    assert len(cited()) > 30 and not [pair for pair in cited() if pair[1] not in papers]
    for said, address in cited():
        if not (named := re.match(r"(\w+).* (\d{4})\b", said)) or said.startswith("arXiv"): continue
        assert papers[address]["author"].lstrip("{").startswith(named[1]), said
        assert papers[address]["year"] == named[2], said
