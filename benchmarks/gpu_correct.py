"""Stage `correct` of gpu.py: does the GPU compute what the CPU computes?"""
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
from pathlib import Path

import torch
import torch.nn.functional as F
from tinyrope.attention import document_ids, packed_mask
from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.generation import generate
from tinyrope.kernels import Chunks, chunked_cross_entropy
from tinyrope.metrics import evaluate_stories
from tinyrope.model import SIZES, ModelConfig, Transformer
from tinyrope.optim import orthogonalise
from tinyrope.processes import can_compile

SMALL = dict(vocab_size=515, dim=64, n_layers=2, n_heads=2, n_kv_heads=None, hidden_dim=None, seq_len=64)         # 515: not a multiple of 64, as 50,257 is not
LLAMA = ModelConfig(vocab_size=32_000, dim=512, n_layers=8, n_heads=8, n_kv_heads=2, seq_len=512)
CONFIGS = {"as claimed": SIZES["as_claimed"], "as coded": SIZES["as_coded"], "llama-shaped": LLAMA,
           **{f"llama-shaped, {p}": replace(LLAMA, position=p) for p in ("alibi", "learned", "none")}}
COMPILED = ("as claimed", "llama-shaped")            # the compiler takes most of a minute for each
TIMES = r', "seconds": [^,]+|, "tokens_per_second": \d+|, "mfu": [^}]+'
DETERMINISTIC = """import runpy, torch
torch.use_deterministic_algorithms(True)
runpy.run_module("tinyrope.train", run_name="__main__")"""


def off(found, expected):
    "Relative distance of two tensors, ‖found − expected‖ / ‖expected‖"
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return ((found - expected).norm() / expected.norm()).item()


def gradients(model, tokens, mask=None, bf16=False, compiled=False):
    "Loss of a batch, and the gradients of all parameters in one vector"
    device = next(model.parameters()).device
    rows, forward = tokens.to(device), torch.compile(model) if compiled else model
    model.zero_grad()
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss = forward(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), mask=None if mask is None else mask.to(device))
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten().cpu() for p in model.parameters()])


def model_checks(name, c, device, small):
    "Logits, losses and gradients of one model: GPU against CPU in fp32, bf16 against fp32, and compiled where training compiles"
    torch.manual_seed(0)
    c = replace(c, attention_dropout=0., dropout=0., **SMALL if small else {})
    reference, tokens = Transformer(c).eval(), torch.randint(1, c.vocab_size, (2, c.seq_len + 1))
    model = deepcopy(reference).to(device)
    with torch.no_grad():
        expected = reference(tokens[:, :-1])
        found = model(tokens[:, :-1].to(device))
        with torch.autocast(device.type, torch.bfloat16): coarse = model(tokens[:, :-1].to(device))
    yield f"{name}: logits, largest difference", (found.cpu() - expected).abs().max().item(), 1e-4
    yield f"{name}: logits in bf16, relative", off(coarse, expected), 2e-2
    (loss, grads), (loss_d, grads_d) = gradients(reference, tokens), gradients(model, tokens)
    yield f"{name}: loss", abs(loss_d - loss), 1e-4
    yield f"{name}: gradients, relative", off(grads_d, grads), 1e-3
    loss_b, grads_b = gradients(model, tokens, bf16=True)
    yield f"{name}: loss in bf16", abs(loss_b - loss), 2e-2
    yield f"{name}: gradients in bf16, relative", off(grads_b, grads), 6e-2
    tokens[:, c.seq_len//3] = tokens[:, c.seq_len//2] = 0
    mask = packed_mask(document_ids(tokens[:, :-1], 0))
    (loss, grads), (loss_d, grads_d) = gradients(reference, tokens, mask), gradients(model, tokens, mask)
    yield f"{name}: loss with stories kept apart", abs(loss_d - loss), 1e-4
    yield f"{name}: gradients with stories kept apart, relative", off(grads_d, grads), 1e-3
    if name not in COMPILED or not can_compile(device): return
    loss_c, grads_c = gradients(model, tokens, mask, compiled=True)
    yield f"{name}: loss, compiled", abs(loss_c - loss), 1e-4
    yield f"{name}: gradients, compiled, relative", off(grads_c, grads), 1e-3


def part_checks(device):
    "The loss over the vocabulary against PyTorch's, and Muon's iteration in the device's precision"
    torch.manual_seed(0)
    h, t = torch.randn(300, 64, device=device), torch.randint(515, (300,), device=device)
    head = torch.nn.Linear(64, 515, bias=False, device=device)
    torch.nn.init.normal_(head.weight)
    yield "loss in chunks against cross_entropy", abs(chunked_cross_entropy(h, head, t, chunks=Chunks(128, 64)) - F.cross_entropy(head(h), t)).item(), 1e-4
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 96, 256, device=device)).float())
    yield "Muon: singular values, furthest from 1", (values - 1).abs().max().item(), .5         # the iteration is made to be fast, not exact


