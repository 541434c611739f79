"""Corpora and stores where a process, a limit of the machine or a file of the package is needed."""
import csv
import os
import sys
from pathlib import Path

import pytest
from conftest import ROOT, needs_unix, python
from tinyrope.corpora import ASSETS
from tinyrope.prepare import cache_folder

START = """
import lzma, os, sys
from pathlib import Path
from tinyrope.corpora import load_stories, read_stories
from tinyrope.data import train_bpe
from tinyrope.store import build_store, write_whole

def refused(f):
    try: f()
    except Exception as e: return f"{type(e).__name__}: {e}"
    raise SystemExit("nothing was refused")

def megabytes():
    import resource
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
"""


@pytest.fixture
def printed(tmp_path, environment):
    "Run lines of Python in an empty folder; returns the lines that they print"
    def call(code, **variables):
        own = {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        variables = {**environment, **own, **variables}
        return python(START + code, cwd=tmp_path, env=variables).splitlines()
    return call


@needs_unix
@pytest.mark.parametrize("length", [12_000_000, 400_000])
def test_long_stories_are_tokenized_in_bounded_memory(printed, length):
    "As one text, or as thirty"
    tokens, peak = printed(f"""
story = " ".join(load_stories("train"))[:12_000_000]
texts = [story[i:i+{length}] for i in range(0, len(story), {length})]
bpe = train_bpe(load_stories("valid")[:500], 1000)
print(len(build_store(texts, bpe, "store")))
print(megabytes())
""")
    assert int(tokens) > 3_000_000 and int(peak) < 1500


@needs_unix
@pytest.mark.parametrize("name, start", [("a.txt.xz", b""), ("a.jsonl.xz", b'{"text": "')])
def test_a_line_that_unpacks_to_more_than_the_limit_is_refused(printed, name, start):
    "300 MB in a file of less than one"
    told, peak = printed(f"""
with lzma.open("{name}", "wb", preset=0) as f:
    f.write({start})
    for _ in range(300): f.write(b"a"*2**20)
assert Path("{name}").stat().st_size < 2**20
print(refused(lambda: list(read_stories("{name}", separator="<|endoftext|>"))))
print(megabytes())
""")
    assert f"ValueError: {name}" in told
    assert "holds a text of more than 134,217,728 characters" in told
    assert int(peak) < 1500


@needs_unix
def test_a_line_of_any_length_is_cut_into_chunks(printed):
    "300 MB without a line break, in a file of less than one, are read in little memory"
    longest, size, peak = printed("""
with lzma.open("a.txt.xz", "wb", preset=0) as f:
    for _ in range(300): f.write(b"a"*2**20)
lengths = [len(text) for text in read_stories("a.txt.xz")]
print(max(lengths))
print(sum(lengths))
print(megabytes())
""")
    assert int(longest) == 2000 and int(size) == 300*2**20
    assert int(peak) < 1000


@needs_unix
def test_a_full_disk_is_told_with_the_file(printed):
    "The error names the file; nothing half-written is left"
    file, store, left = printed("""
import resource
bpe, stories = train_bpe(load_stories("valid")[:500], 1000), load_stories("valid")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))    # as a full disk
print(refused(lambda: write_whole(Path("large.json"), "x"*200_000)))
print(refused(lambda: build_store(stories, bpe, "store")))
print(sorted(os.listdir()))
""")
    assert file.startswith("OSError") and "large.json" in file
    assert store.startswith("OSError") and "tokens-00000.bin" in store
    assert left == "['.store.lock']"


def test_a_vocabulary_too_large_is_refused_before_the_library_aborts(printed):
    "The error is one of Python, not the end of the process"
    told, = printed("print(refused(lambda: train_bpe(['a'], 10**12)))")
    assert "at most 1,048,576" in told


def test_a_hub_out_of_reach_is_told_from_a_mistake(printed, tmp_path):
    "A folder without stories is a mistake, and needs no network"
    away, empty = printed("""
print(refused(lambda: list(read_stories("tinystories"))))
print(refused(lambda: list(read_stories("hub:" + os.getcwd()))))
""", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path/"hf"))
    assert away.startswith("ConnectionError")
    assert "Without a network use the embedded corpus" in away
    assert not empty.startswith("ConnectionError")


@pytest.fixture
def homeless(monkeypatch):
    "A user without a home folder"
    def no_home(): raise RuntimeError("Could not determine home directory.")
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_the_cache_folder_needs_no_home_if_it_is_named(homeless, monkeypatch):
    "TINYROPE_CACHE is enough"
    monkeypatch.setenv("TINYROPE_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know a home by other ways")
def test_without_a_home_the_cache_folder_has_to_be_named(homeless, monkeypatch):
    "The error says which variable to set"
    monkeypatch.delenv("TINYROPE_CACHE")
    with pytest.raises(ValueError, match="set TINYROPE_CACHE"): cache_folder()


def test_the_sources_name_every_asset_and_no_other():
    "What is noted as used in training stands in the training stories"
    with open(str(ASSETS/"tinystories-sources.tsv"), encoding="utf-8", newline="") as f:
        table = list(csv.DictReader(f, delimiter="\t"))
    named = {name for row in table for name in row["assets"].split(", ") if name != "none"}
    shipped = {path.name for path in Path(str(ASSETS)).glob("tinystories-*")}
    assert named == shipped - {"tinystories-sources.tsv"}
    used = [row["assets"] for row in table if "USED train" in row["note"]]
    assert used and all("train" in assets for assets in used)


def test_a_regular_expression_that_backtracks_without_end_is_refused(printed):
    "When a tokenizer is loaded, and when a story is tokenized"
    loaded, built = printed(r"""
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tinyrope.data import load_tokenizer
bpe = Tokenizer.from_str(train_bpe(load_stories("valid")[:100], 300).to_str())
split = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
bpe.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
bpe.save("slow.json")
print(refused(lambda: load_tokenizer("slow.json")))
print(refused(lambda: build_store(["a"*100 + "!"], bpe, "store")))
""")
    assert loaded.startswith("ValueError: the tokenizer slow.json cannot cut a text of")
    assert built.startswith("ValueError: the tokenizer fails on a story")
