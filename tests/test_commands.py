"""The installed commands, as a person would use them."""
import inspect
import io
import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import fields
from typing import Literal, get_args, get_origin

import pytest
from annotated_types import Interval
from fastcore.script import parse_cli

from conftest import ROOT
from tinyrope import commands
from tinyrope.corpora import load_stories
from tinyrope.data import load_tokenizer
from tinyrope.generation import Sampling
from tinyrope.model import ModelConfig
from tinyrope.settings import Text
from tinyrope.store import EOT
from tinyrope.train import TrainConfig

CPU = ("--device", "cpu")
SMOKE = ("tinyrope-train", "--preset", "smoke", *CPU)
PEER, TOK512 = ROOT/"benchmarks"/"peers"/"stories260K.bin", ROOT/"benchmarks"/"peers"/"tok512.bin"


def test_train_then_generate_then_evaluate(run, tmp_path):
    printed = run(*SMOKE, "--out", "runs/first").stdout
    assert "bits per byte" in printed and "Once upon a time" in printed and "runs/first" in printed.replace("\\", "/")
    folder = tmp_path/"runs"/"first"
    for name in ("config.json", "tokenizer.json", "metrics.jsonl", "samples.jsonl", "curves.png", "model.safetensors", "result.json", "best", "last"):
        assert (folder/name).is_file(), name

    told = run("tinyrope-generate", "Once upon a time", "--max-new-tokens", "20", "--seed", "1", *CPU)
    assert told.stdout.startswith("Once upon a time") and "first" in told.stderr      # the newest run, without naming it
    again = run("tinyrope-generate", "Once upon a time", "--max-new-tokens", "20", "--seed", "1", *CPU)
    assert told.stdout == again.stdout

    (tmp_path/"few.txt").write_text(EOT.join(load_stories("valid")[:5]), encoding="utf-8")
    score = json.loads(run("tinyrope-evaluate", "runs/first", "--text", "few.txt", "--json", *CPU).stdout)
    assert set(score) == {"loss", "perplexity", "bits_per_byte", "bytes_per_token", "stories", "tokens", "bytes"}
    assert score["stories"] == 5 and score["bytes"] == sum(len(s.encode()) for s in load_stories("valid")[:5])
    printed = run("tinyrope-evaluate", "runs/first", "--split", "test", *CPU).stdout
    assert "bits_per_byte" in printed and f"{sum(len(s.encode()) for s in load_stories('test')):,}" in printed


def test_a_llama2c_model_is_scored(run, tmp_path):
    (tmp_path/"few.txt").write_text(EOT.join(load_stories("valid")[:10]), encoding="utf-8")
    score = json.loads(run("tinyrope-evaluate", PEER, "--tokenizer", TOK512, "--text", "few.txt", "--json", *CPU).stdout)
    assert .7 < score["bits_per_byte"] < 1.1 and score["stories"] == 10


def test_a_hugging_face_folder_is_scored(run, tmp_path):
    transformers = pytest.importorskip("transformers")
    shape = dict(vocab_size=50257, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).save_pretrained(tmp_path/"llama")
    transformers.PreTrainedTokenizerFast(tokenizer_object=load_tokenizer("gpt2"), eos_token=EOT).save_pretrained(tmp_path/"llama")
    (tmp_path/"few.txt").write_text(EOT.join(load_stories("valid")[:3]), encoding="utf-8")
    done = run("tinyrope-evaluate", "llama", "--text", "few.txt", "--json", *CPU)
    assert abs(json.loads(done.stdout)["loss"] - math.log(50257)) < .1 and not done.stderr          # it has learnt nothing


def test_bundled_model_tells_and_scores(run, tmp_path):
    two = run("tinyrope-generate", "The dragon", "--model", "bundled", "--n", "2", "--seed", "3", "--max-new-tokens", "30", "--top-k", "50", "--top-p", "0.9", *CPU).stdout
    assert two.count("The dragon") >= 2 and EOT in two
    (tmp_path/"few.txt").write_text(EOT.join(load_stories("valid")[:40]), encoding="utf-8")
    assert json.loads(run("tinyrope-evaluate", "bundled", "--text", "few.txt", "--json", *CPU).stdout)["bits_per_byte"] < .9


def test_a_study_is_trained_measured_and_written(run, tmp_path):
    printed = run("tinyrope-study", "arms", "--size", "smoke", "--seeds", "2", "--out", "found", *CPU).stdout
    result = json.loads((tmp_path/"found"/"study-arms-smoke.json").read_text())
    assert "| as coded (sinusoidal) |" in printed and result["size"] == "smoke"
    assert {(r["arm"], r["seed"]) for r in result["rows"]} == {(arm, seed) for arm in result["arms"] for seed in (0, 1)}


