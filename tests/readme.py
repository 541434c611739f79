"""Render nbs/index.ipynb as README.md: `python tests/readme.py`."""
import base64
import re
import tomllib

from measures import ROOT, cells_of, text

FIGURE = "nbs/images/readme.png"
MAP = "nbs/images/map.svg"
SITE = "https://tinyrope.github.io/tinyrope/"
# the README is shown where the picture is not, too
ADDRESS = "https://raw.githubusercontent.com/tinyrope/tinyrope/main/"


def option(cell, name):
    "An option of a cell, or None"
    found = re.search(rf'^#\| {name}: "(.*)"$', text(cell), re.MULTILINE)
    return found and found[1]


def figure(cell):
    "The link to the picture that a cell draws, with its caption below"
    caption = option(cell, "fig-cap")
    alternative = option(cell, "fig-alt") or caption
    return f"![{alternative}]({ADDRESS}{FIGURE})\n\n*{caption}*"


def linked(drawing):
    "The link to a drawing, which leads to the site, where its parts are links"
    alternative = re.search('aria-label="(.*?)"', drawing)[1]
    return f"[![{alternative}]({ADDRESS}{MAP})]({SITE})"


def badge(alternative, picture, target):
    "A small picture that leads somewhere"
    return f"[![{alternative}]({picture})]({target})"


def badges():
    "Do the tests of the main branch pass? And what the project says of itself"
    project = tomllib.loads((ROOT/"pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r"3\.\d+$", c)]
    source, licence = project["urls"]["Repository"], project["license"].partition(" ")[0]
    python, code = "%20%7C%20".join(named), licence.replace("-", "--")
    fixed, colab = "https://img.shields.io/badge", "https://colab.research.google.com"
    flow, notebook = f"{source}/actions/workflows/test.yaml", f"{source}/blob/main/nbs/00_rope.ipynb"
    opened = notebook.replace("https://github.com", f"{colab}/github")
    return " ".join((
        badge("tests", f"{flow}/badge.svg?branch=main", flow),
        badge("Python", f"{fixed}/python-{python}-blue", f"{source}#two-commands"),
        badge("licence", f"{fixed}/code-{code}-blue", f"{source}/blob/main/LICENSE"),
        badge("open in Colab", f"{colab}/assets/colab-badge.svg", opened)))


def render():
    "The text of the README, and the pictures that it shows: file → content"
    parts, pictures = [], {}
    for cell in cells_of(ROOT/"nbs"/"index.ipynb"):
        if len(parts) == 1: parts.append(badges())          # below the title
        if cell["cell_type"] == "markdown": parts.append(text(cell))
        if cell["cell_type"] != "code" or "#| hide" in text(cell): continue
        for data in (output.get("data", {}) for output in cell["outputs"]):
            if "text/markdown" in data: parts.append("".join(data["text/markdown"]))
            if "image/png" in data:
                pictures[FIGURE] = base64.b64decode(data["image/png"])
                parts.append(figure(cell))
            for drawing in re.findall("(?s)<svg .*</svg>", "".join(data.get("text/html", ""))):
                pictures[MAP] = f"{drawing}\n".encode()
                parts.append(linked(drawing))
    return "\n\n".join(parts) + "\n", pictures


def main():
    "Write the README and its pictures"
    said, pictures = render()
    (ROOT/"README.md").write_text(said, encoding="utf-8")
    for name, content in pictures.items():
        (ROOT/name).parent.mkdir(exist_ok=True)
        (ROOT/name).write_bytes(content)


if __name__ == "__main__": main()
