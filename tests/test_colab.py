"""The cell with which a notebook sets itself up on Colab, run as a script.

git and pip are stand-ins: the one links this checkout to where a clone would be, the other installs
the package in a folder that Python sees. Nothing is fetched.
"""
import ast
import os
import subprocess
import sys
import tomllib

import pytest
import yaml
from conftest import ROOT, needs_unix, python
from measures import cells_of, notebooks, text

STAND_INS = {
    "git": 'test "$1" = clone && ln -s {root} tinyrope',
    "pip": 'test -f tinyrope/pyproject.toml && echo "$3" >> asked && ln -s {root}/tinyrope site/'}
PROJECT = tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))["project"]
LOOK = "import os, tinyrope; print(os.getcwd(), tinyrope.__file__, os.path.isdir('../results'))"
GIVEN = {"IPython", "pandas", "matplotlib_inline", "httpx"}     # on Colab, and with JupyterLab


def setups():
    "Notebook → the lines that set it up, for those that have some"
    first = {path: next((text(c) for c in cells_of(path) if c["cell_type"] == "code"), "")
             for path in notebooks()}
    return {path: source.partition("\n")[2] for path, source in first.items()
            if source.startswith("#| default_exp") and "\n" in source}


SETUPS = setups()
SETUP = next(iter(SETUPS.values()))


def test_all_chapters_set_themselves_up_with_the_same_lines():
    "And no other cell with a directive that hides it holds code"
    assert len(SETUPS) > 20 and set(SETUPS.values()) == {SETUP}
    assert {path for path in notebooks() if path.stem[0].isdigit()} <= SETUPS.keys()


@pytest.fixture
def colab(tmp_path):
    "A folder that looks like Colab, with stand-ins on its path"
    for folder in ("bin", "site/google/colab", "content"): (tmp_path/folder).mkdir(parents=True)
    (tmp_path/"content"/"site").symlink_to(tmp_path/"site")
    (tmp_path/"site"/"google"/"colab"/"__init__.py").touch()
    for name, lines in STAND_INS.items():
        path = tmp_path/"bin"/name
        path.write_text(f"#!/bin/sh\n{lines.format(root=ROOT)}\n")
        path.chmod(0o755)
    path = f"{tmp_path/'bin'}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(tmp_path/"site")}
    return dict(cwd=tmp_path/"content", env=env)


@needs_unix
def test_it_installs_the_repository_and_goes_there(colab, tmp_path):
    "A second time, it does nothing more"
    cwd, package, results = python("\n".join((SETUP, SETUP, LOOK)), **colab).split()
    assert cwd == str(ROOT/"nbs") and results == "True"
    assert package == str(tmp_path/"site"/"tinyrope"/"__init__.py")
    asked, = (tmp_path/"content"/"asked").read_text().splitlines()
    assert asked == "./tinyrope[export,bench]"
    assert {"export", "bench"} <= PROJECT["optional-dependencies"].keys()


@needs_unix
def test_what_fails_there_ends_with_an_error(colab, tmp_path):
    "Not with a notebook that goes on without the package"
    (tmp_path/"bin"/"git").write_text("#!/bin/sh\nexit 128\n")
    done = subprocess.run([sys.executable, "-c", SETUP], capture_output=True, text=True, **colab)
    assert done.returncode == 1 and "CalledProcessError" in done.stderr


def test_elsewhere_it_does_nothing(tmp_path):
    "Nothing is called, nothing written, and the folder stays"
    look = "\nimport os; print(os.getcwd(), 'check_call' in globals())"
    told = python(SETUP + look, cwd=tmp_path)
    assert told.split() == [str(tmp_path.resolve()), "False"] and not list(tmp_path.iterdir())


def names_imported(path):
    "The packages that a notebook imports, without those of Python"
    code = [text(c) for c in cells_of(path) if c["cell_type"] == "code"]
    nodes = [node for source in code for node in ast.walk(ast.parse(source))]
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


@pytest.mark.parametrize("path", SETUPS, ids=lambda path: path.name)
def test_what_it_installs_is_enough(path):
    "All that the notebook imports comes with the package, its two extras, or Colab"
    extras = PROJECT["optional-dependencies"]
    needs = PROJECT["dependencies"] + extras["export"] + extras["bench"]
    names = {need.partition(">")[0].removesuffix("-py").replace("-", "_") for need in needs}
    names |= GIVEN | {"tinyrope", "google", "huggingface_hub"}      # the last with `transformers`
    assert not names_imported(path) - names


def test_it_clones_what_the_site_links_to():
    "The cell clones the newest state of the repository, from whose main branch Colab opens it"
    settings = yaml.safe_load((ROOT/"nbs"/"nbdev.yml").read_text(encoding="utf-8"))["website"]
    assert settings["repo-url"] in SETUP and settings["repo-branch"] == "main"
