"""Measures of modules and notebooks, and the limits that test_plan.py holds them to.

python tests/measures.py            print the measures, those beyond their limit with a star
python tests/measures.py --ratchet  lower the exceptions in plan.json to what is measured now
"""
import ast
import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXCEPTIONS = Path(__file__).with_name("plan.json")

# A module imports only what stands before it, in its functions too
ORDER = """settings progress kernels rope attention model parts decoding hooks plotting testing
    store corpora ledger verdicts evidence data metrics llama2c export processes optim run_folder portrait
    checkpoint memory tracking own_text prepare speed job report start train finetune
    generation eval_attention interventions pairs probes grammar studies atlas programme
    text_studies shape_studies scoreboard stories runtimes claims live commands""".split()

LIMITS = {"lines": 500, "names": 30, "over 100": 2, "over 120": 0, "median": 6, "longest": 25,
          "class": 45, "prose": .6, "parameters": 5}
OWN = {("lines", "train"): 450, ("names", "train"): 25}
AT_LEAST = {"prose"}                                    # the other limits are upper ones


def modules():
    "The modules of the package"
    return [p for p in sorted((ROOT/"tinyrope").glob("*.py")) if not p.stem.startswith("_")]


def notebooks():
    "The notebooks"
    return sorted((ROOT/"nbs").glob("*.ipynb"))


def text(cell):
    "What stands in a cell"
    return "".join(cell["source"])


def cells_of(path):
    "The cells of a notebook"
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


# ---- imports

def imported(tree):
    "The modules of the package that a syntax tree imports, in functions too"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = ("tinyrope." if node.level else "") + (node.module or "")
            names = [module.rstrip(".") + "." + name.name for name in node.names]
        else: continue
        yield from (name.split(".")[1] for name in names if name.startswith("tinyrope."))


def backward_imports():
    "Pairs of a module and one that it imports though it does not stand before it"
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in modules()}
    pairs = {(module, name) for module, tree in trees.items() for name in imported(tree)
             if name in ORDER}
    return sorted(f"{a} imports {b}" for a, b in pairs if ORDER.index(b) >= ORDER.index(a))


# ---- width

def columns(line):
    "The width of a line of code; a trailing comment may stand beyond column 100"
    code, mark, _ = line.partition(" # ")
    return len(code.rstrip()) if mark and code.strip() and len(line) <= 120 else len(line)


def widths(lines):
    "Percentage of lines of code that are over 100 columns, and number of those over 120"
    wide = [columns(line) for line in lines if line.strip()]
    over = sum(w > 100 for w in wide)
    return round(100*over/max(len(wide), 1), 1), sum(w > 120 for w in wide)


def written(source):
    "The lines of a module, without the list of names that is made for it"
    return re.sub(r"(?ms)^__all__ = \[.*?\]\n", "", source).splitlines()


def code_of(path):
    "The lines of code of a notebook, without its directives"
    code = [text(c) for c in cells_of(path) if c["cell_type"] == "code"]
    return [line for source in code for line in source.splitlines() if not line.startswith("#|")]


# ---- modules

def public_names(source):
    "The names that a module exports"
    listed = re.search(r"(?ms)^__all__ = (\[.*?\])\n", source)
    return ast.literal_eval(listed[1]) if listed else []


def definitions(tree):
    "Public functions and methods, each with its name"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef): yield node.name, node
        if not isinstance(node, ast.ClassDef): continue
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef): yield f"{node.name}.{inner.name}", inner


def many_parameters(path):
    "Public functions with more than five parameters; those of `train` and of commands are options"
    for name, node in definitions(ast.parse(path.read_text(encoding="utf-8"))):
        hidden = name.startswith("_") or re.search(r"\._(?!_init__)", name)
        if hidden or name == "train" or name.endswith("_command"): continue
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([a for a in given if a.arg not in ("self", "cls")])
        if count > LIMITS["parameters"]: yield f"{path.stem}.{name}", count


# ---- notebooks

