"""Does a recipe beat another in the same time?  `python benchmarks/record.py NAME RECORD`

The names are recipes of `tinyrope.atlas.RECIPES`: a candidate and the record that it is held
against. First both are timed on a quiet machine: the first step in fresh processes without a
compiler cache, the others in turns. The candidate gets the steps that fit into the time of
`--steps` of the record.

Then both are trained with as many seeds, in turns, and scored on all validation stories. A record
is broken if a one-sided Welch test gives p < 0.01 once all seeds are there. Each row is kept as it
comes: stopped and given again, the command goes on. `--worker 0 --workers 2` and `--worker 1
--workers 2`, in two terminals with OMP_NUM_THREADS=1, share the runs; `--time-only` comes first."""
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch
from common import add_row, parser, read_begun
from filelock import FileLock
from tinyrope.atlas import RECIPES, fair_steps, record_p, run_trial, time_steps
from tinyrope.ledger import provenance, write_result
from tinyrope.train import configure

FIRST_SEED = 100        # recipes are tuned with other seeds
FIRST_STEP = """
from record import recipe
from tinyrope.atlas import time_first_step
print(time_first_step(recipe({name!r}, {precision!r})))
"""


def first_step(name, precision):
    "Seconds of the first step of a recipe, in a process whose compiler has no cache"
    code = FIRST_STEP.format(name=name, precision=precision)
    with tempfile.TemporaryDirectory() as empty:
        env = os.environ | dict(TORCHINDUCTOR_CACHE_DIR=empty, TORCHINDUCTOR_FX_GRAPH_CACHE="0")
        done = subprocess.run([sys.executable, "-c", code], env=env, cwd=Path(__file__).parent,
                              check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def recipe(name, precision):
    "A recipe with the precision in which both are timed and trained"
    return replace(RECIPES[name], changes=RECIPES[name].changes | dict(precision=precision))


def settings(name, precision):
    "All settings of a recipe"
    model, config = configure("laptop", **recipe(name, precision).changes)
    return asdict(model) | asdict(config)


def time_both(a):
    "Time both recipes, and count the steps of each"
    names = (a.record, a.candidate)
    each = time_steps({name: recipe(name, a.precision) for name in names})
    first = {name: first_step(name, a.precision) for name in names}
    seconds = first[a.record] + (a.steps - 1)*each[a.record]
    fair = fair_steps(first[a.candidate], each[a.candidate], seconds)
    return dict(seconds=seconds, first_step=first, step=each,
                steps={a.record: a.steps, a.candidate: fair}, threads=torch.get_num_threads())


def begin(a, path):
    "Time both and begin the file of the result, or check that it is of the same race"
    race = dict(candidate=a.candidate, record=a.record, seeds=a.seeds, precision=a.precision,
                settings={name: settings(name, a.precision) for name in (a.record, a.candidate)})
    if path.exists():
        old = read_begun(path)
        other = ", ".join(k for k, v in race.items() if old.get(k) != v)
        if other: raise SystemExit(f"{path} is of another race ({other}): give another --out")
        return
    command = (f"python benchmarks/record.py {a.candidate} {a.record} --steps {a.steps} "
               f"--precision {a.precision}")
    write_result(path, provenance(command, **race, **time_both(a), rows=[]))


def verdict(result):
    "The p-value of a candidate's lead, once all seeds of both are there"
    scores = {name: [row["bits_per_byte"] for row in result["rows"] if row["recipe"] == name]
              for name in (result["candidate"], result["record"])}
    complete = min(map(len, scores.values())) >= result["seeds"]
    return {"p": record_p(*scores.values())} if complete else {}


def main():
    p = parser(__doc__)
    p.add_argument("candidate", choices=RECIPES)
    p.add_argument("record", choices=RECIPES)
    p.add_argument("--steps", type=int, default=2000, help="of the record (default: 2000)")
    p.add_argument("--seeds", type=int, default=6, help="of each, at least 6 (default: 6)")
    p.add_argument("--precision", default="fp32", help="of both (default: fp32)")
    p.add_argument("--time-only", action="store_true", help="time both, and train nothing")
    p.add_argument("--worker", type=int, default=0)
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--out", type=Path, help="default: results/record-CANDIDATE.json")
    a = p.parse_args()
    names, path = (a.record, a.candidate), a.out or Path(f"results/record-{a.candidate}.json")
    with FileLock(f"{path}.time.lock"): begin(a, path)
    if a.time_only: return
    plan = [(name, seed) for seed in range(FIRST_SEED, FIRST_SEED + a.seeds) for name in names]
    for name, seed in plan[a.worker::a.workers]:
        result = read_begun(path)
        if any((row["recipe"], row["seed"]) == (name, seed) for row in result["rows"]): continue
        scores = run_trial(recipe(name, a.precision), result["steps"][name], seed)
        add_row(path, dict(recipe=name, **scores), verdict)


if __name__ == "__main__": main()
