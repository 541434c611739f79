"""Render nbs/index.ipynb as README.md: `python tests/readme.py`."""
import base64
import re

from measures import ROOT, cells_of, text

FIGURE = "nbs/images/readme.png"
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


def render():
    "The text of the README, and the picture that it shows"
    parts, picture = [], None
    for cell in cells_of(ROOT/"nbs"/"index.ipynb"):
        if cell["cell_type"] == "markdown": parts.append(text(cell))
        if cell["cell_type"] != "code" or "#| hide" in text(cell): continue
        for data in (output.get("data", {}) for output in cell["outputs"]):
            if "text/markdown" in data: parts.append("".join(data["text/markdown"]))
            if "image/png" in data:
                picture = base64.b64decode(data["image/png"])
                parts.append(figure(cell))
    return "\n\n".join(parts) + "\n", picture


def main():
    "Write the README and its picture"
    said, picture = render()
    (ROOT/"README.md").write_text(said, encoding="utf-8")
    (ROOT/FIGURE).parent.mkdir(exist_ok=True)
    (ROOT/FIGURE).write_bytes(picture)


if __name__ == "__main__": main()
