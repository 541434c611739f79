"""Which candidates should race for the record?  `python benchmarks/finalists.py`

Candidates that change several settings of the recipe "apart" are timed beside it, on a quiet
machine, and trained in bf16 with one seed for the time of its 1,700 steps; the best goes into
`benchmarks/record.py`. Seeds differ from those of the race. Each row is kept as it comes: stopped
and given again, the command goes on."""
import torch
from common import add_row, parser, read_begun
from tinyrope.atlas import RECIPES, Trick, run_trial, time_steps
from tinyrope.ledger import provenance, write_result

STEPS = 1700        # of the recipe "apart"
HIGHER = dict(learning_rate=.018, muon_learning_rate=.01)
TWICE = dict(learning_rate=.024, muon_learning_rate=.014)
CANDIDATES = {
    "batch 16": dict(batch_size=16),
    "batch 16, higher rates": dict(batch_size=16) | HIGHER,
    "batch 16, rates × 2": dict(batch_size=16) | TWICE,
    "batch 24, rates × 2": dict(batch_size=24) | TWICE,
    "batch 32, rates × 2": dict(batch_size=32) | TWICE,
    "batch 16, 3 layers of 160": dict(batch_size=16, n_layers=3, dim=160),
    "batch 16, 2 layers of 192, higher rates":
        dict(batch_size=16, n_layers=2, dim=192, n_heads=3) | HIGHER,
    "3 layers of 192": dict(n_layers=3, dim=192, n_heads=3)}


def recipe(changes):
    "The recipe apart with some changes, in bf16"
    return Trick(RECIPES["apart"].changes | dict(precision="bf16") | changes)


def relative_costs():
    "Time the steps of all candidates; returns name → seconds as a multiple of the recipe's"
    found = {}
    for name, changes in CANDIDATES.items():
        seconds = time_steps({"apart": recipe({}), name: recipe(changes)})
        found[name] = seconds[name]/seconds["apart"]
        torch.compiler.reset()
    return found


def main():
    p = parser(__doc__, "results/finalists.json")
    p.add_argument("--seeds", type=int, default=1, help="of each candidate (default: 1)")
    a = p.parse_args()
    if not a.out.exists():
        facts = dict(record="apart", steps=STEPS, precision="bf16", changes=CANDIDATES)
        write_result(a.out, provenance("python benchmarks/finalists.py", **facts,
                                       cost=relative_costs(), rows=[]))
    for seed in range(a.seeds):
        for name, changes in CANDIDATES.items():
            result = read_begun(a.out)
            done = {(row["candidate"], row["seed"]) for row in result["rows"]}
            if (name, seed) in done: continue
            torch.compiler.reset()
            steps = int(STEPS/result["cost"][name])
            add_row(a.out, dict(candidate=name, **run_trial(recipe(changes), steps, seed)))


if __name__ == "__main__": main()
