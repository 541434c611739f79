"""The model in the package, scored: `python benchmarks/bundled.py` writes results/bundled.json.

Loss, perplexity and bits per byte of the validation and of the test stories, each story on its
own. The test split is for this alone: no choice was made by looking at it."""
import json

from common import parser
from tinyrope.checkpoint import Run
from tinyrope.corpora import SHA256, load_stories
from tinyrope.ledger import provenance, write_result
from tinyrope.metrics import evaluate_stories
from tinyrope.store import file_hash


def describe(run):
    "What the model is, and how it was trained"
    about = json.loads((run.folder/"about.json").read_text())
    return dict(trained_by=about["command"], seed=run.config["train"]["seed"],
                training_tokens=run.metrics[-1]["tokens"], epochs=run.metrics[-1]["epoch"],
                parameters=sum(p.numel() for p in run.model.parameters()),
                model_sha256=file_hash(run.folder/"model.safetensors"), data_sha256=SHA256)


def evaluate(run, split):
    "Score a split, and print the scores"
    scores = evaluate_stories(run.model, run.tokenizer, load_stories(split))
    print(split, {k: round(v, 4) for k, v in scores.items()})
    return scores


def main():
    out = parser(__doc__, "results/bundled.json").parse_args().out
    run = Run("bundled")
    scores = {split: evaluate(run, split) for split in ("valid", "test")}
    write_result(out, provenance("python benchmarks/bundled.py", **describe(run), **scores))


if __name__ == "__main__": main()
