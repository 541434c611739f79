"""Training speed beside other libraries: `python benchmarks/training.py` writes results/training.json.

tinyrope (eager, compiled, and compiled with Muon, as it trains by default) against transformers' Llama, x-transformers and litgpt, each eager
and compiled, in the same architecture: RMSNorm, SwiGLU of the same width, RoPE, causal attention by PyTorch's kernel, one matrix for embedding and
head (two at the full size), no dropout. On a GPU also a model of the same size in plain PyTorch: `nn.TransformerEncoderLayer`, LayerNorm, GELU, biases, a sinusoidal table added
to the embeddings, all logits at once. A step is forward, backward, clipping of the gradient to 1, and fused AdamW, in fp32, on the same random
tokens (`--device cuda`: in bf16). Losses are those that each library trains with; litgpt compiles its model without the loss, as its own trainer does.
Candidates take turns step by step, and with them a product of two large matrices, the speed that the machine has at that time:
utilisation is the share of it that the operations of `flops_per_token` make up.

A library that is not installed is left out. litgpt 0.5.13 pins an old huggingface-hub; beside a new transformers it is installed with
`pip install --no-deps litgpt lightning lightning-utilities torchmetrics jsonargparse frozendict`."""
import math
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from common import build, compare, parser, show, take_turns, write
from tinyrope.model import SIZES, ModelConfig, Transformer, count_parameters, flops_per_token
from tinyrope.optim import make_optimizers
from tinyrope.processes import can_compile
from tinyrope.rope import sinusoidal_table
from tinyrope.train import TrainConfig

small = partial(ModelConfig, dim=288, n_layers=6, n_heads=6, hidden_dim=768, seq_len=256)
SHAPES = {"cpu": {"laptop": (ModelConfig(vocab_size=2048, dim=128, n_layers=4, n_heads=4, hidden_dim=352, seq_len=256), 16),        # and rows in a batch
                  "small": (small(vocab_size=4096), 8), "large-vocabulary": (small(vocab_size=32_000), 4)},
          "cuda": {"full": (ModelConfig(vocab_size=50_257, dim=640, n_layers=12, n_heads=10, seq_len=512, tied=False), 64), "15m": (small(vocab_size=32_000), 256)}}
PEER, PRODUCT, SEED = "transformers", "matrix product", 0
PACKAGES = ("torch", "tinyrope", "transformers", "x-transformers", "litgpt")


def tinyrope(c, compiled):
    "Model and loss of tinyrope"
    model = Transformer(c)
    return model, compiled(model)


def transformers(c, compiled):
    "Model and loss of transformers' Llama"
    from transformers import LlamaConfig, LlamaForCausalLM
    model = LlamaForCausalLM(LlamaConfig(vocab_size=c.vocab_size, hidden_size=c.dim, intermediate_size=c.mlp_dim, num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads, num_key_value_heads=c.kv_heads, max_position_embeddings=c.seq_len, rms_norm_eps=1e-5, tie_word_embeddings=c.tied,
        use_cache=False, attn_implementation="sdpa"))
    forward = compiled(model)
    return model, lambda inputs, targets: forward(input_ids=inputs, labels=targets, shift_labels=targets).loss


def x_transformers(c, compiled):
    "Model and loss of x-transformers; its gate always has a bias"
    from x_transformers import Decoder, TransformerWrapper
    layers = Decoder(dim=c.dim, depth=c.n_layers, heads=c.n_heads, attn_dim_head=c.head_dim, attn_flash=True, rotary_pos_emb=True, rotary_emb_dim=c.head_dim,
                     use_rmsnorm=True, ff_mult=c.mlp_dim/c.dim, ff_swish=True, ff_glu=True, ff_no_bias=True)
    model = TransformerWrapper(num_tokens=c.vocab_size, max_seq_len=c.seq_len, attn_layers=layers, use_abs_pos_emb=False, tie_embedding=c.tied)
    return model, compiled(lambda inputs, targets: F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()))


def litgpt(c, compiled):
    "Model and loss of litgpt"
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy
    model = GPT(Config(block_size=c.seq_len, padded_vocab_size=c.vocab_size, n_layer=c.n_layers, n_head=c.n_heads, n_embd=c.dim, rotary_percentage=1.,
                       parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=c.mlp_dim))
    model.apply(model._init_weights)
    if c.tied: model.lm_head.weight = model.transformer.wte.weight
    forward = compiled(model)
    return model, lambda inputs, targets: chunked_cross_entropy(forward(inputs), targets)


class Plain(torch.nn.Module):
    "A language model as a plain PyTorch program has it, and as the original run had it"
    def __init__(self, c):
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(c.vocab_size, c.dim), torch.nn.Linear(c.dim, c.vocab_size)
        layer = torch.nn.TransformerEncoderLayer(c.dim, c.n_heads, 4*c.dim, dropout=0., activation="gelu", batch_first=True, norm_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, c.n_layers, torch.nn.LayerNorm(c.dim), enable_nested_tensor=False)
        self.register_buffer("table", sinusoidal_table(c.seq_len, c.dim))
        self.register_buffer("mask", torch.nn.Transformer.generate_square_subsequent_mask(c.seq_len))
        if c.tied: self.head.weight = self.embedding.weight

    def forward(self, inputs, targets):
        "Mean loss of a batch"
        h = self.layers(self.embedding(inputs) + self.table, mask=self.mask, is_causal=True)
        return F.cross_entropy(self.head(h).float().flatten(0, 1), targets.flatten())