def kind_of(source):
    "What a cell of code holds: imports, a class, or other code"
    body = ast.parse(source).body
    if body and all(isinstance(n, ast.Import | ast.ImportFrom) for n in body): return "imports"
    return "class" if len(body) == 1 and isinstance(body[0], ast.ClassDef) else "code"


def sizes(path):
    "Lines of each cell of code that is no import, with its kind"
    sources = [text(c) for c in cells_of(path) if c["cell_type"] == "code"]
    sources = [s for s in sources if not s.startswith("#| default_exp")]    # see test_colab.py
    lines = [[l for l in s.splitlines() if l.strip() and not l.startswith("#|")] for s in sources]
    pairs = [(len(ls), kind_of(s)) for ls, s in zip(lines, sources) if ls]
    return [(n, kind) for n, kind in pairs if kind != "imports"]


def longest(found, *kinds):
    "Lines of the longest cell of some kinds"
    return max((n for n, kind in found if kind in kinds), default=0)


def is_title(cell):
    "Is a cell a title, and a line that promises one thing?"
    lines = text(cell).splitlines()
    return bool(len(lines) == 2 and lines[0].startswith("# ") and lines[1].startswith("> "))


# ---- all of it

def measure_module(path):
    "Kind → name → value, of a module"
    source = path.read_text(encoding="utf-8")
    return {"lines": {path.stem: len(source.splitlines())},
            "names": {path.stem: len(public_names(source))},
            "parameters": dict(many_parameters(path))}


def measure_notebook(path):
    "Kind → name → value, of a notebook; nothing if it has no code of its own"
    cells, own = cells_of(path), sizes(path)
    if not own: return {}
    prose = sum(c["cell_type"] == "markdown" for c in cells)
    return {"median": {path.name: statistics.median(n for n, _ in own)},
            "longest": {path.name: longest(own, "code")},
            "class": {path.name: longest(own, "class")},
            "prose": {path.name: round(prose/(len(cells) - prose), 2)}}


def measure_widths():
    "Kind → name → value, of all code"
    code = {path.name: code_of(path) for path in notebooks()}
    for path in [*modules(), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/*.py")]:
        name = path.relative_to(ROOT).as_posix()
        code[name] = written(path.read_text(encoding="utf-8"))
    found = {name: widths(lines) for name, lines in code.items()}
    return {"over 100": {name: share for name, (share, _) in found.items()},
            "over 120": {name: count for name, (_, count) in found.items()}}


def measure():
    "All measures: kind → name → value"
    found = {kind: {} for kind in LIMITS}
    parts = [*map(measure_module, modules()), *map(measure_notebook, notebooks()), measure_widths()]
    for part in parts:
        for kind, values in part.items(): found[kind].update(values)
    return found


def within(kind, name, value, limit=None):
    "Does a value keep to a limit: the one given, or the one of its kind?"
    limit = OWN.get((kind, name), LIMITS[kind]) if limit is None else limit
    return value >= limit if kind in AT_LEAST else value <= limit


def exceptions():
    "What may be beyond its limit, and how far: kind → name → value"
    return json.loads(EXCEPTIONS.read_text(encoding="utf-8"))


def ratchet():
    "Lower each exception to what is measured, and drop those that are not needed; add none"
    now, known = measure(), exceptions()
    kept = dict(imports=[pair for pair in known.pop("imports") if pair in backward_imports()])
    for kind, rows in known.items():
        better = {}
        for name, old in rows.items():
            value = now[kind].get(name)
            if value is None or within(kind, name, value): continue
            better[name] = value if within(kind, name, value, old) else old
        kept[kind] = better
    EXCEPTIONS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def show():
    "Print all measures"
    for kind, rows in measure().items():
        print(f"\n{kind} (limit {LIMITS[kind]})")
        for name, value in rows.items():
            print(f"  {'' if within(kind, name, value) else '*':1} {value:>6}  {name}")
    print("\n".join(["", *backward_imports()]))


if __name__ == "__main__":
    ratchet() if "--ratchet" in sys.argv else show()
