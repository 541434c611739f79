"""The installed commands, as a person would use them."""
import io
import json
import math
import subprocess
import sys

import pytest
from conftest import HUNG, ROOT, finish, needs_unix, program, python, rows
from tinyrope import commands
from tinyrope.corpora import load_stories
from tinyrope.data import load_tokenizer
from tinyrope.prepare import prepare
from tinyrope.store import EOT
from tinyrope.train import configure

CPU = ("--device", "cpu")
SMOKE = ("tinyrope-train", "--preset", "smoke", *CPU)
PEERS = ROOT/"benchmarks"/"peers"


@pytest.fixture
def few(tmp_path):
    "Write a few validation stories into few.txt"
    def write(count):
        stories = load_stories("valid")[:count]
        (tmp_path/"few.txt").write_text(EOT.join(stories), encoding="utf-8")
        return stories
    return write


@pytest.fixture
def score(run):
    "Evaluate a model on few.txt; returns what is printed as JSON"
    def call(*words):
        return json.loads(run("tinyrope-evaluate", *words, "--text", "few.txt", "--json", *CPU).stdout)
    return call


# ---- train, generate, evaluate

@pytest.fixture(scope="module")
def trained(tmp_path_factory, environment):
    "A folder with a run in runs/first; and what training printed"
    place = tmp_path_factory.mktemp("trained")
    command = [program(SMOKE[0]), *SMOKE[1:], "--out", "runs/first"]
    return place, finish(command, cwd=place, env=environment).stdout


@pytest.fixture
def beside(trained, environment):
    "Run an installed command where the run of `trained` is"
    def call(name, *words):
        return finish([program(name), *words, *CPU], cwd=trained[0], env=environment)
    return call


def test_training_writes_a_run_and_says_how_good_it_is(trained):
    "The run folder is complete; the terminal shows score, story and folder"
    place, printed = trained
    assert "bits per byte" in printed and "Once upon a time" in printed
    assert "runs/first" in printed.replace("\\", "/")
    wanted = {"config.json", "tokenizer.json", "metrics.jsonl", "samples.jsonl", "curves.png",
              "model.safetensors", "result.json", "best", "last"}
    assert wanted <= {p.name for p in (place/"runs"/"first").iterdir() if p.is_file()}


def test_the_newest_run_tells_the_same_story_for_the_same_seed(beside):
    "It is found without being named"
    words = ("Once upon a time", "--max-new-tokens", "20", "--seed")
    told, again, other = (beside("tinyrope-generate", *words, seed) for seed in (1, 1, 2))
    assert told.stdout.startswith("Once upon a time") and "first" in told.stderr
    assert told.stdout == again.stdout != other.stdout


def test_a_run_is_scored_on_a_text(beside, trained):
    "The score counts the stories and the bytes of the file"
    stories = load_stories("valid")[:5]
    (trained[0]/"few.txt").write_text(EOT.join(stories), encoding="utf-8")
    printed = beside("tinyrope-evaluate", "runs/first", "--text", "few.txt", "--json").stdout
    found = json.loads(printed)
    assert set(found) == {"loss", "perplexity", "bits_per_byte", "bytes_per_token", "stories",
                          "tokens", "bytes"}
    assert found["stories"] == 5
    assert found["bytes"] == sum(len(story.encode()) for story in stories)


def test_a_run_is_scored_on_a_split(beside):
    "The score of the test split is over all of its bytes"
    printed = beside("tinyrope-evaluate", "runs/first", "--split", "test").stdout
    size = sum(len(story.encode()) for story in load_stories("test"))
    assert "bits_per_byte" in printed and f"{size:,}" in printed


# ---- models of others

def test_a_llama2c_model_is_scored(score, few):
    "A llama2.c file with its tokenizer scores between 0.7 and 1.1 bits per byte"
    few(10)
    found = score(PEERS/"stories260K.bin", "--tokenizer", PEERS/"tok512.bin")
    assert .7 < found["bits_per_byte"] < 1.1 and found["stories"] == 10


@pytest.fixture
def untrained_llama(tmp_path):
    "A Hugging Face folder with a model that has learnt nothing; returns its number of tokens"
    transformers = pytest.importorskip("transformers")
    shape = dict(vocab_size=50257, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                 num_attention_heads=2)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=load_tokenizer("gpt2"),
                                                     eos_token=EOT)
    for part in (model, tokenizer): part.save_pretrained(tmp_path/"llama")
    return 50257


