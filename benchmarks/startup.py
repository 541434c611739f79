"""How long one waits: `python benchmarks/startup.py` measures imports beside `import torch`, the first word of `tinyrope-generate`, and
tokenizing the corpus, in turns, and writes medians to results/startup.json."""
import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import torch
from tinyrope.ledger import cpu_name


def seconds_of(code):
    "Wall time of a Python program"
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def first_word():
    "Seconds from starting tinyrope-generate to the first character of its story"
    start = time.perf_counter()
    command = ["tinyrope-generate", "Once upon a time", "--model", "bundled", "--max-new-tokens", "20"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.read(1)
        waited = time.perf_counter() - start
        process.stdout.read()
    return waited


def prepare_twice():
    "Seconds to make tokenizer and stores of the default run, and to find them again"
    code = ("import time; from tinyrope.prepare import prepare; from tinyrope.train import configure; m, c = configure('laptop')\n"
            "for _ in range(2): start = time.perf_counter(); prepare(c, m.vocab_size); print(time.perf_counter() - start)")
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ, "TINYROPE_CACHE": cache})
    return tuple(map(float, done.stdout.split()))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--out", default="results/startup.json")
    a = p.parse_args()
    rounds = [(seconds_of("import torch"), seconds_of("import tinyrope.train"), first_word(), *prepare_twice()) for _ in range(a.rounds)]
    names = ("import torch", "import tinyrope.train", "first word", "prepare the corpus", "find it prepared")
    seconds = {name: round(median(values), 2) for name, values in zip(names, zip(*rounds))}
    result = dict(command="python benchmarks/startup.py", rounds=a.rounds, seconds=seconds, cpu=cpu_name(), cores=os.cpu_count(),
                  versions=dict(python=platform.python_version(), torch=torch.__version__), date=str(date.today()))
    Path(a.out).parent.mkdir(exist_ok=True)
    Path(a.out).write_text(json.dumps(result, indent=1))
    for name, s in seconds.items(): print(f"{name:24} {s:6.2f} s")


if __name__ == "__main__": main()
