"""Stage `pieces` of gpu.py: parts of a training step in several ways, to see what could be faster.

Median milliseconds of: a whole step as it is and with one thing changed; the loss over the
vocabulary with its gradients; steps of the optimizers and clipping; reading a batch. A way that
fails is named, with its error."""
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from common import take_turns, try_out
from models import precision_on, random_batch, shrink
from tinyrope.data import Batches
from tinyrope.kernels import _loss_and_gradients
from tinyrope.model import Transformer
from tinyrope.optim import make_optimizers
from tinyrope.prepare import prepare
from tinyrope.train import TrainConfig, configure
from training import SHAPES, Step, tinyrope


# ---- whole steps

def stream_in_bf16(c, compiled):
    "tinyrope with its residual stream in bf16 and not in fp32: half the bytes for norms and sums"
    model = Transformer(c)
    model.embedding.register_forward_hook(lambda module, inputs, x: x.bfloat16())
    return model, compiled(model)


def in_cuda_graphs(c, compiled):
    "tinyrope compiled into CUDA graphs: one launch for many kernels"
    model = Transformer(c)
    return model, torch.compile(model, mode="reduce-overhead")


def whole_steps(c, batch, device):
    "A whole step, as it is and with one thing changed: name → function"
    inputs, targets = random_batch(c, batch, device)
    made = {}
    def step(make):
        if make not in made: made[make] = Step(make, c, device, compiled=True)
        made[make](inputs, targets)
    return {"step: compiled": partial(step, tinyrope),
            "step: stream in bf16": partial(step, stream_in_bf16),
            "step: in CUDA graphs": partial(step, in_cuda_graphs)}


# ---- the loss over the vocabulary

def by_comparison(h, w, bias, targets, chunk):
    "The loss in chunks as `tinyrope.kernels` has it, the onehot by comparison and not scatter"
    loss, d_h = torch.zeros((), device=h.device), torch.empty_like(h)
    d_w = torch.zeros_like(w, dtype=torch.float32)
    words = torch.arange(len(w), device=h.device)
    for i in range(0, len(h), chunk):
        rows, right = h[i:i+chunk], targets[i:i+chunk, None]
        z = (rows @ w.T).float()
        if bias is not None: z = z + bias
        total = z.logsumexp(-1, keepdim=True)
        loss += (total - z.gather(1, right)).sum()
        grad = ((z - total).exp() - (words == right).float()).to(h.dtype)
        d_h[i:i+chunk] = grad @ w
        d_w += grad.T @ rows
    return loss, d_h, d_w, None


def all_logits(h, words, targets):
    "The loss over the vocabulary by PyTorch, from all logits at once"
    head = torch.nn.Linear(h.shape[1], words, device=h.device, dtype=h.dtype)
    def at_once():
        x = h.detach().requires_grad_()
        F.cross_entropy(head(x).float(), targets).backward()
    return at_once


def losses(c, rows, device):
    "Ways to compute the loss over the vocabulary and its gradients: name → function"
    dtype = precision_on(device)
    words = -(-c.vocab_size//64)*64                     # padded, as training pads it
    h = torch.randn(rows, c.dim, device=device, dtype=dtype)
    w = torch.randn(words, c.dim, device=device, dtype=dtype)*.02
    bias = torch.zeros(words, device=device)
    targets = torch.randint(c.vocab_size, (rows,), device=device)
    at_once = all_logits(h, words, targets)
    found = {"all logits, eager": at_once, "all logits, compiled": torch.compile(at_once)}
    for name, way in {"scatter": _loss_and_gradients, "comparison": by_comparison}.items():
        for chunk in (2048, 8192, rows):
            for how, f in {"eager": way, "compiled": torch.compile(way)}.items():
                run = partial(f, h, w, bias, targets, chunk)
                found[f"{name}, chunks of {chunk}, {how}"] = run
    return found


# ---- optimizers and batches

def take_steps(optimizers):
    "Take a step of each optimizer"
    for o in optimizers: o.step()


def optimizer_steps(c, device):
    "Steps of the optimizers and clipping, on random gradients: name → function"
    found = {}
    settings = {"AdamW": TrainConfig(optimizer="adamw"), "Muon and AdamW": TrainConfig()}
    for name, how in settings.items():
        model = Transformer(c).to(device)
        for p in model.parameters(): p.grad = torch.randn_like(p)
        found[name] = partial(take_steps, make_optimizers(model, how))
    found["clipping"] = partial(torch.nn.utils.clip_grad_norm_, list(model.parameters()), 1.)
    return found


def reading(c, batch, device):
    "Reading a batch, and moving it to the device: name → function"
    store = prepare(configure("laptop")[1], 2048)[1]
    batches = Batches(store, batch, c.seq_len, 0)
    rows = batches(0)
    def move():
        pinned = [x.pin_memory() if device.type == "cuda" else x for x in rows]
        return [x.to(device, non_blocking=True) for x in pinned]
    return {"reading a batch": lambda: batches(1), "moving it": move}


# ---- the stage

def all_pieces(c, batch, device):
    "All parts of a step of one shape: name → function; made group by group, to spare memory"
    yield from whole_steps(c, batch, device).items()
    yield from losses(c, batch*c.seq_len, device).items()
    yield from optimizer_steps(c, device).items()
    yield from reading(c, batch, device).items()


def milliseconds(f, device, rounds):
    "Median milliseconds of a call"
    return 1e3*median(take_turns({"f": f}, rounds, device=device)["f"])


def stage(a, check, save):
    "Measure all parts, each by itself"
    found = {}
    for shape, (c, batch) in SHAPES["cuda"].items():
        if a.small: c, batch = shrink(c, hidden_dim=192), 64
        torch._dynamo.reset()
        rows = dict(batch=batch, seq_len=c.seq_len, milliseconds={}, failed={})
        found[shape] = rows
        for name, f in all_pieces(c, batch, a.device):
            check()
            ms, failed = try_out(partial(milliseconds, f, a.device, 3 if a.small else 7))
            if failed: rows["failed"][name] = failed
            else: rows["milliseconds"][name] = ms
            print(f"{shape:6} {name:45} {failed or ms}", flush=True)
            save(dict(shapes=found))