def test_a_hugging_face_folder_is_scored(run, few, untrained_llama):
    "A model that has learnt nothing has the loss of even guessing"
    few(3)
    done = run("tinyrope-evaluate", "llama", "--text", "few.txt", "--json", *CPU)
    assert json.loads(done.stdout)["loss"] == pytest.approx(math.log(untrained_llama), abs=.1)
    assert not done.stderr


# ---- the bundled model, a study, help

def test_the_bundled_model_tells_stories(run):
    "Two stories on one prompt are parted by the end-of-text token"
    how = "--n 2 --seed 3 --max-new-tokens 30 --top-k 50 --top-p 0.9".split()
    two = run("tinyrope-generate", "The dragon", "--model", "bundled", *how, *CPU).stdout
    assert two.count("The dragon") >= 2 and EOT in two


def test_the_bundled_model_is_scored(score, few):
    "The model that ships with the package is better than 0.9 bits per byte"
    few(40)
    assert score("bundled")["bits_per_byte"] < .9


def test_a_study_is_trained_measured_and_written(run, tmp_path):
    "The result has a row for each arm and seed, and is printed as a table"
    words = "masking --size smoke --seeds 2 --out found".split()
    printed = run("tinyrope-study", *words, *CPU).stdout
    result = json.loads((tmp_path/"found"/"study-masking-smoke.json").read_text())
    assert "| on |" in printed and result["size"] == "smoke"
    found = {(row["arm"], row["seed"]) for row in result["rows"]}
    assert found == {(arm, seed) for arm in result["arms"] for seed in (0, 1)}


NAMES = ("tinyrope-train", "tinyrope-generate", "tinyrope-evaluate", "tinyrope-study",
         "tinyrope-page", "tinyrope-export")


@pytest.mark.parametrize("command", NAMES)
def test_help_names_what_can_be_given(run, command):
    "--help prints the usage of each command"
    assert "usage: " + command in run(command, "--help").stdout


# ---- mistakes; test_options.py has more of them

MISTAKES = [
    ("tinyrope-train --preset desktop", "unknown preset 'desktop'"),
    ("tinyrope-train --set corpus=missing.txt", "no corpus 'missing.txt'"),
    ("tinyrope-train --set batch_size=1000000", "seq_len or n_layers smaller"),
    ("tinyrope-generate Tom --model nowhere", "no run at nowhere"),
    ("tinyrope-generate Tom\udcff --model bundled", "the prompt is not valid UTF-8"),
    ("tinyrope-generate Tom --model bundled --top-k 99999", "exceeds the vocabulary"),
    ("tinyrope-evaluate bundled --text missing.txt", "no file missing.txt"),
    ("tinyrope-study depth --size huge", "unknown size 'huge'"),
    ("tinyrope-page nowhere", "no run at nowhere"),
    ("tinyrope-export bundled --to ggml", "--to must be one of"),
    ("tinyrope-export bundled --push me --out x", "--push must be OWNER/NAME"),
]


@pytest.mark.parametrize("line, says", MISTAKES, ids=[ascii(line) for line, _ in MISTAKES])
def test_mistakes_end_in_one_sentence(run, tmp_path, line, says):
    "The exit status is 1, the last line of stderr says why, and nothing was written"
    told = run(*line.split(), status=1).stderr
    assert says in told.splitlines()[-1] and "Traceback" not in told
    assert not (tmp_path/"runs").exists()


def test_a_second_run_asks_before_it_overwrites(run):
    "A folder that is taken needs --resume, and the settings it was started with"
    small = (*SMOKE, "--out", "a", "--set", "max_stories=60", "--steps")
    run(*small, "2")
    assert "add --resume" in run(*small, "2", status=1).stderr
    other = ("--set", "dropout=0.1", "--resume")
    assert "other settings" in run(*small, "2", *other, status=1).stderr
    run(*small, "2", "--resume")


FULL = ("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 9 bytes")


@pytest.mark.parametrize("error, says", [
    (RuntimeError(FULL), "memory is full"),
    (MemoryError(), "memory is full"),
    (OverflowError("math range error"), "lower learning rate"),
    (ValueError("two\nlines"), "two lines"),
])
def test_full_memory_and_overflow_have_a_sentence(error, says):
    "Errors of the library and of Python become one line of advice"
    @commands.command_line
    def failing(): raise error
    with pytest.raises(SystemExit) as stopped: failing()
    assert says in stopped.value.code and "\n" not in stopped.value.code


