"""Render nbs/index.ipynb as README.md: `python tests/readme.py`."""
import base64
import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FIGURE = "nbs/images/readme.png"
ADDRESS = "https://raw.githubusercontent.com/tinyrope/tinyrope/main/"       # the README is shown where the picture is not, too


def option(cell, name):
    "Return an option of a cell, or None"
    found = re.search(rf'^#\| {name}: "(.*)"$', "".join(cell["source"]), re.MULTILINE)
    return found and found[1]


def render():
    "Return the text of the README and the picture it shows"
    notebook, parts, picture = json.loads((ROOT/"nbs"/"index.ipynb").read_text(encoding="utf-8")), [], None
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown": parts.append("".join(cell["source"]))
        elif "#| hide" not in "".join(cell["source"]):
            for output in cell["outputs"]:
                data = output.get("data", {})
                if "text/markdown" in data: parts.append("".join(data["text/markdown"]))
                if "image/png" in data:
                    picture = base64.b64decode(data["image/png"])
                    caption = option(cell, "fig-cap")
                    alternative = option(cell, "fig-alt") or caption
                    parts.append(f"![{alternative}]({ADDRESS}{FIGURE})\n\n*{caption}*")
    return "\n\n".join(parts) + "\n", picture


if __name__ == "__main__":
    text, picture = render()
    (ROOT/"README.md").write_text(text, encoding="utf-8")
    (ROOT/FIGURE).parent.mkdir(exist_ok=True)
    (ROOT/FIGURE).write_bytes(picture)
