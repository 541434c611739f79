"""Grammar by a checker: `python benchmarks/grammar.py` writes results/grammar.json.

Rules of Harper are chosen by errors put into sentences of test stories, and judged by errors put
into sentences of validation stories. The bundled model then goes on with the first words of
validation stories, at two temperatures; what it writes is checked beside the stories themselves
(`human` in the result, though GPT-4 wrote them). Counts are kept for each story, and what
the rules object to, but no texts: the seed makes them again. Sentences of both are drawn for a
judge that does not know whose they are; what it found wrong stands in
benchmarks/grammar-labels.json. Needs harper-py.

It takes about five minutes on one core."""
import random
from collections import Counter

import torch
from common import parser
from tinyrope.checkpoint import Run
from tinyrope.corpora import load_stories
from tinyrope.generation import generate
from tinyrope.grammar import ERRORS, Checker, hits, injected, known_words, useful_rules
from tinyrope.ledger import provenance, write_result
from tinyrope.pairs import plain_sentences
from tinyrope.store import file_hash
from tinyrope.stories import sentences, split_opening

SETTINGS = dict(errors=200, stories=800, opening=20, words=60, seed=0, temperatures=(.8, 1.),
                at_least=100, new_tokens=110)


# ---- the checker

def found_by(checker, split, seed):
    "Rules that find each error put into sentences of a split: kind → one set an error"
    sentences = sorted(set(plain_sentences(load_stories(split))))
    found = {}
    for kind in ERRORS:
        pairs = injected(kind, sentences, SETTINGS["errors"], seed)
        found[kind] = [hits(checker, *pair) for pair in pairs]
    return found


def choose_rules(words, seed):
    "Rules that find errors in test stories, with how many, and how often they object there"
    checker = Checker(words)
    found = Counter(rule for rules in found_by(checker, "test", seed).values() for one in rules
                    for rule in one)
    false = Counter(rule for s in load_stories("test") for rule, *_ in checker.alarms(s))
    return {rule: [found[rule], false[rule]] for rule in useful_rules(found, false)}


# ---- texts

def pairs_of_texts():
    "Openings of long enough validation stories, and the words that follow"
    long = [s for s in load_stories("valid", shuffled=False)
            if len(s.split()) >= SETTINGS["at_least"]]
    chosen = [long[k*len(long)//SETTINGS["stories"]] for k in range(SETTINGS["stories"])]
    return zip(*(split_opening(s, SETTINGS["opening"]) for s in chosen))


def cut(text):
    "The words that are checked; None if there are too few"
    if len(text.split()) < SETTINGS["words"]: return None
    return split_opening(text, SETTINGS["words"])[0]


def go_on(run, openings, temperature):
    "What a model writes after openings"
    told = generate(run, list(openings), 1, SETTINGS["new_tokens"], temperature=temperature,
                    seed=SETTINGS["seed"])
    return [text[len(opening):] for opening, [(text, _)] in zip(openings, told)]


def check(checker, opening, text):
    "Objections to the words after an opening: (rule, the words around it); None: too few words"
    rest = cut(text)
    if rest is None: return None
    return [(rule, (opening + rest)[max(0, a - 20):b + 20])
            for rule, a, b in checker.alarms(opening + rest) if a >= len(opening)]


def draw_sheet(openings, texts, n=200, seed=11):
    "Whole sentences of the corpus and the model in random order, for a judge that does not know whose"
    rng, pool, rows = random.Random(seed), {"human": [], "model": []}, []
    for opening, *both in zip(openings, texts["human"], texts["0.8"]):
        for who, rest in zip(pool, map(cut, both)):
            if rest is None: continue
            whole = sentences(opening + rest)[len(sentences(opening)):-1]
            if whole: pool[who].append(rng.choice(whole))
    for who, found in pool.items(): rows += [(who, sentence) for sentence in rng.sample(found, n)]
    rng.shuffle(rows)
    return rows


def sum_up(found):
    "Objections of each story, how many of each rule, and some of them"
    counts = [None if alarms is None else len(alarms) for alarms in found]
    alarms = [alarm for alarms in found for alarm in alarms or []]
    return dict(counts=counts, rules=Counter(rule for rule, _ in alarms).most_common(),
                examples=alarms[:: max(1, len(alarms)//40)])


def main():
    out = parser(__doc__, "results/grammar.json").parse_args().out
    torch.set_num_threads(1)
    run, words = Run("bundled"), known_words(load_stories("train"))
    rules = choose_rules(words, SETTINGS["seed"])
    print(len(rules), "rules", rules, flush=True)
    checker = Checker(words, list(rules))
    found = found_by(checker, "valid", SETTINGS["seed"])
    hit = {kind: [sum(map(bool, one)), len(one)] for kind, one in found.items()}
    print(hit, flush=True)
    openings, rests = pairs_of_texts()
    texts = dict(human=rests)
    for t in SETTINGS["temperatures"]: texts[str(t)] = go_on(run, openings, t)
    sheet = draw_sheet(openings, texts)
    checked = {group: sum_up([check(checker, *pair) for pair in zip(openings, told)])
               for group, told in texts.items()}
    for group, row in checked.items(): print(group, row["rules"], flush=True)
    facts = provenance("python benchmarks/grammar.py", "harper-py", settings=SETTINGS,
                       model_sha256=file_hash(run.folder/"model.safetensors"))
    write_result(out, facts | dict(rules=rules, hits=hit, texts=checked, sheet=sheet))


if __name__ == "__main__": main()
