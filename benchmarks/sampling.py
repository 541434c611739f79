"""What sampling settings do to stories: `python benchmarks/sampling.py` writes
results/sampling.json.

The bundled model continues the first words of validation stories under each of some settings, and
of each continuation three shares are counted: of runs of four words that occurred in it before, of
different runs of two words, and of words that stand in no training story. Shares are kept for each
story, but no texts: the seed makes them again.

It takes about a minute on one core."""
import re

import numpy as np
import torch
from common import parser
from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.eval_attention import words_of_corpus
from tinyrope.generation import generate
from tinyrope.ledger import provenance, write_result
from tinyrope.store import file_hash
from tinyrope.stories import distinct, repetition, split_opening

SETTINGS = {"temperature 1": dict(temperature=1.), "greedy": dict(temperature=0),
            "temperature 0.5": dict(temperature=.5), "temperature 1.5": dict(temperature=1.5),
            "top-k 20": dict(temperature=1., top_k=20), "top-p 0.9": dict(temperature=1., top_p=.9),
            "min-p 0.1": dict(temperature=1., min_p=.1)}
ABOUT = dict(stories=40, opening=10, words=80, new_tokens=120, seed=0)


def beginnings():
    "The first words of the first validation stories of middle length"
    usual = [s for s in load_stories("valid") if 100 < len(s.split()) < 200]
    return [split_opening(s, ABOUT["opening"])[0] for s in usual[:ABOUT["stories"]]]


def continued(run, openings, settings):
    "What a model writes after openings, cut after some words"
    found = generate(run, openings, 1, ABOUT["new_tokens"], seed=ABOUT["seed"], **settings)
    texts = [text.removeprefix(opening) for opening, ((text, _),) in zip(openings, found)]
    return [" ".join(text.split()[:ABOUT["words"]]) for text in texts]


def variety(text):
    "Share of the two-word runs of a text that are different"
    return distinct([text])


def odd_words(text):
    "Share of the words of a text that stand in no training story"
    words = re.findall(r"\w+", text)
    return float(np.mean([w not in words_of_corpus()[2] for w in words])) if words else 0.


MEASURES = {"repeated 4-word runs": repetition, "different 2-word runs": variety,
            "odd words": odd_words}


def main():
    out = parser(__doc__, "results/sampling.json").parse_args().out
    torch.set_num_threads(1)
    run, openings = Run("bundled"), beginnings()
    shares = {name: {} for name in MEASURES}
    for setting, options in SETTINGS.items():
        texts = continued(run, openings, options)
        for name, measure in MEASURES.items(): shares[name][setting] = [measure(t) for t in texts]
        print(setting, {name: round(float(np.mean(by[setting])), 4) for name, by in shares.items()},
              flush=True)
    facts = provenance("python benchmarks/sampling.py", settings=SETTINGS, about=ABOUT,
                       model_sha256=file_hash(run.folder/"model.safetensors"))
    write_result(out, facts | dict(shares=shares))


if __name__ == "__main__": main()
