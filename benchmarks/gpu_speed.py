"""Stages `speed-full`, `speed-15m` and `pieces` of gpu.py: how fast a training step is, where its time goes, and what could be faster."""
import re
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from statistics import median

import torch
from common import show, wait
from tinyrope import model as own
from tinyrope.data import Batches
from tinyrope.model import Transformer
from tinyrope.optim import make_optimizers
from tinyrope.prepare import prepare
from tinyrope.processes import can_compile
from tinyrope.train import TrainConfig, configure
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from training import LIBRARIES, PRODUCT, SHAPES, Step, as_claimed, measure, plain, tinyrope

ROUNDS = 15
KINDS = {"attention": r"flash|fmha|attention|sdpa", "optimizer and clipping": r"adam|multi_tensor|foreach|lerp|clip|norm_cleanup", "copies": r"memcpy|memset|copy_",
         "products": r"gemm|nvjet|cutlass|xmma|cublas|\bmm\b|addmm|bmm|mkl", "compiled: norms, activations, loss, casts": r"triton|cpp_fused"}       # the first that fits counts


def seconds(f, device, rounds=ROUNDS):
    "Median seconds of a call, after two that do not count"
    times = []
    for _ in range(rounds + 2):
        wait(device)
        start = time.perf_counter()
        f()
        wait(device)
        times.append(time.perf_counter() - start)
    return median(times[2:])


def breakdown(step, device, steps=5):
    "Milliseconds a step by kind of kernel, the share of the time in which the device is idle, and the kernels that take most"
    for _ in range(3): step()
    wait(device)
    start = time.perf_counter()
    for _ in range(steps): step()               # back to back, as in training
    wait(device)
    whole = (time.perf_counter() - start)/steps*1e3
    gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA]*gpu) as p:
        for _ in range(steps): step()
        wait(device)
    spent = (lambda e: e.self_device_time_total) if gpu else (lambda e: e.self_cpu_time_total)
    span = lambda e: e.is_user_annotation or e.key.startswith(("## Call", "Optimizer.", "ProfilerStep"))        # covers kernels that are counted themselves
    events = [e for e in p.key_averages() if (e.device_type == DeviceType.CUDA) == gpu and not (gpu and span(e))]
    found = sorted(((e.key, spent(e)/steps/1e3, e.count/steps) for e in events), key=lambda e: -e[1])
    kinds = {kind: sum(ms for name, ms, _ in found if kind_of(name) == kind) for kind in (*KINDS, "other")}
    return dict(milliseconds=whole, kinds=kinds, idle=max(0., 1 - sum(kinds.values())/whole) if gpu else None, kernels=sum(n for *_, n in found),
                longest=[dict(name=name[:120], milliseconds=ms, calls=n) for name, ms, n in found[:25]])


def kind_of(name): return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "other")


def stage(a, check, save, shape):
    "A training step beside others, and its breakdown: compiled with AdamW, compiled with Muon, eager"
    c, batch = SHAPES["cuda"][shape]
    libraries = LIBRARIES | {"plain PyTorch": plain} | ({"as claimed": as_claimed} if shape == "full" and not a.small else {})
    if a.small: c, batch = replace(c, vocab_size=515, dim=64, n_layers=2, n_heads=2, n_kv_heads=2, hidden_dim=192, seq_len=64), 4
    found = measure(c, batch, a.device, 3 if a.small else ROUNDS, libraries)
    show(f"{shape}: {batch} x {c.seq_len} tokens", found["rows"])
    print(f"  {PRODUCT}: {found['machine']['flops_per_second']/1e12:,.1f} TFLOP/s; utilisation " + ", ".join(f"{n} {r['utilisation']:.1%}" for n, r in found["rows"].items()))
    save(found)
    torch._dynamo.reset()
    rows = torch.randint(c.vocab_size, (batch, c.seq_len + 1), device=a.device)
    inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    found["profiles"] = {}
    for name, options in {"compiled": dict(compiled=True), "compiled, Muon": dict(compiled=True, muon=True), "eager": {}}.items():
        check()
        if "compiled" in name and not can_compile(a.device): continue
        step = Step(tinyrope, c, a.device, **options)
        found["profiles"][name] = parts = breakdown(lambda: step(inputs, targets), a.device)
        save(found)
        print(f"\n{name}: {parts['milliseconds']:.2f} ms a step, {parts['kernels']:.0f} kernels" + ("" if parts["idle"] is None else f", idle {parts['idle']:.1%}"))
        for kind, ms in parts["kinds"].items(): print(f"  {kind:45} {ms:8.2f} ms")
        for k in parts["longest"][:12]: print(f"    {k['milliseconds']:8.3f} ms  {k['calls']:6.1f} x  {k['name'][:100]}")


