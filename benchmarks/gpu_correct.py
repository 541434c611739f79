"""Stage `correct` of gpu.py: does the GPU compute what the CPU computes?

Each check is a name, a value and the most that it may be. Logits, losses and gradients of six
models are compared with those of the CPU, in fp32, in bf16, and compiled where training compiles;
so are the parts that the models share, and the score and the stories of the model in the package.
A run that is killed and resumed is compared with one that was not, and two processes with one."""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from models import inputs_and_targets, shrink
from tinyrope.attention import document_ids, packed_mask
from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.generation import generate
from tinyrope.kernels import Chunks, chunked_cross_entropy
from tinyrope.metrics import evaluate_stories
from tinyrope.model import SIZES, ModelConfig, Transformer
from tinyrope.optim import orthogonalise
from tinyrope.processes import can_compile

LLAMA = ModelConfig(vocab_size=32_000, dim=512, n_layers=8, n_heads=8, n_kv_heads=2, seq_len=512)
CONFIGS = {"as claimed": SIZES["as_claimed"], "as coded": SIZES["as_coded"], "llama-shaped": LLAMA}
CONFIGS |= {f"llama-shaped, {p}": replace(LLAMA, position=p) for p in ("alibi", "learned", "none")}
COMPILED = ("as claimed", "llama-shaped")            # the compiler takes most of a minute for each
PROMPTS = ("Once upon a time", "Tom found a ball.", "The dragon was big")
TIMES = r', "seconds": [^,]+|, "tokens_per_second": \d+|, "mfu": [^}]+'
DETERMINISTIC = """
import runpy, torch
torch.use_deterministic_algorithms(True)
runpy.run_module("tinyrope.train", run_name="__main__")
"""


def off(found, expected):
    "Relative distance of two tensors, ‖found − expected‖ / ‖expected‖"
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return ((found - expected).norm() / expected.norm()).item()


# ---- models

def logit_checks(name, reference, model, tokens, device):
    "Logits on the GPU against those on the CPU, in fp32 and in bf16"
    inputs = tokens[:, :-1].to(device)
    with torch.no_grad():
        expected, found = reference(tokens[:, :-1]), model(inputs)
        with torch.autocast(device.type, torch.bfloat16): coarse = model(inputs)
    yield f"{name}: logits, largest difference", (found.cpu() - expected).abs().max().item(), 1e-4
    yield f"{name}: logits in bf16, relative", off(coarse, expected), 2e-2


def gradients(model, tokens, mask=None, bf16=False, compiled=False):
    "Loss of a batch, and the gradients of all parameters in one vector"
    device = next(model.parameters()).device
    forward = torch.compile(model) if compiled else model
    if mask is not None: mask = mask.to(device)
    model.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = forward(*inputs_and_targets(tokens.to(device)), mask=mask)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten().cpu() for p in model.parameters()])


def gradient_check(name, how, found, expected, at_most=(1e-4, 1e-3)):
    "A loss and its gradients against those expected"
    yield f"{name}: loss{how}", abs(found[0] - expected[0]), at_most[0]
    yield f"{name}: gradients{how}, relative", off(found[1], expected[1]), at_most[1]


