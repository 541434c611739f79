"""Stages `speed-full` and `speed-15m` of gpu.py: how fast a training step is, and why.

A step is timed beside those of other libraries, as benchmarks/training.py does it. Then the
profiler takes tinyrope's step apart, compiled with AdamW, compiled with Muon, and eager:
milliseconds by kind of kernel, and the kernels that take most. The step's own time is measured
without the profiler; the share that no kernel fills is idle."""
import re
from functools import partial

import torch
from common import clock
from models import random_batch, shrink
from tinyrope.processes import can_compile, synchronise
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from training import LIBRARIES, SHAPES, Step, as_claimed, measure, plain, show_shape, tinyrope

ROUNDS = 15
KINDS = {       # of kernels; the first whose pattern fits counts
    "attention": r"flash|fmha|attention|sdpa",
    "optimizer and clipping": r"adam|multi_tensor|foreach|lerp|clip|norm_cleanup",
    "copies": r"memcpy|memset|copy_",
    "products": r"gemm|nvjet|cutlass|xmma|cublas|\bmm\b|addmm|bmm|mkl",
    "compiled: norms, activations, loss, casts": r"triton|cpp_fused"}
SPANS = ("## Call", "Optimizer.", "ProfilerStep")       # cover kernels that are counted themselves
TAKEN_APART = {"compiled": dict(compiled=True), "compiled, Muon": dict(compiled=True, muon=True),
               "eager": {}}


# ---- where the time of a step goes

def kind_of(name):
    "The kind of a kernel"
    fits = (kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE))
    return next(fits, "other")


def is_kernel(event, gpu):
    "Whether an event of the profiler is work of the device, and no span around such work"
    if not gpu: return event.device_type != DeviceType.CUDA
    span = event.is_user_annotation or event.key.startswith(SPANS)
    return event.device_type == DeviceType.CUDA and not span


def repeat(step, times, device):
    "Take steps back to back, as training does"
    for _ in range(times): step()
    synchronise(device)


def kernels_of(step, device, steps):
    "Kernels of a step, longest first: name, milliseconds and calls a step"
    gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA]*gpu) as p:
        repeat(step, steps, device)
    def row(event):
        spent = event.self_device_time_total if gpu else event.self_cpu_time_total
        return dict(name=event.key, milliseconds=spent/steps/1e3, calls=event.count/steps)
    rows = [row(event) for event in p.key_averages() if is_kernel(event, gpu)]
    return sorted(rows, key=lambda row: -row["milliseconds"])


def breakdown(step, device, steps=5):
    "Milliseconds a step by kind of kernel, the share of idle time, and the longest kernels"
    repeat(step, 3, device)
    whole = clock(partial(repeat, step, steps, device), device)[0]/steps*1e3
    kernels = kernels_of(step, device, steps)
    kinds = dict.fromkeys((*KINDS, "other"), 0.)
    for row in kernels: kinds[kind_of(row["name"])] += row["milliseconds"]
    idle = max(0., 1 - sum(kinds.values())/whole) if device.type == "cuda" else None
    longest = [row | dict(name=row["name"][:120]) for row in kernels[:25]]
    return dict(milliseconds=whole, kinds=kinds, idle=idle, longest=longest,
                kernels=sum(row["calls"] for row in kernels))


def show_breakdown(name, parts):
    "Print where the time of a step goes"
    idle = "" if parts["idle"] is None else f", idle {parts['idle']:.1%}"
    print(f"\n{name}: {parts['milliseconds']:.2f} ms a step, {parts['kernels']:.0f} kernels{idle}")
    for kind, ms in parts["kinds"].items(): print(f"  {kind:45} {ms:8.2f} ms")
    for row in parts["longest"][:12]:
        print(f"    {row['milliseconds']:8.3f} ms  {row['calls']:6.1f} x  {row['name'][:100]}")


# ---- the stage

def shape_of(a, shape):
    "Model and rows in a batch of a shape"
    c, batch = SHAPES["cuda"][shape]
    return (shrink(c, hidden_dim=192), 4) if a.small else (c, batch)


def stage(a, check, save, shape):
    "A training step beside others, and its breakdown"
    c, batch = shape_of(a, shape)
    libraries = LIBRARIES | {"plain PyTorch": plain}
    if shape == "full" and not a.small: libraries["as claimed"] = as_claimed
    found = measure(c, batch, a.device, 3 if a.small else ROUNDS, libraries)
    show_shape(shape, found)
    save(found)
    torch._dynamo.reset()
    inputs, targets = random_batch(c, batch, a.device)
    found["profiles"] = {}
    for name, options in TAKEN_APART.items():
        check()
        if "compiled" in name and not can_compile(a.device): continue
        step = Step(tinyrope, c, a.device, **options)
        parts = breakdown(partial(step, inputs, targets), a.device)
        found["profiles"][name] = parts
        save(found)
        show_breakdown(name, parts)
