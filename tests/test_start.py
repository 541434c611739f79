"""Runs that begin with given weights, runs made longer, and parts of one's own, from outside."""
import json
import shutil
from functools import partial

import pytest
from conftest import ROOT, log, needs_unix, program, rows, same_weights
from safetensors.torch import save_file
from tinyrope.checkpoint import Run
from tinyrope.export import hf_name, split_weights
from tinyrope.start import read_start
from tinyrope.train import Trainer, train

PEERS = ROOT/"benchmarks"/"peers"
CPU = ("--device", "cpu")
SMOKE = ("tinyrope-train", "--preset", "smoke", *CPU, "--set", "eval_blocks=4", "--set",
         "max_stories=60")
smoke = partial(train, "smoke", device="cpu", eval_every=10, eval_blocks=4, max_stories=60)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    "A finished run, whose weights others begin with"
    folder = tmp_path_factory.mktemp("first")/"run"
    smoke(out=folder, steps=20)
    return folder


# ---- given weights

class Killed(BaseException): "What stands for the death of a process"


def test_given_weights_killed_and_resumed(first, tmp_path, monkeypatch):
    "To the bit, and without the run that the weights came from"
    given = tmp_path/"given"
    shutil.copytree(first, given)
    how, living = dict(init=given, steps=30, seed=1), Trainer.step
    smoke(out=tmp_path/"straight", **how)

    def dying(self):
        if self.progress.step == 17: raise Killed
        return living(self)
    with monkeypatch.context() as changed, pytest.raises(Killed):
        changed.setattr(Trainer, "step", dying)
        smoke(out=tmp_path/"killed", **how)
    shutil.rmtree(given)
    smoke(out=tmp_path/"killed", resume=True, **how)
    assert same_weights(tmp_path/"straight", tmp_path/"killed")
    assert log(tmp_path/"straight") == log(tmp_path/"killed")


def test_given_weights_are_read_again_before_the_first_checkpoint(first, tmp_path, monkeypatch):
    "A run that had saved nothing begins with the same weights, or not at all"
    given, how = tmp_path/"given", dict(steps=10, seed=1)
    shutil.copytree(first, given)

    def dying(self): raise Killed
    with monkeypatch.context() as changed, pytest.raises(Killed):
        changed.setattr(Trainer, "step", dying)
        smoke(out=tmp_path/"run", init=given, **how)
    shutil.move(given, tmp_path/"away")
    with pytest.raises(FileNotFoundError, match="no run at"):
        smoke(out=tmp_path/"run", resume=True, **how)
    shutil.move(tmp_path/"away", given)
    smoke(out=tmp_path/"run", resume=True, **how)
    smoke(out=tmp_path/"straight", init=given, **how)
    assert same_weights(tmp_path/"run", tmp_path/"straight")


def as_hugging_face(run, folder):
    "Write a run as a folder of a Hugging Face Llama"
    c, parts = run.model.config, split_weights(run.model)
    folder.mkdir()
    del parts["head"]                       # tied
    save_file({hf_name(part): value for part, value in parts.items()}, folder/"model.safetensors")
    shape = dict(vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.mlp_dim,
                 num_hidden_layers=c.n_layers, num_attention_heads=c.n_heads,
                 num_key_value_heads=c.kv_heads, max_position_embeddings=c.seq_len,
                 tie_word_embeddings=True, rms_norm_eps=1e-5, model_type="llama")
    (folder/"config.json").write_text(json.dumps(shape))
    shutil.copy(run.folder/"tokenizer.json", folder)


def test_the_same_weights_in_another_form_begin_the_same_run(first, tmp_path):
    "A Hugging Face folder has the same hash as the run it was made of, and leads to the same run"
    as_hugging_face(Run(first), tmp_path/"llama")
    assert read_start(tmp_path/"llama").sha256 == read_start(first).sha256
    for name, source in (("a", first), ("b", tmp_path/"llama")):
        smoke(out=tmp_path/name, init=source, steps=10)
    assert same_weights(tmp_path/"a", tmp_path/"b")
    assert Run(tmp_path/"b").config["init"]["name"] == str(tmp_path/"llama")


