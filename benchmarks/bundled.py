"""The model in the package, scored: `python benchmarks/bundled.py` writes results/bundled.json. The test split is for this alone: no choice
was made by looking at it."""
import argparse
import hashlib
import json
import os
import platform
from datetime import date
from pathlib import Path

import torch
from tinyrope.ledger import cpu_name
from tinyrope.checkpoint import Run
from tinyrope.corpora import SHA256, load_stories
from tinyrope.metrics import evaluate_stories


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", default="results/bundled.json")
    a = p.parse_args()
    run = Run("bundled")
    scores = {split: evaluate_stories(run.model, run.tokenizer, load_stories(split)) for split in ("valid", "test")}
    about = json.loads((run.folder/"about.json").read_text())
    result = dict(command="python benchmarks/bundled.py", trained_by=about["command"], seed=run.config["train"]["seed"],
                  training_tokens=run.metrics[-1]["tokens"], epochs=run.metrics[-1]["epoch"], parameters=sum(p.numel() for p in run.model.parameters()),
                  model_sha256=hashlib.sha256((run.folder/"model.safetensors").read_bytes()).hexdigest(), data_sha256=SHA256, **scores,
                  versions=dict(python=platform.python_version(), torch=torch.__version__), cpu=cpu_name(), cores=os.cpu_count(), date=str(date.today()))
    Path(a.out).parent.mkdir(exist_ok=True)
    Path(a.out).write_text(json.dumps(result, indent=1))
    for split, s in scores.items(): print(split, {k: round(v, 4) for k, v in s.items()})


if __name__ == "__main__": main()
