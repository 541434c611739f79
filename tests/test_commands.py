"""The installed commands, as a person would use them."""
import json
import math
import subprocess
import sys

import pytest

from conftest import ROOT
from tinyrope.data import EOT, load_stories, load_tokenizer

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
    (("tinyrope-train", "--set", "n_layers=many"), "n_layers must be int, got 'many'"),
    (("tinyrope-train", "--device", "cuda:99", "--preset", "smoke"), "is not available here"),
    (("tinyrope-generate", " ", "--model", "bundled"), "the prompt is empty"),
    (("tinyrope-generate", "Tom", "--model", "bundled", "--temperature", "-1"), "temperature must be at least 0"),
    (("tinyrope-generate", "Tom", "--model", "bundled", "--top-p", "2"), "top_p must be in (0, 1]"),
    (("tinyrope-generate", "Tom", "--model", "bundled", "--top-k", "99999"), "exceeds the vocabulary"),
    (("tinyrope-generate", "Tom", "--model", "nowhere"), "no run at nowhere"),
    (("tinyrope-generate", "and then " * 600, "--model", "bundled"), "shorten the prompt"),
    (("tinyrope-evaluate", "bundled", "--text", "missing.txt"), "no file missing.txt"),
    (("tinyrope-evaluate", "bundled"), "give either --text FILE, or --split"),
    (("tinyrope-evaluate", "bundled", "--split", "dev"), "has splits ['train', 'valid', 'test'], got 'dev'"),
    (("tinyrope-evaluate", "nowhere", "--split", "valid"), "no run at nowhere"),
    (("tinyrope-evaluate", "bundled", "--split", "valid", "--tokenizer", TOK512), "leave --tokenizer out"),
    (("tinyrope-evaluate", PEER, "--split", "valid"), "add --tokenizer"),
    (("tinyrope-evaluate", PEER, "--split", "valid", "--tokenizer", "missing.bin"), "no file missing.bin"),
    (("tinyrope-evaluate", PEER, "--split", "valid", "--tokenizer", PEER), "is not a llama2.c tokenizer"),
    (("tinyrope-evaluate", TOK512, "--split", "valid"), "is not a llama2.c model"),
    (("tinyrope-study", "width"), "unknown study 'width'"),
    (("tinyrope-study", "depth", "--size", "huge"), "unknown size 'huge'"),
    (("tinyrope-study", "depth", "--seeds", "1"), "needs at least 2 seeds"),
    (("tinyrope-study", "web"), "add --web FILE"),
])
def test_mistakes_end_in_one_sentence(run, tmp_path, command, says):
    done = run(*command, status=1)
    assert says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path/"runs").exists()


def test_a_second_run_asks_before_it_overwrites(run):
    run(*SMOKE, "--steps", "2", "--out", "a")
    assert "add --resume" in run(*SMOKE, "--steps", "2", "--out", "a", status=1).stderr
    assert "other settings" in run(*SMOKE, "--steps", "3", "--out", "a", "--resume", status=1).stderr
    run(*SMOKE, "--steps", "2", "--out", "a", "--resume")


def test_importing_the_model_costs_torch_and_nothing_more():
    code = "import sys, tinyrope.train; print([m for m in ('matplotlib', 'wandb', 'datasets', 'transformers', 'tokenizers', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
