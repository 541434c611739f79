"""How long one waits: `python benchmarks/startup.py` writes results/startup.json.

Seconds that `import torch` and `import tinyrope.train` take, that pass until the first character
of a story of `tinyrope-generate`, and that the preparing of the corpus takes, the first time and
when it is found prepared. All are measured in turns, in processes of their own; the result holds
the medians of the rounds."""
import os
import subprocess
import sys
import tempfile
from statistics import median

from common import clock, parser
from tinyrope.ledger import provenance, write_result

GENERATE = ["tinyrope-generate", "Once upon a time", "--model", "bundled", "--max-new-tokens", "20"]
PREPARE_TWICE = """
import time
from tinyrope.prepare import prepare
from tinyrope.train import configure
model, how = configure("laptop")
for _ in range(2):
    start = time.perf_counter()
    prepare(how, model.vocab_size)
    print(time.perf_counter() - start)
"""


def seconds_of(code):
    "Wall time of a Python program"
    return clock(lambda: subprocess.run([sys.executable, "-c", code], check=True))[0]


def first_word():
    "Seconds from starting tinyrope-generate to the first character of its story"
    quiet = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    def read():
        process = subprocess.Popen(GENERATE, **quiet)
        process.stdout.read(1)
        return process
    waited, process = clock(read)
    process.communicate()
    return waited


def prepare_twice():
    "Seconds to make tokenizer and stores of the default run, and to find them again"
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run([sys.executable, "-c", PREPARE_TWICE], check=True, text=True,
                              capture_output=True, env={**os.environ, "TINYROPE_CACHE": cache})
    return tuple(map(float, done.stdout.split()))


def one_round():
    "Seconds of all that is waited for"
    waited = {"import torch": seconds_of("import torch"),
              "import tinyrope.train": seconds_of("import tinyrope.train"),
              "first word": first_word()}
    prepared, found = prepare_twice()
    return waited | {"prepare the corpus": prepared, "find it prepared": found}


def main():
    p = parser(__doc__, "results/startup.json")
    p.add_argument("--rounds", type=int, default=5, help="default: 5")
    a = p.parse_args()
    rounds = [one_round() for _ in range(a.rounds)]
    seconds = {name: round(median(r[name] for r in rounds), 2) for name in rounds[0]}
    for name, s in seconds.items(): print(f"{name:24} {s:6.2f} s")
    command = "python benchmarks/startup.py"
    write_result(a.out, provenance(command, rounds=a.rounds, seconds=seconds))


if __name__ == "__main__": main()
