"""Any text trains: what users see, and that resuming it is exact."""
import hashlib
import json
import re
from itertools import count
from types import SimpleNamespace

import pytest
from conftest import finish, log, program, same_weights
from tinyrope.checkpoint import Run
from tinyrope.corpora import EMBEDDED, corpus_id, load_stories
from tinyrope.metrics import evaluate_stories
from tinyrope.prepare import _hash_of, _source
from tinyrope.run_folder import config_hash
from tinyrope.train import TrainConfig, train

SMALL = dict(device="cpu", quiet=True, steps=30, eval_every=10, eval_blocks=4)
RUSSIAN = ("Утром старый мельник нашёл золотой ключ и пошёл домой.",
           "Зимой рыжий кот потерял тёплый хлеб, но никому не сказал.",
           "Вечером бабушка построила синюю лодку, а потом уснула.")


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    "A plain text of 20 kB without marks"
    path = tmp_path_factory.mktemp("text")/"book.txt"
    path.write_text("\n\n".join(load_stories("test"))[:20_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def straight(book, tmp_path_factory):
    "A run on it that nobody disturbed"
    folder = tmp_path_factory.mktemp("straight")/"run"
    train("smoke", out=folder, corpus=book, **SMALL)
    return folder


class Enough(Exception): pass


def stop_at_20(row):
    "A callback that ends a run"
    if row["step"] == 20: raise Enough


def test_a_callback_ends_a_run_which_is_resumed_to_the_bit(book, straight, tmp_path):
    "The checkpoint of the step is kept, the error says so, and all goes on as if nothing had been"
    with pytest.raises(Enough) as e:
        train("smoke", out=tmp_path/"run", corpus=book, callback=stop_at_20, **SMALL)
    assert "checkpoint is kept" in e.value.__notes__[0]
    assert (tmp_path/"run"/"last").read_text() == "step-0000020"
    seen = []
    train("smoke", out=tmp_path/"run", corpus=book, resume=True, callback=seen.append, **SMALL)
    assert [row["step"] for row in seen] == [30]
    assert log(tmp_path/"run") == log(straight)
    assert same_weights(tmp_path/"run", straight)


def test_quiet_prints_nothing(book, tmp_path, capfd):
    "Neither at the start, nor at the end, nor when it is resumed"
    for _ in range(2): train("smoke", out=tmp_path/"run", corpus=book, resume=True, **SMALL)
    assert capfd.readouterr() == ("", "")


def test_the_end_of_a_run_is_in_its_result(straight):
    "Bits per byte beside xz's and those of a table of n-grams, on the same bytes"
    result = Run(straight).result
    assert result["ngram_bits_per_byte"] < result["xz_bits_per_byte"] < result["bits_per_byte"]
    assert 1 <= result["ngram_order"] <= 4 and 2000 < result["bytes"] < 3000


def test_what_a_new_user_sees(book, tmp_path, environment):
    "Header, rows, the comparison and warnings, in this order"
    words = f"--preset smoke --device cpu --steps 10 --corpus {book} --out run".split()
    told = finish([program("tinyrope-train"), *words], cwd=tmp_path, env=environment).stdout
    order = ("text     ", "model    ", "the text is too small for 512", "run      10 steps",
             "step     10", "bits per byte of the validation texts", "-grams of",
             "xz, which", "this model on training texts", "warning: ", "stories  tinyrope-generate")
    places = [told.index(part) for part in order]
    assert places == sorted(places)


def test_a_run_on_russian_begins_its_samples_in_russian(tmp_path):
    "The prompts are beginnings of its own texts"
    path = tmp_path/"russian.txt"
    path.write_text("\n\n".join(f"{i} {RUSSIAN[i % 3]}" for i in range(200)), encoding="utf-8")
    train("smoke", out=tmp_path/"run", corpus=path, **SMALL)
    told = (tmp_path/"run"/"samples.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = {json.loads(line)["prompt"] for line in told}
    assert all(re.search("[а-я]", prompt) for prompt in prompts)


def test_the_default_corpus_keeps_its_stores_of_earlier_versions():
    "Their names depend on nothing new"
    parts = ("stores", corpus_id(EMBEDDED), False, None)
    config = TrainConfig()
    name = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    assert _hash_of(_source(config), config) == name


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    "Its config.json knows none of the settings of one's own text"
    how = dict(device="cpu", quiet=True, eval_every=10, max_stories=60)
    with pytest.raises(Enough): train("smoke", out=tmp_path/"run", callback=stop_at_20, **how)
    path = tmp_path/"run"/"config.json"
    about = json.loads(path.read_text())
    for name in ("separator", "text_field", "valid", "prompt"): del about["train"][name]
    path.write_text(json.dumps(about | dict(sha256=config_hash(about))))
    assert train("smoke", out=tmp_path/"run", resume=True, **how).metrics[-1]["step"] == 40


def test_a_text_is_scored_as_it_is_read_for_training(straight, tmp_path, environment):
    "A table and a plain file of the same stories have the same scores"
    few = load_stories("valid")[:5]
    rows = "\n".join(json.dumps(dict(story=s)) for s in few)
    (tmp_path/"a.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path/"a.txt").write_text("<|endoftext|>".join(few), encoding="utf-8")
    def score(*words):
        command = [program("tinyrope-evaluate"), straight, *words, "--json", "--device", "cpu"]
        return json.loads(finish(command, cwd=tmp_path, env=environment).stdout)
    table = score("--text", "a.jsonl", "--text-field", "story")
    assert table == score("--text", "a.txt") and table["stories"] == 5


def test_scoring_tells_how_far_it_is(monkeypatch, capsys):
    "Where no bar can be drawn a line every ten seconds, here of a clock that is fast; quiet, none"
    ticks = count(0, 11)
    monkeypatch.setattr("tinyrope.progress.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    run, few = Run("bundled"), load_stories("valid")[:40]
    evaluate_stories(run.model, run.tokenizer, few)
    lines = capsys.readouterr().err.splitlines()
    said = re.compile(r"scoring: \d+ of \d+ windows, (?:a second|\d+ seconds) left")
    assert lines and all(map(said.fullmatch, lines))
    evaluate_stories(run.model, run.tokenizer, few, quiet=True)
    assert capsys.readouterr().err == ""