# ---- readers who leave

@pytest.fixture
def piped(tmp_path, environment):
    "Start an installed command whose output can be read while it runs"
    started = []
    def call(name, *words, errors=subprocess.PIPE):
        process = subprocess.Popen([program(name), *words], cwd=tmp_path, env=environment,
                                   stdout=subprocess.PIPE, stderr=errors, text=True)
        started.append(process)
        return process
    yield call
    for process in started: process.kill()


def leave(process):
    "Read no more; returns the exit status, and what was said to nobody"
    process.stdout.close()
    said = process.stderr.read() if process.stderr else ""
    return process.wait(HUNG), said


@pytest.mark.parametrize("errors", [subprocess.PIPE, subprocess.STDOUT], ids=["stdout", "both"])
def test_training_goes_on_without_its_reader(piped, tmp_path, errors):
    "A run whose output nobody reads any more comes to its end"
    how = "--steps 30 --set eval_every=3 --set eval_blocks=4 --set max_stories=60 --out a"
    process = piped(*SMOKE, *how.split(), errors=errors)
    assert process.stdout.readline().startswith("text ")
    status, said = leave(process)
    assert status == 0 and "Traceback" not in said and "BrokenPipe" not in said
    assert rows(tmp_path/"a")[-1]["step"] == 30
    assert (tmp_path/"a"/"result.json").exists()


def test_other_commands_end_with_their_reader(piped):
    "A command whose only purpose is its output ends, without a traceback"
    how = "Tom --model bundled --n 1000 --max-new-tokens 20".split()
    process = piped("tinyrope-generate", *how, *CPU)
    assert process.stdout.read(5)
    status, said = leave(process)
    assert status == 1 and "Traceback" not in said and "BrokenPipe" not in said


# ---- memory, imports, progress

MEMORY = """
import psutil, resource, torch
from tinyrope.memory import memory_needed
from tinyrope.prepare import prepare
from tinyrope.train import configure, make_trainer
cpu = torch.device("cpu")
c, config = configure("smoke", compile="off", {changes})
store = prepare(config, c.vocab_size)[1]
before = psutil.Process().memory_info().rss
trainer = make_trainer(c, config, store, cpu)
for _ in range(2): trainer.step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 - before)
print(sum(memory_needed(c, config, cpu).values()))
"""


@needs_unix
@pytest.mark.parametrize("changes", ["dim=256, n_layers=4, batch_size=48, seq_len=128",
                                     "dim=512, n_layers=6, batch_size=2"])
def test_memory_is_foreseen_within_a_factor_of_two(environment, changes):
    "The tokenizer is trained before, and not by the process whose peak is looked up"
    model, how = configure("smoke")
    prepare(how, model.vocab_size)
    took, foreseen = map(float, python(MEMORY.format(changes=changes), env=environment).split())
    assert .5 < foreseen/took < 2, (took, foreseen)


LOADED = "import sys; print(sorted({names!r} & sys.modules.keys()))"


def test_help_does_not_wait_for_torch(environment):
    "Showing the help of a command imports none of the large libraries"
    said = """
from fastcore.script import anno_parser
from tinyrope.commands import generate_command
anno_parser(generate_command).format_help()
"""
    loaded = LOADED.format(names={"torch", "numpy", "tokenizers"})
    assert python(said + loaded, env=environment) == "[]"


def test_importing_the_model_costs_torch_and_nothing_more(environment):
    "What training needs later is imported when it is needed"
    names = {"matplotlib", "wandb", "datasets", "transformers", "tokenizers", "pandas"}
    assert python("import tinyrope.train; " + LOADED.format(names=names), env=environment) == "[]"


class Terminal(io.StringIO):
    "A terminal that keeps what it shows"
    def isatty(self): return True


def test_scoring_shows_a_bar_on_a_terminal(monkeypatch):
    "Scoring draws a progress bar if stderr is a terminal"
    from tinyrope import metrics, progress
    from tinyrope.checkpoint import Run
    from tqdm import tqdm
    def at_once(*args, **named): return tqdm(*args, **named | dict(delay=0))
    terminal, run = Terminal(), Run("bundled")
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "tqdm", at_once)
    metrics.evaluate_stories(run.model, run.tokenizer, load_stories("valid")[:3])
    assert "scoring" in terminal.getvalue() and "100%" in terminal.getvalue()
