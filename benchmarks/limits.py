"""What limits a small corpus: `python benchmarks/limits.py` writes results/limits.json.

The default model takes the same number of steps on all stories and on fewer and fewer of them,
which it then reads again and again; where it reads them most often, dropout, weight decay and
averaging of weights are tried against it. Scores are bits per byte, each story on its own, of the
validation stories and of the first stories that were trained on. Averaging: the learning rate
stays up, and the mean is taken of the weights at eight moments of the last third.

It takes half an hour on two cores. All rows are kept: stopped and started again, it goes on."""
import tempfile

import torch
from common import parser, read_begun
from safetensors.torch import load_file
from tinyrope.corpora import load_stories
from tinyrope.data import train_bpe
from tinyrope.ledger import provenance, write_result
from tinyrope.metrics import evaluate_stories
from tinyrope.train import train

STEPS, SHARES, FEW = 384, (1, 4, 8, 16, 32), 32
START = dict(batch_size=16, decay=1.)
AVERAGED = "averaged weights"
AGAINST = {"dropout 0.1": dict(dropout=.1), "weight decay 1": dict(weight_decay=1.),
           AVERAGED: dict(schedule="constant")}
SETTINGS = {"nothing": {}} | AGAINST
PLAN = [(share, "nothing") for share in SHARES] + [(FEW, name) for name in AGAINST]


def average(run, after):
    "Put the mean of the weights at the last eight moments kept after a step into the run's model"
    checkpoints = sorted(c for c in (run.folder/"checkpoints").iterdir() if int(c.name[5:]) > after)
    weights = [load_file(c/"model.safetensors") for c in checkpoints[-8:]]
    mean = {name: torch.stack([w[name] for w in weights]).mean(0) for name in weights[0]}
    run.model.load_state_dict(mean, strict=False)
    return run.model


def train_on(stories, name, seed, tokenizer, folder):
    "Train on some stories, with one thing tried against repetition; weights are kept on the way"
    return train(out=f"{folder}/run", device="cpu", compile="on", seed=seed, tokenizer=tokenizer,
                 steps=STEPS, eval_every=24, keep_every=24, max_stories=len(stories),
                 **START | SETTINGS[name])


def evaluate(run, name, stories):
    "Score a run, on the first stories that it was trained on too"
    model = average(run, STEPS*2//3) if name == AVERAGED else run.model
    def score(texts): return evaluate_stories(model, run.tokenizer, texts)["bits_per_byte"]
    return dict(epochs=run.metrics[-1]["epoch"], best_step=run.best["step"],
                train=score(stories[:200]), valid=score(load_stories("valid")),
                last=run.metrics[-1]["val_bits_per_byte"],
                best=run.best["val_bits_per_byte"], metrics=run.metrics)


def one_run(share, name, seed, tokenizer):
    "Train on a share of the stories; returns its row"
    stories = load_stories("train")
    stories = stories[:len(stories)//share]
    with tempfile.TemporaryDirectory() as folder:
        run = train_on(stories, name, seed, tokenizer, folder)
        scores = evaluate(run, name, stories)
    return dict(share=share, against=name, seed=seed, stories=len(stories), **scores)


def key_of(row):
    "What tells a run from the others"
    return row["share"], row["against"], row["seed"]


def begin(out):
    "Write a result without runs, if there is none"
    if out.exists(): return
    write_result(out, provenance("python benchmarks/limits.py", steps=STEPS, start=START,
                                 settings=SETTINGS, runs=[]))


def main():
    p = parser(__doc__, "results/limits.json")
    p.add_argument("--seed", type=int, default=0, help="default: 0")
    p.add_argument("--worker", type=int, default=0,
                   help="this process takes every other run, beginning here, ...")
    p.add_argument("--workers", type=int, default=1, help="... of so many processes")
    a = p.parse_args()
    begin(a.out)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = f"{folder}/tokenizer.json"
        train_bpe(load_stories("train"), 2048).save(tokenizer)
        for share, name in PLAN[a.worker::a.workers]:
            done = [key_of(row) for row in read_begun(a.out)["runs"]]
            if (share, name, a.seed) in done: continue
            row = one_run(share, name, a.seed, tokenizer)
            result = read_begun(a.out)          # again: another process may have added to it
            write_result(a.out, result | dict(runs=[*result["runs"], row]))


if __name__ == "__main__": main()
