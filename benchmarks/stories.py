"""What stories are worth: `python benchmarks/stories.py` writes results/stories.json.

The bundled model tells ten stories for each of the 44 evaluation prompts of the TinyStories paper
and the two of the write-up, and goes on with the first words of 200 training and 200 validation
stories, once as a user would hear it and once greedily, the usual way to call up what was
memorised. The temperature is the default of `tinyrope-generate`. All is measured by
`tinyrope.stories`, beside the validation stories themselves; texts and measures are kept. Of
continuations only the words that are measured are kept.

It takes about eight minutes on one core; stopped and started again, it keeps the texts it has.

`--copies N` measures copying alone, after N openings of each split, all of GPT-4's stories, and
writes results/copies.json: four minutes of one core for 1,500 openings."""
import json

import numpy as np
import torch
from common import clock, parser, read_begun
from tinyrope.checkpoint import Run
from tinyrope.corpora import ASSETS, load_stories
from tinyrope.generation import Sampling, generate
from tinyrope.ledger import bootstrap, provenance, write_result
from tinyrope.store import file_hash
from tinyrope.stories import (CorpusIndex, Language, agreement, bits, distinct, ended_properly, gap,
                              longest_span, measures, resample, self_bleu, share_copied,
                              split_opening, story_losses)

SETTINGS = dict(samples=10, stories=200, at_least=100, opening=20, words=60, temperature=.8, seed=0,
                set_size=8, losses=500)
SPLITS, DIGITS = ("train", "valid"), 4
GPT4 = 11_000       # the first training stories are GPT-4's, as all validation stories are
WRITE_UP = ("Once upon a time, there was a boy named Timmy.", "One day, in the forest,")
MEASURED = ("prompts", "valid", "human")            # groups of which all measures are kept
COPIES = ("longest", "copied")                      # the measures that are kept of the others
FATES = ("by_name", "referred", "new_names", "replaced")


# ---- texts: groups of rows, each with the number of its prompt or story, a text, and how it ended

def all_prompts():
    "The prompts of the paper, without the space that ends one of them, then those of the write-up"
    paper = json.loads((ASSETS/"tinystories-prompts.json").read_text(encoding="utf-8"))
    return [p.rstrip() for p in paper] + list(WRITE_UP)


