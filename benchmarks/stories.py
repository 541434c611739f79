"""What stories are worth: `python benchmarks/stories.py` (about eight minutes on one core; stopped and started again, it keeps the texts it has).

The bundled model tells ten stories for each of the 44 evaluation prompts of the TinyStories paper and the two of the write-up, and goes on with
the first words of 200 training and 200 validation stories, once as a user would hear it and once greedily, the usual way to call up what was
memorised. The temperature is the default of `tinyrope-generate`. All is measured beside the validation stories themselves, by `tinyrope.stories`;
texts and measures are kept in results/stories.json. Of continuations only the words that are measured are kept."""
import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from tinyrope.checkpoint import Run
from tinyrope.corpora import ASSETS, load_stories
from tinyrope.generation import Sampling, generate
from tinyrope.ledger import bootstrap, provenance, write_result
from tinyrope.stories import (CorpusIndex, Language, agreement, bits, distinct, ended_properly, gap,
                              measures, resample, self_bleu, split_opening, story_losses)

SETTINGS = dict(samples=10, stories=200, at_least=100, opening=20, words=60, temperature=.8, seed=0, set_size=8, losses=500)
SPLITS, DIGITS = ("train", "valid"), 4
WRITE_UP = ("Once upon a time, there was a boy named Timmy.", "One day, in the forest,")
MEASURED, COPIES = ("prompts", "valid", "human"), ("longest", "copied")         # groups of which all measures are kept; measures kept of the others
FATES = ("by_name", "referred", "new_names", "replaced")


def all_prompts():
    "The prompts of the paper, without the space that ends one of them, then those of the write-up"
    return [p.rstrip() for p in json.loads((ASSETS/"tinystories-prompts.json").read_text(encoding="utf-8"))] + list(WRITE_UP)


