"""The links of the README and the notebooks; the tests check all that needs no network.

python tests/links.py       ask for each address, too
"""
import re
import sys
import urllib.error
import urllib.request

from measures import ROOT, cells_of, notebooks, text

SITE = "https://tinyrope.github.io/tinyrope/"
FILES = (r"https://(?:github|raw\.githubusercontent)\.com/tinyrope/tinyrope/"
         r"(?:(?:blob|tree)/)?main/")
TEXTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
GONE = (404, 410)               # others may only refuse to answer a script
MADE = ("play.html",)           # when the site is built, and not before


def markdown(path):
    "What a page says: cells and outputs of a notebook, or the text of a file"
    if path.suffix == ".md": return path.read_text(encoding="utf-8")
    texts = []
    for cell in cells_of(path):
        if cell["cell_type"] == "markdown": texts.append(text(cell))
        shown = [output.get("data", {}) for output in cell.get("outputs", [])]
        texts += ["".join(data["text/markdown"]) for data in shown if "text/markdown" in data]
    return "\n\n".join(texts)


def pages():
    "Map the name of each page of the site to its notebook: 04_train.ipynb becomes train.html"
    return {re.sub(r"^\d+[a-z]?_", "", path.stem) + ".html": path for path in notebooks()}


def anchor(title):
    "The anchor that Pandoc gives to a heading"
    words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title).lower().strip()
    joined = re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", words))
    return re.sub(r"^[^a-z]+", "", joined)


def anchors(path):
    "The anchors of all headings of a page"
    said = re.sub(r"```.*?```", "", markdown(path), flags=re.DOTALL)
    return {anchor(title) for title in re.findall(r"^#+ (.*)", said, re.MULTILINE)}


def links():
    "All links, each once, as pairs of page and target"
    paths = [*(ROOT/name for name in TEXTS), *pages().values()]
    found = [(path, target) for path in paths
             for target in re.findall(r"\]\(([^)\s]+)\)", markdown(path))]
    return list(dict.fromkeys(found))


def leads_nowhere(page, target):
    "Does a link into the site or the repository find nothing? Addresses of others find all"
    if re.match(FILES, target): return not (ROOT/re.sub(FILES, "", target)).exists()
    place, _, name = target.removeprefix(SITE).partition("#")
    if "://" in place: return False
    if place in MADE: return bool(name)
    if place.endswith(".html") and place not in pages(): return not (ROOT/"nbs"/place).exists()
    other = pages().get(place, page.parent/place) if place else page
    return not other.is_file() or bool(name) and name not in anchors(other)


def answer(address):
    "The status of an address, or a text that says why there is none"
    headers = {"User-Agent": "Mozilla/5.0 (links of tinyrope)"}
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply: return reply.status
    except urllib.error.HTTPError as e: return e.code
    except OSError as e: return str(e)


def main():
    "Ask for each address; returns the links that are broken"
    broken = [f"{page.name}: {target}" for page, target in links() if leads_nowhere(page, target)]
    for address in sorted({target for _, target in links() if "://" in target}):
        status = answer(address)
        print(status, address, flush=True)
        if status in GONE or isinstance(status, str): broken.append(f"{address}: {status}")
    return broken


if __name__ == "__main__":
    broken = main()
    sys.exit("\n".join(("", "broken:", *broken)) if broken else 0)
