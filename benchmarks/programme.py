"""The programme of studies: `python benchmarks/programme.py --plan` prints what it takes.

`python benchmarks/programme.py all --web FILE` trains and measures all studies at the size small,
about eleven hours on two cores, and writes results/study-NAME-small.json, a row as soon as a
run has ended. Names of studies instead of `all` run these alone. `--worker 0 --workers 2` and
`--worker 1 --workers 2`, in two terminals with OMP_NUM_THREADS=1, share the runs. Stopped and
given again, the command goes on; no folder of a run is left. FILE is web text (.txt, .jsonl,
.parquet)."""
from dataclasses import replace
from pathlib import Path

import tinyrope.shape_studies
import tinyrope.text_studies  # noqa: F401 (studies register themselves)
from common import parser
from tinyrope.programme import SCALES, STUDIES, Programme, plan_table, run_programme
from tinyrope.verdicts import MARGIN, above_floor, judge_study, still_missing

NO_WEB = "no web text was named"


def report(name, result):
    "Print the verdicts of a study"
    print(f"\n{name}: {result['title']}\n{above_floor(result):.3f} bits per byte below the best "
          f"table of n-grams ({MARGIN} are needed)")
    judged = judge_study(result)
    for part, (word, c) in judged.items():
        print(f"  {part.replace('_', ' ')}: {word} ({c.mean:+.4f} ± {c.half:.4f}, {c.n} seeds, "
              f"bound {c.bound:g}, detectable {c.detectable(len(judged)):.4f})")


def main():
    p = parser(__doc__)
    p.add_argument("studies", nargs="*", default=["all"], help=f"all, or of: {', '.join(STUDIES)}")
    p.add_argument("--plan", action="store_true", help="print the plan, and train nothing")
    p.add_argument("--size", choices=SCALES, default="small")
    p.add_argument("--web", help="web text: a file, or a corpus on the hub")
    p.add_argument("--worker", type=int, default=0)
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--minutes", type=float, help="begin nothing after so many")
    p.add_argument("--folder", type=Path, help="of texts and runs (default: runs/programme)")
    p.add_argument("--out", type=Path, default=Path("results"), help="default: results")
    a = p.parse_args()
    names = tuple(STUDIES) if a.studies == ["all"] else tuple(a.studies)
    scale = replace(SCALES[a.size], web=a.web or (NO_WEB if a.plan else None))
    if a.folder: scale = replace(scale, folder=a.folder)
    try:
        programme = Programme(names, scale, a.out)
        if a.plan: return print(plan_table(programme))
        results = run_programme(programme, a.worker, a.workers, a.minutes)
    except (ValueError, TimeoutError, FileNotFoundError) as e: raise SystemExit(str(e)) from None
    for name, result in results.items():
        if still_missing(result): print(f"{name}: {still_missing(result)} runs are missing")
        else: report(name, result)


if __name__ == "__main__": main()