@pytest.mark.parametrize("command", ["tinyrope-train", "tinyrope-generate", "tinyrope-evaluate", "tinyrope-study"])
def test_help_names_what_can_be_given(run, command):
    assert "usage: " + command in run(command, "--help").stdout


@pytest.mark.parametrize("command, says", [
    (("tinyrope-train", "--preset", "desktop"), "unknown preset 'desktop'"),
    (("tinyrope-train", "--set", "n_heads=5"), "n_heads must divide dim"),
    (("tinyrope-train", "--set", "corpus=missing.txt"), "no corpus 'missing.txt'"),
    (("tinyrope-train", "--set", "learning=1"), "unknown setting ['learning']"),
    (("tinyrope-train", "--set", "n_layers=many"), "n_layers must be a whole number from 1 to 1,000,000,000,000, got 'many'"),
    (("tinyrope-train", "--set", "batch_size=1000000"), "make batch_size (or accumulate larger), seq_len or n_layers smaller"),
    (("tinyrope-train", "--set", "vocab_size=999999999999"), "of memory"),
    (("tinyrope-train", "--out", ""), "out must be a text that is not empty"),
    (("tinyrope-generate", "Tom", "--model", "bundled", "--max-new-tokens", "100000000000"), "make --max-new-tokens smaller"),
    (("tinyrope-generate", "Tom \udcff", "--model", "bundled"), "the prompt is not valid UTF-8"),
    (("tinyrope-study", "arms", "--minutes", "nan"), "minutes must be a finite number"),
    (("tinyrope-train", "--device", "cuda:99", "--preset", "smoke"), "is not available here"),
    (("tinyrope-generate", " ", "--model", "bundled"), "the prompt is empty"),
    (("tinyrope-generate", "Tom", "--model", "bundled", "--temperature", "-1"), "temperature must be a finite number from 0 to 100, got -1.0"),
    (("tinyrope-generate", "Tom", "--model", "bundled", "--top-p", "2"), "top_p must be a finite number from 1e-06 to 1, got 2.0"),
    (("tinyrope-generate", "Tom", "--model", "bundled", "--top-k", "99999"), "exceeds the vocabulary"),
    (("tinyrope-generate", "Tom", "--model", "nowhere"), "no run at nowhere"),
    (("tinyrope-generate", "and then " * 600, "--model", "bundled"), "shorten the prompt"),
    (("tinyrope-evaluate", "bundled", "--text", "missing.txt"), "no file missing.txt"),
    (("tinyrope-evaluate", "bundled"), "give either --text, a file, or --split"),
    (("tinyrope-evaluate", "bundled", "--split", "dev"), "has splits ['train', 'valid', 'test'], got 'dev'"),
    (("tinyrope-evaluate", "nowhere", "--split", "valid"), "no run at nowhere"),
    (("tinyrope-evaluate", "bundled", "--split", "valid", "--tokenizer", TOK512), "leave --tokenizer out"),
    (("tinyrope-evaluate", PEER, "--split", "valid"), "add --tokenizer"),
    (("tinyrope-evaluate", PEER, "--split", "valid", "--tokenizer", "missing.bin"), "no file missing.bin"),
    (("tinyrope-evaluate", PEER, "--split", "valid", "--tokenizer", PEER), "is not a llama2.c tokenizer"),
    (("tinyrope-evaluate", TOK512, "--split", "valid"), "is not a llama2.c model"),
    (("tinyrope-study", "width"), "unknown study 'width'"),
    (("tinyrope-study", "depth", "--size", "huge"), "unknown size 'huge'"),
    (("tinyrope-study", "depth", "--seeds", "1"), "seeds must be a whole number from 2 to 1,000, got 1"),
    (("tinyrope-study", "web"), "add --web FILE"),
])
def test_mistakes_end_in_one_sentence(run, tmp_path, command, says):
    done = run(*command, status=1)
    assert says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path/"runs").exists()


# ---- every setting and every number, in this process

def odd_values(kind):
    "Texts that no setting of this kind may have, and that must be refused by a sentence"
    if kind is bool: return ["maybe", "1", "None", "nan"]
    if get_origin(kind) is Literal: return ["other", "5", "True", "nan", "inf", "x"*5000]
    if kind == Text: return [""]
    base, *rules = get_args(kind)
    whole, may_be_none = int in (base, *get_args(base)), type(None) in get_args(base)
    limits, = (r for r in rules if isinstance(r, Interval))
    low, high = limits.gt if limits.ge is None else limits.ge, limits.lt if limits.le is None else limits.le
    beyond = [low - 1 if limits.ge is not None else low] + ([] if high is None else [high + 1 if limits.le is not None else high])
    always = ["nan", "inf", "-inf", "1e400", "True", "False", "many", "", "-5", "9"*5000, "9**9**9", "("*5000]
    return list(map(str, beyond)) + always + ["1.5"]*whole + ["None"]*(not may_be_none)


