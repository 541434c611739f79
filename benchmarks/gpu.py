"""What a GPU does: `python benchmarks/gpu.py STAGE...` writes results/gpu-STAGE.json.

    correct      what the GPU computes is what the CPU computes: logits, losses, gradients,
                 stories; a killed run comes out the same
    speed-full   a training step at 123 million parameters beside transformers and plain PyTorch,
                 and where its time goes
    speed-15m    the same at 15 million parameters
    pieces       the loss over the vocabulary in several ways, optimizers, reading of batches:
                 what to mend
    decoding     tokens per second with 10, 5, 2 and 1 key-value heads, at batch 1, 64 and 1,024
    studies      the two arms of the original and all studies at full size, as
                 `tinyrope-study all --size full` does it
    sizes        what the 12 MB of stories in the package can give: shapes, epochs, dropout,
                 decay, scored on the validation stories
    chosen       the best of them that is small enough for the package, trained and packed

Every stage needs less than eight minutes of an H200, or stops by then (`--minutes`) and goes on
where it was when called again. `--small` runs the same code in sizes for a CPU, to see that it
works; its results go to runs/gpu-small and mean nothing."""
import sys
import time
from functools import partial
from pathlib import Path

import gpu_correct
import gpu_decoding
import gpu_pieces
import gpu_sizes
import gpu_speed
from common import parser
from models import never_eager
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
        run_study(plan, a.out, str(a.device), minutes=(a.end - time.monotonic())/60)


STAGES = {"correct": gpu_correct.stage,
          "speed-full": partial(gpu_speed.stage, shape="full"),
          "speed-15m": partial(gpu_speed.stage, shape="15m"),
          "pieces": gpu_pieces.stage, "decoding": gpu_decoding.stage, "studies": studies,
          "sizes": gpu_sizes.stage, "chosen": gpu_sizes.chosen}


def arguments():
    "Read the command line; stages get all of it, with the device and the time when it ends"
    p = parser(__doc__)
    p.add_argument("stages", nargs="+", metavar="STAGE", help=", ".join(STAGES))
    p.add_argument("--device", default="cuda", help="default: cuda")
    p.add_argument("--minutes", type=float, default=8., help="begin nothing later (default: 8)")
    p.add_argument("--small", action="store_true", help="sizes for a CPU, to see that it works")
    p.add_argument("--folder", type=Path, default=Path("runs/gpu"),
                   help="where runs are kept (default: runs/gpu)")
    p.add_argument("--out", type=Path,
                   help="where results go (default: results, or runs/gpu-small)")
    a = p.parse_args()
    if unknown := set(a.stages) - set(STAGES):
        p.error(f"no stage {sorted(unknown)}: choose from {list(STAGES)}")
    try: a.device = pick_device(a.device)
    except ValueError as e: p.error(str(e))
    a.out = a.out or Path("runs/gpu-small" if a.small else "results")
    a.end = time.monotonic() + 60*a.minutes
    return a


def run_stage(stage, a, check):
    "Run a stage, which saves what it has found again and again; false if its checks fail"
    def save(found):
        about = provenance(f"python benchmarks/gpu.py {stage}", "transformers",
                           device=str(a.device), small=a.small)
        write_result(a.out/f"gpu-{stage}.json", about | found)
    print(f"\n== {stage}", flush=True)
    return STAGES[stage](a, check, save) is not False


def main():
    a = arguments()
    a.out.mkdir(parents=True, exist_ok=True)
    never_eager()
    check = before(a.minutes)
    try: fine = [run_stage(stage, a, check) for stage in a.stages]
    except TimeoutError as e: sys.exit(str(e))
    sys.exit(not all(fine))


if __name__ == "__main__": main()
