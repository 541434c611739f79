"""What limits a small corpus: `python benchmarks/limits.py` (half an hour on two cores; it can be stopped and started again).

The default model takes the same number of steps on all stories and on fewer and fewer of them, which it then reads again and again; where it
reads them most often, dropout, weight decay and averaging of weights are tried against it. Scores are bits per byte, each story on its own, on the
validation stories and on the first stories that were trained on. Averaging: the learning rate stays up, and the mean is taken of
the weights at eight moments of the last third. All rows are kept in results/limits.json."""
import argparse
import json
import os
import platform
import tempfile
from datetime import date
from pathlib import Path

import torch
from tinyrope.ledger import cpu_name
from safetensors.torch import load_file
from tinyrope.corpora import SHA256, load_stories
from tinyrope.data import train_bpe
from tinyrope.metrics import evaluate_stories
from tinyrope.train import train

STEPS, SHARES, FEW = 384, (1, 4, 8, 16, 32), 32
AGAINST = {"dropout 0.1": dict(dropout=.1), "weight decay 1": dict(weight_decay=1.),
           "averaged weights": dict(schedule="constant")}
PLAN = [(share, "nothing", {}) for share in SHARES] + [(FEW, name, settings) for name, settings in AGAINST.items()]


def average(run, after):
    "Mean of the weights at the last eight moments that were kept after a step, in the run's model"
    checkpoints = sorted(c for c in (run.folder/"checkpoints").iterdir() if int(c.name[5:]) > after)
    weights = [load_file(c/"model.safetensors") for c in checkpoints[-8:]]
    run.model.load_state_dict({name: torch.stack([w[name] for w in weights]).mean(0) for name in weights[0]}, strict=False)
    return run.model


def one_run(share, name, settings, tokenizer, seed):
    "Train on a share of the stories; returns its row"
    stories = load_stories("train")[:len(load_stories("train"))//share]
    with tempfile.TemporaryDirectory() as folder:
        run = train(out=f"{folder}/run", device="cpu", steps=STEPS, seed=seed, compile="on", eval_every=24, keep_every=24, tokenizer=tokenizer, max_stories=len(stories),
                    **dict(batch_size=16, decay=1.) | settings)
        model = average(run, STEPS*2//3) if name == "averaged weights" else run.model
        score = lambda texts: evaluate_stories(model, run.tokenizer, texts)["bits_per_byte"]
        return dict(share=share, against=name, seed=seed, stories=len(stories), epochs=run.metrics[-1]["epoch"], best_step=run.best["step"], train=score(stories[:200]),
                    valid=score(load_stories("valid")), last=run.metrics[-1]["val_bits_per_byte"], best=run.best["val_bits_per_byte"], metrics=run.metrics)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", default="results/limits.json")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--worker", type=int, default=0, help="this process takes every other run, beginning here, ...")
    p.add_argument("--workers", type=int, default=1, help="... of so many processes")
    a = p.parse_args()
    out = Path(a.out)
    about = dict(command="python benchmarks/limits.py", steps=STEPS, settings=dict((name, s) for _, name, s in PLAN), cpu=cpu_name(), cores=os.cpu_count(), corpus_sha256=SHA256,
                 versions=dict(python=platform.python_version(), torch=torch.__version__), date=str(date.today()), runs=[])
    if not out.exists(): out.write_text(json.dumps(about, indent=1))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = f"{folder}/tokenizer.json"
        train_bpe(load_stories("train"), 2048).save(tokenizer)
        for share, name, settings in PLAN[a.worker::a.workers]:
            if any((r["share"], r["against"], r["seed"]) == (share, name, a.seed) for r in json.loads(out.read_text())["runs"]): continue
            row = one_run(share, name, settings, tokenizer, a.seed)
            result = json.loads(out.read_text())
            result["runs"].append(row)
            out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__": main()