def plain(c, compiled):
    "Model and loss in plain PyTorch"
    model = Plain(c)
    return model, compiled(model)


class Step:
    "A training step"
    def __init__(self, make, c, device, compiled=False, muon=False):
        torch.manual_seed(SEED)
        with device: self.model, self.loss = make(c, torch.compile if compiled else lambda f: f)
        self.model.train()
        self.optimizers = make_optimizers(self.model, TrainConfig()) if muon else [torch.optim.AdamW(self.model.parameters(), fused=True)]
        self.precision = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()

    def forward(self, inputs, targets):
        "Mean loss of a batch"
        with self.precision: return self.loss(inputs, targets)

    def __call__(self, inputs, targets):
        self.forward(inputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.)
        for o in self.optimizers:
            o.step()
            o.zero_grad()


def as_claimed(c, compiled):
    "Model and loss of the original's model as it was claimed to be, whatever the shape of the others"
    model = Transformer(SIZES["as_claimed"])
    return model, compiled(model)


LIBRARIES = {"tinyrope": tinyrope, "transformers": transformers, "x-transformers": x_transformers, "litgpt": litgpt}


def candidates(c, device, libraries):
    "All steps that can be taken here"
    step = lambda make, **options: partial(Step, make, c, device, **options)
    steps = {}
    for name, make in libraries.items():
        steps |= {name: step(make), f"{name}, compiled": step(make, compiled=True)}
        if make is tinyrope: steps[f"{name}, compiled, Muon"] = step(make, compiled=True, muon=True)
    if can_compile(device): return build(steps)
    print("left out: all that is compiled (PyTorch finds no working compiler)")
    return build({name: make for name, make in steps.items() if "compiled" not in name})


def check(steps, c, inputs, targets):
    "Assert that models have one size and begin at ln(vocab_size); returns parameters and first losses"
    expected, parameters, losses = sum(count_parameters(c).values()), {}, {}
    for name, step in steps.items():
        parameters[name] = n = sum(p.numel() for p in step.model.parameters())
        losses[name] = loss = step.forward(inputs, targets).item()
        if n != expected: print(f"{name} has {n:,} parameters, tinyrope {expected:,}")
        other = name.startswith(("x-transformers", "plain PyTorch", "as claimed"))
        assert n == expected or other and abs(n/expected - 1) < .1, f"{name} is another architecture"
        assert abs(loss - math.log(c.vocab_size)) < .2 or not name.startswith(("tinyrope", "transformers")), f"{name} begins at a loss of {loss:.3f}"
    return dict(parameters=parameters, first_losses=losses)


def product(device):
    "A product of two square matrices, in the precision of the steps; returns it with its number of operations"
    n, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    a, out = torch.randn(n, n, device=device, dtype=dtype), torch.empty(n, n, device=device, dtype=dtype)
    return lambda *_: torch.mm(a, a, out=out), 2*n**3


def measure(c, batch, device, rounds, libraries=LIBRARIES):
    "Measure one shape"
    torch._dynamo.reset()
    steps, (multiply, operations) = candidates(c, device, libraries), product(device)
    def tokens():
        rows = torch.randint(c.vocab_size, (batch, c.seq_len + 1), device=device)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    torch.manual_seed(SEED)         # whatever was built
    checked = check(steps, c, *tokens())
    seconds = take_turns(steps | {PRODUCT: multiply}, rounds, tokens, device)
    machine = compare({PRODUCT: seconds.pop(PRODUCT)}, None, flops=operations)[PRODUCT]
    machine["best_flops_per_second"] = operations/min(machine["seconds"])
    rows = compare(seconds, PEER, tokens=batch*c.seq_len)
    for name, row in rows.items():
        own = steps[name].model.config if isinstance(steps[name].model, Transformer) else c
        row["utilisation"] = row["tokens_per_second"]*flops_per_token(own)/machine["flops_per_second"]
    return dict(model=vars(c), batch_size=batch, flops_per_token=flops_per_token(c), **checked, rows=rows, machine=machine)


def main():
    p = parser(__doc__, "training", rounds=15)
    p.add_argument("--shapes", nargs="+", help="default: all of the device")
    p.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="cpu (default) or cuda")
    a = p.parse_args()
    shapes = SHAPES[a.device.type]
    if unknown := set(a.shapes or ()) - set(shapes): p.error(f"no shape {sorted(unknown)} on {a.device}: choose from {list(shapes)}")
    torch._dynamo.config.recompile_limit, torch._dynamo.config.fail_on_recompile_limit_hit = 64, True       # never eager unnoticed
    groups = {}
    for shape in a.shapes or shapes:
        groups[shape] = found = measure(*shapes[shape], a.device, a.rounds, LIBRARIES | ({"plain PyTorch": plain} if a.device.type == "cuda" else {}))
        show(f"{shape}: {found['batch_size']} x {found['model']['seq_len']} tokens", found["rows"])
        print(f"  {PRODUCT}: {found['machine']['flops_per_second']/1e9:,.1f} GFLOP/s, best {found['machine']['best_flops_per_second']/1e9:,.1f}; utilisation "
              + ", ".join(f"{name} {row['utilisation']:.0%}" for name, row in found["rows"].items() if name.startswith("tinyrope")))
    write(a.out, groups, PACKAGES, rounds=a.rounds, peer=PEER, seed=SEED, device=str(a.device), threads=torch.get_num_threads())


if __name__ == "__main__": main()
