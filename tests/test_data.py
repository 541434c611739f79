"""Corpora and stores where a process, a limit of the machine or a file of the package is needed to see them."""
import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from tinyrope.corpora import ASSETS
from tinyrope.prepare import cache_folder

START = """
import lzma, os, resource, sys
from pathlib import Path
from tinyrope.corpora import load_stories, read_stories
from tinyrope.data import train_bpe
from tinyrope.store import build_store, write_whole
def refused(f):
    try: f()
    except Exception as e: return f"{type(e).__name__}: {e}"
    raise SystemExit("nothing was refused")
"""
PEAK = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == 'darwin' else 1024))"
unix = pytest.mark.skipif(os.name == "nt", reason="limits of processes are set with Unix's resource module")


def python(code, folder, **variables):
    "Run a program in a folder; returns what it printed"
    done = subprocess.run([sys.executable, "-c", START + code], cwd=folder, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", **variables})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@unix
def test_long_stories_are_tokenized_in_bounded_memory(tmp_path):
    code = """
story = " ".join(load_stories("train"))[:12_000_000]
bpe = train_bpe(load_stories("valid")[:500], 1000)
%s
print(len(build_store(texts(story), bpe, "store")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    one, many = "texts = lambda s: [s]", "texts = lambda s: [s[i:i+400_000] for i in range(0, len(s), 400_000)]"
    for number, texts in enumerate((one, many)):
        (tmp_path/str(number)).mkdir()
        tokens, megabytes = map(int, python(code % texts, tmp_path/str(number))[-1].split())
        assert tokens > 3_000_000 and megabytes < 1500, megabytes


@unix
def test_a_line_that_unpacks_to_more_than_the_limit_is_refused(tmp_path):
    code = """
for name, start in (("a.txt.xz", b""), ("a.jsonl.xz", b'{"text": "')):
    with lzma.open(name, "wb", preset=0) as f:
        f.write(start)
        for _ in range(300): f.write(b"a"*2**20)
    assert Path(name).stat().st_size < 2**20
    print(refused(lambda: list(read_stories(name))))
""" + PEAK
    *told, megabytes = python(code, tmp_path)
    assert all("holds a text of more than 134,217,728 characters" in t and f"ValueError: {name}" in t for t, name in zip(told, ("a.txt.xz", "a.jsonl.xz")))
    assert len(told) == 2 and int(megabytes) < 1500


@unix
def test_a_full_disk_is_told_with_the_file(tmp_path):
    code = """
bpe, stories = train_bpe(load_stories("valid")[:500], 1000), load_stories("valid")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))      # as a full disk, without one
print(refused(lambda: write_whole(Path("large.json"), "x"*200_000)))
print(refused(lambda: build_store(stories, bpe, "store")))
print(sorted(os.listdir()))
"""
    file, store, left = python(code, tmp_path)
    assert file.startswith("OSError") and "large.json" in file
    assert store.startswith("OSError") and "tokens-00000.bin" in store
    assert left == "['.store.lock']"


def test_a_vocabulary_too_large_is_refused_before_the_library_aborts(tmp_path):
    assert "at most 1,048,576" in python("print(refused(lambda: train_bpe(['a'], 10**12)))", tmp_path)[0]


def test_a_hub_out_of_reach_is_told_from_a_mistake(tmp_path):
    code = """
print(refused(lambda: list(read_stories("tinystories"))))
print(refused(lambda: list(read_stories("hub:" + os.getcwd()))))
"""
    away, empty = python(code, tmp_path, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path/"hf"))
    assert away.startswith("ConnectionError") and "Without a network use the embedded corpus" in away
    assert not empty.startswith("ConnectionError")


def test_the_cache_folder_needs_no_home_if_it_is_named(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory.")))
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("TINYROPE_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    if sys.platform == "linux":
        monkeypatch.delenv("TINYROPE_CACHE")
        with pytest.raises(ValueError, match="set TINYROPE_CACHE"): cache_folder()


def test_the_sources_name_every_asset_and_no_other():
    with open(str(ASSETS/"tinystories-sources.tsv"), encoding="utf-8", newline="") as f: rows = list(csv.DictReader(f, delimiter="\t"))
    named = {name for row in rows for name in row["assets"].split(", ") if name != "none"}
    shipped = {p.name for p in Path(str(ASSETS)).iterdir() if p.name.startswith("tinystories-") and p.suffix != ".tsv"}
    assert named == shipped and all("train" in row["assets"] for row in rows if "USED train" in row["note"])


def test_a_regular_expression_that_backtracks_without_end_is_refused(tmp_path):
    code = r"""
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tinyrope.data import load_tokenizer
bpe = Tokenizer.from_str(train_bpe(load_stories("valid")[:100], 300).to_str())
split = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
bpe.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
bpe.save("slow.json")
print(refused(lambda: load_tokenizer("slow.json")))
print(refused(lambda: build_store(["a"*100 + "!"], bpe, "store")))
"""
    loaded, built = python(code, tmp_path)
    assert loaded.startswith("ValueError: the tokenizer slow.json cannot cut a text of")
    assert built.startswith("ValueError: the tokenizer fails on a story")