SETTINGS = [(f.name, odd) for c in (ModelConfig, TrainConfig) for f in fields(c) for odd in odd_values(f.type)
            if f.name != "seed"]                        # an option
OPTIONS = [("generate", ["Tom", f"--{f.name.replace('_', '-')}={odd}"]) for f in fields(Sampling) for odd in odd_values(f.type)
           if odd != "None"]
NUMBERS = [(name, [*["x"]*(name != "train"), f"--{p.name.replace('_', '-')}={odd}"]) for name in ("train", "generate", "evaluate", "study")
           for p in inspect.signature(getattr(commands, f"{name}_command")).parameters.values()
           if (get_args(p.annotation) or (p.annotation,))[0] in (int, float) for odd in ("nan", "-1", "inf", "-inf", "many", "", "1e400", str(10**20))]
LINES = [
    ("train", ["--set", "out=5"], "use --out"), ("train", ["--set", "device=5"], "use --device"),
    ("train", ["--set", "device=None"], "use --device"), ("train", ["--set", "resume=maybe"], "use --resume"),
    ("train", ["--set", "preset=smoke"], "use --preset"), ("train", ["--set", "seed=3"], "use --seed"),
    ("train", ["--set", "shard=True"], "use --shard"), ("train", ["--set", "wandb=online"], "use --wandb"),
    ("train", ["--set", "steps=None", "--set", "epochs=None"], "give either steps or epochs"),
    ("train", ["--set", "steps=None"], "give either steps or epochs"),
    ("train", ["--set", "steps=3", "--set", "epochs=3"], "give either steps or epochs"),
    ("train", ["--set", "n_layers"], "--set expects NAME=VALUE"), ("train", ["--set", "=5"], "unknown setting"),
    ("train", ["--set", "keep_every=30"], "keep_every must be a multiple of eval_every"),
    ("train", ["--set", "rope_factor=2"], "needs a rope_method"), ("train", ["--set", "dim=1048576", "--set", "n_heads=3"], "n_heads must divide"),
    ("train", ["--set", "n_layers=100000"], "GB of memory"), ("train", ["--set", "seq_len=100000000"], "GB of memory"),
    ("train", ["--wandb", "yes"], "wandb must be one of"), ("train", ["--device", ""], "device must be a text"),
    ("train", ["--preset", ""], "unknown preset ''"), ("train", ["--steps", "0"], "steps must be"), ("train", ["more"], "unrecognized"),
    ("generate", ["Tom", "--extend", "more"], "extend must be one of"), ("generate", ["Tom", "--n", "0"], "n must be"),
    ("generate", ["Tom", "--device", "tpu"], "is not available here"), ("generate", [], "required: prompt"),
    ("generate", ["Tom", "--model", ""], "model must be a text"), ("generate", ["--n", "1", ""], "the prompt is empty"),
    ("generate", ["Tom \udcff"], "not valid UTF-8"), ("evaluate", ["bundled", "--split", ""], "split must be a text"),
    ("evaluate", ["bundled", "--text", "a", "--split", "b"], "give either --text"), ("evaluate", [], "required: model"),
    ("study", ["arms", "--out", ""], "out must be a text"), ("study", ["arms", "--folder", ""], "folder must be a text"),
    ("study", ["arms", "--size", ""], "size must be a text"),
]


@pytest.fixture
def answer(monkeypatch, tmp_path, capsys):
    "Type a command line in this process; returns what it was refused with. Nothing may be begun"
    def begun(*args, **kwargs): raise AssertionError("this was accepted")
    for place in ("train.prepare", "generation.generate_tokens", "scoreboard.evaluate_stories", "studies.run_study", "studies.prepare_corpora"):
        monkeypatch.setattr(f"tinyrope.{place}", begun)
    monkeypatch.chdir(tmp_path)
    for name in ("stdout", "stderr"): monkeypatch.setattr(sys, name, getattr(sys, name))       # put back afterwards

    def type_in(name, words):
        command = getattr(commands, f"{name}_command")
        monkeypatch.setattr(sys, "argv", [f"tinyrope-{name}", *words])
        with pytest.raises(SystemExit) as stopped:
            positional, named, _ = parse_cli(command)
            command(*positional, **named)
        status, said = stopped.value.code, capsys.readouterr().err
        if status == 2: return said                                                             # argparse
        assert isinstance(status, str) and status.startswith("tinyrope: ") and "\n" not in status and len(status) < 1500, status
        return status
    return type_in


@pytest.mark.parametrize("name", sorted({name for name, _ in SETTINGS}))
def test_no_setting_takes_a_value_it_does_not_allow(answer, name):
    for odd in (odd for n, odd in SETTINGS if n == name):
        assert f"{name} must be" in answer("train", ["--set", f"{name}={odd}"]), odd[:50]


