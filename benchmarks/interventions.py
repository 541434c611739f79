"""Interventions in the bundled model: `python benchmarks/interventions.py` writes
results/interventions.json.

Positions are shifted and texts put before, rotations removed in all heads and head by head, and the
columns of names and of the first token blocked (`tinyrope.interventions` explains all of it). What
is measured on test stories is kept story by story, so that intervals can be made from it; of the
single heads, means and the half-widths of their intervals are kept.

It takes eight minutes on one core; stopped and started again, it goes on after the last part."""
import numpy as np
import torch
from common import parser, read_begun
from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.eval_attention import stories_of_length
from tinyrope.interventions import (PARTNERS, measure_blocking, measure_columns, measure_distance,
                                    measure_heads, measure_rotations, measure_sink, name_partners,
                                    norm_shares, previous_without)
from tinyrope.ledger import mean_interval, provenance, write_result
from tinyrope.store import file_hash

SETTINGS = dict(stories=96, length=128, distance_stories=48, lengths=(16, 64, 128),
                searched_stories=1600, head_stories=48, head_length=80)
DIGITS = 4


def plain(x):
    "Nested dictionaries of arrays as JSON has them; None where there is no value"
    if isinstance(x, dict): return {name: plain(value) for name, value in x.items()}
    if isinstance(x, tuple): return [*x]                    # of words
    x = np.asarray(x, dtype=float)
    return np.where(np.isnan(x), None, x).tolist()


def read(run, n, length):
    "So many test stories, of so many tokens each"
    return stories_of_length(run.tokenizer, load_stories("test"), n, length)


def distance(run):
    "Shifts, and texts before"
    tokens = read(run, SETTINGS["distance_stories"], SETTINGS["length"])
    return measure_distance(run.model, tokens, SETTINGS["lengths"])


def rotations(run):
    "Rotations removed in all heads"
    return measure_rotations(run.model, read(run, SETTINGS["stories"], SETTINGS["length"]))


def columns(run):
    "Columns of names beside those of partners, compared and blocked"
    tokens, found = read(run, SETTINGS["searched_stories"], SETTINGS["length"]), {}
    for kind in PARTNERS:
        pairs = name_partners(run.tokenizer, tokens, kind)
        _, names, partners = zip(*pairs.values())
        found[kind] = dict(names=names, partners=partners,
                           weight=measure_columns(run.model, tokens, pairs),
                           blocked=measure_blocking(run.model, tokens, pairs))
    return found


def sink(run):
    "The first token, and others beside it, blocked"
    found = measure_sink(run.model, read(run, SETTINGS["stories"], SETTINGS["length"]))
    return found | dict(weight=found["weight"].mean(0))


def heads(run):
    "Rotations removed in single heads; intervals hold for all heads and bands together"
    tokens = read(run, SETTINGS["head_stories"], SETTINGS["head_length"])
    change = measure_heads(run.model, tokens)
    cells = (len(change) - 1)*change["all"][0].size
    found = {name: mean_interval(values, 1 - .05/cells) for name, values in change.items()}
    few = tokens[:len(tokens)//2]
    return dict(change={name: mean for name, (mean, _) in found.items()},
                half={name: half for name, (_, half) in found.items()},
                previous=previous_without(run.model, few), norms=norm_shares(run.model, few))


PARTS = dict(rotations=rotations, distance=distance, columns=columns, sink=sink, heads=heads)


def main():
    out = parser(__doc__, "results/interventions.json").parse_args().out
    torch.set_num_threads(1)
    run = Run("bundled")
    run.model.positions.warned = True                   # we know that a text before may leave the context
    model = dict(sha256=file_hash(run.folder/"model.safetensors"),
                 n_layers=run.model.config.n_layers, n_heads=run.model.config.n_heads)
    about = dict(model=model, settings={k: [*v] if isinstance(v, tuple) else v for k, v in SETTINGS.items()})
    old = read_begun(out)
    if any(old.get(name) != value for name, value in about.items()): old = {}
    result = provenance("python benchmarks/interventions.py", **about)
    result |= {name: old[name] for name in PARTS if name in old}
    for name, measure in PARTS.items():
        if name in result: continue
        result[name] = plain(measure(run))
        write_result(out, result, DIGITS)


if __name__ == "__main__": main()
