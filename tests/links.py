"""The links of the README and the notebooks: `python tests/links.py` asks for each address; the tests check all that needs no network."""
import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
SITE, FILES = "https://tinyrope.github.io/tinyrope/", r"https://(?:github|raw\.githubusercontent)\.com/tinyrope/tinyrope/(?:(?:blob|tree)/)?main/"
TEXTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
GONE = (404, 410)               # others may only refuse to answer a script


def markdown(path):
    "Return what a page says: cells and outputs of a notebook, or the text of a file"
    if path.suffix == ".md": return path.read_text(encoding="utf-8")
    texts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "markdown": texts.append("".join(cell["source"]))
        texts += ["".join(o["data"]["text/markdown"]) for o in cell.get("outputs", []) if "text/markdown" in o.get("data", {})]
    return "\n\n".join(texts)


def pages():
    "Map the name of each page of the site to its notebook: 04_train.ipynb becomes train.html"
    return {re.sub(r"^\d+[a-z]?_", "", p.stem) + ".html": p for p in (ROOT/"nbs").glob("*.ipynb")}


def anchors(path):
    "Return the anchors that Pandoc gives to the headings of a page"
    text = re.sub(r"```.*?```", "", markdown(path), flags=re.DOTALL)
    titles = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", t).lower() for t in re.findall(r"^#+ (.*)", text, re.MULTILINE)]
    return {re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", t.strip()))) for t in titles}


def links():
    "List all links, as pairs of page and target"
    found = [(path, target) for path in (*(ROOT/name for name in TEXTS), *pages().values())
             for target in re.findall(r"\]\(([^)\s]+)\)", markdown(path))]
    return list(dict.fromkeys(found))


def leads_nowhere(page, target):
    "Say whether a link into the site or the repository finds nothing; addresses of others find all"
    if re.match(FILES, target): return not (ROOT/re.sub(FILES, "", target)).exists()
    place, _, anchor = target.removeprefix(SITE).partition("#")
    if "://" in place: return False
    if place.endswith(".html") and place not in pages(): return not (ROOT/"nbs"/place).exists()
    other = pages().get(place, page.parent/place) if place else page
    return not other.is_file() or bool(anchor) and anchor not in anchors(other)


def answer(address):
    "Return the status of an address, or why there is none"
    request = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (links of tinyrope)"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply: return reply.status
    except urllib.error.HTTPError as e: return e.code
    except OSError as e: return str(e)


if __name__ == "__main__":
    failed = [f"{page.name}: {target}" for page, target in links() if leads_nowhere(page, target)]
    for address in sorted({target for _, target in links() if "://" in target}):
        status = answer(address)
        print(status, address, flush=True)
        if status in GONE or isinstance(status, str): failed.append(f"{address}: {status}")
    sys.exit("\n".join(("", "broken:", *failed)) if failed else 0)