def bundled_checks(device):
    "The model in the package: its score, and what it says when it always takes the likeliest token"
    run, stories = Run("bundled"), load_stories("valid")[:100]
    expected, said = evaluate_stories(run.model, run.tokenizer, stories)["loss"], greedy(run)
    model = run.model.to(device)
    yield "bundled: loss of 100 stories", abs(evaluate_stories(model, run.tokenizer, stories)["loss"] - expected), 1e-4
    yield "bundled: stories that differ", float(sum(a != b for a, b in zip(greedy(run), said))), 0.
    with torch.autocast(device.type, torch.bfloat16): coarse = evaluate_stories(model, run.tokenizer, stories)["loss"]
    yield "bundled: loss of 100 stories in bf16", abs(coarse - expected), 1e-2


def greedy(run):
    "Three stories, always the likeliest token"
    return [generate(run, prompt, max_new_tokens=64, temperature=0.)[0][0] for prompt in ("Once upon a time", "Tom found a ball.", "The dragon was big")]


def environment():
    "Variables under which a GPU adds in the same order every time"
    return {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TINYROPE_CACHE": os.environ.get("TINYROPE_CACHE", str(Path(tempfile.gettempdir())/"tinyrope-gpu"))}


def log(folder):
    "The text of metrics.jsonl without the columns that hold times"
    return re.sub(TIMES, "", (folder/"metrics.jsonl").read_text())


def curve(folder): return [json.loads(line)["val_loss"] for line in (folder/"metrics.jsonl").read_text().splitlines()]


def resume_checks(device, small):
    "A run that is killed and resumed, against one that nobody disturbed, with deterministic settings"
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        command = lambda name: [sys.executable, "-c", DETERMINISTIC, "--preset", "smoke" if small else "laptop", "--steps", "120", "--device", str(device), "--set", "eval_every=20",
                                "--set", "dropout=0.1", "--set", "attention_dropout=0.1", "--set", "eval_blocks=8", "--set", "compile=off", "--out", str(place/name), "--resume"]
        complete = lambda name: subprocess.run(command(name), env=environment(), check=True, capture_output=True)
        complete("straight")
        process = subprocess.Popen(command("killed"), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (place/"killed"/"last").exists() and process.poll() is None: time.sleep(.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        yield "killed before its end: it was not", float(process.returncode != -signal.SIGKILL), 0.
        complete("killed")
        yield "killed and resumed: lines of the log that differ", float(sum(a != b for a, b in zip(log(place/"killed").splitlines(), log(place/"straight").splitlines()))), 0.
        weights = [(place/name/"model.safetensors").read_bytes() for name in ("killed", "straight")]
        yield "killed and resumed: weights differ", float(weights[0] != weights[1]), 0.


def process_checks(device, small):
    "Two processes, with copies and with shards, against one: on two GPUs by NCCL"
    count = torch.cuda.device_count() if device.type == "cuda" else 2
    if count < 2: return
    with tempfile.TemporaryDirectory() as place:
        common = ["-m", "tinyrope.train", "--preset", "smoke" if small else "laptop", "--steps", "40", "--device", device.type, "--set", "eval_every=10", "--set", "precision=fp32", "--set", "compile=off"]
        two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        for name, start, how in (("one", [sys.executable], []), ("copies", two, []), ("shards", two, ["--shard"])):
            subprocess.run([*start, *common, *how, "--out", f"{place}/{name}"], env=environment(), check=True, capture_output=True)
        for name in ("copies", "shards"):
            yield f"two processes, {name}: validation losses, largest difference", max(abs(a - b) for a, b in zip(curve(Path(place)/name), curve(Path(place)/"one"))), 1e-4


def stage(a, check, save):
    "Run all checks; false if one of them fails"
    rows = []
    groups = [lambda n=n, c=c: model_checks(n, c, a.device, a.small) for n, c in CONFIGS.items()]
    groups += [lambda: part_checks(a.device), lambda: bundled_checks(a.device), lambda: resume_checks(a.device, a.small), lambda: process_checks(a.device, a.small)]
    for group in groups:
        for name, value, tolerance in group():
            rows.append(dict(check=name, value=value, tolerance=tolerance, passed=value <= tolerance))
            print(f"{'ok  ' if rows[-1]['passed'] else 'FAIL'} {name:70} {value:.2e}  (at most {tolerance:g})", flush=True)
            save(dict(checks=rows, devices=torch.cuda.device_count()))
    return all(row["passed"] for row in rows)
