"""Training speed beside other libraries: `python benchmarks/training.py` writes
results/training.json.

tinyrope (eager, compiled, and compiled with Muon, as it trains by default) against transformers'
Llama, x-transformers and litgpt, each eager and compiled, in the same architecture: RMSNorm,
SwiGLU of the same width, RoPE, causal attention by PyTorch's kernel, one matrix for embedding and
head (two at the full size), no dropout. On a GPU also a model of the same size in plain PyTorch:
`nn.TransformerEncoderLayer`, LayerNorm, GELU, biases, a sinusoidal table added to the embeddings,
all logits at once.

A step is forward, backward, clipping of the gradient to 1, and fused AdamW, in fp32, on the same
random tokens (`--bf16`, and `--device cuda`: under autocast to bf16). Losses are those that each
library trains with; litgpt compiles its model without the loss, as its own trainer does. Candidates
take turns step by step, and with them a product of two large matrices, the speed that the machine
has at that time: utilisation is the share of it that the operations of `flops_per_token` make up.

A library that is not installed is left out. litgpt 0.5.13 pins an old huggingface-hub; beside a new
transformers it is installed with

    pip install --no-deps litgpt lightning lightning-utilities torchmetrics jsonargparse frozendict
"""
import math
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from common import build, compare, show, speed_parser, take_turns, write_groups
from models import llama, never_eager, precision_on, random_batch
from tinyrope.model import SIZES, ModelConfig, Transformer, count_parameters, flops_per_token
from tinyrope.optim import make_optimizers
from tinyrope.processes import can_compile
from tinyrope.rope import sinusoidal_table
from tinyrope.train import TrainConfig

LAPTOP = ModelConfig(vocab_size=2048, dim=128, n_layers=4, n_heads=4, hidden_dim=352, seq_len=256)
FULL = ModelConfig(vocab_size=50_257, dim=640, n_layers=12, n_heads=10, seq_len=512, tied=False)
SMALL = partial(ModelConfig, dim=288, n_layers=6, n_heads=6, hidden_dim=768, seq_len=256)
SHAPES = {      # of the model, and rows in a batch
    "cpu": {"laptop": (LAPTOP, 16), "small": (SMALL(vocab_size=4096), 8),
            "large-vocabulary": (SMALL(vocab_size=32_000), 4)},
    "cuda": {"full": (FULL, 64), "15m": (SMALL(vocab_size=32_000), 256)}}
PEER, PRODUCT, SEED = "transformers", "matrix product", 0
PACKAGES = ("tinyrope", "transformers", "x-transformers", "litgpt")


# ---- models and losses: of a configuration, and of a function that compiles or does nothing

def tinyrope(c, compiled):
    "Model and loss of tinyrope"
    model = Transformer(c)
    return model, compiled(model)


def as_claimed(c, compiled):
    "Model and loss of the original's model as it was claimed to be, whatever the others' shape"
    return tinyrope(SIZES["as_claimed"], compiled)


def transformers(c, compiled):
    "Model and loss of transformers' Llama"
    model = llama(c, use_cache=False, attn_implementation="sdpa")
    forward = compiled(model)
    def loss(inputs, targets):
        return forward(input_ids=inputs, labels=targets, shift_labels=targets).loss
    return model, loss


def x_transformers(c, compiled):
    "Model and loss of x-transformers; its gate always has a bias"
    from x_transformers import Decoder, TransformerWrapper
    layers = Decoder(dim=c.dim, depth=c.n_layers, heads=c.n_heads, attn_dim_head=c.head_dim,
                     attn_flash=True, rotary_pos_emb=True, rotary_emb_dim=c.head_dim,
                     use_rmsnorm=True, ff_mult=c.mlp_dim/c.dim, ff_swish=True, ff_glu=True,
                     ff_no_bias=True)
    model = TransformerWrapper(num_tokens=c.vocab_size, max_seq_len=c.seq_len, attn_layers=layers,
                               use_abs_pos_emb=False, tie_embedding=c.tied)
    def loss(inputs, targets):
        return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    return model, compiled(loss)


