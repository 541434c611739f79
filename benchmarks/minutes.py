"""How long until a loss is reached, beside transformers?  `python benchmarks/minutes.py`

The default recipe, and transformers' Llama of the same shape: its own initialisation and loss,
compiled, fused AdamW, whole rows in causal attention. Both read the same stories with the same
tokenizer, in the same precision, at rates that fall over the second half. Their steps are timed in
turns on a quiet machine, and a first step in which they compile. Then both are trained with several
numbers of steps, the Llama first with several learning rates, and scored on all validation stories
(about an hour on two cores). The minutes to the target are read off the line between two runs, in
the logarithm of time. Each row is kept as it comes: stopped and given again, it goes on."""
import math
import time

import torch
from common import CPU, add_row, parser, read_begun
from tinyrope.atlas import RECIPES, Trick, make_trial, run_trial
from tinyrope.corpora import load_stories
from tinyrope.data import Batches
from tinyrope.export import hf_name, join_weights, part_shapes
from tinyrope.ledger import in_turns, provenance, write_result
from tinyrope.metrics import evaluate_stories
from tinyrope.optim import schedule
from tinyrope.prepare import prepare
from tinyrope.train import configure
from training import PEER, transformers

OURS, TARGET = "tinyrope", .852         # bits per byte on the validation stories
STEPS = {OURS: (250, 450, 740), PEER: (1500, 3000, 6000)}
BATCH, RATES = 8, (.001, .002, .004)    # of the Llama


class Peer:
    "transformers' Llama in training"
    def __init__(self, steps, rate, seed, bf16):
        self.shape, config = configure("laptop", seed=seed)
        data = prepare(config, self.shape.vocab_size)
        self.batches = Batches(data.train, BATCH, self.shape.seq_len, seed)
        self.tokenizer, self.bf16, self.rate, self.steps = data.tokenizer, bf16, rate, steps
        torch.manual_seed(seed)
        self.model, self.loss = transformers(self.shape, torch.compile)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(.9, .95), fused=True,
                                           weight_decay=0.)
        self.taken = 0

    def step(self):
        "Take a step"
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate*schedule(self.taken, self.steps, "wsd", .02, .5)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.loss(*self.batches(self.taken))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.taken += 1

    def score(self):
        "Score its weights in our model, which computes the same"
        weights = self.model.state_dict()
        parts = {part: weights[hf_name(part)] for part in part_shapes(self.shape)}
        model = join_weights(parts, self.shape)
        return evaluate_stories(model, self.tokenizer, load_stories("valid"))


def recipe(bf16):
    "The default recipe"
    changes = list(RECIPES.values())[-1].changes
    return Trick(changes | dict(precision="bf16" if bf16 else "fp32"))


def timed(bf16):
    "Seconds of the first step of each, and the median of the others, in turns"
    trainers = {OURS: make_trial(recipe(bf16), 1000)[0], PEER: Peer(1000, RATES[0], 0, bf16)}
    first = {}
    for name, trainer in trainers.items():
        start = time.perf_counter()
        trainer.step()
        first[name] = time.perf_counter() - start
    seconds = in_turns({name: t.step for name, t in trainers.items()}, CPU, 20)
    return dict(first_step=first, step={k: sorted(s)[len(s)//2] for k, s in seconds.items()})


def trained(name, steps, rate, seed, bf16):
    "Train and score one of the two; returns its row"
    torch.compiler.reset()
    if name == OURS: return run_trial(recipe(bf16), steps, seed)
    peer = Peer(steps, rate, seed, bf16)
    for _ in range(steps): peer.step()
    return dict(seed=seed, steps=steps, rate=rate, **peer.score())


def reached(points):
    "Seconds at which the target is reached, from (seconds, bits per byte); None: by none of them"
    points = sorted(points)
    for (a, high), (b, low) in zip(points, points[1:]):
        if high > TARGET >= low:
            return a*(b/a)**((high - TARGET)/(high - low))


def minutes(result):
    "Minutes of each until the target is reached"
    found = {}
    for name in STEPS:
        first, each, best = result["first_step"][name], result["step"][name], {}
        for row in (r for r in result["rows"] if r["contender"] == name):
            seconds = first + (row["steps"] - 1)*each
            best[seconds] = min(row["bits_per_byte"], best.get(seconds, math.inf))
        seconds = reached(best.items())
        if seconds: found[name] = seconds/60
    return dict(minutes=found)


def open_runs(rows):
    "Yield what is to be trained, in this order: contender, steps, rate"
    for n in STEPS[OURS]: yield OURS, n, None
    shortest, *longer = STEPS[PEER]
    for rate in RATES: yield PEER, shortest, rate
    tuned = [r for r in rows() if r["contender"] == PEER and r["steps"] == shortest]
    best = min(tuned, key=lambda r: r["bits_per_byte"])["rate"]
    for n in longer: yield PEER, n, best


def main():
    p = parser(__doc__, "results/minutes.json")
    p.add_argument("--seed", type=int, default=0, help="default: 0")
    p.add_argument("--bf16", action="store_true", help="compute products in bf16")
    a = p.parse_args()
    if not a.out.exists():
        facts = dict(target=TARGET, bf16=a.bf16, batch_size=BATCH, threads=torch.get_num_threads())
        command = "python benchmarks/minutes.py" + " --bf16"*a.bf16
        write_result(a.out, provenance(command, "transformers", **facts, **timed(a.bf16), rows=[]))
    def rows(): return read_begun(a.out)["rows"]
    for name, steps, rate in open_runs(rows):
        done = {(r["contender"], r["steps"], r.get("rate")) for r in rows()}
        if (name, steps, rate) in done: continue
        row = trained(name, steps, rate, a.seed, a.bf16)
        add_row(a.out, dict(contender=name, **row), minutes)


if __name__ == "__main__": main()
