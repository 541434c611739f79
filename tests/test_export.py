"""A model taken elsewhere gives what it gives here; llama.cpp and llama2.c run it where they are.

TINYROPE_LLAMA2C=FOLDER names a copy of https://github.com/karpathy/llama2.c."""
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from certificate import llama_cpp, run_c
from conftest import ROOT
from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.export import load_hf, load_llama2c, write_hf
from tinyrope.llama2c import llama2c_order
from tinyrope.metrics import evaluate_stories
from tinyrope.model import SIZES, Transformer, generate_tokens
from tinyrope.store import EOT

LLAMA2C = os.environ.get("TINYROPE_LLAMA2C")

@pytest.mark.parametrize("bits, within", [(32, 1e-3), (8, 1.)])
def test_llama_cpp_gives_the_logits_of_the_model(tmp_path, bits, within):
    "In a process of its own, with the tokens that our tokenizer gives"
    pytest.importorskip("llama_cpp", reason="pip install llama-cpp-python")
    from tinyrope.runtimes import write_gguf
    run, story = Run("bundled"), load_stories("valid")[0]
    write_gguf(run.model, run.tokenizer, tmp_path/"model.gguf", bits)
    ids = [run.tokenizer.token_to_id(EOT), *run.tokenizer.encode(story).ids]
    found = llama_cpp(tmp_path/"model.gguf", run).logits(ids)
    with torch.no_grad(): ours = run.model(torch.tensor([ids]))[0].numpy()
    assert np.abs(found - ours).max() < within


@pytest.mark.skipif(not LLAMA2C, reason="give TINYROPE_LLAMA2C, a copy of llama2.c")
@pytest.mark.parametrize("bits, name, within", [(32, "run.c", 1e-3), (8, "runq.c", 2.)])
def test_llama2c_gives_the_logits_of_the_model_and_tells_a_story(tmp_path, bits, name, within):
    "Compiled with a few lines that print logits, and as it is; the model itself scores the story"
    from tinyrope.runtimes import export, open_llama
    run, source = Run("bundled"), Path(LLAMA2C)/name
    export(open_llama("bundled"), "llama2c", tmp_path, bits)
    ids = [run.tokenizer.token_to_id(EOT), *run.tokenizer.encode(load_stories("valid")[0]).ids]
    found = run_c(source, tmp_path, llama2c_order(run.tokenizer)).logits(ids)
    with torch.no_grad(): ours = run.model(torch.tensor([ids]))[0].numpy()
    assert np.abs(found - ours).max() < within
    subprocess.run(["gcc", "-O3", source, "-o", tmp_path/"told", "-lm"], check=True)
    command = [tmp_path/"told", "model.bin", "-z", "tokenizer.bin", "-t", "0", "-n", "150"]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    score = evaluate_stories(run.model, run.tokenizer, [told.strip()])
    assert len(told) > 300 and score["bits_per_byte"] < .6


def test_a_tokenizer_with_other_marks_keeps_its_numbers(tmp_path):
    "The token that begins a text is called end-of-text here, whatever its name was"
    run = Run("bundled")
    write_hf(run.model, run.tokenizer, tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = tmp_path/name
        path.write_text(path.read_text(encoding="utf-8").replace(EOT, "<s>"), encoding="utf-8")
    _, tokenizer = load_hf(tmp_path)
    assert tokenizer.to_str() == run.tokenizer.to_str()


@pytest.mark.parametrize("damage", ["{", "[1]", '{"model_type": "llama"}',
                                    '{"model_type": "llama", "vocab_size": "many"}'])
def test_a_damaged_configuration_is_told_in_one_sentence(tmp_path, damage):
    "Whatever is in config.json, the error is a ValueError of one line"
    write_hf(Transformer(SIZES["smoke"]), Run("bundled").tokenizer, tmp_path)
    (tmp_path/"config.json").write_text(damage)
    with pytest.raises(ValueError) as e: load_hf(tmp_path)
    assert "\n" not in str(e.value)


def test_a_foreign_model_can_be_exported_again(tmp_path):
    "From Hugging Face to llama2.c: the same story comes out"
    from tinyrope.runtimes import export, open_llama
    export(open_llama("bundled"), "hf", tmp_path/"hf")
    export(open_llama(tmp_path/"hf"), "llama2c", tmp_path/"c")
    model, tokenizer = load_llama2c(tmp_path/"c"/"model.bin", tmp_path/"c"/"tokenizer.bin")
    run = Run("bundled")
    def told(model, tokenizer):
        first = torch.tensor([[tokenizer.token_to_id(EOT)]])
        new = generate_tokens(model, first, 40, lambda logits: logits.argmax(-1))
        return tokenizer.decode([token.item() for token in new])
    assert told(model, tokenizer) == told(run.model, run.tokenizer)


def test_the_page_shows_the_certificate():
    "Each row of the result stands in the table of the page as it was measured"
    result = json.loads((ROOT/"results"/"certificate.json").read_text(encoding="utf-8"))
    page = (ROOT/"nbs"/"10a_runtimes.ipynb").read_text(encoding="utf-8")
    assert len(result["rows"]) >= 10 and result["stories"] == 200
    for row in result["rows"]:
        assert f"| {row['bits_per_byte']:.4f} | {row['bytes']/1e6:.1f} MB |" in page, row["name"]