def litgpt(c, compiled):
    "Model and loss of litgpt"
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy
    model = GPT(Config(block_size=c.seq_len, padded_vocab_size=c.vocab_size, n_layer=c.n_layers,
                       n_head=c.n_heads, n_embd=c.dim, rotary_percentage=1.,
                       parallel_residual=False, bias=False, norm_class_name="RMSNorm",
                       mlp_class_name="LLaMAMLP", intermediate_size=c.mlp_dim))
    model.apply(model._init_weights)
    if c.tied: model.lm_head.weight = model.transformer.wte.weight
    forward = compiled(model)
    return model, lambda inputs, targets: chunked_cross_entropy(forward(inputs), targets)


class Plain(torch.nn.Module):
    "A language model as a plain PyTorch program has it, and as the original run had it"
    def __init__(self, c):
        super().__init__()
        self.embedding = torch.nn.Embedding(c.vocab_size, c.dim)
        self.head = torch.nn.Linear(c.dim, c.vocab_size)
        layer = torch.nn.TransformerEncoderLayer(c.dim, c.n_heads, 4*c.dim, dropout=0.,
                                                 activation="gelu", batch_first=True,
                                                 norm_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, c.n_layers, torch.nn.LayerNorm(c.dim),
                                                  enable_nested_tensor=False)
        mask = torch.nn.Transformer.generate_square_subsequent_mask(c.seq_len)
        self.register_buffer("table", sinusoidal_table(c.seq_len, c.dim))
        self.register_buffer("mask", mask)
        if c.tied: self.head.weight = self.embedding.weight

    def forward(self, inputs, targets):
        "Mean loss of a batch"
        h = self.layers(self.embedding(inputs) + self.table, mask=self.mask, is_causal=True)
        return F.cross_entropy(self.head(h).float().flatten(0, 1), targets.flatten())


def plain(c, compiled):
    "Model and loss in plain PyTorch"
    model = Plain(c)
    return model, compiled(model)


LIBRARIES = {"tinyrope": tinyrope, "transformers": transformers, "x-transformers": x_transformers,
             "litgpt": litgpt}


# ---- a step

def optimizers_of(model, muon):
    "Fused AdamW, or Muon and AdamW as tinyrope trains by default"
    if muon: return make_optimizers(model, TrainConfig())
    return [torch.optim.AdamW(model.parameters(), fused=True)]


class Step:
    "A training step"
    def __init__(self, make, c, device, compiled=False, muon=False, bf16=False):
        torch.manual_seed(SEED)
        with device: self.model, self.loss = make(c, torch.compile if compiled else lambda f: f)
        self.model.train()
        self.optimizers = optimizers_of(self.model, muon)
        low = bf16 or device.type == "cuda"
        self.precision = torch.autocast(device.type, torch.bfloat16) if low else nullcontext()

    def forward(self, inputs, targets):
        "Mean loss of a batch"
        with self.precision: return self.loss(inputs, targets)

    def __call__(self, inputs, targets):
        self.forward(inputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.)
        for o in self.optimizers:
            with self.precision: o.step()
            o.zero_grad()


def make_steps(c, device, libraries, bf16):
    "Make all steps that can be taken here"
    def step(make, **options): return partial(Step, make, c, device, bf16=bf16, **options)
    steps = {}
    for name, make in libraries.items():
        steps |= {name: step(make), f"{name}, compiled": step(make, compiled=True)}
        if make is tinyrope: steps[f"{name}, compiled, Muon"] = step(make, compiled=True, muon=True)
    if can_compile(device): return build(steps)
    print("left out: all that is compiled (PyTorch finds no working compiler)")
    return build({name: make for name, make in steps.items() if "compiled" not in name})


def check_size(name, n, expected):
    "Assert that a model has as many parameters as tinyrope's, or nearly where that is known"
    if n == expected: return
    print(f"{name} has {n:,} parameters, tinyrope {expected:,}")
    other = name.startswith(("x-transformers", "plain PyTorch", "as claimed"))
    assert other and abs(n/expected - 1) < .1, f"{name} is another architecture"


