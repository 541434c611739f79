"""The default run, measured: `python benchmarks/laptop.py` writes results/laptop.json.

`tinyrope-train` trains it with three seeds (about fifteen minutes on two cores, better with
nothing else running). Kept are its log and scores, on the test stories too, and the seconds from
start to end. Memory is the peak of a short run less that of a program that only imports torch (on
Linux)."""
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from common import clock, parser
from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.ledger import provenance, write_result
from tinyrope.metrics import evaluate_stories

TRAIN = """
from tinyrope.train import train
train(out={out!r}, steps=20, device="cpu", eval_every=20, compile="on")
"""
PEAK = """
status = open("/proc/self/status").read()       # of this program alone, unlike getrusage's maximum
print(1024*int(status.split("VmHWM:")[1].split()[0]))
"""


def measure(seed, folder):
    "Train one seed in a process of its own; returns its run and its row"
    command = ["tinyrope-train", "--seed", str(seed), "--out", str(folder), "--device", "cpu"]
    wall, _ = clock(lambda: subprocess.run(command, check=True))
    run = Run(folder)
    test = evaluate_stories(run.model, run.tokenizer, load_stories("test"))
    row = dict(seed=seed, wall_seconds=round(wall, 1), metrics=run.metrics, test=test, **run.result)
    return run, row


def peak_memory(code):
    "Peak memory of a Python program, in bytes"
    done = subprocess.run([sys.executable, "-c", code + PEAK], check=True, capture_output=True,
                          text=True)
    return int(done.stdout.split()[-1])


def memory_above_torch(folder):
    "Peak memory of a short run, in bytes, less that of importing torch"
    return peak_memory(TRAIN.format(out=str(folder))) - peak_memory("import torch")


def medians(rows):
    "Medians over the seeds"
    names = ("bits_per_byte", "loss", "perplexity", "seconds", "wall_seconds")
    found = {name: median(row[name] for row in rows) for name in names}
    for name in ("bits_per_byte", "loss"):
        found[f"test_{name}"] = median(row["test"][name] for row in rows)
    speed = median(row["metrics"][-1]["tokens_per_second"] for row in rows)
    return found | dict(tokens_per_second=speed)


def main():
    p = parser(__doc__, "results/laptop.json")
    p.add_argument("--seeds", type=int, default=3, help="default: 3")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = [measure(seed, Path(place)/f"seed-{seed}") for seed in range(a.seeds)]
        extra = memory_above_torch(Path(place)/"memory")
    runs, rows = zip(*found)
    scores = dict(**medians(rows), peak_memory_above_torch=extra)
    print(scores)
    write_result(a.out, provenance("python benchmarks/laptop.py", runs=rows,
                                   config=runs[0].config, **scores))


if __name__ == "__main__": main()
