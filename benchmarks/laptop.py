"""The default run, measured: `python benchmarks/laptop.py` trains it with three seeds (about fifteen minutes on two cores, better with
nothing else running) and writes results/laptop.json."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

from tinyrope.ledger import cpu_name
from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.metrics import evaluate_stories


def measure(seed, folder):
    "Train one seed in a process of its own; returns its row"
    command = ["tinyrope-train", "--seed", str(seed), "--out", str(folder), "--device", "cpu"]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    wall, run = time.perf_counter() - start, Run(folder)
    test = evaluate_stories(run.model, run.tokenizer, load_stories("test"))
    return dict(seed=seed, wall_seconds=round(wall, 1), metrics=run.metrics, test=test, **run.result), run.config


def memory(code):
    "Peak memory of a Python program, in bytes"
    report = "; import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    return int(subprocess.run([sys.executable, "-c", code + report], check=True, capture_output=True, text=True).stdout.split()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--out", default="results/laptop.json")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, configs = zip(*(measure(seed, Path(folder)/f"seed-{seed}") for seed in range(a.seeds)))
        train = f"from tinyrope.train import train; train(out={str(Path(folder)/'memory')!r}, steps=20, device='cpu', eval_every=20, compile='on')"
        extra = memory(train) - memory("import torch")
    result = dict(command="python benchmarks/laptop.py", runs=rows, config=configs[0], cpu=cpu_name(), cores=os.cpu_count(), date=str(date.today()),
                  bits_per_byte=median(r["bits_per_byte"] for r in rows), loss=median(r["loss"] for r in rows), perplexity=median(r["perplexity"] for r in rows),
                  test_bits_per_byte=median(r["test"]["bits_per_byte"] for r in rows), test_loss=median(r["test"]["loss"] for r in rows),
                  seconds=median(r["seconds"] for r in rows), wall_seconds=median(r["wall_seconds"] for r in rows), tokens_per_second=median(r["metrics"][-1]["tokens_per_second"] for r in rows),
                  peak_memory_above_torch=extra)
    Path(a.out).parent.mkdir(exist_ok=True)
    Path(a.out).write_text(json.dumps(result, indent=1))
    print({k: result[k] for k in ("bits_per_byte", "test_bits_per_byte", "loss", "perplexity", "seconds", "wall_seconds", "tokens_per_second", "peak_memory_above_torch")})


if __name__ == "__main__": main()
