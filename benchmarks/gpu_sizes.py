"""Stage `sizes` of gpu.py: how good a model of the 12 MB of stories in the package can become, and which of those that are small enough to ship is best.

Trials are run in the order in which they stand here, one change at a time from a start; each is a row of results/gpu-sizes.json, and one that is
there is not run again. All are scored on the validation stories; the test stories are for `benchmarks/bundled.py` and the one model that is chosen."""
import json
import shutil
from contextlib import redirect_stdout

import torch
from limits import average
from tinyrope.checkpoint import pack
from tinyrope.corpora import SHA256, load_stories
from tinyrope.metrics import evaluate_stories
from tinyrope.model import count_parameters
from tinyrope.prepare import prepare
from tinyrope.train import configure, train

SHIPPED = 12e6                  # bytes of weights in fp16 that the package may carry
SHAPES = {"3M": dict(dim=192, n_layers=6, n_heads=6), "6M": dict(dim=256, n_layers=6, n_heads=4), "15M": dict(dim=384, n_layers=8, n_heads=6),
          "30M": dict(dim=512, n_layers=9, n_heads=8), "60M": dict(dim=640, n_layers=12, n_heads=10)}
START = dict(vocab_size=4096, seq_len=512, batch_size=16, steps=None, epochs=8., mask_stories=True, dropout=.1, weight_decay=.1, eval_blocks=64)
CHANGES = {"start": {}, "no dropout": dict(dropout=0.), "dropout 0.2": dict(dropout=.2), "dropout 0.3": dict(dropout=.3), "4 epochs": dict(epochs=4.), "16 epochs": dict(epochs=16.),
           "32 epochs, dropout 0.2": dict(epochs=32., dropout=.2), "64 epochs, dropout 0.3": dict(epochs=64., dropout=.3), "no weight decay": dict(weight_decay=0.), "weight decay 0.5": dict(weight_decay=.5),
           "AdamW alone": dict(optimizer="adamw"), "constant rate, averaged": dict(schedule="constant"), "batch 32": dict(batch_size=32), "stories not kept apart": dict(mask_stories=False)}
TRIALS = [(shape, change, 0) for shape in SHAPES for change in ("start", "no dropout", "16 epochs")] + [("6M", change, 0) for change in CHANGES] + [("15M", change, 0) for change in CHANGES]


def settings(shape, change, small):
    "Settings of a trial, for `train`"
    tiny = dict(vocab_size=512, dim=32, n_layers=1, n_heads=2, seq_len=64, batch_size=4, epochs=.002, eval_blocks=4, compile="off") if small else {}
    return START | SHAPES[shape] | CHANGES[change] | tiny


def one_run(key, a):
    "Train and score one trial; returns its row"
    shape, change, seed = key
    how, place, averaged = settings(shape, change, a.small), a.folder/"sizes"/"-".join(map(str, key)).replace(" ", "-"), "averaged" in change
    model, c = configure("laptop", **how)
    every = max(1, int(how["epochs"]*len(prepare(c, model.vocab_size)[1])/model.seq_len/c.batch_size/24))         # two dozen evaluations
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{place}.log", "a") as log, redirect_stdout(log):
        run = train(out=place, device=str(a.device), seed=seed, resume=True, eval_every=every, keep_every=every if averaged else 0, **how)
    last = run.metrics[-1]
    model = average(run, last["step"]*2//3) if averaged else run.model
    score = evaluate_stories(model.to(a.device), run.tokenizer, load_stories("valid")[:20 if a.small else None])
    row = dict(shape=shape, change=change, seed=seed, settings=how, parameters=sum(count_parameters(model.config).values()), **score, epochs=last["epoch"], best_step=run.result["best_step"],
               steps=last["step"], seconds=last["seconds"], curve=[[row[k] for k in ("epoch", "train_loss", "val_loss", "val_bits_per_byte")] for row in run.metrics])
    shutil.rmtree(place)            # its row is what is kept
    return row


def stage(a, check, save):
    "Run the trials that are missing, and name the best of those that can be shipped"
    path = a.out/"gpu-sizes.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for key in list(dict.fromkeys(TRIALS))[:4 if a.small else None]:
        if key in [(r["shape"], r["change"], r["seed"]) for r in rows]: continue
        check()
        torch._dynamo.reset()
        rows.append(one_run(key, a))
        print(f"{key[0]:4} {key[1]:28} {rows[-1]['bits_per_byte']:.4f} bits per byte, {rows[-1]['epochs']:.1f} epochs, {rows[-1]['seconds']:.0f} s", flush=True)
        fit = [r for r in rows if 2*r["parameters"] <= SHIPPED]
        save(dict(shapes=SHAPES, start=START, changes=CHANGES, shipped=SHIPPED, data_sha256=SHA256, rows=rows, best=min(fit, key=lambda r: r["bits_per_byte"])["settings"] if fit else None))


def chosen(a, check, save):
    "Train the best that can be shipped, from the result of the trials, and pack it"
    best = json.loads((a.out/"gpu-sizes.json").read_text())["best"]
    run = train(out=a.folder/"chosen", device=str(a.device), resume=True, **best)
    pack(run, a.folder/"chosen-packed", "python benchmarks/gpu.py sizes chosen")
    print(run.result)
