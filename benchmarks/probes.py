"""Grammar and sense by minimal pairs: `python benchmarks/probes.py` writes results/probes.json.

The bundled model, a 4-gram table counted on its training stories with its tokens, and llama2.c's
stories260K are asked all items of `tinyrope.probes`. Runs may be named as for `tinyrope-evaluate`
and are added; models that the file has are kept if its items are the same.

It takes about two minutes on one core."""
import json
from hashlib import sha256

import torch
from common import parser, read_begun
from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.ledger import provenance, write_result
from tinyrope.metrics import story_nats
from tinyrope.pairs import count_table, table_nats
from tinyrope.probes import all_items, measure_by
from tinyrope.scoreboard import load_model

MODELS = {"bundled": ("bundled",),
          "stories260K": ("benchmarks/peers/stories260K.bin", "benchmarks/peers/tok512.bin")}


def table_scorer():
    "The function that scores texts by a table of what the bundled model has read"
    tokenizer = Run("bundled").tokenizer
    table = count_table(tokenizer, load_stories("train"))
    return lambda texts: table_nats(table, tokenizer, texts)


def model_scorer(files):
    "The function that scores texts by a model"
    model, tokenizer = load_model(*files)
    return lambda texts: story_nats(model, tokenizer, texts)


def hash_of(items):
    "A hash of all items"
    texts = [[item.kind, item.form, item.right, item.wrong] for item in items]
    return sha256(json.dumps(texts).encode()).hexdigest()


def main():
    p = parser(__doc__, "results/probes.json")
    p.add_argument("runs", nargs="*", metavar="RUN", help="further runs")
    args = p.parse_args()
    torch.set_num_threads(1)
    items = all_items()
    about, old = dict(items=len(items), items_sha256=hash_of(items)), read_begun(args.out)
    kept = old["models"] if about.items() <= old.items() else {}
    for name in ("table", *MODELS, *args.runs):
        if name in kept: continue
        nats_of = table_scorer() if name == "table" else model_scorer(MODELS.get(name, (name,)))
        kept[name] = measure_by(nats_of, items)
        write_result(args.out, provenance("python benchmarks/probes.py", **about, models=kept))
        print(name, {kind: round(row["right"].count("1")/len(row["right"]), 3)
                     for kind, row in kept[name].items()}, flush=True)


if __name__ == "__main__": main()
