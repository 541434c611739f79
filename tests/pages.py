"""The site as it was built: each link inside it leads somewhere, pictures say what they show.

python tests/pages.py           after nbdev-docs
"""
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from links import MADE
from measures import ROOT, cells_of, text

OUTSIDE = re.compile(r"[a-z]+:|//")


class Page(HTMLParser):
    "What is checked of a page: anchors, links, explanations, and pictures without a text"
    def __init__(self, html):
        super().__init__()
        self.ids, self.links, self.explained, self.mute, self.lost = set(), [], [], [], []
        self.twice = set()
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        name = given.get("id")
        if name in self.ids and name and tag not in ("link", "script"): self.twice.add(name)
        self.ids.add(name)
        if tag == "a": self.links.append(given.get("href") or "")
        if tag == "img" and given.get("alt") is None: self.mute.append(given.get("src"))
        if given.get("class") == "term": self.explained.append(given["aria-description"])

    def handle_data(self, data):
        self.lost += re.findall(r"\?@\S+", data)    # references that Quarto did not find


def rows(name):
    "The rows of the tables in the prose of a notebook: lists of cells"
    prose = [text(c) for c in cells_of(ROOT/"nbs"/name) if c["cell_type"] == "markdown"]
    lines = re.findall(r"(?m)^\| (.*) \|$", "\n".join(prose))
    return [line.split(" | ") for line in lines]


def glossary():
    "What a page may say of a term: meaning → words of the glossary, or `names` of the code"
    words = {row[1]: row[0].split(", ") for row in rows("glossary.ipynb") if len(row) == 3}
    names = {re.sub("[`$]", "", row[1]): re.findall(r"`\w{3,}`", row[0])
             for row in rows("00_rope.ipynb") if len(row) > 1}
    return {k: v for k, v in (names | words).items() if v and k != "meaning"}


def leads_nowhere(link, name, pages, folder):
    "Does a link of the page `name` lead to no file, or to no anchor of a page?"
    place, _, anchor = unquote(link).partition("#")
    target = (Path(name).parent/place.split("?")[0]).as_posix() if place else name
    target = "index.html" if target in (".", "./") else target
    if target not in pages: return not (folder/target).exists()
    return bool(anchor) and anchor not in pages[target].ids


def faults(folder):
    "What is wrong with the pages in a folder, a line each"
    paths = [path for path in sorted(folder.rglob("*.html")) if "site_libs" not in path.parts]
    pages = {path.relative_to(folder).as_posix(): Page(path.read_text(encoding="utf-8"))
             for path in paths if path.name not in MADE}
    meanings = glossary()
    for name, page in pages.items():
        inside = {link for link in page.links if link and not OUTSIDE.match(link)}
        yield from (f"{name}: no such place: {link}" for link in sorted(inside)
                    if leads_nowhere(link, name, pages, folder))
        yield from (f"{name}: two elements are called {id}" for id in sorted(page.twice))
        yield from (f"{name}: a picture without a text: {src}" for src in page.mute)
        yield from (f"{name}: no such reference: {mark}" for mark in page.lost)
        yield from (f"{name}: not in the glossary: {said}" for said in page.explained
                    if said not in meanings)
        twice = len(page.explained) > len(set(page.explained))
        if twice: yield f"{name}: a term is explained twice"
    if not any(page.explained for page in pages.values()): yield "no page explains a term"


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT/"_docs"))
    sys.exit("\n".join(found) or 0)
