"""What each trick is worth in the same time: `python benchmarks/atlas.py`

The tricks are those of `tinyrope.atlas.TRICKS`. First their steps are timed on a quiet machine, in
groups that each hold the start, in turns; a trick gets the steps that take as long as 850 of the
start, which is half of the default run. Then the start is trained with six seeds and each trick
with two, and all are scored on all validation stories (three to five minutes each with one
thread). Each row is kept in results/atlas.json as it comes: stopped and given again, the command
goes on. `--worker 0 --workers 2` and `--worker 1 --workers 2`, in two terminals with
OMP_NUM_THREADS=1, share the runs; `--minutes` ends them."""
from dataclasses import replace

import torch
from common import add_row, parser, read_begun
from fastcore.basics import chunked
from filelock import FileLock
from tinyrope.atlas import TRICKS, run_trial, time_steps
from tinyrope.ledger import before, provenance, write_result

STEPS = 850         # of the start
GROUP = 5           # tricks that are timed together
START_SEEDS = 6     # of the start, with which all are compared


def in_precision(trick, precision):
    "A trick in the precision of all, unless the precision is the trick"
    return replace(trick, changes=dict(precision=precision) | trick.changes)


def tried(precision):
    "The names of the tricks that change something when all have this precision"
    return [name for name in TRICKS if name != precision]


def relative_costs(precision):
    "Time the steps of all tricks; returns name → seconds as a multiple of the start's"
    found = {name: 1. for name, trick in TRICKS.items() if name == "start" or trick.same_step}
    for group in chunked([name for name in tried(precision) if name not in found], GROUP):
        tricks = {name: in_precision(TRICKS[name], precision) for name in ("start", *group)}
        seconds = time_steps(tricks)
        found |= {name: seconds[name]/seconds["start"] for name in group}
        torch.compiler.reset()
    return found


def main():
    p = parser(__doc__, "results/atlas.json")
    p.add_argument("--seeds", type=int, default=2, help="of each trick (default: 2)")
    p.add_argument("--precision", default="fp32", help="of all (default: fp32)")
    p.add_argument("--minutes", type=float, help="begin no run after so many (default: no limit)")
    p.add_argument("--worker", type=int, default=0)
    p.add_argument("--workers", type=int, default=1)
    a = p.parse_args()
    with FileLock(f"{a.out}.time.lock"):
        if not a.out.exists():
            facts = dict(precision=a.precision, cost=relative_costs(a.precision), steps=STEPS)
            write_result(a.out, provenance("python benchmarks/atlas.py", **facts, rows=[]))
    check = before(a.minutes)
    names = tried(read_begun(a.out)["precision"])
    plan = [("start", seed) for seed in range(START_SEEDS)]
    plan += [(name, seed) for seed in range(a.seeds) for name in names if name != "start"]
    for name, seed in plan[a.worker::a.workers]:
        result, trick = read_begun(a.out), TRICKS[name]
        if any((row["trick"], row["seed"]) == (name, seed) for row in result["rows"]): continue
        check()
        torch.compiler.reset()
        steps = round(STEPS/result["cost"][name])
        scores = run_trial(in_precision(trick, result["precision"]), steps, seed)
        add_row(a.out, dict(trick=name, **scores))


if __name__ == "__main__": main()