def choose(split, first=None):
    "Numbers of long enough stories, spread over a split, or over the first of it"
    stories = load_stories(split, shuffled=False)[:first]
    long = [i for i, s in enumerate(stories) if len(s.split()) >= SETTINGS["at_least"]]
    return [long[k*len(long)//SETTINGS["stories"]] for k in range(SETTINGS["stories"])]


def split_chosen(split, numbers):
    "Openings and rests of stories"
    stories = load_stories(split, shuffled=False)
    return zip(*(split_opening(stories[i], SETTINGS["opening"]) for i in numbers))


def cut(text):
    "The words of a text that are measured"
    return split_opening(text, SETTINGS["words"])[0]


def tell(run, prompts, settings, n=1, limit=None):
    "Go on with prompts, `n` times with each"
    told = generate(run, prompts, n, limit, **vars(settings))
    return [dict(of=i, text=text[len(prompts[i]):], ended=ended_properly(text, ended))
            for i, rows in enumerate(told) for text, ended in rows]


def go_on(run, openings, settings, limit=None):
    "Go on with openings of stories; only the words that are measured are kept"
    rows = tell(run, openings, settings, 1, limit)
    for row in rows:
        if len(row["text"].split()) > SETTINGS["words"]: row["text"] = cut(row["text"])
    return rows


def warm(number=0):
    "Sampling as `tinyrope-generate` does it, with a seed for each prompt"
    return Sampling(temperature=SETTINGS["temperature"], seed=SETTINGS["seed"] + number)


def make_texts(run, openings):
    "All that the model tells: group → rows"
    texts = {"prompts": []}
    for i, prompt in enumerate(all_prompts()):
        rows = tell(run, [prompt], warm(i), SETTINGS["samples"])
        texts["prompts"] += [row | dict(of=i) for row in rows]
    for split in SPLITS:
        texts[split] = go_on(run, openings[split], warm())
        texts[f"{split}, greedy"] = go_on(run, openings[split], Sampling(temperature=0), 128)
    return texts


def columns(rows, names=None):
    "Turn rows into one list for each name (all, or some), None where a row has no such value"
    names = names or dict.fromkeys(k for r in rows if r for k in r)
    return {k: [r and r.get(k) for r in rows] for k in names}


def rows_of(group, texts):
    "Turn the kept texts of a group into rows again"
    samples = SETTINGS["samples"] if group == "prompts" else 1
    pairs = zip(texts["text"], texts["ended"])
    return [dict(of=i//samples, text=text, ended=ended) for i, (text, ended) in enumerate(pairs)]


def find_texts(out, run, about, openings):
    "The texts that are kept, if model and settings are the same, or else new ones"
    old = read_begun(out)
    same = {name: old.get(name) for name in about} == about
    if not same: return make_texts(run, openings)
    return {group: rows_of(group, texts) for group, texts in old["texts"].items()}


# ---- measures of each text

def split_of(group):
    "The split of which a group goes on with the stories"
    return group.split(",")[0]


def measure_texts(texts, openings, rests, index):
    "Measures of all texts, and of the validation stories themselves: group → one dict a text"
    known = Language.learn(load_stories("train", shuffled=False))
    def measure(opening, rest): return measures(opening, rest, known, index, SETTINGS["words"])
    found, given = {}, openings | dict(prompts=all_prompts())
    for group, told in texts.items():
        heads = given[split_of(group)]
        found[group] = [measure(heads[row["of"]], row["text"]) for row in told]
    found["human"] = list(map(measure, openings["valid"], rests["valid"]))
    return found


def agreements(texts, rests):
    "For how many words each continuation is the true one: group → one number a text"
    found = {}
    for group, told in texts.items():
        if group == "prompts": continue
        true = rests[split_of(group)]
        found[group] = [agreement(row["text"], true[row["of"]]) for row in told]
    return found


def measure_losses(run, split):
    "Nats and bytes of the first stories of a split"
    stories = load_stories(split, shuffled=False)[:SETTINGS["losses"]]
    return story_losses(run.model, run.tokenizer, stories)


# ---- what the measures come to, with 95 % intervals

def column(rows, name):
    "One measure of all rows; NaN where there is none"
    return np.array([np.nan if r is None or name not in r else r[name] for r in rows], dtype=float)


def present(values):
    "The values that are there"
    return values[~np.isnan(values)]


def floats(values):
    "Plain numbers, as JSON has them"
    return [*map(float, values)]


def interval(values):
    "Mean, lower and upper end of its bootstrap interval, and how many values there are"
    return [*floats(bootstrap(values)), len(values)]


def by_prompt(values):
    "Mean of the samples of each prompt that has any"
    rows = np.asarray(values, dtype=float).reshape(-1, SETTINGS["samples"])
    return np.array([present(row).mean() for row in rows if len(present(row))])


def compare(prompts, model, human):
    "Sum up a measure of samples on the prompts, of continuations, and of the stories themselves"
    prompts, both = by_prompt(prompts), ~np.isnan(model) & ~np.isnan(human)
    model, human = model[both], human[both]
    return dict(prompts=interval(prompts), continuations=interval(model), human=interval(human),
                difference=interval(model - human), prompts_difference=floats(gap(prompts, human)))


def sets_of_samples(told, found):
    "Sets of samples of one prompt; texts that are too short to be measured are left out"
    n, samples = SETTINGS["set_size"], SETTINGS["samples"]
    long = [measured and cut(row["text"]) for row, measured in zip(told, found)]
    sets = [[text for text in long[i:i+samples] if text] for i in range(0, len(long), samples)]
    return [texts[:n] for texts in sets if len(texts) >= n]


def make_sets(texts, found, human):
    "Sets of texts of equal length: of one prompt, and of different stories"
    n = SETTINGS["set_size"]
    pairs = [(cut(row["text"]), cut(story))
             for row, story, a, b in zip(texts["valid"], human, found["valid"], found["human"])
             if a and b]
    apart = [list(zip(*pairs[i:i+n])) for i in range(0, len(pairs) - n + 1, n)]
    return dict(prompts=sets_of_samples(texts["prompts"], found["prompts"]),
                continuations=[list(model) for model, _ in apart],
                human=[list(people) for _, people in apart])


def compare_sets(sets, f):
    "Sum up a measure of sets"
    values = {group: np.array([f(texts) for texts in parts]) for group, parts in sets.items()}
    model, human = values["continuations"], values["human"]
    return dict({group: interval(v) for group, v in values.items()},
                difference=interval(model - human),
                prompts_difference=floats(gap(values["prompts"], human)))


def compare_copies(groups):
    "Sum up what was copied: does the model copy more than people who know the same stories?"
    fine = {group: present(values) for group, values in groups.items()}
    if "prompts" in groups: fine["prompts"] = by_prompt(groups["prompts"])
    found = {group: interval(values) for group, values in fine.items()}
    if "human" in groups:
        found["valid - human"] = interval(present(groups["valid"] - groups["human"]))
    for kind in ("", ", greedy"):
        difference = gap(fine[f"train{kind}"], fine[f"valid{kind}"])
        found[f"train - valid{kind}"] = floats(difference)
    return found


def compare_losses(losses):
    "Bits per byte of training and validation stories, and the gap"
    found = {}
    for split, rows in losses.items():
        ends = np.quantile(resample(rows, bits), (.025, .975)).tolist()
        found[split] = [bits(rows), *ends, len(rows)]
    return found | {"valid - train": floats(gap(losses["valid"], losses["train"], bits))}


def sum_up_worth(texts, found, sets, human_ended):
    "How well the stories are told"
    ended = dict(human=human_ended)
    for group in ("prompts", "valid"): ended[group] = [row["ended"] for row in texts[group]]
    first = next(filter(None, found["human"]))
    names = [name for name in first if name not in FATES] + list(FATES)
    worth = {"ended": compare(*(np.array(ended[group], dtype=float) for group in MEASURED))}
    worth |= {name: compare(*(column(found[group], name) for group in MEASURED)) for name in names}
    return worth | dict(set_distinct=compare_sets(sets, distinct),
                        self_bleu=compare_sets(sets, self_bleu))


def sum_up_copies(found, agreed):
    "How much of the stories is copied or recited"
    copies = {name: {group: column(rows, name) for group, rows in found.items()} for name in COPIES}
    copies["agreed"] = {group: np.array(v, dtype=float) for group, v in agreed.items()}
    return {name: compare_copies(groups) for name, groups in copies.items()}


# ---- copying alone, from more openings

def copies_in(text, index):
    "The longest copied span and the share of copied runs of a text; None if it is too short"
    if len(text.split()) < SETTINGS["words"]: return None
    matches = index.matches(cut(text))
    return dict(longest=longest_span(matches), copied=share_copied(matches))


def measure_copies(run, openings, rests):
    "What is copied after openings, and how long the true continuation is followed"
    index, texts = CorpusIndex(load_stories("train", shuffled=False)), {}
    for split in SPLITS:
        texts[split] = go_on(run, openings[split], warm(), 128)
        texts[f"{split}, greedy"] = go_on(run, openings[split], Sampling(temperature=0), 128)
    found = {group: [copies_in(row["text"], index) for row in told]
             for group, told in texts.items()}
    return found | dict(human=[copies_in(text, index) for text in rests["valid"]]), texts


def main_copies(out, n):
    "Measure copying after `n` openings of each split"
    SETTINGS["stories"], run = n, Run("bundled")
    chosen, openings, rests = {split: choose(split, GPT4) for split in SPLITS}, {}, {}
    for split in SPLITS: openings[split], rests[split] = split_chosen(split, chosen[split])
    seconds, (found, texts) = clock(lambda: measure_copies(run, openings, rests))
    agreed = agreements(texts, rests)
    facts = provenance(f"python benchmarks/stories.py --copies {n}", settings=SETTINGS,
                       model_sha256=file_hash(run.folder/"model.safetensors"), seconds=seconds,
                       chosen=chosen, agreed=agreed, summary=sum_up_copies(found, agreed),
                       measures={group: columns(rows, COPIES) for group, rows in found.items()})
    write_result(out, facts, DIGITS)


# ---- the script

def kept_measures(found):
    "All measures of some groups, those of copies of the others"
    return {group: columns(rows, None if group in MEASURED else COPIES)
            for group, rows in found.items()}


def kept_losses(losses):
    "Nats and bytes of each story, as lists"
    return {split: dict(zip(("nats", "bytes"), rows.T.tolist())) for split, rows in losses.items()}


def main():
    p = parser(__doc__, "results/stories.json")
    p.add_argument("--copies", type=int, metavar="N",
                   help="measure copying alone, after N openings of each split")
    args = p.parse_args()
    out = args.out
    torch.set_num_threads(1)
    if args.copies: return main_copies(out.with_name("copies.json"), args.copies)
    run = Run("bundled")
    about = dict(model_sha256=file_hash(run.folder/"model.safetensors"), settings=SETTINGS)
    chosen, openings, rests = {split: choose(split) for split in SPLITS}, {}, {}
    for split in SPLITS: openings[split], rests[split] = split_chosen(split, chosen[split])
    texts = find_texts(out, run, about, openings)
    kept = {group: columns(rows, ("text", "ended")) for group, rows in texts.items()}
    facts = provenance("python benchmarks/stories.py", **about, prompts=all_prompts(),
                       chosen=chosen, texts=kept)
    write_result(out, facts, DIGITS)

    seconds, index = clock(lambda: CorpusIndex(load_stories("train", shuffled=False)))
    found = measure_texts(texts, openings, rests, index)
    agreed, sets = agreements(texts, rests), make_sets(texts, found, rests["valid"])
    losses = {split: measure_losses(run, split) for split in SPLITS}
    ended = [ended_properly(load_stories("valid")[i]) for i in chosen["valid"]]
    summary = dict(worth=sum_up_worth(texts, found, sets, ended),
                   memorisation=sum_up_copies(found, agreed), loss=compare_losses(losses))
    facts |= dict(index=dict(words=len(index.order), seconds=seconds),
                  measures=kept_measures(found), agreed=agreed, losses=kept_losses(losses),
                  summary=summary)
    write_result(out, facts, DIGITS)


if __name__ == "__main__": main()
