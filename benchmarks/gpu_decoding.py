"""Stage `decoding` of gpu.py: tokens per second with fewer and fewer key-value heads.

Three ways to decode greedily: eager, captured into a CUDA graph, and compiled. That captured and
eager decoding pick the same tokens is asserted first. The time of a token is the difference of a
long and a short generation, which leaves out the prompt."""
from dataclasses import replace
from functools import partial
from itertools import product
from statistics import median

import torch
from common import clock, try_out
from models import compile_decoding, decode, enlarge, precision_on, shrink
from tinyrope.attention import cache_bytes
from tinyrope.model import SIZES, Transformer, new_cache

HEADS, BATCHES, PROMPT, NEW = (10, 5, 2, 1), (1, 64, 1024), 256, 64


# ---- decoding that can be captured

class FixedCache:
    "Buffers of a cache, of which always all is given: a CUDA graph needs them in one place"
    def __init__(self, cache, position):
        self.k, self.v = cache.k, cache.v
        self.position = position            # (1,) where the next token goes; shared by all layers

    def append(self, k, v):
        "Put one token's keys and values in place; return all: a mask cuts off those after it"
        self.k.index_copy_(2, self.position, k)
        self.v.index_copy_(2, self.position, v)
        return self.k, self.v


class FixedDecoder:
    "Greedy decoding, a token a call, in fixed buffers; on a GPU a step is captured and replayed"
    @torch.no_grad()
    def __init__(self, model, prompt, new):
        self.model, length = model, prompt.shape[1] + new
        self.position = torch.tensor([prompt.shape[1]], device=prompt.device)
        self.where = torch.arange(length, device=prompt.device)
        cache = new_cache(model, len(prompt), length)
        self.tokens = model.head(model.hidden(prompt, cache)[:, -1]).argmax(-1, keepdim=True)
        self.caches = [FixedCache(layer, self.position) for layer in cache]
        self.start = self.position.clone(), self.tokens.clone()
        self.replay = self.capture() if prompt.is_cuda else self.step

    def step(self):
        "Read `tokens`, put the likeliest next ones in their place"
        m, table = self.model, self.model.positions
        x = m.embedding(self.tokens)
        rope = table.cos.index_select(0, self.position), table.sin.index_select(0, self.position)
        mask = (self.where <= self.position)[None, None, None]
        for block, cache in zip(m.blocks, self.caches): x = block(x, rope, mask, cache)
        self.tokens.copy_(m.head(m.norm(x))[:, 0].argmax(-1, keepdim=True))
        self.position.add_(1)

    def capture(self):
        "Record a step, and return what replays it"
        side = torch.cuda.Stream()          # two steps before it let libraries set themselves up
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2): self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph): self.step()
        return graph.replay

    @torch.no_grad()
    def __call__(self, new):
        "Decode `new` tokens from the prompt: (batch, new)"
        self.position.copy_(self.start[0])
        self.tokens.copy_(self.start[1])
        found = [self.tokens.clone()]
        for _ in range(new - 1):
            self.replay()
            found.append(self.tokens.clone())
        return torch.cat(found, 1)


def same_tokens(c, device):
    "Assert, in fp32, that buffers in fixed places change no token; returns how many are different"
    torch.manual_seed(0)
    model = Transformer(c).eval().to(device)
    prompt = torch.randint(c.vocab_size, (2, 7), device=device)
    enlarge(model)
    expected = decode(model, prompt, 24)
    found = FixedDecoder(model, prompt, 24)(24)
    assert torch.equal(found, expected), "a captured step picks other tokens"
    return len(expected.unique())


# ---- the measurement

def eager(model, prompt, new):
    "Decoding as it is"
    return partial(decode, model, prompt)


def compiled(model, prompt, new):
    "Decoding after compiling the model, which stays compiled"
    compile_decoding(model)
    return partial(decode, model, prompt)


WAYS = {"eager": eager, "captured": FixedDecoder, "compiled": compiled}     # last: it stays so


def seconds_a_token(decode_some, device, new):
    "Seconds a token, without the prompt: a long generation less a short one"
    def seconds(n): return clock(lambda: decode_some(n), device)[0]
    short = new//4
    for n in (short, new): seconds(n)
    return median(seconds(new) - seconds(short) for _ in range(5))/(new - short)


def make_model(base, n_kv_heads, device):
    "A model that was not trained, in bf16 on a GPU"
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Transformer(replace(base, n_kv_heads=n_kv_heads)).eval()
    return model.to(device, precision_on(device))


def measure(way, model, prompt, new):
    "Tokens per second of one way to decode, or why it fails"
    def run(): return len(prompt)/seconds_a_token(WAYS[way](model, prompt, new), prompt.device, new)
    c, (batch, length) = model.config, prompt.shape
    row = dict(kv_heads=c.kv_heads, batch=batch, way=way,
               cache_bytes=cache_bytes(c.n_layers, c.kv_heads, c.head_dim, length + new))
    speed, failed = try_out(run)
    return row | (dict(failed=failed) if failed else dict(tokens_per_second=speed))


def stage(a, check, save):
    "Decode at the original's size"
    base = replace(SIZES["as_claimed"], attention_dropout=0.)
    heads, batches, length, new = HEADS, BATCHES, PROMPT, NEW
    if a.small:
        base = shrink(base, n_heads=4)
        heads, batches, length, new = (2,), (2,), 8, 16
    different = same_tokens(replace(base, n_kv_heads=heads[-1], init="scaled"), a.device)
    found = dict(model=vars(base), prompt=length, new=new, dtype=str(precision_on(a.device)),
                 different_tokens=different, rows=[])
    for batch, n in product(batches, heads):
        model = make_model(base, n, a.device)
        prompt = torch.randint(base.vocab_size, (batch, length), device=a.device)
        for way in WAYS:
            check()
            row = measure(way, model, prompt, new)
            found["rows"].append(row)
            print(f"batch {batch:5}  {n:2} key-value heads  {way:9}",
                  row.get("tokens_per_second", row.get("failed")), flush=True)
            save(found)