def test_no_option_takes_a_number_that_makes_no_sense(answer):
    assert len(SETTINGS) + len(OPTIONS) + len(NUMBERS) > 400
    for command, words in OPTIONS + NUMBERS:
        assert "must be" in (said := answer(command, words)) or "invalid" in said, words


@pytest.mark.parametrize("command, words, says", LINES, ids=[" ".join(line[1])[:40] for line in LINES])
def test_odd_command_lines_are_refused(answer, command, words, says):
    assert says in answer(command, words)


@pytest.mark.parametrize("config", [ModelConfig, TrainConfig, Sampling])
def test_every_field_refuses_what_is_of_no_kind(config):
    for f in fields(config):
        for odd in (math.nan, math.inf, -math.inf, [], {}, b"", object(), 1 if f.type is bool else True):
            with pytest.raises(ValueError, match=f"{f.name} must be"): config(**{f.name: odd})


def test_options_of_generate_are_the_fields_of_sampling():
    options = inspect.signature(commands.generate_command).parameters
    for f in fields(Sampling): assert f.name == "seed" or options[f.name].default == f.default, f.name


def test_help_does_not_wait_for_torch():
    code = ("import sys; from fastcore.script import anno_parser; from tinyrope.commands import *; anno_parser(generate_command).format_help(); "
            "print([m for m in ('torch', 'numpy', 'tokenizers') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("error, says", [
    (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory is full"),
    (MemoryError(), "memory is full"), (OverflowError("math range error"), "lower learning rate"), (ValueError("two\nlines"), "two lines")])
def test_full_memory_and_overflow_have_a_sentence(error, says):
    @commands.command_line
    def failing(): raise error
    with pytest.raises(SystemExit) as stopped: failing()
    assert says in stopped.value.code and "\n" not in stopped.value.code


# ---- readers who leave, memory, a sign of life

def program(name): return shutil.which(name, path=sysconfig.get_path("scripts"))


@pytest.mark.parametrize("errors", [subprocess.PIPE, subprocess.STDOUT], ids=["stdout", "both"])
def test_training_goes_on_without_its_reader(tmp_path, environment, errors):
    line = [program("tinyrope-train"), *SMOKE[1:], "--steps", "30", "--set", "eval_every=2", "--set", "eval_blocks=4", "--out", "a"]
    with subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        assert "step" in process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read() if process.stderr else ""
        assert process.wait(300) == 0 and "Traceback" not in said and "BrokenPipe" not in said
    assert json.loads((tmp_path/"a"/"metrics.jsonl").read_text().splitlines()[-1])["step"] == 30
    assert (tmp_path/"a"/"result.json").exists()


def test_other_commands_end_with_their_reader(tmp_path, environment):
    line = [program("tinyrope-generate"), "Tom", "--model", "bundled", "--n", "1000", "--max-new-tokens", "20", *CPU]
    with subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.read(5)
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(300) == 1 and "Traceback" not in said and "BrokenPipe" not in said


@pytest.mark.skipif(os.name == "nt", reason="the peak of a process is looked up as on Unix")
@pytest.mark.parametrize("changes", ["dim=256, n_layers=4, batch_size=48, seq_len=128", "dim=512, n_layers=6, batch_size=2"])
def test_memory_is_foreseen_within_a_factor_of_two(tmp_path, environment, changes):
    code = f"""
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
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 - before, sum(memory_needed(c, config, cpu).values()))
"""
    run_it = lambda: subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
    run_it()                                            # the tokenizer is trained
    took, foreseen = map(float, run_it().split())
    assert .5 < foreseen/took < 2, (took, foreseen)


def test_scoring_shows_a_bar_on_a_terminal(monkeypatch):
    from tqdm import tqdm

    import tinyrope.metrics as metrics
    from tinyrope.checkpoint import Run
    class Terminal(io.StringIO):
        def isatty(self): return True
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(metrics, "tqdm", lambda *args, **named: tqdm(*args, **named | dict(delay=0)))
    run = Run("bundled")
    metrics.evaluate_stories(run.model, run.tokenizer, load_stories("valid")[:3])
    assert "scoring" in terminal.getvalue() and "100%" in terminal.getvalue()


def test_a_second_run_asks_before_it_overwrites(run):
    run(*SMOKE, "--steps", "2", "--out", "a")
    assert "add --resume" in run(*SMOKE, "--steps", "2", "--out", "a", status=1).stderr
    assert "other settings" in run(*SMOKE, "--steps", "3", "--out", "a", "--resume", status=1).stderr
    run(*SMOKE, "--steps", "2", "--out", "a", "--resume")


def test_importing_the_model_costs_torch_and_nothing_more():
    code = "import sys, tinyrope.train; print([m for m in ('matplotlib', 'wandb', 'datasets', 'transformers', 'tokenizers', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
