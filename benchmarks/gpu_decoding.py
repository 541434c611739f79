"""Stage `decoding` of gpu.py: tokens per second with fewer and fewer key-value heads, eager, compiled, and captured into a CUDA graph."""
import time
from dataclasses import replace
from statistics import median

import torch
from common import wait
from tinyrope.attention import cache_bytes
from tinyrope.model import SIZES, Transformer, generate_tokens, new_cache

HEADS, BATCHES, PROMPT, NEW = (10, 5, 2, 1), (1, 64, 1024), 256, 64


class FixedCache:
    "Keys and values of one layer in buffers that never change their place: what a CUDA graph needs"
    def __init__(self, batch, n_kv_heads, max_len, head_dim, dtype, device, position):
        self.k, self.v = (torch.zeros(batch, n_kv_heads, max_len, head_dim, dtype=dtype, device=device) for _ in range(2))
        self.position = position            # (1,) where the next token goes; shared by all layers

    def append(self, k, v):
        "Put one token's keys and values in place; return all, which the mask has to cut off after `position`"
        self.k.index_copy_(2, self.position, k)
        self.v.index_copy_(2, self.position, v)
        return self.k, self.v


class Fixed:
    "Greedy decoding, one token a call, in buffers that stay where they are; on a GPU the call is captured once and replayed"
    @torch.no_grad()
    def __init__(self, model, prompt, new):
        c, p, batch = model.config, next(model.parameters()), len(prompt)
        self.model, length = model, prompt.shape[1] + new
        self.position, self.where = torch.tensor([prompt.shape[1]], device=p.device), torch.arange(length, device=p.device)
        self.caches, usual = [FixedCache(batch, c.kv_heads, length, c.head_dim, p.dtype, p.device, self.position) for _ in model.blocks], new_cache(model, batch, prompt.shape[1])
        self.tokens = model.head(model.hidden(prompt, usual)[:, -1]).argmax(-1, keepdim=True)
        for fixed, layer in zip(self.caches, usual): fixed.k[:, :, :layer.length], fixed.v[:, :, :layer.length] = layer.k, layer.v
        self.start, self.graph = (self.position.clone(), self.tokens.clone()), None
        if p.is_cuda: self.capture()

    def step(self):
        "Read `tokens`, put the likeliest next ones in their place"
        m = self.model
        x, rope = m.embedding(self.tokens), (m.positions.cos.index_select(0, self.position), m.positions.sin.index_select(0, self.position))
        mask = (self.where <= self.position)[None, None, None]
        for block, cache in zip(m.blocks, self.caches): x = block(x, rope, mask, cache)
        self.tokens.copy_(m.head(m.norm(x))[:, 0].argmax(-1, keepdim=True))
        self.position.add_(1)

    def capture(self):
        "Record a step; two before it, on a stream of their own, let libraries set themselves up"
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2): self.step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph): self.step()

    @torch.no_grad()
    def __call__(self, new):
        "Decode `new` tokens from the prompt: (batch, new)"
        self.position.copy_(self.start[0])
        self.tokens.copy_(self.start[1])
        found = [self.tokens.clone()]
        for _ in range(new - 1):
            self.graph.replay() if self.graph else self.step()
            found.append(self.tokens.clone())
        return torch.cat(found, 1)


def usual(model, prompt, new):
    "Greedy decoding by `tinyrope.model.generate_tokens`: (batch, new)"
    return torch.stack(list(generate_tokens(model, prompt, new, lambda logits: logits.argmax(-1))), 1)


def per_token(decode_some, device, new):
    "Seconds a token, without the prompt: a long generation less a short one"
    def once(n):
        wait(device)
        start = time.perf_counter()
        decode_some(n)
        wait(device)
        return time.perf_counter() - start
    short = new//4
    for n in (short, new): once(n)
    return median(once(new) - once(short) for _ in range(5))/(new - short)


def ways(model, prompt, new):
    "Ways to decode, made when asked for: name → function that returns a function of the number of tokens"
    def compiled():
        model.compile(dynamic=True)
        return lambda n: usual(model, prompt, n)
    return {"eager": lambda: lambda n: usual(model, prompt, n), "captured": lambda: Fixed(model, prompt, new), "compiled": compiled}          # compiled last: it stays so


def same_tokens(c, device):
    "Assert, in fp32, that buffers in fixed places change no token"
    torch.manual_seed(0)
    model, prompt = Transformer(c).eval().to(device), torch.randint(c.vocab_size, (2, 7), device=device)
    for name, p in model.named_parameters():
        if name.startswith("blocks") and p.ndim == 2: p.data.mul_(3)            # or it would say one word again and again
    expected = usual(model, prompt, 24)
    assert torch.equal(Fixed(model, prompt, 24)(24), expected), "a captured step picks other tokens"
    return len(expected.unique())


def stage(a, check, save):
    "Decode at the original's size, in bf16 on a GPU"
    base = replace(SIZES["as_claimed"], attention_dropout=0.)
    heads, batches, prompt, new = (HEADS, BATCHES, PROMPT, NEW) if not a.small else ((4, 1), (1, 4), 8, 16)
    if a.small: base = replace(base, vocab_size=515, dim=64, n_layers=2, n_heads=4, n_kv_heads=None, hidden_dim=None, seq_len=64)
    dtype = torch.bfloat16 if a.device.type == "cuda" else torch.float32
    found = dict(model=vars(base), prompt=prompt, new=new, dtype=str(dtype), different_tokens=same_tokens(replace(base, n_kv_heads=heads[-1], init="scaled"), a.device), rows=[])
    for batch in batches:
        for n in heads:
            torch.manual_seed(0)
            torch._dynamo.reset()
            model = Transformer(replace(base, n_kv_heads=n)).eval().to(a.device, dtype)
            tokens = torch.randint(base.vocab_size, (batch, prompt), device=a.device)
            for name, make in ways(model, tokens, new).items():
                check()
                row = dict(kv_heads=n, batch=batch, way=name, cache_bytes=cache_bytes(base.n_layers, n, base.head_dim, prompt + new))
                try: row["tokens_per_second"] = batch/per_token(make(), a.device, new)
                except Exception as e: row["failed"] = f"{type(e).__name__}: {e}"[:300]             # the other ways go on
                found["rows"].append(row)
                print(f"batch {batch:5}  {n:2} key-value heads  {name:9} {row.get('tokens_per_second', row.get('failed'))}", flush=True)
                save(found)