def check_loss(name, loss, vocab_size):
    "Assert that a model that is drawn as ours begins at ln(vocab_size)"
    near = abs(loss - math.log(vocab_size)) < .2
    ours = name.startswith(("tinyrope", "transformers"))
    assert near or not ours, f"{name} begins at a loss of {loss:.3f}"


def check(steps, c, inputs, targets):
    "Assert that all steps train one architecture; returns parameters and first losses"
    expected, parameters, losses = sum(count_parameters(c).values()), {}, {}
    for name, step in steps.items():
        parameters[name] = sum(p.numel() for p in step.model.parameters())
        losses[name] = step.forward(inputs, targets).item()
        check_size(name, parameters[name], expected)
        check_loss(name, losses[name], c.vocab_size)
    return dict(parameters=parameters, first_losses=losses)


# ---- the measurement

def product(device, bf16):
    "A product of two square matrices in the precision of the steps, and its number of operations"
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if bf16 else precision_on(device))
    out = torch.empty_like(a)
    return lambda *_: torch.mm(a, a, out=out), 2*n**3


def speed_of_machine(seconds, operations):
    "What `compare` says of the matrix product, and its best round"
    found = compare({PRODUCT: seconds}, None, flops=operations)[PRODUCT]
    return found | dict(best_flops_per_second=operations/min(seconds))


def measure(c, batch, device, rounds, libraries=LIBRARIES, bf16=False):
    "Measure one shape"
    torch._dynamo.reset()
    steps = make_steps(c, device, libraries, bf16)
    multiply, operations = product(device, bf16)
    draw = partial(random_batch, c, batch, device)
    torch.manual_seed(SEED)         # whatever was built
    checked = check(steps, c, *draw())
    seconds = take_turns(steps | {PRODUCT: multiply}, rounds, draw, device)
    machine = speed_of_machine(seconds.pop(PRODUCT), operations)
    rows = compare(seconds, PEER, tokens=batch*c.seq_len)
    for name, row in rows.items():
        model = steps[name].model
        work = flops_per_token(model.config if isinstance(model, Transformer) else c)
        row["utilisation"] = row["tokens_per_second"]*work/machine["flops_per_second"]
    return dict(model=vars(c), batch_size=batch, flops_per_token=flops_per_token(c), **checked,
                rows=rows, machine=machine)


def show_shape(shape, found):
    "Print the table of a shape, and how much of the machine's speed the steps use"
    show(f"{shape}: {found['batch_size']} x {found['model']['seq_len']} tokens", found["rows"])
    machine = found["machine"]
    speed, best = (machine[key]/1e9 for key in ("flops_per_second", "best_flops_per_second"))
    used = [f"{name} {row['utilisation']:.1%}" for name, row in found["rows"].items()]
    print(f"  {PRODUCT}: {speed:,.1f} GFLOP/s, best {best:,.1f}; utilisation", ", ".join(used))


def main():
    p = speed_parser(__doc__, "results/training.json", rounds=15)
    p.add_argument("--shapes", nargs="+", help="default: all of the device")
    p.add_argument("--device", type=torch.device, default=torch.device("cpu"),
                   help="cpu (default) or cuda")
    p.add_argument("--bf16", action="store_true", help="compute products in bf16 on a CPU too")
    a = p.parse_args()
    shapes = SHAPES[a.device.type]
    libraries = LIBRARIES | ({"plain PyTorch": plain} if a.device.type == "cuda" else {})
    if unknown := set(a.shapes or ()) - set(shapes):
        p.error(f"no shape {sorted(unknown)} on {a.device}: choose from {list(shapes)}")
    never_eager()
    groups = {}
    for shape in a.shapes or shapes:
        groups[shape] = measure(*shapes[shape], a.device, a.rounds, libraries, a.bf16)
        show_shape(shape, groups[shape])
    write_groups(a.out, groups, PACKAGES, rounds=a.rounds, peer=PEER, seed=SEED,
                 device=str(a.device), bf16=a.bf16, threads=torch.get_num_threads())


if __name__ == "__main__": main()