def by_comparison(h, w, bias, targets, chunk):
    "The loss over the vocabulary with its gradients, as `tinyrope.model` has it, but with the onehot by comparison and not by scatter"
    loss, d_h, d_w = torch.zeros((), device=h.device), torch.empty_like(h), torch.zeros_like(w, dtype=torch.float32)
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


def losses(c, rows, device):
    "Ways to compute the loss over the vocabulary and its gradients: name → function"
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    words = -(-c.vocab_size // 64)*64
    h, w = torch.randn(rows, c.dim, device=device, dtype=dtype), torch.randn(words, c.dim, device=device, dtype=dtype)*.02
    targets, ways = torch.randint(c.vocab_size, (rows,), device=device), {"scatter": own._loss_and_gradients, "comparison": by_comparison}
    bias = torch.zeros(words, device=device)
    whole = torch.nn.Linear(c.dim, words, device=device, dtype=dtype)

    def at_once():
        x = h.detach().requires_grad_()
        torch.nn.functional.cross_entropy(whole(x).float(), targets).backward()
    found = {"all logits, eager": at_once, "all logits, compiled": torch.compile(at_once)}
    for name, way in ways.items():
        for chunk in (2048, 8192, rows):
            for how, f in (("eager", way), ("compiled", torch.compile(way))): found[f"{name}, chunks of {chunk}, {how}"] = lambda f=f, chunk=chunk: f(h, w, bias, targets, chunk)
    return found


def stream_in_bf16(c, compiled):
    "Model and loss of tinyrope, its residual stream in bf16 and not in fp32: half as many bytes for every norm and addition"
    model = Transformer(c)
    model.embedding.register_forward_hook(lambda module, inputs, x: x.bfloat16())
    return model, compiled(model)


def in_cuda_graphs(c, compiled):
    "Model and loss of tinyrope, compiled into CUDA graphs: one launch for many kernels"
    model = Transformer(c)
    return model, torch.compile(model, mode="reduce-overhead")


def whole_steps(c, batch, device):
    "A whole step, as it is and with one thing changed: name → function"
    rows = torch.randint(c.vocab_size, (batch, c.seq_len + 1), device=device)
    inputs, targets, made = rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), {}
    def step(make):
        if make not in made: made[make] = Step(make, c, device, compiled=True)
        made[make](inputs, targets)
    return {f"step: {name}": partial(step, make) for name, make in {"compiled": tinyrope, "stream in bf16": stream_in_bf16, "in CUDA graphs": in_cuda_graphs}.items()}


def optimizers(c, device):
    "Steps of the optimizers, on random gradients: name → function"
    found = {}
    for name, how in {"AdamW": TrainConfig(optimizer="adamw"), "Muon and AdamW": TrainConfig()}.items():
        model = Transformer(c).to(device)
        for p in model.parameters(): p.grad = torch.randn_like(p)
        steps = make_optimizers(model, how)
        found[name] = lambda steps=steps: [o.step() for o in steps]
        found["clipping"] = lambda model=model: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
    return found


def reading(c, batch, device):
    "Reading a batch, and moving it to the device: name → function"
    store = prepare(configure("laptop")[1], 2048)[1]
    batches = Batches(store, batch, c.seq_len, 0)
    rows = batches(0)
    move = lambda: [(x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True) for x in rows]
    return {"reading a batch": lambda: batches(1), "moving it": move}


def pieces(a, check, save):
    "Parts of a step in several ways: milliseconds; what fails is named"
    found = {}
    for shape, (c, batch) in SHAPES["cuda"].items():
        if a.small: c, batch = replace(c, vocab_size=515, dim=64, n_layers=2, n_heads=2, n_kv_heads=2, hidden_dim=192, seq_len=64), 64
        torch._dynamo.reset()
        rows = found[shape] = dict(batch=batch, seq_len=c.seq_len, milliseconds={}, failed={})
        for group in (whole_steps(c, batch, a.device), losses(c, batch*c.seq_len, a.device), optimizers(c, a.device), reading(c, batch, a.device)):
            for name, f in group.items():
                check()
                try: rows["milliseconds"][name] = 1e3*seconds(f, a.device, 3 if a.small else 7)
                except Exception as e: rows["failed"][name] = f"{type(e).__name__}: {e}"[:300]      # an experiment; the others go on
                print(f"{shape:6} {name:45} {rows['milliseconds'].get(name, rows['failed'].get(name))}", flush=True)
        save(dict(shapes=found))
