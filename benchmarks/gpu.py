"""The full size, on a GPU: `python benchmarks/gpu.py STAGE...` writes results/gpu-STAGE.json.

    correct      what the GPU computes is what the CPU computes: logits, losses, gradients, stories; a killed run comes out the same
    speed-full   a training step at 123 million parameters beside transformers and plain PyTorch, and where its time goes
    speed-15m    the same at 15 million parameters
    pieces       the loss over the vocabulary in several ways, optimizers, reading of batches: what to mend
    decoding     tokens per second with 10, 5, 2 and 1 key-value heads, at batch 1, 64 and 1,024
    studies      the two arms of the original and all studies at full size, as `tinyrope-study all --size full` does it
    sizes        what the 12 MB of stories in the package can give: shapes, epochs, dropout, decay, scored on the validation stories
    chosen       the best of them that is small enough for the package, trained and packed

Every stage needs less than eight minutes of an H200, or stops by then (`--minutes`) and goes on where it was when called again. `--small` runs
the same code in sizes for a CPU, to see that it works; its results go to runs/gpu-small and mean nothing."""
import argparse
import sys
import time
from functools import partial
from pathlib import Path

import gpu_correct
import gpu_decoding
import gpu_sizes
import gpu_speed
import torch
from tinyrope.ledger import before, provenance, write_result
from tinyrope.processes import pick_device
from tinyrope.studies import STUDIES, Plan, prepare_corpora, run_study


def studies(a, check, save):
    "All studies that can be run from what is there: `tinyrope-study web --web FILE` prepares one"
    size = "smoke" if a.small else "full"
    scale = Plan("arms", size, folder=a.folder).scale
    prepare_corpora(scale)
    for name in ["arms"] if a.small else STUDIES:
        if name == "web" and not (scale.folder/"web-source.json").exists(): continue
        if (a.out/f"study-{name}-{size}.json").exists(): continue
        check()
        plan = Plan(name, size, 2 if a.small else 3, a.folder)
        run_study(plan, a.out, str(a.device), minutes=a.end/60 - time.monotonic()/60)


STAGES = {"correct": gpu_correct.stage, "speed-full": partial(gpu_speed.stage, shape="full"), "speed-15m": partial(gpu_speed.stage, shape="15m"),
          "pieces": gpu_speed.pieces, "decoding": gpu_decoding.stage, "studies": studies, "sizes": gpu_sizes.stage, "chosen": gpu_sizes.chosen}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("stages", nargs="+", metavar="STAGE", help=", ".join(STAGES))
    p.add_argument("--device", default="cuda", help="default: cuda")
    p.add_argument("--minutes", type=float, default=8., help="begin nothing after so many (default: 8)")
    p.add_argument("--small", action="store_true", help="sizes for a CPU, to see that it works")
    p.add_argument("--folder", type=Path, default=Path("runs/gpu"), help="where runs are kept (default: runs/gpu)")
    p.add_argument("--out", type=Path, help="where results go (default: results, or runs/gpu-small)")
    a = p.parse_args()
    if unknown := set(a.stages) - set(STAGES): p.error(f"no stage {sorted(unknown)}: choose from {list(STAGES)}")
    a.out = a.out or Path("runs/gpu-small" if a.small else "results")
    try: a.device = pick_device(a.device)
    except ValueError as e: p.error(str(e))
    a.out.mkdir(parents=True, exist_ok=True)
    torch._dynamo.config.recompile_limit, torch._dynamo.config.fail_on_recompile_limit_hit = 64, True       # never eager unnoticed
    check, a.end, failed = before(a.minutes), time.monotonic() + 60*a.minutes, False
    for stage in a.stages:
        print(f"\n== {stage}", flush=True)
        save = lambda found, stage=stage: write_result(a.out/f"gpu-{stage}.json", provenance(f"python benchmarks/gpu.py {stage}", "transformers", device=str(a.device), small=a.small) | found)
        try: failed |= STAGES[stage](a, check, save) is False
        except TimeoutError as e: sys.exit(str(e))
    sys.exit(failed)


if __name__ == "__main__": main()