def choose(split):
    "Numbers of long enough stories, spread over a split"
    long = [i for i, s in enumerate(load_stories(split)) if len(s.split()) >= SETTINGS["at_least"]]
    return [long[k*len(long)//SETTINGS["stories"]] for k in range(SETTINGS["stories"])]


def tell(run, prompts, n, settings, keep=None, limit=None):
    "Go on with prompts; rows of the number of the prompt, text (the words to keep) and whether it ended"
    told = generate(run, prompts, n, limit, **vars(settings))
    short = lambda text: split_opening(text, keep)[0] if keep and len(text.split()) > keep else text
    return [dict(of=i, text=short(text[len(prompts[i]):]), ended=ended_properly(text, ended)) for i, rows in enumerate(told) for text, ended in rows]


def make_texts(run, openings):
    "All that the model tells: groups of rows"
    warm = lambda seed: Sampling(temperature=SETTINGS["temperature"], seed=SETTINGS["seed"] + seed)
    texts = {"prompts": [row | dict(of=i) for i, p in enumerate(all_prompts()) for row in tell(run, [p], SETTINGS["samples"], warm(i))]}
    for split in SPLITS:
        texts[split] = tell(run, openings[split], 1, warm(0), SETTINGS["words"])
        texts[f"{split}, greedy"] = tell(run, openings[split], 1, Sampling(temperature=0), SETTINGS["words"], 128)
    return texts


def columns(rows, names=None):
    "Turn rows into one list for each name (all, or some), None where a row has no such value"
    names = names or dict.fromkeys(k for r in rows if r for k in r)
    return {k: [r and r.get(k) for r in rows] for k in names}


def rows_of(group, texts):
    "Turn the kept texts of a group into rows again"
    return [dict(of=i//SETTINGS["samples"] if group == "prompts" else i, text=t, ended=e) for i, (t, e) in enumerate(zip(texts["text"], texts["ended"]))]


def column(rows, name):
    "One measure of all rows; NaN where there is none"
    return np.array([np.nan if r is None or name not in r else r[name] for r in rows], dtype=float)


def interval(values):
    "Mean, lower and upper end of its bootstrap interval, and how many values there are"
    return [*map(float, bootstrap(values)), len(values)]


def by_prompt(values):
    "Mean of the samples of each prompt that has any"
    rows = np.asarray(values, dtype=float).reshape(-1, SETTINGS["samples"])
    return np.array([np.nanmean(r) for r in rows if not np.isnan(r).all()])


def compare(found, name, ended):
    "Summarise one measure: samples on the prompts, continuations of validation stories and these stories themselves, and differences"
    prompts, model, human = (ended[g] if name == "ended" else column(found[g], name) for g in ("prompts", "valid", "human"))
    prompts, both = by_prompt(prompts), ~np.isnan(model) & ~np.isnan(human)
    return dict(prompts=interval(prompts), continuations=interval(model[both]), human=interval(human[both]), difference=interval((model - human)[both]),
                prompts_difference=[*map(float, gap(prompts, human[both]))])


def make_sets(texts, found, human):
    "Sets of texts of equal length: of one prompt, and of different stories"
    n, words = SETTINGS["set_size"], SETTINGS["words"]
    cut = lambda text: split_opening(text, words)[0]
    one, of = [r and cut(t["text"]) for r, t in zip(found["prompts"], texts["prompts"])], SETTINGS["samples"]
    same = [[t for t in one[i:i+of] if t][:n] for i in range(0, len(one), of)]
    pairs = [(cut(t["text"]), cut(h)) for a, b, t, h in zip(found["valid"], found["human"], texts["valid"], human) if a and b]
    apart = [list(zip(*pairs[i:i+n])) for i in range(0, len(pairs) - n + 1, n)]
    return dict(prompts=[s for s in same if len(s) == n], continuations=[list(s[0]) for s in apart], human=[list(s[1]) for s in apart])


def compare_sets(sets, f):
    "Summarise a measure of sets"
    values = {g: np.array([f(s) for s in group]) for g, group in sets.items()}
    return {g: interval(v) for g, v in values.items()} | dict(difference=interval(values["continuations"] - values["human"]),
                                                              prompts_difference=[*map(float, gap(values["prompts"], values["human"]))])


def compare_copies(found, name):
    "Summarise what was copied: does the model copy more than people who know the same stories?"
    groups = {g: column(rows, name) for g, rows in found.items()}
    fine = {g: v[~np.isnan(v)] for g, v in groups.items()}
    found = {g: interval(by_prompt(groups[g]) if g == "prompts" else v) for g, v in fine.items()}
    if "human" in groups:
        pairs = groups["valid"] - groups["human"]
        found["valid - human"] = interval(pairs[~np.isnan(pairs)])
    for kind in ("", ", greedy"): found[f"train - valid{kind}"] = [*map(float, gap(fine[f"train{kind}"], fine[f"valid{kind}"]))]
    return found


def compare_losses(losses):
    "Bits per byte of training and validation stories, and the gap"
    spread = lambda x: [bits(x), *np.quantile(resample(x, bits), (.025, .975)).tolist(), len(x)]
    return {g: spread(x) for g, x in losses.items()} | {"valid - train": [*map(float, gap(losses["valid"], losses["train"], bits))]}


def summarise(texts, found, sets, agreed, losses, human_ended):
    "The figures that can be quoted: mean, lower and upper end of its 95 % interval, and number of prompts, stories or sets"
    ended = {g: np.array([r["ended"] for r in texts[g]], dtype=float) for g in ("prompts", "valid")} | dict(human=np.array(human_ended, dtype=float))
    ours = [name for name in next(filter(None, found["human"])) if name not in FATES]
    return dict(worth={n: compare(found, n, ended) for n in ("ended", *ours, *FATES)} | dict(set_distinct=compare_sets(sets, distinct), self_bleu=compare_sets(sets, self_bleu)),
                memorisation={n: compare_copies(found, n) for n in ("longest", "copied")} | dict(agreed=compare_copies(agreed, "agreed")),
                loss=compare_losses(losses))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default="results/stories.json", help="default: results/stories.json")
    out = Path(p.parse_args().out)
    torch.set_num_threads(1)
    run = Run("bundled")
    about = dict(model_sha256=hashlib.sha256((run.folder/"model.safetensors").read_bytes()).hexdigest(), settings=SETTINGS)
    chosen = {split: choose(split) for split in SPLITS}
    openings, rests = ({s: [split_opening(load_stories(s)[i], SETTINGS["opening"])[k] for i in chosen[s]] for s in SPLITS} for k in (0, 1))
    old = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    texts = {g: rows_of(g, t) for g, t in old["texts"].items()} if {k: old.get(k) for k in about} == about else make_texts(run, openings)
    facts = provenance("python benchmarks/stories.py", **about, prompts=all_prompts(), chosen=chosen,
                       texts={g: columns(rows, ("text", "ended")) for g, rows in texts.items()})
    write_result(out, facts, DIGITS)

    known, start = Language.learn(load_stories("train")), time.perf_counter()
    index = CorpusIndex(load_stories("train"))
    facts |= dict(index=dict(words=len(index.order), seconds=time.perf_counter() - start))
    given = {g: facts["prompts"] if g == "prompts" else openings[g.split(",")[0]] for g in texts}
    found = {g: [measures(given[g][r["of"]], r["text"], known, index, SETTINGS["words"]) for r in rows] for g, rows in texts.items()}
    found["human"] = [measures(o, r, known, index, SETTINGS["words"]) for o, r in zip(openings["valid"], rests["valid"])]
    agreed = {g: [dict(agreed=agreement(r["text"], rests[g.split(",")[0]][r["of"]])) for r in rows] for g, rows in texts.items() if g != "prompts"}
    losses = {s: story_losses(run.model, run.tokenizer, load_stories(s)[:SETTINGS["losses"]]) for s in SPLITS}
    sets = make_sets(texts, found, rests["valid"])
    summary = summarise(texts, found, sets, agreed, losses, [ended_properly(load_stories("valid")[i]) for i in chosen["valid"]])
    write_result(out, facts | dict(measures={g: columns(rows, None if g in MEASURED else COPIES) for g, rows in found.items()}, agreed={g: columns(rows)["agreed"] for g, rows in agreed.items()},
                                   losses={s: dict(zip(("nats", "bytes"), x.T.tolist())) for s, x in losses.items()}, summary=summary), DIGITS)


if __name__ == "__main__": main()
