"""Which recipe learns most in five minutes: `python benchmarks/recipe.py` (hours on two cores; it can be stopped and started again).

Each recipe changes one thing about a start, or combines what had helped. First the seconds a step takes are measured, interleaved; each recipe then gets the steps
that fit into the same time. All recipes are tried once with half of the time, the finalists with all of it and three seeds. All rows are kept
in results/recipe.json, scored on the validation stories."""
import argparse
import json
import os
import platform
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import torch
from tinyrope.ledger import cpu_name
from tinyrope.model import Transformer
from tinyrope.optim import make_optimizers
from tinyrope.train import configure, train

START = dict(batch_size=16, decay=1.)           # the default run was like this; what won is the default now
RECIPES = {"start": {}, "AdamW alone": dict(optimizer="adamw"), "AdamW alone, rate × 2": dict(optimizer="adamw", learning_rate=8e-3),
           "Muon's rate × 2": dict(muon_learning_rate=.02), "Muon's rate / 2": dict(muon_learning_rate=.005),
           "AdamW's rate × 2": dict(learning_rate=8e-3), "AdamW's rate / 2": dict(learning_rate=2e-3),
           "cosine": dict(schedule="cosine"), "decay over half": dict(decay=.5), "weight decay 0.1": dict(weight_decay=.1),
           "batch 8": dict(batch_size=8), "decay over half, batch 8": dict(decay=.5, batch_size=8), "decay over half, batch 4": dict(decay=.5, batch_size=4)}
SECONDS = 240          # of training steps, which leaves a minute for starting, compiling and scoring


def stepper(overrides):
    "A compiled training step of a recipe, as the trainer does it"
    c, how = configure("laptop", **START | overrides)
    model = Transformer(c)
    optimizers, forward = make_optimizers(model, how), torch.compile(model)
    tokens = torch.randint(c.vocab_size, (how.batch_size, c.seq_len + 1))

    def step():
        forward(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), how.clip)
        for o in optimizers:
            o.step()
            o.zero_grad()
    return step


def seconds_a_step(rounds=12):
    "Median seconds a step of each recipe; recipes that compute the same share the measurement"
    cost = lambda o: tuple((k, v) for k, v in o.items() if k not in ("learning_rate", "muon_learning_rate", "schedule", "decay", "weight_decay"))
    steps = {key: stepper(dict(key)) for key in dict.fromkeys(map(cost, RECIPES.values()))}
    times = {key: [] for key in steps}
    for r in range(rounds + 2):
        for key, step in steps.items():
            start = time.perf_counter()
            step()
            if r >= 2: times[key].append(time.perf_counter() - start)
    return {name: median(times[cost(o)]) for name, o in RECIPES.items()}


def one_run(name, seconds, share, seed):
    "Train a recipe for its share of the time; returns its row"
    steps = round(share*SECONDS/seconds)
    with tempfile.TemporaryDirectory() as folder:
        run = train(out=f"{folder}/run", device="cpu", steps=steps, seed=seed, compile="on", eval_every=max(1, steps//8), **START | RECIPES[name])
        curve = [{k: row[k] for k in ("step", "tokens", "val_loss", "val_bits_per_byte")} for row in run.metrics]
        return dict(recipe=name, share=share, seed=seed, steps=steps, trained_tokens=curve[-1]["tokens"], curve=curve, **run.result)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--finalists", nargs="*", default=[], help="recipes to run with all of the time and three seeds")
    p.add_argument("--worker", type=int, default=0, help="this process takes every other run, beginning here, ...")
    p.add_argument("--workers", type=int, default=1, help="... of so many processes")
    p.add_argument("--out", default="results/recipe.json")
    a = p.parse_args()
    out = Path(a.out)
    torch._dynamo.config.recompile_limit = 64
    if not out.exists():
        result = dict(command="python benchmarks/recipe.py", recipes=RECIPES, seconds=SECONDS, seconds_a_step=seconds_a_step(), threads=torch.get_num_threads(), cpu=cpu_name(),
                      cores=os.cpu_count(), versions=dict(python=platform.python_version(), torch=torch.__version__), date=str(date.today()), runs=[])
        out.write_text(json.dumps(result, indent=1))
    plan = [(name, 1., seed) for seed in range(3) for name in a.finalists] or [(name, .5, 0) for name in RECIPES]
    for name, share, seed in plan[a.worker::a.workers]:
        rows = json.loads(out.read_text())["runs"]
        if any((r["recipe"], r["share"], r["seed"]) == (name, share, seed) for r in rows): continue
        row = one_run(name, json.loads(out.read_text())["seconds_a_step"][name], share, seed)
        result = json.loads(out.read_text())
        result["runs"].append(row)
        out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__": main()