def test_a_llama2c_file_begins_a_run_from_the_command_line(run, tmp_path):
    "With its tokenizer; a resumed run needs neither of the two files"
    shutil.copy(PEERS/"stories260K.bin", tmp_path)
    shutil.copy(PEERS/"tok512.bin", tmp_path)
    given = ("--init", "stories260K.bin", "--set", "tokenizer=tok512.bin", "--out", "mine")
    run(*SMOKE, *given, "--steps", "4")
    found = Run(tmp_path/"mine")
    assert found.config["init"]["name"] == "stories260K.bin" and found.model.config.dim == 64
    for name in ("stories260K.bin", "tok512.bin"): (tmp_path/name).unlink()
    run(*SMOKE, *given, "--steps", "4", "--resume")
    told = run(*SMOKE, *given, "--steps", "8", "--resume", status=1).stderr
    assert "cannot be made longer" in told and "--init mine" in told


@needs_unix
def test_given_weights_sharded_over_two_processes(first, run, tmp_path):
    "The validation losses are those of one process, to rounding"
    given = ("--init", first, "--steps", "10", "--set", "eval_every=10")
    run(*SMOKE, *given, "--out", "one")
    two = (program("torchrun"), "--standalone", "--nproc-per-node", "2", "-m", "tinyrope.train")
    run(*two, *SMOKE[1:], *given, "--shard", "--out", "two")
    losses = [rows(tmp_path/name)[0]["val_loss"] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


# ---- longer runs

def test_a_run_made_longer_is_the_run_it_would_have_been(tmp_path):
    "With a constant learning rate, to the bit; meanwhile it has no result"
    how = dict(schedule="constant")
    smoke(out=tmp_path/"straight", steps=40, **how)
    smoke(out=tmp_path/"longer", steps=20, **how)
    with pytest.raises(ValueError, match="has taken 20 steps already"):
        smoke(out=tmp_path/"longer", steps=10, resume=True, **how)
    smoke(out=tmp_path/"longer", steps=40, resume=True, **how)
    assert same_weights(tmp_path/"straight", tmp_path/"longer")
    assert log(tmp_path/"straight") == log(tmp_path/"longer")
    assert Run(tmp_path/"longer").config["steps"] == 40


def test_a_decayed_run_gives_its_weights_to_another(first, tmp_path):
    "It is not made longer; the sentence says what to do, and that works"
    shutil.copytree(first, tmp_path/"run")
    with pytest.raises(ValueError, match=r"Start a new run from its weights: `init="):
        smoke(out=tmp_path/"run", steps=40, resume=True)
    assert Run(tmp_path/"run").result["best_step"] == 20
    smoke(out=tmp_path/"next", init=tmp_path/"run", steps=10)


# ---- a study and a part of one's own

STUDY = '''
from tinyrope.model import Rotary
from tinyrope.parts import register
from tinyrope.studies import study

@register("position", "late")
class Late(Rotary):
    "Rotary positions that begin at 100"
    def compute(self, start, n, device): return super().compute(start + 100, n, device)

@study("late", "Does it matter where positions begin?")
def arms(scale): return {"at 0": {}, "at 100": dict(position="late")}
'''


def test_a_study_of_ones_own_with_a_part_of_ones_own(run, tmp_path):
    "Its file is given to tinyrope-study; its runs load only where the part is registered"
    (tmp_path/"late.py").write_text(STUDY)
    printed = run("tinyrope-study", "late.py", "--size", "smoke", "--seeds", "2", *CPU).stdout
    assert "Does it matter where positions begin?" in printed and "| at 100 |" in printed
    own = next((tmp_path/"runs"/"studies"/"smoke").glob("position=late*/config.json")).parent
    told = run("tinyrope-generate", "Once", "--model", own, *CPU, status=1).stderr
    assert "position='late', a part of its own (class Late of late.py)" in told


def test_a_llama2c_file_tells_stories_from_the_command_line(run):
    "It needs its tokenizer beside it, as in scoring"
    words = ("--tokenizer", PEERS/"tok512.bin", "--temperature", "0", "--max-new-tokens", "20", *CPU)
    told = run("tinyrope-generate", "Once upon a time", "--model", PEERS/"stories260K.bin", *words)
    assert told.stdout.startswith("Once upon a time, there was a little")
