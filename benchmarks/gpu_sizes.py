"""Stages `sizes` and `chosen` of gpu.py: how good a model of the 12 MB of stories in the package
can become, and which of those that are small enough to ship is best.

Trials are run in the order in which they stand here, one change at a time from a start; each is a
row of results/gpu-sizes.json, and one that is there is not run again. All are scored on the
validation stories; the test stories are for `benchmarks/bundled.py` and the one that is chosen."""
import json
import shutil
from contextlib import redirect_stdout

import torch
from common import read_begun
from limits import average
from tinyrope.checkpoint import pack
from tinyrope.corpora import SHA256, load_stories
from tinyrope.metrics import evaluate_stories
from tinyrope.model import count_parameters
from tinyrope.prepare import prepare
from tinyrope.train import configure, train

SHIPPED = 12e6                  # bytes of weights in fp16 that the package may carry
EVALUATIONS = 24                # of a trial
SHAPES = {"3M": dict(dim=192, n_layers=6, n_heads=6), "6M": dict(dim=256, n_layers=6, n_heads=4),
          "15M": dict(dim=384, n_layers=8, n_heads=6), "30M": dict(dim=512, n_layers=9, n_heads=8),
          "60M": dict(dim=640, n_layers=12, n_heads=10)}
START = dict(vocab_size=4096, seq_len=512, batch_size=16, steps=None, epochs=8.,
             learning_rate=.012, muon_learning_rate=.007, mask_stories=True, dropout=.1,
             weight_decay=.1, eval_blocks=64)
TINY = dict(vocab_size=512, dim=32, n_layers=1, n_heads=2, seq_len=64, batch_size=4, epochs=.002,
            eval_blocks=4, compile="off")
AVERAGED = "constant rate, averaged"
CHANGES = {"start": {}, "no dropout": dict(dropout=0.),
           "dropout 0.2": dict(dropout=.2), "dropout 0.3": dict(dropout=.3),
           "4 epochs": dict(epochs=4.), "16 epochs": dict(epochs=16.),
           "32 epochs, dropout 0.2": dict(epochs=32., dropout=.2),
           "64 epochs, dropout 0.3": dict(epochs=64., dropout=.3),
           "no weight decay": dict(weight_decay=0.), "weight decay 0.5": dict(weight_decay=.5),
           "AdamW alone": dict(optimizer="adamw"), AVERAGED: dict(schedule="constant"),
           "batch 32": dict(batch_size=32), "stories not kept apart": dict(mask_stories=False)}
EVERY_SHAPE, ALL_CHANGES = ("start", "no dropout", "16 epochs"), ("6M", "15M")
TRIALS = list(dict.fromkeys([(shape, change, 0) for shape in SHAPES for change in EVERY_SHAPE]
                            + [(shape, change, 0) for shape in ALL_CHANGES for change in CHANGES]))
COLUMNS = ("epoch", "train_loss", "val_loss", "val_bits_per_byte")


def settings(shape, change, small):
    "Settings of a trial, for `train`"
    return START | SHAPES[shape] | CHANGES[change] | (TINY if small else {})


def steps_between(how):
    "Steps from one evaluation to the next, so that a trial has two dozen"
    model, c = configure("laptop", **how)
    tokens = len(prepare(c, model.vocab_size)[1])
    return max(1, int(how["epochs"]*tokens/model.seq_len/c.batch_size/EVALUATIONS))


def train_trial(how, change, seed, place, device):
    "Train or resume a trial; what it prints goes into a file beside its folder"
    every = steps_between(how)
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{place}.log", "a") as log, redirect_stdout(log):
        return train(out=place, device=str(device), seed=seed, resume=True, eval_every=every,
                     keep_every=every if change == AVERAGED else 0, **how)


def one_trial(key, a):
    "Train and score one trial; returns its row"
    shape, change, seed = key
    how = settings(shape, change, a.small)
    place = a.folder/"sizes"/f"{shape}-{change}-{seed}".replace(" ", "-")
    run = train_trial(how, change, seed, place, a.device)
    last = run.metrics[-1]
    model = average(run, last["step"]*2//3) if change == AVERAGED else run.model
    stories = load_stories("valid")[:20 if a.small else None]
    score = evaluate_stories(model.to(a.device), run.tokenizer, stories)
    row = dict(shape=shape, change=change, seed=seed, settings=how,
               parameters=sum(count_parameters(model.config).values()), **score,
               epochs=last["epoch"], best_step=run.result["best_step"], steps=last["step"],
               seconds=last["seconds"], curve=[[row[k] for k in COLUMNS] for row in run.metrics])
    shutil.rmtree(place)            # its row is what is kept
    return row


def best_to_ship(rows):
    "Settings of the best trial that the package can carry, None if there is none"
    fit = [row for row in rows if 2*row["parameters"] <= SHIPPED]
    best = min(fit, key=lambda row: row["bits_per_byte"], default=None)
    return best and best["settings"]


def say(row):
    "Print a line on a trial"
    print(f"{row['shape']:4} {row['change']:28} {row['bits_per_byte']:.4f} bits per byte, "
          f"{row['epochs']:.1f} epochs, {row['seconds']:.0f} s", flush=True)


def stage(a, check, save):
    "Run the trials that are missing, and name the best of those that can be shipped"
    rows = read_begun(a.out/"gpu-sizes.json", rows=[])["rows"]
    for key in TRIALS[:4 if a.small else None]:
        if key in [(row["shape"], row["change"], row["seed"]) for row in rows]: continue
        check()
        torch._dynamo.reset()
        rows.append(one_trial(key, a))
        say(rows[-1])
        save(dict(shapes=SHAPES, start=START, changes=CHANGES, shipped=SHIPPED, data_sha256=SHA256,
                  rows=rows, best=best_to_ship(rows)))


def chosen(a, check, save):
    "Train the best that can be shipped, from the result of the trials, and pack it"
    best = json.loads((a.out/"gpu-sizes.json").read_text(encoding="utf-8"))["best"]
    run = train(out=a.folder/"chosen", device=str(a.device), resume=True, **best)
    pack(run, a.folder/"chosen-packed", "python benchmarks/gpu.py sizes chosen")
    print(run.result)