def model_checks(name, c, device, small):
    "Logits, losses and gradients of one model"
    torch.manual_seed(0)
    c = replace(shrink(c) if small else c, attention_dropout=0., dropout=0.)
    reference, tokens = Transformer(c).eval(), torch.randint(1, c.vocab_size, (2, c.seq_len + 1))
    model = deepcopy(reference).to(device)
    yield from logit_checks(name, reference, model, tokens, device)
    expected = gradients(reference, tokens)
    yield from gradient_check(name, "", gradients(model, tokens), expected)
    coarse = gradients(model, tokens, bf16=True)
    yield from gradient_check(name, " in bf16", coarse, expected, (2e-2, 6e-2))
    tokens[:, c.seq_len//3] = tokens[:, c.seq_len//2] = 0               # stories end here
    mask = packed_mask(document_ids(tokens[:, :-1], 0))
    expected = gradients(reference, tokens, mask)
    apart = gradients(model, tokens, mask)
    yield from gradient_check(name, " with stories kept apart", apart, expected)
    if name not in COMPILED or not can_compile(device): return
    compiled = gradients(model, tokens, mask, compiled=True)
    yield from gradient_check(name, ", compiled", compiled, expected)


# ---- parts, and the model in the package

def part_checks(device):
    "The loss over the vocabulary against PyTorch's, and Muon's iteration in the device's precision"
    torch.manual_seed(0)
    h, t = torch.randn(300, 64, device=device), torch.randint(515, (300,), device=device)
    head = torch.nn.Linear(64, 515, bias=False, device=device)
    torch.nn.init.normal_(head.weight)
    found = chunked_cross_entropy(h, head, t, chunks=Chunks(128, 64))
    gap = abs(found - F.cross_entropy(head(h), t)).item()
    yield "loss in chunks against cross_entropy", gap, 1e-4
    matrices = torch.stack(orthogonalise(list(torch.randn(3, 96, 256, device=device)))).float()
    furthest = (torch.linalg.svdvals(matrices) - 1).abs().max().item()
    yield "Muon: singular values, furthest from 1", furthest, .5        # it is made to be fast


def greedy(run):
    "Three stories, always the likeliest token"
    return [generate(run, prompt, max_new_tokens=64, temperature=0.)[0][0]
            for prompt in PROMPTS]


def bundled_checks(device):
    "The model in the package: its score, and what it says when it always takes the likeliest token"
    run, stories = Run("bundled"), load_stories("valid")[:100]
    def loss(): return evaluate_stories(run.model, run.tokenizer, stories)["loss"]
    expected, said = loss(), greedy(run)
    run.model.to(device)
    yield "bundled: loss of 100 stories", abs(loss() - expected), 1e-4
    differ = sum(a != b for a, b in zip(greedy(run), said))
    yield "bundled: stories that differ", float(differ), 0.
    with torch.autocast(device.type, torch.bfloat16): coarse = loss()
    yield "bundled: loss of 100 stories in bf16", abs(coarse - expected), 1e-2


# ---- runs

def environment():
    "Variables under which a GPU adds in the same order every time"
    cache = os.environ.get("TINYROPE_CACHE", str(Path(tempfile.gettempdir())/"tinyrope-gpu"))
    return {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TINYROPE_CACHE": cache}


def options(small, out, steps, **settings):
    "Options of a run that is not compiled"
    given = ["--preset", "smoke" if small else "laptop", "--steps", str(steps), "--out", str(out)]
    for name, value in dict(**settings, compile="off").items():
        given += ["--set", f"{name}={value}"]
    return given


def log(folder):
    "The lines of metrics.jsonl without the columns that hold times"
    return re.sub(TIMES, "", (folder/"metrics.jsonl").read_text()).splitlines()


def losses(folder):
    "The validation losses of a run"
    lines = (folder/"metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["val_loss"] for line in lines]


def kill(command, folder):
    "Start a run, and kill it after its first checkpoint; false if it ended before"
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(command, env=environment(), **quiet)
    while not (folder/"last").exists() and process.poll() is None: time.sleep(.01)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def resume_checks(device, small):
    "A run that is killed and resumed, against one that nobody disturbed, both deterministic"
    with tempfile.TemporaryDirectory() as place:
        one, two = Path(place)/"straight", Path(place)/"killed"
        def command(folder):
            how = options(small, folder, 120, eval_every=20, eval_blocks=8, dropout=.1,
                          attention_dropout=.1)
            return [sys.executable, "-c", DETERMINISTIC, *how, "--device", str(device), "--resume"]
        finish = partial(subprocess.run, env=environment(), check=True, capture_output=True)
        finish(command(one))
        yield "killed before its end: it was not", float(not kill(command(two), two)), 0.
        finish(command(two))
        differ = sum(a != b for a, b in zip(log(two), log(one)))
        yield "killed and resumed: lines of the log that differ", float(differ), 0.
        weights = [(folder/"model.safetensors").read_bytes() for folder in (one, two)]
        yield "killed and resumed: weights differ", float(weights[0] != weights[1]), 0.


def process_checks(device, small):
    "Two processes, with copies and with shards, against one: on two GPUs by NCCL"
    if device.type == "cuda" and torch.cuda.device_count() < 2: return
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ways = {"one": ([], []), "copies": (two, []), "shards": (two, ["--shard"])}
    with tempfile.TemporaryDirectory() as place:
        for name, (start, how) in ways.items():
            given = options(small, f"{place}/{name}", 40, eval_every=10, precision="fp32")
            subprocess.run([sys.executable, *start, "-m", "tinyrope.train", *given, *how,
                            "--device", device.type],
                           env=environment(), check=True, capture_output=True)
        curves = {name: losses(Path(place)/name) for name in ways}
    for name in ("copies", "shards"):
        gap = max(abs(a - b) for a, b in zip(curves[name], curves["one"]))
        yield f"two processes, {name}: validation losses, largest difference", gap, 1e-4


# ---- the stage

def all_checks(device, small):
    "All checks, one after another"
    for name, c in CONFIGS.items(): yield from model_checks(name, c, device, small)
    yield from part_checks(device)
    yield from bundled_checks(device)
    yield from resume_checks(device, small)
    yield from process_checks(device, small)


def stage(a, check, save):
    "Run all checks; false if one of them fails"
    rows = []
    for name, value, tolerance in all_checks(a.device, a.small):
        row = dict(check=name, value=value, tolerance=tolerance, passed=value <= tolerance)
        word = "ok  " if row["passed"] else "FAIL"
        print(f"{word} {name:70} {value:.2e}  (at most {tolerance:g})", flush=True)
        rows.append(row)
        save(dict(checks=rows, devices=torch.cuda.device_count()))
    return all(row["passed"] for row in rows)
